//! Images that are unusual as a whole: their platforms, their size, their names at the destination, their kind of
//! content.

use docker_mirror::{
    Digest,
    testing::media_type::{DOCKER_MANIFEST, OCI_INDEX, OCI_LAYER, OCI_MANIFEST},
};
use serde_json::{Value, json};

use super::Expect::{Fine, Refused, Tree};
use super::{Case, manifest};
use crate::archives::{Layout, descriptor, with};

/// An index of images that state these platforms.
fn platforms(platforms: &[Value]) -> Vec<u8> {
    let mut layout = Layout::default();
    let entries: Vec<Value> = platforms
        .iter()
        .map(|platform| {
            let content = platform.to_string();
            with(
                layout.image("amd64", content.as_bytes(), true),
                json!({"platform": platform}),
            )
        })
        .collect();
    let index = layout.index(&entries);
    layout.name(index, "quay.io/test/one:1");
    layout.tar().end()
}

/// Indexes of so many things each.
fn indexes(sizes: &[usize]) -> Vec<u8> {
    let mut layout = Layout::default();
    let mut parts = Vec::new();
    for (n, size) in sizes.iter().enumerate() {
        let things: Vec<Value> = (0..*size)
            .map(|i| layout.document("application/vnd.example.thing+json", &json!({"n": [n, i]})))
            .map(|thing| with(thing, json!({"platform": {"os": "linux", "architecture": "amd64"}})))
            .collect();
        parts.push(layout.index(&things));
    }
    let index = layout.index(&parts);
    layout.name(index, "quay.io/test/one:1");
    layout.tar().end()
}

/// An index with a field that nests so deep and that nobody reads.
pub(crate) fn deep_json(depth: usize) -> Vec<u8> {
    let mut layout = Layout::default();
    let image = layout.image("amd64", b"x", true);
    let deep = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{image}],"x":{deep}}}"#);
    layout.blob(text.as_bytes());
    layout.name(descriptor(OCI_INDEX, text.as_bytes()), "quay.io/test/one:1");
    layout.tar().end()
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        ("r16 deep JSON in a field that nobody reads", || deep_json(100), Fine),
        (
            "r19 too many manifests",
            || indexes(&[6000, 6000]),
            Tree(&["more than 10000 manifests"]),
        ),
        ("r20 empty index", || platforms(&[]), Fine),
        (
            "r21 platforms in every spelling",
            || {
                platforms(&[
                    json!({"os": "LINUX", "architecture": "AMD64"}),
                    json!({"os": "Linux"}),
                    json!({"os": "unknown", "architecture": "unknown"}),
                    json!({"os": "linux", "architecture": "arm64", "os.features": [1, null, {"a": []}], "features": {}}),
                    json!({}),
                ])
            },
            Fine,
        ),
        (
            "r21 platform that is none",
            || platforms(&[json!({"os": 7, "architecture": []})]),
            Tree(&["`manifests` is wrong"]),
        ),
        (
            "r23 huge data field",
            || manifest(|m| m["config"]["data"] = json!("A".repeat(1 << 20))),
            Fine,
        ),
        (
            "r28 two names that meet",
            || {
                let mut layout = Layout::default();
                let (a, b) = (layout.image("amd64", b"a", true), layout.image("amd64", b"b", true));
                layout.name(a, "quay.io/test/one:1");
                layout.name(b, "ghcr.io/test/one:1");
                layout.tar().end()
            },
            Refused(&["`quay.io/test/one:1`", "`ghcr.io/test/one:1`"]),
        ),
        (
            "r33 plugin",
            || {
                let mut layout = Layout::default();
                let config = layout.document("application/vnd.docker.plugin.v1+json", &json!({"interface": {}}));
                let layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", b"rootfs");
                layout.blob(&b"rootfs"[..]);
                let plugin = layout.document(
                    DOCKER_MANIFEST,
                    &json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer]}),
                );
                layout.name(plugin, "docker.io/test/plugin:1");
                layout.tar().end()
            },
            Fine,
        ),
        (
            "r33 artifacts in an index",
            || {
                let mut layout = Layout::default();
                let config = layout.document("application/vnd.wasm.config.v0+json", &json!({"os": "wasip1"}));
                let layer = descriptor("application/wasm", b"\0asm");
                layout.blob(&b"\0asm"[..]);
                let wasm = layout.document(
                    OCI_MANIFEST,
                    &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}),
                );
                let index = layout.index(&[wasm]);
                layout.name(index, "quay.io/test/wasm:1");
                layout.tar().end()
            },
            Fine,
        ),
    ]
}

/// Returns an image whose layers state sizes that no file can have, and whose total overflows.
pub(crate) fn endless() -> Vec<u8> {
    manifest(|m| {
        for i in 0..3 {
            let mut layer = descriptor(OCI_LAYER, &[i]);
            layer["size"] = json!(i64::MAX);
            m["layers"].as_array_mut().unwrap().push(layer);
        }
    })
}

/// An image of which one layer is elsewhere, as these addresses say.
pub(crate) fn elsewhere(media_type: &str, content: &[u8], urls: &[String]) -> (Vec<u8>, Digest) {
    let layer = with(descriptor(media_type, content), json!({"urls": urls}));
    let archive = manifest(|m| m["layers"].as_array_mut().unwrap().push(layer.clone()));
    (archive, Digest::sha256(content))
}
