//! Documents of a layout in the encodings of editors and shells of other systems (a byte order mark, UTF-16), or empty.

use serde_json::json;

use crate::archives::*;

/// Returns the documents of a bundle of this program with `manifest.json`, and the members behind them.
fn parts() -> (Vec<(&'static str, Vec<u8>)>, Layout) {
    let layout = two_platforms().0;
    let tar = as_ours(|| layout.tar().end());
    let mut archive = tar::Archive::new(&tar[..]);
    let mut documents = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let known = ["oci-layout", "index.json", "docker-mirror.json"]
            .into_iter()
            .find(|known| *known == name);
        if let Some(known) = known {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            documents.push((known, bytes));
        }
    }
    (documents, layout)
}

fn utf16(text: &[u8], order: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let text = format!("\u{feff}{}\r\n", std::str::from_utf8(text).unwrap());
    text.encode_utf16().flat_map(order).collect()
}

#[test]
fn a_byte_order_mark_or_utf_16_makes_no_difference() {
    let (documents, layout) = parts();
    assert_eq!(documents.len(), 3);
    let expected = whole(open_bytes(&as_ours(|| layout.tar().end())));
    type Encode<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let encodings: [Encode<'_>; 3] = [
        &|text| [b"\xef\xbb\xbf", text].concat(),
        &|text| utf16(text, u16::to_le_bytes),
        &|text| utf16(text, u16::to_be_bytes),
    ];
    for (n, encode) in encodings.iter().enumerate() {
        for (changed, _) in &documents {
            let mut tar = Tar::default();
            for (name, bytes) in &documents {
                let bytes = if name == changed { encode(bytes) } else { bytes.clone() };
                tar = tar.file(name, &bytes);
            }
            let blobs = layout.blobs.iter();
            let tar = blobs
                .fold(tar, |tar, (digest, bytes)| tar.file(&path(digest), bytes))
                .end();
            each_way(&tar, None, |way, bundle| {
                assert_eq!(whole(bundle), expected, "{changed} {n} {way}")
            });
        }
    }
    let layer = Tar::default().file("x", b"x").end();
    let diff_id = docker_mirror::Digest::sha256(&layer).to_string();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let items = json!([{"Config": "c.json", "RepoTags": ["quay.io/a/b:1"], "Layers": ["l.tar"]}]).to_string();
    for encode in encodings {
        let tar = Tar::default()
            .file("c.json", config.to_string().as_bytes())
            .file("l.tar", &layer)
            .file("manifest.json", &encode(items.as_bytes()))
            .end();
        each_way(&tar, None, |way, bundle| assert_eq!(whole(bundle).len(), 1, "{way}"));
    }
}

#[test]
fn an_empty_list_of_docker_beside_an_index_says_nothing() {
    for list in ["null", "[]", " null\n"] {
        let (mut layout, _) = two_platforms();
        let expected = whole(open_bytes(&layout.tar().end()));
        layout.files.push(("manifest.json".into(), list.into()));
        each_way(&layout.tar().end(), None, |_, bundle| {
            assert_eq!(whole(bundle), expected)
        });
        let alone = Tar::default().file("manifest.json", list.as_bytes()).end();
        let said = text(&open_bytes(&alone).unwrap_err());
        assert!(
            said.contains("holds no image") || said.contains("no list of images"),
            "{said}"
        );
    }
}
