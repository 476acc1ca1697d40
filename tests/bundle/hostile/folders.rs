//! Layout folders in which files are replaced after the folder was indexed: no other file is read in their place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use docker_mirror::{Digest, Kind};

use super::{first_blob, good, is_layer};
use crate::archives::*;

/// Returns a layout in a nested folder, and the digest and path of a layer in it.
fn layout() -> (tempfile::TempDir, PathBuf, Digest, PathBuf) {
    let layout = good();
    let at = tempfile::tempdir().unwrap();
    let folder = at.path().join("layout");
    tar::Archive::new(&layout.tar().end()[..]).unpack(&folder).unwrap();
    let layer = first_blob(&layout, is_layer);
    let file = folder.join(path(&layer));
    (at, folder, layer, file)
}

#[test]
fn only_the_file_that_was_indexed_is_read() {
    let link: &dyn Fn(&Path, &Path) = &|file, secret| symlink(secret, file).unwrap();
    let link_inside: &dyn Fn(&Path, &Path) = &|file, secret| {
        let copy = file.with_file_name("copy");
        fs::copy(secret, &copy).unwrap();
        symlink("copy", file).unwrap();
    };
    let second_name: &dyn Fn(&Path, &Path) = &|file, secret| fs::hard_link(secret, file).unwrap();
    let pipe: &dyn Fn(&Path, &Path) = &|file, _| {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, file, mode).unwrap();
    };
    let folder_link: &dyn Fn(&Path, &Path) = &|file, secret| {
        let folder = file.parent().unwrap();
        let elsewhere = secret.parent().unwrap().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::copy(secret, elsewhere.join(file.file_name().unwrap())).unwrap();
        fs::rename(folder, folder.with_file_name("moved")).unwrap();
        symlink(&elsewhere, folder).unwrap();
    };
    for replace in [link, link_inside, second_name, pipe, folder_link] {
        let (at, folder, layer, file) = layout();
        let bundle = open(&folder, None).unwrap();
        check(&bundle).unwrap();
        let secret = at.path().join("secret");
        let size = usize::try_from(fs::metadata(&file).unwrap().len()).unwrap();
        fs::write(&secret, vec![b's'; size]).unwrap();
        // Kept under another name, so that no new file gets its inode number.
        fs::rename(&file, at.path().join("former")).unwrap();
        replace(&file, &secret);
        let mut buffer = vec![0; size];
        let error = bundle.read_at(&layer, 0, &mut buffer).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{}", text(&error));
        assert!(text(&error).contains("was replaced"), "{}", text(&error));
        assert!(!buffer.contains(&b's'), "bytes of another file were read");
    }
}

#[test]
fn a_folder_that_is_moved_away_is_read_where_it_is() {
    let (at, folder, layer, _) = layout();
    let bundle = open(&folder, None).unwrap();
    fs::rename(&folder, at.path().join("moved")).unwrap();
    fs::create_dir(&folder).unwrap();
    bundle.verify_blob(&layer).unwrap();
}
