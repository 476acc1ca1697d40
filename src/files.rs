//! Opens files without following links or names that another user may have planted.
//!
//! A user with write access to a folder can put a link, a named pipe or a hard link where this program expects a file of
//! its own. This program therefore opens its own files without following links and without blocking, and accepts only a
//! regular file with one name and the right owner. A file that the user names may be a link, but must be a regular file.

mod content;
pub(crate) mod encoding;
mod hollow;
pub(crate) mod positional;
mod regular;
mod waited;

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
pub(crate) use hollow::{MAX_HOLES, is_hollow};
use regular::{irregular, regular};
pub(crate) use waited::open_waiting;
pub use waited::wait_for_pipe;

/// Maximum number of attempts to open a file beneath a folder while
/// another process renames entries of the folder.
const MAX_RACES: u32 = 16;

/// Permissions of a new file, before the umask of the process.
const NEW_FILE: Mode = Mode::from_raw_mode(0o666);

/// Device and inode: distinguishes a file from all other existing files.
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

/// Opens a regular file that the user or the system's configuration names,
/// for reading. Links are followed.
///
/// # Errors
/// Errors of open(2), and an error if the file is not a regular file. A named pipe does not block the call.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let opened = rustix::fs::open(path, OFlags::RDONLY | FLAGS, Mode::empty());
    regular(opened.map_err(|e| irregular(rustix::fs::stat(path), e))?)
}

/// Opens one of this program's own files for reading, by its path.
/// If the file is a link, the call fails.
///
/// # Errors
/// The errors of [`Folder::open_own`].
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    open_own_at(CWD, path.as_os_str(), OFlags::RDONLY, parent_of(path))
}

/// Opens one of this program's own files for reading and writing, by its path; creates a missing file.
///
/// # Errors
/// The errors of [`Folder::open_own`].
pub fn open_or_create_own(path: &Path) -> io::Result<File> {
    open_own_at(CWD, path.as_os_str(), OFlags::RDWR | OFlags::CREATE, parent_of(path))
}

fn open_own_at(at: impl AsFd, name: &OsStr, flags: OFlags, folder: &Path) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | FLAGS;
    let handle = rustix::fs::openat(&at, name, flags, NEW_FILE)
        .map_err(|e| irregular(rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW), e))?;
    let file = regular(handle)?;
    check_own(&file, folder)?;
    Ok(file)
}

