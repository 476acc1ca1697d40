//! Text files that a command reads besides its bundles: a lock or a want-list.

use std::io::Read;
use std::path::Path;

use docker_mirror::{Error, Kind, Lock, MAX_LOCK, Result, open_regular, quote};

/// Reads and parses a lock.
pub(super) fn read_lock(path: &Path) -> Result<Lock> {
    let text = read_text(path, MAX_LOCK)?;
    Lock::parse(text).map_err(|e| e.context(format!("`{}`", quote(path))))
}

/// Reads a text file of at most `cap` bytes.
pub(super) fn read_text(path: &Path, cap: u64) -> Result<String> {
    let file = open_regular(path).map_err(|e| {
        let error = Error::io("open", path, e);
        match error.hint() {
            None => error
                .with_hint("name a file that `docker-mirror inspect --lock` or `docker-mirror verify --want` wrote"),
            Some(_) => error,
        }
    })?;
    let mut text = String::new();
    let read = file.take(cap + 1).read_to_string(&mut text);
    if let Err(error) = read {
        let error = Error::io("read", path, error);
        return Err(error.with_kind(Kind::Malformed));
    }
    if text.len() as u64 > cap {
        let what = format!("`{}` has more than {cap} bytes", quote(path));
        return Err(Error::new(Kind::Malformed, what));
    }
    Ok(text)
}
