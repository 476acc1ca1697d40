//! Selects the next blob among those that can be sent, whenever another one can be begun.
//!
//! Blobs of small images go first, so that tags appear during the whole run. The run is shortest if the largest blob always
//! goes first. So the blob of a small image goes first as long as the large blobs that wait still fit into the time that the
//! largest-first order would take from now on; otherwise the largest blob goes. Nothing is planned ahead, since the number of
//! lines changes while the client finds out how many help.
//!
//! Time is counted in bytes of one line, as if all lines were equally fast. If they are not, the order gets closer to
//! largest-first, or tags appear later, but every blob is sent in any case.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::registry::Lines;

/// Estimated cost of the requests for a blob, in bytes that could be sent in the same time.
const REQUESTS: u64 = 256 << 10;

/// Blobs count as large if they take more than the rest of the run divided by this number.
/// Smaller blobs fill the lines evenly in any order.
const LARGE: u64 = 32;

/// The run may take longer than in largest-first order by its length divided by this number.
const SLACK: u64 = 25;

/// Works that can be started, and the works being sent.
#[derive(Debug)]
pub(super) struct Ready {
    /// Works that can be started, in the order in which images become complete, with their cost.
    /// The cost is zero if the blob may only have to be mounted.
    order: BTreeMap<usize, u64>,
    /// Cost and number of the works in `order` whose bytes have to be sent. Of equal costs, the first work is the last here.
    by_cost: BTreeSet<(u64, Reverse<usize>)>,
    /// Total cost of `by_cost`.
    waiting: u64,
    /// Works whose bytes are being sent or wait for a line, in the order of their start.
    bodies: Vec<Body>,
    lines: Lines,
    /// Number of bytes that each line has sent so far.
    clock: u64,
    /// Earliest end of the run that the largest-first order promised so far, on `clock`.
    best: u64,
}

#[derive(Debug)]
struct Body {
    work: usize,
    cost: u64,
    /// Time at which the body got a line, on the clock of [`Ready`].
    begun: Option<u64>,
}

/// Returns the cost of sending a blob of this size.
pub(super) fn cost(size: u64) -> u64 {
    size.saturating_add(REQUESTS)
}

impl Ready {
    /// Returns an empty set, for one line.
    pub(super) fn new() -> Self {
        Self {
            order: BTreeMap::new(),
            by_cost: BTreeSet::new(),
            waiting: 0,
            bodies: Vec::new(),
            lines: Lines::default(),
            clock: 0,
            best: u64::MAX,
        }
    }

    /// Sets the number of bodies that can be sent concurrently from now on.
    pub(super) fn set_lines(&mut self, lines: Lines) {
        self.lines = lines;
        self.give_lines();
    }

    /// Adds a work.
    /// `is_sent` states whether its bytes have to be sent; otherwise the blob may only have to be mounted.
    pub(super) fn insert(&mut self, work: usize, size: u64, is_sent: bool) {
        self.order.insert(work, if is_sent { cost(size) } else { 0 });
        if is_sent && self.by_cost.insert((cost(size), Reverse(work))) {
            self.waiting = self.waiting.saturating_add(cost(size));
        }
    }

    /// Removes a work that cannot be started any more.
    pub(super) fn remove(&mut self, work: usize, size: u64) {
        self.order.remove(&work);
        if self.by_cost.remove(&(cost(size), Reverse(work))) {
            self.waiting = self.waiting.saturating_sub(cost(size));
        }
    }

    /// Returns the work to start next.
    pub(super) fn first(&mut self) -> Option<usize> {
        let (&next, &cost) = self.order.first_key_value()?;
        let Some(&(largest, Reverse(work))) = self.by_cost.last() else {
            return Some(next);
        };
        let is_indifferent = cost == 0 || cost == largest || self.lines.count <= 1;
        Some(if is_indifferent || self.fits(cost) { next } else { work })
    }

