//! The images of one archive: an OCI image layout (OCI image-spec, image-layout.md) with what may stand beside it.

use std::collections::HashSet;

use bytes::Bytes;
use oci_spec::image::OciLayout;
use serde::Deserialize;

use super::archive::Archive;
use super::names;
use super::store::Store;
use super::{BundledImage, Referrer};
use crate::bundle::record::{self, FORMAT_VERSION, ImageRecord, Missing, Record};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{Entry, MAX_MANIFEST, RawManifest, View};
use crate::image::reference::Reference;

/// The one version of the layout that there is.
const LAYOUT_VERSION: &str = "1.0.0";

/// containerd's annotation on a manifest that refers to another.
const CONTAINERD_SUBJECT: &str = "io.containerd.manifest.subject";

/// `oci-layout` has some thirty bytes.
const MAX_LAYOUT: u64 = 64 << 10;

/// `docker-mirror.json` has about a hundred bytes per platform of each image.
const MAX_RECORD: u64 = 64 << 20;

/// What one archive lists.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) images: Vec<BundledImage>,
    pub(super) referrers: Vec<Referrer>,
    pub(super) missing: Vec<Missing>,
    pub(super) warnings: Vec<String>,
}

/// Reads what an archive lists. `given` is the name for an image that has none.
pub(super) fn read(archive: &Archive, store: &mut Store, given: Option<&Reference>) -> Result<Contents> {
    let contents = match version(archive)? {
        Ok(()) => read_index(archive, store, given)?,
        Err(why) => return Err(why),
    };
    if contents.images.is_empty() {
        let mut error = Error::new(
            Kind::Malformed,
            format!("`{}` holds no image", archive.label.escape_debug()),
        );
        if !contents.missing.is_empty() {
            error = error.with_hint("every image that was asked for failed when it was made; export it again");
        }
        return Err(error);
    }
    Ok(contents)
}

/// Whether the archive has an image layout that is known here; if not, why.
fn version(archive: &Archive) -> Result<Result<(), Error>> {
    let Some(bytes) = archive.read("oci-layout", MAX_LAYOUT)? else {
        return Ok(Err(no_archive(archive)));
    };
    let place = archive.describe("oci-layout");
    Ok(match OciLayout::from_reader(bytes.as_slice()) {
        Ok(layout) if layout.image_layout_version() == LAYOUT_VERSION => Ok(()),
        Ok(layout) => Err(Error::new(
            Kind::Unsupported,
            format!(
                "{place}: unknown layout version `{}`; only `{LAYOUT_VERSION}` is known",
                layout.image_layout_version().escape_debug()
            ),
        )),
        Err(e) => Err(Error::new(Kind::Malformed, format!("{place}: no such JSON document")).with_source(e)),
    })
}

fn no_archive(archive: &Archive) -> Error {
    let error = Error::new(
        Kind::Malformed,
        format!(
            "`{}` is no image archive: it has no `oci-layout`",
            archive.label.escape_debug()
        ),
    );
    if ["etc/passwd", "bin/sh", "etc/os-release"]
        .iter()
        .any(|name| archive.files.contains_key(*name))
    {
        return error
            .with_hint("these are the files of a container (`docker export`); save the image with `docker save`");
    }
    error.with_hint("OCI image layouts and what `docker save` and `podman save` write are accepted")
}

fn read_index(archive: &Archive, store: &Store, given: Option<&Reference>) -> Result<Contents> {
    let record = read_record(archive)?;
    let place = archive.describe("index.json");
    let bytes = archive.read("index.json", MAX_MANIFEST)?.ok_or_else(|| {
        Error::new(
            Kind::Malformed,
            format!("`{}` has no `index.json`", archive.label.escape_debug()),
        )
    })?;
    let index = RawManifest::new(Bytes::from(bytes), None, None).map_err(|e| e.context(&place))?;
    let View::Index(index) = index.view() else {
        return Err(Error::new(Kind::Malformed, format!("{place}: it lists no manifests")));
    };

    let mut contents = Contents::default();
    let mut nameless = Vec::new();
    let mut listed: HashSet<Digest> = HashSet::new();
    for entry in &index.entries {
        let found = names::of_entry(&entry.annotations, &[], None);
        match found {
            Ok(found) => {
                for name in found {
                    contents.images.push(image(archive, entry, name, record.as_ref())?);
                    listed.insert(entry.descriptor.digest.clone());
                }
            }
            Err(_) => nameless.push(entry),
        }
    }
    for entry in nameless {
        if listed.contains(&entry.descriptor.digest) {
            continue;
        }
        if let Some(subject) = subject(store, entry) {
            contents.referrers.push(Referrer {
                subject,
                root: entry.descriptor.clone(),
                archive: archive.label.clone(),
            });
            continue;
        }
        let found = names::of_entry(&entry.annotations, &[], given)
            .map_err(|e| e.context(format!("{place}: manifest {}", entry.descriptor.digest)))?;
        for name in found {
            contents.images.push(image(archive, entry, name, record.as_ref())?);
        }
    }
    if let Some(record) = record {
        contents.missing = record.missing;
    }
    Ok(contents)
}

fn image(archive: &Archive, entry: &Entry, name: Reference, record: Option<&Record>) -> Result<BundledImage> {
    let root = entry.descriptor.clone();
    let found = record.and_then(|record| of_name(record, &name));
    if let Some(found) = found
        && found.original != root.digest
        && found.filtered.as_ref() != Some(&root.digest)
    {
        return Err(Error::new(
            Kind::Malformed,
            format!(
                "`{}`: `index.json` says that `{name}` is {}, `{}` that it is {}",
                archive.label.escape_debug(),
                root.digest,
                record::MEMBER,
                found.filtered.as_ref().unwrap_or(&found.original)
            ),
        )
        .with_hint("the bundle was edited; export it again"));
    }
    Ok(BundledImage {
        name,
        root,
        record: found.cloned(),
        rebuilt: false,
        archive: archive.label.clone(),
        may_be_sparse: archive.whole && record.is_none() && entry.annotations.contains_key(names::CONTAINERD_NAME),
    })
}

fn of_name<'a>(record: &'a Record, name: &Reference) -> Option<&'a ImageRecord> {
    record
        .images
        .iter()
        .find(|image| image.reference.parse::<Reference>().is_ok_and(|r| r == *name))
}

/// What a manifest without a name refers to, by containerd's annotation or its own field.
fn subject(store: &Store, entry: &Entry) -> Option<Digest> {
    if let Some(subject) = entry.annotations.get(CONTAINERD_SUBJECT) {
        return subject.parse().ok();
    }
    let descriptor = &entry.descriptor;
    let bytes = store.read_all(&descriptor.digest, MAX_MANIFEST).ok()?;
    let manifest = RawManifest::new(bytes, Some(&descriptor.media_type), Some(&descriptor.digest)).ok()?;
    let subject = match manifest.view() {
        View::Index(index) => index.subject.as_ref(),
        View::Image(image) => image.subject.as_ref(),
        View::Other { .. } => None,
    };
    subject.map(|subject| subject.digest.clone())
}

/// Only the version, which every version of the document has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    format_version: u32,
}

fn read_record(archive: &Archive) -> Result<Option<Record>> {
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
