//! State of one blob while its slot is filled: assigned parts, written ranges, and hashing progress.
//!
//! A blob is hashed from front to back.
//! A large blob is fetched in parts, one after the other, by the worker that opened the blob, which hashes the bytes while
//! writing them. Idle workers take parts of the blob as well; the worker that holds the hasher then hashes these parts by
//! reading them back while they are still in the page cache.

use std::ops::Range;

use crate::bundle::plan;
use crate::bundle::ranges::Ranges;
use crate::image::digest::{Digest, Hasher};
use crate::lock::Mutex;
use crate::registry::WithoutRange;

/// Maximum size in bytes of a part of a blob that another connection may fetch.
/// A part is large enough that one more request does not matter, and small enough to stay in the page cache until it is
/// hashed.
const PART: u64 = 32 << 20;

/// Minimum size in bytes of the parts near the end of a large blob.
/// Parts get smaller there so that all connections end together.
const LEAST_PART: u64 = 4 << 20;

/// Maximum number of written bytes of a part before they are recorded in the journal.
const JOURNAL_STEP: u64 = 1 << 20;

/// Maximum number of bytes of a blob that are written and not yet in the journal.
/// Several connections may write to one blob, and a kill must lose less than 8 MiB of each blob.
const MAX_AHEAD: u64 = 6 << 20;

/// A slot of the plan, with the state of its blob.
#[derive(Debug)]
pub(super) struct Slot {
    /// Number of the slot in the plan.
    pub(super) number: usize,
    /// Offsets of the slot, and descriptor of its blob.
    pub(super) place: plan::BlobSlot,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Written ranges, hashed or not.
    written: Ranges,
    /// Number of hashed bytes, counted from the start of the blob.
    hashed: u64,
    /// The hasher, or `None` while a worker uses it.
    hasher: Option<Hasher>,
    /// Ranges without a worker; the next part to assign is the front of the last element.
    pending: Vec<Range<u64>>,
    /// Parts assigned to workers.
    active: Vec<Active>,
    /// Whether the registry has refused range requests.
    ranges_refused: bool,
    /// Whether bytes of a part behind the start of the blob have arrived, so that the registry serves ranges.
    ranges_served: bool,
    /// Whether bytes may come from an earlier run or another bundle.
    /// A wrong digest is then not the registry's fault.
    inherited: bool,
    /// Number of times that the whole blob was fetched with a wrong digest.
    wrong: usize,
    /// Whether the blob was given up.
    failed: bool,
    /// Position of the earlier bundle that has the blob, until a worker takes it.
    earlier: Option<usize>,
    /// Number of bytes copied from the earlier bundle.
    reused: u64,
    size: u64,
}

/// A part assigned to a worker.
#[derive(Debug, Clone, Copy)]
struct Active {
    start: u64,
    /// Offset in the blob up to which the worker has written.
    at: u64,
    end: u64,
    /// Number of the assignment.
    id: u64,
}

/// Result of checking the digest of a slot after all bytes are hashed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The blob is whole; `reused` of its bytes come from an earlier bundle.
    Whole { reused: u64 },
    /// Bytes from an earlier run or an earlier bundle are wrong; the slot starts again.
    /// `from_bundle` says whether an earlier bundle had them.
    WrongBefore { from_bundle: bool },
    /// The registry sent wrong bytes, which hash to `found`. If `again` is set, the slot starts again.
    WrongFetched { found: Digest, again: bool },
}

impl Slot {
    /// Returns a slot with the `written` ranges present.
    /// `earlier` is the position of the earlier bundle that has the blob.
    pub(super) fn new(number: usize, place: plan::BlobSlot, written: Ranges, earlier: Option<usize>) -> Self {
        let size = place.blob.size;
        let absent = written.gaps(size);
        let earlier = earlier.filter(|_| !absent.is_empty());
        let inherited = !written.is_empty() || earlier.is_some();
        let pending = match (earlier, absent.first()) {
            // One worker copies all gaps, so no other worker may fetch a part meanwhile.
            (Some(_), Some(first)) => vec![first.start..size],
            _ => work_on(absent, size),
        };
        let hasher = Some(place.blob.digest.hasher());
        Self {
            number,
            place,
            state: Mutex::new(State {
                written,
                hashed: 0,
                hasher,
                pending,
                active: Vec::new(),
                ranges_refused: false,
                ranges_served: false,
                inherited,
                wrong: 0,
                failed: false,
                earlier,
                reused: 0,
                size,
            }),
        }
    }

    /// Returns the size of the blob in bytes.
    pub(super) fn size(&self) -> u64 {
        self.place.blob.size
    }

