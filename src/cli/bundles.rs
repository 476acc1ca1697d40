//! Opens the bundles that a command only reads, from files, folders or standard input.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use docker_mirror::{
    Bundle, Error, Kind, OpenOptions, Progress, Reference, Result, few_with, missing_path_hint, open_regular, quote,
    wait_for_pipe,
};

use super::values::TRANSPORTS;

/// Opens bundles and reads their documents, without verifying any blob.
pub(super) fn open_front(paths: &[PathBuf], options: &OpenOptions) -> Result<Bundle> {
    match paths {
        [path] if is_stdin(path) => {
            Ok(Bundle::from_pipe(stdin("inspect -", &options.progress)?, "standard input", options)?.0)
        }
        [path] => Bundle::open_front(path, options),
        _ => Bundle::open(paths, options),
    }
}

/// Note about standard input that is silent for a while.
pub(super) const SILENT_STDIN: &str =
    "nothing comes through standard input yet: waiting for the program that writes to it";

/// Returns standard input, and refuses a terminal. Tells the user when nothing comes through a pipe.
///
/// # Errors
/// [`Kind::Usage`] for a terminal, with the `command` to which a pipe leads as an example.
pub(super) fn stdin(command: &str, progress: &Progress) -> Result<std::io::Stdin> {
    let input = std::io::stdin();
    if input.is_terminal() {
        let what = "`-` reads a bundle from standard input, which is a terminal";
        let hint = format!("name a file, or write `... | docker-mirror {command}`");
        return Err(Error::new(Kind::Usage, what).with_hint(hint));
    }
    wait_for_pipe(&input, || progress.info(SILENT_STDIN));
    Ok(input)
}

/// Returns whether `path` is `-`, which stands for standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Refuses standard input (`-`) beside other bundles, since a pipe can be read only once and in order.
pub(super) fn only_pipe(paths: &[PathBuf]) -> Result<()> {
    if paths.len() > 1 && paths.iter().any(|path| is_stdin(path)) {
        let what = "`-` is one bundle from a pipe and cannot be combined with others, and can be given only once";
        return Err(Error::new(Kind::Usage, what).with_hint("save the bundle in the pipe to a file first"));
    }
    Ok(())
}

/// Runs work that reads bundles on a thread that may block.
///
/// # Errors
/// [`Kind::Io`] if the work panicked. Errors of the work itself are part of `T`.
pub(super) async fn read_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(Kind::Io, "reading the bundle was cut off").with_source(e))
}

/// Refuses paths that are missing or cannot be opened, before any other work.
///
/// # Errors
/// [`Kind::Usage`] with all such paths.
pub(super) fn check_named(paths: &[PathBuf]) -> Result<()> {
    if are_pieces(paths) {
        let names = paths
            .iter()
            .map(|path| quote(path).to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let error = Error::new(Kind::Usage, format!("{} files are pieces of one archive", paths.len()));
        return Err(error.with_hint(format!(
            "join them in their order: `cat {names} | docker-mirror import - -d REGISTRY`, or `cat {names} > bundle.tar`"
        )));
    }
    let errors = paths.iter().filter(|path| !is_stdin(path)).map(|path| opens(path));
    let errors: Vec<Error> = errors.filter_map(Result::err).collect();
    let [first, rest @ ..] = errors.as_slice() else {
        return Ok(());
    };
    if rest.is_empty() {
        return Err(first.clone());
    }
    Err(several("opened", errors.iter(), Kind::Usage))
}

/// Returns whether files are the pieces that `split` makes of an archive: only the first one begins as an archive does, and the names
/// differ in their last characters alone.
fn are_pieces(paths: &[PathBuf]) -> bool {
    /// Maximum number of characters that `split` adds to a name in common use.
    const SUFFIX: usize = 3;
    let [first, rest @ ..] = paths else { return false };
    let stem = |path: &Path| {
        let name = path.as_os_str().as_encoded_bytes();
        name[..name.len().saturating_sub(SUFFIX)].to_vec()
    };
    let is_piece = |path: &PathBuf| {
        path.as_os_str().len() == first.as_os_str().len()
            && stem(path) == stem(first)
            && path.is_file()
            && path.extension().is_none_or(|end| end != "tar")
            && !is_archive(path)
    };
    !rest.is_empty() && is_archive(first) && rest.iter().all(is_piece)
}

/// Combines the errors of several files.
fn several<'a>(action: &str, errors: impl Iterator<Item = &'a Error> + Clone, kind: Kind) -> Error {
    let list = few_with(errors.clone().map(Error::full), "; ");
    let error = Error::new(
        kind,
        format!("{} files cannot be {action}: {list}", errors.clone().count()),
    );
    match errors.clone().find_map(Error::hint) {
        Some(hint) => error.with_hint(hint.to_owned()),
        None => error,
    }
}

/// Checks that a file or a folder can be opened. A pipe is not opened, since opening could consume its content.
fn opens(path: &Path) -> Result<()> {
    let opened = path.metadata().and_then(|found| match found.is_dir() {
        true => path.read_dir().map(drop),
        false if found.is_file() => open_regular(path).map(drop),
        false => Ok(()),
    });
    opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing(path),
        _ => Error::io("open", path, error).with_kind(Kind::Usage),
    })
}

