//! Archives in which the layout stands in a folder.

use docker_mirror::Kind;
use serde_json::json;

use crate::archives::*;

/// The members of a tar, each in a folder.
fn moved(tar: &[u8], folder: &str) -> Tar {
    let mut archive = tar::Archive::new(tar);
    archive.entries().unwrap().fold(Tar::default(), |to, entry| {
        let mut entry = entry.unwrap();
        let name = format!("{folder}/{}", entry.path().unwrap().display());
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        to.file(&name, &bytes)
    })
}

fn docker_archive() -> Vec<u8> {
    let layer = Tar::default().file("x", b"x").end();
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [docker_mirror::Digest::sha256(&layer).to_string()]}});
    let items = json!([{"Config": "config.json", "RepoTags": ["quay.io/test/one:1"], "Layers": ["a/layer.tar"]}]);
    Tar::default()
        .file("config.json", config.to_string().as_bytes())
        .file("a/layer.tar", &layer)
        .file("manifest.json", items.to_string().as_bytes())
        .end()
}

#[test]
fn one_folder_around_the_layout_makes_no_difference() {
    for plain in [
        two_platforms().0.tar().end(),
        docker_archive(),
        as_ours(|| single("quay.io/a/b:1", "x").tar().end()),
    ] {
        let expected = whole(open_bytes(&plain));
        for folder in ["layout", "./layout", "out/images", "a/b/c"] {
            each_way(&moved(&plain, folder).end(), None, |way, bundle| {
                assert_eq!(whole(bundle), expected, "{folder} {way}");
            });
        }
    }
}

#[test]
fn other_files_around_the_folder_are_ignored_and_told() {
    let tar = moved(&two_platforms().0.tar().end(), "images").file("zarf.yaml", b"kind: Package\n");
    let tar = tar
        .file("files/manifest.json", b"{\"name\":\"web\"}")
        .file("files/x.tar", b"x")
        .end();
    let bundle = open_bytes(&tar).unwrap();
    let warnings = bundle.warnings().join("; ");
    assert!(warnings.contains("no part of an image and ignored"), "{warnings}");
    assert_eq!(whole(Ok(bundle)).len(), 1);
}

#[test]
fn a_blob_that_is_wrong_is_named_with_its_folder() {
    let mut layout = single("quay.io/a/b:1", "x");
    let (digest, bytes) = layout
        .blobs
        .iter_mut()
        .find(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b]))
        .unwrap();
    bytes[20] ^= 1;
    let name = format!("layout/{}", path(digest));
    let bundle = open_bytes(&moved(&layout.tar().end(), "layout").end()).unwrap();
    let error = text(&check(&bundle).unwrap_err());
    assert!(error.contains(&name), "{error}");
}

#[test]
fn two_folders_with_layouts_are_named() {
    let layout = two_platforms().0.tar().end();
    let tar = [moved(&layout, "a").0, moved(&layout, "b").end()].concat();
    let error = open_bytes(&tar).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    let said = text(&error);
    assert!(
        said.contains("several folders in it do: `a`, `b`") && said.contains("tar -xf"),
        "{said}"
    );
}

#[test]
fn what_an_archive_holds_instead_is_named() {
    let inner = two_platforms().0.tar().end();
    let config = format!("docker/registry/v2/blobs/sha256/aa/{}/data", "a".repeat(64));
    for (tar, says) in [
        (
            Tar::default().file("out/inner.tar", &inner).file("x", b"x"),
            "it holds `out/inner.tar`",
        ),
        (Tar::default().file(&config, b"{}"), "start a registry on them"),
        (
            Tar::default().file(&format!("var/lib/{config}"), b"{}"),
            "start a registry on them",
        ),
        (Tar::default(), "nor any other file"),
        (
            Tar::default().file("app/manifest.json", b"[{\"name\":1}]"),
            "not an image archive",
        ),
        (Tar::default().file("app/manifest.json", b"[]"), "not an image archive"),
    ] {
        let said = text(&open_bytes(&tar.end()).unwrap_err());
        assert!(said.contains(says), "{said}");
    }
}
