//! What a bundle of this program says of itself, `docker-mirror.json`, held against its index.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::archive::Archive;
use super::layout::Contents;
use crate::bundle::layout::name_in_bundle;
use crate::bundle::record::{self, FORMAT_VERSION, ImageRecord, Record};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::Choice;

/// `docker-mirror.json` has about a hundred bytes per platform of each image.
const MAX_RECORD: u64 = 64 << 20;

/// Tells where the bundle's own record and its index do not know of each other's images, or the record is gone.
pub(super) fn warn(archive: &mut Archive, contents: &Contents) {
    let label = archive.label.escape_debug().to_string();
    let member = record::MEMBER;
    if contents.lacks_record {
        archive.warnings.push(format!(
            "`{label}` has no `{member}`; if docker-mirror made it, it was damaged or edited, and what it says of platforms \
             that were dropped and of images that are missing is lost"
        ));
    }
    for name in &contents.unlisted {
        archive.warnings.push(format!(
            "`{label}`: `{member}` lists `{}`, and `index.json` does not; it is left out",
            name.escape_debug()
        ));
    }
    if !archive.files.contains_key(member) {
        return;
    }
    for image in contents.images.iter().filter(|image| image.record.is_none()) {
        archive.warnings.push(format!(
            "`{label}`: `{member}` does not list `{}`; it was added later, or the bundle was edited",
            image.name
        ));
    }
}

/// The digest that goes under the name of an image.
pub(super) fn stated_root(record: &ImageRecord) -> &Digest {
    match (&record.filtered, record.index) {
        (Some(filtered), Choice::Whole | Choice::Filtered) => filtered,
        _ => &record.original,
    }
}

/// An image that the index calls otherwise than the record does must not go to a wrong name. Returns what only the record
/// lists.
pub(super) fn agree(archive: &Archive, record: &Record, contents: &Contents) -> Result<Vec<String>> {
    let key = |reference: &str| reference.parse().map(|name: Reference| name_in_bundle(&name)).ok();
    let listed: HashSet<Option<String>> = contents
        .images
        .iter()
        .filter_map(|image| Some(key(&image.record.as_ref()?.reference)))
        .collect();
    let unlisted = |record: &&ImageRecord| !listed.contains(&key(&record.reference));
    let unlisted: Vec<&ImageRecord> = record.images.iter().filter(unlisted).collect();
    for image in contents.images.iter().filter(|image| image.record.is_none()) {
        let Some(other) = unlisted.iter().find(|record| *stated_root(record) == image.root.digest) else {
            continue;
        };
        return Err(Error::new(
            Kind::Malformed,
            format!(
                "`{}`: {} is called `{}` in `index.json` and `{}` in `{}`",
                archive.label.escape_debug(),
                image.root.digest,
                image.name,
                other.reference.escape_debug(),
                record::MEMBER
            ),
        )
        .with_hint("the bundle is damaged or was edited: copy it again, or export it again"));
    }
    Ok(unlisted.into_iter().map(|record| record.reference.clone()).collect())
}

/// The records by the names that images have in `index.json`.
pub(super) fn by_name(record: &Record) -> HashMap<String, &ImageRecord> {
    let named = record.images.iter().filter_map(|image| {
        let name: Reference = image.reference.parse().ok()?;
        Some((name_in_bundle(&name), image))
    });
    named.collect()
}

/// Only the version, which every version of the document has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    format_version: u32,
}

pub(super) fn read(archive: &Archive) -> Result<Option<Record>> {
    let Some(bytes) = archive.read(record::MEMBER, MAX_RECORD)? else {
        return Ok(None);
    };
    let wrong = |e: serde_json::Error| {
        Error::new(
            Kind::Malformed,
            format!("{}: no such JSON document", archive.describe(record::MEMBER)),
        )
        .with_source(e)
    };
    let version: Version = serde_json::from_slice(&bytes).map_err(wrong)?;
    if version.format_version > FORMAT_VERSION {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "{}: written by a newer version (format {}, known is {FORMAT_VERSION})",
                archive.describe(record::MEMBER),
                version.format_version
            ),
        )
        .with_hint("update docker-mirror on this side"));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}
