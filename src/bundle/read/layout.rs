//! The images of one archive: an OCI image layout (OCI image-spec, image-layout.md) with what may stand beside it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use oci_spec::image::OciLayout;

use super::archive::Archive;
use super::given::Given;
use super::items::{self, Items};
use super::names;
use super::rebuild;
use super::recorded;
use super::store::Store;
use super::{BrokenImage, BundledImage, Referrer};
use crate::bundle::layout::name_in_bundle;
use crate::bundle::record::{self, ImageRecord, Missing};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::annotation::CONTAINERD_SUBJECT;
use crate::image::manifest::{Entry, MAX_MANIFEST, RawManifest, View};
use crate::image::reference::Reference;

/// The one version of the layout that there is.
const LAYOUT_VERSION: &str = "1.0.0";

/// `oci-layout` has some thirty bytes.
const MAX_LAYOUT: u64 = 64 << 10;

/// What one archive lists.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) images: Vec<BundledImage>,
    /// What is listed and cannot be had.
    pub(super) broken: Vec<BrokenImage>,
    pub(super) referrers: Vec<Referrer>,
    pub(super) missing: Vec<Missing>,
    /// Whether it looks like a bundle of this program but for the record, which is not there.
    pub(super) lacks_record: bool,
    /// What the record lists and the index does not.
    pub(super) unlisted: Vec<String>,
}

/// Reads what an archive lists. `given` are the names that the user states.
///
/// The OCI layout is what counts where there is one; `manifest.json` serves where there is none, and for an image that
/// the layout describes wrongly.
pub(super) fn read(archive: &mut Archive, store: &mut Store, given: &mut Given<'_>) -> Result<Contents> {
    let layout = version(archive)?;
    let is_archive = layout.is_ok() || archive.files.contains_key(items::MEMBER);
    if let Some(bad_link) = archive.bad_link.take_if(|_| is_archive) {
        return Err(bad_link);
    }
    let items = Items::read(archive)?;
    let contents = match (layout, items) {
        (Ok(()), items) => {
            let items = items.unwrap_or_default();
            let mut contents = read_index(archive, store, &items, given)?;
            rebuild::mend(archive, store, &items, &mut contents);
            recorded::warn(archive, &contents);
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
                    .push(format!("{why}; its `{}` is used instead", items::MEMBER));
            }
            rebuild::read_items(archive, store, &items, given)?
        }
        (Err(why), None) => return Err(why),
    };
    if contents.images.is_empty() && contents.broken.is_empty() {
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

/// Tells about members that are no part of any image.
fn warn_of_others(archive: &mut Archive) {
    let has_items = archive.files.contains_key(items::MEMBER);
    let expected = |name: &str| {
        matches!(
            name,
            "oci-layout" | "index.json" | record::MEMBER | items::MEMBER | "repositories"
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
            items::MEMBER
        ),
    );
    let is_there = |name: &&str| archive.files.contains_key(*name);
    if [".dockerenv", "etc/passwd", "etc/os-release"].iter().any(is_there) {
        return error
            .with_hint("these are the files of a container (`docker export`); save the image with `docker save`");
    }
    error.with_hint("OCI image layouts and what `docker save` and `podman save` write are accepted")
}

fn read_index(archive: &Archive, store: &Store, items: &Items, given: &mut Given<'_>) -> Result<Contents> {
    let record = recorded::read(archive)?;
    let known = record.as_ref().map(recorded::by_name);
    let member = archive.describe("index.json");
    let bytes = archive.read("index.json", MAX_MANIFEST)?.ok_or_else(|| {
        Error::new(
            Kind::Malformed,
            format!("`{}` has no `index.json`", archive.label.escape_debug()),
        )
    })?;
    let index = RawManifest::new(Bytes::from(bytes), None, None).map_err(|e| e.context(&member))?;
    let View::Index(index) = index.view() else {
        return Err(Error::new(Kind::Malformed, format!("{member}: it lists no manifests")));
    };

    let mut contents = Contents::default();
    let mut nameless = Vec::new();
    let mut listed: HashSet<Digest> = HashSet::new();
    for (place, entry) in index.entries.iter().enumerate() {
        let own = names::of_entry(&entry.annotations, &[], None, place).unwrap_or_default();
        let exact = given.exactly(place, Some(&entry.descriptor.digest));
        let Some(name) = own.first().or(exact.first()) else {
            nameless.push((place, entry));
            continue;
        };
        listed.insert(entry.descriptor.digest.clone());
        let image = image(archive, place, entry, name.clone(), known.as_ref())?;
        if exact.is_empty() {
            contents.images.push(image);
            continue;
        }
        // The record knows it by its own name, whatever the user calls it.
        let renamed = |name| BundledImage { name, ..image.clone() };
        contents.images.extend(exact.into_iter().map(renamed));
    }
    let below = if nameless.is_empty() {
        HashSet::new()
    } else {
        below(store, &index.entries)
    };
    for (place, entry) in nameless {
        // oras lists the children of an index beside it.
        let part = !names::is_named(&entry.annotations) && below.contains(&entry.descriptor.digest);
        if part || listed.contains(&entry.descriptor.digest) {
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
        match names::of_entry(&entry.annotations, &repo_tags, given.nameless(), place) {
            Ok(found) => {
                for name in found {
                    contents
                        .images
                        .push(image(archive, place, entry, name, known.as_ref())?);
                }
            }
            Err(why) => contents.broken.push(names::nameless(
                archive,
                store,
                place,
                &entry.descriptor,
                entry.platform.as_ref(),
                why,
            )),
        }
    }
    match record {
        Some(record) => {
            contents.unlisted = recorded::agree(archive, &record, &contents)?;
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

fn image(
    archive: &Archive,
    place: usize,
    entry: &Entry,
    name: Reference,
    known: Option<&HashMap<String, &ImageRecord>>,
) -> Result<BundledImage> {
    let root = entry.descriptor.clone();
    let found = known.and_then(|known| known.get(&name_in_bundle(&name)).copied());
    let stated = found.map(recorded::stated_root);
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
        place,
        may_be_sparse: archive.whole && known.is_none() && entry.annotations.contains_key(names::CONTAINERD_NAME),
    })
}

/// The names that `manifest.json` has for an image manifest, found by its config.
fn repo_tags(archive: &Archive, store: &Store, items: &Items, entry: &Entry) -> Vec<String> {
    if items.is_empty() {
        return Vec::new();
    }
    let Some(manifest) = manifest(store, entry) else {
        return Vec::new();
    };
    match manifest.view() {
        View::Image(image) => items.repo_tags(&image.config.digest, archive, store),
        _ => Vec::new(),
    }
}

/// What the indexes among these entries list themselves.
fn below(store: &Store, entries: &[Entry]) -> HashSet<Digest> {
    let mut below = HashSet::new();
    for manifest in entries.iter().filter_map(|entry| manifest(store, entry)) {
        if let View::Index(index) = manifest.view() {
            below.extend(index.entries.iter().map(|child| child.descriptor.digest.clone()));
        }
    }
    below
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
