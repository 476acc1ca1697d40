//! One blob on its way into its place: who writes which part of it, and how far it is hashed.
//!
//! A blob is hashed from front to back. A large one is fetched in parts, one after the other by the worker that opened it,
//! which hashes what it writes. When connections are idle, other workers take parts of it; then the worker that holds the
//! hasher hashes the parts of other workers, by reading them back while they are still in the page cache.

use std::ops::Range;

use crate::bundle::plan;
use crate::bundle::ranges::Ranges;
use crate::image::digest::{Digest, Hasher};
use crate::lock::Mutex;
use crate::registry::WithoutRange;

/// Size in bytes of a part of a blob that is handed to another connection. Large enough that a request more does not matter,
/// small enough that what is hashed later is still in memory.
const PART: u64 = 32 << 20;

/// Minimum size in bytes of the parts near the end of a large blob, which get smaller so that all connections end together.
const LEAST_PART: u64 = 8 << 20;

/// Maximum number of bytes of a part after which the journal learns of them.
const JOURNAL_STEP: u64 = 1 << 20;

/// Maximum number of bytes of a blob that are written and not in the journal. Several connections may be at work on the blob, and a
/// kill is to cost less than 8 MiB for each blob.
const MAX_AHEAD: u64 = 6 << 20;

/// One slot of the plan, and its state.
#[derive(Debug)]
pub(super) struct Slot {
    /// Its number in the plan.
    pub(super) number: usize,
    /// Its place in the plan.
    pub(super) place: plan::BlobSlot,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes that are written, hashed or not.
    written: Ranges,
    /// Number of bytes that are hashed: always the first ones.
    hashed: u64,
    /// The hasher, unless a worker is using it.
    hasher: Option<Hasher>,
    /// Parts that no worker has taken.
    pending: Vec<Range<u64>>,
    /// Parts that workers have taken.
    active: Vec<Active>,
    /// Whether the registry has refused to serve parts.
    ranges_refused: bool,
    /// Whether some of the bytes come from an earlier run or another bundle, so that a wrong digest is no registry's fault.
    inherited: bool,
    /// How often the whole blob turned out wrong.
    wrong: usize,
    /// Whether it was given up.
    failed: bool,
    /// The number of the earlier bundle that has it, until it was tried.
    earlier: Option<usize>,
    /// How many of its bytes come from there.
    reused: u64,
    size: u64,
}

/// A part that a worker has taken.
#[derive(Debug, Clone, Copy)]
struct Active {
    start: u64,
    /// How far the worker is.
    at: u64,
    end: u64,
    /// The number of the assignment.
    id: u64,
}

/// What a slot is whose bytes are all hashed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The blob is whole; `reused` of its bytes come from an earlier bundle.
    Whole { reused: u64 },
    /// Bytes that were there already are wrong; the slot begins anew. `from_bundle` says that an earlier bundle had them.
    WrongBefore { from_bundle: bool },
    /// The registry sent other bytes, which hash to `found`. If `again`, the slot begins anew.
    WrongFetched { found: Digest, again: bool },
}

