//! Reads a file around the parts that its disk cannot read, so that a bad sector costs no more than the members in it.

use super::source::Source;
use crate::error::{Error, Result};

/// Unit in bytes in which a disk fails: a page of the kernel's cache, and a sector of most disks.
const SECTOR: u64 = 4096;

/// Maximum number of bytes that are given up at a time. A disk may take seconds to find that it cannot read a sector, so
/// fewer and fewer sectors are tried where many in a row have failed.
const MAX_SKIP: u64 = 1 << 20;

/// State of the reads of one file, in ascending order of their offsets.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    /// Offset before which sectors are read one by one, since a longer read has failed.
    careful_until: u64,
    /// Number of bytes that the last failure gave up; 0 after a success.
    skip: u64,
}

/// What was read at an offset.
#[derive(Debug)]
pub(super) enum Part {
    /// This number of bytes is in the buffer, which may be longer.
    Read(usize),
    /// The disk cannot read here. This number of bytes is given up; they may reach behind the buffer and the file.
    Unreadable(u64, Error),
}

impl Salvage {
    /// Reads from `offset` into the buffer, which the file must be able to fill.
    ///
    /// # Errors
    /// All failures that are not of a part of the file alone, such as a removed disk.
    pub(super) fn read(&mut self, source: &Source, offset: u64, buffer: &mut [u8]) -> Result<Part> {
        if offset >= self.careful_until {
            match source.read_exact_at(offset, buffer) {
                Ok(()) => {
                    self.skip = 0;
                    return Ok(Part::Read(buffer.len()));
                }
                Err(error) if !Source::is_bad_sector(&error) => return Err(error),
                Err(_) => self.careful_until = offset + buffer.len() as u64,
            }
        }
        let to_boundary = |unit: u64| unit - offset % unit;
        let length = usize::try_from(to_boundary(SECTOR))
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        match source.read_exact_at(offset, &mut buffer[..length]) {
            Ok(()) => {
                self.skip = 0;
                Ok(Part::Read(length))
            }
            Err(error) if Source::is_bad_sector(&error) => {
                self.skip = (2 * self.skip).clamp(SECTOR, MAX_SKIP);
                Ok(Part::Unreadable(to_boundary(self.skip), error))
            }
            Err(error) => Err(error),
        }
    }
}
