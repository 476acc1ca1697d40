//! Documents of the OCI image layout (image-spec, image-layout.md) and of the Docker archive in a bundle.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::document::Document;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::annotation::REF_NAME;
use crate::image::manifest::{Image, MAX_ENTRIES, MAX_MANIFEST, RawManifest, View};
use crate::image::media_type;
use crate::image::reference::Reference;
use crate::image::referrer::layout_entry;
use crate::image::tree::{ATTESTATION, ImageTree, PlatformRecord, UNKNOWN};

/// Name of the first member of every bundle.
pub(super) const FIRST_MEMBER: &str = "oci-layout";

/// Content of the first member of every bundle.
pub(super) const FIRST_CONTENT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Returns whether a file starts like a bundle of this program. If the file is shorter than that start, its bytes are
/// compared with the start as far as they go.
pub(crate) fn begins_bundle(head: &[u8]) -> bool {
    wrong_bytes(head) == Some(0)
}

/// Returns whether a file starts like a bundle of this program, apart from a few damaged bytes.
pub(crate) fn begins_damaged_bundle(head: &[u8]) -> bool {
    wrong_bytes(head).is_some_and(|wrong| wrong * 32 <= head.len())
}

/// Returns how many of these bytes differ from the start of each bundle of this program.
fn wrong_bytes(head: &[u8]) -> Option<usize> {
    let header = super::tar_header::member(FIRST_MEMBER, FIRST_CONTENT.len() as u64).ok()?;
    let start = [&header, FIRST_CONTENT].concat();
    Some(
        head.iter()
            .zip(&start)
            .filter(|(found, expected)| found != expected)
            .count(),
    )
}

/// Readers of Docker archives refuse a `manifest.json` of this many bytes or more.
const MAX_DOCKER_MANIFEST: u64 = 1 << 20;

/// Returns the path of a blob in the layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Returns the name of an image in a bundle:
/// with its tag, or with its digest if the reference has no tag.
///
/// Other programs find images by this name, and few programs accept a tag together with a digest.
pub(crate) fn name_in_bundle(reference: &Reference) -> String {
    match (reference.tag(), reference.digest()) {
        (Some(tag), _) => format!("{}:{tag}", reference.name()),
        (None, Some(digest)) => reference.pinned(digest),
        (None, None) => reference.name(),
    }
}

/// Builds `index.json`:
/// one descriptor per name, with the full name in both annotations that readers use.
///
/// Annotations of referrers are omitted if the document would be too large with them; their manifests have them too.
///
/// # Errors
/// [`Kind::TooLarge`] if the document would have more bytes or entries than a reader of bundles accepts.
pub(super) fn index_json(trees: &[&ImageTree]) -> Result<Document> {
    let (mut index, entries) = index_with(trees, true)?;
    if index.size > MAX_MANIFEST {
        index = index_with(trees, false)?.0;
    }
    if index.size > MAX_MANIFEST || entries > MAX_ENTRIES {
        let what = format!(
            "the bundle's `index.json` would have {} bytes and {entries} entries; at most {MAX_MANIFEST} and {MAX_ENTRIES} are \
             read again",
            index.size
        );
        let hint = "export the images into several bundles, or with fewer referrers (`--referrers`, `--no-referrers`)";
        return Err(Error::new(Kind::TooLarge, what).with_hint(hint));
    }
    Ok(index)
}

/// Builds `index.json`, and returns the number of its entries as well.
fn index_with(trees: &[&ImageTree], annotations_of_referrers: bool) -> Result<(Document, usize)> {
    let images = trees.iter().map(|tree| {
        let root = &tree.pushed().root;
        let name = name_in_bundle(&tree.source);
        let mut entry = Map::new();
        entry.insert("mediaType".into(), root.media_type().into());
        entry.insert("digest".into(), root.digest().to_string().into());
        entry.insert("size".into(), root.descriptor().size.into());
        entry.insert(
            "annotations".into(),
            json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name,
            }),
        );
        if let Some(platform) = single_platform(tree, root) {
            entry.insert("platform".into(), platform);
        }
        Value::Object(entry)
    });
    let entries = Cell::new(0);
    let all = images.chain(attachments(trees, annotations_of_referrers));
    let index = LayoutIndex {
        schema_version: 2,
        media_type: media_type::OCI_INDEX,
        manifests: Streamed::new(all.inspect(|_| entries.set(entries.get() + 1))),
    };
    let index = Document::new("index.json", |text| text.add_json(&index))?;
    Ok((index, entries.get()))
}

/// The document `index.json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LayoutIndex<M> {
    schema_version: u32,
    media_type: &'static str,
    manifests: M,
}

