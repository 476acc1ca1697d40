//! Detects by experiment what the file system under an output can do.
//!
//! Magic numbers distinguish FAT from ext4, but a USB stick may also come through FUSE, a network or a future driver. Two
//! properties matter, and both can be measured on the file itself: the largest offset of a file, and the cost of a gap in
//! a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;

use crate::error::{Error, Kind, Result};
use crate::files::parent_of;
use crate::text::quote;

/// Size of the gap that the test makes, in bytes.
/// A file system without sparse files writes this many zeros.
const GAP: u64 = 1 << 20;

/// Limits and abilities of the file system under a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Maximum size of a file in bytes, if the file system has such a limit.
    pub max_file: Option<u64>,
    /// Maximum size in bytes of a file that this process may write (`ulimit -f`).
    pub process_limit: Option<u64>,
    /// Whether a gap in a file takes no room.
    /// Without sparse files (FAT, exFAT), the system fills a gap with zeros.
    pub sparse: bool,
    /// Bytes that this user may still write.
    pub free: u64,
    /// Total size of the file system in bytes, used or free.
    pub size: u64,
}

impl FileSystem {
    /// Checks that the file system can hold a file of `total` bytes,
    /// of which `allocated` bytes exist already.
    ///
    /// `human` formats sizes.
    ///
    /// # Errors
    /// [`Kind::NoSpace`], with the missing number of bytes or the maximum size of a file.
    pub fn holds(&self, total: u64, allocated: u64, target: &Path, human: impl Fn(u64) -> String) -> Result<()> {
        self.allows(total, "the bundle", target, &human)?;
        let needed = total.saturating_sub(allocated);
        if needed > self.free {
            return Err(Error::new(
                Kind::NoSpace,
                format!(
                    "the bundle needs {} more at `{}`, but only {} are free: {} are missing",
                    human(needed),
                    quote(&target),
                    human(self.free),
                    human(needed - self.free)
                ),
            )
            .with_hint(
                "make room, or choose another place with `-o`; fewer platforms (`--platform`) make it smaller",
            ));
        }
        Ok(())
    }

    /// Checks that `target` could hold an image if the file system were otherwise empty.
    /// `human` formats sizes.
    ///
    /// # Errors
    /// [`Kind::NoSpace`], with the maximum size of a file.
    pub fn check_image_fits(&self, image: u64, target: &Path, human: impl Fn(u64) -> String) -> Result<()> {
        self.allows(image, "the image", target, &human)?;
        if image > self.size {
            return Err(Error::new(
                Kind::NoSpace,
                format!(
                    "the image has {}, and the whole file system of `{}` has only {}",
                    human(image),
                    quote(&target),
                    human(self.size)
                ),
            )
            .with_hint("choose another place with `-o`; fewer platforms (`--platform`) make it smaller"));
        }
        Ok(())
    }

    /// Refuses a file larger than the file system or the process limit allows.
    fn allows(&self, total: u64, what: &str, target: &Path, human: &impl Fn(u64) -> String) -> Result<()> {
        let target = quote(&target);
        if let Some(max) = self.max_file.filter(|max| total > *max) {
            return Err(Error::new(
                Kind::NoSpace,
                format!(
                    "{what} has {}, but the file system of `{target}` holds no file over {}",
                    human(total),
                    human(max)
                ),
            )
            .with_hint(
                "write it to an exFAT, NTFS or ext4 file system, or export fewer images into each of several bundles",
            ));
        }
        if let Some(limit) = self.process_limit.filter(|limit| total > *limit) {
            return Err(Error::new(
                Kind::NoSpace,
                format!(
                    "{what} has {}, but this process may write no file over {} to `{target}`",
                    human(total),
                    human(limit)
                ),
            )
            .with_hint("raise the limit (`ulimit -f unlimited`), or have its owner raise it"));
        }
        Ok(())
    }

    /// Examines the file system in which `target` would be, by a file without a name; `None` if none can be made there.
    pub(crate) fn of_folder(target: &Path) -> Option<Self> {
        let file = tempfile::tempfile_in(parent_of(target)).ok()?;
        Self::under(&file).ok()
    }

    /// Examines the file system under `file`,
    /// which must be open for writing and locked by this process.
    ///
    /// The content of the file is kept; the test writes a byte beyond the end of the file and removes it again.
    pub(super) fn under(file: &File) -> io::Result<Self> {
        let facts = rustix::fs::fstatfs(file)?;
        #[allow(
            clippy::unnecessary_cast,
            clippy::cast_sign_loss,
            reason = "the fields' types differ by target"
        )]
        let (free, size) = {
            let block = facts.f_bsize as u64;
            let bytes = |blocks: u64| blocks.saturating_mul(block);
            (bytes(facts.f_bavail as u64), bytes(facts.f_blocks as u64))
        };
        let process_limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        Ok(Self {
            max_file: largest_offset(file),
            process_limit,
            // A disk that is too full for the test holds no bundle either;
            // the check of free space reports that with a better message.
            sparse: gaps_are_free(file, process_limit)?.unwrap_or(true),
            free,
            // A file system without blocks of its own reports 0, and has no known limit.
            size: if size == 0 { u64::MAX } else { size },
        })
    }
}

/// Returns the largest offset that the file system allows in a file;
/// `None` without a practical limit.
///
/// Seeking writes nothing, and lseek(2) fails with `EINVAL` beyond the limit.
fn largest_offset(file: &File) -> Option<u64> {
    let reaches = |offset: u64| rustix::fs::seek(file, SeekFrom::Start(offset)).is_ok();
    let (mut can, mut cannot) = (0, i64::MAX as u64);
    // Some systems stop one page below the largest offset of the interface, which is no limit in practice.
    if reaches(cannot - (1 << 20)) {
        return None;
    }
    while cannot - can > 1 {
        let middle = can + (cannot - can) / 2;
        if reaches(middle) {
            can = middle;
        } else {
            cannot = middle;
        }
    }
    // A device that does not support seeking reveals nothing about sizes.
    (can > 0).then_some(can)
}

/// Writes a byte beyond the end and checks how many blocks the gap takes;
/// `None` if the write fails.
///
/// # Errors
/// If the file cannot be truncated to its old length: the byte must not stay in the file.
fn gaps_are_free(file: &File, process_limit: Option<u64>) -> io::Result<Option<bool>> {
    let before = file.metadata()?;
    let end = before.len();
    if process_limit.is_some_and(|limit| end + GAP >= limit) {
        // A write beyond the limit ends the process (SIGXFSZ).
        return Ok(Some(true));
    }
    let wrote = file.write_all_at(&[0], end + GAP);
    let after = file.metadata();
    file.set_len(end)?;
    // stat(2) counts blocks of 512 bytes, independent of the block size of the file system.
    let blocks = |after: std::fs::Metadata| after.blocks().saturating_sub(before.blocks());
    Ok(wrote.and(after).ok().map(|after| blocks(after) < GAP / 512))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_leaves_the_file_as_it_was() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"abc").unwrap();
        let system = FileSystem::under(&file).unwrap();
        assert!(system.free > 0, "{system:?}");
        let mut read = [0; 8];
        assert_eq!(file.read_at(&mut read, 0).unwrap(), 3);
        assert_eq!(&read[..3], b"abc");
    }
}
