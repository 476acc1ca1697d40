//! The record, `docker-mirror.json`: what a bundle states about itself beyond the OCI image layout.
//!
//! The record is for reports and for choices that the layout cannot express, such as which filtered index belongs to
//! which original. A reader that does not know the record loses nothing: `index.json` alone lists every image.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::document::Document;
use super::layout::name_in_bundle;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::json::Capped;
use crate::image::manifest::MAX_ENTRIES;
use crate::image::reference::Reference;
use crate::image::tree::{Choice, LeftOut, PlatformRecord};

/// Version of the record that this program writes; a reader refuses a higher version.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Name of the member that holds the record.
pub(crate) const MEMBER: &str = "docker-mirror.json";

/// Maximum size in bytes of a record that is read or written, in a file as in a pipe. A record has
/// about 150 bytes for each platform of each image, so that ten thousand images of thirty platforms fit.
pub const MAX_SIZE: u64 = 48 << 20;

/// The whole record. `I` is a list of [`ImageRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record<I = Vec<ImageRecord>> {
    /// [`FORMAT_VERSION`] of the program that wrote the record.
    pub format_version: u32,
    /// One entry per image, in the order of `index.json`.
    pub images: I,
    /// Images that were requested and are not in the bundle (`--allow-partial`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// SHA-256 of `index.json`.
    pub index_checksum: Digest,
}

/// Name and layout of the last field of a record, the checksum of all bytes before it.
const CHECKSUM: [&str; 2] = [",\n  \"checksum\": \"", "\"\n}\n"];

/// Creates the document of a record, with the checksum of all bytes before it as its last field.
///
/// # Errors
/// Those of [`Document::new`].
pub(super) fn document<I: Serialize>(record: &Record<I>) -> Result<Document> {
    let [start, end] = CHECKSUM;
    Document::new(MEMBER, |text| {
        text.add_json(record)?;
        text.replace_end("\n}\n", |checksum| format!("{start}{checksum}{end}"))
    })
}

/// Returns whether a record ends with the checksum of its other bytes.
fn has_right_checksum(record: &[u8]) -> bool {
    let [start, end] = CHECKSUM;
    let length = start.len() + Digest::sha256(b"").to_string().len() + end.len();
    record
        .split_at_checked(record.len().saturating_sub(length))
        .is_some_and(|(fields, last)| last == format!("{start}{}{end}", Digest::sha256(fields)).as_bytes())
}

/// The record of one image of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// The canonical source reference, as requested.
    pub reference: String,
    /// Which of the digests `original` and `filtered` is published under the name.
    pub index: Choice,
    /// Digest of the image at its source registry; the bundle always holds this manifest.
    pub original: Digest,
    /// Digest of the index without the dropped platforms, if any were dropped;
    /// the bundle holds this index as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtered: Option<Digest>,
    /// Platforms in the bundle.
    pub kept: Vec<PlatformRecord>,
    /// Platforms that the original index lists and the bundle omits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<PlatformRecord>,
    /// Blobs that manifests name and the bundle omits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Referrers of the image's manifests in the bundle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerRecord>,
    /// Referrers of the image's manifests that the bundle omits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out_referrers: Vec<LeftOut>,
}

/// The record of a referrer: a manifest that refers to a manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferrerRecord {
    /// Digest of the referrer.
    pub digest: Digest,
    /// Digest of the subject.
    pub subject: Digest,
    /// Artifact type of the referrer.
    pub artifact_type: String,
    /// Tag of the referrer at a registry, if the referrer is found by a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

impl ImageRecord {
    /// Returns everything that the tree of an image depends on.
    ///
    /// The name and the kept platforms are not included: the reader determines the platforms again.
    pub(crate) fn content(&self) -> impl Eq + Hash + '_ {
        let digests = (self.index, &self.original, &self.filtered);
        (digests, &self.dropped, &self.left_out, &self.referrers)
    }
}

/// The record of an image that could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// The canonical source reference.
    pub reference: String,
    /// The reason, in one line without secrets.
    pub reason: String,
}

/// Hint for a bundle whose documents contradict each other.
pub(crate) const EDITED: &str = "the bundle is damaged or was edited: copy it again, or export it again";

/// The parsed record of a bundle, with each image on its own.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// Images in the order of the record.
    pub(crate) images: Vec<RecordedImage>,
    by_name: HashMap<String, usize>,
    pub(crate) missing: Vec<Missing>,
    /// Whether the bytes are those that were written. A record of an earlier version, without checksums, counts as intact.
    pub(crate) is_intact: bool,
    /// SHA-256 of `index.json` as the record states it, if it does.
    pub(crate) index_checksum: Option<String>,
}

/// One entry of the parsed record.
#[derive(Debug)]
pub(crate) struct RecordedImage {
    /// Reference of the image as written in the record; empty if the entry has no reference.
    pub(crate) reference: String,
    /// Name of the image in `index.json`.
    pub(crate) name: Option<String>,
    /// The entry, or the reason why the entry cannot be used.
    pub(crate) record: Result<Arc<ImageRecord>>,
}

impl Recorded {
    /// Parses a record.
    ///
    /// # Errors
    /// If the document is not a record at all. A faulty entry becomes an error of its own image alone.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Document<'a> {
            #[serde(borrow)]
            images: Capped<&'a RawValue, MAX_ENTRIES>,
            #[serde(default)]
            missing: Capped<Missing, MAX_ENTRIES>,
            // Texts, so that a damaged checksum does not make the record unusable.
            #[serde(default, rename = "indexChecksum")]
            index_checksum: Option<String>,
            #[serde(default)]
            checksum: Option<String>,
        }
        let document: Document<'_> = serde_json::from_slice(bytes)?;
        let has_checksums = document.checksum.is_some() || document.index_checksum.is_some();
        let mut recorded = Self {
            missing: document.missing.0,
            is_intact: !has_checksums || has_right_checksum(bytes),
            index_checksum: document.index_checksum,
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
        let record = record.map(|mut record| {
            // A list that grew has room for four platforms, and most images have one.
            record.kept.shrink_to_fit();
            record.dropped.shrink_to_fit();
            Arc::new(record)
        });
        let record = record.map_err(|e| {
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
            // Equal entries for one name are harmless; different entries make the image unusable.
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

    /// Returns the entry for an image of this name, if any; an error if the entry cannot be used.
    pub(crate) fn find(&self, name: &Reference) -> Option<&Result<Arc<ImageRecord>>> {
        let found = self.by_name.get(&name_in_bundle(name))?;
        Some(&self.images.get(*found)?.record)
    }
}
