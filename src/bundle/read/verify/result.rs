//! What a verification comes to.

use serde::Serialize;

use crate::bundle::read::summed::VerifiedFile;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::inventory::want_list::WantList;
use crate::text::{Line, Warnings};

/// What was checked, and what is wrong.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// The files that were read as a whole, each with its own sum. Folders have none.
    pub files: Vec<VerifiedFile>,
    /// What was checked.
    pub checked: Checked,
    /// What is wrong, up to [`MAX_FAULTS`](Self::MAX_FAULTS).
    pub faults: Vec<Fault>,
    /// How many more faults there are.
    pub more_faults: u64,
    /// Blobs that are wrong in one bundle and right in another one that was given with it: no fault of the bundles together.
    pub replaced: Vec<Fault>,
    /// What is odd, and does no harm.
    pub warnings: Warnings,
    /// The blobs that are damaged or absent and belong to an image.
    pub wanted: WantList,
}

impl Verification {
    /// Maximum number of faults that are kept one by one.
    pub const MAX_FAULTS: usize = 1000;

    /// Whether everything is as it should be.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// How much was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// Images under all their names.
    pub images: u64,
    /// Members of archives, or files of folders.
    pub members: u64,
    /// Blobs whose digest was computed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Layers that were unpacked and whose content was compared.
    pub layers_unpacked: u64,
    /// The bytes of that content.
    pub unpacked_bytes: u64,
}

/// What kind of fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FaultKind {
    /// A file or folder of which nothing can be read.
    Archive,
    /// A place at which an archive breaks the rules of the tar format.
    Tar,
    /// An image that is listed wrongly, or is wrong in another way.
    Image,
    /// A blob has other bytes than its digest promises.
    Damaged,
    /// A blob cannot be read.
    Unreadable,
    /// A blob is named and not there.
    Missing,
    /// A blob has another size than is stated.
    Size,
    /// A manifest breaks the rules of its format.
    Manifest,
    /// A config breaks the rules of its format.
    Config,
    /// A config describes another number of layers than the manifest lists.
    LayerCount,
    /// A layer has other content than the config promises, or cannot be unpacked.
    LayerContent,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// What kind of fault it is.
    pub kind: FaultKind,
    /// What is wrong, in words.
    pub message: Line,
    /// The file in which it stands, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Line>,
    /// The member of the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<Line>,
    /// Where the content of the member starts, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The digest that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The images that suffer from it, up to ten.
    pub images: Vec<Line>,
    /// How many more images suffer from it.
    pub more_images: u64,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<Line>,
}

impl Fault {
    /// A fault without place and images.
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

    /// An error as a fault.
    pub(super) fn from_error(kind: FaultKind, error: &Error) -> Self {
        Self {
            hint: error.hint().map(Line::from),
            ..Self::new(kind, error.full())
        }
    }
}
