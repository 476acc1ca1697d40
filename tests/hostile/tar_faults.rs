//! Faults of the tar itself: headers, names, types, sizes, its end.

use serde_json::json;

use super::Expect::{Fine, Open, Warning};
use super::{Case, docker, first_blob, flip, good, is_layer, patched, unmarked, with_member};
use crate::archives::{Tar, header, path};

pub(crate) fn cases() -> Vec<Case> {
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
            Open(&["leads out", "`/etc/passwd` is absolute"]),
        ),
        (
            "r02 linked folder",
            || {
                docker(
                    |items, _| items[0]["Layers"][0] = json!("d/b/layer.tar"),
                    |t| t.symlink("d/b", "../c").symlink("c", "a"),
                )
            },
            Warning("digests are new"),
        ),
        (
            "r02 loop of linked folders",
            || {
                docker(
                    |items, _| items[0]["Layers"][0] = json!("b/layer.tar"),
                    |t| t.symlink("b", "b/b"),
                )
            },
            Open(&["8 links"]),
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
            Open(&["not a number"]),
        ),
        (
            "r05 more than there is",
            || with_member(|t| t.raw(&header(b"x", 1 << 40 >> 8, b'0', b""))),
            Open(&["offset", "of which the archive holds", "truncated"]),
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
            Open(&["inside a header", "truncated"]),
        ),
        (
            "r06 cut in a body",
            || {
                let mut b = unmarked();
                let n = b.len();
                b.truncate(n - 600);
                b
            },
            Open(&["offset", "truncated"]),
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
            Warning("7 bytes after the end"),
        ),
        (
            "r07 second archive",
            || {
                let mut b = good().tar().end();
                b.extend(with_member(|t| t.file("../x", b"")));
                b
            },
            Warning("after the end"),
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
            Open(&["member `index.json` at offset", "twice with different bytes"]),
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
            Open(&["blobs/sha256/", "twice with different bytes"]),
        ),
        ("empty", Vec::new, Open(&["bundle.tar", "is empty"])),
        (
            "no tar",
            || b"hello world, this is a text file\n".repeat(50),
            Open(&["is not a tar archive", "no tar header"]),
        ),
        ("short text", || b"hello world".to_vec(), Open(&["inside a header"])),
        ("empty tar", || vec![0; 10240], Open(&["not an image archive"])),
        (
            "any tar",
            || Tar::default().file("README", b"x").end(),
            Open(&["not an image archive", "docker save"]),
        ),
    ]
}
