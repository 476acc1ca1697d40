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
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::durable::write_failed;
use super::ranges::Ranges;
use crate::error::Result;
use crate::files::Folder;
use crate::image::digest::Digest;
use crate::lock::Mutex;

/// The version of the journal and of the plans that it speaks of; another one is not continued.
pub(super) const VERSION: u32 = 1;

/// What an unfinished export was about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    journal_version: u32,
    /// A digest of what was asked for: images, platforms, index mode.
    pub request: Digest,
    /// The request in words, for messages.
    pub summary: String,
    /// Number of bytes before the first blob.
    pub front: u64,
    /// What each reference was found to be: later runs do not ask again.
    pub pins: BTreeMap<String, Digest>,
    /// The media types of those manifests whose bytes do not tell them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<Digest, String>,
    pub(super) boot: String,
}

impl Header {
    /// A header for this boot.
    pub(crate) fn new(request: Digest, summary: String, front: u64, pins: BTreeMap<String, Digest>) -> Self {
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

/// The name of a journal in a folder.
#[derive(Debug, Clone)]
pub(crate) struct JournalName {
    pub(super) folder: Folder,
    pub(super) name: OsString,
    /// What messages call it.
    pub(super) path: PathBuf,
}

/// A journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    file: File,
    count: u64,
}

/// A blob of which an earlier run may have written something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OldSlot {
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
    /// Starts a new journal with these slots and the ranges already written in each. Replaces any file of that name.
    ///
    /// `synced` says that the bytes in the file have reached the disk, so that it counts after a power cut too.
    pub(crate) fn create(name: &JournalName, header: &Header, slots: &[OldSlot], synced: bool) -> Result<Self> {
        // Replaced as a whole: a kill leaves the old journal or the new one, and never half of either.
        let create = || -> io::Result<(File, u64)> {
            name.remove_fresh()?;
            let file = name.folder.create_new(&name.fresh())?;
            let count = write_all(&file, header, slots, synced)?;
            file.sync_data()?;
            name.folder.rename(&name.fresh(), &name.name, true)?;
            name.folder.sync();
            Ok((file, count))
        };
        let (file, count) = create().map_err(|e| {
            let _ = name.remove_fresh();
            write_failed(&name.path, e, true)
        })?;
        Ok(Self {
            path: name.path.clone(),
            file: Mutex::new(Lines { file, count }),
        })
    }

    /// Notes one more slot; its number follows that of the last one.
    pub(crate) fn slot(&self, slot: &OldSlot) -> Result<()> {
        self.append(&slot.line())
    }

    /// Notes that bytes of a slot were written.
    pub(crate) fn written(&self, slot: usize, range: std::ops::Range<u64>) -> Result<()> {
        self.append(&format!("w {slot} {} {}\n", range.start, range.end))
    }

    /// Notes that a slot's bytes were wrong.
    pub(crate) fn discard(&self, slot: usize) -> Result<()> {
        self.append(&format!("x {slot}\n"))
    }

    /// Makes everything written so far durable by `sync`, and notes it. Others go on writing meanwhile; what they write is
    /// not covered.
    pub(crate) fn synced(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        // Counted before the sync: a line that is appended during the sync may name bytes that it did not cover.
        let covered = self.file.lock().count;
        sync()?;
        self.append(&format!("s {covered}\n"))?;
        let failed = |e| write_failed(&self.path, e, true);
        let file = self.file.lock().file.try_clone().map_err(failed)?;
        file.sync_data().map_err(failed)
    }

    /// One `write` call per line, so that a line is there as a whole or, at the very end, cut short.
    fn append(&self, line: &str) -> Result<()> {
        let mut lines = self.file.lock();
        lines.count += 1;
        lines
            .file
            .write_all(line.as_bytes())
            .map_err(|e| write_failed(&self.path, e, true))
    }
}

impl JournalName {
    /// The journal beside an unfinished file in this folder.
    pub(super) fn new(folder: Folder, partial: &Path) -> Self {
        let mut path = partial.as_os_str().to_owned();
        path.push(".journal");
        let path = PathBuf::from(path);
        let name = path.file_name().unwrap_or_default().to_owned();
        Self { folder, name, path }
    }

    /// Whether there is nothing of this name.
    pub(crate) fn is_free(&self) -> bool {
        self.folder.identity(&self.name).is_err()
    }

    /// Removes the journal, and what a kill left of a new one.
    pub(crate) fn remove(&self) {
        let _ = self.folder.remove(&self.name);
        let _ = self.remove_fresh();
    }

    /// The name under which a new journal is written.
    fn fresh(&self) -> OsString {
        let mut name = self.name.clone();
        name.push(".new");
        name
    }

