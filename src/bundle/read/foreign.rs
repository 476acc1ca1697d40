//! Recognizes files that are not image archives by their first bytes, and gives a hint for each kind.

/// A kind of file that is not an image archive.
pub(super) struct Foreign {
    /// Name of the kind: a noun with its article.
    pub(super) what: &'static str,
    /// The next step for the user.
    pub(super) hint: &'static str,
}

const DOWNLOAD: &str =
    "the download gave a page or a message instead of the file: look at its text, and download it again";
const DECRYPT: &str = "decrypt it, and import what comes out";
const OTHER_FORMAT: &str = "this is not an archive of images: save the image with `docker save`, `podman save` or `skopeo copy ... oci-archive:FILE`";
const CONVERTED: &str = "a program took the archive for text and changed its bytes, as `>` in PowerShell does: write it again with \
     an option that names the file, such as `docker save -o FILE` or `docker-mirror export -o FILE`";
const APPLE_DOUBLE: &str = "import the file without `._` in its name; `find . -name '._*' -delete` removes such files";
const LFS: &str = "fetch the content that it stands for with `git lfs pull`";

/// Offset of the magic in a tar header; older tar formats have none.
const TAR_MAGIC_AT: usize = 257;

/// Magic bytes, names and hints of files that are not image archives.
const MAGIC: &[(&[u8], &str, &str)] = &[
    (
        b"\x00\x05\x16\x07",
        "an AppleDouble file, in which macOS keeps attributes of the file beside it",
        APPLE_DOUBLE,
    ),
    (b"\x00\x05\x16\x00", "an AppleSingle file of macOS", OTHER_FORMAT),
    (
        b"version https://git-lfs.github.com/",
        "a pointer of Git LFS, not the file itself",
        LFS,
    ),
    (b"age-encryption.org/", "a file that age encrypted", DECRYPT),
    (b"-----BEGIN AGE ENCRYPTED", "a file that age encrypted", DECRYPT),
    (b"-----BEGIN PGP MESSAGE", "a file that GnuPG encrypted", DECRYPT),
    (b"\x8c\x0d\x04", "a file that GnuPG encrypted", DECRYPT),
    (b"Salted__", "a file that openssl encrypted", DECRYPT),
    (b"-----BEGIN ", "a signature, a certificate or a key", OTHER_FORMAT),
    // Invalid UTF-8 was replaced by U+FFFD: here the second byte of gzip's magic, and of zstd's.
    (
        b"\x1f\xef\xbf\xbd\x08",
        "a gzip file whose bytes were changed",
        CONVERTED,
    ),
    (
        b"(\xef\xbf\xbd/\xef\xbf\xbd",
        "a zstd file whose bytes were changed",
        CONVERTED,
    ),
    (b"hsqs", "a squashfs image", OTHER_FORMAT),
    (
        b"#!/usr/bin/env run-singularity",
        "an image of Singularity",
        OTHER_FORMAT,
    ),
    (b"#!", "a script", OTHER_FORMAT),
    (
        b"!<arch>\n",
        "a package of Debian, or another archive of `ar`",
        OTHER_FORMAT,
    ),
    (b"\xed\xab\xee\xdb", "an RPM package", OTHER_FORMAT),
    (b"070701", "an archive of cpio", OTHER_FORMAT),
    (b"070707", "an archive of cpio", OTHER_FORMAT),
    (
        b"Rar!\x1a\x07",
        "an archive of RAR",
        "unpack it with `unrar x`, and import what is in it",
    ),
    (b"%PDF", "a PDF document", OTHER_FORMAT),
    (b"\x7fELF", "a program", OTHER_FORMAT),
    (b"MZ", "a program for Windows", OTHER_FORMAT),
    (b"QFI\xfb", "a disk image", OTHER_FORMAT),
    (b"KDMV", "a disk image", OTHER_FORMAT),
];

/// Recognizes a file that does not start like a tar, from its first bytes.
pub(super) fn recognise(head: &[u8]) -> Option<Foreign> {
    if head.get(TAR_MAGIC_AT..).is_some_and(|rest| rest.starts_with(b"ustar")) {
        return None;
    }
    let known = MAGIC.iter().find(|(magic, ..)| head.starts_with(magic));
    if let Some((_, what, hint)) = known {
        return Some(Foreign { what, hint });
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        let what = "text in UTF-16";
        return Some(Foreign { what, hint: CONVERTED });
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..);
    // A single word may be the start of a member name in a truncated tar.
    let is_word = text
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'/'));
    if is_word || !text.iter().all(is_text) {
        return None;
    }
    let begins = |with: &str| {
        text.get(..with.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(with.as_bytes()))
    };
    let (what, hint) = match () {
        () if begins("<!doctype html") || begins("<html") => ("a web page", DOWNLOAD),
        () if begins("<?xml") || begins("<error") => ("an XML document", DOWNLOAD),
        () if begins("{") || begins("[") => ("a JSON document", DOWNLOAD),
        () => (
            "a text",
            "this is not an archive of images: name a bundle of `docker-mirror export`, or an archive of docker, podman, skopeo or \
             another program",
        ),
    };
    Some(Foreign { what, hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_first_bytes() {
        for (head, expected) in [
            (&b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "[..], "AppleDouble"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
            (b"\xff\xfeo\0c\0i\0", "UTF-16"),
            (b"\xfe\xff\0o\0c\0i", "UTF-16"),
            (b"\xef\xbb\xbf\r\n<!DocType HTML>", "web page"),
            (b"<?xml version=\"1.0\"?><Error>", "XML"),
            (b"{\"errors\":[]}", "JSON"),
            (b"d7c5  app.tar\n", "a text"),
            (b"gr\xc3\xbc\xc3\x9fe\n", "a text"),
            (b"-----BEGIN PGP MESSAGE-----", "encrypted"),
            (b"-----BEGIN PGP SIGNATURE-----", "signature"),
            (b"\x1f\xef\xbf\xbd\x08\0\0", "gzip"),
        ] {
            let found = recognise(head).map_or("nothing", |foreign| foreign.what);
            assert!(found.contains(expected), "{found} for {expected}");
        }
        for head in [&b""[..], b"\0\0\0", b"oci-lay", b"oci-layout\0\0", b"\x01\x02"] {
            assert!(recognise(head).is_none());
        }
    }
}
