//! Faults of what the tar holds: blobs, manifests, configs.

use docker_mirror::testing::media_type::{
    DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use serde_json::{Value, json};

use super::Expect::{Blob, Fine, Tree, Warning};
use super::{
    Case, big_index, config, first_blob, flip, good, is_layer, is_manifest, manifest, nested, raw_manifest, swapped,
    with_member,
};
use crate::archives::{Layout, descriptor, path, two_platforms};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        (
            "r10 layer with other bytes",
            || swapped(is_layer, |b| flip(b)),
            Blob(&["bundle.tar", "blobs/sha256/", "offset", "hash to"]),
        ),
        (
            "r10 manifest with other bytes",
            || swapped(is_manifest, |b| flip(b)),
            Tree(&["bundle.tar", "blobs/sha256/", "offset", "other bytes"]),
        ),
        (
            "r10 config with other bytes",
            || swapped(|b| b.windows(8).any(|w| w == b"diff_ids"), |b| flip(b)),
            Tree(&["blobs/sha256/", "offset", "other bytes"]),
        ),
        (
            "r11 upper case",
            || {
                let mut l = good();
                let d = first_blob(&l, is_layer);
                let b = l.blobs.remove(&d).unwrap();
                l.tar()
                    .file(&path(&d).to_uppercase().replace("BLOBS/SHA256", "blobs/sha256"), &b)
                    .end()
            },
            Tree(&["1 blob is missing"]),
        ),
        (
            "r11 strange blobs",
            || {
                with_member(|t| {
                    t.file("blobs/sha256/abc", b"x")
                        .file("blobs/md5/d41d8cd98f00b204e9800998ecf8427e", b"x")
                        .file("blobs/sha256/a/b", b"x")
                })
            },
            Warning("and 2 more"),
        ),
        (
            "r12 blob too long",
            || swapped(is_layer, |b| b.push(0)),
            Tree(&["bytes, where", "are stated"]),
        ),
        (
            "r12 blob too short",
            || {
                swapped(is_layer, |b| {
                    b.pop();
                })
            },
            Tree(&["bytes, where", "are stated"]),
        ),
        (
            "r12 manifest too long",
            || swapped(is_manifest, |b| b.push(b' ')),
            Tree(&["bytes, where", "are stated"]),
        ),
        (
            "r13 negative size",
            || manifest(|m| m["layers"][0]["size"] = json!(-1)),
            Tree(&["`layers` is wrong"]),
        ),
        (
            "r13 no size",
            || {
                manifest(|m| {
                    m["layers"][0].as_object_mut().unwrap().remove("size");
                })
            },
            Tree(&["`layers` is wrong"]),
        ),
        (
            "r13 huge size",
            || manifest(|m| m["layers"][0]["size"] = json!(1_u64 << 63)),
            Tree(&["impossible size"]),
        ),
        (
            "r13 sum overflows",
            || {
                manifest(|m| {
                    for i in 0..3 {
                        let mut layer = descriptor(OCI_LAYER, &[i]);
                        layer["size"] = json!(i64::MAX);
                        m["layers"].as_array_mut().unwrap().push(layer);
                    }
                })
            },
            Tree(&["missing"]),
        ),
        (
            "r14 all that is missing",
            || {
                let mut l = good();
                l.blobs.retain(|_, b| is_manifest(b));
                l.tar().end()
            },
            Tree(&["2 blobs are missing: sha256:", ", sha256:", "copy it again"]),
        ),
        (
            "r14 child missing",
            || {
                let (mut l, _) = two_platforms();
                let d = first_blob(&l, is_manifest);
                l.blobs.remove(&d);
                l.tar().end()
            },
            Tree(&["1 blob is missing"]),
        ),
        (
            "r14 root missing",
            || {
                let mut l = good();
                let d = first_blob(&l, is_manifest);
                l.blobs.remove(&d);
                l.tar().end()
            },
            Tree(&["1 blob is missing"]),
        ),
        (
            "r14 cut off at a member",
            || {
                let (l, _) = two_platforms();
                let mut l2 = l.clone();
                l2.entries[0]["annotations"]["io.containerd.image.name"] = json!("quay.io/test/two:1");
                let d = first_blob(&l, is_manifest);
                l2.blobs.remove(&d);
                l2.tar().0
            },
            Tree(&["1 blob is missing"]),
        ),
        (
            "r15 config is no JSON",
            || config(b"not JSON"),
            Tree(&["image config", "blobs/sha256/"]),
        ),
        (
            "r15 config too large",
            || config(&vec![b' '; (4 << 20) + 1]),
            Tree(&["at most 4194304"]),
        ),
        ("r15 config without os", || config(b"{}"), Fine),
        (
            "r16 manifest too large",
            || raw_manifest(OCI_MANIFEST, &vec![b' '; (16 << 20) + 1]),
            Tree(&["at most 16777216"]),
        ),
        (
            "r16 too many entries",
            || raw_manifest(OCI_INDEX, &big_index(10_001)),
            Tree(&["at most 10000"]),
        ),
        (
            "r16 deep JSON",
            || {
                let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
                raw_manifest(OCI_INDEX, format!(r#"{{"manifests":{deep}}}"#).as_bytes())
            },
            Tree(&["recursion limit"]),
        ),
        (
            "r16 key twice",
            || raw_manifest(OCI_INDEX, br#"{"manifests":[],"manifests":[]}"#),
            Tree(&["manifest sha256:"]),
        ),
        (
            "r16 BOM",
            || raw_manifest(OCI_INDEX, b"\xef\xbb\xbf{\"manifests\":[]}"),
            Tree(&["not a JSON object"]),
        ),
        (
            "r16 NaN",
            || raw_manifest(OCI_INDEX, br#"{"manifests":[],"x":NaN}"#),
            Tree(&["not a JSON object"]),
        ),
        (
            "r16 not UTF-8",
            || raw_manifest(OCI_INDEX, b"{\"manifests\":[],\"x\":\"\xff\"}"),
            Tree(&["not UTF-8"]),
        ),
        (
            "r17 index that is an image",
            || raw_manifest(OCI_INDEX, br#"{"schemaVersion":2,"config":{},"layers":[]}"#),
            Tree(&["fields of an image"]),
        ),
        (
            "r17 image that is an index",
            || raw_manifest(OCI_MANIFEST, br#"{"manifests":[]}"#),
            Tree(&["no config and layers"]),
        ),
        (
            "r17 both",
            || manifest(|m| m["manifests"] = json!([])),
            Tree(&["both `manifests` and"]),
        ),
        (
            "r17 other type inside",
            || manifest(|m| m["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json")),
            Fine,
        ),
        (
            "r17 another kind inside",
            || {
                raw_manifest(OCI_INDEX, br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}"#)
            },
            Tree(&["announced as"]),
        ),
        (
            "r18 unknown child",
            || {
                let mut l = Layout::default();
                let a = l.image("amd64", b"x", true);
                let unknown = l.document("application/vnd.example.thing+json", &json!({"thing": 1}));
                let i = l.index(&[a, unknown]);
                l.name(i, "quay.io/test/one:1");
                l.tar().end()
            },
            Fine,
        ),
        ("r19 eight deep", || nested(8, 1), Fine),
        ("r19 hundred deep", || nested(100, 1), Tree(&["deeper than 8 levels"])),
        ("r19 wide and deep", || nested(8, 100), Fine),
        (
            "r22 md5",
            || manifest(|m| m["layers"][0]["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
            Tree(&["`layers` is wrong"]),
        ),
        (
            "r22 short digest",
            || manifest(|m| m["layers"][0]["digest"] = json!("sha256:abc")),
            Tree(&["`layers` is wrong"]),
        ),
        (
            "r23 wrong data field",
            || manifest(|m| m["config"]["data"] = json!("d3Jvbmc=")),
            Fine,
        ),
        (
            "r33 schema 1",
            || {
                raw_manifest(
                    "application/vnd.docker.distribution.manifest.v1+prettyjws",
                    br#"{"schemaVersion":1,"fsLayers":[]}"#,
                )
            },
            Tree(&["schema 1"]),
        ),
        (
            "r33 chart",
            || {
                let mut l = Layout::default();
                let c = l.document("application/vnd.cncf.helm.config.v1+json", &json!({"name": "x"}));
                let layer = descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart");
                l.blob(&b"chart"[..]);
                let m = l.document(
                    OCI_MANIFEST,
                    &json!({"schemaVersion": 2, "config": c, "layers": [layer]}),
                );
                l.name(m, "quay.io/test/chart:1");
                l.tar().end()
            },
            Fine,
        ),
        (
            "r34 opaque layers",
            || {
                let mut l = Layout::default();
                let c = l.document(OCI_CONFIG, &json!({"os": "linux", "architecture": "amd64"}));
                let layers: Vec<Value> = [
                    OCI_LAYER_ZSTD,
                    "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                    DOCKER_LAYER_GZIP,
                ]
                .iter()
                .enumerate()
                .map(|(i, t)| {
                    let b = format!("not what it says {i}");
                    l.blob(b.as_bytes());
                    descriptor(t, b.as_bytes())
                })
                .collect();
                let m = l.document(
                    OCI_MANIFEST,
                    &json!({"schemaVersion": 2, "config": c, "layers": layers}),
                );
                l.name(m, "quay.io/test/one:1");
                l.tar().end()
            },
            Fine,
        ),
    ]
}