    /// Assigns the first part without a worker, unless it starts behind `limit`, an offset in the file.
    /// An empty part is always assigned, since nothing is written for it.
    pub(super) fn assign(&self, id: u64, limit: u64) -> Option<Range<u64>> {
        let mut state = self.state.lock();
        let offset = self.place.offset;
        let part = state
            .pending
            .pop_if(|part| part.is_empty() || offset.saturating_add(part.start) <= limit)?;
        let part = state.cut(part);
        state.active.push(Active {
            start: part.start,
            at: part.start,
            end: part.end,
            id,
        });
        Some(part)
    }

    /// Returns the number of assigned parts with first bytes, and the number of assigned parts without.
    pub(super) fn begun_and_waiting(&self) -> (usize, usize) {
        let state = self.state.lock();
        let begun = state.active.iter().filter(|a| a.at > a.start).count();
        (begun, state.active.len() - begun)
    }

    /// Returns the number of bytes of a part after which the journal records them.
    /// With this step, all workers of the blob together are at most [`MAX_AHEAD`] bytes ahead of the journal.
    pub(super) fn journal_step(&self) -> u64 {
        let workers = self.state.lock().active.len().max(1) as u64;
        (MAX_AHEAD / workers).min(JOURNAL_STEP)
    }

    /// Sets the offset up to which the worker of an assignment has written.
    pub(super) fn advance(&self, id: u64, at: u64) {
        let state = &mut *self.state.lock();
        if let Some(active) = state.active.iter_mut().find(|a| a.id == id) {
            active.at = at;
            state.ranges_served |= active.start > 0;
        }
    }

    /// Returns the end of an assigned part, or `None` once the blob was given up.
    pub(super) fn end_of(&self, id: u64) -> Option<u64> {
        self.state.lock().active.iter().find(|a| a.id == id).map(|a| a.end)
    }

    /// Ends an assignment. The rest that the worker did not write becomes a part for other workers.
    pub(super) fn release(&self, id: u64) {
        let mut state = self.state.lock();
        let Some(at) = state.active.iter().position(|a| a.id == id) else {
            return;
        };
        let active = state.active.swap_remove(at);
        if active.at < active.end {
            state.pending.push(active.at..active.end);
            // The first part is assigned first, since hashing runs from front to back and the gap before the hashed bytes
            // stays small.
            state.pending.sort_by_key(|part| std::cmp::Reverse(part.start));
            if state.ranges_refused {
                state.join();
            }
        }
    }

    /// Returns the file offset of the first byte that is not written, including bytes being fetched.
    pub(super) fn first_absent(&self) -> Option<u64> {
        let state = self.state.lock();
        let pending = state.pending.iter().map(|part| part.start);
        let first = state.active.iter().map(|a| a.at).chain(pending).min()?;
        Some(self.place.offset + first)
    }

    /// Takes the position of the earlier bundle that has the blob. Later calls return `None`.
    pub(super) fn take_earlier(&self) -> Option<usize> {
        self.state.lock().earlier.take()
    }

    /// Returns the absent ranges of the blob.
    pub(super) fn gaps(&self) -> Vec<Range<u64>> {
        self.state.lock().written.gaps(self.size())
    }

    /// Returns the number of bytes written from the start of the blob without a gap.
    pub(super) fn first_written(&self) -> u64 {
        self.state.lock().written.end_of(0).unwrap_or(0)
    }

    /// Adds a written range.
    pub(super) fn add_written(&self, range: Range<u64>) {
        self.state.lock().written.insert(range);
    }

    /// Records that `length` bytes up to offset `at` were copied from an earlier bundle.
    pub(super) fn add_reused(&self, id: u64, at: u64, length: u64) {
        self.advance(id, at);
        self.state.lock().reused += length;
    }

    /// Cancels an assignment whose earlier bundle cannot be read. The absent ranges become parts to fetch.
    pub(super) fn stop_reusing(&self, id: u64) {
        let mut state = self.state.lock();
        state.active.retain(|a| a.id != id);
        state.pending = work_on(state.written.gaps(state.size), state.size);
    }

    /// Returns the reader's mode for registries without range requests.
    /// Also returns how often the blob had a wrong digest so far.
    pub(super) fn read_mode(&self) -> (WithoutRange, usize) {
        let state = self.state.lock();
        let mode = match state.ranges_refused {
            true => WithoutRange::Skip,
            false => WithoutRange::Refuse,
        };
        (mode, state.wrong)
    }

    /// Records that the registry serves no range requests: later requests skip the written bytes.
    pub(super) fn set_ranges_refused(&self) {
        self.state.lock().ranges_refused = true;
    }

    /// Cancels an assignment whose range request the registry refused.
    /// One worker then reads the blob in order.
    pub(super) fn refuse_range(&self, id: u64) {
        let mut state = self.state.lock();
        state.active.retain(|a| a.id != id);
        state.join();
    }

