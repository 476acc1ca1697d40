//! Text files that a command reads besides its bundles: a lock or a want-list.

use std::io::Read;
use std::path::Path;

use docker_mirror::{Error, Kind, Lock, MAX_LOCK, Result, open_regular, quote, text_as_utf8};

/// Reads and parses a lock.
pub(super) fn read_lock(path: &Path) -> Result<Lock> {
    let text = read_text(path, MAX_LOCK)?;
    Lock::parse(text).map_err(|e| e.context(format!("`{}`", quote(path))))
}

/// Reads a text file of at most `cap` bytes, in UTF-8 or UTF-16.
pub(super) fn read_text(path: &Path, cap: u64) -> Result<String> {
    let file = open_regular(path).map_err(|e| {
        let error = Error::io("open", path, e);
        match error.hint() {
            None => error
                .with_hint("name a file that `docker-mirror inspect --lock` or `docker-mirror verify --want` wrote"),
            Some(_) => error,
        }
    })?;
    let malformed = |what: &str| Error::new(Kind::Malformed, format!("`{}` {what}", quote(path)));
    let mut bytes = Vec::new();
    let read = file.take(cap + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("read", path, e).with_kind(Kind::Malformed))?;
    if bytes.len() as u64 > cap {
        return Err(malformed(&format!("has more than {cap} bytes")));
    }
    String::from_utf8(text_as_utf8(bytes)).map_err(|_| malformed("is not text"))
}
