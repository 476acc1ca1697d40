//! Finds the archives behind the paths that a user gives.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind};
use crate::files::encoding;
use crate::image::listing;
use crate::image::manifest::MAX_MANIFEST;
use crate::progress::Progress;
use crate::text::{Warnings, quote};

/// Maximum depth of a search in a directory tree.
const MAX_DEPTH: usize = 16;

/// Maximum number of entries that a search visits.
const MAX_ENTRIES: usize = 500_000;

/// Endings of files that a search skips although they may hold images, and the hint for each.
const SKIPPED_ENDINGS: [(&str, &str); 6] = [
    (".tar.lz4", "unpack it with `lz4 -d` first"),
    (".tar.lzma", "unpack it with `xz -d` first"),
    (".zip", "unpack it with `unzip` first"),
    (".7z", "unpack it with `7z x` first"),
    (".oci", "name the file itself, or call it `.tar`"),
    (".docker", "name the file itself, or call it `.tar`"),
];

/// Returns the hint for a folder in skopeo's `dir:` format, which stores neither names nor types.
fn skopeo_hint(folder: &Path) -> String {
    format!(
        "write an archive instead: `skopeo copy --all dir:{} oci-archive:FILE.tar:NAME`, where NAME is the name of the image, \
         such as library/nginx:1.27",
        quote(&folder)
    )
}

/// System folders of operating systems, file managers and storage boxes, in lower case: deleted
/// files, lost files, indexes. A folder whose name starts with a dot is hidden and skipped as well.
const SYSTEM_FOLDERS: [&str; 10] = [
    "$recycle.bin",
    "recycler",
    "recycled",
    "system volume information",
    "$winreagent",
    "lost+found",
    "__macosx",
    "#recycle",
    "@recycle",
    "@eadir",
];

/// Prefix of the folders in which chkdsk stores recovered files, such as `FOUND.000`.
const CHKDSK: &str = "found.";

/// Endings of files that a search accepts as archives.
const ARCHIVES: [&str; 10] = [
    ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz",
];

/// The location of an archive.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// A file.
    File(PathBuf),
    /// A layout directory.
    Layout(PathBuf),
    /// A file or folder that cannot be read,
    /// although the user named it or it looks like an archive.
    Broken(PathBuf, Error),
}

/// Finds the archives behind some paths, each once, in the order of the paths,
/// and by name within a directory.
pub(super) fn archives(paths: &[PathBuf], warnings: &mut Warnings, progress: &Progress) -> Vec<Found> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(Found::File(path.clone()));
        } else if is_skopeo_dir(path) {
            let what = format!(
                "`{}` was written by skopeo's `dir:`, which is not supported",
                quote(&path)
            );
            let error = Error::new(Kind::Unsupported, what).with_hint(skopeo_hint(path));
            found.push(Found::Broken(path.clone(), error));
        } else if is_layout(path) {
            found.push(Found::Layout(path.clone()));
        } else {
            let (before, told) = (found.len(), warnings.len());
            let mut skipped = Vec::new();
            search(path, &mut found, warnings, &mut skipped);
            skipped.iter().for_each(|folder| note_skipped(folder, progress));
            if found.len() == before {
                let what = format!("`{}` holds neither an image layout nor a `.tar` file", quote(&path));
                let error = Error::new(Kind::NotFound, what);
                let error = match (warnings.get(told), skipped.first()) {
                    (Some(first), _) => error.with_hint(first.clone()),
                    (None, Some(folder)) => error.with_hint(format!(
                        "hidden and system folders such as `{}` are not searched: name the folder itself if its files are \
                         meant",
                        quote(folder)
                    )),
                    (None, None) => error.with_hint(
                        "name a bundle, an archive of another program, or a folder that holds one: see `docker-mirror help import`",
                    ),
                };
                found.push(Found::Broken(path.clone(), error));
            }
        }
    }
    // An archive that two paths lead to is opened once.
    let mut seen = HashSet::new();
    found.retain(|place| match place {
        Found::File(path) | Found::Layout(path) => seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())),
        Found::Broken(..) => true,
    });
    found
}