    /// Lends the hasher to a worker whose part starts at the first byte that is not hashed.
    pub(super) fn lend_hasher(&self, start: u64) -> Option<Hasher> {
        let mut state = self.state.lock();
        if state.hashed == start {
            state.hasher.take()
        } else {
            None
        }
    }

    /// Lends the hasher for written bytes that are not hashed yet, and returns their range.
    /// Returns `None` if there are no such bytes or another worker holds the hasher.
    pub(super) fn lend_hasher_for_written(&self) -> Option<(Hasher, Range<u64>)> {
        let mut state = self.state.lock();
        let end = state.written.end_of(state.hashed)?;
        Some((state.hasher.take()?, state.hashed..end))
    }

    /// Takes the hasher back after it has hashed all bytes before `hashed`.
    pub(super) fn return_hasher(&self, hasher: Hasher, hashed: u64) {
        let mut state = self.state.lock();
        state.hasher = Some(hasher);
        state.hashed = hashed;
    }

    /// Checks the digest once all bytes are hashed and no part is left; returns `None` before that.
    /// Wrong bytes of a registry are fetched again until the blob had a wrong digest `max_wrong` times.
    pub(super) fn verdict(&self, max_wrong: usize) -> Option<Verdict> {
        let mut state = self.state.lock();
        if !state.pending.is_empty() || !state.active.is_empty() || state.hashed < state.size || state.failed {
            return None;
        }
        let found = state.hasher.take()?.finish();
        let digest = &self.place.blob.digest;
        if found == *digest {
            return Some(Verdict::Whole { reused: state.reused });
        }
        // Inherited bytes are not the registry's fault: a wrong digest only counts after all bytes were fetched.
        let verdict = match state.inherited {
            true => Verdict::WrongBefore {
                from_bundle: state.reused > 0,
            },
            false => {
                state.wrong += 1;
                Verdict::WrongFetched {
                    found,
                    again: state.wrong < max_wrong,
                }
            }
        };
        // The digest does not show which byte is wrong, so all bytes are discarded.
        if !matches!(verdict, Verdict::WrongFetched { again: false, .. }) {
            state.reset(digest.hasher());
        }
        Some(verdict)
    }

    /// Gives the blob up. Workers with parts of this blob find their assignments gone, and stop.
    pub(super) fn give_up(&self) {
        let mut state = self.state.lock();
        state.failed = true;
        state.pending.clear();
        state.active.clear();
    }
}

impl State {
    /// Splits a piece off the front of a part that is larger than [`PART`] or a fair share of the remaining bytes.
    fn cut(&mut self, part: Range<u64>) -> Range<u64> {
        let length = part.end - part.start;
        // Smaller blobs are fetched whole, which also works without range requests. An earlier bundle is copied by one
        // worker.
        if self.size < 2 * PART || self.ranges_refused || self.earlier.is_some() {
            return part;
        }
        let left = self
            .pending
            .iter()
            .fold(length, |sum, part| sum + (part.end - part.start));
        // A registry that ignores ranges sends the whole blob to each connection: as long as that may be, parts stay large, and
        // few connections ask.
        let least = if self.ranges_served { LEAST_PART } else { PART };
        let share = (left / (self.active.len() as u64 + 1)).clamp(least, PART);
        // A separate request for a small rest costs more than it saves.
        if share + least > length {
            return part;
        }
        self.pending.push(part.start + share..part.end);
        part.start..part.start + share
    }

    /// Joins the unassigned parts into one part per gap.
    /// One worker then reads in order from a registry without range requests.
    fn join(&mut self) {
        self.ranges_refused = true;
        let mut covered = self.written.clone();
        for active in &self.active {
            covered.insert(active.start..active.end);
        }
        self.pending = covered.gaps(self.size);
        self.pending.reverse();
        if self.pending.is_empty() && self.active.is_empty() {
            self.pending.push(self.size..self.size);
        }
    }

    /// Discards all bytes and starts the slot again.
    fn reset(&mut self, hasher: Hasher) {
        self.written = Ranges::default();
        self.hashed = 0;
        self.hasher = Some(hasher);
        let whole = std::iter::once(0..self.size);
        self.pending = match self.ranges_refused {
            true => whole.collect(),
            false => work_on(whole, self.size),
        };
        self.inherited = false;
        self.reused = 0;
    }
}

/// Returns the gaps to assign until a blob is done, the first one last.
/// The result is never empty: if no byte is absent (all bytes are present, or the blob is empty), one worker must still
/// hash the blob and check its digest.
fn work_on(gaps: impl IntoIterator<Item = Range<u64>>, size: u64) -> Vec<Range<u64>> {
    let mut pending: Vec<_> = gaps.into_iter().filter(|gap| !gap.is_empty()).collect();
    pending.reverse();
    if pending.is_empty() {
        pending.push(size..size);
    }
    pending
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
