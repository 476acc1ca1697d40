//! How far an unfinished export got: a small text file beside `FILE.partial`.
//!
//! The journal only saves work. What it claims is hashed again before it counts, so a journal that is wrong, torn or edited
//! costs a repeated transfer and never a wrong bundle.
//!
//! A journal is begun with what is known to be there, as a whole or not at all: it is written under another name, made durable
//! and renamed. From then on it only grows. The first line is a JSON header. Each further line is one of
//! - `b OFFSET SIZE DIGEST`: the next slot is that of this blob (slots are numbered from 0);
//! - `w SLOT START END`: these bytes of that slot were written;
//! - `x SLOT`: forget what was said of that slot, its bytes were wrong;
//! - `s COUNT`: the bytes of which the first COUNT lines below the header speak have reached the disk.
//!
//! After a power cut the page cache is gone, and lines may have reached the disk before the bytes that they speak of. The
//! header therefore names the boot; in another boot only the lines that an `s` covers count.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::partial::write_failed;
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
    /// How many bytes stand before the first blob.
    pub front: u64,
    /// What each reference was found to be: later runs do not ask again.
    pub pins: BTreeMap<String, Digest>,
    /// The media types of those manifests whose bytes do not tell them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<Digest, String>,
    boot: String,
}

impl Header {
    /// A header for this boot.
    pub fn new(request: Digest, summary: String, front: u64, pins: BTreeMap<String, Digest>) -> Self {
        Self {
            journal_version: VERSION,
            request,
            summary,
            front,
            pins,
            types: BTreeMap::new(),
            boot: boot_id(),
        }
    }
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    file: File,
    count: u64,
}

/// What an earlier run left.
#[derive(Debug)]
pub struct Replay {
    /// What it was about.
    pub header: Header,
    /// The blobs that it was writing.
    pub slots: Vec<OldSlot>,
}

/// A blob of which an earlier run may have written something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldSlot {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where it starts in the file.
    pub offset: u64,
    /// What is said to be there.
    pub written: Ranges,
}

impl Journal {
    /// Starts a new journal of these slots and of what is there of each, over whatever is at `path`.
    ///
    /// `synced` says that what is there has reached the disk, so that it counts after a power cut too.
    pub fn create(path: PathBuf, header: &Header, slots: &[OldSlot], synced: bool) -> Result<Self> {
        let mut text = serde_json::to_string(header)
            .map_err(|e| Error::new(Kind::Malformed, "cannot write the journal's header").with_source(e))?;
        text.push('\n');
        let mut count = slots.len() as u64;
        for slot in slots {
            text.push_str(&slot.line());
        }
        for (number, slot) in slots.iter().enumerate() {
            for range in slot.written.iter() {
                text.push_str(&format!("w {number} {} {}\n", range.start, range.end));
                count += 1;
            }
        }
        if synced {
            text.push_str(&format!("s {count}\n"));
            count += 1;
        }
        // Replaced as a whole: a kill leaves the old journal or the new one, and never half of either.
        let fresh = fresh_path(&path);
        let create = || -> std::io::Result<File> {
            match std::fs::remove_file(&fresh) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            std::fs::rename(&fresh, &path)?;
            // The name is durable once its folder is; file systems that cannot sync a folder say so, and that is no fault.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
                let _ = folder.sync_all();
            }
            Ok(file)
        };
        let file = create().map_err(|e| write_failed(&path, e, true))?;
        Ok(Self {
            path,
            file: Mutex::new(Lines { file, count }),
        })
    }

    /// Notes one more slot; its number follows that of the last one.
    pub fn slot(&self, slot: &OldSlot) -> Result<()> {
        self.append(&slot.line())
    }

    /// Removes a journal, and what a kill left of a new one.
    pub fn remove(path: &Path) {
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_file(fresh_path(path));
    }

    /// Notes that bytes of a slot were written.
    pub fn written(&self, slot: usize, range: std::ops::Range<u64>) -> Result<()> {
        self.append(&format!("w {slot} {} {}\n", range.start, range.end))
    }

    /// Notes that a slot's bytes were wrong.
    pub fn discard(&self, slot: usize) -> Result<()> {
        self.append(&format!("x {slot}\n"))
    }

    /// Makes everything written so far durable by `sync`, and notes it. Others go on writing meanwhile; what they write is
    /// not covered.
    pub fn synced(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let covered = self.lock().count;
        sync()?;
        self.append(&format!("s {covered}\n"))?;
        let failed = |e| write_failed(&self.path, e, true);
        let file = self.lock().file.try_clone().map_err(failed)?;
        file.sync_data().map_err(failed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One `write` call per line, so that a line is there as a whole or, at the very end, cut short.
    fn append(&self, line: &str) -> Result<()> {
        let mut lines = self.lock();
        lines.count += 1;
        lines
            .file
            .write_all(line.as_bytes())
            .map_err(|e| write_failed(&self.path, e, true))
    }

    /// Reads what an earlier run left.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no journal; [`Kind::Malformed`] if it is not one of this version.
    pub fn replay(path: &Path) -> Result<Replay> {
        let mut text = Vec::new();
        super::partial::open_plain(OpenOptions::new().read(true), path)
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
            let covered = records.iter().filter_map(|record| match record {
                Record::Synced(count) => Some(*count),
                _ => None,
            });
            covered.max().unwrap_or(0).min(records.len())
        };
        let mut slots: Vec<OldSlot> = Vec::new();
        for (number, record) in records.into_iter().enumerate() {
            match record {
                Record::Slot(slot) => slots.push(slot),
                Record::Written(slot, range) if number < trusted => {
                    if let Some(slot) = slots.get_mut(slot)
                        && range.start < range.end
                        && range.end <= slot.size
                    {
                        slot.written.insert(range);
                    }
                }
                // A doubt counts whether it reached the disk or not.
                Record::Discarded(slot) => {
                    if let Some(slot) = slots.get_mut(slot) {
                        slot.written = Ranges::default();
                    }
                }
                Record::Written(..) | Record::Synced(_) => {}
            }
        }
        Ok(Replay { header, slots })
    }
}

