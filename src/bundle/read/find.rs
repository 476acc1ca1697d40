//! From the paths that a user gives to the archives behind them.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::text::{Warnings, quote};

/// A directory tree is searched this deep.
const MAX_DEPTH: usize = 16;

/// More entries are not looked at.
const MAX_ENTRIES: usize = 500_000;

/// What a folder is not searched for, though it may hold images, and what to do about it.
const LEFT_ALONE: [(&str, &str); 8] = [
    (".tar.xz", "unpack it with `xz -d` first"),
    (".txz", "unpack it with `xz -d` first"),
    (".tar.bz2", "unpack it with `bzip2 -d` first"),
    (".tbz2", "unpack it with `bzip2 -d` first"),
    (".tar.lz4", "unpack it with `lz4 -d` first"),
    (".tar.lzma", "unpack it with `xz -d` first"),
    (".oci", "name the file itself, or call it `.tar`"),
    (".docker", "name the file itself, or call it `.tar`"),
];

/// What to do about a folder that skopeo wrote in a form of its own, which has no name and no types.
const SKOPEO_DIR: &str = "write an archive instead: `skopeo copy dir:FOLDER oci-archive:FILE.tar:NAME`";

/// Where an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A file.
    File(PathBuf),
    /// A directory that holds what an archive would.
    Layout(PathBuf),
}

/// The archives behind some paths, each once, in the order of the paths and by name within a directory.
pub(super) fn archives(paths: &[PathBuf], warnings: &mut Warnings) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(Found::File(path.clone()));
        } else if is_layout(path) && !is_skopeo_dir(path) {
            found.push(Found::Layout(path.clone()));
        } else {
            if is_skopeo_dir(path) {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("`{}` was written by skopeo's `dir:`, which is not read", quote(&path)),
                )
                .with_hint(SKOPEO_DIR));
            }
            let (before, told) = (found.len(), warnings.len());
            search(path, &mut found, warnings)?;
            if found.len() == before {
                let error = Error::new(
                    Kind::NotFound,
                    format!("`{}` holds neither an image layout nor a `.tar` file", quote(&path)),
                );
                return Err(match warnings.get(told) {
                    Some(first) => error.with_hint(first.clone()),
                    None => error,
                });
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

fn search(directory: &Path, found: &mut Vec<Found>, warnings: &mut Warnings) -> Result<()> {
    let mut walk = walkdir::WalkDir::new(directory)
        .min_depth(1)
        .max_depth(MAX_DEPTH)
        .sort_by_file_name()
        .into_iter();
    let mut entries = 0;
    while let Some(entry) = walk.next() {
        let entry =
            entry.map_err(|e| Error::new(Kind::Io, format!("cannot search `{}`", quote(&directory))).with_source(e))?;
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(Error::new(
                Kind::Malformed,
                format!("`{}` holds more than {MAX_ENTRIES} files", quote(&directory)),
            ));
        }
        let path = entry.path();
        if entry.file_type().is_dir() {
            if is_skopeo_dir(path) {
                warnings.push(format!(
                    "`{}` was written by skopeo's `dir:` and was left alone; {SKOPEO_DIR}",
                    quote(&path)
                ));
                walk.skip_current_dir();
            } else if is_layout(path) {
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
            warnings.push(format!("`{}` is unfinished and was left alone", quote(&path)));
        } else if let Some((_, what)) = LEFT_ALONE.iter().find(|(end, _)| name.ends_with(end)) {
            warnings.push(format!("`{}` was left alone; {what}", quote(&path)));
        }
    }
    Ok(())
}

fn is_layout(path: &Path) -> bool {
    ["oci-layout", "index.json", "manifest.json"]
        .iter()
        .any(|name| path.join(name).is_file())
}

/// What `skopeo copy ... dir:` writes: a manifest that is called `manifest.json`, blobs beside it, and this.
fn is_skopeo_dir(path: &Path) -> bool {
    const START: &[u8; 27] = b"Directory Transport Version";
    let mut start = [0; START.len()];
    let version = path.join("version");
    version.is_file()
        && crate::files::open_regular(&version)
            .and_then(|mut file| file.read_exact(&mut start))
            .is_ok()
        && start == *START
}
