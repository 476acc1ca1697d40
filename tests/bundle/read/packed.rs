//! Archives that are compressed as a whole with xz or bzip2.

use std::io::{Cursor, Read, Write};

use docker_mirror::{Bundle, Kind, VerifyOptions, verify};
use lzma_rust2::{XzOptions, XzWriter};

use crate::archives::*;

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast());
    encoder.read_to_end(&mut packed).unwrap();
    packed
}

/// Returns an xz file that states a dictionary of this size (xz-file-format, sections 3.1 and 5.3.1).
fn with_dictionary(packed: &[u8], size: u8) -> Vec<u8> {
    let mut packed = packed.to_vec();
    let header = 12..12 + (usize::from(packed[12]) + 1) * 4;
    assert_eq!(packed[14..16], [0x21, 1], "the filter is LZMA2");
    packed[16] = size;
    let mut sum = flate2::Crc::new();
    sum.update(&packed[header.start..header.end - 4]);
    packed[header.end - 4..header.end].copy_from_slice(&sum.sum().to_le_bytes());
    packed
}

#[test]
fn xz_and_bzip2_are_read_from_files_folders_and_pipes() {
    let tar = two_platforms().0.tar().end();
    let expected = whole(open_bytes(&tar));
    for (name, packed) in [
        ("a.tar.xz", xz(&tar)),
        ("a.tbz2", bzip2(&tar)),
        // Two streams behind each other are one file.
        ("b.txz", [xz(&tar[..1000]), xz(&tar[1000..])].concat()),
        ("b.tar.bz2", [bzip2(&tar[..1000]), bzip2(&tar[1000..])].concat()),
    ] {
        let saved = save(name, &packed);
        assert_eq!(whole(open(&saved.path, None)), expected, "{name}");
        assert_eq!(whole(open(saved.directory.path(), None)), expected, "{name}");
        let piped = Bundle::from_pipe(Cursor::new(packed.clone()), "pipe", &options(None));
        assert_eq!(whole(piped.map(|(bundle, _)| bundle)), expected, "{name}");
        let ours = as_ours(|| two_platforms().0.tar().end());
        let packed = if name.contains('x') { xz(&ours) } else { bzip2(&ours) };
        let (bundle, rest) = Bundle::from_pipe(Cursor::new(packed), "pipe", &options(None)).unwrap();
        assert_eq!((bundle.images().len(), rest.is_some()), (1, true), "{name}");
    }
}

