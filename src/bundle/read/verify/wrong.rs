//! Blobs whose bytes are wrong, with their places.

use std::collections::{HashMap, HashSet};

use super::result::{Fault, FaultKind, Verification};
use crate::bundle::layout::blob_path;
use crate::bundle::read::source::Extent;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::text::byte_count;

/// All blobs with wrong bytes at any place.
#[derive(Debug, Default)]
pub(super) struct AllWrong {
    /// Kind of fault of each wrong blob.
    pub(super) kinds: HashMap<Digest, FaultKind>,
    /// Wrong blobs that are right at another place.
    pub(super) sound_elsewhere: HashSet<Digest>,
    /// The first wrong blobs, with their places.
    pub(super) first: Vec<Wrong>,
    /// Number of wrong places beyond those in `first`.
    pub(super) more: u64,
}

impl AllWrong {
    /// Returns the kind of fault of a blob whose bytes are wrong at every place; `None` for any other blob.
    pub(super) fn everywhere(&self, digest: &Digest) -> Option<FaultKind> {
        let kind = self.kinds.get(digest).copied();
        kind.filter(|_| !self.sound_elsewhere.contains(digest))
    }

    pub(super) fn add(&mut self, wrong: Wrong) {
        self.kinds.insert(wrong.digest.clone(), wrong.kind());
        match self.first.len() < Verification::MAX_FAULTS {
            true => self.first.push(wrong),
            false => self.more += 1,
        }
    }
}

/// A blob with wrong bytes at one place.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) digest: Digest,
    pub(super) file: String,
    /// Name and offset of the member; `None` for a file of a folder.
    pub(super) member: Option<(String, u64)>,
    pub(super) size: u64,
    pub(super) what: Mismatch,
}

/// What is wrong with the bytes of a blob.
#[derive(Debug)]
pub(super) enum Mismatch {
    /// The bytes have this digest.
    Other(Digest),
    /// The bytes cannot be read.
    Unreadable(Error),
    /// The blob was not read: every descriptor states another size, such as this one.
    Size(u64),
}

impl Wrong {
    pub(super) fn new(digest: &Digest, place: &Extent, what: Mismatch) -> Self {
        let member = place.member.as_deref().map(str::to_owned);
        let member = member.unwrap_or_else(|| blob_path(digest));
        Self {
            digest: digest.clone(),
            file: place.source.label().to_owned(),
            member: place.source.is_archive().then_some((member, place.offset)),
            size: place.size,
            what,
        }
    }

    /// Returns the kind of the fault.
    pub(super) fn kind(&self) -> FaultKind {
        match self.what {
            Mismatch::Other(_) => FaultKind::Damaged,
            Mismatch::Unreadable(_) => FaultKind::Unreadable,
            Mismatch::Size(_) => FaultKind::Size,
        }
    }

    /// Builds the fault, with the blob's place and without images.
    pub(super) fn fault(&self) -> Fault {
        let size = byte_count(self.size);
        let message = match &self.what {
            Mismatch::Other(found) => format!("blob {}: its {size} hash to {found}", self.digest),
            Mismatch::Unreadable(error) => {
                let cause = std::error::Error::source(error).map_or_else(|| error.full(), ToString::to_string);
                format!("blob {} cannot be read: {cause}", self.digest)
            }
            Mismatch::Size(stated) => {
                format!("blob {} has {size}, where {stated} are stated", self.digest)
            }
        };
        Fault {
            file: Some(self.file.as_str().into()),
            member: self.member.as_ref().map(|(name, _)| name.as_str().into()),
            offset: self.member.as_ref().map(|(_, offset)| *offset),
            digest: Some(self.digest.clone()),
            hint: match &self.what {
                Mismatch::Unreadable(error) => error.hint().map(Into::into),
                _ => None,
            },
            ..Fault::new(self.kind(), message)
        }
    }
}
