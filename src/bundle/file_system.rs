//! What the file system under an output can do, found by trying it.
//!
//! Magic numbers tell FAT from ext4, but a USB stick may as well come through FUSE, a network or a driver of tomorrow. Two
//! questions matter, and both can be asked of the file itself: how far it may reach, and what a gap in it costs.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;

use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// The gap that is tried, in bytes. Where gaps are filled, this much is written.
const GAP: u64 = 1 << 20;

/// What the file system under a file can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// The largest file that it holds, in bytes, where it has a limit of its own.
    pub max_file: Option<u64>,
    /// The largest file that this process may write, in bytes (`ulimit -f`).
    pub process_limit: Option<u64>,
    /// Whether a gap that is skipped costs nothing. Where not (FAT, exFAT), the system fills it with zeros.
    pub sparse: bool,
    /// Bytes that this user may still write.
    pub free: u64,
    /// Bytes of the whole file system, whether in use or not.
    pub size: u64,
}

impl FileSystem {
    /// Refuses a file that this file system cannot hold. `allocated` says what it has of it already, `human` writes sizes.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] that says how much is missing, or how large a file may be.
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

    /// Refuses an image that could not be written to `target` if nothing else were on this file system. `human` writes sizes.
    ///
    /// # Errors
    /// [`Kind::NoSpace`] that says how large a file may be.
    pub fn could_hold(&self, image: u64, target: &Path, human: impl Fn(u64) -> String) -> Result<()> {
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

    /// Refuses a file that is larger than any may be here.
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

    /// Asks the file system under `file`, which must be open for writing and locked by this process. What is in the file stays;
    /// beyond its end a byte comes and goes.
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
            // A disk too full for the trial holds no bundle either; the check of free space has better words for that.
            sparse: gaps_are_free(file, process_limit)?.unwrap_or(true),
            free,
            // A file system without blocks of its own says 0, and may hold anything.
            size: if size == 0 { u64::MAX } else { size },
        })
    }
}

/// The farthest offset that the file system lets a file have. Seeking writes nothing, and lseek(2) fails with `EINVAL` beyond
/// the limit.
fn largest_offset(file: &File) -> Option<u64> {
    let reaches = |offset: u64| rustix::fs::seek(file, SeekFrom::Start(offset)).is_ok();
    let (mut can, mut cannot) = (0, i64::MAX as u64);
    // Some systems stop a page short of the largest offset that the interface knows: that is no limit in practice.
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
    // A device of its own kind that does not seek at all says nothing about sizes.
    (can > 0).then_some(can)
}

/// Writes a byte some way behind the end and looks at how many blocks that took. `None` if it cannot be written.
///
/// # Errors
/// If the byte cannot be removed again: the file must not keep it.
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
    // Blocks of 512 bytes, whatever the file system's own are (stat(2)).
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
