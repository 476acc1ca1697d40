//! Bundles that a command only looks at: how they are opened, and where they come from.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use docker_mirror::{Bundle, Error, Kind, OpenOptions, Result, few_with, open_regular, quote};

use super::values::TRANSPORTS;

/// Opens bundles so far as their documents.
pub(super) fn open_front(paths: &[PathBuf], options: &OpenOptions) -> Result<Bundle> {
    match paths {
        [path] if is_stdin(path) => Ok(Bundle::from_pipe(stdin()?, "standard input", options)?.0),
        [path] => Bundle::open_front(path, options),
        _ => Bundle::open(paths, options),
    }
}

/// Standard input, which has to be a pipe or a file.
pub(super) fn stdin() -> Result<std::io::Stdin> {
    let input = std::io::stdin();
    if input.is_terminal() {
        let what = "`-` reads a bundle from standard input, which is a terminal";
        return Err(Error::new(Kind::Usage, what).with_hint("name a file, or write `... | docker-mirror inspect -`"));
    }
    Ok(input)
}

pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A pipe can be read once, and from front to end: it stands by itself.
pub(super) fn only_pipe(paths: &[PathBuf]) -> Result<()> {
    if paths.len() > 1 && paths.iter().any(|path| is_stdin(path)) {
        let what = "`-` is one bundle from a pipe and cannot be combined with others, nor be there twice";
        return Err(Error::new(Kind::Usage, what).with_hint("save the bundle in the pipe to a file first"));
    }
    Ok(())
}

/// Refuses paths of the command line that are missing or cannot be opened, all at once and before anything else is done.
///
/// # Errors
/// [`Kind::Usage`].
pub(super) fn check_named(paths: &[PathBuf]) -> Result<()> {
    let errors = paths.iter().filter(|path| !is_stdin(path)).map(|path| opens(path));
    let errors: Vec<Error> = errors.filter_map(Result::err).collect();
    let [first, rest @ ..] = errors.as_slice() else {
        return Ok(());
    };
    if rest.is_empty() {
        return Err(first.clone());
    }
    let list = few_with(errors.iter().map(Error::full), "; ");
    let error = Error::new(Kind::Usage, format!("{} files cannot be opened: {list}", errors.len()));
    Err(match errors.iter().find_map(Error::hint) {
        Some(hint) => error.with_hint(hint.to_owned()),
        None => error,
    })
}

/// Opens a file or a folder; a pipe is left to whoever reads it.
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

/// The error of a path that is not there. The file may be unfinished, or its name that of another program.
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
        Some((transport, file)) if TRANSPORTS.contains(&transport) => error.with_hint(format!(
            "omit `{transport}:`: what kind of archive `{}` is, is found by reading it",
            quote(&file)
        )),
        _ => error,
    }
}

/// Whether a file is what an export keeps until it is complete.
pub(super) fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "partial") && path.is_file()
}

/// Refuses what was named or found and is not there or cannot be read: nothing is known of it, not even that it is damaged.
pub(super) fn all_are_there(bundle: &Bundle) -> Result<()> {
    for archive in bundle.broken_archives() {
        match archive.error.kind() {
            Kind::NotFound => return Err(Error::clone(&archive.error).with_kind(Kind::Usage)),
            Kind::Io => return Err(Error::clone(&archive.error)),
            _ => {}
        }
    }
    Ok(())
}
