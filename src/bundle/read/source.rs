//! Files that blobs are read from, with a check that each file is still the file that was indexed.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use rustix::io::Errno;

use crate::error::{Error, Kind, Result, missing_path_hint};
use crate::files;
use crate::files::positional::ReadAt;
use crate::files::{Folder, Identity, MAX_HOLES, is_hollow};
use crate::progress::human_bytes;
use crate::text::{self, byte_count, quote};

/// A file or memory, in the state in which it was indexed.
#[derive(Debug)]
pub(super) struct Source {
    /// Name in messages; for a spooled copy, the name of the original archive.
    label: String,
    content: Content,
    length: u64,
    modified: Option<SystemTime>,
    is_original: bool,
    /// The part that the disk cannot read, in tests.
    #[cfg(test)]
    pub(super) bad_sectors: std::ops::Range<u64>,
}

/// The storage of a source.
#[derive(Debug)]
enum Content {
    /// An archive, which is kept open.
    File(File),
    /// A file of a layout directory. It is opened for each read, since a layout may have more
    /// files than a process may keep open. A read accepts only the indexed file, and only beneath the opened directory.
    Beneath {
        folder: Arc<Folder>,
        path: PathBuf,
        identity: Identity,
    },
    /// Bytes in memory: the front of a bundle from a pipe.
    Memory(Bytes),
}

impl Source {
    fn new(label: String, content: Content, length: u64) -> Self {
        Self {
            label,
            content,
            length,
            modified: None,
            is_original: false,
            #[cfg(test)]
            bad_sectors: 0..0,
        }
    }

    /// Creates a source for the content of a file as it is.
    fn original(label: String, content: Content, metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            is_original: true,
            ..Self::new(label, content, metadata.len())
        }
    }

    /// Opens an archive and keeps it open.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = files::open_regular(path).map_err(|e| missing_or_io(path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io("read", path, e))?;
        Ok(Self::original(text::path(path), Content::File(file), &metadata))
    }

    /// Creates a source for a file of a layout directory, opened at each read.
    /// `path` is relative to the directory.
    pub(super) fn beneath(folder: &Arc<Folder>, path: &Path, metadata: &Metadata) -> Self {
        let content = Content::Beneath {
            folder: folder.clone(),
            path: path.to_owned(),
            identity: metadata.into(),
        };
        Self::original(text::path(&folder.path().join(path)), content, metadata)
    }

    /// Creates a source for a temporary file with the unpacked content of `label`.
    pub(super) fn spooled(label: &str, file: File) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| Error::io("read", Path::new(label), e))?;
        Ok(Self::new(label.to_owned(), Content::File(file), metadata.len()))
    }

    /// Creates a source for bytes in memory that were read from `label`.
    pub(super) fn memory(label: &str, bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        Self::new(label.to_owned(), Content::Memory(bytes.into()), length)
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Returns whether this source is an archive with members, not a file of a layout directory.
    pub(super) fn is_archive(&self) -> bool {
        !matches!(self.content, Content::Beneath { .. })
    }

    /// Returns whether this source holds the original bytes of a file,
    /// not bytes unpacked from a file.
    pub(super) fn is_original(&self) -> bool {
        self.is_original && matches!(self.content, Content::File(_))
    }

    /// Returns the file, if it is kept open.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.content {
            Content::File(file) => Some(file),
            _ => None,
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Fills the buffer from `offset` on.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the file was replaced or has another length since it was indexed.
    pub(super) fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        #[cfg(test)]
        if offset < self.bad_sectors.end && self.bad_sectors.start < offset + buffer.len() as u64 {
            return Err(read_failed(&self.label, Errno::IO.into()));
        }
        match &self.content {
            Content::File(file) => self.read_from(file, offset, buffer),
            Content::Memory(bytes) => self.read_from(bytes, offset, buffer),
            Content::Beneath { folder, path, identity } => {
                let file = self.open_beneath(folder, path, *identity)?;
                self.read_from(&file, offset, buffer)
            }
        }
    }

    /// Returns whether a read failed since the disk cannot read a part of the file; other parts may be readable.
    pub(super) fn is_bad_sector(error: &Error) -> bool {
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
        let errno = cause.and_then(Errno::from_io_error);
        matches!(errno, Some(Errno::IO | Errno::NODATA | Errno::BADMSG | Errno::REMOTEIO))
    }

    /// Opens a file of a folder, which must still be the file that was indexed.
    fn open_beneath(&self, folder: &Folder, path: &Path, identity: Identity) -> Result<File> {
        let file = folder.open_beneath(path).map_err(|e| match e.kind() {
            // The file was a regular file of the folder when it was indexed.
            std::io::ErrorKind::Other => self.replaced().with_source(e),
            _ => missing_or_io(&folder.path().join(path), e),
        })?;
        let found = file
            .metadata()
            .map_err(|e| Error::io("read", Path::new(&self.label), e))?;
        match Identity::from(&found) == identity {
            true => Ok(file),
            false => Err(self.replaced()),
        }
    }

    /// Returns whether a range consists nearly all of holes of a sparse file, which would take hours to read.
    pub(super) fn is_hollow(&self, offset: u64, length: u64) -> Result<bool> {
        if length <= MAX_HOLES {
            return Ok(false);
        }
        Ok(match &self.content {
            Content::File(file) => is_hollow(file, offset, length),
            Content::Memory(_) => false,
            Content::Beneath { folder, path, identity } => {
                is_hollow(&self.open_beneath(folder, path, *identity)?, offset, length)
            }
        })
    }

    fn read_from(&self, bytes: &impl ReadAt, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let now = bytes.length().map_err(|e| read_failed(&self.label, e))?;
        // A changed length shows that the file was written to, even if the wanted bytes can be read.
        if now != self.length {
            return Err(self.changed(now));
        }
        match bytes.fill_at(buffer, offset) {
            Ok(filled) if filled == buffer.len() => Ok(()),
            Ok(filled) => Err(self.changed(offset + filled as u64)),
            Err(e) => Err(read_failed(&self.label, e)),
        }
    }

    /// Returns whether the modification time of the file changed since the file was indexed.
    pub(super) fn was_modified(&self) -> bool {
        let Some(before) = self.modified else { return false };
        let metadata = match &self.content {
            Content::File(file) => file.metadata(),
            Content::Memory(_) => return false,
            Content::Beneath { folder, path, .. } => folder.open_beneath(path).and_then(|file| file.metadata()),
        };
        metadata.and_then(|m| m.modified()).is_ok_and(|now| now != before)
    }

    fn replaced(&self) -> Error {
        let why = format!("`{}` was replaced while the folder was read", self.label);
        Error::new(Kind::Integrity, why).with_hint("run the command again when nothing writes to the folder any more")
    }

    fn changed(&self, now: u64) -> Error {
        Error::new(
            Kind::Integrity,
            format!(
                "`{}` was changed while it was read: it had {} and has {now}",
                self.label,
                byte_count(self.length)
            ),
        )
        .with_hint("run the command again when nothing writes to the file any more")
    }
}

