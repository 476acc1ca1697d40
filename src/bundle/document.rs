//! A document of the layout, such as `index.json`, which is compressed from its first byte until it is written.

use std::io::{self, Read, Write};

use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest, Hasher};

/// Number of bytes of a text that are compressed at a time.
const PIECE: usize = 16 << 10;

/// A document of a bundle in compressed form: the texts of all documents would take a third of the memory that a run needs for
/// an image.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) name: &'static str,
    /// Size of the text in bytes.
    pub(super) size: u64,
    /// SHA-256 of the text.
    pub(super) digest: Digest,
    /// The text in raw deflate (RFC 1951).
    deflated: Box<[u8]>,
}

impl Document {
    /// Creates a document of the text that `write` adds. The text is compressed piece by piece: memory for all of it would be
    /// free afterwards, and in the heap of a thread that needs no more.
    ///
    /// # Errors
    /// Those of `write`, and [`Kind::Internal`] if the text cannot be compressed.
    pub(super) fn new(name: &'static str, write: impl FnOnce(&mut Text) -> Result<()>) -> Result<Self> {
        let mut text = Text {
            encoder: DeflateEncoder::new(Vec::new(), flate2::Compression::fast()),
            hasher: Hasher::new(Algorithm::Sha256),
            size: 0,
            end: Vec::new(),
        };
        write(&mut text)?;
        text.compress(text.end.len()).map_err(compression_error)?;
        Ok(Self {
            name,
            size: text.size,
            digest: text.hasher.finish(),
            deflated: text.encoder.finish().map_err(compression_error)?.into(),
        })
    }

    /// Returns the text.
    pub(super) fn text(&self) -> impl Read + Send + '_ {
        DeflateDecoder::new(&*self.deflated)
    }
}

/// The text of a document in the making.
pub(super) struct Text {
    encoder: DeflateEncoder<Vec<u8>>,
    /// Hashes what is compressed.
    hasher: Hasher,
    /// Number of bytes that are compressed.
    size: u64,
    /// The bytes after those.
    end: Vec<u8>,
}

impl Text {
    /// Adds bytes.
    ///
    /// # Errors
    /// [`Kind::Internal`] if the text cannot be compressed.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(compression_error)
    }

    /// Adds a value as indented JSON with a final line feed.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if JSON has no such value.
    pub(super) fn add_json(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer_pretty(&mut *self, value)
            .map_err(|e| Error::new(Kind::Malformed, "cannot write JSON").with_source(e))?;
        self.add(b"\n")
    }

    /// Replaces the last bytes of the text, of which there are at most `PIECE`. `new` gets the SHA-256 of the text before them.
    ///
    /// # Errors
    /// Those of [`add`](Self::add).
    pub(super) fn replace_end(&mut self, old: &str, new: impl FnOnce(&Digest) -> String) -> Result<()> {
        if self.end.ends_with(old.as_bytes()) {
            self.end.truncate(self.end.len() - old.len());
        }
        self.compress(self.end.len()).map_err(compression_error)?;
        let before = self.hasher.clone().finish();
        self.add(new(&before).as_bytes())
    }

    /// Compresses the first bytes that are not compressed yet.
    fn compress(&mut self, length: usize) -> io::Result<()> {
        let piece = &self.end[..length];
        self.hasher.update(piece);
        self.encoder.write_all(piece)?;
        self.size += length as u64;
        self.end.drain(..length);
        Ok(())
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.end.extend_from_slice(bytes);
        if self.end.len() >= 2 * PIECE {
            // As many bytes stay as can be replaced.
            self.compress(self.end.len() - PIECE)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compression_error(error: io::Error) -> Error {
    Error::internal("a document of the bundle cannot be compressed").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_compressed_and_hashed_whatever_the_pieces_in_which_it_comes() {
        let names: Vec<String> = (0..20_000).map(|n| format!("example.com/application-{n}")).collect();
        let mut expected = serde_json::to_vec_pretty(&names).unwrap();
        let before = Digest::sha256(&expected[..expected.len() - 2]);
        expected.truncate(expected.len() - 2);
        expected.extend(format!(" before: {before}").as_bytes());
        let replaced = |before: &Digest| format!(" before: {before}");
        let by_value = Document::new("a", |text| {
            text.add_json(&names)?;
            text.replace_end("\n]\n", replaced)
        });
        let at_once = Document::new("a", |text| text.add(&expected));
        for document in [by_value.unwrap(), at_once.unwrap()] {
            assert!(io::read_to_string(document.text()).unwrap().as_bytes() == expected);
            assert_eq!(document.size, expected.len() as u64);
            assert_eq!(document.digest, Digest::sha256(&expected));
            let held = document.deflated.len();
            assert!(held < expected.len() / 3, "{held} of {} bytes", expected.len());
        }
    }
}
