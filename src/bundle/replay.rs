//! Reads the journal of an unfinished export.
//!
//! The journal is not trusted, and its size is bounded: lines beyond the bounds are ignored, which costs a repeated transfer.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::ops::Range;

use serde::Deserialize;

use super::journal::{Header, Journal, JournalName, OldSlot, VERSION, boot_id};
use super::ranges::Ranges;
use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// Maximum number of bytes of a journal that are read; later lines are ignored.
const MAX_JOURNAL: u64 = 64 << 20;

/// Maximum length of the header in bytes.
const MAX_HEADER: u64 = 16 << 20;

/// Maximum length of any other line in bytes.
const MAX_LINE: u64 = 512;

/// Maximum number of slots, and of ranges in all slots together, that are read;
/// later lines are ignored.
const MAX_ENTRIES: usize = 1 << 18;

/// The journal of an earlier run.
#[derive(Debug)]
pub(crate) struct Replay {
    /// The request of the earlier run.
    pub header: Header,
    /// The slots of the blobs that the earlier run was writing.
    pub slots: Vec<OldSlot>,
}

impl Replay {
    /// Reads the journal of an earlier run.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no journal; [`Kind::Unsupported`] if another version wrote the journal;
    /// [`Kind::Malformed`] if its header cannot be read; [`Kind::Io`] if it is not one of this program's own files.
    pub(crate) fn read(name: &JournalName) -> Result<Self> {
        let (reader, header) = open(name)?;
        let boot = boot_id();
        let trust_all = !boot.is_empty() && header.boot == boot;
        Self::read_lines(name, reader, header, trust_all)
    }

    /// Rewrites the journal without the ranges that may not be on the disk,
    /// after a sync has failed.
    ///
    /// # Errors
    /// The errors of [`read`](Self::read) and [`Journal::create`].
    pub(crate) fn rewrite_synced_only(name: &JournalName) -> Result<()> {
        let (reader, header) = open(name)?;
        let Self { header, slots } = Self::read_lines(name, reader, header, false)?;
        Journal::create(name, &header, slots.into_iter(), true).map(drop)
    }

    fn read_lines(name: &JournalName, mut reader: BufReader<File>, header: Header, trust_all: bool) -> Result<Self> {
        let failed = |e| Error::io("read", &name.path, e);
        let trusted = match trust_all {
            true => u64::MAX,
            false => {
                let start = reader.stream_position().map_err(failed)?;
                let covered = |record| match record {
                    Record::Synced(count) => Some(count),
                    _ => None,
                };
                let covered = records(&mut reader).filter_map(covered).max();
                reader.seek(io::SeekFrom::Start(start)).map_err(failed)?;
                covered.unwrap_or(0)
            }
        };
        let mut slots: Vec<OldSlot> = Vec::new();
        let mut ranges = 0;
        for (number, record) in (0..).zip(records(&mut reader)) {
            match record {
                Record::Slot(_) if slots.len() == MAX_ENTRIES => break,
                Record::Slot(slot) => slots.push(slot),
                Record::Written(slot, range) if number < trusted => {
                    if let Some(slot) = slots.get_mut(slot)
                        && range.start < range.end
                        && range.end <= slot.size
                    {
                        ranges -= slot.written.count();
                        slot.written.insert(range);
                        ranges += slot.written.count();
                    }
                    if ranges >= MAX_ENTRIES {
                        break;
                    }
                }
                // A discarded slot counts even if its line is not known to be on the disk:
                // that costs a transfer and nothing else.
                Record::Discarded(slot) => {
                    if let Some(slot) = slots.get_mut(slot) {
                        ranges -= slot.written.count();
                        slot.written = Ranges::default();
                    }
                }
                Record::Written(..) | Record::Synced(_) => {}
            }
        }
        Ok(Self { header, slots })
    }
}

/// Opens the journal and reads its header; the returned reader is positioned after the header.
fn open(name: &JournalName) -> Result<(BufReader<File>, Header)> {
    let shown = quote(&name.path);
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Error::new(Kind::NotFound, format!("there is no journal `{shown}`")),
        _ => Error::io("read", &name.path, e),
    };
    let file = name.folder.open_own(&name.name).map_err(failed)?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut limited = reader.by_ref().take(MAX_HEADER);
    limited.read_until(b'\n', &mut line).map_err(failed)?;
    let malformed = |e: serde_json::Error| {
        let why = format!("journal `{shown}`: its header is not readable");
        Error::new(Kind::Malformed, why).with_source(e)
    };
    let Version { journal_version } = serde_json::from_slice(&line).map_err(malformed)?;
    // Checked before the rest of the header, which another version may write differently.
    if journal_version != VERSION {
        let why = format!("journal `{shown}` was written by another version");
        return Err(Error::new(Kind::Unsupported, why));
    }
    let header = serde_json::from_slice(&line).map_err(malformed)?;
    Ok((reader, header))
}

/// The part of a header that all versions share.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    journal_version: u32,
}

/// Returns the records below the header, up to the first invalid line. A line that a kill cut
/// short has no line feed and is invalid.
fn records(reader: &mut BufReader<File>) -> impl Iterator<Item = Record> {
    let mut reader = reader.take(MAX_JOURNAL);
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        line.clear();
        reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).ok()?;
        Record::parse(line.strip_suffix(b"\n")?)
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Record {
    Slot(OldSlot),
    Written(usize, Range<u64>),
    Discarded(usize),
    Synced(u64),
}

impl Record {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let words: Vec<&str> = line.split(' ').collect();
        Some(match words.as_slice() {
            ["b", offset, size, digest] => Self::Slot(OldSlot {
                digest: digest.parse().ok()?,
                size: size.parse().ok()?,
                offset: offset.parse().ok()?,
                written: Ranges::default(),
            }),
            ["w", slot, start, end] => Self::Written(slot.parse().ok()?, start.parse().ok()?..end.parse().ok()?),
            ["x", slot] => Self::Discarded(slot.parse().ok()?),
            ["s", count] => Self::Synced(count.parse().ok()?),
            _ => return None,
        })
    }
}
