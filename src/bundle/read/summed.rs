//! Computes the SHA-256 of whole files and pipes: of a stream while it is read, and of a file separately.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::source::Source;
use crate::image::digest::{Algorithm, Hasher};
use crate::lock::Mutex;

/// A file that was read from its first to its last byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedFile {
    /// Path of the file, or the name of a pipe.
    pub path: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file in hex.
    pub sha256: String,
}

/// Maximum number of bytes read after the end of an archive to complete its SHA-256.
const MAX_TRAILER: u64 = 1 << 30;

/// Number of bytes read at a time.
const PIECE: usize = 1 << 20;

/// Hashes a file from its first to its last byte.
/// Returns `None` if a read fails, once `stop` is set, or for a sparse file that is nearly empty.
pub(super) fn sum_file(source: &Source, stop: &AtomicBool) -> Option<VerifiedFile> {
    if source.is_hollow(0, source.length()).ok()? {
        return None;
    }
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < source.length() {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let length = usize::try_from(source.length() - offset).unwrap_or(PIECE).min(PIECE);
        source.read_exact_at(offset, &mut buffer[..length]).ok()?;
        hasher.update(&buffer[..length]);
        offset += length as u64;
    }
    Some(VerifiedFile {
        path: source.label().to_owned(),
        bytes: source.length(),
        sha256: hasher.finish().hex(),
    })
}

/// A hashed stream; all clones share one position.
pub(super) struct Summed<R>(Arc<Mutex<State<R>>>);

struct State<R> {
    input: R,
    label: String,
    bytes: u64,
    /// `None` if no SHA-256 is requested.
    hasher: Option<Hasher>,
}

impl<R: Read> Summed<R> {
    pub(super) fn new(input: R, label: &str, is_wanted: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            input,
            label: label.to_owned(),
            bytes: 0,
            hasher: is_wanted.then(|| Hasher::new(Algorithm::Sha256)),
        })))
    }

    /// Reads the rest of the stream and returns the SHA-256.
    /// Returns `None` if it was not requested, if the rest cannot be read, or if the rest exceeds [`MAX_TRAILER`].
    pub(super) fn finish(mut self) -> Option<VerifiedFile> {
        self.0.lock().hasher.as_ref()?;
        let mut buffer = vec![0; 256 << 10];
        let mut left = MAX_TRAILER;
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => left = left.checked_sub(got as u64)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        let mut state = self.0.lock();
        let sum = state.hasher.take()?.finish();
        Some(VerifiedFile {
            path: state.label.clone(),
            bytes: state.bytes,
            sha256: sum.hex(),
        })
    }
}

impl<R> Clone for Summed<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let got = state.input.read(buffer)?;
        state.bytes += got as u64;
        if let Some(hasher) = &mut state.hasher {
            hasher.update(&buffer[..got]);
        }
        Ok(got)
    }
}
