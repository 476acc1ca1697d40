//! How far an unfinished export got: a small text file beside `FILE.partial`.
//!
//! The journal only saves work. What it claims is hashed again before it counts, so a journal that is wrong, torn or edited
//! costs a repeated transfer and never a wrong bundle.
//!
//! The first line is a JSON header. Each further line is one of
//! - `w SLOT START END`: these bytes of that slot were written;
//! - `x SLOT`: forget what was said of that slot, its bytes were wrong;
//! - `s`: everything above has reached the disk.
//!
//! After a power cut the page cache is gone, and lines may have reached the disk before the bytes that they speak of. The
//! header therefore names the boot; in another boot only lines above the last `s` count.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::ranges::Ranges;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;

/// The version of the journal and of the plans that it speaks of; another one is not continued.
const VERSION: u32 = 1;

/// A journal is small; whatever is larger is none.
const MAX_JOURNAL: u64 = 64 << 20;

/// What an unfinished export was about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    journal_version: u32,
    /// A digest of what was asked for: images, platforms, index mode.
    pub request: Digest,
    /// What was asked for, for people.
    pub summary: String,
    /// The digest of the plan.
    pub plan: Digest,
    /// What each reference was found to be: later runs do not ask again.
    pub pins: BTreeMap<String, Digest>,
    boot: String,
}

impl Header {
    /// A header for this boot.
    pub fn new(request: Digest, summary: String, plan: Digest, pins: BTreeMap<String, Digest>) -> Self {
        Self {
            journal_version: VERSION,
            request,
            summary,
            plan,
            pins,
            boot: boot_id(),
        }
    }
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

/// What an earlier run left.
#[derive(Debug)]
pub struct Replay {
    /// What it was about.
    pub header: Header,
    /// What it wrote of each slot, by the slot's number in the plan.
    pub slots: HashMap<usize, Ranges>,
}

impl Journal {
    /// Starts a new journal, over whatever is at `path`.
    pub fn create(path: PathBuf, header: &Header) -> Result<Self> {
        let mut line = serde_json::to_vec(header)
            .map_err(|e| Error::new(Kind::Malformed, "cannot write the journal's header").with_source(e))?;
        line.push(b'\n');
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|e| Error::io("create", &path, e))?;
        file.write_all(&line).map_err(|e| Error::io("write", &path, e))?;
        Ok(Self {
            path,
            file: Mutex::new(file),
        })
    }

    /// Notes that bytes of a slot were written.
    pub fn written(&self, slot: usize, range: std::ops::Range<u64>) -> Result<()> {
        self.append(&format!("w {slot} {} {}\n", range.start, range.end))
    }

    /// Notes that a slot's bytes were wrong.
    pub fn discard(&self, slot: usize) -> Result<()> {
        self.append(&format!("x {slot}\n"))
    }

    /// Notes that everything written so far is on the disk. `sync` makes it so; it runs before the line is written and
    /// must cover all bytes of which [`written`](Self::written) told before.
    pub fn synced(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        // Other writers wait meanwhile, so that no line gets above the mark whose bytes `sync` did not cover.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        sync()?;
        file.write_all(b"s\n")
            .and_then(|()| file.sync_data())
            .map_err(|e| Error::io("write", &self.path, e))
    }

