//! `FILE.partial`: an unfinished bundle.
//!
//! Renaming the file to its final name is the commit point. Until [`Partial::commit`], the final name is free or still
//! belongs to the previous file. A lock excludes a second run.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::durable::write_failed;
use super::file_system::FileSystem;
use super::journal::JournalName;
use crate::error::{Error, Kind, Result};
use crate::files::positional::{ReadAt, WriteAt};
use crate::files::{Folder, Identity, parent_of};
use crate::lock::Mutex;
use crate::text::quote;

/// Maximum size in bytes of an unfinished file that is read to check whether the file is blank.
const MAX_BLANK: u64 = 2 << 20;

/// An open, locked, unfinished bundle. Any thread may write at any offset.
///
/// Names are looked up in the folder that was opened at the start, so that no byte is written elsewhere if the folder or
/// a name in it is replaced meanwhile.
#[derive(Debug)]
pub(crate) struct Partial {
    target: PathBuf,
    path: PathBuf,
    folder: Folder,
    /// Names of the finished bundle and of this file in the folder.
    names: (OsString, OsString),
    file: File,
    /// Why a sync failed. Bytes written before the failed sync may be lost even if a later sync
    /// succeeds: the system reports a failure only once.
    unsynced: OnceLock<String>,
    syncing: Mutex<()>,
}

fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

