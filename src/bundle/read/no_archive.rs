//! Messages for files and folders that are not image archives, and for members of an archive that are no part of an image.

use super::archive::Archive;
use super::docker::items;
use super::find;
use crate::bundle::record;
use crate::error::{Error, Kind};
use crate::text::{few, quote};

pub(super) fn no_archive(archive: &Archive) -> Error {
    let label = quote(&archive.label);
    let error = Error::new(
        Kind::Malformed,
        format!(
            "`{label}` is not an image archive: it has neither `oci-layout` nor `{}`",
            items::MEMBER
        ),
    );
    if !archive.whole {
        return if_cut_off(archive, error);
    }
    if !archive.folders.is_empty() {
        let folders = few(archive.folders.iter().map(|folder| format!("`{}`", quote(folder))));
        let what = format!("{error}, but several folders in it do: {folders}");
        return Error::new(Kind::Malformed, what).with_hint("unpack it with `tar -xf`, and import the folders");
    }
    let is_there = |name: &&str| archive.files.contains_key(*name);
    if is_there(&"index.json") && archive.has_blobs {
        return error.with_hint(
            "an image layout has a file `oci-layout` with the text {\"imageLayoutVersion\":\"1.0.0\"}: add it, or have the \
             archive written again",
        );
    }
    let holds = |folder: &&&str| archive.files.keys().any(|name| name.starts_with(**folder));
    let is_root = ROOT_FOLDERS.iter().filter(holds).count() >= 2;
    if is_root || [".dockerenv", "etc/passwd", "etc/os-release"].iter().any(is_there) {
        return error
            .with_hint("these are the files of a container (`docker export`); save the image with `docker save`");
    }
    if archive.files.is_empty() && archive.links.is_empty() {
        return Error::new(Kind::Malformed, format!("{error}, nor any other file")).with_hint(
            "it is an empty tar, or a file of which only zeros were written: copy it again, or make it again",
        );
    }
    let names = || archive.files.keys();
    if names().any(|name| name.starts_with(REGISTRY) || name.contains(&format!("/{REGISTRY}"))) {
        return error.with_hint(REGISTRY_HINT);
    }
    if is_there(&"repositories") && names().any(|name| name.ends_with("/layer.tar")) {
        return error.with_hint(
            "docker before 1.10 wrote it: load it with `docker load` of a version that still reads it, and save the image again",
        );
    }
    if names().any(|name| name.matches('/').count() == 1 && name.ends_with("/Chart.yaml")) {
        return error.with_hint("it is a Helm chart: put it into a registry with `helm push`");
    }
    if let Some(inner) = names().find(|name| find::is_archive(name)) {
        let what = format!("{error}, but it holds `{}`, which may be one", quote(inner));
        return Error::new(Kind::Malformed, what).with_hint("unpack it with `tar -xf`, and import what is in it");
    }
    error.with_hint("OCI image layouts and what `docker save` and `podman save` write are accepted")
}

/// Folders at the root of a container's file system. An archive with files in two of them is taken for one.
const ROOT_FOLDERS: [&str; 6] = ["bin/", "etc/", "lib/", "root/", "usr/", "var/"];

/// Path of the folder in which a registry stores its content.
const REGISTRY: &str = "docker/registry/v2/";

/// Hint for the files of a registry's storage.
const REGISTRY_HINT: &str =
    "these are the files in which a registry keeps its content: start a registry on them, and export from it";

/// Adjusts the error about a missing document:
/// for a truncated archive, the truncation is the only cause reported.
pub(super) fn if_cut_off(archive: &Archive, error: Error) -> Error {
    if archive.whole {
        return error;
    }
    let what = format!("{error}, and it lacks the blocks that mark its end: it was truncated");
    Error::new(error.kind(), what).with_hint("copy it again, and compare sizes or checksums")
}

/// Warns about members that belong to no image.
pub(super) fn warn_of_others(archive: &mut Archive) {
    let has_items = archive.files.contains_key(items::MEMBER);
    let expected = |name: &str| {
        matches!(
            name,
            "oci-layout" | "index.json" | record::MEMBER | items::MEMBER | "repositories"
        ) || has_items
            && (name.starts_with("sha256:")
                || [".json", "/json", "/VERSION", ".tar", ".tar.gz", ".tgz"]
                    .iter()
                    .any(|end| name.ends_with(end)))
    };
    let others: Vec<&String> = archive.files.keys().filter(|name| !expected(name)).collect();
    let Some(first) = others.first() else { return };
    let more = match others.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    archive.warnings.push(format!(
        "`{}`: no part of an image and ignored: `{}`{more}",
        quote(&archive.label),
        quote(&first)
    ));
}
