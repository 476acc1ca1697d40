//! Layout folders with links: links inside the folder are followed, and links that lead out of it are reported.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use docker_mirror::Kind;

use crate::archives::*;

/// A layout with two images in the folder `layout` of a folder.
fn unpacked() -> (tempfile::TempDir, PathBuf, Layout) {
    let mut layout = single("quay.io/test/one:1", "one");
    let second = layout.image("arm64", b"two", false);
    layout.name(second, "quay.io/test/two:1");
    let at = tempfile::tempdir().unwrap();
    let folder = at.path().join("layout");
    tar::Archive::new(&layout.tar().end()[..]).unpack(&folder).unwrap();
    (at, folder, layout)
}

/// Moves a file and puts a link in its place.
fn relink(file: &Path, to: &Path, target: &str) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::rename(file, to).unwrap();
    symlink(target, file).unwrap();
}

#[test]
fn links_inside_the_folder_are_followed() {
    let blobs_one_by_one: &dyn Fn(&Path, &Layout) = &|folder, layout| {
        for (n, digest) in layout.blobs.keys().enumerate() {
            let target = format!("../../files/{n}");
            relink(&folder.join(path(digest)), &folder.join(format!("files/{n}")), &target);
        }
    };
    let documents: &dyn Fn(&Path, &Layout) = &|folder, _| {
        for name in ["oci-layout", "index.json"] {
            let target = format!("documents/{name}");
            relink(&folder.join(name), &folder.join(&target), &target);
        }
    };
    let algorithm: &dyn Fn(&Path, &Layout) = &|folder, _| {
        relink(&folder.join("blobs/sha256"), &folder.join("files/all"), "../files/all");
    };
    let blobs: &dyn Fn(&Path, &Layout) = &|folder, _| relink(&folder.join("blobs"), &folder.join("store"), "store");
    let both: &dyn Fn(&Path, &Layout) = &|folder, layout| {
        algorithm(folder, layout);
        blobs(folder, layout);
    };
    let chain: &dyn Fn(&Path, &Layout) = &|folder, layout| {
        let file = folder.join(path(layout.blobs.keys().next().unwrap()));
        relink(&file, &folder.join("c"), "../../a");
        symlink("b", folder.join("a")).unwrap();
        symlink("c", folder.join("b")).unwrap();
    };
    for (n, link) in [blobs_one_by_one, documents, algorithm, blobs, both, chain]
        .into_iter()
        .enumerate()
    {
        let (_at, folder, layout) = unpacked();
        let expected = whole(open(&folder, None));
        link(&folder, &layout);
        assert_eq!(whole(open(&folder, None)), expected, "{n}");
        // The folder itself may be one.
        symlink(&folder, folder.with_file_name("link")).unwrap();
        assert_eq!(whole(open(&folder.with_file_name("link"), None)), expected, "{n}");
    }
}

#[test]
fn an_absolute_link_to_a_file_of_the_folder_is_followed() {
    let (_at, folder, layout) = unpacked();
    let expected = whole(open(&folder, None));
    for (n, digest) in layout.blobs.keys().enumerate() {
        let to = folder.join(format!("files/{n}"));
        relink(&folder.join(path(digest)), &to, to.to_str().unwrap());
    }
    for name in ["oci-layout", "index.json"] {
        let to = folder.join("files").join(name);
        relink(&folder.join(name), &to, to.to_str().unwrap());
    }
    assert_eq!(whole(open(&folder, None)), expected);
}

#[test]
fn a_link_out_of_the_folder_fails_the_images_that_need_it() {
    for (n, is_absolute) in [false, true].into_iter().enumerate() {
        let (at, folder, layout) = unpacked();
        let (digest, _) = layout
            .blobs
            .iter()
            .find(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b]))
            .unwrap();
        let target = match is_absolute {
            true => at.path().join("base").to_str().unwrap().to_owned(),
            false => "../../../base".to_owned(),
        };
        relink(&folder.join(path(digest)), &at.path().join("base"), &target);
        // Links that no image needs are not looked at.
        symlink("../../elsewhere", folder.join("README")).unwrap();
        symlink("/etc/passwd", folder.join("blobs/notes")).unwrap();
        let bundle = open(&folder, None).unwrap();
        let trees: Vec<bool> = bundle.images().iter().map(|image| bundle.tree(image).is_ok()).collect();
        assert_eq!(trees, [false, true], "{n}");
        let error = bundle.tree(image(&bundle, "quay.io/test/one:1")).unwrap_err();
        let said = text(&error);
        for part in [
            &*path(digest),
            "a link that cannot be followed",
            "leads out of the folder",
            "cp -rL",
            "tar -chf",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}

#[test]
fn a_document_behind_a_link_out_of_the_folder_is_refused() {
    for target in ["../index.json", "/etc/passwd", "nowhere", "index.json"] {
        let (_at, folder, _) = unpacked();
        relink(&folder.join("index.json"), &folder.with_file_name("index.json"), target);
        let error = open(&folder, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
        let said = text(&error);
        assert!(
            said.contains("`index.json`: it is a link that cannot be followed"),
            "{said}"
        );
        assert!(said.contains("cp -rL"), "{said}");
    }
}

#[test]
fn a_folder_of_blobs_behind_a_link_out_of_the_folder_is_named() {
    for name in ["blobs", "blobs/sha256"] {
        let (at, folder, _) = unpacked();
        let target = at.path().join("elsewhere");
        relink(&folder.join(name), &target, target.to_str().unwrap());
        let said = text(&open(&folder, None).unwrap_err());
        assert!(
            said.contains(&format!("`{name}`: it is a link that cannot be followed")),
            "{said}"
        );
        assert!(said.contains("cp -rL"), "{said}");
    }
}

#[test]
fn what_lies_about_in_the_folder_does_no_harm() {
    let (_at, folder, _) = unpacked();
    let expected = whole(open(&folder, None));
    for name in [".Trash-1000", "lost+found", "System Volume Information"] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("oci-layout"), "x").unwrap();
        symlink("/etc/passwd", folder.join(name).join("link")).unwrap();
    }
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.join("pipe"), mode).unwrap();
    fs::write(folder.join("._index.json"), b"\0\x05\x16\x07").unwrap();
    assert_eq!(whole(open(&folder, None)), expected);
}

#[test]
fn a_blob_that_is_no_file_fails_the_images_that_need_it() {
    let (_at, folder, layout) = unpacked();
    let (digest, _) = layout
        .blobs
        .iter()
        .find(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b]))
        .unwrap();
    fs::remove_file(folder.join(path(digest))).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.join(path(digest)), mode).unwrap();
    let bundle = open(&folder, None).unwrap();
    let error = bundle.tree(image(&bundle, "quay.io/test/one:1")).unwrap_err();
    assert!(text(&error).contains("neither a file nor a folder"), "{}", text(&error));
    assert!(!text(&error).contains("links"), "{}", text(&error));
    bundle.tree(image(&bundle, "quay.io/test/two:1")).unwrap();
}
