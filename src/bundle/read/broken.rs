//! Images that an archive lists and that are not usable, each with its own reason: they fail alone.

use std::sync::Arc;

use super::archive::Archive;
use crate::error::{Error, Kind, Result};
use crate::image::reference::Reference;
use crate::text::{few_with, quote};

/// An image that an archive lists and that is not usable: it is not whole, or nothing says what it is called.
#[derive(Debug, Clone)]
pub struct BrokenImage {
    /// The name it goes by; nothing where it has none.
    pub name: Option<Reference>,
    /// What it is called in reports: its name, else `ARCHIVE:@N`, where the archive lists it at place N, counted from 0.
    pub label: String,
    /// The archive that lists it.
    pub archive: String,
    /// Why it is not usable.
    pub error: Arc<Error>,
    /// Whether the name is false: then a whole image of that name elsewhere is another one and does not make up for it.
    pub(super) is_misnamed: bool,
}

impl BrokenImage {
    /// One that is not whole, under each of its names.
    pub(super) fn named(archive: &Archive, place: usize, names: Vec<Reference>, error: Error) -> Vec<Self> {
        if names.is_empty() {
            return vec![Self::nameless(archive, place, error)];
        }
        let error = Arc::new(error);
        let one = |name: Reference| Self {
            label: name.to_string(),
            name: Some(name),
            archive: archive.label.clone(),
            error: error.clone(),
            is_misnamed: false,
        };
        names.into_iter().map(one).collect()
    }

    /// One that has no name, or none that can be used.
    pub(super) fn nameless(archive: &Archive, place: usize, error: Error) -> Self {
        Self {
            name: None,
            label: place_label(archive, place),
            archive: archive.label.clone(),
            error: Arc::new(error),
            is_misnamed: false,
        }
    }

    /// One whose name may mean another image as well.
    pub(super) fn misleading(name: &Reference, archive: &str, error: Error) -> Self {
        Self {
            name: Some(name.clone()),
            label: name.to_string(),
            archive: archive.to_owned(),
            error: Arc::new(error),
            is_misnamed: true,
        }
    }

    /// One that the archive calls by a false name, under each of these.
    pub(super) fn misnamed(archive: &Archive, place: usize, names: Vec<Reference>, error: Error) -> Vec<Self> {
        // The bytes behind the name are those of another image: what there is to do about it is the same wherever it stands.
        let error = match error.kind() {
            Kind::Integrity => error
                .context(format!("`{}`: image @{place}", quote(&archive.label)))
                .with_hint(format!(
                    "the archive was edited, or it names one platform of an image by the digest of all: get it again, or, \
                     if its content is what is wanted, give it another name by `--name @{place}=REPOSITORY:TAG`"
                )),
            _ => error,
        };
        let mut images = Self::named(archive, place, names, error);
        images.iter_mut().for_each(|image| image.is_misnamed = true);
        images
    }
}

/// A file or folder that was named or found, and cannot be read: it fails alone.
#[derive(Debug, Clone)]
pub struct BrokenArchive {
    /// What it is called in reports.
    pub label: String,
    /// Why it cannot be read.
    pub error: Arc<Error>,
}

impl BrokenArchive {
    pub(super) fn new(label: &str, error: Error) -> Self {
        Self {
            label: label.to_owned(),
            error: Arc::new(error),
        }
    }

    /// Stands for as many archives that are not told one by one.
    pub(super) fn more(count: usize) -> Self {
        let what = format!("{count} more files and folders cannot be read");
        Self {
            label: format!("{count} more"),
            error: Arc::new(Error::new(Kind::Malformed, what)),
        }
    }
}

/// How an image without a name is called.
pub(super) fn place_label(archive: &Archive, place: usize) -> String {
    format!("{}:@{place}", quote(&archive.label))
}

/// The error of bundles without a usable image.
pub(super) fn none_is_whole(archives: &[BrokenArchive], broken: &[BrokenImage]) -> Error {
    // One fault under several names in a row is reported once.
    let mut faults: Vec<&Arc<Error>> = archives.iter().map(|archive| &archive.error).collect();
    for image in broken {
        if !faults.last().is_some_and(|last| Arc::ptr_eq(last, &image.error)) {
            faults.push(&image.error);
        }
    }
    let nameless = |fault: &&Arc<Error>| fault.kind() == Kind::Usage;
    let (kind, what) = match faults.iter().find(|fault| !nameless(fault)) {
        Some(first) if broken.is_empty() => (first.kind(), "files cannot be read"),
        Some(first) if !archives.is_empty() => (first.kind(), "files and images cannot be read"),
        None => (Kind::Usage, "images have no name"),
        Some(first) if faults.iter().any(nameless) => (first.kind(), "images have no name or are not whole"),
        Some(first) => (first.kind(), "images are not whole"),
    };
    let error = match faults.as_slice() {
        [only] => Error::new(kind, only.full()),
        _ => {
            let list = few_with(faults.iter().map(|fault| fault.full()), "; ");
            Error::new(kind, format!("{} {what}: {list}", faults.len()))
        }
    };
    let several = "name each of them: `--name @N=REPOSITORY:TAG` or `--name sha256:...=REPOSITORY:TAG`; \
                   `--name REPOSITORY` where they have tags";
    match faults.iter().find_map(|fault| fault.hint()) {
        Some(_) if faults.len() > 1 && kind == Kind::Usage => error.with_hint(several),
        Some(hint) => error.with_hint(hint.to_owned()),
        None => error,
    }
}

/// A result that may be asked for again.
pub(super) fn remembered<T: Clone>(known: &Result<T>) -> Result<T> {
    match known {
        Ok(value) => Ok(value.clone()),
        Err(error) => Err(error.clone()),
    }
}