impl OldSlot {
    fn line(&self) -> String {
        format!("b {} {} {}\n", self.offset, self.size, self.digest)
    }
}

/// Where a new journal is written.
fn fresh_path(path: &Path) -> PathBuf {
    path.with_extension("journal.new")
}

#[derive(Debug, PartialEq, Eq)]
enum Record {
    Slot(OldSlot),
    Written(usize, std::ops::Range<u64>),
    Discarded(usize),
    Synced(usize),
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
        let pins = BTreeMap::from([("a.io/b:1".to_owned(), Digest::sha256(b"b"))]);
        Header::new(Digest::sha256(b"r"), "x".into(), 512, pins)
    }

    /// Two slots of 100 bytes.
    fn slots() -> [OldSlot; 2] {
        [1024, 2048].map(|offset| OldSlot {
            digest: Digest::sha256(&[offset as u8]),
            size: 100,
            offset,
            written: Ranges::default(),
        })
    }

    fn journal(folder: &Path, header: &Header) -> (PathBuf, Journal) {
        let path = folder.join("b.tar.partial.journal");
        let journal = Journal::create(path.clone(), header, &slots(), false).unwrap();
        (path, journal)
    }

    fn ends(path: &Path) -> Vec<Option<u64>> {
        let replay = Journal::replay(path).unwrap();
        replay.slots.iter().map(|slot| slot.written.end_of(0)).collect()
    }

    #[test]
    fn replays_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            Journal::replay(&folder.path().join("none")).unwrap_err().kind(),
            Kind::NotFound
        );
        let (path, journal) = journal(folder.path(), &header());
        journal.written(0, 0..10).unwrap();
        journal.written(1, 0..9).unwrap();
        journal.synced(|| Ok(())).unwrap();
        journal.written(0, 10..20).unwrap();
        journal.discard(1).unwrap();
        journal.written(0, 90..101).unwrap();
        journal.written(7, 0..1).unwrap();
        assert_eq!(Journal::replay(&path).unwrap().header, header());
        assert_eq!(ends(&path), [Some(20), None]);
    }

    #[test]
    fn another_boot_trusts_only_what_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let mut other = header();
        other.boot = "before the power cut".into();
        let (path, journal) = journal(folder.path(), &other);
        journal.written(0, 0..10).unwrap();
        journal
            .synced(|| {
                // Written while the disk was busy: not covered.
                journal.written(1, 0..10)
            })
            .unwrap();
        journal.written(0, 10..20).unwrap();
        assert_eq!(ends(&path), [Some(10), None]);
    }

    #[test]
    fn what_it_begins_with_counts_after_a_power_cut_if_it_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tar.partial.journal");
        let mut other = header();
        other.boot = "before the power cut".into();
        let mut slots = slots();
        slots[0].written.insert(0..30);
        slots[1].written.insert(0..40);
        slots[1].written.insert(50..60);
        for (synced, expected) in [(false, [None, None]), (true, [Some(30), Some(40)])] {
            let journal = Journal::create(path.clone(), &other, &slots, synced).unwrap();
            journal.written(0, 30..50).unwrap();
            assert_eq!(ends(&path), expected, "synced: {synced}");
            journal.synced(|| Ok(())).unwrap();
            assert_eq!(ends(&path), [Some(50), Some(40)]);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_moved_slot_is_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, journal) = journal(folder.path(), &header());
        journal.written(0, 0..10).unwrap();
        journal.discard(0).unwrap();
        let mut moved = slots()[0].clone();
        moved.offset = 4096;
        journal.slot(&moved).unwrap();
        journal.written(2, 0..10).unwrap();
        assert_eq!(ends(&path), [None, None, Some(10)]);
        assert_eq!(Journal::replay(&path).unwrap().slots[2].offset, 4096);
    }

    #[test]
    fn torn_and_edited_lines_end_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _journal) = journal(folder.path(), &header());
        let text = std::fs::read(&path).unwrap();
        let with = |tail: &[u8]| std::fs::write(&path, [&text, tail].concat()).unwrap();
        with(b"w 0 0 10\nw 0 10 2");
        assert_eq!(ends(&path), [Some(10), None]);
        with(b"w 0 0 10\nnonsense\nw 1 0 10\n");
        assert_eq!(ends(&path), [Some(10), None]);
        std::fs::write(&path, b"{}\n").unwrap();
        assert_eq!(Journal::replay(&path).unwrap_err().kind(), Kind::Malformed);
    }
}
