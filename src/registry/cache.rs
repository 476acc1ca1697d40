//! Cache of manifests by digest in one file, so that an unchanged image costs a HEAD and no pull.
//!
//! Each record is a line, then the manifest's bytes, compressed, and a line feed. The line has the first eight bytes of the
//! digest and the number of bytes, compressed and not. Earlier versions wrote the whole digest, one number, and the bytes as they are;
//! these records are read too. Records are appended, by one process at a time (flock(2)). The file is never trusted: a manifest
//! counts only if its bytes have the digest, so a wrong or damaged file costs a pull. A record that was cut short, since a
//! process was killed or the disk was full, ends what is read; the next writer removes that end.
//!
//! When the file gets too large, its newer half is copied into a new file, which takes the name. Other processes keep
//! reading the old file, and find the new one before they write. A fault of the file only disables the cache.

use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cache_record::{self, Decoder, Encoder, Line, key};
use crate::files::{Folder, Identity};
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::lock::Mutex;

/// Name of the file in the folder of caches.
const NAME: &str = "manifests";

/// Name of the file that the newer half is copied into.
const NEW_NAME: &str = "manifests.new";

/// Folders in which earlier versions kept a file for each manifest.
const OLD_FOLDERS: [&str; 2] = ["sha256", "sha512"];

/// Limits of the file; a larger file is reduced to half of this.
const LIMITS: Limits = Limits {
    bytes: 128 << 20,
    records: 50_000,
};

/// Maximum number of digests remembered as stored by this run.
const MAX_NEW: usize = 20_000;

/// Maximum number of times that a write starts again since other processes replace the file.
const MAX_RACES: u32 = 4;

/// Number of milliseconds that a run waits for other writers in total, before it stops adding to the cache.
const PATIENCE: u32 = 1000;

/// Cache of manifests in a folder.
#[derive(Debug)]
pub(super) struct ManifestCache {
    folder: PathBuf,
    limits: Limits,
    state: Mutex<State>,
    /// Created with the first record that is read.
    decoder: Mutex<Option<Decoder>>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    bytes: u64,
    records: usize,
}

#[derive(Debug)]
struct State {
    store: Option<Store>,
    /// Remaining milliseconds of [`PATIENCE`].
    patience: u32,
    /// First bytes of the digests that this run stored, or could not store.
    new: HashSet<u64>,
    /// Created with the first record that is written.
    encoder: Option<Encoder>,
}

/// What became of a record.
#[derive(Debug)]
enum Appended {
    AlreadyThere,
    Added,
    /// Added, and another file has taken the name of the file.
    Replaced,
}

/// The open file, and where its records are.
#[derive(Debug)]
struct Store {
    file: Arc<File>,
    /// Records by the first eight bytes of their digests. For two digests with one beginning, the later record counts.
    records: HashMap<u64, Record>,
    /// Offset of the end of the last complete record.
    end: u64,
}

/// Place of a record in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    start: u64,
    /// Offset of the manifest.
    bytes: u64,
    line: Line,
}

