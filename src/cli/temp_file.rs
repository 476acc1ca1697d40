//! Temporary files that get the name of an output once they are complete.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use docker_mirror::{open_or_create_own, parent_of};

/// Hint for a file that cannot be written.
pub(super) const OTHER_PLACE: &str = "make room and see who may write there (`df`, `ls -ld`), or name a file elsewhere";

/// Creates a temporary file in the folder of `path`, with the permissions of any new file.
///
/// Its name follows from that of `path`: the same command replaces the file that a killed run left behind. If the name is taken,
/// by another run or another program, the file gets a random name.
pub(super) fn temp_file_beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    if let Some(file) = own_temp_file(path) {
        return Ok(file);
    }
    let permissions = Permissions::from_mode(0o666);
    tempfile::Builder::new()
        .permissions(permissions)
        .tempfile_in(parent_of(path))
}

/// Checks that a file can be made beside `path` and has room for a first block. Nothing stays behind.
pub(super) fn try_beside(path: &Path) -> io::Result<()> {
    let file = temp_file_beside(path)?;
    file.as_file().write_all(&[0; 4096])?;
    // Some file systems find out only here that there is no room.
    file.as_file().sync_data()
}

/// Opens `.NAME.docker-mirror-tmp` beside `path`, empty and locked; `None` if the name cannot be used.
fn own_temp_file(path: &Path) -> Option<tempfile::NamedTempFile> {
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(".docker-mirror-tmp");
    let temp = parent_of(path).join(name);
    let file = open_or_create_own(&temp).ok()?;
    // The lock excludes another run that writes the same file. Where a file system has no locks, names are random.
    file.try_lock().ok()?;
    let (locked, there) = (file.metadata().ok()?, temp.symlink_metadata().ok()?);
    // Another run may have finished between the opening and the lock: the file then has its final name already.
    if (locked.dev(), locked.ino()) != (there.dev(), there.ino()) {
        return None;
    }
    file.set_len(0).ok()?;
    Some(tempfile::NamedTempFile::from_parts(
        file,
        tempfile::TempPath::try_from_path(temp).ok()?,
    ))
}

/// Returns an error without the path of a temporary file, which would not help the user.
pub(super) fn bare(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.source());
    let code = inner.and_then(|inner| inner.downcast_ref::<io::Error>()?.raw_os_error());
    match (code, error.kind()) {
        (Some(code), _) => io::Error::from_raw_os_error(code),
        // The text of this error has the path as well.
        (None, kind) if kind != io::ErrorKind::Other && error.get_ref().is_some() => kind.into(),
        (None, _) => error,
    }
}
