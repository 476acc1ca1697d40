//! The images of one archive: an OCI image layout (OCI image-spec, image-layout.md) with what may stand beside it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use oci_spec::image::OciLayout;
use serde::Deserialize;

use super::archive::Archive;
use super::docker_archive::{self, Builder, Item};
use super::names;
use super::rebuild;
use super::store::Store;
use super::{BundledImage, Referrer};
use crate::bundle::layout::name_in_bundle;
use crate::bundle::record::{self, FORMAT_VERSION, ImageRecord, Missing, Record};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{Entry, MAX_MANIFEST, RawManifest, View};
use crate::image::reference::Reference;
use crate::image::tree::Choice;

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
    /// Whether it looks like a bundle of this program but for the record, which is not there.
    lacks_record: bool,
    /// What the record lists and the index does not.
    unlisted: Vec<String>,
}

/// Reads what an archive lists. `given` is the name for an image that has none.
///
/// The OCI layout is what counts where there is one; `manifest.json` serves where there is none, and for an image that
/// the layout describes wrongly.
pub(super) fn read(archive: &mut Archive, store: &mut Store, given: Option<&Reference>) -> Result<Contents> {
    let layout = version(archive)?;
    let is_archive = layout.is_ok() || archive.files.contains_key(docker_archive::MEMBER);
    if let Some(bad_link) = archive.bad_link.take_if(|_| is_archive) {
        return Err(bad_link);
    }
    let items = docker_archive::items(archive)?;
    let contents = match (layout, items) {
        (Ok(()), items) => {
            let items = items.unwrap_or_default();
            let mut contents = read_index(archive, store, &items, given)?;
            rebuild::mend(archive, store, &items, &mut contents)?;
            warn_of_record(archive, &contents);
            contents
        }
        // A bundle of our own always has a layout: without one it is damaged, and the few images that `manifest.json` lists,
        // each of one platform, are not what it was made for.
        (Err(why), _) if archive.files.contains_key(record::MEMBER) => {
            return Err(why.with_hint("the bundle is damaged; copy it again, or export it again"));
        }
        (Err(why), Some(items)) => {
            if archive.files.contains_key("oci-layout") {
                archive
                    .warnings
                    .push(format!("{why}; its `{}` is used instead", docker_archive::MEMBER));
            }
            rebuild::read_items(archive, store, &items, given)?
        }
        (Err(why), None) => return Err(why),
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
    warn_of_others(archive);
    Ok(contents)
}

/// Tells where the bundle's own record and its index do not know of each other's images, or the record is gone.
fn warn_of_record(archive: &mut Archive, contents: &Contents) {
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

/// Tells about members that are no part of any image.
fn warn_of_others(archive: &mut Archive) {
    let has_items = archive.files.contains_key(docker_archive::MEMBER);
    let expected = |name: &str| {
        matches!(
            name,
            "oci-layout" | "index.json" | record::MEMBER | docker_archive::MEMBER | "repositories"
        ) || has_items
            && (name.starts_with("sha256:")
                || [".json", "/json", "/VERSION", ".tar", ".tar.gz", ".tgz"]
                    .iter()
                    .any(|end| name.ends_with(end)))
    };
    let others: Vec<&String> = archive.files.keys().filter(|name| !expected(name)).collect();
    let Some(first) = others.first() else { return };
    let more = match others.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    archive.warnings.push(format!(
        "`{}`: no part of an image and ignored: `{}`{more}",
        archive.label.escape_debug(),
        first.escape_debug()
    ));
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
            "`{}` is no image archive: it has neither `oci-layout` nor `{}`",
            archive.label.escape_debug(),
            docker_archive::MEMBER
        ),
    );
    let is_there = |name: &&str| archive.files.contains_key(*name);
    if [".dockerenv", "etc/passwd", "etc/os-release"].iter().any(is_there) {
        return error
            .with_hint("these are the files of a container (`docker export`); save the image with `docker save`");
    }
    error.with_hint("OCI image layouts and what `docker save` and `podman save` write are accepted")
}

