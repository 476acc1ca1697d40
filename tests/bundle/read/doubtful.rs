//! Parts of one archive that contradict or confirm each other: names, records, and blobs of the same digest.

use docker_mirror::{Bundle, Digest, Kind};
use serde_json::json;

use crate::archives::*;

/// Returns a docker-archive of one image, and the digests of its config and of its layer.
fn docker_archive() -> (Vec<u8>, [Digest; 2], [usize; 2]) {
    let layer = Tar::default().file("x", b"x").end();
    let diff_id = Digest::sha256(&layer);
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]}});
    let config = config.to_string().into_bytes();
    let items = json!([{"Config": "c.json", "RepoTags": ["quay.io/a/docker:1"], "Layers": ["l.tar"]}]);
    let tar = Tar::default()
        .file("c.json", &config)
        .file("l.tar", &layer)
        .file("manifest.json", items.to_string().as_bytes())
        .end();
    (tar, [Digest::sha256(&config), diff_id], [config.len(), layer.len()])
}

#[test]
fn a_wrong_blob_in_one_bundle_does_no_harm_to_another() {
    let (docker, digests, sizes) = docker_archive();
    let folder = tempfile::tempdir().unwrap();
    for (digest, size) in digests.iter().zip(sizes) {
        for length in [size, 3] {
            let mut tar = single("quay.io/a/other:1", "other").tar();
            tar = tar.file(&path(digest), &vec![b'{'; length]);
            let paths = ["a.tar", "b.tar"].map(|name| folder.path().join(name));
            for paths in [paths.clone(), [paths[1].clone(), paths[0].clone()]] {
                std::fs::write(&paths[0], tar.clone().end()).unwrap();
                std::fs::write(&paths[1], &docker).unwrap();
                let bundle = Bundle::open(&paths, &options(None));
                assert_eq!(whole(bundle).len(), 2, "{digest} {length}");
            }
        }
    }
}

#[test]
fn a_bare_digest_in_place_of_a_name_is_that_of_the_image() {
    for key in ["org.opencontainers.image.ref.name", "io.containerd.image.name"] {
        let mut layout = Layout::default();
        let (image, other) = (
            layout.image("amd64", b"image", true),
            layout.image("amd64", b"other", true),
        );
        for (stated, is_right) in [(&image, true), (&other, false)] {
            let mut layout = layout.clone();
            layout.entries = vec![with(image.clone(), json!({"annotations": {key: stated["digest"]}}))];
            each_way(&layout.tar().end(), Some("quay.io/a/b:1"), |way, bundle| match bundle {
                Ok(bundle) => assert_eq!((whole(Ok(bundle)).len(), is_right), (1, true), "{way} {key}"),
                Err(error) => {
                    assert!(!is_right, "{way} {key}: {}", text(&error));
                    assert_eq!(error.kind(), Kind::Integrity, "{way} {key}");
                    assert!(text(&error).contains("but its digest is"), "{}", text(&error));
                }
            });
        }
    }
}

#[test]
fn an_image_that_only_the_record_lists_fails_by_itself() {
    let mut layout = single("quay.io/a/b:1", "x");
    let digest = digest(&layout.entries[0]).to_string();
    let image = |name: &str| {
        json!({"reference": name, "index": "whole", "original": digest,
            "kept": [{"platform": "linux/amd64", "digest": digest}]})
    };
    let lost = Digest::sha256(b"lost").to_string();
    let mut second = image("quay.io/a/lost:1");
    second["original"] = json!(lost);
    let record = json!({"formatVersion": 1, "images": [image("quay.io/a/b:1"), second]});
    layout
        .files
        .push(("docker-mirror.json".into(), record.to_string().into_bytes()));
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    assert_eq!(bundle.images().len(), 1);
    assert_eq!(bundle.broken()[0].label, "quay.io/a/lost:1");
    assert!(text(&bundle.broken()[0].error).contains("`index.json` does not"));
}
