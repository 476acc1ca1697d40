//! Parses one tar header strictly: a header that different programs read differently is refused.
//!
//! The `tar` crate parses the fields and numbers; this module adds the checks that a lenient reader omits (POSIX.1-2017
//! `pax`, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format").

use tar::Header;

use super::member_names::{DOCUMENTS, blob_name};
use crate::text::{quote, quote_bytes};

/// Size of a tar block in bytes.
pub(super) const BLOCK: u64 = 512;

/// Maximum length of a member name in bytes.
pub(super) const MAX_NAME: usize = 4096;

/// Maximum size of an extended header's body in bytes.
pub(super) const MAX_EXTENSION: u64 = 1 << 20;

/// Hint for a member or header that no program writes into an archive of images.
pub(super) const NO_IMAGE_HAS_IT: &str = "no archive of images has this: have the archive written again by the program that saved the images, or \
     archive its unpacked files with `tar -cf FILE -C FOLDER .`";

/// The kind of member or extension that a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderKind {
    File,
    Directory,
    HardLink,
    SymbolicLink,
    /// A member of GNU tar that is no file: the list of a folder's files in an incremental archive (`D`), or the label of the
    /// archive (`V`).
    Extra,
    /// A GNU long name (`L`).
    LongName,
    /// A GNU long link target (`K`).
    LongLink,
    /// A pax header for the next member.
    Pax,
    /// A pax header for all following members.
    GlobalPax,
}

/// Verifies the checksum of a header block.
/// A block with a wrong checksum is not a header, and its name field is not a name.
pub(super) fn check_sum(header: &Header) -> Result<(), String> {
    // Most blocks that are no header have no number here, and need no sum: a search goes through many of them.
    let stated = header
        .cksum()
        .map_err(|_| "no tar header (its checksum is not a number)".to_owned())?;
    let bytes = header.as_bytes();
    let sum: u32 = bytes[..148]
        .iter()
        .chain(&bytes[156..])
        .map(|b| u32::from(*b))
        .sum::<u32>()
        + 8 * 32;
    if stated != sum {
        return Err(format!("no tar header (checksum {stated}, its bytes sum to {sum})"));
    }
    Ok(())
}

/// Returns what a header announces, or why the header is refused.
pub(super) fn announces(header: &Header) -> Result<HeaderKind, String> {
    let what = match header.entry_type().as_byte() {
        // NUL is the type of a file in old tars; `7` is a contiguous file, which is stored like any other file.
        0 | b'0' | b'7' => HeaderKind::File,
        b'5' => HeaderKind::Directory,
        b'D' | b'V' => HeaderKind::Extra,
        b'1' => HeaderKind::HardLink,
        b'2' => HeaderKind::SymbolicLink,
        b'L' => HeaderKind::LongName,
        b'K' => HeaderKind::LongLink,
        b'x' => HeaderKind::Pax,
        b'g' => HeaderKind::GlobalPax,
        b'3' | b'4' => return Err("a device".into()),
        b'6' => return Err("a named pipe".into()),
        b'S' => return Err("a sparse file".into()),
        b'M' => return Err("part of a multi-volume archive".into()),
        other => {
            return Err(format!(
                "of the unknown type `{}`",
                quote(&char::from(other).to_string())
            ));
        }
    };
    let extension = matches!(
        what,
        HeaderKind::LongName | HeaderKind::LongLink | HeaderKind::Pax | HeaderKind::GlobalPax
    );
    if extension && header.as_ustar().is_none() && header.as_gnu().is_none() {
        return Err("an extended header without the magic of its format".into());
    }
    Ok(what)
}

/// Returns the size that a header states.
pub(super) fn size(header: &Header) -> Result<u64, String> {
    let field = &header.as_old().size;
    if field[0] & 0x80 != 0 {
        // Base 256: the bytes above a 64-bit number must be zero, otherwise the size is negative or larger than any file.
        if field[0] != 0x80 || field[1..4].iter().any(|b| *b != 0) {
            return Err("its size is negative or too large".into());
        }
    } else if field.iter().all(|b| matches!(b, 0 | b' ')) {
        return Ok(0);
    }
    match header.entry_size() {
        Ok(size) if i64::try_from(size).is_ok() => Ok(size),
        Ok(_) => Err("its size is negative or too large".into()),
        Err(_) => Err("its size is not a number".into()),
    }
}

