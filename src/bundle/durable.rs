//! Errors from writing the files of an unfinished bundle.

use std::io;
use std::path::Path;

use crate::error::{Error, Kind};

/// Returns the error for a failed write, with a hint.
/// `resumes` says whether another run continues the file.
pub(super) fn write_failed(path: &Path, e: io::Error, resumes: bool) -> Error {
    let too_large = e.kind() == io::ErrorKind::FileTooLarge;
    // A file system that cannot change the length of a file says so in one of these ways. Missing rights are `EACCES`.
    let codes = [
        rustix::io::Errno::PERM,
        rustix::io::Errno::OPNOTSUPP,
        rustix::io::Errno::NOSYS,
    ];
    let is_unable = codes.iter().any(|code| e.raw_os_error() == Some(code.raw_os_error()));
    let is_folder = e.kind() == io::ErrorKind::IsADirectory;
    let has_no_right = e.kind() == io::ErrorKind::PermissionDenied && !is_unable;
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
        Kind::Io if has_no_right => error,
        Kind::Io if is_folder => error.with_hint(format!(
            "a folder has the name of a file of this program: rename or remove the folder, then {then}; or choose another name \
             with `-o`"
        )),
        Kind::Io if is_unable => error.with_hint(
            "this file system cannot do what an unfinished bundle needs (writing anywhere in a file, and changing its length): \
             write to another file system, or in order with `-o -`",
        ),
        Kind::Io => error.with_hint(format!("when the file system can be written to again, {then}")),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_of_a_failed_write_fits_its_cause() {
        use rustix::io::Errno;
        for (code, words) in [
            (Errno::NOSPC, "make room"),
            (Errno::DQUOT, "make room"),
            (Errno::FBIG, "ulimit -f"),
            (Errno::IO, "can be written to again"),
            (Errno::ISDIR, "remove the folder"),
            (Errno::ROFS, "can be written to again"),
            (Errno::ACCESS, "`chmod`"),
            (Errno::PERM, "write to another file system"),
            (Errno::OPNOTSUPP, "write to another file system"),
            (Errno::NOSYS, "write to another file system"),
        ] {
            let error = write_failed(Path::new("b.tar.partial"), code.into(), true);
            assert!(
                error.hint().is_some_and(|hint| hint.contains(words)),
                "{code:?}: {error:?}"
            );
        }
    }
}
