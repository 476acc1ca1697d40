//! Refuses a command that would write a file twice, or write over a file that it reads.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use docker_mirror::{Error, Kind, Result, parent_of, quote};

/// A file that a command names, with the flag that names it; `None` if the flag was not given.
pub(super) type Named<'a> = (&'static str, Option<&'a Path>);

/// Checks that each output is a file of its own, and none of the inputs.
///
/// # Errors
/// [`Kind::Usage`] with both flags.
pub(super) fn check(outputs: &[Named<'_>], inputs: &[Named<'_>]) -> Result<()> {
    let (outputs, inputs) = (given(outputs), given(inputs));
    let identities: Vec<_> = outputs.iter().map(|(_, path)| Identity::from_path(path)).collect();
    for (at, (flag, path)) in outputs.iter().enumerate() {
        let Some(identity) = &identities[at] else { continue };
        let refused = |other: &str, what: &str| {
            let why = format!("`{flag} {}`: this is the file that {what} `{other}`", quote(path));
            Err(Error::new(Kind::Usage, why).with_hint("name another file"))
        };
        if let Some(other) = (0..at).find(|other| identities[*other].as_ref() == Some(identity)) {
            return refused(outputs[other].0, "is written by");
        }
        let input = inputs
            .iter()
            .find(|(_, path)| Identity::from_path(path).as_ref() == Some(identity));
        if let Some((other, _)) = input {
            return refused(other, "is read by");
        }
    }
    Ok(())
}

/// Returns the files whose flags were given.
fn given<'a>(files: &[Named<'a>]) -> Vec<(&'static str, &'a Path)> {
    let given = files.iter().filter_map(|(flag, path)| Some((*flag, (*path)?)));
    given.collect()
}

/// The identity of a file, which is the same under each of its paths.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// Device and inode of a file that exists.
    Existing(u64, u64),
    /// Folder and name of a file that does not exist yet.
    New(PathBuf, OsString),
}

impl Identity {
    /// Returns `None` for standard input and output, and for what is no regular file: a pipe or device can be used twice.
    fn from_path(path: &Path) -> Option<Self> {
        if path.as_os_str() == "-" {
            return None;
        }
        match path.metadata() {
            Ok(there) => there.is_file().then(|| Self::Existing(there.dev(), there.ino())),
            Err(_) => Some(Self::New(
                parent_of(path).canonicalize().ok()?,
                path.file_name()?.to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_known_under_all_of_its_paths() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("there"), "").unwrap();
        std::os::unix::fs::symlink("there", path("link")).unwrap();
        let refused = |output: &str, other: &str| {
            let outputs = [("-o", path(output)), ("--report", path(other))];
            let outputs = outputs.each_ref().map(|(flag, path)| (*flag, Some(path.as_path())));
            let (input, written) = (check(&outputs[..1], &outputs[1..]), check(&outputs, &[]));
            assert_eq!(input.is_err(), written.is_err(), "{output} {other}");
            written.is_err()
        };
        assert!(refused("there", "link") && refused("there", "./there") && refused("new", "./new"));
        assert!(!refused("there", "new") && !refused("new", "newer"));
        let standard = [("-o", Some(Path::new("-"))), ("--report", Some(Path::new("-")))];
        assert!(check(&standard, &[]).is_ok());
    }
}
