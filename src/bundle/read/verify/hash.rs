//! Verifies the bytes: reads every blob of every bundle once and compares its digest.
//!
//! One thread reads a file sequentially and passes the same buffers to two other threads: one hashes the whole file, the
//! other hashes its blobs. Both hash about the same number of bytes, and neither waits for the disk itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::result::Checked;
use super::sizes::StatedSizes;
use super::wrong::{AllWrong, Mismatch, Wrong};
use crate::bundle::layout::blob_path;
use crate::bundle::read::Bundle;
use crate::bundle::read::salvage::{Part, Salvage};
use crate::bundle::read::source::{Extent, Source};
use crate::bundle::read::stream::pipe::Incoming;
use crate::bundle::read::summed::VerifiedFile;
use crate::bundle::read::tar_faults::TarFaults;
use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::lock::Mutex;
use crate::progress::{Event, Progress};
use crate::text::Warnings;

/// Number of bytes read at a time.
const PIECE: usize = 1 << 20;

/// Maximum number of pieces of a file in memory.
const PIECES: usize = 12;

/// Maximum number of bytes by which a blob of an archive may exceed its stated size so that the archive is still read as a
/// whole, for its SHA-256. A sparse file can hold a blob of any size.
const MAX_EXCESS: u64 = 1 << 30;

/// Maximum number of threads that hash blobs in files of their own.
const MAX_THREADS: usize = 16;

/// A blob at one of its places.
#[derive(Debug)]
struct Job<'a> {
    digest: &'a Digest,
    place: &'a Extent,
}

/// All places of blobs, grouped by file.
pub(super) struct Places<'a> {
    /// Files that are read sequentially, with their blobs sorted by offset.
    files: Vec<(&'a Source, Vec<Job<'a>>)>,
    /// Blobs in files of their own.
    single: Vec<Job<'a>>,
    /// Blobs with more than one place.
    several: HashSet<&'a Digest>,
    /// Blobs that are not read, since their size contradicts every descriptor.
    unread: Vec<Wrong>,
    /// Number of places of blobs that are read.
    blobs: u64,
    /// Number of bytes to read.
    bytes: u64,
}

/// The result of reading and hashing all blobs.
#[derive(Debug, Default)]
pub(super) struct Hashed {
    pub(super) files: Vec<VerifiedFile>,
    pub(super) checked: Checked,
    pub(super) wrong: AllWrong,
    pub(super) arrived: HashMap<Digest, u64>,
    pub(super) warnings: Warnings,
    /// Tar faults after the front of a pipe, with the name of the pipe in messages.
    pub(super) tar_faults: (String, TarFaults),
    /// Why the rest of a pipe could not be read.
    pub(super) cut_off: Option<Error>,
}

/// Groups all places of blobs by the file that holds them.
pub(super) fn places(bundle: &Bundle) -> Places<'_> {
    let mut by_source: HashMap<*const Source, usize> = HashMap::new();
    let mut places = Places {
        files: Vec::new(),
        single: Vec::new(),
        several: HashSet::new(),
        unread: Vec::new(),
        blobs: 0,
        bytes: 0,
    };
    let sizes = StatedSizes::new(bundle);
    let is_too_long = |(digest, place): &(&Digest, &Extent)| {
        let stated = sizes.contradiction(digest, place.size);
        stated.is_some_and(|stated| place.size.saturating_sub(stated) > MAX_EXCESS)
    };
    let too_long = bundle.store.places().filter(is_too_long);
    let mut too_long: HashSet<*const Source> = too_long.map(|(_, place)| Arc::as_ptr(&place.source)).collect();
    let hollow = bundle.parts.sources.iter();
    let hollow = hollow.filter(|source| source.is_hollow(0, source.length()).unwrap_or(false));
    too_long.extend(hollow.map(Arc::as_ptr));
    // An archive without blobs is read as well, for the SHA-256 of its file.
    for source in &bundle.parts.sources {
        if too_long.contains(&Arc::as_ptr(source)) {
            continue;
        }
        by_source.insert(Arc::as_ptr(source), places.files.len());
        places.files.push((source, Vec::new()));
        places.bytes += source.length();
    }
    let mut seen = HashSet::new();
    for (digest, place) in bundle.store.places() {
        if !seen.insert(digest) {
            places.several.insert(digest);
        }
        let job = Job { digest, place };
        match (
            by_source.get(&Arc::as_ptr(&place.source)),
            sizes.contradiction(digest, place.size),
        ) {
            (Some(file), _) => places.files[*file].1.push(job),
            (None, Some(stated)) => {
                places
                    .unread
                    .push(Wrong::new(job.digest, job.place, Mismatch::Size(stated)));
                continue;
            }
            (None, None) => {
                places.bytes += place.size;
                places.single.push(job);
            }
        }
        places.blobs += 1;
    }
    for (_, jobs) in &mut places.files {
        // The hashing thread meets the blobs in the order of the file.
        jobs.sort_by_key(|job| job.place.offset);
    }
    places
}

