//! SHA-256 of the whole file, computed while the file is filled.
//!
//! Blobs are written in any order, and the checksum needs the order of the file. So a thread follows the written blobs in
//! that order, and reads them back while they are in the page cache. Once the last blob is written, little is left to read.
//! The thread has the lowest priority and only takes time that nothing else needs. Nothing ever waits for the thread, which
//! on a busy machine may not run for long: the rest is hashed by another thread, from the last state of the hash that this one
//! left. If the transfer left it too little time, there is no checksum, unless the user requested one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, PoisonError};

use crate::bundle::partial::Partial;
use crate::bundle::plan::{Plan, TRAILER};
use crate::error::Result;
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::lock::Mutex;
use crate::transfer::blocking::blocking;

/// Maximum number of bytes read at a time.
const PIECE: usize = 256 << 10;

/// Maximum number of bytes left to read for a checksum that was not requested.
/// Reading them takes a few hundredths of a second.
pub(super) const TAIL: u64 = 64 << 20;

/// The lowest priority of a thread (nice(2)).
const LOWEST: i32 = 19;

/// Progress of the writing workers, for the thread that computes the checksum.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    state: Mutex<State>,
    /// Number of bytes of the file that are hashed.
    summed: AtomicU64,
    /// Notified when more bytes may be available to hash, or none will be.
    changed: Condvar,
    /// The last state of the hash.
    point: Mutex<Point>,
}

/// State of the hash between two blobs, or within a blob.
#[derive(Clone)]
struct Point {
    hasher: Hasher,
    /// Number of hashed bytes of the front.
    front: u64,
    /// Number of the slot that is hashed next.
    number: usize,
    /// Number of hashed bytes of the slot's blob. At 0 the header of the slot is not hashed either.
    taken: u64,
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Point({}, {}, {})", self.front, self.number, self.taken)
    }
}

