//! Archives that are broken, or made to harm: each has a name, a generator, and what must come of it.
//!
//! Nothing may panic, nothing wrong may pass, and a message names the file, the member and, for a fault of the tar itself,
//! the offset.

mod archives;

use archives::*;
use docker_mirror::bundle::read::Bundle;
use docker_mirror::error::{Kind, Result};
use docker_mirror::image::digest::Digest;
use docker_mirror::image::media_type::{
    DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use serde_json::{Value, json};

/// What must come of an archive.
enum Expect {
    /// It is not opened; the message holds all of these.
    Open(&'static [&'static str]),
    /// It is opened, and a tree is refused.
    Tree(&'static [&'static str]),
    /// Trees are given out, and a blob turns out wrong when it is read.
    Blob(&'static [&'static str]),
    /// It is read, with a warning that holds this.
    Warning(&'static str),
    /// It is read without a word.
    Fine,
}
use Expect::{Blob, Fine, Open, Tree, Warning};

type Case = (&'static str, fn() -> Vec<u8>, Expect);

/// A good layout with one image of one platform.
fn good() -> Layout {
    let mut layout = Layout::default();
    let image = layout.image("amd64", b"hello\n", true);
    layout.name(image, "quay.io/test/one:1");
    layout
}

/// A good archive with something behind its last member.
fn with_member(add: impl Fn(Tar) -> Tar) -> Vec<u8> {
    add(good().tar()).end()
}

/// A header that is changed before its checksum is made.
fn patched(name: &str, size: u64, kind: u8, patch: impl Fn(&mut [u8; 512])) -> [u8; 512] {
    let mut block = header(name.as_bytes(), size, kind, b"");
    patch(&mut block);
    checksum(&mut block);
    block
}

/// A layout with one image whose manifest is this document; `$config`, `$layer` stand for good descriptors.
fn manifest(edit: impl Fn(&mut Value)) -> Vec<u8> {
    let mut layout = Layout::default();
    let config = layout.document(OCI_CONFIG, &json!({"os": "linux", "architecture": "amd64"}));
    let layer = Tar::default().file("x", b"x").end();
    let layer_descriptor = descriptor(OCI_LAYER, &layer);
    layout.blob(layer);
    let mut document =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer_descriptor]});
    edit(&mut document);
    let manifest = layout.document(OCI_MANIFEST, &document);
    layout.name(manifest, "quay.io/test/one:1");
    layout.tar().end()
}

/// A layout with one image whose manifest is these bytes.
fn raw_manifest(media_type: &str, bytes: &[u8]) -> Vec<u8> {
    let mut layout = Layout::default();
    let entry = descriptor(media_type, bytes);
    layout.blob(bytes);
    layout.name(entry, "quay.io/test/one:1");
    layout.tar().end()
}

/// The good layout with a config of these bytes.
fn config(bytes: &[u8]) -> Vec<u8> {
    let mut layout = Layout::default();
    layout.blob(bytes);
    let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, bytes), "layers": []});
    let entry = layout.document(OCI_MANIFEST, &document);
    layout.name(entry, "quay.io/test/one:1");
    layout.tar().end()
}

/// A docker-archive of one layer; `edit` changes `manifest.json` and the config, `links` adds members.
fn docker(edit: impl Fn(&mut Value, &mut Value), links: impl Fn(Tar) -> Tar) -> Vec<u8> {
    let layer = Tar::default().file("x", b"x").end();
    let mut config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer).to_string()]}});
    let mut items = json!([{"Config": "config.json", "RepoTags": ["quay.io/test/one:1"], "Layers": ["a/layer.tar"]}]);
    edit(&mut items, &mut config);
    let tar = Tar::default()
        .file("config.json", &serde_json::to_vec(&config).unwrap())
        .file("a/layer.tar", &layer);
    links(tar)
        .file("manifest.json", &serde_json::to_vec(&items).unwrap())
        .end()
}