    /// One `write` call per line, so that a line is there as a whole or, at the very end, cut short.
    fn append(&self, line: &str) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
            .map_err(|e| Error::io("write", &self.path, e))
    }

    /// Reads what an earlier run left.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no journal; [`Kind::Malformed`] if it is not one of this version.
    pub fn replay(path: &Path) -> Result<Replay> {
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_JOURNAL + 1).read_to_end(&mut text))
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => {
                    Error::new(Kind::NotFound, format!("there is no journal `{}`", path.display()))
                }
                _ => Error::io("read", path, e),
            })?;
        let malformed = |why: &str| Error::new(Kind::Malformed, format!("journal `{}`: {why}", path.display()));
        if text.len() as u64 > MAX_JOURNAL {
            return Err(malformed("too large"));
        }
        // A line that a kill cut short has no line feed and does not count; nor does anything from the first odd line on.
        let mut lines = text
            .split_inclusive(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_suffix(b"\n"));
        let header: Header = serde_json::from_slice(lines.next().unwrap_or_default())
            .map_err(|e| malformed("its header is not readable").with_source(e))?;
        if header.journal_version != VERSION {
            return Err(malformed("it was written by another version"));
        }
        let records: Vec<Record> = lines.map_while(Record::parse).collect();
        let boot = boot_id();
        let trusted = if !boot.is_empty() && header.boot == boot {
            records.len()
        } else {
            records
                .iter()
                .rposition(|r| *r == Record::Synced)
                .map_or(0, |at| at + 1)
        };
        let mut slots: HashMap<usize, Ranges> = HashMap::new();
        for record in records.into_iter().take(trusted) {
            match record {
                Record::Written(slot, range) => slots.entry(slot).or_default().insert(range),
                Record::Discarded(slot) => {
                    slots.remove(&slot);
                }
                Record::Synced => {}
            }
        }
        Ok(Replay { header, slots })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Record {
    Written(usize, std::ops::Range<u64>),
    Discarded(usize),
    Synced,
}

impl Record {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let mut words = line.split(' ');
        let record = match words.next()? {
            "w" => {
                let slot = words.next()?.parse().ok()?;
                let range = words.next()?.parse().ok()?..words.next()?.parse().ok()?;
                Self::Written(slot, range)
            }
            "x" => Self::Discarded(words.next()?.parse().ok()?),
            "s" => Self::Synced,
            _ => return None,
        };
        words.next().is_none().then_some(record)
    }
}

/// Names the running boot of this machine; empty where the system does not say, which then counts as another boot.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::new(
            Digest::sha256(b"r"),
            "x".into(),
            Digest::sha256(b"p"),
            BTreeMap::from([("a.io/b:1".to_owned(), Digest::sha256(b"b"))]),
        )
    }

    #[test]
    fn replays_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        assert_eq!(Journal::replay(&path).unwrap_err().kind(), Kind::NotFound);
        let journal = Journal::create(path.clone(), &header()).unwrap();
        journal.written(0, 0..10).unwrap();
        journal.written(3, 5..9).unwrap();
        journal.synced(|| Ok(())).unwrap();
        journal.written(0, 10..20).unwrap();
        journal.discard(3).unwrap();
        let replay = Journal::replay(&path).unwrap();
        assert_eq!(replay.header, header());
        assert_eq!(replay.slots[&0].end_of(0), Some(20));
        assert!(!replay.slots.contains_key(&3));
    }

    #[test]
    fn another_boot_trusts_only_what_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let mut other = header();
        other.boot = "before the power cut".into();
        let journal = Journal::create(path.clone(), &other).unwrap();
        journal.written(0, 0..10).unwrap();
        journal.synced(|| Ok(())).unwrap();
        journal.written(0, 10..20).unwrap();
        assert_eq!(Journal::replay(&path).unwrap().slots[&0].end_of(0), Some(10));
    }

    #[test]
    fn torn_and_edited_lines_end_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        drop(Journal::create(path.clone(), &header()).unwrap());
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"w 0 0 10\nw 0 10 2");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(Journal::replay(&path).unwrap().slots[&0].end_of(0), Some(10));
        text.truncate(text.len() - 9);
        text.extend_from_slice(b"\nnonsense\nw 1 0 10\n");
        std::fs::write(&path, &text).unwrap();
        assert!(!Journal::replay(&path).unwrap().slots.contains_key(&1));
        std::fs::write(&path, b"{}\n").unwrap();
        assert_eq!(Journal::replay(&path).unwrap_err().kind(), Kind::Malformed);
    }
}
