//! `FILE.partial`: a bundle on its way to its final name.
//!
//! The final name is the commit point. Until [`Partial::commit`] it does not exist, or keeps what it had before; a lock keeps
//! a second run out.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::file_system::FileSystem;
use super::journal::Journal;
use crate::error::{Error, Kind, Result};

/// An open, locked, unfinished bundle. Writes go to any offset, from any thread.
#[derive(Debug)]
pub struct Partial {
    target: PathBuf,
    path: PathBuf,
    file: File,
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens an ordinary file. A link is not followed, and nothing else is waited for: whoever may write in the folder could
/// lead elsewhere what is written here.
pub(super) fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    #[allow(clippy::cast_possible_wrap, reason = "flags are bits")]
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no ordinary file"))
    }
}

/// A failed write, with what can be done about it. `resumes` says whether another run goes on from there.
pub(super) fn write_failed(path: &Path, e: io::Error, resumes: bool) -> Error {
    let too_large = e.kind() == io::ErrorKind::FileTooLarge;
    let error = Error::io("write", path, e);
    let then = match resumes {
        true => "run the same command again: it goes on where this one stopped",
        false => "run the same command again",
    };
    match error.kind() {
        Kind::NoSpace if too_large => error.with_hint(format!(
            "the file system or a limit of this shell (`ulimit -f`) allows no file of that size: raise the limit, or write \
             to another file system; then {then}"
        )),
        Kind::NoSpace => error.with_hint(format!("make room, then {then}")),
        _ => error,
    }
}

impl Partial {
    /// Opens or creates `TARGET.partial` and locks it.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another run holds it; [`Kind::Usage`] if the target's name cannot be a file.
    pub fn open(target: &Path) -> Result<Self> {
        if target.file_name().is_none() || target.is_dir() {
            return Err(Error::new(
                Kind::Usage,
                format!("the output `{}` is a folder, not a file", target.display()),
            )
            .with_hint("give the name of the bundle, such as `-o bundle.tar`"));
        }
        // A rename would put a file in the place of a device, a pipe or a link; nobody means that.
        if let Ok(there) = target.symlink_metadata()
            && !there.is_file()
        {
            return Err(Error::new(
                Kind::Usage,
                format!("the output `{}` is there and is no ordinary file", target.display()),
            )
            .with_hint("name an ordinary file with `-o`, or `-o -` for a pipe"));
        }
        let path = with_suffix(target, ".partial");
        // Another run may finish and rename the file between open and lock; then the lock is on what is now the target.
        for _ in 0..10 {
            let file = open_plain(OpenOptions::new().read(true).write(true).create(true), &path)
                .map_err(|e| Error::io("create", &path, e).with_hint("choose another place with `-o`"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(
                        Error::new(Kind::Busy, format!("another run is writing `{}`", path.display()))
                            .with_hint("wait for it, or choose another name with `-o`"),
                    );
                }
                // Some network file systems have no locks: going on without is better than not at all.
                Err(TryLockError::Error(_)) => {}
            }
            let same = file.metadata().ok().zip(std::fs::metadata(&path).ok());
            if same.is_some_and(|(a, b)| a.ino() == b.ino() && a.dev() == b.dev()) {
                return Ok(Self {
                    target: target.to_owned(),
                    path,
                    file,
                });
            }
        }
        Err(Error::new(
            Kind::Busy,
            format!("`{}` is replaced again and again by other runs", path.display()),
        ))
    }

    /// `FILE.partial`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself, for copies that the system makes from file to file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The journal beside it.
    pub fn journal_path(&self) -> PathBuf {
        with_suffix(&self.target, ".partial.journal")
    }

    /// Empties the file, for a new start.
    pub fn clear(&self) -> Result<()> {
        self.file.set_len(0).map_err(|e| Error::io("empty", &self.path, e))
    }

    /// How many bytes the file has.
    pub fn len(&self) -> Result<u64> {
        Ok(self.metadata()?.len())
    }

    /// Whether the file has no byte.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    fn metadata(&self) -> Result<std::fs::Metadata> {
        self.file.metadata().map_err(|e| Error::io("read", &self.path, e))
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| write_failed(&self.path, e, true))
    }

    /// The same for a file that no other run goes on with.
    pub fn write_once_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| write_failed(&self.path, e, false))
    }

    /// Fills `buffer` from `offset` on; fewer bytes only at the end of the file.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, e)),
            }
        }
        Ok(filled)
    }

    /// Waits until everything written is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| write_failed(&self.path, e, true))
    }

    /// What the file system under it can do.
    pub fn file_system(&self) -> Result<FileSystem> {
        FileSystem::under(&self.file).map_err(|e| Error::io("inspect the file system of", &self.path, e))
    }

    /// Refuses a bundle that the file system cannot hold, and takes the room that it needs where that is possible.
    ///
    /// # Errors
    /// Those of [`FileSystem::holds`].
    pub fn reserve(&self, total: u64, system: &FileSystem, human: impl Fn(u64) -> String) -> Result<()> {
        let allocated = self.metadata()?.blocks() * 512;
        system.holds(total, allocated, &self.target, human)?;
        if system.sparse {
            // Room that is taken now cannot run out later. Not every file system can, and none must.
            let _ = rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, total);
        }
        Ok(())
    }

    /// Makes the file durable and gives it its final name; with `replace` over what is there.
    ///
    /// # Errors
    /// [`Kind::Exists`] if the name was taken meanwhile.
    pub fn commit(&self, total: u64, replace: bool) -> Result<()> {
        self.file
            .set_len(total)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| write_failed(&self.path, e, true))?;
        self.rename(replace)?;
        let folder = match self.target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // The name is durable once its folder is; file systems that cannot sync a folder say so, and that is no fault.
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
        Journal::remove(&self.journal_path());
        Ok(())
    }

    fn rename(&self, replace: bool) -> Result<()> {
        let failed = |e: io::Error| {
            if e.kind() == io::ErrorKind::AlreadyExists {
                already_there(&self.target)
            } else {
                Error::io("rename", &self.path, e)
            }
        };
        if replace {
            return std::fs::rename(&self.path, &self.target).map_err(failed);
        }
        let cwd = rustix::fs::CWD;
        match rustix::fs::renameat_with(cwd, &self.path, cwd, &self.target, rustix::fs::RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
                if self.target.exists() {
                    return Err(already_there(&self.target));
                }
                std::fs::rename(&self.path, &self.target).map_err(failed)
            }
            Err(e) => Err(failed(e.into())),
        }
    }

    /// Removes the file and its journal: nothing of it is worth keeping.
    pub fn remove(&self) {
        Journal::remove(&self.journal_path());
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The error of an output that exists.
pub fn already_there(target: &Path) -> Error {
    Error::new(
        Kind::Exists,
        format!("the output `{}` is already there", target.display()),
    )
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
        };
        let holds = |total| fat.holds(total, 0, Path::new("stick/b.tar"), human);
        assert!(holds((1 << 32) - 1).is_ok());
        let error = holds(1 << 32).unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.to_string().contains("holds no file over 4294967295"), "{error}");
        assert!(error.hint().unwrap().contains("several bundles"));
        // What is there of it already need not be free.
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
        assert_eq!(Partial::open(&target).unwrap_err().kind(), Kind::Io);
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