/// Reads and hashes all blobs.
pub(super) fn read_all(places: Places<'_>, progress: &Progress) -> Hashed {
    progress.emit(Event::Planned {
        images: 0,
        manifests: 0,
        blobs: places.blobs,
        bytes: places.bytes,
        present: 0,
    });
    let mut hashed = Hashed::default();
    let outcome = Mutex::new(Findings {
        several: places.several,
        progress: progress.clone(),
        ..Findings::default()
    });
    for (source, jobs) in places.files {
        hashed.files.extend(read_file(source, jobs, &outcome, progress));
    }
    read_single(places.single, &outcome, progress);
    let mut outcome = outcome.into_inner();
    places.unread.into_iter().for_each(|wrong| outcome.wrong.add(wrong));
    let key = |wrong: &Wrong| (wrong.file.clone(), wrong.member.as_ref().map(|(_, offset)| *offset));
    outcome.wrong.first.sort_by_cached_key(key);
    let sound = outcome
        .sound
        .into_iter()
        .filter(|digest| outcome.wrong.kinds.contains_key(*digest));
    outcome.wrong.sound_elsewhere = sound.cloned().collect();
    hashed.checked.members = places.blobs;
    hashed.checked.blobs = places.blobs;
    hashed.checked.bytes = outcome.bytes;
    hashed.wrong = outcome.wrong;
    hashed
}

/// Results shared by the threads.
#[derive(Default)]
struct Findings<'a> {
    several: HashSet<&'a Digest>,
    /// Blobs with several places that are right at one of their places.
    sound: HashSet<&'a Digest>,
    wrong: AllWrong,
    bytes: u64,
    progress: Progress,
}

impl<'a> Findings<'a> {
    fn done(this: &Mutex<Self>, job: &Job<'a>, result: Result<Digest>) {
        let mut this = this.lock();
        this.bytes += job.place.size;
        this.progress.emit(Event::BlobDone {
            digest: job.digest.to_string(),
            size: job.place.size,
        });
        match result {
            Ok(found) if found == *job.digest => {
                if this.several.contains(job.digest) {
                    this.sound.insert(job.digest);
                }
            }
            Ok(found) => this
                .wrong
                .add(Wrong::new(job.digest, job.place, Mismatch::Other(found))),
            Err(error) => this
                .wrong
                .add(Wrong::new(job.digest, job.place, Mismatch::Unreadable(error))),
        }
    }
}

/// A piece of a file, or the error of reading the piece.
#[derive(Clone)]
struct Piece {
    offset: u64,
    bytes: Result<Arc<Vec<u8>>>,
    length: usize,
}

/// Reads a file sequentially. Returns the SHA-256 of the file; `None` if any part cannot be read.
fn read_file<'a>(
    source: &Source,
    jobs: Vec<Job<'a>>,
    outcome: &Mutex<Findings<'a>>,
    progress: &Progress,
) -> Option<VerifiedFile> {
    let (to_blobs, of_blobs) = sync_channel::<Piece>(PIECES);
    let (to_sum, of_sum) = sync_channel::<Piece>(PIECES);
    let (free, buffers) = sync_channel::<Vec<u8>>(PIECES);
    for _ in 0..PIECES {
        let _ = free.send(vec![0; PIECE]);
    }
    let sum = std::thread::scope(|scope| {
        let (back, and_back) = (free.clone(), free.clone());
        scope.spawn(move || hash_blobs(jobs, &of_blobs, &back, outcome));
        let sum = scope.spawn(move || sum_up(&of_sum, &and_back, progress));
        read_pieces(source, (to_blobs, to_sum), &free, &buffers);
        sum.join().ok().flatten()
    });
    Some(VerifiedFile {
        path: source.label().to_owned(),
        bytes: source.length(),
        sha256: sum?.hex(),
    })
}

