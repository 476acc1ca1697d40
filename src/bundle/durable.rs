//! Errors from writing the files of an unfinished bundle.

use std::io;
use std::path::Path;

use crate::error::{Error, Kind};

/// Returns the error for a failed write, with a hint.
/// `resumes` says whether another run continues the file.
pub(super) fn write_failed(path: &Path, e: io::Error, resumes: bool) -> Error {
    let too_large = e.kind() == io::ErrorKind::FileTooLarge;
    let error = Error::io("write", path, e);
    let then = match resumes {
        true => "run the same command again to resume",
        false => "run the same command again",
    };
    match error.kind() {
        Kind::NoSpace if too_large => error.with_hint(format!(
            "the file system or a limit of this shell (`ulimit -f`) allows no file of that size: raise the limit, or write \
             to another file system; then {then}"
        )),
        Kind::NoSpace => error.with_hint(format!("make room, then {then}")),
        Kind::Io => error.with_hint(format!("when the file system can be written to again, {then}")),
        _ => error,
    }
}
