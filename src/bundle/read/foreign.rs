//! Recognizes files that are not image archives by their first bytes, and gives a hint for each kind.

use super::find;
use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// A kind of file that is not an image archive.
pub(super) struct Foreign {
    /// Name of the kind: a noun with its article.
    what: &'static str,
    /// The next step for the user.
    hint: &'static str,
}

impl Foreign {
    /// Returns the error for the file `label` of this kind.
    pub(super) fn error(self, label: &str, why: &str) -> Error {
        let what = format!("`{}` is not a tar archive but {}: {why}", quote(&label), self.what);
        Error::new(Kind::Malformed, what).with_hint(self.hint)
    }
}

/// Hint for a file that has nothing to do with images.
pub(super) const NO_ARCHIVE: &str = "this is not an archive of images: name a bundle of `docker-mirror export`, or an archive of docker, \
     podman, skopeo or another program; a list of images is for `docker-mirror export --images FILE`";
const DOWNLOAD: &str =
    "the download gave a page or a message instead of the file: look at its text, and download it again";
const DECRYPT: &str = "decrypt it, and import what comes out";
const OTHER_FORMAT: &str = "this is not an archive of images: save the image with `docker save`, `podman save` or `skopeo copy ... oci-archive:FILE`";
const CONVERTED: &str = "a program took the archive for text and changed its bytes, as `>` in PowerShell does: write it again with \
     an option that names the file, such as `docker save -o FILE` or `docker-mirror export -o FILE`";
const TWICE: &str = "unpack it once, and import what comes out";
const DISK: &str = "if a bundle is in it, mount it (`mount -o ro,loop FILE FOLDER`), and import the bundle";
const FOLDER: &str =
    "it is one file of an image layout or of an archive: name the folder that holds all of them, or the archive";
const NAME_BUNDLE: &str = "it tells about a bundle: name the bundle itself";
const APPLE_DOUBLE: &str = "import the file without `._` in its name; `find . -name '._*' -delete` removes such files";
const LFS: &str = "fetch the content that it stands for with `git lfs pull`";

/// Documents that belong to bundles, by their first field, with names and hints.
const DOCUMENTS: &[(&str, &str, &str)] = &[
    (
        "lockVersion",
        "a lock of docker-mirror",
        "`docker-mirror export --lock FILE -o BUNDLE.tar` exports what it pins",
    ),
    (
        "reportVersion",
        "the report of a run of docker-mirror",
        "name the bundle itself; `docker-mirror export --lock FILE -o BUNDLE.tar` exports what the report lists",
    ),
    ("inspectVersion", "a document of `docker-mirror inspect`", NAME_BUNDLE),
    ("verifyVersion", "a document of `docker-mirror verify`", NAME_BUNDLE),
    ("diffVersion", "a document of `docker-mirror diff`", NAME_BUNDLE),
    (
        "journalVersion",
        "the journal of an export that is not finished",
        "run the export again, which completes the bundle",
    ),
    ("formatVersion", "the record of a bundle (`docker-mirror.json`)", FOLDER),
    ("imageLayoutVersion", "the file `oci-layout` of an image layout", FOLDER),
    ("schemaVersion", "an index or a manifest (such as `index.json`)", FOLDER),
    ("manifests", "an index (such as `index.json`)", FOLDER),
    ("mediaType", "an index or a manifest (such as `index.json`)", FOLDER),
];

/// Size of an empty tar in bytes: two blocks of zeros.
pub(super) const EMPTY_TAR: usize = 1024;

/// Offset of the signature of a disk's first block, which images of discs that boot have as well.
const BOOT_SIGNATURE_AT: usize = 510;

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
    // The compression of the file itself was undone before: these are what is in it.
    (b"\x1f\x8b", "a gzip file that was compressed again", TWICE),
    (b"(\xb5/\xfd", "a zstd file that was compressed again", TWICE),
    (b"\xfd7zXZ\0", "an xz file that was compressed again", TWICE),
    (b"BZh", "a bzip2 file that was compressed again", TWICE),
    (b"PK\x03\x04", "a zip archive that was compressed again", TWICE),
    (b"PK\x05\x06", "an empty zip archive", OTHER_FORMAT),
    (
        b"docker-mirror want-list ",
        "a want-list of docker-mirror",
        "`docker-mirror export --want FILE -o SUPPLEMENT.tar` fetches what it lists",
    ),
    (
        b"<!doctype html>\n<!-- docker-mirror inspect -->",
        "a page of `docker-mirror inspect --html`",
        NAME_BUNDLE,
    ),
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
    if head
        .get(BOOT_SIGNATURE_AT..)
        .is_some_and(|end| end.starts_with(b"\x55\xaa"))
    {
        let what = "an image of a disk or a disc";
        return Some(Foreign { what, hint: DISK });
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
        () if begins("{") => document(text),
        () if find::is_list_of_images(text) => ("the `manifest.json` of an archive", FOLDER),
        () if begins("[") => ("a JSON document", NO_ARCHIVE),
        () => ("a text", NO_ARCHIVE),
    };
    Some(Foreign { what, hint })
}

/// Recognizes a JSON object by its first field.
fn document(text: &[u8]) -> (&'static str, &'static str) {
    let first = text.split(|byte| *byte == b'"').nth(1).unwrap_or_default();
    let known = DOCUMENTS.iter().find(|(field, ..)| field.as_bytes() == first);
    match known {
        Some((_, what, hint)) => (what, hint),
        // Registries and web servers report errors in these fields.
        None if [&b"errors"[..], b"error", b"message", b"code", b"status"].contains(&first) => {
            ("a JSON document", DOWNLOAD)
        }
        None => ("a JSON document", NO_ARCHIVE),
    }
}

/// Recognizes a file that begins with zeros, as an empty tar does. `rest` are the bytes behind its first two blocks.
///
/// # Errors
/// [`Kind::Malformed`] if the file is of a known kind.
pub(super) fn check_behind_zeros(rest: &[u8], label: &str) -> Result<()> {
    let has = |at: usize, magic: &[u8]| rest.get(at - EMPTY_TAR..).is_some_and(|from| from.starts_with(magic));
    let what = match () {
        // ISO 9660 (ECMA-119, section 8.1) and UDF (ECMA-167, part 2, section 9.1).
        () if has(0x8001, b"CD001") || has(0x8001, b"BEA01") => "an ISO image",
        () if has(0x438, b"\x53\xef") => "an image of a disk (ext4)",
        () => return Ok(()),
    };
    Err(Foreign { what, hint: DISK }.error(label, "it begins with zeros"))
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