/// Reads a file and passes each piece to both hashing threads.
/// Dropping the senders tells both that the file has ended.
#[allow(clippy::needless_pass_by_value, reason = "the other threads wait for the drop")]
fn read_pieces(
    source: &Source,
    (to_blobs, to_sum): (SyncSender<Piece>, SyncSender<Piece>),
    free: &SyncSender<Vec<u8>>,
    buffers: &Receiver<Vec<u8>>,
) {
    let mut salvage = Salvage::default();
    let mut offset = 0;
    while offset < source.length() {
        let Ok(mut buffer) = buffers.recv() else { return };
        let left = usize::try_from(source.length() - offset).unwrap_or(usize::MAX);
        // A bad sector must spoil only the blobs in it, so it is a piece of its own.
        let (bytes, length) = match salvage.read(source, offset, &mut buffer[..left.min(PIECE)]) {
            Ok(Part::Read(length)) => (Ok(Arc::new(buffer)), length),
            Ok(Part::Unreadable(length, error)) => {
                give_back(free, buffer);
                (Err(error), usize::try_from(length).unwrap_or(usize::MAX).min(left))
            }
            Err(error) => {
                give_back(free, buffer);
                (Err(error), left.min(PIECE))
            }
        };
        let piece = Piece { offset, bytes, length };
        // This thread keeps no handle to the buffer: the last hashing thread to drop its handle returns the buffer.
        if to_blobs.send(piece.clone()).is_err() || to_sum.send(piece).is_err() {
            return;
        }
        offset += length as u64;
    }
}

/// Hashes a whole file; returns `None` if any part cannot be read.
fn sum_up(pieces: &Receiver<Piece>, free: &SyncSender<Vec<u8>>, progress: &Progress) -> Option<Digest> {
    let mut hasher = Some(Hasher::new(Algorithm::Sha256));
    for Piece { bytes, length, .. } in pieces {
        match bytes {
            Ok(bytes) => {
                if let Some(hasher) = &mut hasher {
                    hasher.update(&bytes[..length]);
                }
                if let Some(buffer) = Arc::into_inner(bytes) {
                    give_back(free, buffer);
                }
            }
            Err(_) => hasher = None,
        }
        progress.emit(Event::Bytes(i64::try_from(length).unwrap_or(0)));
    }
    hasher.map(Hasher::finish)
}

/// Returns a buffer to the reader; the channel has room for all buffers.
fn give_back(free: &SyncSender<Vec<u8>>, buffer: Vec<u8>) {
    let _ = free.try_send(buffer);
}

/// A blob that is being hashed.
struct Active<'a> {
    job: Job<'a>,
    hasher: Hasher,
    done: u64,
    fault: Option<Error>,
}

/// Hashes the blobs of a file as its pieces arrive.
fn hash_blobs<'a>(
    jobs: Vec<Job<'a>>,
    pieces: &Receiver<Piece>,
    free: &SyncSender<Vec<u8>>,
    outcome: &Mutex<Findings<'a>>,
) {
    let mut waiting = jobs.into_iter().peekable();
    // Usually one blob; more only if several members of an archive share the same bytes.
    let mut active: Vec<Active<'a>> = Vec::new();
    let begin = |job: Job<'a>| Active {
        hasher: job.digest.hasher(),
        job,
        done: 0,
        fault: None,
    };
    let finish = |active: Active<'a>| {
        let result = match active.fault {
            Some(error) => Err(error),
            None => Ok(active.hasher.finish()),
        };
        Findings::done(outcome, &active.job, result);
    };
    for Piece { offset, bytes, length } in pieces {
        let end = offset + length as u64;
        while let Some(job) = waiting.next_if(|job| job.place.offset < end) {
            active.push(begin(job));
        }
        for blob in &mut active {
            let from = blob.job.place.offset + blob.done;
            let left = blob.job.place.size - blob.done;
            let count = (end - from).min(left);
            match &bytes {
                Ok(bytes) => {
                    let start = usize::try_from(from - offset).unwrap_or(length);
                    let count = usize::try_from(count).unwrap_or(0);
                    blob.hasher.update(&bytes[start..start + count]);
                }
                Err(error) => drop(blob.fault.get_or_insert_with(|| error.clone())),
            }
            blob.done += count;
        }
        let is_done = |blob: &mut Active<'_>| blob.done == blob.job.place.size;
        active.extract_if(.., is_done).for_each(&finish);
        if let Some(buffer) = bytes.ok().and_then(Arc::into_inner) {
            give_back(free, buffer);
        }
    }
    // Empty blobs at the end of a file, and blobs beyond the end of a truncated file.
    active.into_iter().chain(waiting.map(begin)).for_each(|mut blob| {
        if blob.done < blob.job.place.size {
            let short = Error::internal("the file was not read to its end");
            blob.fault.get_or_insert(short);
        }
        finish(blob);
    });
}

