//! Faults of what the tar holds: blobs, manifests, configs, names, `manifest.json`.

use docker_mirror::image::digest::Digest;
use docker_mirror::image::media_type::{
    DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use serde_json::{Value, json};

use crate::Expect::{Blob, Fine, Open, Tree, Warning};
use crate::archives::{Layout, Tar, descriptor, path, two_platforms};
use crate::{
    Case, big_index, config, docker, first_blob, flip, good, is_layer, is_manifest, manifest, nested, nothing,
    raw_manifest, swapped, with_member,
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        (
            "r10 layer with other bytes",
            || swapped(is_layer, flip),
            Blob(&["bundle.tar", "blobs/sha256/", "offset", "hash to"]),
        ),
        (
            "r10 manifest with other bytes",
            || swapped(is_manifest, flip),
            Tree(&["bundle.tar", "blobs/sha256/", "offset", "other bytes"]),
        ),
        (
            "r10 config with other bytes",
            || swapped(|b| b.windows(8).any(|w| w == b"diff_ids"), flip),
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
            "r16 deep JSON in a field that nobody reads",
            || {
                let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
                raw_manifest(OCI_INDEX, format!(r#"{{"manifests":[],"x":{deep}}}"#).as_bytes())
            },
            Fine,
        ),
        (
            "r16 deep JSON",
            || {
                let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
                raw_manifest(OCI_INDEX, format!(r#"{{"manifests":{deep}}}"#).as_bytes())
            },
            Tree(&["`manifests` is wrong"]),
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
        ("r19 hundred deep", || nested(100, 1), Tree(&["more than 8 deep"])),
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
            "r27 one name, two digests",
            || {
                let mut l = Layout::default();
                let a = l.image("amd64", b"a", true);
                let b = l.image("amd64", b"b", true);
                l.name(a, "quay.io/test/one:1");
                l.name(b, "quay.io/test/one:1");
                l.tar().end()
            },
            Open(&["two images are called `quay.io/test/one:1`"]),
        ),
        (
            "r27 one name, one digest",
            || {
                let mut l = good();
                l.entries.push(l.entries[0].clone());
                l.tar().end()
            },
            Fine,
        ),
        (
            "r29 upper case name",
            || {
                let mut l = good();
                l.entries[0]["annotations"]["org.opencontainers.image.ref.name"] = json!("quay.io/TEST/x:1");
                l.tar().end()
            },
            Open(&["no usable name", "lower-case", "--name"]),
        ),
        (
            "r29 escape codes",
            || {
                let mut l = good();
                l.entries[0]["annotations"]["org.opencontainers.image.ref.name"] = json!("quay.io/\u{1b}[2Jx");
                l.tar().end()
            },
            Open(&["\\u{1b}"]),
        ),
        (
            "r29 tag too long",
            || {
                let mut l = good();
                l.entries[0]["annotations"]["org.opencontainers.image.ref.name"] =
                    json!(format!("quay.io/a/b:{}", "t".repeat(129)));
                l.tar().end()
            },
            Open(&["no usable name"]),
        ),
        (
            "r30 no oci-layout",
            || {
                let mut l = good();
                l.files.clear();
                l.tar().end()
            },
            Open(&["neither `oci-layout` nor `manifest.json`"]),
        ),
        (
            "r30 layout 2.0.0",
            || {
                let mut l = good();
                l.files[0].1 = br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec();
                l.tar().end()
            },
            Open(&["unknown layout version `2.0.0`"]),
        ),
        (
            "r30 layout is no JSON",
            || {
                let mut l = good();
                l.files[0].1 = b"1.0.0".to_vec();
                l.tar().end()
            },
            Open(&["`oci-layout`", "no such JSON"]),
        ),
        (
            "r30 manifest.json instead",
            || {
                docker(
                    |_, _| (),
                    |t| t.file("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#),
                )
            },
            Warning("unknown layout version"),
        ),
        (
            "r30 no index.json",
            || {
                Tar::default()
                    .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
                    .end()
            },
            Open(&["has no `index.json`"]),
        ),
        (
            "r30 empty index.json",
            || {
                let mut l = good();
                l.entries.clear();
                l.tar().end()
            },
            Open(&["holds no image"]),
        ),
        (
            "r31 null",
            || docker(|items, _| *items = json!(null), nothing),
            Open(&["manifest.json", "docker save"]),
        ),
        (
            "r31 no items",
            || docker(|items, _| *items = json!([]), nothing),
            Open(&["holds no image"]),
        ),
        (
            "r31 config elsewhere",
            || docker(|items, _| items[0]["Config"] = json!("a/layer.tar"), nothing),
            Open(&["manifest.json", "image config"]),
        ),
        (
            "r31 config missing",
            || docker(|items, _| items[0]["Config"] = json!("b.json"), nothing),
            Open(&["`b.json` is not in the archive"]),
        ),
        (
            "r31 config outside",
            || docker(|items, _| items[0]["Config"] = json!("../x"), nothing),
            Open(&["leads out"]),
        ),
        (
            "r31 layer missing",
            || docker(|items, _| items[0]["Layers"][0] = json!("b.tar"), nothing),
            Open(&["`b.tar` is not in the archive"]),
        ),
        (
            "r31 more layers than the config",
            || {
                docker(
                    |items, _| items[0]["Layers"] = json!(["a/layer.tar", "a/layer.tar"]),
                    nothing,
                )
            },
            Open(&["names 2 layers, its config 1"]),
        ),
        (
            "r31 no layers",
            || docker(|items, _| items[0]["Layers"] = json!(null), nothing),
            Open(&["names 0 layers, its config 1"]),
        ),
        (
            "r31 layer reused",
            || {
                docker(
                    |items, c| {
                        items[0]["Layers"] = json!(["a/layer.tar", "a/layer.tar"]);
                        let other = json!(Digest::sha256(b"other").to_string());
                        c["rootfs"]["diff_ids"].as_array_mut().unwrap().push(other);
                    },
                    nothing,
                )
            },
            Open(&["the config says"]),
        ),
        (
            "r32 other diff_id",
            || {
                docker(
                    |_, c| c["rootfs"]["diff_ids"][0] = json!(Digest::sha256(b"other").to_string()),
                    nothing,
                )
            },
            Open(&["the layer's content hashes to", "the config says"]),
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
        (
            "newer record",
            || {
                let mut l = good();
                l.files.push((
                    "docker-mirror.json".into(),
                    br#"{"formatVersion":2,"other":1}"#.to_vec(),
                ));
                l.tar().end()
            },
            Open(&["written by a newer version", "update"]),
        ),
        (
            "record is no JSON",
            || {
                let mut l = good();
                l.files.push(("docker-mirror.json".into(), b"{".to_vec()));
                l.tar().end()
            },
            Open(&["docker-mirror.json"]),
        ),
        (
            "record of another digest",
            || {
                let mut l = good();
                let r = json!({"formatVersion": 1, "images": [{"reference": "quay.io/test/one:1", "index": "whole",
            "original": Digest::sha256(b"other").to_string(), "kept": []}]});
                l.files
                    .push(("docker-mirror.json".into(), serde_json::to_vec(&r).unwrap()));
                l.tar().end()
            },
            Open(&["was edited"]),
        ),
    ]
}
