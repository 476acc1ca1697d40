//! Selects the next blob among those that can be sent.
//! Blobs of small images go first, so that tags appear during the whole run. A blob so large that its transfer would
//! outlast the rest of the run goes before them, so that the run does not take longer. At most half of the bodies may do so:
//! the other half completes images.

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Estimated cost of the requests for a blob, in bytes that could be sent in the same time.
const REQUESTS: u64 = 256 << 10;

/// A blob goes first once its cost is at least the cost of the rest of the run divided by this number.
const SAFETY: u64 = 2;

/// Number of bodies that may always be sent ahead of their turn. So few bodies have to be filled evenly.
const ALWAYS_AHEAD: usize = 6;

/// Works that can be started, and the cost of the works being sent.
#[derive(Debug)]
pub(super) struct Ready {
    /// Numbers of the works that can be started, in the order in which images become complete.
    order: BTreeSet<usize>,
    /// Cost and number of the works in `order` whose bytes have to be sent. Of equal costs, the first work is the last here.
    by_cost: BTreeSet<(u64, Reverse<usize>)>,
    /// Total cost of `by_cost`.
    waiting: u64,
    /// Cost and number of the works being sent. Each work counts in full, however many bytes have been sent.
    sending: BTreeSet<(u64, usize)>,
    /// Total cost of `sending`.
    sent: u64,
    /// Works being sent before others that are earlier in `order`.
    ahead: BTreeSet<usize>,
    /// Number of bodies sent concurrently.
    jobs: usize,
}

/// Returns the cost of sending a blob of this size.
pub(super) fn cost(size: u64) -> u64 {
    size.saturating_add(REQUESTS)
}

impl Ready {
    /// Returns an empty set, for a run that sends `jobs` bodies concurrently.
    pub(super) fn new(jobs: usize) -> Self {
        Self {
            order: BTreeSet::new(),
            by_cost: BTreeSet::new(),
            waiting: 0,
            sending: BTreeSet::new(),
            sent: 0,
            ahead: BTreeSet::new(),
            jobs: jobs.max(1),
        }
    }

    /// Adds a work.
    /// `is_sent` states whether its bytes have to be sent; otherwise the blob may only have to be mounted.
    pub(super) fn insert(&mut self, work: usize, size: u64, is_sent: bool) {
        self.order.insert(work);
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
    pub(super) fn first(&self) -> Option<usize> {
        self.critical().or(self.order.first().copied())
    }

    /// Returns the largest blob, if sending it would take longer than the rest of the run can fill.
    /// With one body at a time, the order does not change the duration.
    fn critical(&self) -> Option<usize> {
        let (cost, Reverse(work)) = *self.by_cost.last()?;
        let longest = self.sending.last().map_or(0, |(cost, _)| *cost);
        let rest = (self.waiting.saturating_add(self.sent) / self.jobs as u64).max(longest);
        let is_free = self.jobs > 1 && self.ahead.len() < ALWAYS_AHEAD.max(self.jobs / 2);
        (is_free && cost.saturating_mul(SAFETY) >= rest).then_some(work)
    }

    /// Records that the bytes of a work are being sent.
    pub(super) fn start(&mut self, work: usize, size: u64) {
        if self.order.first().is_some_and(|first| *first < work) {
            self.ahead.insert(work);
        }
        if self.sending.insert((cost(size), work)) {
            self.sent = self.sent.saturating_add(cost(size));
        }
    }

    /// Records that the bytes of a work are no longer being sent.
    pub(super) fn end(&mut self, work: usize, size: u64) {
        self.ahead.remove(&work);
        if self.sending.remove(&(cost(size), work)) {
            self.sent = self.sent.saturating_sub(cost(size));
        }
    }
}