impl Slot {
    /// A slot of which `written` is there; `earlier` says which earlier bundle has the blob.
    pub(super) fn new(number: usize, place: plan::BlobSlot, written: Ranges, earlier: Option<usize>) -> Self {
        let size = place.blob.size;
        let absent = written.gaps(size);
        let earlier = earlier.filter(|_| !absent.is_empty());
        let inherited = !written.is_empty() || earlier.is_some();
        let pending = match (earlier, absent.first()) {
            // One worker copies all of it, so no other one may fetch a part meanwhile.
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
                inherited,
                wrong: 0,
                failed: false,
                earlier,
                reused: 0,
                size,
            }),
        }
    }

    /// The size of the blob in bytes.
    pub(super) fn size(&self) -> u64 {
        self.place.blob.size
    }

    /// Assigns the first part that no worker has, unless it starts behind `limit`, an offset in the file. An empty part is
    /// always assigned: nothing is written for it.
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

    /// How many assigned parts have begun to arrive, and how many have not.
    pub(super) fn begun_and_waiting(&self) -> (usize, usize) {
        let state = self.state.lock();
        let begun = state.active.iter().filter(|a| a.at > a.start).count();
        (begun, state.active.len() - begun)
    }

    /// After how many bytes of a part the journal learns of them, so that all workers of the blob together are not ahead of it by
    /// more than [`MAX_AHEAD`].
    pub(super) fn journal_step(&self) -> u64 {
        let workers = self.state.lock().active.len().max(1) as u64;
        (MAX_AHEAD / workers).min(JOURNAL_STEP)
    }

    /// Notes how far the worker of an assignment is.
    pub(super) fn advance(&self, id: u64, at: u64) {
        if let Some(active) = self.state.lock().active.iter_mut().find(|a| a.id == id) {
            active.at = at;
        }
    }

    /// Where the part of an assignment ends; `None` once the blob was given up.
    pub(super) fn end_of(&self, id: u64) -> Option<u64> {
        self.state.lock().active.iter().find(|a| a.id == id).map(|a| a.end)
    }

    /// Ends an assignment. What the worker did not get to becomes a part that others can take.
    pub(super) fn release(&self, id: u64) {
        let mut state = self.state.lock();
        let Some(at) = state.active.iter().position(|a| a.id == id) else {
            return;
        };
        let active = state.active.swap_remove(at);
        if active.at < active.end {
            state.pending.push(active.at..active.end);
            // The first part is taken first: hashing goes from front to back, and the gap before it stays small.
            state.pending.sort_by_key(|part| std::cmp::Reverse(part.start));
            if state.ranges_refused {
                state.join();
            }
        }
    }

    /// The offset in the file of the first byte that is absent, or being fetched at this moment.
    pub(super) fn first_absent(&self) -> Option<u64> {
        let state = self.state.lock();
        let pending = state.pending.iter().map(|part| part.start);
        let first = state.active.iter().map(|a| a.at).chain(pending).min()?;
        Some(self.place.offset + first)
    }

    /// The number of the earlier bundle that has the blob, once.
    pub(super) fn take_earlier(&self) -> Option<usize> {
        self.state.lock().earlier.take()
    }

    /// The absent ranges.
    pub(super) fn gaps(&self) -> Vec<Range<u64>> {
        self.state.lock().written.gaps(self.size())
    }

    /// How many of the first bytes are written.
    pub(super) fn first_written(&self) -> u64 {
        self.state.lock().written.end_of(0).unwrap_or(0)
    }

    /// Notes written bytes.
    pub(super) fn add_written(&self, range: Range<u64>) {
        self.state.lock().written.insert(range);
    }

    /// Notes that the worker of an assignment has copied `length` bytes from an earlier bundle, up to `at`.
    pub(super) fn add_reused(&self, id: u64, at: u64, length: u64) {
        self.advance(id, at);
        self.state.lock().reused += length;
    }

    /// Takes back an assignment whose earlier bundle cannot be read, and cuts what is absent into parts to be fetched.
    pub(super) fn stop_reusing(&self, id: u64) {
        let mut state = self.state.lock();
        state.active.retain(|a| a.id != id);
        state.pending = work_on(state.written.gaps(state.size), state.size);
    }

    /// What a reader does without ranges, and how often the blob turned out wrong so far.
    pub(super) fn read_mode(&self) -> (WithoutRange, usize) {
        let state = self.state.lock();
        let mode = match state.ranges_refused {
            true => WithoutRange::Skip,
            false => WithoutRange::Refuse,
        };
        (mode, state.wrong)
    }

    /// Notes that the registry serves no ranges: later requests skip the bytes that are written.
    pub(super) fn set_ranges_refused(&self) {
        self.state.lock().ranges_refused = true;
    }

    /// Takes back an assignment that the registry does not serve as a part. One worker then reads the blob in order.
    pub(super) fn refuse_range(&self, id: u64) {
        let mut state = self.state.lock();
        state.active.retain(|a| a.id != id);
        state.join();
    }

    /// Lends the hasher to a worker whose part starts where hashing stands.
    pub(super) fn lend_hasher(&self, start: u64) -> Option<Hasher> {
        let mut state = self.state.lock();
        if state.hashed == start {
            state.hasher.take()
        } else {
            None
        }
    }

    /// Lends the hasher to hash bytes that are written; says which. `None` if there are none, or another worker has it.
    pub(super) fn lend_hasher_for_written(&self) -> Option<(Hasher, Range<u64>)> {
        let mut state = self.state.lock();
        let end = state.written.end_of(state.hashed)?;
        Some((state.hasher.take()?, state.hashed..end))
    }

    /// Takes the hasher back; all bytes before `hashed` went through it.
    pub(super) fn return_hasher(&self, hasher: Hasher, hashed: u64) {
        let mut state = self.state.lock();
        state.hasher = Some(hasher);
        state.hashed = hashed;
    }

    /// Compares the digest once every byte is hashed and no worker has a part; `None` before that. Wrong bytes of a registry
    /// are fetched again until the blob was wrong `max_wrong` times.
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
        // Inherited bytes are not held against the registry: all bytes are fetched once before a wrong digest counts.
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
        // Which byte is wrong cannot be known, so nothing is kept.
        if !matches!(verdict, Verdict::WrongFetched { again: false, .. }) {
            state.reset(digest.hasher());
        }
        Some(verdict)
    }

    /// Gives the blob up. Workers that hold parts of it find them gone, and stop.
    pub(super) fn give_up(&self) {
        let mut state = self.state.lock();
        state.failed = true;
        state.pending.clear();
        state.active.clear();
    }
}

impl State {
    /// A piece from the front of a part, if the part is more than each worker will have to fetch from now on.
    fn cut(&mut self, part: Range<u64>) -> Range<u64> {
        let length = part.end - part.start;
        // Smaller blobs come whole, also from registries that serve no ranges; and what is copied is copied by one worker.
        if self.size < 2 * PART || self.ranges_refused || self.earlier.is_some() {
            return part;
        }
        let left = self
            .pending
            .iter()
            .fold(length, |sum, part| sum + (part.end - part.start));
        let share = (left / (self.active.len() as u64 + 1)).max(LEAST_PART);
        if share >= PART / 2 || share.saturating_add(LEAST_PART) > length {
            return part;
        }
        self.pending.push(part.start + share..part.end);
        part.start..part.start + share
    }

    /// Joins all open parts of a registry that serves no ranges into one per gap, for one worker to read in order.
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

    /// Forgets every byte.
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

/// The parts that workers have to take until a blob is done. Never none: where no byte is absent (all are there, or the blob
/// is empty), one worker must still hash the blob and compare its digest.
fn work_on(gaps: impl IntoIterator<Item = Range<u64>>, size: u64) -> Vec<Range<u64>> {
    let mut pending = parts(gaps);
    if pending.is_empty() {
        pending.push(size..size);
    }
    pending
}

/// Cuts what is absent into parts, the first one last. A small rest joins the part before it.
fn parts(gaps: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    for gap in gaps {
        let mut start = gap.start;
        while start < gap.end {
            let end = match gap.end - start {
                // A request for a few bytes costs more than it saves.
                left if left < 2 * PART => gap.end,
                _ => start + PART,
            };
            parts.push(start..end);
            start = end;
        }
    }
    parts.reverse();
    parts
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
