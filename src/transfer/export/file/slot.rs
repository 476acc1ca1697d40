//! State of one blob while its slot is filled: assigned parts, written ranges, and hashing progress.
//!
//! A blob is hashed from front to back.
//! A large blob is fetched in parts, one after the other, by the worker that opened the blob, which hashes the bytes while
//! writing them. Idle workers take parts of the blob as well; the worker that holds the hasher then hashes these parts by
//! reading them back while they are still in the page cache.
//! Until the registry has served a range, one worker alone asks for a part of the blob: a registry that ignores ranges would
//! send the whole blob to each of them.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::part_size::{self, LARGE, Meter, Speed};

use crate::bundle::plan;
use crate::bundle::ranges::Ranges;
use crate::image::digest::{Digest, Hasher};
use crate::lock::Mutex;
use crate::registry::WithoutRange;

/// Maximum time for which other workers wait to see whether the registry serves ranges.
/// A request that hangs or is retried does not hold up the other workers for longer.
pub(super) const PROBE_PATIENCE: Duration = Duration::from_secs(1);

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
    /// Number of workers that wait for a place at the registry before they are assigned a part.
    waiting: usize,
    /// Time since which the blob is fetched.
    begun: Option<Instant>,
    /// Whether the number of connections to the registry grows.
    growing: bool,
    /// Speeds of connections whose parts have arrived. The last one is free for the next part, as in the pool of connections.
    freed: Vec<Speed>,
    /// Whether the registry has refused range requests.
    ranges_refused: bool,
    /// Whether the registry has answered a request for a range with that range.
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
    meter: Meter,
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
                waiting: 0,
                begun: None,
                growing: false,
                freed: Vec::new(),
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

    /// Assigns the first part without a worker, unless it starts behind `limit`, an offset in a file without sparse ranges.
    /// An empty part is always assigned, since nothing is written for it.
    pub(super) fn assign(&self, id: u64, limit: Option<u64>) -> Option<Range<u64>> {
        let mut state = self.state.lock();
        if !state.is_assignable(self.place.offset, limit) {
            return None;
        }
        let part = state.pending.pop()?;
        let part = state.cut(part, limit.is_none());
        state.active.push(Active {
            start: part.start,
            at: part.start,
            end: part.end,
            id,
            meter: Meter::new(),
        });
        Some(part)
    }

    /// Returns whether [`assign`](Self::assign) has a part now, and counts the caller as waiting for a place at the registry
    /// if so.
    pub(super) fn start_waiting(&self, limit: Option<u64>) -> bool {
        let mut state = self.state.lock();
        let is_assignable = state.is_assignable(self.place.offset, limit);
        state.waiting += usize::from(is_assignable);
        is_assignable
    }

    /// Ends the wait that [`start_waiting`](Self::start_waiting) began. `growing` says whether the number of connections to the
    /// registry grows.
    pub(super) fn stop_waiting(&self, growing: bool) {
        let mut state = self.state.lock();
        state.waiting -= 1;
        state.growing = growing;
    }

    /// Returns the number of assigned parts with first bytes, and the number of those without and of waiting workers.
    pub(super) fn begun_and_waiting(&self) -> (usize, usize) {
        let state = self.state.lock();
        let begun = state.active.iter().filter(|a| a.at > a.start).count();
        (begun, state.active.len() - begun + state.waiting)
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
        }
    }

    /// Records that an assignment is requested from the registry now.
    pub(super) fn requested(&self, id: u64) {
        if let Some(active) = self.state.lock().active.iter_mut().find(|a| a.id == id) {
            active.meter = Meter::new();
        }
    }

    /// Records that the bytes of an assignment before the offset `at` have arrived.
    pub(super) fn received(&self, id: u64, at: u64) {
        let state = &mut *self.state.lock();
        if let Some(active) = state.active.iter_mut().find(|a| a.id == id) {
            active.meter.arrived(at);
            if at >= active.end {
                state.freed.extend(active.meter.speed());
            }
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
    pub(super) fn read_mode(&self) -> WithoutRange {
        let state = self.state.lock();
        match (state.ranges_refused, state.ranges_served) {
            (true, _) => WithoutRange::Skip,
            (false, true) => WithoutRange::Refuse,
            (false, false) => WithoutRange::Extend,
        }
    }

    /// Returns how often the blob had a wrong digest so far.
    pub(super) fn wrong_reads(&self) -> usize {
        self.state.lock().wrong
    }

    /// Records that the registry has answered a request for a range with that range.
    pub(super) fn set_ranges_served(&self) {
        self.state.lock().ranges_served = true;
    }

    /// Extends an assignment at the start of the blob, since the registry ignores ranges and sends the whole blob.
    /// The assignment then ends at the next byte that is written or assigned to another worker.
    pub(super) fn extend(&self, id: u64) {
        let mut state = self.state.lock();
        state.ranges_refused = true;
        let others = state.active.iter().filter(|a| a.id != id).map(|a| a.start);
        let written = state.written.iter().map(|range| range.start);
        let end = others.chain(written).min().unwrap_or(state.size);
        if let Some(active) = state.active.iter_mut().find(|a| a.id == id) {
            active.end = active.end.max(end);
            let end = active.end;
            state.pending.retain(|part| part.start >= end);
        }
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
    /// Returns whether a part can be assigned in the blob at `offset` of the file; see [`Slot::assign`] for `limit`.
    fn is_assignable(&self, offset: u64, limit: Option<u64>) -> bool {
        let is_probed = self.is_in_parts() && !self.ranges_served;
        let is_asked = |active: &Active| active.meter.age() < PROBE_PATIENCE;
        let is_near = |start: u64| limit.is_none_or(|limit| offset.saturating_add(start) <= limit);
        match self.pending.last() {
            None => false,
            Some(part) if part.is_empty() => true,
            Some(part) => is_near(part.start) && !(is_probed && self.active.iter().any(is_asked)),
        }
    }

    /// Returns whether the blob is fetched in parts.
    /// Smaller blobs are fetched whole, which also works without range requests. An earlier bundle is copied by one worker.
    fn is_in_parts(&self) -> bool {
        self.size >= LARGE && !self.ranges_refused && self.earlier.is_none()
    }

    /// Splits a piece off the front of a part of a large blob, and returns the piece.
    fn cut(&mut self, part: Range<u64>, sparse: bool) -> Range<u64> {
        if !self.is_in_parts() {
            return part;
        }
        let length = part.end - part.start;
        let pending = self.pending.iter().map(|part| part.end - part.start);
        let active = self.active.iter().map(|a| a.end.saturating_sub(a.at));
        let left = length + pending.chain(active).sum::<u64>();
        let speed = self.freed.pop();
        // Connections between two parts count as well: their workers will ask for their next parts shortly.
        let freed = self.freed.iter().copied().map(Some);
        let others: Vec<_> = self.active.iter().map(|a| a.meter.speed()).chain(freed).collect();
        let age = self.begun.get_or_insert_with(Instant::now).elapsed();
        let age = self.growing.then_some(age);
        let size = match sparse {
            true => part_size::next(left, age, speed, &others),
            false => part_size::next_without_gaps(left, others.len()),
        };
        // A separate request for a small rest costs more than it saves.
        if size + size / 8 >= length {
            return part;
        }
        self.pending.push(part.start + size..part.end);
        part.start..part.start + size
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

#[cfg(test)]
#[path = "slot_simulation.rs"]
mod simulation;
