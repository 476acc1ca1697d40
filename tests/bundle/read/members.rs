//! Members of a tar that are no files: links, labels, lists of folders, and what no image archive has.

use std::io::Cursor;

use docker_mirror::{Bundle, Digest};
use serde_json::json;

use crate::archives::*;

#[test]
fn links_of_an_archive_that_lists_no_image_by_them_do_no_harm() {
    let docker = |links: fn(Tar) -> Tar| {
        let layer = Tar::default().file("hello.txt", b"x").end();
        let config = json!({"os": "linux", "architecture": "amd64", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer).to_string()]}});
        let items = json!([{"Config": "c.json", "RepoTags": ["quay.io/test/one:1"], "Layers": ["a/layer.tar"]}]);
        let tar = Tar::default()
            .file("a/VERSION", b"1.0")
            .file("a/layer.tar", &layer)
            .file("manifest.json", items.to_string().as_bytes());
        links(tar.file("config.json", config.to_string().as_bytes())).end()
    };
    let config: fn(Tar) -> Tar = |tar| tar.symlink("c.json", "config.json");
    let expected = whole(open_bytes(&docker(config)));
    assert_eq!(expected.len(), 1);
    let links: [fn(Tar) -> Tar; 3] = [
        |tar| tar.hardlink("c.json", "config.json").hardlink("b/VERSION", "a/VERSION"),
        |tar| {
            tar.symlink("c.json", "config.json")
                .symlink("b/VERSION", "../a/VERSION")
                .symlink("b/json", "nowhere")
        },
        |tar| {
            tar.hardlink("c.json", "config.json")
                .hardlink("b/layer.tar", "a/layer.tar")
                .symlink("repositories", "a/VERSION")
        },
    ];
    for link in links {
        assert_eq!(whole(open_bytes(&docker(link))), expected);
    }
    // Links of documents stay refused, also in a folder of the archive.
    let inside = |tar: Tar| {
        tar.file("x/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .symlink("x/index.json", "other.json")
    };
    let said = text(&open_bytes(&inside(Tar::default()).end()).unwrap_err());
    assert!(
        said.contains("member `x/index.json`: a link, which documents and blobs may not be"),
        "{said}"
    );
}

#[test]
fn labels_and_lists_of_folders_of_gnu_tar_are_skipped() {
    let (layout, _) = two_platforms();
    let expected = whole(open_bytes(&layout.tar().end()));
    let label = Tar::default().raw(&header(b"March", 0, b'V', b""));
    let listed = b"Ya\0Yb\0\0".repeat(100);
    let folder = |tar: Tar, name: &str| {
        tar.raw(&header(name.as_bytes(), listed.len() as u64, b'D', b""))
            .body(&listed)
    };
    let long = format!("{}/", "folder/".repeat(20));
    let incremental = folder(folder(label, "./").long_name(&long), "folder/");
    let bytes = incremental.raw(&layout.tar().0).end();
    assert_eq!(whole(open_bytes(&bytes)), expected);
    assert_eq!(whole(open_bytes(&gzip(&bytes))), expected);
    let piped = Bundle::from_pipe(Cursor::new(bytes), "pipe", &options(None));
    assert_eq!(whole(piped.map(|(bundle, _)| bundle)), expected);
    let cut = folder(Tar::default(), "./").0;
    let said = text(&open_bytes(&cut[..cut.len() - 512]).unwrap_err());
    assert!(said.contains("member `./`") && said.contains("truncated"), "{said}");
}

#[test]
fn members_that_no_image_archive_has_are_named_with_a_way_out() {
    for (kind, what) in [
        (b'3', "a device"),
        (b'6', "a named pipe"),
        (b'S', "a sparse file"),
        (b'M', "multi-volume"),
        (b'A', "unknown type"),
    ] {
        let said = text(&open_bytes(&Tar::default().raw(&header(b"dir/odd", 0, kind, b"")).end()).unwrap_err());
        for part in ["member `dir/odd`", what, "`tar -cf FILE -C FOLDER .`"] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}