fn nothing(tar: Tar) -> Tar {
    tar
}

/// Indexes in indexes.
fn nested(depth: usize, width: usize) -> Vec<u8> {
    let mut layout = Layout::default();
    let mut entry = layout.image("amd64", b"deep\n", true);
    for _ in 0..depth {
        let entries = vec![entry; width];
        entry = layout.index(&entries);
    }
    layout.name(entry, "quay.io/test/one:1");
    layout.tar().end()
}

fn first_blob(layout: &Layout, is: impl Fn(&[u8]) -> bool) -> Digest {
    layout.blobs.iter().find(|(_, bytes)| is(bytes)).unwrap().0.clone()
}

/// The good layout in which one blob's bytes are others.
fn swapped(is: impl Fn(&[u8]) -> bool, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut layout = good();
    let digest = first_blob(&layout, is);
    change(layout.blobs.get_mut(&digest).unwrap());
    layout.tar().end()
}

fn is_layer(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

fn is_manifest(bytes: &[u8]) -> bool {
    let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
    document["layers"].is_array()
}

fn flip(bytes: &mut Vec<u8>) {
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
}

fn unmarked() -> Vec<u8> {
    good().tar().0
}

fn big_index(entries: usize) -> Vec<u8> {
    let entry = descriptor(OCI_MANIFEST, b"x");
    let list = vec![entry; entries];
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list})).unwrap()
}