    fn remove_fresh(&self) -> io::Result<()> {
        match self.folder.remove(&self.fresh()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Writes a whole journal; returns how many lines stand below its header.
fn write_all(file: &File, header: &Header, slots: &[OldSlot], synced: bool) -> io::Result<u64> {
    let mut out = BufWriter::new(file);
    serde_json::to_writer(&mut out, header)?;
    out.write_all(b"\n")?;
    let mut count = slots.len() as u64;
    for slot in slots {
        out.write_all(slot.line().as_bytes())?;
    }
    for (number, slot) in slots.iter().enumerate() {
        for range in slot.written.iter() {
            writeln!(out, "w {number} {} {}", range.start, range.end)?;
            count += 1;
        }
    }
    if synced {
        writeln!(out, "s {count}")?;
        count += 1;
    }
    out.flush()?;
    Ok(count)
}

impl OldSlot {
    fn line(&self) -> String {
        format!("b {} {} {}\n", self.offset, self.size, self.digest)
    }
}

/// Names the running boot of this machine; empty where the system does not say, which then counts as another boot.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::replay::Replay;
    use super::*;
    use crate::error::Kind;

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

    fn name(folder: &Path) -> JournalName {
        JournalName::new(Folder::open(folder).unwrap(), &folder.join("b.tar.partial"))
    }

    fn journal(folder: &Path, header: &Header) -> (JournalName, Journal) {
        let name = name(folder);
        let journal = Journal::create(&name, header, &slots(), false).unwrap();
        (name, journal)
    }

    fn ends(name: &JournalName) -> Vec<Option<u64>> {
        let replay = Replay::read(name).unwrap();
        replay.slots.iter().map(|slot| slot.written.end_of(0)).collect()
    }

    #[test]
    fn replays_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Replay::read(&name(folder.path())).unwrap_err().kind(), Kind::NotFound);
        let (name, journal) = journal(folder.path(), &header());
        journal.written(0, 0..10).unwrap();
        journal.written(1, 0..9).unwrap();
        journal.synced(|| Ok(())).unwrap();
        journal.written(0, 10..20).unwrap();
        journal.discard(1).unwrap();
        journal.written(0, 90..101).unwrap();
        journal.written(7, 0..1).unwrap();
        assert_eq!(Replay::read(&name).unwrap().header, header());
        assert_eq!(ends(&name), [Some(20), None]);
    }

    #[test]
    fn another_boot_trusts_only_what_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let mut other = header();
        other.boot = "before the power cut".into();
        let (name, journal) = journal(folder.path(), &other);
        journal.written(0, 0..10).unwrap();
        journal
            .synced(|| {
                // Written while the disk was busy: not covered.
                journal.written(1, 0..10)
            })
            .unwrap();
        journal.written(0, 10..20).unwrap();
        assert_eq!(ends(&name), [Some(10), None]);
    }

    #[test]
    fn what_it_begins_with_counts_after_a_power_cut_if_it_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let name = name(folder.path());
        let mut other = header();
        other.boot = "before the power cut".into();
        let mut slots = slots();
        slots[0].written.insert(0..30);
        slots[1].written.insert(0..40);
        slots[1].written.insert(50..60);
        for (synced, expected) in [(false, [None, None]), (true, [Some(30), Some(40)])] {
            let journal = Journal::create(&name, &other, &slots, synced).unwrap();
            journal.written(0, 30..50).unwrap();
            assert_eq!(ends(&name), expected, "synced: {synced}");
            journal.synced(|| Ok(())).unwrap();
            assert_eq!(ends(&name), [Some(50), Some(40)]);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_moved_slot_is_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (name, journal) = journal(folder.path(), &header());
        journal.written(0, 0..10).unwrap();
        journal.discard(0).unwrap();
        let mut moved = slots()[0].clone();
        moved.offset = 4096;
        journal.slot(&moved).unwrap();
        journal.written(2, 0..10).unwrap();
        assert_eq!(ends(&name), [None, None, Some(10)]);
        assert_eq!(Replay::read(&name).unwrap().slots[2].offset, 4096);
    }

    #[test]
    fn torn_and_edited_lines_end_it() {
        let folder = tempfile::tempdir().unwrap();
        let (name, _journal) = journal(folder.path(), &header());
        let text = std::fs::read(&name.path).unwrap();
        let with = |tail: &[u8]| std::fs::write(&name.path, [&text, tail].concat()).unwrap();
        with(b"w 0 0 10\nw 0 10 2");
        assert_eq!(ends(&name), [Some(10), None]);
        with(b"w 0 0 10\nnonsense\nw 1 0 10\n");
        assert_eq!(ends(&name), [Some(10), None]);
        std::fs::write(&name.path, b"{}\n").unwrap();
        assert_eq!(Replay::read(&name).unwrap_err().kind(), Kind::Malformed);
    }
}