/// The fields of a pax header that the scan uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
}

/// Parses the records `LENGTH KEY=VALUE\n` of a pax header.
/// Values may contain line feeds, so only the length ends a record.
pub(super) fn pax(mut body: &[u8]) -> Result<Pax, String> {
    let malformed = || "its pax header has a malformed record".to_owned();
    let mut found = Pax::default();
    let mut keys: Vec<&[u8]> = Vec::new();
    while !body.is_empty() {
        let space = body.iter().take(20).position(|b| *b == b' ').ok_or_else(malformed)?;
        let length: usize = std::str::from_utf8(&body[..space])
            .ok()
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .filter(|length| *length > space + 1 && *length <= body.len())
            .ok_or_else(malformed)?;
        let (record, rest) = body.split_at(length);
        body = rest;
        let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(malformed)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if keys.contains(&key) {
            return Err(format!("its pax header has `{}` twice", quote_bytes(key)));
        }
        if keys.len() == 1000 {
            return Err("its pax header has more than 1000 records".into());
        }
        keys.push(key);
        if key.starts_with(b"GNU.sparse.") {
            return Err("a sparse file".into());
        }
        // An empty value deletes the value of an earlier header, which does not exist at this point.
        let value = Some(value).filter(|value| !value.is_empty());
        match key {
            b"path" => found.path = value.map(<[u8]>::to_vec),
            b"linkpath" => found.link_path = value.map(<[u8]>::to_vec),
            b"size" => {
                found.size = value
                    .map(|value| {
                        std::str::from_utf8(value)
                            .ok()
                            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
                            .and_then(|digits| digits.parse::<u64>().ok())
                            .filter(|size| i64::try_from(*size).is_ok())
                            .ok_or_else(|| "its pax header has a wrong `size`".to_owned())
                    })
                    .transpose()?;
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Normalizes a member name: removes `./` and double slashes.
/// Returns `None` for a name that is not UTF-8.
pub(super) fn clean_name(name: &[u8]) -> Result<Option<String>, String> {
    let wrong = |why: &str| Err(format!("the member name `{}` {why}", quote_bytes(name)));
    if name.len() > MAX_NAME {
        return wrong(&format!("has {} bytes; at most {MAX_NAME} are accepted", name.len()));
    }
    if name.contains(&0) {
        return wrong("holds a NUL");
    }
    if name.contains(&b'\\') {
        return wrong("holds a backslash");
    }
    if name.starts_with(b"/") || (name.len() >= 2 && name[0].is_ascii_alphabetic() && name[1] == b':') {
        return wrong("is absolute");
    }
    if name.split(|b| *b == b'/').any(|part| part == b"..") {
        return wrong("leads out of the archive");
    }
    let Ok(name) = std::str::from_utf8(name) else {
        return Ok(None);
    };
    let parts: Vec<&str> = name
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    Ok(Some(parts.join("/")))
}

/// Resolves a link target to a member name.
/// A symbolic link is relative to its folder, a hard link to the archive.
pub(super) fn link_target(member: &str, target: &[u8], symbolic: bool) -> Result<String, String> {
    let outside = || format!("the link leads out of the archive, to `{}`", quote_bytes(target));
    let text = std::str::from_utf8(target).map_err(|_| outside())?;
    if text.starts_with('/') {
        return Err(format!(
            "the link leads out of the archive: its target `{}` is absolute",
            quote(&text)
        ));
    }
    if text.is_empty() || text.contains(['\0', '\\']) || text.len() > MAX_NAME {
        return Err(outside());
    }
    let mut parts: Vec<&str> = match member.rsplit_once('/') {
        Some((folder, _)) if symbolic => folder.split('/').collect(),
        _ => Vec::new(),
    };
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(outside)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Returns whether a block is the header of a blob, or of a document that lists images.
pub(super) fn begins_member(header: &Header) -> bool {
    let is_file = || matches!(announces(header), Ok(HeaderKind::File));
    let is_expected = |name: &str| blob_name(name).is_some() || DOCUMENTS.contains(&name);
    check_sum(header).is_ok() && is_file() && plain_name(header).as_deref().is_some_and(is_expected)
}

/// Returns whether a header is the header of a document that the scan has met.
pub(super) fn is_met(met: &[bool; DOCUMENTS.len()], header: &Header) -> bool {
    let name = plain_name(header);
    let mut documents = DOCUMENTS.iter().zip(met);
    documents.any(|(document, is_met)| *is_met && name.as_deref() == Some(document))
}

/// Returns the name in a header; `None` if it is not UTF-8.
fn plain_name(header: &Header) -> Option<String> {
    let name = String::from_utf8(header.path_bytes().into_owned()).ok()?;
    Some(name.strip_prefix("./").map(str::to_owned).unwrap_or(name))
}

/// Returns the value that is set; fails if both values are set and differ.
pub(super) fn one_of(first: Option<Vec<u8>>, second: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, ()> {
    match (first, second) {
        (Some(first), Some(second)) if first != second => Err(()),
        (first, second) => Ok(first.or(second)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pax record with its length.
    fn record(text: &str) -> Vec<u8> {
        let length = (text.len()..)
            .find(|n| *n == text.len() + n.to_string().len() + 2)
            .unwrap();
        format!("{length} {text}\n").into_bytes()
    }

    #[test]
    fn pax_records() {
        let body = [
            record("path=a/b"),
            record("size=42"),
            record("comment=line\nx="),
            record("linkpath="),
        ]
        .concat();
        assert_eq!(
            pax(&body).unwrap(),
            Pax {
                path: Some(b"a/b".to_vec()),
                link_path: None,
                size: Some(42)
            }
        );
        for (records, why) in [
            (&["size=42", "size=42"][..], "`size` twice"),
            (&["size=-2"], "wrong `size`"),
            (&["size=+2"], "wrong `size`"),
            (&["size=9223372036854775808"], "wrong `size`"),
            (&["size=99999999999999999999999"], "wrong `size`"),
            (&["GNU.sparse.major=1"], "sparse"),
            (&["no equals sign"], "malformed"),
        ] {
            let body: Vec<u8> = records.iter().flat_map(|text| record(text)).collect();
            let error = pax(&body).unwrap_err();
            assert!(error.contains(why), "{records:?}: {error}");
        }
        for bad in [
            &b"11 size=42"[..],
            b"99 size=42\n",
            b"1 \n",
            b"5 ab\n",
            b"+11 size=2\n",
            b"\xff\xff\xff",
            b"12\n",
        ] {
            assert!(
                pax(bad).unwrap_err().contains("malformed"),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn names() {
        for (name, cleaned) in [
            ("./a//b/./c/", "a/b/c"),
            ("a..b", "a..b"),
            ("sha256:ab", "sha256:ab"),
            ("./", ""),
        ] {
            assert_eq!(clean_name(name.as_bytes()).unwrap().as_deref(), Some(cleaned));
        }
        assert_eq!(clean_name(b"\xff").unwrap(), None);
        for bad in ["../x", "a/../b", "/etc/passwd", "C:\\x", "c:/x", "a\\b", "a\0b", "a/.."] {
            assert!(clean_name(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(clean_name(&[b'a'; MAX_NAME + 1]).is_err());
    }

    #[test]
    fn links() {
        assert_eq!(
            link_target("a/layer.tar", b"../b/layer.tar", true).unwrap(),
            "b/layer.tar"
        );
        assert_eq!(
            link_target("a/layer.tar", b"b/layer.tar", false).unwrap(),
            "b/layer.tar"
        );
        for bad in ["../../x", "/x", "", "..\\x"] {
            assert!(link_target("a/b", bad.as_bytes(), true).is_err(), "{bad:?}");
        }
        assert!(link_target("a/b", b"../x", false).is_err());
    }
}
