//! Bundles with impossible sizes: the images with such a size fail, and the good image beside them is imported.

use serde_json::{Value, json};

use super::archives::{Layout, as_ours};
use super::identity::{cli, import};
use super::support::Double;
use docker_mirror::testing::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};

/// Where a size may stand, and how an image states it there.
const PLACES: [&str; 6] = ["config", "layer", "layers", "foreign layer", "child", "root"];

/// A good image, and one for each place that states this size there.
fn layout(size: u64) -> Vec<u8> {
    let mut layout = Layout::default();
    let good = layout.image("amd64", b"good", true);
    layout.name(good, "quay.io/test/good:1");
    for place in PLACES {
        let config = layout.document(OCI_CONFIG, &json!({"os": "linux", "architecture": "amd64", "x": place}));
        let layer = |text: &str| (format!("{place} {text}"), OCI_LAYER);
        let mut layers: Vec<Value> = ["first", "second"]
            .map(layer)
            .map(|(text, media_type)| {
                let layer = super::archives::descriptor(media_type, text.as_bytes());
                layout.blob(text);
                layer
            })
            .to_vec();
        let mut config_descriptor = config.clone();
        match place {
            "config" => config_descriptor["size"] = json!(size),
            "layer" => layers[0]["size"] = json!(size),
            "layers" => layers.iter_mut().for_each(|layer| layer["size"] = json!(size)),
            "foreign layer" => {
                layers[0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
                layers[0]["size"] = json!(size);
            }
            _ => {}
        }
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config_descriptor,
            "layers": layers});
        let mut root = layout.document(OCI_MANIFEST, &manifest);
        if place == "child" {
            root["size"] = json!(size);
            root["platform"] = json!({"os": "linux", "architecture": "amd64"});
            root = layout.index(&[root]);
        }
        if place == "root" {
            root["size"] = json!(size);
        }
        layout.name(root, &format!("quay.io/test/{}:1", place.replace(' ', "-")));
    }
    layout.tar().end()
}

#[test]
fn images_of_impossible_sizes_fail_alone_in_a_bundle() {
    let cli = cli();
    for size in [10_000_000_000_000, 1 << 60, i64::MAX as u64, u64::MAX] {
        for (written, tar) in [("foreign", layout(size)), ("ours", as_ours(|| layout(size)))] {
            for (way, more) in [
                ("file", &["--dry-run"][..]),
                ("file", &[]),
                ("compressed", &[]),
                ("pipe", &["--dry-run"]),
                ("pipe", &[]),
            ] {
                let registry = Double::new();
                let said = import(&cli, way, &tar, &registry, more).expect_code(5);
                let case = format!("{size}, {written}, {way} {more:?}: {}", said.stderr);
                assert!(said.stderr.contains("6 of 7 images failed"), "{case}");
                let arrived = registry.manifest("test/good", "1").is_some();
                assert_eq!(arrived, more.is_empty(), "{case}");
            }
        }
    }
}