impl ManifestCache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            limits: LIMITS,
            state: Mutex::new(State {
                store: None,
                patience: PATIENCE,
                new: HashSet::new(),
                encoder: None,
            }),
            decoder: Mutex::new(None),
        }
    }

    /// Returns whether this run stored a manifest, so that no earlier run had it.
    /// `false` if it stored too many manifests to know.
    pub(super) fn is_new(&self, digest: &Digest) -> bool {
        self.state.lock().new.contains(&key(digest))
    }

    /// Returns the manifest with this digest, if it is cached and intact.
    pub(super) fn get(&self, digest: &Digest) -> Option<RawManifest> {
        let (file, record) = {
            let mut state = self.state.lock();
            if state.store.is_none() {
                state.store = Some(self.open(&Folder::open(&self.folder).ok()?).ok()?);
            }
            let store = state.store.as_ref()?;
            (store.file.clone(), *store.records.get(&key(digest))?)
        };
        let read = || {
            let mut bytes = vec![0; record.line.stored()];
            file.read_exact_at(&mut bytes, record.bytes).ok()?;
            let decoded = self
                .decoder
                .lock()
                .get_or_insert_with(Decoder::new)
                .decode(record.line, bytes);
            RawManifest::new(Bytes::from(decoded?), None, Some(digest)).ok()
        };
        let manifest = read();
        if manifest.is_none()
            && let Some(store) = &mut self.state.lock().store
            && store.records.get(&key(digest)) == Some(&record)
        {
            // The manifest will be pulled, and is then appended once more.
            store.records.remove(&key(digest));
        }
        manifest
    }

    /// Stores a manifest.
    pub(super) fn put(&self, manifest: &RawManifest) {
        // A type that is not in the manifest's bytes came from one registry's header; another registry may state a better
        // one.
        let parsed = RawManifest::new(manifest.bytes().clone(), None, Some(manifest.digest()));
        if !parsed.is_ok_and(|parsed| parsed.media_type() == manifest.media_type()) {
            return;
        }
        let appended = self.append(manifest.digest(), manifest.bytes());
        if let Err(error) = &appended {
            tracing::debug!("manifest {} is not cached: {error}", manifest.digest());
        }
        let mut state = self.state.lock();
        if appended.unwrap_or(true) && state.new.len() < MAX_NEW {
            state.new.insert(key(manifest.digest()));
        }
    }

    /// Appends a record, and returns whether there was none.
    fn append(&self, digest: &Digest, bytes: &[u8]) -> io::Result<bool> {
        let State {
            store,
            patience,
            encoder,
            ..
        } = &mut *self.state.lock();
        if store.as_ref().is_some_and(|store| store.has(digest)) {
            return Ok(false);
        }
        std::fs::create_dir_all(&self.folder)?;
        let folder = Folder::open(&self.folder)?;
        let encoder = encoder.get_or_insert_with(Encoder::new);
        for _ in 0..MAX_RACES {
            let open = match store {
                Some(open) => open,
                None => store.insert(self.open_or_create(&folder)?),
            };
            let file = open.file.clone();
            lock(&file, patience)?;
            let is_at_name = folder.identity(NAME.as_ref()).ok() == Some(Identity::from(&file.metadata()?));
            let appended = is_at_name.then(|| self.append_locked(&folder, open, encoder, digest, bytes));
            let _ = file.unlock();
            match appended {
                Some(Ok(Appended::AlreadyThere)) => return Ok(false),
                Some(Ok(Appended::Added)) => return Ok(true),
                Some(Ok(Appended::Replaced)) => {
                    *store = None;
                    return Ok(true);
                }
                Some(Err(error)) => return Err(error),
                // Another process replaced the file.
                None => *store = None,
            }
        }
        Err(io::Error::other("other processes replace the file"))
    }

    /// Appends a record to the locked file, unless there is one.
    fn append_locked(
        &self,
        folder: &Folder,
        store: &mut Store,
        encoder: &mut Encoder,
        digest: &Digest,
        bytes: &[u8],
    ) -> io::Result<Appended> {
        let length = store.catch_up(self.limits)?;
        if store.has(digest) {
            return Ok(Appended::AlreadyThere);
        }
        let (line, record) = encoder.encode(key(digest), bytes)?;
        if length > store.end {
            // These bytes are the rest of an interrupted write. A file that is not cut is written to the disk less often: ext4
            // writes the page at the cut with its next commit.
            store.file.set_len(store.end)?;
        }
        store.file.write_all_at(&record, store.end)?;
        store.add(key(digest), line, record.len() as u64);
        if store.end <= self.limits.bytes && store.records.len() <= self.limits.records {
            return Ok(Appended::Added);
        }
        if let Err(error) = self.keep_newer_half(folder, store) {
            tracing::debug!("the cache of manifests starts anew: {error}");
            store.file.set_len(0)?;
        }
        Ok(Appended::Replaced)
    }

    /// Copies the newer half of the records into a new file, which takes the name of the locked one.
    fn keep_newer_half(&self, folder: &Folder, store: &Store) -> io::Result<()> {
        let mut starts: Vec<u64> = store.records.values().map(|record| record.start).collect();
        starts.sort_unstable();
        let first = starts
            .into_iter()
            .rev()
            .take(self.limits.records / 2)
            .take_while(|start| store.end - start <= self.limits.bytes / 2)
            .last()
            .unwrap_or(store.end);
        // A process that was killed here left a file.
        let _ = folder.remove(NEW_NAME.as_ref());
        let new = self.create_empty(NEW_NAME)?;
        let mut old = &*store.file;
        old.seek(SeekFrom::Start(first))?;
        io::copy(&mut old.take(store.end - first), &mut &new)?;
        folder.rename(NEW_NAME.as_ref(), NAME.as_ref(), true)
    }

    fn open(&self, folder: &Folder) -> io::Result<Store> {
        let file = match folder.open_own_to_write(NAME.as_ref()) {
            // A file that this user may not write to still saves pulls. After any other error a file opened only for reading
            // would be wrong: another process may have created it since the first attempt.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                folder.open_own(NAME.as_ref())
            }
            other => other,
        }?;
        let mut store = Store {
            file: Arc::new(file),
            records: HashMap::new(),
            end: 0,
        };
        store.catch_up(self.limits)?;
        Ok(store)
    }

    fn open_or_create(&self, folder: &Folder) -> io::Result<Store> {
        match self.open(folder) {
            // It is a link or a pipe, has a second name, or belongs to another user.
            Err(error) if error.kind() == ErrorKind::Other => folder.remove(NAME.as_ref())?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                for old in OLD_FOLDERS {
                    let _ = std::fs::remove_dir_all(self.folder.join(old));
                }
            }
            other => return other,
        }
        match self.create_empty(NAME) {
            // Another process created it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => drop(other?),
        }
        self.open(folder)
    }

    /// Creates a file that only its owner can read: manifests may be those of private images.
    fn create_empty(&self, name: &str) -> io::Result<File> {
        let file = tempfile::Builder::new()
            .prefix(name)
            .rand_bytes(0)
            .tempfile_in(&self.folder)?;
        Ok(file.keep().map_err(|error| error.error)?.0)
    }
}

