//! From the paths that a user gives to the archives behind them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// A directory tree is searched this deep.
const MAX_DEPTH: usize = 16;

/// More entries are not looked at.
const MAX_ENTRIES: usize = 500_000;

/// Where an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A file.
    File(PathBuf),
    /// A directory that holds what an archive would.
    Layout(PathBuf),
}

/// The archives behind some paths, each once, in the order of the paths and by name within a directory.
pub(super) fn archives(paths: &[PathBuf], warnings: &mut Vec<String>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(Found::File(path.clone()));
        } else if is_layout(path) {
            found.push(Found::Layout(path.clone()));
        } else {
            let before = found.len();
            search(path, &mut found, warnings)?;
            if found.len() == before {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("`{}` holds neither an image layout nor a `.tar` file", path.display()),
                ));
            }
        }
    }
    let mut seen = HashSet::new();
    found.retain(|place| {
        let (Found::File(path) | Found::Layout(path)) = place;
        seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone()))
    });
    Ok(found)
}

fn search(directory: &Path, found: &mut Vec<Found>, warnings: &mut Vec<String>) -> Result<()> {
    let mut walk = walkdir::WalkDir::new(directory)
        .min_depth(1)
        .max_depth(MAX_DEPTH)
        .sort_by_file_name()
        .into_iter();
    let mut entries = 0;
    while let Some(entry) = walk.next() {
        let entry = entry
            .map_err(|e| Error::new(Kind::Io, format!("cannot search `{}`", directory.display())).with_source(e))?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(Error::new(
                Kind::Malformed,
                format!("`{}` holds more than {MAX_ENTRIES} files", directory.display()),
            ));
        }
        let path = entry.path();
        if entry.file_type().is_dir() {
            if is_layout(path) {
                found.push(Found::Layout(path.to_owned()));
                walk.skip_current_dir();
            }
            continue;
        }
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        if [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"]
            .iter()
            .any(|end| name.ends_with(end))
            && path.is_file()
        {
            found.push(Found::File(path.to_owned()));
        } else if name.ends_with(".partial") {
            warnings.push(format!("`{}` is unfinished and was left alone", path.display()));
        }
    }
    Ok(())
}

fn is_layout(path: &Path) -> bool {
    ["oci-layout", "index.json", "manifest.json"]
        .iter()
        .any(|name| path.join(name).is_file())
}