/// A list that is serialized once, each element when its turn comes: thousands of elements would take much more memory than
/// their text.
pub(super) struct Streamed<I>(RefCell<I>);

impl<I> Streamed<I> {
    pub(super) fn new(elements: I) -> Self {
        Self(RefCell::new(elements))
    }
}

impl<I: Iterator<Item: Serialize>> Serialize for Streamed<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&mut *self.0.borrow_mut())
    }
}

/// Returns the descriptors of all attachments, each once: first those with a tag, by full name,
/// then those without, by digest.
///
/// An attachment that the user requested by its name is an image, and therefore omitted here.
fn attachments(trees: &[&ImageTree], with_annotations: bool) -> impl Iterator<Item = Value> {
    let names: HashSet<String> = trees.iter().map(|tree| name_in_bundle(&tree.source)).collect();
    let mut tagged = BTreeMap::new();
    let mut others = BTreeMap::new();
    for (tree, attachment) in trees
        .iter()
        .flat_map(|tree| tree.attachments.iter().map(move |a| (tree, a)))
    {
        let root = &attachment.variant.root;
        match attachment.tag().map(|tag| format!("{}:{tag}", tree.source.name())) {
            Some(name) if names.contains(&name) => {}
            Some(name) => {
                tagged.entry(name.clone()).or_insert_with(|| {
                    json!({
                        "mediaType": root.media_type(),
                        "digest": root.digest().to_string(),
                        "size": root.descriptor().size,
                        "annotations": { REF_NAME: name },
                    })
                });
            }
            None => {
                let key = (root.digest(), &attachment.subject);
                others
                    .entry(key)
                    .or_insert_with(|| Value::Object(layout_entry(root, &attachment.subject, with_annotations)));
            }
        }
    }
    tagged.into_values().chain(others.into_values())
}

/// Returns the platform of a single-manifest image, as its config states it.
fn single_platform(tree: &ImageTree, root: &RawManifest) -> Option<Value> {
    let View::Image(image) = root.view() else { return None };
    let config = tree.configs.get(&image.config.digest)?;
    let config = crate::image::config::Config::parse(config).ok()?;
    let mut platform = Map::new();
    platform.insert("architecture".into(), config.platform.architecture.into());
    platform.insert("os".into(), config.platform.os.into());
    if let Some(variant) = config.platform.variant {
        platform.insert("variant".into(), variant.into());
    }
    Some(Value::Object(platform))
}

/// Builds `manifest.json`, which `docker load` and `podman load` read:
/// one platform per name, preferably linux/amd64.
///
/// Returns `None` if the file can hold none of the images, and an error text if the file would be too large for its readers.
pub(super) fn manifest_json(trees: &[&ImageTree]) -> Result<Option<Result<Document, String>>> {
    let items: Vec<_> = trees
        .iter()
        .filter_map(|tree| Some((tree, listed_for_docker(tree, &tree.source)?)))
        .collect();
    if items.is_empty() {
        return Ok(None);
    }
    let listed = items.iter().map(|(tree, (tag, image))| {
        json!({
            "Config": blob_path(&image.config.digest),
            "RepoTags": [format!("{}:{tag}", tree.source.name())],
            "Layers": image.layers.iter().map(|l| blob_path(&l.digest)).collect::<Vec<_>>(),
        })
    });
    let listed = Streamed::new(listed);
    let document = Document::new("manifest.json", |text| text.add_json(&listed))?;
    Ok(Some(if document.size < MAX_DOCKER_MANIFEST {
        Ok(document)
    } else {
        Err(format!(
            "the bundle has no `manifest.json`, which older versions of `docker load` need: with {} images it would have \
             {} bytes, and its readers accept {} at most; export fewer images into each of several bundles",
            items.len(),
            document.size,
            MAX_DOCKER_MANIFEST - 1
        ))
    }))
}

/// What `manifest.json` of a bundle says about an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DockerItem {
    pub(super) tag: String,
    pub(super) config: String,
    pub(super) layers: Vec<String>,
}

/// Returns the item of `manifest.json` for an image of this name; `None` for an image that `docker load` cannot load.
pub(super) fn docker_item(tree: &ImageTree, name: &Reference) -> Option<DockerItem> {
    let (tag, image) = listed_for_docker(tree, name)?;
    Some(DockerItem {
        tag: format!("{}:{tag}", name.name()),
        config: blob_path(&image.config.digest),
        layers: image.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
    })
}

/// Returns the tag and the image under which `manifest.json` lists a tree of this name, if it does.
fn listed_for_docker<'a>(tree: &'a ImageTree, name: &'a Reference) -> Option<(&'a str, &'a Image)> {
    // `docker load` needs a tag and all layers: an image without either is left to the OCI layout.
    let (tag, image) = (name.tag()?, image_for_docker(tree)?);
    let absent = |digest: &Digest| tree.left_out.iter().any(|l| l.digest == *digest);
    (!image.layers.iter().any(|layer| absent(&layer.digest))).then_some((tag, image))
}

