//! `docker-mirror.json`: what a bundle says about itself beyond the OCI image layout.
//!
//! The file is for reports and for choices that the layout cannot express (which index belongs to which). A reader that
//! does not know it loses nothing: every image is found through `index.json` alone.

use serde::{Deserialize, Serialize};

use crate::image::digest::Digest;
use crate::image::tree::{Choice, LeftOut, PlatformRecord};

/// The version that this program writes; a reader refuses a higher one.
pub const FORMAT_VERSION: u32 = 1;

/// The name of the member.
pub const MEMBER: &str = "docker-mirror.json";

/// The whole document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`FORMAT_VERSION`] of whoever wrote it.
    pub format_version: u32,
    /// One entry per image, in the order of `index.json`.
    pub images: Vec<ImageRecord>,
    /// Images that were asked for and are not in the bundle (`--allow-partial`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// One image of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// The canonical source reference, as it was asked for.
    pub reference: String,
    /// Which of the two digests below goes under the name.
    pub index: Choice,
    /// The digest that the source registry has under the name; these bytes are always in the bundle.
    pub original: Digest,
    /// The digest after filtering, where platforms were dropped; these bytes are in the bundle as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtered: Option<Digest>,
    /// Platforms in the bundle.
    pub kept: Vec<PlatformRecord>,
    /// Platforms that the original lists and the bundle does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<PlatformRecord>,
    /// Blobs that manifests name and the bundle does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// An image that could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// The canonical source reference.
    pub reference: String,
    /// Why, in one line without secrets.
    pub reason: String,
}
