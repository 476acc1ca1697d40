//! Header blocks of tar members (POSIX ustar with GNU extensions), always the same for the same name and size.

use crate::error::{Error, Kind, Result};

/// Size of a tar block in bytes; every member starts at a multiple of it.
pub(super) const BLOCK: u64 = 512;

/// Maximum length in bytes of a name that fits into the header block.
const SHORT_NAME: usize = 100;

/// Returns the number of zero bytes after a member of this size.
pub(super) fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// Builds all header blocks of a regular file: mode 0644, owner 0, time 0.
///
/// A size of 8 GiB or more is written in base 256, as GNU tar does, and not as a PAX record: a reader that reopens
/// members by their last header block (the tar file system of oras) loses a PAX size. A name over 100 bytes gets a GNU
/// long name.
pub(super) fn member(name: &str, size: u64) -> Result<Vec<u8>> {
    let mut blocks = Vec::new();
    if name.len() > SHORT_NAME {
        let mut long = tar::Header::new_gnu();
        set(
            &mut long,
            "././@LongLink",
            name.len() as u64 + 1,
            tar::EntryType::GNULongName,
        )?;
        blocks.extend_from_slice(long.as_bytes());
        blocks.extend_from_slice(name.as_bytes());
        let end = (name.len() as u64 + 1).next_multiple_of(BLOCK) + BLOCK;
        blocks.resize(usize::try_from(end).unwrap_or(usize::MAX), 0);
    }
    let mut header = tar::Header::new_gnu();
    set(
        &mut header,
        &name[..name.len().min(SHORT_NAME)],
        size,
        tar::EntryType::Regular,
    )?;
    blocks.extend_from_slice(header.as_bytes());
    Ok(blocks)
}

fn set(header: &mut tar::Header, name: &str, size: u64, kind: tar::EntryType) -> Result<()> {
    // Not `set_path`, which strips `./` from the name that marks a GNU long name.
    let field = &mut header.as_old_mut().name;
    let bytes = name.as_bytes();
    field
        .get_mut(..bytes.len())
        .ok_or_else(|| Error::new(Kind::Malformed, format!("member name `{name}` is too long")))?
        .copy_from_slice(bytes);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_long_names_read_back() {
        for (name, size) in [
            ("index.json".to_owned(), 5),
            (format!("blobs/sha512/{}", "a".repeat(128)), 7),
            (format!("blobs/sha256/{}", "b".repeat(64)), 9 << 30),
        ] {
            let mut bytes = member(&name, size).unwrap();
            assert_eq!(bytes.len() as u64 % BLOCK, 0);
            if size < 100 {
                bytes.resize(bytes.len() + 2048, 0);
            }
            let mut archive = tar::Archive::new(bytes.as_slice());
            let entry = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!(entry.path().unwrap().to_str().unwrap(), name);
            assert_eq!(entry.size(), size);
            assert_eq!(entry.header().mode().unwrap(), 0o644);
            assert_eq!(entry.header().mtime().unwrap(), 0);
        }
    }
}
