//! One blob on its way into its place: who writes which part of it, and how far it is hashed.
//!
//! A blob is hashed from front to back. A large one is fetched in parts, one after the other by the task that opened it, which
//! hashes what it writes. When connections are idle, other tasks take parts of it; then whoever holds the hasher catches up
//! over what others have written, by reading it back while it is still in the page cache.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::bundle::plan;
use crate::bundle::ranges::Ranges;
use crate::image::digest::Hasher;

/// A part of a blob that is handed to another connection. Large enough that a request more does not matter, small enough that
/// what is hashed later is still in memory.
pub(super) const PART: u64 = 32 << 20;

/// The state of one slot.
#[derive(Debug)]
pub(super) struct Slot {
    /// Its number in the plan.
    pub(super) number: usize,
    /// Its place in the plan.
    pub(super) place: plan::Slot,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// Bytes that are written, hashed or not.
    pub(super) written: Ranges,
    /// Bytes that are hashed: always the first ones.
    pub(super) hashed: u64,
    /// The hasher, unless somebody is using it.
    pub(super) hasher: Option<Hasher>,
    /// Parts that nobody has taken.
    pub(super) pending: Vec<Range<u64>>,
    /// Where the parts that tasks are working on are and end.
    pub(super) active: Vec<Active>,
    /// Whether the registry has refused to serve parts.
    pub(super) ranges_refused: bool,
    /// Whether some of the bytes come from an earlier run or another file, so that a wrong digest is no registry's fault.
    pub(super) inherited: bool,
    /// How often the whole blob turned out wrong.
    pub(super) wrong: u32,
    /// Whether it was given up.
    pub(super) failed: bool,
    /// The earlier bundle that has it, by its number, until it was tried.
    pub(super) earlier: Option<usize>,
    /// How many of its bytes come from there.
    pub(super) reused: u64,
    size: u64,
}

/// A part that a task is working on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Active {
    start: u64,
    pub(super) at: u64,
    pub(super) end: u64,
    id: u64,
}

impl Slot {
    /// A slot of which `written` is there; `earlier` says which earlier bundle has the blob.
    pub(super) fn new(number: usize, place: plan::Slot, written: Ranges, earlier: Option<usize>) -> Self {
        let size = place.blob.size;
        let absent = written.gaps(size);
        let earlier = earlier.filter(|_| !absent.is_empty());
        let inherited = !written.is_empty() || earlier.is_some();
        let pending = match (earlier, absent.first()) {
            // One task copies it all: nobody else is to fetch some of it meanwhile.
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

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn size(&self) -> u64 {
        self.place.blob.size
    }
}

impl State {
    /// Takes the first part that nobody has.
    pub(super) fn take(&mut self, id: u64) -> Option<Range<u64>> {
        let part = self.pending.pop()?;
        self.active.push(Active {
            start: part.start,
            at: part.start,
            end: part.end,
            id,
        });
        Some(part)
    }

    /// Moves a task's mark.
    pub(super) fn advance(&mut self, id: u64, at: u64) {
        if let Some(active) = self.active.iter_mut().find(|a| a.id == id) {
            active.at = at;
        }
    }

    /// Where a task's part ends; `None` once the blob was given up.
    pub(super) fn end_of(&self, id: u64) -> Option<u64> {
        self.active.iter().find(|a| a.id == id).map(|a| a.end)
    }

    /// A task is through with its part, well or badly; what it did not get to is open again.
    pub(super) fn release(&mut self, id: u64) {
        if let Some(at) = self.active.iter().position(|a| a.id == id) {
            let active = self.active.swap_remove(at);
            if active.at < active.end {
                self.pending.push(active.at..active.end);
                self.pending.sort_by_key(|part| std::cmp::Reverse(part.start));
                if self.ranges_refused {
                    self.join();
                }
            }
        }
    }

    /// Joins all open parts of a registry that serves no ranges into one per gap, for one task to read in order.
    pub(super) fn join(&mut self) {
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

    /// Gives the hasher to a task whose part starts where hashing stands.
    pub(super) fn lend(&mut self, start: u64) -> Option<Hasher> {
        if self.hashed == start { self.hasher.take() } else { None }
    }

    /// Takes the hasher back; all bytes before `hashed` went through it.
    pub(super) fn give_back(&mut self, hasher: Hasher, hashed: u64) {
        self.hasher = Some(hasher);
        self.hashed = hashed;
    }

    /// The first byte that is absent, or being fetched at this moment.
    pub(super) fn first_absent(&self) -> Option<u64> {
        let pending = self.pending.iter().map(|part| part.start);
        self.active.iter().map(|a| a.at).chain(pending).min()
    }

    /// Cuts what is absent anew, after a task has taken its part back.
    pub(super) fn cut(&mut self) {
        self.pending = work_on(self.written.gaps(self.size), self.size);
    }

    /// A task takes its part back unread, because it cannot be had as a part.
    pub(super) fn abandon(&mut self, id: u64) {
        self.active.retain(|a| a.id != id);
    }

    /// Forgets every byte.
    pub(super) fn reset(&mut self, hasher: Hasher) {
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

/// The parts that tasks have to take until a blob is done. Never none: where no byte is absent (all are there, or the blob is
/// empty), one task must still hash the blob and compare its digest.
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
mod tests {
    use super::*;
    use crate::image::descriptor::Descriptor;
    use crate::image::digest::Digest;

    fn slot(size: u64) -> Slot {
        let place = plan::Slot {
            blob: Descriptor {
                media_type: String::new(),
                digest: Digest::sha256(b"something else"),
                size,
            },
            header_offset: 0,
            offset: 512,
        };
        Slot::new(0, place, Ranges::default(), None)
    }

    #[test]
    fn a_slot_always_has_work_until_it_is_done() {
        for size in [0, 1, 3 * PART] {
            for refused in [false, true] {
                let slot = slot(size);
                let mut state = slot.lock();
                state.ranges_refused = refused;
                while state.take(1).is_some() {}
                state.active.clear();
                state.reset(slot.place.blob.digest.hasher());
                assert!(
                    state.take(2).is_some(),
                    "after reset: size {size}, ranges refused: {refused}"
                );
                state.active.clear();
                state.pending.clear();
                state.written.insert(0..size);
                state.cut();
                assert!(state.take(3).is_some(), "after cut: size {size}");
                state.active.clear();
                state.join();
                assert!(state.take(4).is_some(), "after join: size {size}");
            }
        }
    }
}