/// Returns the error for a failed read, with a hint for the disk or its connection.
fn read_failed(label: &str, e: std::io::Error) -> Error {
    let hint = match Errno::from_io_error(&e) {
        Some(Errno::IO | Errno::NODATA | Errno::BADMSG | Errno::REMOTEIO) => {
            "the disk or its cable has errors: copy the bundle from its origin again; or copy what can be read to another disk \
             (`dd bs=4096 conv=noerror,sync if=FILE of=COPY`), and `docker-mirror verify COPY --want LIST` finds what is missing"
        }
        Some(Errno::NXIO | Errno::NODEV | Errno::NOMEDIUM | Errno::SHUTDOWN) => {
            "the disk is no longer there: connect it again and run the same command, which sends what is not at the registry yet"
        }
        Some(Errno::STALE | Errno::NOTCONN | Errno::HOSTDOWN | Errno::TIMEDOUT | Errno::CONNABORTED) => {
            "the network file system lost the file: mount it again and run the same command, which sends what is not at the \
             registry yet"
        }
        _ => return Error::io("read", Path::new(label), e),
    };
    Error::io("read", Path::new(label), e).with_hint(hint)
}

fn missing_or_io(path: &Path, e: std::io::Error) -> Error {
    if e.kind() == std::io::ErrorKind::NotFound {
        Error::new(Kind::NotFound, format!("`{}` does not exist", quote(&path))).with_hint(missing_path_hint(path))
    } else {
        Error::io("open", path, e)
    }
}

/// The position of a member's content in a source.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) source: Arc<Source>,
    /// Name of the member in its archive or directory;
    /// `None` for a blob under its regular name, to save memory.
    pub(super) member: Option<Box<str>>,
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Extent {
    /// Fills the buffer from `offset` of the content on, up to the end of the content.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if offset == 0 && self.source.is_hollow(self.offset, self.size)? {
            let (label, size) = (quote(&self.source.label), human_bytes(self.size));
            let why = format!(
                "`{label}` is a sparse file: nearly nothing of the {size} at offset {} is there",
                self.offset
            );
            return Err(Error::new(Kind::Malformed, why)
                .with_hint("it was truncated or never written to its end: copy it again, and compare checksums"));
        }
        let left = self.size.saturating_sub(offset);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if count > 0 {
            self.source.read_exact_at(self.offset + offset, &mut buffer[..count])?;
        }
        Ok(count)
    }

    /// Reads the whole content, up to `cap` bytes. `name` is the member's name in messages if
    /// `self.member` is `None`.
    pub(super) fn read_all(&self, name: &str, cap: u64) -> Result<Vec<u8>> {
        if self.size > cap {
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "{}: {} bytes; at most {cap} are accepted",
                    self.describe(name),
                    self.size
                ),
            ));
        }
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
        self.source.read_exact_at(self.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Describes the place for messages: file, member and offset.
    /// `name` is used if `self.member` is `None`.
    pub(super) fn describe(&self, name: &str) -> String {
        let name = self.member.as_deref().unwrap_or(name);
        if matches!(self.source.content, Content::Beneath { .. }) {
            return format!("`{}`", quote(&self.source.label));
        }
        format!(
            "`{}`: member `{}` at offset {}",
            quote(&self.source.label),
            quote(&name),
            self.offset
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::positional::contract::check_reads;

    struct Whole(Source);

    impl ReadAt for Whole {
        fn length(&self) -> std::io::Result<u64> {
            Ok(self.0.length())
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            let left = usize::try_from(self.0.length().saturating_sub(offset)).unwrap();
            let count = buffer.len().min(left);
            let read = self.0.read_exact_at(offset.min(self.0.length()), &mut buffer[..count]);
            read.map(|()| count).map_err(std::io::Error::other)
        }
    }

    #[test]
    fn a_file_a_file_of_a_folder_and_memory_are_read_alike() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..100).collect();
        let path = folder.path().join("blob");
        std::fs::write(&path, &bytes).unwrap();
        let beneath = Arc::new(Folder::open(folder.path()).unwrap());
        let metadata = path.metadata().unwrap();
        check_reads(&Whole(Source::open(&path).unwrap()));
        check_reads(&Whole(Source::beneath(&beneath, Path::new("blob"), &metadata)));
        check_reads(&Whole(Source::memory("a pipe", bytes)));
    }
}