impl Default for Point {
    fn default() -> Self {
        Self {
            hasher: Hasher::new(Algorithm::Sha256),
            front: 0,
            number: 0,
            taken: 0,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Whether each blob is complete, by the number of its slot.
    complete: Vec<bool>,
    /// Number of the slot that the thread is hashing.
    at: usize,
    /// Number of bytes of that slot written from its start without a gap.
    written: u64,
    /// Whether the thread is to end.
    given_up: bool,
    /// Whether hashed bytes changed, so that there will be no checksum.
    discarded: bool,
}

impl InPlace {
    /// Records that a blob is complete and verified.
    pub(super) fn complete(&self, number: usize) {
        if let Some(complete) = self.state.lock().complete.get_mut(number) {
            *complete = true;
        }
        self.changed.notify_all();
    }

    /// Records the number of bytes of a blob that are written from its start.
    pub(super) fn advance(&self, number: usize, written: u64) {
        let mut state = self.state.lock();
        if state.at == number && written > state.written {
            state.written = written;
            self.changed.notify_all();
        }
    }

    /// Records that the bytes of a blob are wrong and will be written again.
    /// The thread may have hashed some of them, so there will be no checksum.
    pub(super) fn discard(&self) {
        self.state.lock().discarded = true;
        self.end();
    }

    /// Ends the thread.
    fn end(&self) {
        self.state.lock().given_up = true;
        self.changed.notify_all();
    }

    /// Returns whether the checksum of the file can be computed from the last state of the hash.
    fn is_whole(&self) -> bool {
        let state = self.state.lock();
        !state.discarded && state.complete.iter().all(|complete| *complete)
    }

    /// Waits until more than `taken` bytes of a blob are written, and returns their number.
    /// A complete blob has `size` written bytes. Returns `None` if the thread is to end.
    fn wait_for(&self, number: usize, taken: u64, size: u64) -> Option<u64> {
        let mut state = self.state.lock();
        if state.at != number {
            (state.at, state.written) = (number, 0);
        }
        let is_idle = |state: &mut State| {
            let has_more = state.complete[number] || state.written > taken;
            !has_more && !state.given_up
        };
        let waited = self.changed.wait_while(state, is_idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        let found = match state.complete[number] {
            true => Some(size),
            false => Some(state.written).filter(|written| *written > taken),
        };
        found.filter(|_| !state.given_up)
    }

    fn is_given_up(&self) -> bool {
        self.state.lock().given_up
    }
}

/// Handle of the thread that computes the checksum.
#[derive(Debug)]
pub(super) struct WholeSum {
    pub(super) in_place: Arc<InPlace>,
    partial: Arc<Partial>,
    plan: Arc<Plan>,
}

impl WholeSum {
    /// Starts the thread while blobs are being written. The front of the file must already be written.
    pub(super) fn start(partial: Arc<Partial>, plan: Arc<Plan>) -> Self {
        let this = Self::new(partial, plan, false);
        let (partial, plan, known) = (this.partial.clone(), this.plan.clone(), this.in_place.clone());
        let work = move || {
            let _ = rustix::process::nice(LOWEST);
            let _ = sum(&partial, &plan, &known, Point::default());
        };
        // A dedicated thread, since its priority cannot be raised again. If it cannot be started, everything is hashed at the
        // end.
        let _ = std::thread::Builder::new().name("sum".to_owned()).spawn(work);
        this
    }

    /// Computes the checksum of a complete file.
    pub(super) async fn from_complete(partial: Arc<Partial>, plan: Arc<Plan>) -> Option<Digest> {
        Self::new(partial, plan, true).finish(true).await
    }

    fn new(partial: Arc<Partial>, plan: Arc<Plan>, complete: bool) -> Self {
        let in_place = Arc::new(InPlace::default());
        in_place.state.lock().complete = vec![complete; plan.blobs().len()];
        Self {
            in_place,
            partial,
            plan,
        }
    }

    /// Returns the checksum if every blob is written.
    /// Without `required`, returns it only if at most `TAIL` bytes are left to read.
    pub(super) async fn finish(self, required: bool) -> Option<Digest> {
        self.in_place.end();
        let left = self
            .plan
            .total()
            .saturating_sub(self.in_place.summed.load(Ordering::Relaxed));
        if !self.in_place.is_whole() || (!required && left > TAIL) {
            return None;
        }
        let (partial, plan) = (self.partial.clone(), self.plan.clone());
        let point = self.in_place.point.lock().clone();
        let rest = InPlace::default();
        rest.state.lock().complete = vec![true; plan.blobs().len()];
        let sum = blocking(move || sum(&partial, &plan, &rest, point).ok().flatten());
        sum.await.ok().flatten()
    }
}

impl Drop for WholeSum {
    fn drop(&mut self) {
        self.in_place.end();
    }
}

/// Hashes the rest of the file from `point` on in order, while the file is written. Returns `None` if the thread is to end.
fn sum(partial: &Partial, plan: &Plan, in_place: &InPlace, mut point: Point) -> Result<Option<Digest>> {
    let mut buffer = vec![0; PIECE];
    let mut read = |point: &mut Point, at: u64, end: u64| -> Result<Option<u64>> {
        if in_place.is_given_up() {
            return Ok(None);
        }
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let got = partial.read_at(&mut buffer[..want], at)?;
        // Bytes at the end of the file that are not written yet read as zeros later.
        buffer[got..want].fill(0);
        point.hasher.update(&buffer[..want]);
        Ok(Some(want as u64))
    };
    let publish = |point: &Point, at: u64| {
        *in_place.point.lock() = point.clone();
        in_place.summed.store(at, Ordering::Relaxed);
    };
    while point.front < plan.front_len() {
        let at = point.front;
        let Some(count) = read(&mut point, at, plan.front_len())? else {
            return Ok(None);
        };
        point.front += count;
        publish(&point, point.front);
    }
    let zeros = [0; 1024];
    let zeros = |count: u64| &zeros[..usize::try_from(count).unwrap_or(0)];
    while let Some(slot) = plan.blobs().get(point.number) {
        // Header and padding are written once the blob is complete, so they are hashed from the plan and not read.
        if point.taken == 0 {
            point.hasher.update(&slot.header()?);
        }
        loop {
            let Some(there) = in_place.wait_for(point.number, point.taken, slot.blob.size) else {
                return Ok(None);
            };
            while point.taken < there {
                let taken = point.taken;
                let Some(count) = read(&mut point, slot.offset + taken, slot.offset + there)? else {
                    return Ok(None);
                };
                point.taken += count;
                publish(&point, slot.offset + point.taken);
            }
            // All bytes may be written before their digest is checked, so the loop also waits for the complete blob.
            if point.taken >= slot.blob.size {
                if in_place.wait_for(point.number, u64::MAX, slot.blob.size).is_none() {
                    return Ok(None);
                }
                break;
            }
        }
        point.hasher.update(zeros(slot.padding()));
        (point.number, point.taken) = (point.number + 1, 0);
        publish(&point, slot.offset + slot.blob.size);
    }
    point.hasher.update(zeros(TRAILER));
    Ok((!in_place.is_given_up()).then(|| point.hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::descriptor::Descriptor;

    const BLOBS: [&[u8]; 4] = [b"", b"one", &[7; 3000], &[1; 512]];

    /// Returns a plan of blobs, its complete file, and the checksum of the file.
    fn file() -> (tempfile::TempDir, Arc<Partial>, Arc<Plan>, Digest) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = BLOBS.map(|blob| Descriptor::from_content("text/plain", blob));
        let plan = Plan::from_blobs(blobs.to_vec()).unwrap();
        let mut bytes: Vec<u8> = plan.front().flat_map(|part| part.unwrap().to_vec()).collect();
        for slot in plan.blobs() {
            bytes.extend(slot.header().unwrap());
            let blob = BLOBS.into_iter().find(|blob| slot.blob.digest == Digest::sha256(blob));
            bytes.extend(blob.unwrap());
            bytes.resize(bytes.len() + slot.padding() as usize, 0);
        }
        bytes.resize(bytes.len() + TRAILER as usize, 0);
        let partial = Partial::open(&folder.path().join("b.tar")).unwrap();
        partial.write_at(&bytes, 0).unwrap();
        (folder, Arc::new(partial), Arc::new(plan), Digest::sha256(&bytes))
    }

    #[tokio::test]
    async fn nothing_waits_for_a_thread_that_the_machine_left_no_time() {
        // The thread does not run, or only up to one of the blobs.
        for reached in [None, Some(0), Some(1), Some(2), Some(3)] {
            for required in [false, true] {
                let (_folder, partial, plan, expected) = file();
                let whole = WholeSum::new(partial.clone(), plan.clone(), false);
                let in_place = whole.in_place.clone();
                if let Some(reached) = reached {
                    (0..reached).for_each(|number| in_place.complete(number));
                    let known = in_place.clone();
                    std::thread::spawn(move || sum(&partial, &plan, &known, Point::default()));
                    while in_place.point.lock().number < reached {
                        std::thread::yield_now();
                    }
                }
                (0..BLOBS.len()).for_each(|number| in_place.complete(number));
                assert_eq!(whole.finish(required).await, Some(expected), "{reached:?}");
            }
        }
        let (_folder, partial, plan, expected) = file();
        assert_eq!(WholeSum::from_complete(partial, plan).await, Some(expected));
    }

    #[tokio::test]
    async fn a_file_that_lacks_a_blob_or_whose_hashed_bytes_changed_has_no_checksum() {
        for discards in [false, true] {
            let (_folder, partial, plan, _) = file();
            let whole = WholeSum::start(partial, plan);
            (1..BLOBS.len()).for_each(|number| whole.in_place.complete(number));
            if discards {
                whole.in_place.discard();
                whole.in_place.complete(0);
            }
            assert_eq!(whole.finish(true).await, None);
        }
    }
}