fn tar_faults() -> Vec<Case> {
    const OFFSET: &[&str] = &["bundle.tar", "offset"];
    vec![
        (
            "r01 parent folder",
            || with_member(|t| t.file("../x", b"x")),
            Open(&["bundle.tar", "offset", "leads out"]),
        ),
        (
            "r01 parent inside",
            || with_member(|t| t.file("a/../../x", b"x")),
            Open(&["leads out"]),
        ),
        (
            "r01 absolute",
            || with_member(|t| t.file("/etc/passwd", b"x")),
            Open(&["absolute"]),
        ),
        (
            "r01 drive",
            || with_member(|t| t.file("C:x", b"x")),
            Open(&["absolute"]),
        ),
        (
            "r01 backslash",
            || with_member(|t| t.file("a\\b", b"x")),
            Open(&["backslash"]),
        ),
        (
            "r01 NUL",
            || with_member(|t| t.pax(b'x', &[("path", "a\0b")]).file("a", b"x")),
            Open(&["NUL"]),
        ),
        (
            "r01 long traversal",
            || with_member(|t| t.file(&format!("{}../x", "a/".repeat(80)), b"x")),
            Open(&["leads out"]),
        ),
        (
            "r01 name too long",
            || with_member(|t| t.file(&"a".repeat(5000), b"x")),
            Open(&["at most 4096"]),
        ),
        (
            "r01 stranger",
            || with_member(|t| t.file("hello", b"x")),
            Warning("ignored: `hello`"),
        ),
        (
            "r01 dot slash",
            || {
                Tar::default()
                    .file("./oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
                    .file("./index.json", &good().index_json())
                    .raw(
                        &good()
                            .blobs
                            .iter()
                            .fold(Tar::default(), |t, (d, b)| t.file(&format!("./{}", path(d)), b))
                            .end(),
                    )
                    .0
            },
            Fine,
        ),
        (
            "r01 not UTF-8",
            || with_member(|t| t.raw(&header(b"\xff\xfe", 0, b'0', b""))),
            Warning("not UTF-8"),
        ),
        (
            "r02 linked index",
            || {
                Tar::default()
                    .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
                    .symlink("index.json", "oci-layout")
                    .end()
            },
            Open(&["offset", "`index.json`", "a link"]),
        ),
        (
            "r02 linked blob",
            || with_member(|t| t.symlink(&format!("blobs/sha256/{}", "a".repeat(64)), "b")),
            Open(&["a link"]),
        ),
        (
            "r02 hard linked blob",
            || with_member(|t| t.hardlink(&format!("blobs/sha256/{}", "a".repeat(64)), "b")),
            Open(&["a link"]),
        ),
        (
            "r02 link out of the archive",
            || docker(|_, _| (), |t| t.symlink("b/layer.tar", "../../x")),
            Open(&["offset", "leads out"]),
        ),
        (
            "r02 absolute link",
            || docker(|_, _| (), |t| t.symlink("b/layer.tar", "/etc/passwd")),
            Open(&["leads out"]),
        ),
        (
            "r02 link loop",
            || {
                docker(
                    |items, _| items[0]["Layers"][0] = json!("b/layer.tar"),
                    |t| {
                        t.symlink("b/layer.tar", "../c/layer.tar")
                            .symlink("c/layer.tar", "../b/layer.tar")
                    },
                )
            },
            Open(&["8 links"]),
        ),
        (
            "r02 long chain",
            || {
                docker(
                    |items, _| items[0]["Layers"][0] = json!("0.tar"),
                    |t| {
                        (0..9)
                            .fold(t, |t, i| t.symlink(&format!("{i}.tar"), &format!("{}.tar", i + 1)))
                            .symlink("9.tar", "a/layer.tar")
                    },
                )
            },
            Open(&["8 links"]),
        ),
        (
            "r02 short chain",
            || {
                docker(
                    |items, _| items[0]["Layers"][0] = json!("0.tar"),
                    |t| t.symlink("0.tar", "1.tar").hardlink("1.tar", "a/layer.tar"),
                )
            },
            Warning("digests are new"),
        ),
        (
            "r02 dangling",
            || {
                docker(
                    |items, _| items[0]["Layers"][0] = json!("b/layer.tar"),
                    |t| t.symlink("b/layer.tar", "nowhere"),
                )
            },
            Open(&["`b/nowhere` is not in the archive"]),
        ),
        (
            "r03 character device",
            || with_member(|t| t.raw(&header(b"dev", 0, b'3', b""))),
            Open(&["offset", "`dev`", "a device"]),
        ),
        (
            "r03 block device",
            || with_member(|t| t.raw(&header(b"dev", 0, b'4', b""))),
            Open(&["a device"]),
        ),
        (
            "r03 pipe",
            || with_member(|t| t.raw(&header(b"p", 0, b'6', b""))),
            Open(&["a named pipe"]),
        ),
        (
            "r03 GNU sparse",
            || with_member(|t| t.raw(&patched("s", 0, b'S', |b| b[257..265].copy_from_slice(b"ustar  \0")))),
            Open(&["a sparse file"]),
        ),
        (
            "r03 pax sparse",
            || with_member(|t| t.pax(b'x', &[("GNU.sparse.major", "1")]).file("s", b"x")),
            Open(&["a sparse file"]),
        ),
        (
            "r03 multi-volume",
            || with_member(|t| t.raw(&header(b"m", 0, b'M', b""))),
            Open(&["multi-volume"]),
        ),
        (
            "r03 unknown type",
            || with_member(|t| t.raw(&header(b"m", 0, b'Z', b""))),
            Open(&["unknown type"]),
        ),
        (
            "r04 pax size differs",
            || with_member(|t| t.pax(b'x', &[("size", "3")]).file("x", b"xxxx")),
            Open(&["offset", "4 bytes and its pax header 3"]),
        ),
        (
            "r04 pax size of nothing",
            || {
                with_member(|t| {
                    t.pax(b'x', &[("size", "4")])
                        .raw(&header(b"x", 0, b'0', b""))
                        .body(b"xxxx")
                })
            },
            Warning("`x`"),
        ),
        (
            "r04 pax key twice",
            || with_member(|t| t.pax(b'x', &[("path", "a"), ("path", "b")]).file("x", b"")),
            Open(&["`path` twice"]),
        ),
        (
            "r04 pax name wins",
            || {
                Tar::default()
                    .pax(b'x', &[("path", "oci-layout"), ("comment", "two\nlines")])
                    .file("other", br#"{"imageLayoutVersion":"1.0.0"}"#)
                    .raw(&good().tar().end())
                    .0
            },
            Fine,
        ),
        (
            "r04 pax garbage",
            || with_member(|t| t.raw(&header(b"p", 3, b'x', b"")).body(b"abc")),
            Open(&["malformed record"]),
        ),
        (
            "r04 pax huge",
            || with_member(|t| t.raw(&header(b"p", 2 << 20, b'x', b""))),
            Open(&["extended header of 2097152"]),
        ),
        (
            "r04 two pax headers",
            || with_member(|t| t.pax(b'x', &[("a", "b")]).pax(b'x', &[("a", "b")]).file("x", b"")),
            Open(&["two pax headers"]),
        ),
        (
            "r04 global size",
            || with_member(|t| t.pax(b'g', &[("size", "4")]).file("x", b"")),
            Open(&["global"]),
        ),
        (
            "r04 global comment",
            || with_member(|t| t.pax(b'g', &[("comment", "4")])),
            Fine,
        ),
        (
            "r04 two long names",
            || with_member(|t| t.long_name("a").long_name("b").file("x", b"")),
            Open(&["two long names"]),
        ),
        (
            "r04 names that differ",
            || with_member(|t| t.pax(b'x', &[("path", "a")]).long_name("b").file("x", b"")),
            Open(&["differ"]),
        ),
        (
            "r04 nothing behind it",
            || with_member(|t| t.long_name("a")),
            Open(&["ends behind an extended header"]),
        ),
        (
            "r05 checksum",
            || {
                with_member(|t| {
                    t.raw(&{
                        let mut b = header(b"x", 0, b'0', b"");
                        b[0] = b'y';
                        b
                    })
                })
            },
            Open(&["offset", "checksum"]),
        ),
        (
            "r05 negative size",
            || with_member(|t| t.raw(&patched("x", 0, b'0', |b| b[124..136].fill(0xff)))),
            Open(&["negative or too large"]),
        ),
        (
            "r05 overflowing size",
            || {
                with_member(|t| {
                    t.raw(&patched("x", 0, b'0', |b| {
                        b[124..136].fill(0);
                        b[124] = 0x80;
                        b[126] = 1;
                    }))
                })
            },
            Open(&["negative or too large"]),
        ),
        (
            "r05 2^63",
            || {
                with_member(|t| {
                    t.raw(&patched("x", 0, b'0', |b| {
                        b[124..136].fill(0);
                        b[124] = 0x80;
                        b[128] = 0x80;
                    }))
                })
            },
            Open(&["negative or too large"]),
        ),
        (
            "r05 size is no number",
            || {
                with_member(|t| {
                    t.raw(&patched("x", 0, b'0', |b| {
                        b[124..136].copy_from_slice(b"99999999999\0")
                    }))
                })
            },
            Open(&["no number"]),
        ),
        (
            "r05 more than there is",
            || with_member(|t| t.raw(&header(b"x", 1 << 40 >> 8, b'0', b""))),
            Open(&["offset", "of which the archive holds", "cut off"]),
        ),
        (
            "r05 folder with a body",
            || with_member(|t| t.raw(&header(b"d/", 512, b'5', b"")).body(&[b'x'; 512])),
            Open(&["no file, and yet"]),
        ),
        (
            "r06 cut in a header",
            || {
                let mut b = unmarked();
                b.extend_from_slice(&[b'x'; 100]);
                b
            },
            Open(&["inside a header", "cut off"]),
        ),
        (
            "r06 cut in a body",
            || {
                let mut b = unmarked();
                let n = b.len();
                b.truncate(n - 600);
                b
            },
            Open(&["offset", "cut off"]),
        ),
        ("r06 no end", unmarked, Warning("lacks the blocks that mark its end")),
        (
            "r06 half an end",
            || good().tar().raw(&[0; 512]).0,
            Warning("lacks the blocks that mark its end"),
        ),
        (
            "r06 single zero block",
            || {
                Tar::default()
                    .raw(&good().head().0)
                    .raw(&[0; 512])
                    .raw(&good().tar().end())
                    .0
            },
            Open(OFFSET),
        ),
        (
            "r07 trailing garbage",
            || {
                let mut b = good().tar().end();
                b.extend_from_slice(b"garbage");
                b
            },
            Warning("7 bytes behind the end"),
        ),
        (
            "r07 second archive",
            || {
                let mut b = good().tar().end();
                b.extend(with_member(|t| t.file("../x", b"")));
                b
            },
            Warning("behind the end"),
        ),
        (
            "r07 padding",
            || {
                let mut b = good().tar().end();
                b.resize(b.len().next_multiple_of(10240), 0);
                b
            },
            Fine,
        ),
        (
            "r08 twice the same",
            || {
                let l = good();
                let (d, b) = l.blobs.iter().next().unwrap();
                l.tar().file(&path(d), b).file("index.json", &l.index_json()).end()
            },
            Fine,
        ),
        (
            "r09 another index",
            || {
                let l = good();
                let mut other = l.index_json();
                other.push(b' ');
                l.tar().file("index.json", &other).end()
            },
            Open(&["member `index.json` at offset", "again with other bytes"]),
        ),
        (
            "r09 another blob",
            || {
                let l = good();
                let d = first_blob(&l, is_layer);
                let mut b = l.blobs[&d].clone();
                flip(&mut b);
                l.tar().file(&path(&d), &b).end()
            },
            Open(&["blobs/sha256/", "again with other bytes"]),
        ),
        ("empty", Vec::new, Open(&["bundle.tar", "is empty"])),
        (
            "no tar",
            || b"hello world, this is a text file\n".repeat(50),
            Open(&["offset 0", "no tar header"]),
        ),
        ("short text", || b"hello world".to_vec(), Open(&["inside a header"])),
        ("empty tar", || vec![0; 10240], Open(&["no image archive"])),
        (
            "any tar",
            || Tar::default().file("README", b"x").end(),
            Open(&["no image archive", "docker save"]),
        ),
    ]
}

fn content_faults() -> Vec<Case> {
    vec![
        (
            "r10 layer with other bytes",
            || swapped(is_layer, flip),
            Blob(&["bundle.tar", "blobs/sha256/", "offset", "hash to"]),
        ),
        (
            "r10 manifest with other bytes",
            || swapped(is_manifest, flip),
            Tree(&["bundle.tar", "blobs/sha256/", "offset", "other bytes"]),
        ),
        (
            "r10 config with other bytes",
            || swapped(|b| b.windows(8).any(|w| w == b"diff_ids"), flip),
            Tree(&["blobs/sha256/", "offset", "other bytes"]),
        ),
        (
            "r11 upper case",
            || {
                let mut l = good();
                let d = first_blob(&l, is_layer);
                let b = l.blobs.remove(&d).unwrap();
                l.tar()
                    .file(&path(&d).to_uppercase().replace("BLOBS/SHA256", "blobs/sha256"), &b)
                    .end()
            },
            Tree(&["1 blob is missing"]),
        ),
        (
            "r11 strange blobs",
            || {
                with_member(|t| {
                    t.file("blobs/sha256/abc", b"x")
                        .file("blobs/md5/d41d8cd98f00b204e9800998ecf8427e", b"x")
                        .file("blobs/sha256/a/b", b"x")
                })
            },
            Warning("and 2 more"),
        ),
        (
            "r12 blob too long",
            || swapped(is_layer, |b| b.push(0)),
            Tree(&["bytes, where", "are stated"]),
        ),
        (
            "r12 blob too short",
            || {
                swapped(is_layer, |b| {
                    b.pop();
                })
            },
            Tree(&["bytes, where", "are stated"]),
        ),
        (
            "r12 manifest too long",
            || swapped(is_manifest, |b| b.push(b' ')),
            Tree(&["bytes, where", "are stated"]),
        ),
        (
            "r13 negative size",
            || manifest(|m| m["layers"][0]["size"] = json!(-1)),
            Tree(&["`layers` is wrong"]),
        ),
        (
            "r13 no size",
            || {
                manifest(|m| {
                    m["layers"][0].as_object_mut().unwrap().remove("size");
                })
            },
            Tree(&["`layers` is wrong"]),
        ),
        (
            "r13 huge size",
            || manifest(|m| m["layers"][0]["size"] = json!(1_u64 << 63)),
            Tree(&["impossible size"]),
        ),
        (
            "r13 sum overflows",
            || {
                manifest(|m| {
                    for i in 0..3 {
                        let mut layer = descriptor(OCI_LAYER, &[i]);
                        layer["size"] = json!(i64::MAX);
                        m["layers"].as_array_mut().unwrap().push(layer);
                    }
                })
            },
            Tree(&["missing"]),
        ),
        (
            "r14 all that is missing",
            || {
                let mut l = good();
                l.blobs.retain(|_, b| is_manifest(b));
                l.tar().end()
            },
            Tree(&["2 blobs are missing: sha256:", ", sha256:", "copy it again"]),
        ),
        (
            "r14 child missing",
            || {
                let (mut l, _) = two_platforms();
                let d = first_blob(&l, is_manifest);
                l.blobs.remove(&d);
                l.tar().end()
            },
            Tree(&["1 blob is missing"]),
        ),
        (
            "r14 root missing",
            || {
                let mut l = good();
                let d = first_blob(&l, is_manifest);
                l.blobs.remove(&d);
                l.tar().end()
            },
            Tree(&["1 blob is missing"]),
        ),
        (
            "r14 cut off at a member",
            || {
                let (l, _) = two_platforms();
                let mut l2 = l.clone();
                l2.entries[0]["annotations"]["io.containerd.image.name"] = json!("quay.io/test/two:1");
                let d = first_blob(&l, is_manifest);
                l2.blobs.remove(&d);
                l2.tar().0
            },
            Tree(&["1 blob is missing"]),
        ),
        (
            "r15 config is no JSON",
            || config(b"not JSON"),
            Tree(&["image config", "blobs/sha256/"]),
        ),
        (
            "r15 config too large",
            || config(&vec![b' '; (4 << 20) + 1]),
            Tree(&["at most 4194304"]),
        ),
        ("r15 config without os", || config(b"{}"), Fine),
        (
            "r16 manifest too large",
            || raw_manifest(OCI_MANIFEST, &vec![b' '; (16 << 20) + 1]),
            Tree(&["at most 16777216"]),
        ),
        (
            "r16 too many entries",
            || raw_manifest(OCI_INDEX, &big_index(10_001)),
            Tree(&["at most 10000"]),
        ),
        (
            "r16 deep JSON in a field that nobody reads",
            || {
                let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
                raw_manifest(OCI_INDEX, format!(r#"{{"manifests":[],"x":{deep}}}"#).as_bytes())
            },
            Fine,
        ),
        (
            "r16 deep JSON",
            || {
                let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
                raw_manifest(OCI_INDEX, format!(r#"{{"manifests":{deep}}}"#).as_bytes())
            },
            Tree(&["`manifests` is wrong"]),
        ),
        (
            "r16 key twice",
            || raw_manifest(OCI_INDEX, br#"{"manifests":[],"manifests":[]}"#),
            Tree(&["manifest sha256:"]),
        ),
        (
            "r16 BOM",
            || raw_manifest(OCI_INDEX, b"\xef\xbb\xbf{\"manifests\":[]}"),
            Tree(&["not a JSON object"]),
        ),
        (
            "r16 NaN",
            || raw_manifest(OCI_INDEX, br#"{"manifests":[],"x":NaN}"#),
            Tree(&["not a JSON object"]),
        ),
        (
            "r16 not UTF-8",
            || raw_manifest(OCI_INDEX, b"{\"manifests\":[],\"x\":\"\xff\"}"),
            Tree(&["not UTF-8"]),
        ),
        (
            "r17 index that is an image",
            || raw_manifest(OCI_INDEX, br#"{"schemaVersion":2,"config":{},"layers":[]}"#),
            Tree(&["fields of an image"]),
        ),
        (
            "r17 image that is an index",
            || raw_manifest(OCI_MANIFEST, br#"{"manifests":[]}"#),
            Tree(&["no config and layers"]),
        ),
        (
            "r17 both",
            || manifest(|m| m["manifests"] = json!([])),
            Tree(&["both `manifests` and"]),
        ),
        (
            "r17 other type inside",
            || manifest(|m| m["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json")),
            Tree(&["announced as"]),
        ),
        (
            "r18 unknown child",
            || {
                let mut l = Layout::default();
                let a = l.image("amd64", b"x", true);
                let unknown = l.document("application/vnd.example.thing+json", &json!({"thing": 1}));
                let i = l.index(&[a, unknown]);
                l.name(i, "quay.io/test/one:1");
                l.tar().end()
            },
            Fine,
        ),
        ("r19 eight deep", || nested(8, 1), Fine),
        ("r19 hundred deep", || nested(100, 1), Tree(&["more than 8 deep"])),
        ("r19 wide and deep", || nested(8, 100), Fine),
        (
            "r22 md5",
            || manifest(|m| m["layers"][0]["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
            Tree(&["`layers` is wrong"]),
        ),
        (
            "r22 short digest",
            || manifest(|m| m["layers"][0]["digest"] = json!("sha256:abc")),
            Tree(&["`layers` is wrong"]),
        ),
        (
            "r23 wrong data field",
            || manifest(|m| m["config"]["data"] = json!("d3Jvbmc=")),
            Fine,
        ),
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
            Open(&["two images are called `quay.io/test/one:1`"]),
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
            Open(&["`oci-layout`", "no such JSON"]),
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
            "r33 schema 1",
            || {
                raw_manifest(
                    "application/vnd.docker.distribution.manifest.v1+prettyjws",
                    br#"{"schemaVersion":1,"fsLayers":[]}"#,
                )
            },
            Tree(&["schema 1"]),
        ),
        (
            "r33 chart",
            || {
                let mut l = Layout::default();
                let c = l.document("application/vnd.cncf.helm.config.v1+json", &json!({"name": "x"}));
                let layer = descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart");
                l.blob(&b"chart"[..]);
                let m = l.document(
                    OCI_MANIFEST,
                    &json!({"schemaVersion": 2, "config": c, "layers": [layer]}),
                );
                l.name(m, "quay.io/test/chart:1");
                l.tar().end()
            },
            Fine,
        ),
        (
            "r34 opaque layers",
            || {
                let mut l = Layout::default();
                let c = l.document(OCI_CONFIG, &json!({"os": "linux", "architecture": "amd64"}));
                let layers: Vec<Value> = [
                    OCI_LAYER_ZSTD,
                    "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                    DOCKER_LAYER_GZIP,
                ]
                .iter()
                .enumerate()
                .map(|(i, t)| {
                    let b = format!("not what it says {i}");
                    l.blob(b.as_bytes());
                    descriptor(t, b.as_bytes())
                })
                .collect();
                let m = l.document(
                    OCI_MANIFEST,
                    &json!({"schemaVersion": 2, "config": c, "layers": layers}),
                );
                l.name(m, "quay.io/test/one:1");
                l.tar().end()
            },
            Fine,
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

fn run(cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for (name, generate, expect) in cases {
        let saved = save("bundle.tar", &generate());
        let opened = open(&saved.path, None);
        let error = match (&expect, opened) {
            (Open(parts), Err(e)) => has(&text(&e), parts),
            (Open(_), Ok(bundle)) => Some(format!("was opened: {bundle:?} {:?}", bundle.warnings())),
            (_, Err(e)) => Some(format!("was not opened: {}", text(&e))),
            (Tree(parts), Ok(bundle)) => match trees(&bundle) {
                Ok(()) => Some("gave trees".to_owned()),
                Err(e) => has(&text(&e), parts),
            },
            (Blob(parts), Ok(bundle)) => match trees(&bundle).and_then(|()| check(&bundle)) {
                Ok(()) => Some("was read".to_owned()),
                Err(e) if trees(&bundle).is_err() => Some(format!("gave no trees: {}", text(&e))),
                Err(e) => has(&text(&e), parts),
            },
            (Warning(part), Ok(bundle)) => match check(&bundle) {
                Err(e) => Some(format!("was refused: {}", text(&e))),
                Ok(()) => has(&bundle.warnings().join("; "), &[part]),
            },
            (Fine, Ok(bundle)) => match check(&bundle) {
                Err(e) => Some(format!("was refused: {}", text(&e))),
                Ok(()) if !bundle.warnings().is_empty() => Some(format!("warned: {:?}", bundle.warnings())),
                Ok(()) => None,
            },
        };
        if let Some(error) = error {
            wrong.push(format!("{name}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn has(text: &str, parts: &[&str]) -> Option<String> {
    let all = parts.iter().all(|part| text.contains(part)) && !text.contains('\u{1b}');
    (!all).then(|| format!("said: {text}"))
}

fn trees(bundle: &Bundle) -> Result<()> {
    bundle
        .images()
        .iter()
        .try_for_each(|image| bundle.tree(image).map(drop))
}

#[test]
fn faults_of_the_tar() {
    run(tar_faults());
}

#[test]
fn faults_of_the_content() {
    run(content_faults());
}

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
        (&b"\xfd7zXZ\0\0\0"[..], "xz -d"),
        (b"BZh91AY&SY", "bzip2 -d"),
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

/// Xorshift: the same sequence on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Digests of what would be pushed. Names stand in `index.json`, which no digest covers.
fn pushed(bundle: &Bundle) -> Result<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for image in bundle.images() {
        let tree = bundle.tree(image)?;
        let mut digests: Vec<String> = tree
            .pushed()
            .all()
            .map(|m| format!("{} {}", m.media_type(), m.digest()))
            .collect();
        for blob in tree.blobs() {
            bundle.verify_blob(&blob.descriptor.digest)?;
            digests.push(blob.descriptor.digest.to_string());
        }
        all.push(digests);
    }
    all.sort();
    Ok(all)
}

#[test]
fn random_damage_is_noticed_or_harmless() {
    let (mut layout, _) = two_platforms();
    let other = layout.image("amd64", b"another", true);
    layout.name(other, "quay.io/test/other:1");
    let originals = [layout.tar().end(), docker(|_, _| (), nothing)];
    for (which, original) in originals.iter().enumerate() {
        let expected = pushed(&open_bytes(original).unwrap()).unwrap();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("damaged.tar");
        let (mut refused, mut same) = (0, 0);
        for round in 0..1500 {
            let mut damaged = original.clone();
            match random.below(4) {
                0 => damaged.truncate(random.below(original.len())),
                1 => {
                    let from = random.below(original.len());
                    let to = (from + random.below(2048)).min(original.len());
                    damaged.drain(from..to);
                }
                _ => {
                    for _ in 0..=random.below(4) {
                        let at = random.below(damaged.len());
                        damaged[at] = random.below(256) as u8;
                    }
                }
            }
            std::fs::write(&file, &damaged).unwrap();
            match open(&file, None).and_then(|bundle| pushed(&bundle)) {
                Err(_) => refused += 1,
                Ok(found) => {
                    assert_eq!(found, expected, "archive {which}, round {round}");
                    same += 1;
                }
            }
        }
        assert!(refused > 100 && same > 20, "refused {refused}, same {same}");
    }
}
