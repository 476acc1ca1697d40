//! SHA-256 of the whole file, computed while the file is filled.
//!
//! Blobs are written in any order, and the checksum needs the order of the file. So a thread follows the written blobs in
//! that order, and reads them back while they are in the page cache. Once the last blob is written, little is left to read.
//! The thread has the lowest priority and only takes time that nothing else needs. If the transfer left it too little time,
//! there is no checksum, unless the user requested one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, PoisonError};

use tokio::sync::oneshot;

use crate::bundle::partial::Partial;
use crate::bundle::plan::{Plan, TRAILER};
use crate::error::Result;
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::lock::Mutex;

/// Maximum number of bytes read at a time.
const PIECE: usize = 1 << 20;

/// Maximum number of bytes left to read for a checksum that was not requested.
/// Reading them takes a few hundredths of a second.
const TAIL: u64 = 64 << 20;

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
}

#[derive(Debug, Default)]
struct State {
    /// Whether each blob is complete, by the number of its slot.
    complete: Vec<bool>,
    /// Number of the slot that the thread is hashing.
    at: usize,
    /// Number of bytes of that slot written from its start without a gap.
    written: u64,
    /// Whether no more bytes will be written.
    ended: bool,
    /// Whether there will be no checksum. No caller waits for the checksum then, or hashed bytes changed.
    given_up: bool,
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
        self.end(true);
    }

    /// Ends the waiting of the thread. With `give_up`, there will be no checksum.
    fn end(&self, give_up: bool) {
        let mut state = self.state.lock();
        state.ended = true;
        state.given_up |= give_up;
        self.changed.notify_all();
    }

    /// Waits until more than `taken` bytes of a blob are written, and returns their number.
    /// A complete blob has `size` written bytes. Returns `None` if no more bytes will be written.
    fn wait_for(&self, number: usize, taken: u64, size: u64) -> Option<u64> {
        let mut state = self.state.lock();
        if state.at != number {
            (state.at, state.written) = (number, 0);
        }
        let is_idle = |state: &mut State| {
            let has_more = state.complete[number] || state.written > taken;
            !has_more && !state.ended && !state.given_up
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
    result: oneshot::Receiver<Option<Digest>>,
    total: u64,
}

impl WholeSum {
    /// Starts the thread while blobs are being written. The front of the file must already be written.
    pub(super) fn start(partial: Arc<Partial>, plan: Arc<Plan>) -> Self {
        Self::new(partial, plan, false)
    }

    /// Computes the checksum of a complete file.
    pub(super) async fn from_complete(partial: Arc<Partial>, plan: Arc<Plan>) -> Option<Digest> {
        Self::new(partial, plan, true).finish(true).await
    }

    fn new(partial: Arc<Partial>, plan: Arc<Plan>, complete: bool) -> Self {
        let in_place = Arc::new(InPlace::default());
        in_place.state.lock().complete = vec![complete; plan.blobs().len()];
        let (send, result) = oneshot::channel();
        let (known, total) = (in_place.clone(), plan.total());
        let work = move || {
            let _ = rustix::process::nice(LOWEST);
            let _ = send.send(sum(&partial, &plan, &known).ok().flatten());
        };
        // A dedicated thread, since its priority cannot be raised again. If it cannot be started, `send` is dropped, and
        // there is no checksum.
        let _ = std::thread::Builder::new().name("sum".to_owned()).spawn(work);
        Self {
            in_place,
            result,
            total,
        }
    }

    /// Returns the checksum if every blob is written.
    /// Without `required`, returns it only if at most `TAIL` bytes are left to read.
    pub(super) async fn finish(mut self, required: bool) -> Option<Digest> {
        let left = self.total.saturating_sub(self.in_place.summed.load(Ordering::Relaxed));
        self.in_place.end(!required && left > TAIL);
        (&mut self.result).await.ok().flatten()
    }
}

impl Drop for WholeSum {
    fn drop(&mut self) {
        self.in_place.end(true);
    }
}

/// Hashes the file in order while it is written. Returns `None` if the checksum was given up.
fn sum(partial: &Partial, plan: &Plan, in_place: &InPlace) -> Result<Option<Digest>> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; PIECE];
    let mut read = |hasher: &mut Hasher, from: u64, to: u64| -> Result<bool> {
        let mut at = from;
        while at < to && !in_place.is_given_up() {
            let want = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            let got = partial.read_at(&mut buffer[..want], at)?;
            // Bytes at the end of the file that are not written yet read as zeros later.
            buffer[got..want].fill(0);
            hasher.update(&buffer[..want]);
            at += want as u64;
            in_place.summed.store(at, Ordering::Relaxed);
        }
        Ok(at >= to)
    };
    if !read(&mut hasher, 0, plan.front_len())? {
        return Ok(None);
    }
    let zeros = [0; 1024];
    let zeros = |count: u64| &zeros[..usize::try_from(count).unwrap_or(0)];
    for (number, slot) in plan.blobs().iter().enumerate() {
        // Header and padding are written once the blob is complete, so they are hashed from the plan and not read.
        hasher.update(&slot.header()?);
        let mut taken = 0;
        loop {
            let Some(there) = in_place.wait_for(number, taken, slot.blob.size) else {
                return Ok(None);
            };
            if !read(&mut hasher, slot.offset + taken, slot.offset + there)? {
                return Ok(None);
            }
            taken = there;
            // All bytes may be written before their digest is checked, so the loop also waits for the complete blob.
            if taken >= slot.blob.size && in_place.wait_for(number, u64::MAX, slot.blob.size).is_some() {
                break;
            }
        }
        hasher.update(zeros(slot.padding()));
    }
    hasher.update(zeros(TRAILER));
    Ok((!in_place.is_given_up()).then(|| hasher.finish()))
}