fn read_index(archive: &Archive, store: &Store, items: &[Item], given: Option<&Reference>) -> Result<Contents> {
    let record = read_record(archive)?;
    let known = record.as_ref().map(by_name);
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
                    contents.images.push(image(archive, entry, name, known.as_ref())?);
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
        let repo_tags = repo_tags(archive, store, items, entry);
        let found = names::of_entry(&entry.annotations, &repo_tags, given)
            .map_err(|e| e.context(format!("{place}: manifest {}", entry.descriptor.digest)))?;
        for name in found {
            contents.images.push(image(archive, entry, name, known.as_ref())?);
        }
    }
    match record {
        Some(record) => {
            contents.unlisted = agree(archive, &record, &contents)?;
            contents.missing = record.missing;
        }
        None => {
            let twice_named = |entry: &Entry| {
                let name = entry.annotations.get(names::CONTAINERD_NAME);
                name.is_some() && name == entry.annotations.get(names::REF_NAME)
            };
            contents.lacks_record = !index.entries.is_empty() && index.entries.iter().all(twice_named);
        }
    }
    Ok(contents)
}

/// The digest that goes under the name of an image.
fn stated_root(record: &ImageRecord) -> &Digest {
    match (&record.filtered, record.index) {
        (Some(filtered), Choice::Whole | Choice::Filtered) => filtered,
        _ => &record.original,
    }
}

/// An image that the index calls otherwise than the record does must not go to a wrong name. Returns what only the record
/// lists.
fn agree(archive: &Archive, record: &Record, contents: &Contents) -> Result<Vec<String>> {
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

fn image(
    archive: &Archive,
    entry: &Entry,
    name: Reference,
    known: Option<&HashMap<String, &ImageRecord>>,
) -> Result<BundledImage> {
    let root = entry.descriptor.clone();
    let found = known.and_then(|known| known.get(&name_in_bundle(&name)).copied());
    let stated = found.map(stated_root);
    if let Some(stated) = stated
        && *stated != root.digest
    {
        return Err(Error::new(
            Kind::Malformed,
            format!(
                "`{}`: `index.json` says that `{name}` is {}, `{}` that it is {stated}",
                archive.label.escape_debug(),
                root.digest,
                record::MEMBER
            ),
        )
        .with_hint("the bundle was edited; export it again"));
    }
    // The layout names an image by its tag alone, even if it was asked for by tag and digest; the record has both.
    let name = found.and_then(|found| found.reference.parse().ok()).unwrap_or(name);
    Ok(BundledImage {
        name,
        root,
        record: found.cloned(),
        rebuilt: false,
        archive: archive.label.clone(),
        may_be_sparse: archive.whole && known.is_none() && entry.annotations.contains_key(names::CONTAINERD_NAME),
    })
}

/// The records by the names that images have in `index.json`.
fn by_name(record: &Record) -> HashMap<String, &ImageRecord> {
    let named = record.images.iter().filter_map(|image| {
        let name: Reference = image.reference.parse().ok()?;
        Some((name_in_bundle(&name), image))
    });
    named.collect()
}

/// The names that `manifest.json` has for an image manifest, found by its config.
fn repo_tags(archive: &Archive, store: &Store, items: &[Item], entry: &Entry) -> Vec<String> {
    let Some(manifest) = manifest(store, entry) else {
        return Vec::new();
    };
    let View::Image(image) = manifest.view() else {
        return Vec::new();
    };
    let builder = Builder::new(archive);
    items
        .iter()
        .filter(|item| {
            builder
                .config_digest(item, store)
                .is_ok_and(|digest| digest == image.config.digest)
        })
        .flat_map(Item::repo_tags)
        .collect()
}

fn manifest(store: &Store, entry: &Entry) -> Option<RawManifest> {
    let descriptor = &entry.descriptor;
    let bytes = store.read_all(&descriptor.digest, MAX_MANIFEST).ok()?;
    RawManifest::new(bytes, Some(&descriptor.media_type), Some(&descriptor.digest)).ok()
}

/// What a manifest without a name refers to, by containerd's annotation or its own field.
fn subject(store: &Store, entry: &Entry) -> Option<Digest> {
    if let Some(subject) = entry.annotations.get(CONTAINERD_SUBJECT) {
        return subject.parse().ok();
    }
    let manifest = manifest(store, entry)?;
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