/// Returns the image of a tree that `manifest.json` lists: linux/amd64 first, then any linux
/// platform, then an unknown one.
fn image_for_docker(tree: &ImageTree) -> Option<&Image> {
    let mut images = tree.kept.iter().filter(|record| record.platform.starts_with("linux/"));
    let first = images.clone().next();
    let variant = images
        .clone()
        .find(|record| record.platform.starts_with("linux/amd64/"));
    let chosen = images
        .find(|record| record.platform == "linux/amd64")
        .or(variant)
        .or(first)
        .or(only_unknown_platform(tree))?;
    let manifest = tree.original.all().find(|m| *m.digest() == chosen.digest)?;
    match manifest.view() {
        View::Image(image) if media_type::is_image_config(&image.config.media_type) => Some(image).filter(|image| {
            chosen.platform != UNKNOWN || image.layers.iter().all(|layer| media_type::is_layer(&layer.media_type))
        }),
        _ => None,
    }
}

/// Returns the only image of a tree, if its platform is unknown.
///
/// Programs that build images from scratch leave the operating system empty.
fn only_unknown_platform(tree: &ImageTree) -> Option<&PlatformRecord> {
    let mut images = tree.kept.iter().filter(|record| record.platform != ATTESTATION);
    let only = images.next().filter(|record| record.platform == UNKNOWN)?;
    images.next().is_none().then_some(only)
}

/// Passes the blob members at the start of a bundle to `each`,
/// one at a time, so that only one is in memory.
///
/// Reading stops at the first unreadable member, and skips members larger than `cap` bytes. Digests are not checked here.
pub(crate) fn blobs_in(front: impl Read, cap: u64, mut each: impl FnMut(Digest, Bytes)) {
    let mut archive = tar::Archive::new(front);
    let Ok(entries) = archive.entries() else { return };
    // Raw entries keep a long name out of memory, whatever its length.
    // Manifests with a digest other than sha256 have long names.
    let mut long_name = None;
    for entry in entries.raw(true).map_while(|entry| entry.ok()) {
        let mut entry = entry;
        let kind = entry.header().entry_type();
        let size = entry.size();
        if kind == tar::EntryType::GNULongName && size < 1024 {
            let mut name = Vec::new();
            long_name = entry.read_to_end(&mut name).ok().map(|_| name);
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        if size > cap {
            continue;
        }
        let Some(digest) = digest_of(name.split(|byte| *byte == 0).next().unwrap_or_default()) else {
            continue;
        };
        let mut content = Vec::new();
        if entry.read_to_end(&mut content).is_err() || content.len() as u64 != size {
            return;
        }
        each(digest, content.into());
    }
}

fn digest_of(name: &[u8]) -> Option<Digest> {
    let (algorithm, hex) = std::str::from_utf8(name)
        .ok()?
        .strip_prefix("blobs/")?
        .split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::{Attachment, Lookup, Variant};

    /// A tree with this many attachments of one manifest, whose annotation has `length` bytes.
    fn tree(attachments: usize, length: usize) -> ImageTree {
        let digest = Digest::sha256(b"{}");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"a/b","digest":"{digest}","size":2}},"layers":[],"annotations":{{"a":"{}"}}}}"#,
            media_type::OCI_MANIFEST,
            "x".repeat(length)
        );
        let root = std::sync::Arc::new(RawManifest::new(text.into_bytes().into(), None, None).unwrap());
        let variant = Variant::new(root, Vec::new());
        let mut tree = ImageTree::new("example.com/a:1".parse().unwrap(), variant.clone());
        let all = (0..attachments).map(|number| Attachment {
            variant: variant.clone(),
            subject: Digest::sha256(&number.to_be_bytes()),
            lookup: Lookup::Subject,
        });
        tree.attachments = all.collect();
        tree
    }

    #[test]
    fn the_index_stays_within_what_its_readers_accept() {
        let index = |tree: &ImageTree| index_json(&[tree]);
        let text = |tree: &ImageTree| std::io::read_to_string(index(tree).unwrap().text()).unwrap();
        assert!(text(&tree(2, 9)).contains(r#""a": "xxxxxxxxx""#));
        // Too large with the annotations of referrers, and so without these.
        let without = text(&tree(1100, 16_000));
        assert!(without.len() < 1 << 20 && !without.contains("xx"));
        index(&tree(MAX_ENTRIES - 1, 0)).unwrap();
        assert_eq!(index(&tree(MAX_ENTRIES, 0)).unwrap_err().kind(), Kind::TooLarge);
    }
}
