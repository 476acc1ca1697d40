//! Checks that an opened file is a regular file, and names the type of any other file in the error.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::io::Errno;

/// Returns the opened file, or an error if it is not a regular file.
pub(super) fn regular(handle: OwnedFd) -> io::Result<File> {
    let found = FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode);
    match found.is_file() {
        true => Ok(File::from(handle)),
        false => Err(not_regular(found)),
    }
}

/// Returns the error for a file that is not a regular file.
fn not_regular(found: FileType) -> io::Error {
    let what = match found {
        FileType::Directory => "a folder",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    io::Error::other(format!("it is {what}, not a regular file"))
}

/// Replaces the error of a failed open(2) if the file is not a regular file: the text of the system does not name the kind of
/// the file.
pub(super) fn irregular(found: rustix::io::Result<rustix::fs::Stat>, error: Errno) -> io::Error {
    match found.map(|found| FileType::from_raw_mode(found.st_mode)) {
        Ok(found) if !found.is_file() => not_regular(found),
        _ => error.into(),
    }
}