impl Store {
    fn has(&self, digest: &Digest) -> bool {
        self.records.contains_key(&key(digest))
    }

    /// Adds the record at the end, which has `length` bytes with its line and the line feed after the manifest.
    fn add(&mut self, key: u64, line: Line, length: u64) {
        let start = self.end;
        self.end += length;
        let bytes = self.end - 1 - line.stored() as u64;
        self.records.insert(key, Record { start, bytes, line });
    }

    /// Reads the records that other processes appended, up to the first one that is incomplete. Returns the length of the file.
    fn catch_up(&mut self, limits: Limits) -> io::Result<u64> {
        let all = self.file.metadata()?.len();
        let length = all.min(limits.bytes.saturating_mul(2));
        if length < self.end {
            self.records.clear();
            self.end = 0;
        }
        let file = self.file.clone();
        let mut reader = BufReader::with_capacity(64 << 10, &*file);
        reader.seek(SeekFrom::Start(self.end))?;
        let mut line = Vec::new();
        while self.end < length && self.records.len() <= limits.records {
            line.clear();
            (&mut reader)
                .take(cache_record::MAX_LINE)
                .read_until(b'\n', &mut line)?;
            let Some((key, parsed)) = Line::parse(&line) else { break };
            let record = (line.len() + parsed.stored() + 1) as u64;
            if self.end + record > length {
                break;
            }
            self.add(key, parsed, record);
            reader.seek_relative(parsed.stored() as i64 + 1)?;
        }
        Ok(all)
    }
}

/// Locks the file against other processes.
fn lock(file: &File, patience: &mut u32) -> io::Result<()> {
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if *patience > 0 => {
                *patience -= 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("other processes write to the cache")),
            // Some network file systems do not support locks. Writers that disturb each other cost pulls.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
