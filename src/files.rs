//! Opens files without being led elsewhere.
//!
//! A user who may write to a folder can put a link, a named pipe or a hard link to another file where this program expects a file of
//! its own. A file of our own is therefore opened without following a link, without waiting, and counts only if it is a
//! regular file with one name that belongs to us. A file that a user names may be a link, but must be a regular file.

mod content;
pub(crate) mod encoding;
pub(crate) mod positional;

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use content::FLAGS;
pub(crate) use content::{Pipes, read};
pub use content::{SpecialWriter, check_special, read_named};

/// Maximum number of attempts to open a file beneath a folder in which names are being moved at the same time.
const MAX_RACES: u32 = 16;

/// The permissions of a new file, before the process's mask.
const NEW_FILE: Mode = Mode::from_raw_mode(0o666);

/// Tells one file from every other file that exists at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Opens a regular file for reading that a user or the system's configuration names. Links are followed.
///
/// # Errors
/// Those of open(2), and one that says so if the file is not a regular one; a named pipe is not waited for.
pub fn open_regular(path: &Path) -> io::Result<File> {
    regular(rustix::fs::open(path, OFlags::RDONLY | FLAGS, Mode::empty())?)
}

/// Opens a file of our own for reading, by its path. A link in the place of the file itself is not followed.
///
/// # Errors
/// As [`Folder::open_own`].
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    own(CWD, path, OFlags::RDONLY, parent_of(path))
}

fn own(at: impl AsFd, name: impl rustix::path::Arg, flags: OFlags, folder: &Path) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | FLAGS;
    let handle = match rustix::fs::openat(at, name, flags, NEW_FILE) {
        Err(Errno::LOOP) => return Err(io::Error::other("it is a symbolic link")),
        other => other?,
    };
    let file = regular(handle)?;
    check_own(&file, folder)?;
    Ok(file)
}

/// The folder that holds a path.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn regular(handle: OwnedFd) -> io::Result<File> {
    let file = File::from(handle);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Refuses a file that has a second name, through which it would be written to, and one of another user.
