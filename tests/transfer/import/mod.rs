//! Import: the results of good and faulty images, at registries that behave as specified and at others.

mod again;
mod broken_files;
mod bundles;
mod collected;
mod filtered_index;
mod folders;
mod foreign;
mod identity;
mod impossible_sizes;
mod killed;
mod mixed;
mod names;
mod naming;
mod odd_registries;
pub(crate) mod pipe;
mod pipe_end;
mod pipe_shared;
mod platforms;
mod read_errors;
mod report;
mod sha512;
mod sparse_index;
mod told;

use crate::handmade::{Maker, noise};
use crate::support::Double;
use crate::{archives, handmade, support};

/// One image of one layer under each of these names.
fn images(names: &[&str]) -> Maker {
    let mut maker = Maker::default();
    for (n, name) in names.iter().enumerate() {
        let image = maker.image("linux/amd64", &[&noise(n as u64, 4000)]);
        maker.name(name, &image);
    }
    maker
}

fn tags(registry: &Double, repository: &str) -> Vec<String> {
    let found = registry.store().repository(repository).unwrap_or_default();
    found.tags.keys().cloned().collect()
}
