//! Import: what becomes of images, good and bad, at registries that do as they should and at others.

mod again;
#[path = "../archives/mod.rs"]
mod archives;
mod bundles;
mod foreign;
#[path = "../handmade/mod.rs"]
mod handmade;
mod killed;
mod mixed;
mod names;
mod naming;
mod odd_registries;
mod pipe;
mod pipe_end;
mod pipe_shared;
mod platforms;
mod report;
mod sparse_index;
#[path = "../support/mod.rs"]
mod support;
mod told;

use handmade::{Maker, noise};
use support::Double;

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
