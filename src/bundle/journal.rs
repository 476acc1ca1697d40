//! The journal of an unfinished export: a small text file beside `FILE.partial` that records which bytes are written.
//!
//! The journal only saves work. All bytes that the journal claims are hashed again before they count, so a wrong, torn or
//! edited journal costs a repeated transfer and never produces a wrong bundle.
//!
//! A new journal starts with everything known to be in the file, and appears as a whole or not at all: it is written
//! under another name, made durable and renamed. Afterwards the journal only grows. The first line is a JSON header. Each
//! further line is one of
//! - `b OFFSET SIZE DIGEST`: the next slot belongs to this blob (slots are numbered from 0);
//! - `w SLOT START END`: these bytes of the slot were written;
//! - `x SLOT`: the bytes of the slot were wrong, and its earlier `w` lines do not count;
//! - `s COUNT`: the bytes named by the first COUNT lines below the header have reached the disk.
//!
//! A power cut loses the page cache, and lines may reach the disk before the bytes that they name. The header therefore
//! names the boot; in another boot only the lines covered by an `s` line count.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::durable::write_failed;
use super::ranges::Ranges;
use crate::error::Result;
use crate::files::Folder;
use crate::image::digest::Digest;
use crate::lock::Mutex;

/// Version of the journal and of the plans in it; a journal of another version is not continued.
pub(super) const VERSION: u32 = 1;

/// What an unfinished export was asked to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    journal_version: u32,
    /// Digest of the request: images, platforms, index mode.
    pub request: Digest,
    /// The request in words, for messages.
    pub summary: String,
    /// Number of bytes before the first blob.
    pub front: u64,
    /// The digest that each reference resolved to: later runs do not resolve the references again.
    pub pins: Arc<BTreeMap<String, Digest>>,
    /// Media types of the manifests whose bytes do not state one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<Digest, String>,
    pub(super) boot: String,
}

impl Header {
    /// Creates a header for the present boot.
    pub(crate) fn new(request: Digest, summary: String, front: u64, pins: Arc<BTreeMap<String, Digest>>) -> Self {
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

/// The location of a journal: a name in an open folder.
#[derive(Debug, Clone)]
pub(crate) struct JournalName {
    pub(super) folder: Folder,
    pub(super) name: OsString,
    /// Path of the journal in messages.
    pub(super) path: PathBuf,
}

/// A journal that a running export appends to.
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

/// A blob that an earlier run may have written in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OldSlot {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Offset of the blob in the file, in bytes.
    pub offset: u64,
    /// Ranges of the blob that the journal claims are written.
    pub written: Ranges,
}

impl Journal {
    /// Creates a journal with these slots and their written ranges.
    /// Replaces any file of the same name.
    ///
    /// With `synced`, the written ranges have reached the disk, and therefore also count after a power cut.
    pub(crate) fn create(
        name: &JournalName,
        header: &Header,
        slots: impl Iterator<Item = OldSlot> + Clone,
        synced: bool,
    ) -> Result<Self> {
        // The file is replaced as a whole: a kill leaves the old journal or the new one, never half of either.
        let fresh = name.path.with_file_name(name.fresh());
        name.remove_fresh().map_err(|e| write_failed(&fresh, e, true))?;
        let create = || -> io::Result<(File, u64)> {
            let file = name.folder.create_new(&name.fresh())?;
            let count = write_all(&file, header, slots.clone(), synced)?;
            // The content has to be durable before the rename, or a power cut could leave an empty journal.
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

    /// Appends a slot, whose number follows that of the last slot.
    pub(crate) fn slot(&self, slot: &OldSlot) -> Result<()> {
        self.append(&slot.line())
    }

    /// Records written bytes of a slot.
    pub(crate) fn written(&self, slot: usize, range: std::ops::Range<u64>) -> Result<()> {
        self.append(&format!("w {slot} {} {}\n", range.start, range.end))
    }

    /// Records that the bytes of a slot were wrong.
    pub(crate) fn discard(&self, slot: usize) -> Result<()> {
        self.append(&format!("x {slot}\n"))
    }

    /// Calls `sync` to make all bytes written so far durable, and records that.
    ///
    /// Other threads may continue to write during the sync; bytes that they write meanwhile are not covered.
    pub(crate) fn synced(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        // Counted before the sync: a line appended during the sync may name bytes that the sync did not cover.
        let covered = self.file.lock().count;
        sync()?;
        self.append(&format!("s {covered}\n"))?;
        let failed = |e| write_failed(&self.path, e, true);
        let file = self.file.lock().file.try_clone().map_err(failed)?;
        file.sync_data().map_err(failed)
    }

    /// Appends a line with a single `write` call,
    /// so that only the last line of a journal can be cut short.
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
    /// Returns the journal name for an unfinished file in this folder.
    pub(super) fn new(folder: Folder, partial: &Path) -> Self {
        let mut path = partial.as_os_str().to_owned();
        path.push(".journal");
        let path = PathBuf::from(path);
        let name = path.file_name().unwrap_or_default().to_owned();
        Self { folder, name, path }
    }

    /// Returns whether no file of this name exists.
    pub(crate) fn is_free(&self) -> bool {
        self.folder.identity(&self.name).is_err()
    }

    /// Removes the journal, and a half-written new journal that a kill left behind.
    pub(crate) fn remove(&self) {
        let _ = self.folder.remove(&self.name);
        let _ = self.remove_fresh();
    }

    /// Returns the temporary name under which a new journal is written.
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

/// Writes a whole journal; returns the number of lines below its header.
fn write_all(
    file: &File,
    header: &Header,
    slots: impl Iterator<Item = OldSlot> + Clone,
    synced: bool,
) -> io::Result<u64> {
    let mut out = BufWriter::new(file);
    serde_json::to_writer(&mut out, header)?;
    out.write_all(b"\n")?;
    let mut count = 0;
    for slot in slots.clone() {
        out.write_all(slot.line().as_bytes())?;
        count += 1;
    }
    for (number, slot) in slots.enumerate() {
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

/// Returns the boot ID of this machine; empty if unknown, which counts as another boot.
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
        Header::new(Digest::sha256(b"r"), "x".into(), 512, pins.into())
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
        let journal = Journal::create(&name, header, slots().into_iter(), false).unwrap();
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
                // Written during the sync, therefore not covered.
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
            let journal = Journal::create(&name, &other, slots.iter().cloned(), synced).unwrap();
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