impl Partial {
    /// Opens or creates `TARGET.partial` and locks it.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another run holds the lock; [`Kind::Usage`] if the finished bundle could not be written or get its name.
    pub(crate) fn open(target: &Path) -> Result<Self> {
        let name = target
            .file_name()
            .filter(|_| !target.is_dir())
            .ok_or_else(|| is_folder(target))?;
        let partial_name = with_suffix(name, ".partial");
        let path = target.with_file_name(&partial_name);
        let cannot_create = |e: io::Error| cannot_create(&path, e);
        let folder = Folder::open(parent_of(target)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                let why = format!("the folder `{}` of the output does not exist", quote(parent_of(target)));
                Error::new(Kind::Usage, why).with_hint("create it, or choose another place with `-o`")
            }
            _ => cannot_create(e),
        })?;
        check_replaceable(&folder, name, target)?;
        for suffix in [".journal", ".journal.new"] {
            let name = with_suffix(&partial_name, suffix);
            if folder.is_folder(&name) {
                let folder = io::Error::other("it is a folder, not a regular file");
                return Err(self::cannot_create(&target.with_file_name(name), folder));
            }
        }
        // Another run may finish and rename the file between open and lock; the lock is then on the finished bundle, and
        // the loop opens the name again.
        for _ in 0..10 {
            let file = folder.open_or_create_own(&partial_name).map_err(cannot_create)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(
                        Error::new(Kind::Busy, format!("another run is writing `{}`", quote(&path)))
                            .with_hint("wait for it, or choose another name with `-o`"),
                    );
                }
                // Some network file systems do not support locks: running without a lock is better than refusing to run.
                Err(TryLockError::Error(_)) => {}
            }
            let locked = file.metadata().map(|metadata| Identity::from(&metadata));
            if locked.ok() == folder.identity(&partial_name).ok() {
                return Ok(Self {
                    target: target.to_owned(),
                    path,
                    folder,
                    names: (name.to_owned(), partial_name),
                    file,
                    unsynced: OnceLock::new(),
                    syncing: Mutex::new(()),
                });
            }
        }
        Err(Error::new(
            Kind::Busy,
            format!("`{}` is replaced again and again by other runs", quote(&path)),
        ))
    }

    /// Path of the unfinished file, `TARGET.partial`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for copies that the kernel makes between files.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Location of the journal of this file.
    pub(crate) fn journal(&self) -> JournalName {
        JournalName::new(self.folder.clone(), &self.path)
    }

    /// Truncates the file to no bytes, for a new start.
    pub(crate) fn clear(&self) -> Result<()> {
        if self.is_empty()? {
            return Ok(());
        }
        self.file.set_length(0).map_err(|e| write_failed(&self.path, e, false))
    }

    /// Returns whether the file holds only zeros and is small,
    /// which an interrupted test of the file system leaves.
    pub(crate) fn is_blank(&self) -> Result<bool> {
        let length = self.len()?;
        if length > MAX_BLANK {
            return Ok(false);
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let got = self.read_at(&mut bytes, 0)?;
        Ok(bytes[..got].iter().all(|byte| *byte == 0))
    }

    /// Returns the length of the file in bytes.
    pub(crate) fn len(&self) -> Result<u64> {
        self.file.length().map_err(|e| Error::io("read", &self.path, e))
    }

    /// Returns whether the file has no bytes.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    fn metadata(&self) -> Result<std::fs::Metadata> {
        self.file.metadata().map_err(|e| Error::io("read", &self.path, e))
    }

    /// Writes all of `bytes` at `offset`.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_at(bytes, offset)
            .map_err(|e| write_failed(&self.path, e, true))
    }

    /// Like [`write_at`](Self::write_at), for a file that no later run resumes:
    /// the error's hint differs.
    pub(crate) fn write_once_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_at(bytes, offset)
            .map_err(|e| write_failed(&self.path, e, false))
    }

    /// Fills `buffer` from `offset` on; returns fewer bytes only at the end of the file.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let got = self.file.fill_at(buffer, offset);
        got.map_err(|e| Error::io("read", &self.path, e))
    }

    /// Waits until all written bytes are on the disk.
    ///
    /// # Errors
    /// The error of the first sync that failed, even if this sync would succeed.
    pub(crate) fn sync(&self) -> Result<()> {
        // One sync at a time: of two concurrent syncs, one gets the failure, and the other reports success.
        let _one = self.syncing.lock();
        self.check_synced()?;
        self.file.sync().map_err(|e| {
            let _ = self.unsynced.set(e.to_string());
            write_failed(&self.path, e, true)
        })
    }

    /// Fails if written bytes may never reach the disk. Does not wait.
    ///
    /// # Errors
    /// The error of the first sync that failed.
    pub(crate) fn check_synced(&self) -> Result<()> {
        let Some(why) = self.unsynced.get() else { return Ok(()) };
        let why = io::Error::other(format!("an earlier write did not reach the disk: {why}"));
        Err(write_failed(&self.path, why, true))
    }

    /// Returns what the file system under this file can do.
    ///
    /// # Errors
    /// If the file cannot be truncated after the test. A file that was empty before is removed: it holds zeros of the test only.
    pub(crate) fn file_system(&self) -> Result<FileSystem> {
        let was_empty = self.is_empty().unwrap_or(false);
        FileSystem::under(&self.file).map_err(|e| {
            if was_empty {
                self.remove();
            }
            write_failed(&self.path, e, !was_empty)
        })
    }

    /// Checks that the file system can hold a bundle of `total` bytes,
    /// and reserves the space if possible.
    ///
    /// # Errors
    /// The errors of [`FileSystem::holds`].
    pub(crate) fn reserve(&self, total: u64, system: &FileSystem, human: impl Fn(u64) -> String) -> Result<()> {
        let allocated = self.metadata()?.blocks() * 512;
        system.holds(total, allocated, &self.target, human)?;
        if system.sparse {
            // Reserved space cannot run out later. Not every file system supports the reservation, so a failure is ignored.
            let _ = rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, total);
        }
        Ok(())
    }

    /// Makes the file durable and gives it its final name.
    /// With `replace`, an existing file of that name is replaced.
    ///
    /// # Errors
    /// [`Kind::Exists`] if the name was taken meanwhile; [`Kind::Io`] if the folder or the unfinished file was replaced.
    pub(crate) fn commit(&self, total: u64, replace: bool) -> Result<()> {
        self.file
            .set_length(total)
            .map_err(|e| write_failed(&self.path, e, true))?;
        self.sync()?;
        self.check_names()?;
        let (name, partial_name) = &self.names;
        self.folder
            .rename(partial_name, name, replace)
            .map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => already_there(&self.target),
                _ => {
                    let action = match self.folder.identity(name) {
                        Ok(_) => "replace",
                        Err(_) => "create",
                    };
                    Error::io(action, &self.target, e).with_hint(format!(
                        "the bundle is complete as `{}`: rename that file, or make the output replaceable and run the same \
                         command again",
                        quote(&self.path)
                    ))
                }
            })?;
        if !self.has_name(name) {
            // Another program replaced the unfinished file between the check and the rename.
            let _ = self.folder.rename(name, partial_name, false);
            return Err(replaced(&self.path));
        }
        self.folder.sync();
        self.journal().remove();
        Ok(())
    }

    /// Checks that the folder and both names are still what they were when the file was opened.
    fn check_names(&self) -> Result<()> {
        let folder = parent_of(&self.target);
        if !self.folder.is_at_its_path().unwrap_or(false) {
            return Err(replaced(folder));
        }
        if !self.has_name(&self.names.1) {
            return Err(replaced(&self.path));
        }
        if self.folder.is_special(&self.names.0) {
            return Err(replaced(&self.target));
        }
        Ok(())
    }

    fn has_name(&self, name: &OsStr) -> bool {
        let own = self.file.metadata().map(|metadata| Identity::from(&metadata));
        own.is_ok_and(|own| self.folder.identity(name).is_ok_and(|found| found == own))
    }

    /// Removes the journal of a bundle whose run was killed between
    /// the rename and the removal of the journal.
    pub(crate) fn remove_stale_journal(target: &Path) {
        let partial = target.file_name().map(|name| with_suffix(name, ".partial"));
        let there = |name: &OsStr| target.with_file_name(name).symlink_metadata().is_ok();
        if let Some(partial) = partial
            && !there(&partial)
            && there(&with_suffix(&partial, ".journal"))
            // This process holds the lock, so no other run uses a journal without a partial file.
            && let Ok(partial) = Self::open(target)
            && partial.is_empty().unwrap_or(false)
        {
            partial.remove();
        }
    }

    /// Removes the unfinished file and its journal.
    pub(crate) fn remove(&self) {
        self.journal().remove();
        if self.has_name(&self.names.1) {
            let _ = self.folder.remove(&self.names.1);
        }
    }
}