/// Returns the error of a missing path, with a hint if an unfinished export exists or the path has a transport prefix.
fn missing(path: &Path) -> Error {
    let error = Error::new(Kind::Usage, format!("`{}` does not exist", quote(path)));
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    if is_unfinished(Path::new(&partial)) {
        return error.with_hint(format!(
            "`{}` is there: the export is not finished; run it again, which completes the file",
            quote(&partial)
        ));
    }
    let name = path.to_string_lossy();
    match name.split_once(':') {
        Some(("docker" | "http" | "https" | "oci", address)) if address.starts_with("//") => error.with_hint(
            "a bundle is a file or a folder, not an address: `docker-mirror -d REGISTRY IMAGE` copies from registry to registry, \
             `docker-mirror export IMAGE -o BUNDLE.tar` makes a bundle, and `curl -fLO ADDRESS` downloads one",
        ),
        Some(("docker-daemon" | "containers-storage", image)) => error.with_hint(format!(
            "a bundle is a file or a folder: save the image with `docker save` or `podman save` (`-o FILE.tar {}`), and name that file",
            quote(&image)
        )),
        Some(("file", file)) if file.starts_with("//") => error.with_hint("omit `file://`"),
        Some((transport @ ("oci" | "oci-archive" | "docker-archive"), file)) if file.contains(':') => {
            let file = file.split(':').next().unwrap_or_default();
            error.with_hint(format!(
                "omit `{transport}:` and the name behind the file: write `{}`; `--only` of `import` chooses an image of it",
                quote(&file)
            ))
        }
        _ if name.contains('*') => error.with_hint("write the pattern without quotes, so that the shell expands it"),
        Some((transport, file)) if TRANSPORTS.contains(&transport) => error.with_hint(format!(
            "omit `{transport}:`: what kind of archive `{}` is, is found by reading it",
            quote(&file)
        )),
        _ if path.is_symlink() => {
            error.with_hint("it is a link to a file that does not exist: see where it leads (`ls -l`)")
        }
        _ if looks_like_image(path) => error.with_hint(format!(
            "this command reads files; if an image of a registry is meant, `docker-mirror export {0} -o bundle.tar` makes a file of \
             it, and `docker-mirror -d REGISTRY {0}` copies it to another registry",
            quote(path)
        )),
        _ => error.with_hint(missing_path_hint(path)),
    }
}

/// Returns a warning for each of these files that is the `.partial` file of an unfinished export.
pub(super) fn warnings_of_unfinished(paths: &[PathBuf]) -> impl Iterator<Item = String> {
    paths.iter().filter(|path| is_unfinished(path)).map(|path| {
        format!(
            "`{}` is an export that is not finished: run it again, which completes the file",
            quote(path)
        )
    })
}

/// Returns whether a path that leads nowhere could be the name of an image: with a tag, a digest or a host.
fn looks_like_image(path: &Path) -> bool {
    let is_archive_name = path.extension().is_some_and(|end| {
        ["tar", "tgz", "gz", "zst", "xz", "bz2", "partial"]
            .iter()
            .any(|archive| end == *archive)
    });
    let Some(name) = path.to_str().filter(|_| !is_archive_name) else {
        return false;
    };
    let (host, rest) = name.split_once('/').unwrap_or(("", name));
    let has_host = host.contains(['.', ':']) && !host.starts_with('.');
    (has_host || rest.contains([':', '@'])) && name.parse::<Reference>().is_ok()
}

/// Returns whether a file begins as a tar archive or a compressed file does.
pub(super) fn is_archive(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = open_regular(path).and_then(|file| file.take(512).read_to_end(&mut head));
    read.is_ok()
        && match head.as_slice() {
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => true,
            head => head.get(257..).is_some_and(|rest| rest.starts_with(b"ustar")),
        }
}

/// Returns the hint for a bundle that is given where an image or a list of images belongs.
pub(super) fn bundle_hint(path: &Path) -> String {
    format!(
        "to push the images of this bundle: `docker-mirror import {0} -d REGISTRY[/PREFIX]`; to list them: `docker-mirror inspect {0}`",
        quote(path)
    )
}

/// Returns whether a file is the `.partial` file of an unfinished export.
fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "partial") && path.is_file()
}

/// Returns an error if a file or folder is no bundle: its images would look as if they were gone.
pub(super) fn check_no_broken_archive(bundle: &Bundle) -> Result<()> {
    match bundle.broken_archives() {
        [] => Ok(()),
        [broken] => Err(Error::clone(&broken.error)),
        [first, ..] => Err(several(
            "read",
            bundle.broken_archives().iter().map(|broken| &*broken.error),
            first.error.kind(),
        )),
    }
}

/// Returns an error if a file or folder is missing or unreadable, or if all of them have formats that are not supported: an
/// unread bundle cannot be called damaged.
pub(super) fn check_readable(bundle: &Bundle) -> Result<()> {
    let broken = bundle.broken_archives();
    let is_unsupported = broken.iter().all(|archive| archive.error.kind() == Kind::Unsupported);
    if bundle.images().is_empty() && bundle.broken().is_empty() && is_unsupported && !broken.is_empty() {
        return check_no_broken_archive(bundle).map_err(|error| error.with_kind(Kind::Usage));
    }
    for archive in broken {
        match archive.error.kind() {
            Kind::NotFound => return Err(Error::clone(&archive.error).with_kind(Kind::Usage)),
            Kind::Io => return Err(Error::clone(&archive.error)),
            _ => {}
        }
    }
    Ok(())
}