/// Reads blobs in files of their own in parallel.
fn read_single<'a>(jobs: Vec<Job<'a>>, outcome: &Mutex<Findings<'a>>, progress: &Progress) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = threads.min(MAX_THREADS).min(jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = vec![0; PIECE];
                loop {
                    let job = jobs.lock().next();
                    let Some(job) = job else { return };
                    let result = read_one(&job, &mut buffer, progress);
                    Findings::done(outcome, &job, result);
                }
            });
        }
    });
}

fn read_one(job: &Job<'_>, buffer: &mut [u8], progress: &Progress) -> Result<Digest> {
    let mut hasher = job.digest.hasher();
    let mut offset = 0;
    while offset < job.place.size {
        let got = job.place.read_at(offset, buffer)?;
        hasher.update(&buffer[..got]);
        offset += got as u64;
        progress.emit(Event::Bytes(i64::try_from(got).unwrap_or(0)));
    }
    Ok(hasher.finish())
}

/// Reads the rest of a pipe, after the front that the bundle holds.
pub(super) fn read_pipe(bundle: &Bundle, mut rest: Incoming, progress: &Progress) -> Result<Hashed> {
    let mut hashed = read_all(places(bundle), progress);
    match read_blobs(&mut rest, &mut hashed, progress) {
        // Everything that came before is checked all the same.
        Err(error) if matches!(error.kind(), Kind::Malformed | Kind::Integrity) => hashed.cut_off = Some(error),
        other => other?,
    }
    hashed.warnings = rest.warnings();
    hashed.tar_faults = (rest.label().to_owned(), rest.take_faults());
    hashed.files.extend(rest.sum());
    Ok(hashed)
}

/// Reads the blobs that follow in a pipe.
fn read_blobs(rest: &mut Incoming, hashed: &mut Hashed, progress: &Progress) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    while let Some(blob) = rest.next_blob()? {
        progress.emit(Event::Grown {
            blobs: 1,
            bytes: blob.size,
        });
        let mut hasher = blob.digest.hasher();
        loop {
            match rest.read(&mut buffer)? {
                0 => break,
                got => {
                    hasher.update(&buffer[..got]);
                    progress.emit(Event::Bytes(i64::try_from(got).unwrap_or(0)));
                }
            }
        }
        hashed.checked.members += 1;
        hashed.checked.blobs += 1;
        hashed.checked.bytes += blob.size;
        let found = hasher.finish();
        if found != blob.digest {
            hashed.wrong.add(Wrong {
                digest: blob.digest.clone(),
                file: rest.label().to_owned(),
                member: Some((blob_path(&blob.digest), blob.offset)),
                size: blob.size,
                what: Mismatch::Other(found),
            });
        }
        hashed.arrived.insert(blob.digest, blob.size);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_sector_spoils_only_the_blobs_in_it() {
        let bytes = vec![7; 3 << 20];
        for bad in [0, 8192, (1 << 20) - 4096, 1 << 20, (3 << 20) - 4096] {
            let mut source = Source::memory("a.tar", bytes.clone());
            source.bad_sectors = bad..bad + 4096;
            let source = Arc::new(source);
            let digest = Digest::sha256(&bytes[..4096]);
            let place = |number: u64| Extent {
                source: source.clone(),
                member: None,
                offset: number * 4096,
                size: 4096,
            };
            let places: Vec<Extent> = (0..bytes.len() as u64 / 4096).map(place).collect();
            let digest = &digest;
            let jobs = places.iter().map(|place| Job { digest, place }).collect();
            let findings = Mutex::new(Findings::default());
            assert!(read_file(&source, jobs, &findings, &Progress::default()).is_none());
            let wrong = findings.into_inner().wrong;
            let offsets: Vec<u64> = wrong
                .first
                .iter()
                .map(|wrong| wrong.member.as_ref().unwrap().1)
                .collect();
            assert_eq!(offsets, [bad]);
        }
    }
}
