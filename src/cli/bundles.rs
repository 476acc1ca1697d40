//! Bundles that a command only looks at: how they are opened, and where they come from.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use docker_mirror::{Bundle, Error, Kind, OpenOptions, Result};

/// Opens bundles so far as their documents.
pub(super) fn open_front(paths: &[PathBuf], options: &OpenOptions) -> Result<Bundle> {
    only_pipe(paths)?;
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

/// Refuses files and folders that are not there or cannot be read: nothing is known of them, not even that they are damaged.
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
