//! Files that a command writes besides its output: a lock, an HTML page or a want-list. A file gets its name once it is
//! complete, and replaces only an earlier file of the same kind.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use docker_mirror::{Error, Kind, Result, open_regular, parent_of, quote};

use super::report::make_folder_hint;
use super::temp_file::{OTHER_PLACE, bare, temp_file_beside, try_beside};

/// A file that a command will write at its end.
#[derive(Debug, Clone)]
pub(super) struct OutputFile {
    /// Text that every file of this kind begins with.
    start: &'static str,
    path: PathBuf,
}

impl OutputFile {
    /// Checks that the file of a flag can be written, and returns the file. Called before any other work.
    /// Returns `None` without a path.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the file cannot be written, or a file of another kind has its name.
    pub(super) fn new(
        flag: &'static str,
        what: &'static str,
        start: &'static str,
        path: Option<&Path>,
    ) -> Result<Option<Self>> {
        let Some(path) = path else { return Ok(None) };
        let usage = |why: &str| Err(Error::new(Kind::Usage, format!("`{flag} {}`: {why}", quote(path))));
        if path.as_os_str() == "-" {
            return usage("this goes to a file, since standard output has the results; a file of this name is `./-`");
        }
        if path.is_dir() {
            return usage("this is a folder; name a file in it");
        }
        if let Ok(there) = path.symlink_metadata() {
            if let Ok(end) = path.read_link() {
                return usage(&format!(
                    "this is a symbolic link to `{}`, and links are not followed; name the file itself",
                    quote(&end)
                ));
            }
            if !there.is_file() {
                return usage("this is there and is not a regular file; name another one");
            }
            let mut head = Vec::new();
            let mut file = open_regular(path)
                .map_err(|e| Error::io("read", path, e))?
                .take(start.len() as u64);
            file.read_to_end(&mut head).map_err(|e| Error::io("read", path, e))?;
            if !head.is_empty() && head != start.as_bytes() {
                return usage(&format!("this file is there and is no {what}; it is not replaced"))
                    .map_err(|e| e.with_hint("name another file"));
            }
        }
        if !parent_of(path).is_dir() {
            return usage("its folder does not exist").map_err(|e| e.with_hint(make_folder_hint(path)));
        }
        if let Err(error) = try_beside(path) {
            return usage(&format!("no file can be made in its folder: {}", bare(error)))
                .map_err(|e| e.with_hint(OTHER_PLACE));
        }
        Ok(Some(Self {
            start,
            path: path.to_owned(),
        }))
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes and syncs the content, then gives the file its name.
    pub(super) fn write(&self, content: &str) -> Result<()> {
        debug_assert!(content.starts_with(self.start), "{}", self.start);
        let write = || {
            let file = temp_file_beside(&self.path)?;
            file.as_file().write_all(content.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|e| Error::io("write", &self.path, bare(e)).with_hint(OTHER_PLACE))
    }
}