fn replaced(path: &Path) -> Error {
    Error::new(
        Kind::Io,
        format!("`{}` was moved or replaced while the bundle was written", quote(&path)),
    )
    .with_hint("run the same command again where no other program moves or replaces files")
}

/// Returns the error for a file of this program that cannot be created.
/// It is a usage error if the place, and not a passing fault, is the cause: nothing was done yet.
fn cannot_create(path: &Path, e: io::Error) -> Error {
    const ELSEWHERE: &str = "choose another place with `-o`";
    let kind = e.kind();
    let error = match kind {
        // The file exists and is not a file of this program's own.
        io::ErrorKind::Other => {
            return Error::io("write to", path, e)
                .with_kind(Kind::Usage)
                .with_hint("remove it, or choose another name with `-o`");
        }
        _ => Error::io("create", path, e),
    };
    let hint = match error.hint() {
        Some(hint) => format!("{hint}; or {ELSEWHERE}"),
        None => ELSEWHERE.to_owned(),
    };
    let error = error.with_hint(hint);
    match kind {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => error.with_kind(Kind::Usage),
        _ => error,
    }
}

/// Refuses an output that the rename of a finished bundle cannot replace.
fn check_replaceable(folder: &Folder, name: &OsStr, target: &Path) -> Result<()> {
    // A rename would replace a device, a pipe or a link by a file, which the user never intends.
    if folder.is_special(name) {
        return Err(is_special(target));
    }
    let target = quote(target);
    if let Some(why) = folder.protection(name) {
        let why = format!("the output `{target}` cannot be replaced: {why}");
        return Err(Error::new(Kind::Usage, why).with_hint("choose another name with `-o`"));
    }
    if folder.is_mount_point(name) {
        let why = format!("the output `{target}` is a mount point, and a finished bundle cannot be renamed over one");
        let hint = "mount the folder that the bundle goes to, not the file (such as `docker run -v \"$PWD:/out\"`), or write \
                    to a pipe: `-o - >FILE`";
        return Err(Error::new(Kind::Usage, why).with_hint(hint));
    }
    Ok(())
}

fn is_folder(target: &Path) -> Error {
    let why = format!("the output `{}` is a folder, not a file", quote(&target));
    Error::new(Kind::Usage, why).with_hint("give the name of the bundle, such as `-o bundle.tar`")
}

