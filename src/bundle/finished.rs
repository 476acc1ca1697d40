//! A finished bundle of this program, under its final name.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::layout;
use super::plan::{Plan, TRAILER};
use crate::error::{Error, Kind, Result};
use crate::files::open_regular;
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::text::quote;

/// Number of bytes that are hashed at a time.
const PIECE: usize = 1 << 20;

/// An open file that starts like a bundle of this program.
#[derive(Debug)]
pub(crate) struct Finished {
    path: PathBuf,
    file: File,
}

impl Finished {
    /// Opens a finished bundle.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the file does not start like a bundle of this program.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path).map_err(|e| Error::io("read", path, e))?;
        let bundle = Self {
            path: path.to_owned(),
            file,
        };
        let mut head = [0; 1024];
        match bundle.read(&mut head, 0)? && layout::begins_bundle(&head) {
            true => Ok(bundle),
            false => Err(Error::new(
                Kind::Malformed,
                format!("`{}` is no bundle of docker-mirror", quote(path)),
            )),
        }
    }

    /// Returns whether this file has the layout of `plan`.
    ///
    /// Compares the length, the front, the header of each blob and the trailer, but not the content of the blobs.
    ///
    /// # Errors
    /// [`Kind::Io`] if the file cannot be read.
    pub(crate) fn is_of(&self, plan: &Plan) -> Result<bool> {
        let length = self
            .file
            .metadata()
            .map_err(|e| Error::io("read", &self.path, e))?
            .len();
        if length != plan.total() {
            return Ok(false);
        }
        let mut at = 0;
        for piece in plan.front() {
            let piece = piece?;
            if !self.has(&piece, at)? {
                return Ok(false);
            }
            at += piece.len() as u64;
        }
        for slot in plan.blobs() {
            if !self.has(&slot.header()?, slot.header_offset)? {
                return Ok(false);
            }
        }
        let zeros = vec![0; usize::try_from(TRAILER).unwrap_or(0)];
        self.has(&zeros, plan.total() - TRAILER)
    }

    /// Returns the SHA-256 of the whole file.
    ///
    /// # Errors
    /// [`Kind::Io`] if the file cannot be read.
    pub(crate) fn sum(&self) -> Result<Digest> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let (mut buffer, mut at) = (vec![0; PIECE], 0);
        loop {
            let read = self.file.read_at(&mut buffer, at);
            match read.map_err(|e| Error::io("read", &self.path, e))? {
                0 => return Ok(hasher.finish()),
                count => {
                    hasher.update(&buffer[..count]);
                    at += count as u64;
                }
            }
        }
    }

    /// Returns whether this file is a supplement, which lists no image.
    ///
    /// # Errors
    /// [`Kind::Io`] if the file cannot be read.
    pub(crate) fn is_supplement(&self) -> Result<bool> {
        let (empty, mut at) = (Plan::from_blobs(Vec::new())?, 0);
        for piece in empty.front() {
            let piece = piece?;
            if !self.has(&piece, at)? {
                return Ok(false);
            }
            at += piece.len() as u64;
        }
        Ok(true)
    }

    /// Returns whether the file holds exactly these bytes at an offset.
    fn has(&self, expected: &[u8], at: u64) -> Result<bool> {
        let mut found = vec![0; expected.len()];
        Ok(self.read(&mut found, at)? && found == expected)
    }

    /// Fills the buffer; returns `false` if the file ends first.
    fn read(&self, buffer: &mut [u8], at: u64) -> Result<bool> {
        match self.file.read_exact_at(buffer, at) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(Error::io("read", &self.path, e)),
        }
    }
}
