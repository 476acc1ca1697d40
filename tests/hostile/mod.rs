//! Broken or malicious archives: each has a name, a generator, and the expected result. Each test binary uses only a
//! part of this module.
#![allow(dead_code)]

pub(crate) mod content_faults;
pub(crate) mod image_faults;
pub(crate) mod listing_faults;
pub(crate) mod packed_faults;
pub(crate) mod tar_faults;

use docker_mirror::{
    Digest,
    testing::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST},
};
use serde_json::{Value, json};

use crate::archives::*;

/// What must come of an archive.
pub(crate) enum Expect {
    /// It is not opened; the message holds all of these.
    Open(&'static [&'static str]),
    /// It is opened, and a tree is refused.
    Tree(&'static [&'static str]),
    /// Trees are given out, and a blob turns out wrong when it is read.
    Blob(&'static [&'static str]),
    /// Trees are returned and the blobs are right, but the import refuses the archive before anything is sent.
    Refused(&'static [&'static str]),
    /// It is read, with a warning that holds this.
    Warning(&'static str),
    /// It is read without a word.
    Fine,
}
pub(crate) type Case = (&'static str, fn() -> Vec<u8>, Expect);

/// A good layout with one image of one platform.
pub(crate) fn good() -> Layout {
    let mut layout = Layout::default();
    let image = layout.image("amd64", b"hello\n", true);
    layout.name(image, "quay.io/test/one:1");
    layout
}

/// A good archive with something behind its last member.
pub(crate) fn with_member(add: impl Fn(Tar) -> Tar) -> Vec<u8> {
    add(good().tar()).end()
}

/// A header that is changed before its checksum is made.
pub(crate) fn patched(name: &str, size: u64, kind: u8, patch: impl Fn(&mut [u8; 512])) -> [u8; 512] {
    let mut block = header(name.as_bytes(), size, kind, b"");
    patch(&mut block);
    checksum(&mut block);
    block
}

/// Returns a layout with one image whose manifest is this document; `$config` and `$layer` stand for valid descriptors.
pub(crate) fn manifest(edit: impl Fn(&mut Value)) -> Vec<u8> {
    let mut layout = Layout::default();
    let config = layout.document(OCI_CONFIG, &json!({"os": "linux", "architecture": "amd64"}));
    let layer = Tar::default().file("x", b"x").end();
    let layer_descriptor = descriptor(OCI_LAYER, &layer);
    layout.blob(layer);
    let mut document =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer_descriptor]});
    edit(&mut document);
    let manifest = layout.document(OCI_MANIFEST, &document);
    layout.name(manifest, "quay.io/test/one:1");
    layout.tar().end()
}

/// A layout with one image whose manifest is these bytes.
pub(crate) fn raw_manifest(media_type: &str, bytes: &[u8]) -> Vec<u8> {
    let mut layout = Layout::default();
    let entry = descriptor(media_type, bytes);
    layout.blob(bytes);
    layout.name(entry, "quay.io/test/one:1");
    layout.tar().end()
}

/// The good layout with a config of these bytes.
pub(crate) fn config(bytes: &[u8]) -> Vec<u8> {
    let mut layout = Layout::default();
    layout.blob(bytes);
    let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, bytes), "layers": []});
    let entry = layout.document(OCI_MANIFEST, &document);
    layout.name(entry, "quay.io/test/one:1");
    layout.tar().end()
}

/// Returns a docker-archive of one layer; `edit` changes `manifest.json` and the config, and `links` adds members.
pub(crate) fn docker(edit: impl Fn(&mut Value, &mut Value), links: impl Fn(Tar) -> Tar) -> Vec<u8> {
    let layer = Tar::default().file("x", b"x").end();
    let mut config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer).to_string()]}});
    let mut items = json!([{"Config": "config.json", "RepoTags": ["quay.io/test/one:1"], "Layers": ["a/layer.tar"]}]);
    edit(&mut items, &mut config);
    let tar = Tar::default()
        .file("config.json", &serde_json::to_vec(&config).unwrap())
        .file("a/layer.tar", &layer);
    links(tar)
        .file("manifest.json", &serde_json::to_vec(&items).unwrap())
        .end()
}

pub(crate) fn nothing(tar: Tar) -> Tar {
    tar
}

/// Indexes in indexes.
pub(crate) fn nested(depth: usize, width: usize) -> Vec<u8> {
    let mut layout = Layout::default();
    let mut entry = layout.image("amd64", b"deep\n", true);
    for _ in 0..depth {
        let entries = vec![entry; width];
        entry = layout.index(&entries);
    }
    layout.name(entry, "quay.io/test/one:1");
    layout.tar().end()
}

pub(crate) fn first_blob(layout: &Layout, is: impl Fn(&[u8]) -> bool) -> Digest {
    layout.blobs.iter().find(|(_, bytes)| is(bytes)).unwrap().0.clone()
}

/// The good layout in which one blob's bytes are others.
pub(crate) fn swapped(is: impl Fn(&[u8]) -> bool, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut layout = good();
    let digest = first_blob(&layout, is);
    change(layout.blobs.get_mut(&digest).unwrap());
    layout.tar().end()
}

pub(crate) fn is_layer(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

pub(crate) fn is_manifest(bytes: &[u8]) -> bool {
    let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
    document["layers"].is_array()
}

pub(crate) fn flip(bytes: &mut [u8]) {
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
}

pub(crate) fn unmarked() -> Vec<u8> {
    good().tar().0
}

pub(crate) fn big_index(entries: usize) -> Vec<u8> {
    let entry = descriptor(OCI_MANIFEST, b"x");
    let list = vec![entry; entries];
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list})).unwrap()
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    let tables = [
        tar_faults::cases(),
        listing_faults::cases(),
        content_faults::cases(),
        image_faults::cases(),
        packed_faults::cases(),
    ];
    tables.into_iter().flatten().collect()
}