    /// Returns whether the large blobs that wait end in time if a blob of this cost gets the next free line.
    fn fits(&mut self, cost: u64) -> bool {
        let loads = self.loads();
        let busy = loads.iter().fold(0u64, |sum, load| sum.saturating_add(load.0));
        let even = busy.saturating_add(self.waiting) / self.lines.count as u64;
        let least = loads.iter().fold(even, |least, load| least.max(load.0));
        let costs = self.by_cost.iter().rev().map(|(cost, _)| *cost);
        let large: Vec<u64> = costs.take_while(|cost| *cost > least / LARGE).collect();
        let mut rest = large.clone();
        if let Some(at) = rest.iter().position(|it| *it == cost) {
            rest.remove(at);
        }
        let mut after = loads.clone();
        place(&mut after, cost);

        let promised = largest_first(loads, &large).max(least);
        self.best = self.best.min(self.clock.saturating_add(promised));
        let end = largest_first(after.clone(), &rest);
        // The end that a few lines promise leaves much room, which more lines will not have.
        if end <= promised || self.lines.are_growing {
            return end <= promised;
        }
        let latest = self.best.saturating_add(self.best / SLACK);
        let left = latest.saturating_sub(self.clock);
        end <= left || best_fit(after, &rest, left)
    }

    /// Returns when each line will have sent its body and the bodies that wait for it, from now on.
    fn loads(&self) -> Loads {
        let idle = self.lines.count.saturating_sub(self.bodies.len());
        let mut loads: Loads = (0..idle).map(|_| Reverse(0)).collect();
        for body in &self.bodies {
            let end = body.begun.unwrap_or(self.clock).saturating_add(body.cost);
            let left = end.saturating_sub(self.clock);
            match loads.len() < self.lines.count {
                true => loads.push(Reverse(left)),
                false => _ = place(&mut loads, left),
            }
        }
        loads
    }

    /// Records that the bytes of a work are being sent.
    pub(super) fn begin(&mut self, work: usize, size: u64) {
        self.bodies.push(Body {
            work,
            cost: cost(size),
            begun: None,
        });
        self.give_lines();
    }

    /// Records that the bytes of a work are no longer being sent.
    /// `is_sent` states whether all bytes were sent, which tells how far the other bodies are.
    pub(super) fn end(&mut self, work: usize, is_sent: bool) {
        let Some(at) = self.bodies.iter().position(|body| body.work == work) else {
            return;
        };
        let body = self.bodies.remove(at);
        if let (true, Some(begun)) = (is_sent, body.begun) {
            self.clock = self.clock.max(begun.saturating_add(body.cost));
        }
        self.give_lines();
    }

    /// Notes the time for the bodies that have a line now.
    fn give_lines(&mut self) {
        for body in self.bodies.iter_mut().take(self.lines.count) {
            body.begun.get_or_insert(self.clock);
        }
    }
}

/// Times at which lines become free. The first line to become free is on top.
type Loads = BinaryHeap<Reverse<u64>>;

/// Gives a blob to the line that becomes free first. Returns when the blob ends.
fn place(loads: &mut Loads, cost: u64) -> u64 {
    let Some(mut first) = loads.peek_mut() else { return 0 };
    first.0 = first.0.saturating_add(cost);
    first.0
}

/// Returns when the last of the blobs ends, if each goes to the line that becomes free first.
fn largest_first(mut loads: Loads, costs: &[u64]) -> u64 {
    costs.iter().map(|cost| place(&mut loads, *cost)).max().unwrap_or(0)
}

/// Returns whether all blobs end in time, if each goes to the line that it fills best.
/// That needs less time than [`largest_first`] if the lines become free at different times.
fn best_fit(loads: Loads, costs: &[u64], end: u64) -> bool {
    let mut room: Vec<u64> = loads.into_iter().map(|load| end.saturating_sub(load.0)).collect();
    costs.iter().all(|cost| {
        let fitting = room.iter_mut().filter(|room| **room >= *cost);
        fitting.min().map(|room| *room -= cost).is_some()
    })
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
