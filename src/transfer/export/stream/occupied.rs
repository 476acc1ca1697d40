//! Check of an existing file at the output path of a supplement. Another supplement may be replaced; the bundle that the
//! supplement completes is never replaced.

use std::path::Path;

use crate::bundle::finished::Finished;
use crate::bundle::partial::check_output;
use crate::bundle::read::{Bundle, OpenOptions};
use crate::error::{Error, Kind, Result};
use crate::text::{counted, quote};
use crate::transfer::blocking::blocking;

/// Checks that a supplement may be written to the output path.
///
/// # Errors
/// [`Kind::Usage`] if the output is the want-list, or a bundle with images; `force` does not change that. Otherwise the
/// errors of [`check_output`].
pub(super) async fn check(path: &Path, force: bool, list: &Path) -> Result<()> {
    let exists = match check_output(path, force) {
        Err(error) if error.kind() != Kind::Exists => return Err(error),
        Ok(()) if !path.exists() => return Ok(()),
        other => other,
    };
    let (path, list) = (path.to_owned(), list.to_owned());
    blocking(move || {
        let shown = quote(&path);
        let wrong = |what: &str| Error::new(Kind::Usage, format!("the output `{shown}` is {what}"));
        if same(&path, &list) {
            return Err(wrong("the want-list itself").with_hint(OTHER_NAME));
        }
        let own = Finished::open(&path).ok();
        if own.as_ref().is_some_and(|own| own.is_supplement().unwrap_or(false)) {
            return exists;
        }
        let images = match images(&path) {
            // A bundle of this program that is too damaged to count its images.
            0 if own.is_some() => String::new(),
            0 => return exists,
            images => format!(" of {}", counted(images as u64, "image", "images")),
        };
        let error = wrong(&format!("a bundle{images}, which a supplement does not replace"));
        Err(error.with_hint(format!(
            "{OTHER_NAME}; then `import {shown} supplement.tar` takes each blob from where it is good"
        )))
    })
    .await?
}

const OTHER_NAME: &str = "a supplement is a file of its own: choose another name, such as `-o supplement.tar`";

/// Returns whether two paths lead to the same existing file.
fn same(one: &Path, other: &Path) -> bool {
    let found = |path: &Path| path.canonicalize().ok();
    found(one).is_some_and(|one| found(other) == Some(one))
}

/// Returns the number of images that a file lists.
fn images(path: &Path) -> usize {
    let options = OpenOptions {
        allow_none: true,
        continue_after_faults: true,
        ..OpenOptions::default()
    };
    Bundle::open_front(path, &options).map_or(0, |bundle| bundle.images().len() + bundle.broken().len())
}