fn check_own(file: &File, folder: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.nlink() > 1 {
        let names = metadata.nlink();
        return Err(io::Error::other(format!("it has {names} names (hard links)")));
    }
    let ours = || {
        // On FAT, and on network file systems that map users, every file has an owner that the mount decides on: a new file
        // shows which one that is.
        tempfile::tempfile_in(folder).and_then(|file| file.metadata().map(|new| new.uid()))
    };
    if metadata.uid() != rustix::process::geteuid().as_raw() && ours().ok() != Some(metadata.uid()) {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(())
}

/// A folder that is held open: its names lead to the same files even if the folder itself is moved or replaced.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    handle: Arc<OwnedFd>,
}

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// Those of open(2).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = match rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty()) {
            // Files may be made in a folder that cannot be listed. Such a handle cannot be synced.
            Err(Errno::ACCESS) => rustix::fs::open(path, flags | OFlags::PATH, Mode::empty()),
            other => other,
        }?;
        Ok(Self {
            path: path.to_owned(),
            handle: Arc::new(handle),
        })
    }

    /// The path by which it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path still leads to it.
    ///
    /// # Errors
    /// Those of stat(2).
    pub(crate) fn is_at_its_path(&self) -> io::Result<bool> {
        let here = rustix::fs::fstat(&self.handle)?;
        let there = rustix::fs::stat(&self.path)?;
        Ok((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino))
    }

    /// Opens a file of our own for reading and writing, and creates it if it does not exist.
    ///
    /// # Errors
    /// As [`open_own`](Self::open_own).
    pub(crate) fn open_or_create_own(&self, name: &OsStr) -> io::Result<File> {
        own(&self.handle, name, OFlags::RDWR | OFlags::CREATE, &self.path)
    }

    /// Opens a file of our own for reading.
    ///
    /// # Errors
    /// Those of open(2), and one that says why the file is not ours: it is a link, not a regular file, has several names, or
    /// belongs to another user.
    pub(crate) fn open_own(&self, name: &OsStr) -> io::Result<File> {
        own(&self.handle, name, OFlags::RDONLY, &self.path)
    }

    /// Creates a file for writing under a name that must be free.
    ///
    /// # Errors
    /// Those of open(2).
    pub(crate) fn create_new(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, name, flags, NEW_FILE)?.into())
    }

    /// Opens a regular file for reading, by a path that starts at this folder. The path may hold links as long as they
    /// lead to places beneath the folder; where the kernel cannot tell (before Linux 5.6), no link is followed.
    ///
    /// # Errors
    /// Those of open(2), and one that says so if the file is not a regular one or outside of the folder.
    pub(crate) fn open_beneath(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | FLAGS;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut races = 0;
        let handle = loop {
            match rustix::fs::openat2(&self.handle, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
                // Not known to this kernel, or to the filter of system calls that is in force here.
                Err(Errno::NOSYS | Errno::PERM) => break self.step_by_step(path, flags),
                Err(Errno::XDEV) => return Err(io::Error::other("the path leads out of the folder")),
                other => break other.map_err(io::Error::from),
            }
        }?;
        regular(handle)
    }

    /// Whether a path that starts at this folder leads to a folder beneath it.
    pub(crate) fn is_folder_beneath(&self, path: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.handle, path, flags, Mode::empty(), resolve).is_ok()
    }

    fn step_by_step(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let mut folder: Option<OwnedFd> = None;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let Component::Normal(name) = component else { break };
            let flags = match components.peek() {
                None => flags,
                Some(_) => OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            };
            let parent = folder.as_ref().unwrap_or(&self.handle);
            let next = rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            if components.peek().is_none() {
                return Ok(next);
            }
            folder = Some(next);
        }
        Err(io::Error::other("it is not a path beneath the folder"))
    }

    /// What has a name; a link is not followed.
    ///
    /// # Errors
    /// Those of stat(2).
    pub(crate) fn identity(&self, name: &OsStr) -> io::Result<Identity> {
        let found = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)?;
        #[allow(
            clippy::unnecessary_cast,
            clippy::cast_sign_loss,
            reason = "the fields' types differ by target"
        )]
        Ok(Identity {
            device: found.st_dev as u64,
            inode: found.st_ino as u64,
        })
    }

    /// Whether a name is that of anything but a regular file.
    pub(crate) fn is_special(&self, name: &OsStr) -> bool {
        let found = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| !FileType::from_raw_mode(found.st_mode).is_file())
    }

    /// Whether a name is that of a mount point, which nothing can be renamed over.
    pub(crate) fn is_mount_point(&self, name: &OsStr) -> bool {
        let Ok(found) = rustix::fs::statx(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        else {
            return false;
        };
        if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        }
        // Before Linux 5.8, only a mount of another file system can be told.
        let device = (u64::from(found.stx_dev_major), u64::from(found.stx_dev_minor));
        let here = rustix::fs::statx(&self.handle, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        here.is_ok_and(|here| (u64::from(here.stx_dev_major), u64::from(here.stx_dev_minor)) != device)
    }

    /// Renames within the folder; with `replace` in place of a file of the new name, else only if that name is free.
    ///
    /// # Errors
    /// Those of rename(2); [`io::ErrorKind::AlreadyExists`] if the name is taken.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()> {
        if !replace {
            match rustix::fs::renameat_with(&self.handle, from, &self.handle, to, RenameFlags::NOREPLACE) {
                // The file system cannot: the look before the rename has to do.
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match self.identity(to) {
                    Ok(_) => return Err(Errno::EXIST.into()),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                },
                other => return other.map_err(Into::into),
            }
        }
        Ok(rustix::fs::renameat(&self.handle, from, &self.handle, to)?)
    }

    /// Removes a name.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.handle, name, AtFlags::empty())?)
    }

    /// Makes its names durable. File systems that cannot sync a folder say so, and that is no failure.
    pub(crate) fn sync(&self) {
        let _ = rustix::fs::fsync(&self.handle);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn why(result: io::Result<File>) -> String {
        result.unwrap_err().to_string()
    }

    /// Makes a named pipe without a writer.
    fn fifo(path: &Path) {
        rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    }

    #[test]
    fn a_file_of_ours_is_a_regular_file_with_one_name_and_no_link() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::open(at.path()).unwrap();
        let path = |name: &str| at.path().join(name);
        std::fs::write(path("precious"), "precious").unwrap();
        std::fs::write(path("own"), "own").unwrap();
        assert!(folder.open_own("own".as_ref()).is_ok() && open_own(&path("own")).is_ok());
        symlink("precious", path("link")).unwrap();
        std::fs::hard_link(path("precious"), path("second")).unwrap();
        fifo(&path("pipe"));
        std::fs::create_dir(path("folder")).unwrap();
        for (name, expected) in [
            ("link", "symbolic link"),
            ("second", "2 names"),
            ("pipe", "not a regular file"),
            ("folder", "irectory"),
        ] {
            let said = why(folder.open_or_create_own(name.as_ref()));
            // A pipe that is opened for reading and writing does not block, and a folder is not opened at all.
            assert!(said.contains(expected), "{name}: {said}");
            assert!(open_own(&path(name)).is_err(), "{name}");
        }
        assert_eq!(std::fs::read(path("precious")).unwrap(), b"precious");
    }

    #[test]
    fn a_file_of_another_user_is_not_ours() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("own");
        std::fs::write(&path, "own").unwrap();
        if std::os::unix::fs::chown(&path, Some(12345), None).is_err() {
            // Only root gives files away.
            return;
        }
        assert!(why(open_own(&path)).contains("another user"));
    }

    #[test]
    fn a_file_that_a_user_names_may_be_a_link_but_not_a_pipe() {
        let at = tempfile::tempdir().unwrap();
        let path = |name: &str| at.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        symlink("file", path("link")).unwrap();
        fifo(&path("pipe"));
        symlink("pipe", path("link to pipe")).unwrap();
        assert!(open_regular(&path("link")).is_ok());
        for name in ["pipe", "link to pipe", "."] {
            assert!(why(open_regular(&path(name))).contains("not a regular file"), "{name}");
        }
    }

    #[test]
    fn a_path_beneath_a_folder_does_not_lead_out_of_it() {
        let at = tempfile::tempdir().unwrap();
        let path = |name: &str| at.path().join(name);
        std::fs::create_dir_all(path("layout/blobs/more")).unwrap();
        std::fs::write(path("secret"), "secret").unwrap();
        std::fs::write(path("layout/blobs/a"), "a").unwrap();
        symlink("a", path("layout/blobs/inside")).unwrap();
        symlink("../../secret", path("layout/blobs/outside")).unwrap();
        symlink(path("secret"), path("layout/blobs/absolute")).unwrap();
        symlink("../..", path("layout/blobs/up")).unwrap();
        fifo(&path("layout/blobs/pipe"));
        let folder = Folder::open(&path("layout")).unwrap();
        let by_kernel = |path: &str| folder.open_beneath(path.as_ref());
        let by_hand = |path: &str| folder.step_by_step(path.as_ref(), OFlags::RDONLY | FLAGS);
        assert!(by_kernel("blobs/a").is_ok() && by_hand("blobs/a").is_ok());
        assert!(by_kernel("blobs/inside").is_ok());
        for bad in [
            "blobs/outside",
            "blobs/absolute",
            "blobs/up/secret",
            "../secret",
            "/etc/passwd",
            "blobs/pipe",
        ] {
            assert!(by_kernel(bad).is_err(), "{bad}");
            assert!(by_hand(bad).and_then(regular).is_err(), "{bad}");
        }
        // The folder is the one that was opened, even if another one has its name by now.
        std::fs::rename(path("layout"), path("moved")).unwrap();
        std::fs::create_dir_all(path("layout/blobs")).unwrap();
        std::fs::write(path("layout/blobs/b"), "b").unwrap();
        assert!(by_kernel("blobs/a").is_ok() && by_kernel("blobs/b").is_err());
        assert!(!folder.is_at_its_path().unwrap());
    }

    #[test]
    fn a_name_that_is_taken_is_not_renamed_over() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::open(at.path()).unwrap();
        for name in ["new", "old"] {
            std::fs::write(at.path().join(name), name).unwrap();
        }
        let error = folder.rename("new".as_ref(), "old".as_ref(), false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        folder.rename("new".as_ref(), "old".as_ref(), true).unwrap();
        assert_eq!(std::fs::read(at.path().join("old")).unwrap(), b"new");
    }
}
