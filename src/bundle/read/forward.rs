//! Sequential input of a tar scan, with skipping where the input supports it.

use std::io::Read;
use std::sync::Arc;

use super::salvage::{Part, Salvage};
use super::source::Source;
use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// Sequential input of a scan.
pub(super) trait Forward {
    /// Fills the buffer; returns fewer bytes only at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;

    /// Skips up to `count` bytes; returns the number of bytes skipped.
    fn skip(&mut self, count: u64) -> Result<u64>;

    /// Returns whether the rest can be searched, and the search undone by [`go_back`](Self::go_back).
    fn is_searchable(&self) -> bool {
        false
    }

    /// Goes back by `count` bytes.
    fn go_back(&mut self, _: u64) {}

    /// Returns the number of bytes left, if known.
    fn left(&self) -> Option<u64>;

    /// Returns the offset and the error of the first part since the last call that could not be read and was taken for zeros.
    fn take_unreadable(&mut self) -> Option<(u64, Error)> {
        None
    }
}

/// An open file; skipping reads no bytes.
#[derive(Debug)]
pub(super) struct FileForward {
    source: Arc<Source>,
    position: u64,
    /// State of reads around bad sectors; `None` if a bad sector ends the scan.
    salvage: Option<Salvage>,
    /// End of the part that is taken for zeros.
    zeros_until: u64,
    unreadable: Option<(u64, Error)>,
}

impl FileForward {
    /// Creates the input of a scan. With `past_bad_sectors`, parts that the disk cannot read are taken for zeros.
    pub(super) fn new(source: Arc<Source>, past_bad_sectors: bool) -> Self {
        Self {
            source,
            position: 0,
            salvage: past_bad_sectors.then(Salvage::default),
            zeros_until: 0,
            unreadable: None,
        }
    }

    /// Fills the buffer around bad sectors.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let Some(salvage) = &mut self.salvage else {
            return self.source.read_exact_at(self.position, buffer);
        };
        let mut filled = 0;
        while filled < buffer.len() {
            let (at, rest) = (self.position + filled as u64, &mut buffer[filled..]);
            if at < self.zeros_until {
                let zeros = usize::try_from(self.zeros_until - at).unwrap_or(usize::MAX);
                let zeros = zeros.min(rest.len());
                rest[..zeros].fill(0);
                filled += zeros;
                continue;
            }
            match salvage.read(&self.source, at, rest)? {
                Part::Read(count) => filled += count,
                Part::Unreadable(length, error) => {
                    self.zeros_until = at + length;
                    self.unreadable.get_or_insert((at, error));
                }
            }
        }
        Ok(())
    }
}

impl Forward for FileForward {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.source.length() - self.position;
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.fill(&mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }

    fn skip(&mut self, count: u64) -> Result<u64> {
        let count = count.min(self.source.length() - self.position);
        self.position += count;
        Ok(count)
    }

    fn is_searchable(&self) -> bool {
        let left = self.source.length() - self.position;
        !self.source.is_hollow(self.position, left).unwrap_or(true)
    }

    fn go_back(&mut self, count: u64) {
        self.position -= count;
    }

    fn left(&self) -> Option<u64> {
        Some(self.source.length() - self.position)
    }

    fn take_unreadable(&mut self) -> Option<(u64, Error)> {
        self.unreadable.take()
    }
}

/// A pipe or the output of a decompressor; skipping reads the bytes and drops them.
#[derive(Debug)]
pub(super) struct StreamForward<R> {
    label: String,
    input: R,
}

impl<R: Read> StreamForward<R> {
    pub(super) fn new(label: &str, input: R) -> Self {
        Self {
            label: label.to_owned(),
            input,
        }
    }

    /// Returns the input. Reading directly from the input would break the position of the scan.
    pub(super) fn inner_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Returns the input, at the position that the scan reached.
    pub(super) fn into_inner(self) -> R {
        self.input
    }
}

impl<R: Read> Forward for StreamForward<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(stream_error(&quoted(&self.label), e)),
            }
        }
        Ok(filled)
    }

    fn skip(&mut self, count: u64) -> Result<u64> {
        let mut buffer = vec![0; 256 << 10];
        let mut skipped = 0;
        while skipped < count {
            let want = usize::try_from(count - skipped).unwrap_or(usize::MAX).min(buffer.len());
            let got = self.read(&mut buffer[..want])?;
            if got == 0 {
                break;
            }
            skipped += got as u64;
        }
        Ok(skipped)
    }

    fn left(&self) -> Option<u64> {
        None
    }
}

/// Quotes the name of an archive for messages.
pub(super) fn quoted(label: &str) -> String {
    format!("`{}`", quote(&label))
}

/// Converts an I/O error from reading `what`.
/// An error of this crate inside the I/O error is returned unchanged.
pub(super) fn stream_error(what: &str, e: std::io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(error) => error,
        Err(e) => {
            let kind = match e.kind() {
                std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::UnexpectedEof => Kind::Malformed,
                std::io::ErrorKind::StorageFull
                | std::io::ErrorKind::QuotaExceeded
                | std::io::ErrorKind::FileTooLarge => Kind::NoSpace,
                _ => Kind::Io,
            };
            // Each decoder has words of its own for the end of its input.
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                return Error::new(kind, format!("cannot read {what}: its compressed data is cut off"))
                    .with_hint("it was truncated: copy it again");
            }
            let error = Error::new(kind, format!("cannot read {what}")).with_source(e);
            match kind {
                Kind::Malformed => error.with_hint(
                    "it was truncated or corrupted in transit: copy it again, and compare sizes or checksums",
                ),
                _ => error,
            }
        }
    }
}
