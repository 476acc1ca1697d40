//! Selects the next blob among those that can be sent, whenever another one can be begun.
//!
//! Blobs of small images go first, so that tags appear during the whole run. The run is shortest if the largest blob always
//! goes first. So a small image goes first as long as the large blobs that wait, sent after it in largest-first order,
//! still end in time. Nothing is planned ahead, since the number of lines changes while the client finds out how many help.
//! As long as it grows, half of the bodies are blobs that would outlast a run with all lines.
//!
//! Time is counted in bytes of one line, as if all lines were equally fast. If they are not, the run takes longer or tags
//! appear later, but every blob is sent in any case.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::registry::Lines;

/// Estimated cost of the requests for a blob, in bytes that could be sent in the same time.
const REQUESTS: u64 = 256 << 10;

/// Blobs count as large if they take longer than the rest of the run divided by this number.
/// Smaller blobs fill the lines evenly in any order.
const LARGE: u64 = 32;

/// The run may take longer than in largest-first order, by its length divided by this number.
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
    /// Latest end of the run, on `clock`: the earliest end that the largest-first order promised so far, and the slack.
    latest: u64,
}

#[derive(Debug)]
struct Body {
    work: usize,
    cost: u64,
    /// Expected end, on the clock of [`Ready`]; `None` while the body waits for a line.
    end: Option<u64>,
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
            lines: Lines { count: 1, most: 1 },
            clock: 0,
            latest: u64::MAX,
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
        let largest = self.by_cost.last().filter(|(largest, _)| cost > 0 && *largest > cost);
        let Some(&(largest, Reverse(work))) = largest else {
            return Some(next);
        };
        let loads = self.loads();
        let busy = loads.iter().fold(0u64, |sum, Reverse(load)| sum.saturating_add(*load));
        let rest = busy.saturating_add(self.waiting);
        let is_small_next = !self.outlasts(largest, rest) && self.fits(cost, rest, loads);
        Some(if is_small_next { next } else { work })
    }

    /// Returns whether the largest blob outlasts the `rest` of the run once the number of lines has grown, and no more than
    /// half of the bodies do so already.
    fn outlasts(&self, largest: u64, rest: u64) -> bool {
        let even = rest / self.lines.most as u64;
        let large = self.bodies.iter().filter(|body| body.cost > even).count();
        self.lines.count < self.lines.most && largest > even && large * 2 <= self.bodies.len()
    }

    /// Returns whether the large blobs that wait end in time if a blob of this cost gets the next free line.
    fn fits(&mut self, cost: u64, rest: u64, loads: Loads) -> bool {
        let even = rest / self.lines.count as u64;
        let costs = self.by_cost.iter().rev().map(|(cost, _)| *cost);
        let large: Vec<u64> = costs.take_while(|cost| *cost > even / LARGE).collect();
        let mut others = large.clone();
        others.extract_if(.., |other| *other == cost).next();
        let end = end_of(loads.clone(), std::iter::once(cost).chain(others));
        let promised = end_of(loads, large).max(even);
        self.latest = self.latest.min(with_slack(self.clock.saturating_add(promised)));
        let left = self.latest.saturating_sub(self.clock);
        // The clock may run ahead of the slower lines, and no cost is known better than that of the requests for a blob.
        let in_time = with_slack(even).saturating_add(REQUESTS);
        end <= left.max(promised).max(in_time)
    }

    /// Returns when each line will have sent its body and the bodies that wait for it, from now on.
    fn loads(&self) -> Loads {
        let ends = self.bodies.iter().filter_map(|body| body.end);
        let mut loads: Vec<_> = ends.map(|end| Reverse(end.saturating_sub(self.clock))).collect();
        loads.resize(loads.len().max(self.lines.count), Reverse(0));
        let mut loads: Loads = loads.into();
        let waiting = self.bodies.iter().filter(|body| body.end.is_none());
        waiting.for_each(|body| place(&mut loads, body.cost));
        loads
    }

    /// Records that the bytes of a work are being sent.
    pub(super) fn start(&mut self, work: usize, size: u64) {
        self.bodies.push(Body {
            work,
            cost: cost(size),
            end: None,
        });
        self.give_lines();
    }

    /// Records that the bytes of a work are no longer being sent.
    /// `is_sent` states whether all bytes were sent, which tells how far the other bodies are.
    pub(super) fn end(&mut self, work: usize, is_sent: bool) {
        let Some(at) = self.bodies.iter().position(|body| body.work == work) else {
            return;
        };
        let end = self.bodies.remove(at).end.filter(|_| is_sent);
        self.clock = self.clock.max(end.unwrap_or_default());
        self.give_lines();
    }

    /// Gives the lines to the first bodies.
    fn give_lines(&mut self) {
        for body in self.bodies.iter_mut().take(self.lines.count) {
            body.end.get_or_insert(self.clock.saturating_add(body.cost));
        }
    }
}

fn with_slack(time: u64) -> u64 {
    time.saturating_add(time / SLACK)
}

/// Times at which lines become free. The first line to become free is on top.
type Loads = BinaryHeap<Reverse<u64>>;

/// Gives a blob to the line that becomes free first.
fn place(loads: &mut Loads, cost: u64) {
    if let Some(mut first) = loads.peek_mut() {
        first.0 = first.0.saturating_add(cost);
    }
}

/// Returns when the last line becomes free, if each blob in turn goes to the line that becomes free first.
fn end_of(mut loads: Loads, costs: impl IntoIterator<Item = u64>) -> u64 {
    costs.into_iter().for_each(|cost| place(&mut loads, cost));
    loads.into_iter().map(|Reverse(load)| load).max().unwrap_or(0)
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
