//! Faults of the documents that list images: `index.json`, `oci-layout`, `manifest.json`, `docker-mirror.json`.

use docker_mirror::Digest;
use serde_json::json;

use super::Expect::{Fine, Open, Warning};
use super::{Case, docker, good, nothing};
use crate::archives::{Layout, Tar};

pub(crate) fn cases() -> Vec<Case> {
    vec![
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
            Open(&["two images are called `quay.io/test/one:1`", "--name @1=REPOSITORY:TAG"]),
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
            Open(&["`oci-layout`", "not valid JSON of its kind"]),
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
            "r31 too many items",
            || docker(|items, _| *items = json!(vec![7; 10_001]), nothing),
            Open(&["manifest.json", "at most 10000 entries"]),
        ),
        (
            "r31 items that are none",
            || docker(|items, _| *items = json!(vec![7; 10_000]), nothing),
            Open(&["10000 images are not whole", "its entry 0 is no image", "and 9990 more"]),
        ),
        (
            "r31 lower case",
            || {
                docker(
                    |items, _| {
                        let item = items[0].as_object_mut().unwrap();
                        *items =
                            json!([{"config": item["Config"], "repoTags": item["RepoTags"], "layers": item["Layers"]}]);
                    },
                    nothing,
                )
            },
            Warning("no OCI manifests"),
        ),
        (
            "r31 layers twice",
            || docker(|items, _| items[0]["layers"] = json!([]), nothing),
            Open(&["manifest.json", "the field `Layers` appears twice"]),
        ),
        (
            "r31 config twice",
            || docker(|items, _| items[0]["CONFIG"] = json!("a/layer.tar"), nothing),
            Open(&["manifest.json", "the field `Config` appears twice"]),
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
