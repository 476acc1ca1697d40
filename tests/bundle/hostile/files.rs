//! Files that change while they are read, compressed files, files that unpack to much more, and files of a folder that
//! are skipped.

use docker_mirror::{
    Budget, Bundle, Digest, Kind, OpenOptions,
    testing::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST},
};
use serde_json::json;

use super::{docker, first_blob, good, is_layer};
use crate::archives::*;

#[test]
fn a_file_that_shrinks_or_grows_after_it_was_opened() {
    for length in [100, 1_000_000] {
        let saved = save("bundle.tar", &good().tar().end());
        let bundle = open(&saved.path, None).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&saved.path).unwrap();
        file.set_len(length).unwrap();
        let error = bundle.tree(&bundle.images()[0]).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert!(
            text(&error).contains("was changed while it was read"),
            "{}",
            text(&error)
        );
    }
}

#[test]
fn a_file_that_is_edited_after_it_was_opened() {
    use std::os::unix::fs::FileExt;
    let layout = good();
    let bytes = layout.tar().end();
    let saved = save("bundle.tar", &bytes);
    let bundle = open(&saved.path, None).unwrap();
    check(&bundle).unwrap();
    let layer = first_blob(&layout, is_layer);
    let body = &layout.blobs[&layer];
    let at = bytes.windows(body.len()).position(|w| w == body).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&saved.path).unwrap();
    file.write_all_at(b"edited", at as u64 + 4).unwrap();
    let error = bundle.verify_blob(&layer).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(text(&error).contains(&layer.to_string()), "{}", text(&error));
    assert!(text(&error).contains(&format!("offset {at}")), "{}", text(&error));
}

#[test]
fn compressed_bundles_that_are_broken() {
    let good = gzip(&good().tar().end());
    let cut = &good[..good.len() / 2];
    let error = open_bytes(cut).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed, "{}", text(&error));
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let error = open_bytes(&flipped).and_then(|b| check(&b)).unwrap_err();
    assert!(
        matches!(error.kind(), Kind::Malformed | Kind::Integrity),
        "{}",
        text(&error)
    );
    for (magic, hint) in [
        (&b"\x04\x22\x4d\x18...."[..], "lz4 -dc FILE | docker-mirror import -"),
        (b"LZIP\x01...", "lzip -dc FILE | docker-mirror import -"),
        (b"PK\x03\x04....", "unzip"),
    ] {
        let error = open_bytes(magic).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(text(&error).contains(hint), "{}", text(&error));
    }
    // 600 MiB of zeros in one member: not worth a temporary file.
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
    std::io::Write::write_all(&mut bomb, &header(b"blobs/bomb", 600 << 20, b'0', b"")).unwrap();
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), (600 << 20) + 1024),
        &mut bomb,
    )
    .unwrap();
    let error = open_bytes(&bomb.finish().unwrap()).unwrap_err();
    assert!(text(&error).contains("decompression bomb"), "{}", text(&error));
}

#[test]
fn a_layer_that_is_a_bomb() {
    const SIZE: usize = 16 << 20;
    let zeros = vec![0; SIZE];
    let bomb = zstd::encode_all(zeros.as_slice(), 1).unwrap();
    let id = Digest::sha256(&zeros).to_string();
    let other = gzip(&zeros);
    for (packed, compression) in [(&bomb, "zstd"), (&other, "gzip")] {
        let archive = |names: &[&str]| {
            docker(
                |items, config| {
                    items[0]["Layers"] = json!(names);
                    config["rootfs"]["diff_ids"] = json!(vec![&id; names.len()]);
                },
                |tar| tar.file("bomb.tar", packed).file("again.tar", packed),
            )
        };
        let open = |names: &[&str], max_unpacked| {
            let saved = save("bundle.tar", &archive(names));
            let options = OpenOptions {
                max_unpacked,
                ..options(None)
            };
            Bundle::open(&[saved.path], &options).map_err(|e| text(&e))
        };
        // Layers of zeros: both archives together unpack to 32 MiB, however small their files are.
        open(&["bomb.tar", "again.tar"], None).unwrap();
        open(&["bomb.tar", "again.tar"], Some(2 * SIZE as u64)).unwrap();
        // The limit is for all layers of one archive together; a layer that is listed twice counts once.
        open(&["bomb.tar", "bomb.tar"], Some(SIZE as u64)).unwrap();
        let error = open(&["bomb.tar", "again.tar"], Some(SIZE as u64)).unwrap_err();
        assert!(error.contains("member `again.tar` at offset"), "{compression}: {error}");
        assert!(error.contains("decompression bomb"), "{compression}: {error}");
        let error = open(&["bomb.tar"], Some(1 << 20)).unwrap_err();
        assert!(error.contains("member `bomb.tar` at offset"), "{compression}: {error}");
    }
    // On the OCI path nothing is ever unpacked.
    let mut layout = Layout::default();
    let config = layout.document(OCI_CONFIG, &json!({"os": "linux", "architecture": "amd64"}));
    let layer = descriptor(OCI_LAYER, &bomb);
    layout.blob(bomb);
    let manifest = layout.document(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "config": config, "layers": [layer]}),
    );
    layout.name(manifest, "quay.io/test/one:1");
    check(&open_bytes(&layout.tar().end()).unwrap()).unwrap();
}