/// Searches a folder. An unreadable subfolder is reported, and the search continues.
fn search(directory: &Path, found: &mut Vec<Found>, warnings: &mut Warnings, skipped: &mut Vec<PathBuf>) {
    let mut walk = walkdir::WalkDir::new(directory)
        .min_depth(1)
        .max_depth(MAX_DEPTH)
        .sort_by_file_name()
        .into_iter();
    let mut entries = 0;
    while let Some(entry) = walk.next() {
        entries += 1;
        if entries > MAX_ENTRIES {
            let what = format!("`{}` holds more than {MAX_ENTRIES} files", quote(&directory));
            let error = Error::new(Kind::Malformed, what).with_hint("name the bundles themselves, or a smaller folder");
            found.push(Found::Broken(directory.to_owned(), error));
            return;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let path = error.path().unwrap_or(directory).to_owned();
                found.push(unsearched(path, error));
                continue;
            }
        };
        let path = entry.path();
        if entry.file_type().is_dir() {
            if is_system_folder(entry.file_name()) {
                skipped.push(path.to_owned());
                walk.skip_current_dir();
            } else if is_skopeo_dir(path) {
                warnings.push(format!(
                    "`{}` was written by skopeo's `dir:` and was skipped; {}",
                    quote(&path),
                    skopeo_hint(path)
                ));
                walk.skip_current_dir();
            } else if is_layout(path) {
                found.push(Found::Layout(path.to_owned()));
                walk.skip_current_dir();
            }
            continue;
        }
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        if is_archive(&name) {
            found.push(file(path, directory));
        } else if name.ends_with(".partial") {
            warnings.push(format!("`{}` is unfinished and was skipped", quote(&path)));
        } else if let Some((_, what)) = SKIPPED_ENDINGS.iter().find(|(end, _)| name.ends_with(end)) {
            warnings.push(format!("`{}` was skipped; {what}", quote(&path)));
        }
    }
}

/// Returns whether a file has the name of an archive.
pub(super) fn is_archive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ARCHIVES.iter().any(|end| name.ends_with(end))
}

/// Checks a file with the name of an archive.
/// A pipe or device in a searched folder is an error, so that no read blocks.
fn file(path: &Path, searched: &Path) -> Found {
    if path.is_symlink() && leads_out(path, searched) {
        let what = format!(
            "`{}` is a link that leads out of the folder, and is not followed",
            quote(path)
        );
        let error = Error::new(Kind::Malformed, what).with_hint("name the file that it leads to, if that is meant");
        return Found::Broken(path.to_owned(), error);
    }
    let error = match path.metadata() {
        Ok(metadata) if metadata.is_file() => return Found::File(path.to_owned()),
        Ok(_) => Error::new(Kind::Malformed, format!("`{}` is not a regular file", quote(path))),
        Err(error) => Error::io("read", path, error),
    };
    let error = match path.is_symlink() {
        true => error.with_hint("it is a symbolic link: see where it leads"),
        false => error,
    };
    Found::Broken(path.to_owned(), error)
}

/// Returns whether a link leads to a file outside the searched folder.
fn leads_out(link: &Path, searched: &Path) -> bool {
    match (link.canonicalize(), searched.canonicalize()) {
        (Ok(target), Ok(searched)) => !target.starts_with(searched),
        // A dangling link is reported when it is read.
        _ => false,
    }
}

fn unsearched(path: PathBuf, error: walkdir::Error) -> Found {
    let cause = error
        .into_io_error()
        .unwrap_or_else(|| io::Error::other("its links lead in a circle"));
    let error = Error::io("search", &path, cause).with_hint("let this user read it, or name the bundles themselves");
    Found::Broken(path, error)
}

/// Reports a folder that the search skips.
pub(super) fn note_skipped(folder: &Path, progress: &Progress) {
    progress.note(format!(
        "`{}` is a hidden or system folder and was not searched",
        quote(folder)
    ));
}

/// Returns whether a folder is hidden or a system folder.
pub(super) fn is_system_folder(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    let is_number = |rest: &str| rest.len() == 3 && rest.bytes().all(|byte| byte.is_ascii_digit());
    name.starts_with('.') || SYSTEM_FOLDERS.contains(&name.as_str()) || name.strip_prefix(CHKDSK).is_some_and(is_number)
}

fn is_layout(path: &Path) -> bool {
    path.join("oci-layout").is_file()
        || document(&path.join("index.json"), MAX_MANIFEST).is_some_and(|index| listing::entries(&index).is_ok())
        || document(&path.join("manifest.json"), LOOKED_AT).is_some_and(|list| is_list_of_images(&list))
}

/// Reads the first bytes of a document,
/// which may belong to another program that uses the same file name.
fn document(path: &Path, length: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = crate::files::open_regular(path).ok()?;
    file.take(length).read_to_end(&mut bytes).ok()?;
    Some(encoding::utf8(bytes))
}

/// Number of bytes at the start of a `manifest.json` that show whether the file lists images.
pub(super) const LOOKED_AT: u64 = 256;

/// Returns whether a document starts like the `manifest.json` of a docker-archive:
/// a list of objects with a config.
pub(super) fn is_list_of_images(begin: &[u8]) -> bool {
    let begin = begin.strip_prefix(b"\xef\xbb\xbf").unwrap_or(begin).trim_ascii_start();
    let Some(rest) = begin.strip_prefix(b"[") else {
        return false;
    };
    let text = rest.to_ascii_lowercase();
    text.trim_ascii_start().starts_with(b"{")
        && [&b"\"config\""[..], b"\"repotags\"", b"\"layers\""]
            .iter()
            .any(|key| text.windows(key.len()).any(|part| part == *key))
}

/// Returns whether a folder was written by `skopeo copy ... dir:`:
/// with `manifest.json`, blobs and a `version` file.
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