fn is_special(target: &Path) -> Error {
    let (why, hint) = match target.read_link() {
        Ok(end) => (
            format!("is a symbolic link to `{}`, and not an ordinary file", quote(&end)),
            "name the target of the link or another ordinary file with `-o`, or `-o -` for a pipe",
        ),
        Err(_) => (
            "is there and is not an ordinary file".to_owned(),
            "name an ordinary file with `-o`, or `-o -` for a pipe",
        ),
    };
    Error::new(Kind::Usage, format!("the output `{}` {why}", quote(&target))).with_hint(hint)
}

/// Refuses an existing output that may not be replaced, or that is not a regular file.
///
/// # Errors
/// [`Kind::Usage`] for a folder, a device, a pipe or a link; [`Kind::Exists`] for a file without `force`.
pub(crate) fn check_output(target: &Path, force: bool) -> Result<()> {
    match target.symlink_metadata() {
        Ok(_) if target.is_dir() => Err(is_folder(target)),
        Ok(there) if !there.is_file() => Err(is_special(target)),
        Ok(_) if !force => Err(already_there(target)),
        _ => Ok(()),
    }
}

/// Returns the error for an output that already exists.
pub(crate) fn already_there(target: &Path) -> Error {
    let folder = Folder::open(parent_of(target)).ok();
    let name = target.file_name().filter(|_| !target.is_dir());
    if let (Some(folder), Some(name)) = (folder, name)
        && let Err(error) = check_replaceable(&folder, name, target)
    {
        return error;
    }
    Error::new(Kind::Exists, format!("the output `{}` already exists", quote(&target)))
        .with_hint("give `--force` to replace it once the new one is complete, or choose another name with `-o`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_final_name_comes_last_and_is_not_taken_silently() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("b.tar");
        let partial = Partial::open(&target).unwrap();
        partial.write_at(b"xyz", 2).unwrap();
        assert_eq!(Partial::open(&target).unwrap_err().kind(), Kind::Busy);
        assert!(!target.exists());
        std::fs::write(&target, b"old").unwrap();
        assert_eq!(partial.commit(5, false).unwrap_err().kind(), Kind::Exists);
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        drop(partial);
        let partial = Partial::open(&target).unwrap();
        partial.commit(5, true).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"\0\0xyz");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn says_how_much_is_missing_and_how_large_a_file_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let partial = Partial::open(&folder.path().join("b.tar")).unwrap();
        let human = |n: u64| n.to_string();
        let system = partial.file_system().unwrap();
        let error = partial.reserve(system.free + (1 << 30), &system, human).unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.to_string().contains("are missing"), "{error}");

        let fat = FileSystem {
            max_file: Some((1 << 32) - 1),
            process_limit: None,
            sparse: false,
            free: 1 << 40,
            size: 1 << 40,
        };
        let holds = |total| fat.holds(total, 0, Path::new("stick/b.tar"), human);
        assert!(holds((1 << 32) - 1).is_ok());
        let error = holds(1 << 32).unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.to_string().contains("holds no file over 4294967295"), "{error}");
        assert!(error.hint().unwrap().contains("several bundles"));
        // Space that the file already occupies need not be free.
        let full = FileSystem { free: 10, ..fat };
        assert!(full.holds(1000, 990, Path::new("b.tar"), human).is_ok());
        assert!(full.holds(1000, 989, Path::new("b.tar"), human).is_err());
    }

    #[test]
    fn links_are_not_followed_and_other_things_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        std::fs::write(&precious, b"precious").unwrap();
        let target = folder.path().join("b.tar");
        std::os::unix::fs::symlink(&precious, folder.path().join("b.tar.partial")).unwrap();
        assert_eq!(Partial::open(&target).unwrap_err().kind(), Kind::Usage);
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        std::fs::remove_file(folder.path().join("b.tar.partial")).unwrap();
        let pipe = folder.path().join("b.tar.partial");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert!(Partial::open(&target).is_err());
    }

    #[test]
    fn a_folder_is_no_output() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Partial::open(folder.path()).unwrap_err().kind(), Kind::Usage);
    }
}