#[test]
fn a_layer_that_cannot_be_unpacked_is_named_where_it_stands() {
    let packed = gzip(&[1; 5000]);
    let cut = &packed[..packed.len() - 9];
    let name = path(&Digest::sha256(cut));
    let archive = docker(
        |items, _| items[0]["Layers"][0] = json!("b/layer.tar"),
        |tar| tar.file(&name, cut).symlink("b/layer.tar", &format!("../{name}")),
    );
    let error = text(&open_bytes(&archive).unwrap_err());
    let part = format!("bundle.tar`: member `{name}` at offset ");
    assert!(error.contains(&part) && error.contains("cannot read `/"), "{error}");
    assert!(!error.contains("``"), "{error}");
    let archive = docker(
        |items, _| items[0]["Config"] = json!(name),
        |tar| tar.file(&name, &vec![b' '; (4 << 20) + 1]),
    );
    let error = text(&open_bytes(&archive).unwrap_err());
    assert!(error.contains(&part) && error.contains("at most 4194304"), "{error}");
}

#[test]
fn a_file_that_takes_too_much_memory_leaves_it_to_the_others() {
    let name = |n: usize| format!("member-{n:0>60}");
    let blob = |n: usize| path(&Digest::sha256(n.to_string().as_bytes()));
    let names: [(&dyn Fn(usize) -> String, usize); 4] = [(&name, 5000), (&blob, 9000), (&blob, 6000), (&blob, 5001)];
    for (name, count) in names {
        // Whether or not it is whole, and in front of the good one or behind it.
        let many = (0..count).fold(Tar::default(), |tar, n| tar.file(&name(n), b"n"));
        for bytes in [many.clone().end(), many.0] {
            let (many, good) = (save("many.tar", &bytes), save("good.tar", &two_names().tar().end()));
            for paths in [[&many, &good], [&good, &many]] {
                let options = OpenOptions {
                    budget: Budget::new(1 << 20),
                    ..OpenOptions::default()
                };
                let bundle = Bundle::open(&paths.map(|file| file.path.clone()), &options).unwrap();
                let about = format!("{} {count}", name(0));
                assert_eq!(
                    (bundle.images().len(), bundle.broken_archives().len()),
                    (2, 1),
                    "{about}"
                );
                let broken = &bundle.broken_archives()[0];
                // Fewer blobs fit, and are of no use.
                let is_too_large = broken.error.kind() == Kind::TooLarge;
                assert_eq!(is_too_large, count != 6000 && count != 5001, "{about}: {broken:?}");
                check(&bundle).unwrap();
            }
        }
    }
}

/// A layout of two images.
fn two_names() -> Layout {
    let mut layout = good();
    let image = layout.image("amd64", b"another", true);
    layout.name(image, "quay.io/test/two:1");
    layout
}

#[test]
fn a_missing_file_and_an_empty_directory() {
    let directory = tempfile::tempdir().unwrap();
    let error = open(&directory.path().join("no.tar"), None).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let error = open(directory.path(), None).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        text(&error).contains("neither an image layout nor a `.tar`"),
        "{}",
        text(&error)
    );
}

#[test]
fn what_a_folder_is_not_searched_for_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let skopeo = directory.path().join("skopeo");
    std::fs::create_dir(&skopeo).unwrap();
    std::fs::write(skopeo.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    std::fs::write(skopeo.join("manifest.json"), "{}").unwrap();
    let others = ["a.tar.lz4", "b.TAR.LZMA", "c.oci"];
    for name in others {
        std::fs::write(directory.path().join(name), b"x").unwrap();
    }
    // By itself: an error that says what it is.
    let error = text(&open(&skopeo, None).unwrap_err());
    assert!(
        error.contains("skopeo's `dir:`") && error.contains("oci-archive:"),
        "{error}"
    );
    // With nothing else there: the error gives a hint.
    let error = text(&open(directory.path(), None).unwrap_err());
    assert!(error.contains("lz4 -d"), "{error}");
    std::fs::write(directory.path().join("good.tar"), good().tar().end()).unwrap();
    std::fs::write(directory.path().join("notes.txt"), b"x").unwrap();
    let bundle = open(directory.path(), None).unwrap();
    check(&bundle).unwrap();
    let warnings = bundle.warnings().join("\n");
    for part in others
        .iter()
        .chain(&["skopeo", "lz4 -d", "xz -d", "name the file itself"])
    {
        assert!(warnings.contains(part), "{part} in {warnings}");
    }
    assert!(!warnings.contains("notes"), "{warnings}");
}
