//! Unusable images of an archive, each with its own reason; other images of the archive stay usable.

use std::sync::Arc;

use super::archive::Archive;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::reference::Reference;
use crate::text::{LISTED, counted, quote};

/// An unusable image of an archive: incomplete, or without a name.
#[derive(Debug, Clone)]
pub struct BrokenImage {
    /// Name of the image, if any.
    pub name: Option<Reference>,
    /// Name of the image in reports:
    /// its reference, or `ARCHIVE:@N` with its place N in the archive, counted from 0.
    pub label: String,
    /// The archive that lists the image.
    pub archive: String,
    /// Why the image is not usable.
    pub error: Arc<Error>,
    /// Whether the name belongs to another image:
    /// then a whole image of that name elsewhere does not replace this image.
    pub(super) is_misnamed: bool,
    /// The image itself, if only its name is missing: its content can be verified.
    pub(super) root: Option<Descriptor>,
}

impl BrokenImage {
    /// Creates an entry for an incomplete image under each of its names.
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
            root: None,
        };
        names.into_iter().map(one).collect()
    }

    /// Creates an entry for an image without a usable name.
    pub(super) fn nameless(archive: &Archive, place: usize, error: Error) -> Self {
        Self {
            name: None,
            label: place_label(archive, place),
            archive: archive.label.clone(),
            error: Arc::new(error),
            is_misnamed: false,
            root: None,
        }
    }

    /// Returns the entry with the image itself, of which only a name is missing.
    pub(super) fn with_root(self, root: &Descriptor) -> Self {
        Self {
            root: Some(root.clone()),
            ..self
        }
    }

    /// Creates an entry for an image whose name is ambiguous.
    pub(super) fn misleading(name: &Reference, archive: &str, error: Error) -> Self {
        Self {
            name: Some(name.clone()),
            label: name.to_string(),
            archive: archive.to_owned(),
            error: Arc::new(error),
            is_misnamed: true,
            root: None,
        }
    }

    /// Creates an entry under each of these names for an image that the archive names wrongly.
    pub(super) fn misnamed(archive: &Archive, place: usize, names: Vec<Reference>, error: Error) -> Vec<Self> {
        // The bytes belong to another image than the name states: the hint is the same for every kind of name.
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

/// A file or folder that cannot be read; other archives stay usable.
#[derive(Debug, Clone)]
pub struct BrokenArchive {
    /// Name of the file or folder in reports.
    pub label: String,
    /// Why the file or folder cannot be read.
    pub error: Arc<Error>,
}

impl BrokenArchive {
    pub(super) fn new(label: &str, error: Error) -> Self {
        Self {
            label: label.to_owned(),
            error: Arc::new(error),
        }
    }

    /// Creates an entry that stands for `count` archives beyond the limit of individual reports.
    pub(super) fn more(count: usize) -> Self {
        let (one, many) = (
            "more file or folder cannot be read",
            "more files and folders cannot be read",
        );
        let what = counted(count as u64, one, many);
        Self {
            label: format!("{count} more"),
            error: Arc::new(Error::new(Kind::Malformed, what)),
        }
    }
}

/// Returns the label of an image without a name.
pub(super) fn place_label(archive: &Archive, place: usize) -> String {
    format!("{}:@{place}", quote(&archive.label))
}

/// Returns the error for bundles without a usable image.
pub(super) fn none_is_whole(archives: &[BrokenArchive], broken: &[BrokenImage]) -> Error {
    // A fault that several names of one image share is reported once.
    let mut labelled: Vec<(&str, &Arc<Error>)> = archives.iter().map(|at| (at.label.as_str(), &at.error)).collect();
    for image in broken {
        if !labelled.last().is_some_and(|(_, last)| Arc::ptr_eq(last, &image.error)) {
            labelled.push((&image.label, &image.error));
        }
    }
    let faults = || labelled.iter().map(|(_, fault)| *fault);
    let is_usage = |fault: &&Arc<Error>| fault.kind() == Kind::Usage;
    // Images that different bundles call by one name are wrong usage as well, and have names.
    let has_clash = broken.iter().any(|image| image.is_misnamed && is_usage(&&image.error));
    let (kind, what) = match faults().find(|fault| !is_usage(fault)) {
        Some(first) if broken.is_empty() => (first.kind(), "files cannot be read"),
        Some(first) if !archives.is_empty() => (first.kind(), "files and images cannot be read"),
        None if has_clash => (Kind::Usage, "images cannot be told apart by their names"),
        None => (Kind::Usage, "images have no name"),
        Some(first) if has_clash => (first.kind(), "images cannot be used"),
        Some(first) if faults().any(|fault| is_usage(&fault)) => (first.kind(), "images have no name or are not whole"),
        Some(first) => (first.kind(), "images are not whole"),
    };
    let several = "name each of them: `--name @N=REPOSITORY:TAG` or `--name sha256:...=REPOSITORY:TAG`; \
                   `--name REPOSITORY` where they have tags";
    let are_nameless = labelled.len() > 1 && kind == Kind::Usage && !has_clash;
    let hint = match are_nameless {
        true => Some(several),
        false => faults().find_map(|fault| fault.hint()),
    };
    let error = match labelled.as_slice() {
        [(_, only)] => Error::new(kind, only.full()),
        all => {
            let more = match all.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(", those below and {more} more"),
            };
            let part = |(label, fault): &(&str, &Arc<Error>)| {
                let fault = Error::clone(fault);
                let fault = if are_nameless { fault.with_hint(several) } else { fault };
                ((*label).to_owned(), fault)
            };
            let parts = all.iter().take(LISTED).map(part).collect();
            Error::new(kind, format!("{} {what}{more}", all.len())).with_parts(parts)
        }
    };
    match hint {
        Some(hint) => error.with_hint(hint.to_owned()),
        None => error,
    }
}

/// Clones a cached result, with its error.
pub(super) fn remembered<T: Clone>(known: &Result<T>) -> Result<T> {
    match known {
        Ok(value) => Ok(value.clone()),
        Err(error) => Err(error.clone()),
    }
}