#[test]
fn what_is_cut_off_or_damaged_is_told() {
    let tar = two_platforms().0.tar().end();
    for packed in [xz(&tar), bzip2(&tar)] {
        let saved = save("a.tar", &packed[..packed.len() / 2]);
        let said = text(&open(&saved.path, None).unwrap_err());
        assert!(said.contains("truncated"), "{said}");
        let mut damaged = packed.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x10;
        let saved = save("a.tar", &damaged);
        assert!(open(&saved.path, None).and_then(|bundle| check(&bundle)).is_err());
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Compresses bytes.
type Pack = fn(&[u8]) -> Vec<u8>;

#[test]
fn damage_of_every_compression_is_a_fault_of_the_archive_with_a_hint() {
    let tar = as_ours(|| two_platforms().0.tar().end());
    let pack: [(&str, Pack); 4] = [("gzip", gzip), ("zstd", zstd), ("xz", xz), ("bzip2", bzip2)];
    for (name, pack) in pack {
        let packed = pack(&tar);
        let mut flipped = packed.clone();
        flipped[packed.len() / 2] ^= 0xff;
        let half = tar.len() / 2;
        for (what, bytes) in [
            ("junk behind", [&packed[..], b"some junk behind the archive"].concat()),
            ("a second stream, cut", [&packed[..], &packed[..20]].concat()),
            (
                "junk between streams",
                [&pack(&tar[..half])[..], b"junk", &pack(&tar[half..])].concat(),
            ),
            ("zeros and junk behind", [&packed[..], &[0; 512], b"junk"].concat()),
            ("junk and zeros behind", [&packed[..], b"junk", &[0; 512]].concat()),
            ("cut in the middle", packed[..packed.len() / 2].to_vec()),
            ("cut at the end", packed[..packed.len() - 3].to_vec()),
            ("only the head", packed[..12].to_vec()),
            ("a changed byte", flipped),
            ("nothing in it", pack(b"")),
        ] {
            let saved = save("a.tar", &bytes);
            let from_file = open(&saved.path, None).and_then(|bundle| check(&bundle));
            let piped = Bundle::from_pipe(Cursor::new(bytes), "pipe", &options(None));
            let verified = piped.and_then(|(bundle, rest)| verify(&bundle, rest, &VerifyOptions::default()));
            let from_pipe = match verified {
                Ok(found) => {
                    assert!(!found.is_sound(), "{name}: {what}");
                    None
                }
                Err(error) => Some(error),
            };
            for error in std::iter::once(from_file.unwrap_err()).chain(from_pipe) {
                let is_damage = matches!(error.kind(), Kind::Malformed | Kind::Integrity);
                assert!(is_damage, "{name}: {what}: {error:?}");
                assert!(error.hint().is_some(), "{name}: {what}: {}", text(&error));
            }
        }
        // Empty streams between other streams, as some programs write them, are no damage.
        let with_empty = [pack(&tar[..half]), pack(b""), pack(&tar[half..])].concat();
        // Zeros with which a block device or a tape pads a file are none either.
        let padded = |zeros: usize| [&packed[..], &vec![0; zeros]].concat();
        let between = [&pack(&tar[..half])[..], &[0; 7], &pack(&tar[half..])].concat();
        for bytes in [
            with_empty,
            between,
            padded(1),
            padded(511),
            padded(10_240),
            padded(200_000),
        ] {
            let saved = save("a.tar", &bytes);
            open(&saved.path, None).and_then(|bundle| check(&bundle)).unwrap();
            let piped = Bundle::from_pipe(Cursor::new(bytes), "pipe", &options(None));
            let verified = piped.and_then(|(bundle, rest)| verify(&bundle, rest, &VerifyOptions::default()));
            assert!(verified.unwrap().is_sound(), "{name}");
        }
    }
}

#[test]
fn a_dictionary_that_takes_too_much_memory_is_refused_with_a_way_out() {
    let packed = xz(&two_platforms().0.tar().end());
    // 64 MiB, as of `xz -9`, and 128 MiB.
    for fits in [28, 30] {
        assert_eq!(whole(open_bytes(&with_dictionary(&packed, fits))).len(), 1);
    }
    // 192 MiB, 1.5 GiB, and 4 GiB less a byte.
    for too_large in [31, 37, 40] {
        let error = open_bytes(&with_dictionary(&packed, too_large)).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{}", text(&error));
        let said = text(&error);
        assert!(said.contains("takes more than 128.0 MiB of memory"), "{said}");
        assert!(said.contains("xz -dc FILE | docker-mirror import -"), "{said}");
    }
}

#[test]
fn zeros_that_unpack_to_far_more_are_cut() {
    let zeros = Tar::default().file("zeros", &vec![0; 300 << 20]).end();
    let packed = bzip2(&zeros);
    let saved = save("a.tar.bz2", &packed);
    let said = text(&open(&saved.path, None).unwrap_err());
    assert!(said.contains("decompression bomb"), "{said}");
}

#[test]
fn a_layer_of_a_docker_archive_may_not_be_packed_so() {
    let layer = Tar::default().file("x", b"x").end();
    let diff_id = docker_mirror::Digest::sha256(&layer).to_string();
    for packed in [xz(&layer), bzip2(&layer)] {
        let config = serde_json::json!({"os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let items = serde_json::json!([{"Config": "c.json", "RepoTags": ["quay.io/a/b:1"], "Layers": ["l.tar"]}]);
        let tar = Tar::default()
            .file("c.json", config.to_string().as_bytes())
            .file("l.tar", &packed)
            .file("manifest.json", items.to_string().as_bytes())
            .end();
        let error = open_bytes(&tar).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            text(&error).contains("which no layer of an OCI image may be"),
            "{}",
            text(&error)
        );
    }
}
