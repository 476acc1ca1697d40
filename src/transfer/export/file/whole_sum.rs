//! The sum of the whole file, computed while it is filled. Blobs are written in any order and the sum needs the order of the file:
//! a thread follows the blobs that are in place from the first on, and reads them back while they are in the page cache. Once the
//! last blob is there, little is left to read. The thread has the lowest priority: it takes time that nothing else needs. Where
//! the transfer left none, there is no sum, unless it was asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, PoisonError};

use tokio::sync::oneshot;

use crate::bundle::partial::Partial;
use crate::bundle::plan::{Plan, TRAILER};
use crate::error::Result;
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::lock::Mutex;

/// Number of bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// Number of bytes that may be left to read at the end for a sum that was not asked for: a few hundredths of a second.
const TAIL: u64 = 64 << 20;

/// The lowest priority of a thread (nice(2)).
const LOWEST: i32 = 19;

/// How much of the file is in place.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    state: Mutex<State>,
    /// How many bytes of the file are in the sum.
    summed: AtomicU64,
    /// Notified when the thread may find more, or will find no more.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By the number of the blob in the plan.
    complete: Vec<bool>,
    /// The blob that the thread is at.
    at: usize,
    /// How many of the first bytes of that blob are written.
    written: u64,
    /// Whether no more comes into place.
    ended: bool,
    /// Whether there will be no sum: nobody waits for it, or bytes changed that were taken.
    given_up: bool,
}

impl InPlace {
    /// Notes that a blob is in place for good.
    pub(super) fn complete(&self, number: usize) {
        if let Some(complete) = self.state.lock().complete.get_mut(number) {
            *complete = true;
        }
        self.changed.notify_all();
    }

    /// Notes that so many of the first bytes of a blob are written.
    pub(super) fn advance(&self, number: usize, written: u64) {
        let mut state = self.state.lock();
        if state.at == number && written > state.written {
            state.written = written;
            self.changed.notify_all();
        }
    }

    /// Notes that the bytes of a blob are wrong, and will be written again: the thread may have taken some.
    pub(super) fn discard(&self) {
        self.end(true);
    }

    fn end(&self, give_up: bool) {
        let mut state = self.state.lock();
        state.ended = true;
        state.given_up |= give_up;
        self.changed.notify_all();
    }

    /// Waits until more than `taken` bytes of a blob are written, and returns how many; all of them once it is complete. `None`
    /// if that will not be.
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

/// The thread that computes the sum.
#[derive(Debug)]
pub(super) struct WholeSum {
    pub(super) in_place: Arc<InPlace>,
    result: oneshot::Receiver<Option<Digest>>,
    total: u64,
}

impl WholeSum {
    /// Starts with the front of the file, which has to be in place.
    pub(super) fn start(partial: Arc<Partial>, plan: Arc<Plan>) -> Self {
        Self::new(partial, plan, false)
    }

    /// The sum of a file in which everything is in place.
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
        // A thread of its own, since its priority stays. Where there can be none, the result is dropped, and there is no sum.
        let _ = std::thread::Builder::new().name("sum".to_owned()).spawn(work);
        Self {
            in_place,
            result,
            total,
        }
    }

    /// The sum, if every blob is in place; without `required`, only if little is left to read for it.
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

fn sum(partial: &Partial, plan: &Plan, in_place: &InPlace) -> Result<Option<Digest>> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; PIECE];
    let mut read = |hasher: &mut Hasher, from: u64, to: u64| -> Result<bool> {
        let mut at = from;
        while at < to && !in_place.is_given_up() {
            let want = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            let got = partial.read_at(&mut buffer[..want], at)?;
            // What was not written at the end of a file reads as zeros later.
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
        // Header and padding are written once the blob is complete.
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
            if taken >= slot.blob.size && in_place.wait_for(number, u64::MAX, slot.blob.size).is_some() {
                break;
            }
        }
        hasher.update(zeros(slot.padding()));
    }
    hasher.update(zeros(TRAILER));
    Ok((!in_place.is_given_up()).then(|| hasher.finish()))
}
