//! The result of a verification.

use serde::Serialize;

use crate::bundle::read::summed::VerifiedFile;
use crate::bundle::record::Missing;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::inventory::want_list::WantList;
use crate::text::{Line, Warnings};

/// The result of a verification: what was checked, and what is wrong.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// Files that were read to their end, each with its SHA-256. Folders have none.
    pub files: Vec<VerifiedFile>,
    /// Number of images, blobs and bytes that were checked.
    pub checked: Checked,
    /// The faults, up to [`MAX_FAULTS`](Self::MAX_FAULTS).
    pub faults: Vec<Fault>,
    /// Number of faults beyond the maximum.
    pub more_faults: u64,
    /// No fault of the bundles together: blobs that are wrong in one bundle and right in another of the same verification,
    /// filtered indexes that were [made again](Fault::REMADE), and violations of the tar format that hide nothing which a
    /// supplement does not replace.
    pub replaced: Vec<Fault>,
    /// Harmless irregularities of the bundles.
    pub warnings: Warnings,
    /// Blobs of images that are damaged or missing.
    pub wanted: WantList,
    /// Number of damaged or missing manifests: what they list is unknown, and may be damaged or missing as well.
    pub unread_manifests: u64,
    /// Images that the bundles record as missing.
    pub missing: Vec<Missing>,
    /// Whether the only file is a supplement, which has blobs and no image.
    pub is_supplement: bool,
}

impl Verification {
    /// Maximum number of faults that are kept individually.
    pub const MAX_FAULTS: usize = 1000;

    /// Returns whether no fault was found.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty() && self.more_faults == 0
    }
}

/// Numbers of checked images, members, blobs and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// Number of images, counted under each of their names, without signatures and other attachments.
    pub images: u64,
    /// Number of members of archives, or files of folders.
    pub members: u64,
    /// Number of blobs whose digest was computed.
    pub blobs: u64,
    /// Total size of these blobs in bytes.
    pub bytes: u64,
    /// Number of layers that were decompressed and compared.
    pub layers_unpacked: u64,
    /// Total size of the decompressed layers in bytes.
    pub unpacked_bytes: u64,
    /// Number of layers that could not be unpacked although nothing is wrong with them, such as encrypted ones.
    pub layers_not_unpacked: u64,
    /// Number of blobs that nothing refers to. Zero if there are faults: a damaged manifest hides what it refers to.
    pub unreferenced_blobs: u64,
    /// Total size of these blobs in bytes.
    pub unreferenced_bytes: u64,
}

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FaultKind {
    /// A file or folder that cannot be read at all.
    Archive,
    /// A violation of the tar format.
    Tar,
    /// An image that is listed wrongly, or is wrong in a way that no other kind describes.
    Image,
    /// A document, such as `manifest.json`, that cannot be read or contradicts `index.json`.
    Document,
    /// A blob whose bytes do not match its digest.
    Damaged,
    /// A blob that cannot be read.
    Unreadable,
    /// A missing blob.
    Missing,
    /// A blob whose size differs from the stated size.
    Size,
    /// A manifest that breaks the rules of its format.
    Manifest,
    /// A config that breaks the rules of its format.
    Config,
    /// A config that describes another number of layers than the manifest lists.
    LayerCount,
    /// A layer that cannot be decompressed,
    /// or whose content differs from the digest in the config.
    LayerContent,
}

/// One fault of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// The kind of the fault.
    pub kind: FaultKind,
    /// Description of the fault.
    pub message: Line,
    /// The faulty file, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Line>,
    /// The faulty member of the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<Line>,
    /// Offset of the member's content in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Digest of the faulty blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Images that the fault affects, up to ten.
    pub images: Vec<Line>,
    /// Number of further images that the fault affects.
    pub more_images: u64,
    /// What the user can do about the fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<Line>,
}

impl Fault {
    /// Hint of a fault that an import repairs without any other file.
    pub const REMADE: &str = "it is made again from the original index";

    /// Creates a fault without a place and without images.
    pub(super) fn new(kind: FaultKind, message: impl Into<Line>) -> Self {
        Self {
            kind,
            message: message.into(),
            file: None,
            member: None,
            offset: None,
            digest: None,
            images: Vec::new(),
            more_images: 0,
            hint: None,
        }
    }

    /// Converts an error to a fault.
    pub(super) fn from_error(kind: FaultKind, error: &Error) -> Self {
        Self {
            hint: error.hint().map(Line::from),
            ..Self::new(kind, error.full())
        }
    }
}