/// Returns the folder that holds a path; `.` for a bare file name.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses a hard-linked file, which a write would change under its other name,
/// and a file of another user.
fn check_own(file: &File, folder: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.nlink() > 1 {
        let names = metadata.nlink();
        return Err(io::Error::other(format!("it has {names} names (hard links)")));
    }
    let ours = || {
        // On FAT, and on network file systems that map users, the mount decides the owner of every file: the owner of a
        // new file shows which owner the mount assigns.
        tempfile::tempfile_in(folder).and_then(|file| file.metadata().map(|new| new.uid()))
    };
    if metadata.uid() != rustix::process::geteuid().as_raw() && ours().ok() != Some(metadata.uid()) {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(())
}

/// An open folder:
/// names in the folder lead to the same files even if the folder is moved or replaced.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    handle: Arc<OwnedFd>,
}

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// Errors of open(2).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = match rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty()) {
            // A folder without read permission may still allow new files. A handle from `O_PATH` cannot be synced.
            Err(Errno::ACCESS) => rustix::fs::open(path, flags | OFlags::PATH, Mode::empty()),
            other => other,
        }?;
        Ok(Self {
            path: path.to_owned(),
            handle: Arc::new(handle),
        })
    }

    /// The path by which this folder was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the path of this folder still leads to this folder.
    ///
    /// # Errors
    /// Errors of stat(2).
    pub(crate) fn is_at_its_path(&self) -> io::Result<bool> {
        let here = rustix::fs::fstat(&self.handle)?;
        let there = rustix::fs::stat(&self.path)?;
        Ok((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino))
    }

    /// Opens one of this program's own files for reading and writing; creates a missing file.
    ///
    /// # Errors
    /// The errors of [`open_own`](Self::open_own).
    pub(crate) fn open_or_create_own(&self, name: &OsStr) -> io::Result<File> {
        open_own_at(&self.handle, name, OFlags::RDWR | OFlags::CREATE, &self.path)
    }

    /// Opens one of this program's own files for reading and writing.
    ///
    /// # Errors
    /// The errors of [`open_own`](Self::open_own).
    pub(crate) fn open_own_to_write(&self, name: &OsStr) -> io::Result<File> {
        open_own_at(&self.handle, name, OFlags::RDWR, &self.path)
    }

    /// Opens one of this program's own files for reading.
    ///
    /// # Errors
    /// Errors of open(2), and an error if the file is a link, not a regular file, has several names, or belongs to another
    /// user.
    pub(crate) fn open_own(&self, name: &OsStr) -> io::Result<File> {
        open_own_at(&self.handle, name, OFlags::RDONLY, &self.path)
    }

    /// Creates a file for writing; the name must be free.
    ///
    /// # Errors
    /// Errors of open(2).
    pub(crate) fn create_new(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, name, flags, NEW_FILE)?.into())
    }

    /// Opens a regular file for reading, by a path relative to this folder.
    ///
    /// Links in the path may lead only to places beneath the folder.
    /// Before Linux 5.6 the kernel cannot check that, and no link is followed.
    ///
    /// # Errors
    /// Errors of open(2), and an error if the file is not a regular file or is outside the folder.
    pub(crate) fn open_beneath(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | FLAGS;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut races = 0;
        let handle = loop {
            match rustix::fs::openat2(&self.handle, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
                // The kernel does not have openat2(2), or a seccomp filter rejects the call.
                Err(Errno::NOSYS | Errno::PERM) => break self.step_by_step(path, flags),
                Err(Errno::XDEV) => return Err(io::Error::other("the path leads out of the folder")),
                other => break other.map_err(io::Error::from),
            }
        }?;
        regular(handle)
    }

    /// Returns whether a path relative to this folder leads to a folder beneath this folder.
    pub(crate) fn is_folder_beneath(&self, path: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.handle, path, flags, Mode::empty(), resolve).is_ok()
    }

    /// Opens a path component by component, without following links:
    /// for kernels without openat2(2).
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

    /// Returns the identity of the file with this name; a link is not followed.
    ///
    /// # Errors
    /// Errors of stat(2).
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

    /// Returns whether a name belongs to anything but a regular file.
    pub(crate) fn is_special(&self, name: &OsStr) -> bool {
        let found = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| !FileType::from_raw_mode(found.st_mode).is_file())
    }

    /// Returns whether a name belongs to a folder.
    pub(crate) fn is_folder(&self, name: &OsStr) -> bool {
        let found = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_dir())
    }

    /// Returns why this user can rename no file over an existing one, if the system says so.
    pub(crate) fn protection(&self, name: &OsStr) -> Option<&'static str> {
        let stat = |name: &OsStr, flags| rustix::fs::statx(&self.handle, name, flags, StatxFlags::BASIC_STATS).ok();
        let found = stat(name, AtFlags::SYMLINK_NOFOLLOW)?;
        let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
        if found.stx_attributes.intersects(fixed) {
            return Some("it is marked as unchangeable (`lsattr` shows that, `chattr -i` or `chattr -a` ends it)");
        }
        let here = stat(OsStr::new(""), AtFlags::EMPTY_PATH)?;
        let user = rustix::process::geteuid();
        let is_sticky = Mode::from_raw_mode(here.stx_mode.into()).contains(Mode::SVTX);
        let owns = |owner: u32| user.is_root() || owner == user.as_raw();
        (is_sticky && !owns(found.stx_uid) && !owns(here.stx_uid))
            .then_some("it belongs to another user, and in its folder only the owner may replace a file (sticky bit)")
    }

    /// Returns whether a name is a mount point, which no file can be renamed over.
    pub(crate) fn is_mount_point(&self, name: &OsStr) -> bool {
        let Ok(found) = rustix::fs::statx(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        else {
            return false;
        };
        if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        }
        // Before Linux 5.8, only a mount of another file system can be detected.
        let device = (u64::from(found.stx_dev_major), u64::from(found.stx_dev_minor));
        let here = rustix::fs::statx(&self.handle, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        here.is_ok_and(|here| (u64::from(here.stx_dev_major), u64::from(here.stx_dev_minor)) != device)
    }

    /// Renames a file within the folder.
    /// With `replace`, an existing file of the new name is replaced.
    ///
    /// # Errors
    /// Errors of rename(2); [`io::ErrorKind::AlreadyExists`] without `replace` if the new name exists.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr, replace: bool) -> io::Result<()> {
        if !replace {
            match rustix::fs::renameat_with(&self.handle, from, &self.handle, to, RenameFlags::NOREPLACE) {
                // The file system has no exclusive rename: a check before a plain rename has to suffice.
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

    /// Removes a file of this folder.
    ///
    /// # Errors
    /// Errors of unlink(2).
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.handle, name, AtFlags::empty())?)
    }

    /// Makes the names in this folder durable.
    /// A file system that cannot sync a folder is no failure.
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

    /// Creates a named pipe without a writer.
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
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for (name, expected) in [
            ("link", "symbolic link"),
            ("second", "2 names"),
            ("pipe", "not a regular file"),
            ("folder", "it is a folder, not a regular file"),
            ("socket", "it is a socket, not a regular file"),
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
            // Only root can change the owner of a file.
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
        // The handle stays on the opened folder, even if another folder takes its name.
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
