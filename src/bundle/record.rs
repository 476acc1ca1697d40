//! `docker-mirror.json`: what a bundle says about itself beyond the OCI image layout.
//!
//! The file is for reports and for choices that the layout cannot express (which index belongs to which). A reader that
//! does not know it loses nothing: every image is found through `index.json` alone.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::layout::name_in_bundle;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::json::Capped;
use crate::image::manifest::MAX_ENTRIES;
use crate::image::reference::Reference;
use crate::image::tree::{Choice, LeftOut, PlatformRecord};

/// The version that this program writes; a reader refuses a higher one.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The name of the member.
pub(crate) const MEMBER: &str = "docker-mirror.json";

/// The largest record that is read or written, in bytes: out of a file as out of a pipe. It has about 150 bytes for each
/// platform of each image, so that ten thousand images of thirty platforms fit.
pub const MAX_SIZE: u64 = 48 << 20;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// [`FORMAT_VERSION`] of the program that wrote it.
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
    /// What refers to its manifests and is in the bundle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerRecord>,
    /// What refers to its manifests and is not in the bundle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out_referrers: Vec<LeftOut>,
}

/// A manifest that refers to one of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferrerRecord {
    /// The manifest.
    pub digest: Digest,
    /// What it refers to.
    pub subject: Digest,
    /// What it is.
    pub artifact_type: String,
    /// The tag that it has at a registry, where it is found by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl ImageRecord {
    /// All that the tree of an image depends on: neither its name nor the platforms that it is said to have, which are found
    /// out anew.
    pub(crate) fn content(&self) -> impl Eq + Hash + '_ {
        let digests = (self.index, &self.original, &self.filtered);
        (digests, &self.dropped, &self.left_out)
    }
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

/// What to do about a bundle whose documents contradict each other.
pub(crate) const EDITED: &str = "the bundle is damaged or was edited: copy it again, or export it again";

/// The record of a bundle, each image by itself.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// In the order of the record.
    pub(crate) images: Vec<RecordedImage>,
    by_name: HashMap<String, usize>,
    pub(crate) missing: Vec<Missing>,
}

/// One entry of the record.
#[derive(Debug)]
pub(crate) struct RecordedImage {
    /// The reference as it is written; empty where the entry has none.
    pub(crate) reference: String,
    /// The name in `index.json` that it is for.
    pub(crate) name: Option<String>,
    /// The entry, or why it cannot be used.
    pub(crate) record: Result<Arc<ImageRecord>>,
}

impl Recorded {
    /// Takes the document apart.
    ///
    /// # Errors
    /// That of a document that is no record at all; a faulty entry is a fault of its own image alone.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Document<'a> {
            #[serde(borrow)]
            images: Capped<&'a RawValue, MAX_ENTRIES>,
            #[serde(default)]
            missing: Capped<Missing, MAX_ENTRIES>,
        }
        let document: Document<'_> = serde_json::from_slice(bytes)?;
        let mut recorded = Self {
            missing: document.missing.0,
            ..Self::default()
        };
        for raw in document.images.0 {
            recorded.add(raw);
        }
        Ok(recorded)
    }

    fn add(&mut self, raw: &RawValue) {
        #[derive(Deserialize)]
        struct Referring {
            reference: String,
        }
        let record = serde_json::from_str::<ImageRecord>(raw.get());
        let record = record.map(Arc::new).map_err(|e| {
            let what = format!("its entry in `{}` cannot be used", MEMBER);
            Error::new(Kind::Malformed, what).with_source(e).with_hint(EDITED)
        });
        let reference = match &record {
            Ok(record) => record.reference.clone(),
            Err(_) => serde_json::from_str::<Referring>(raw.get()).map_or_else(|_| String::new(), |r| r.reference),
        };
        let name = reference.parse().ok().map(|name: Reference| name_in_bundle(&name));
        let first = name.as_ref().and_then(|name| self.by_name.get(name));
        if let Some(first) = first.and_then(|first| self.images.get_mut(*first)) {
            let is_same = matches!((&first.record, &record), (Ok(first), Ok(second)) if first == second);
            if !is_same {
                let what = format!("`{}` lists it twice, with different content", MEMBER);
                first.record = Err(Error::new(Kind::Malformed, what).with_hint(EDITED));
            }
            return;
        }
        if let Some(name) = &name {
            self.by_name.insert(name.clone(), self.images.len());
        }
        self.images.push(RecordedImage {
            reference,
            name,
            record,
        });
    }

    /// The entry for an image of this name, where there is one; an error where it cannot be used.
    pub(crate) fn find(&self, name: &Reference) -> Option<&Result<Arc<ImageRecord>>> {
        let found = self.by_name.get(&name_in_bundle(name))?;
        Some(&self.images.get(*found)?.record)
    }
}
