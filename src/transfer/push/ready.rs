//! Which of the blobs that can be sent goes next. Small images are first, so that tags appear during the whole run; a blob
//! whose transfer would be left over at the end goes before them, so that the run takes no longer for it.

use std::collections::BTreeSet;

/// What the requests for a blob cost, in bytes that could be sent meanwhile.
const REQUESTS: u64 = 256 << 10;

/// A blob goes first once sending it takes more than one part in this many of the time that the rest of the run takes.
const SAFETY: u64 = 2;

/// Works that can be started, and the bytes that are on their way.
#[derive(Debug)]
pub(super) struct Ready {
    /// The works by their numbers, which are in the order in which images are to become complete.
    order: BTreeSet<usize>,
    /// Those of them that have to be sent, by what that costs.
    by_cost: BTreeSet<(u64, usize)>,
    /// What sending all of them costs.
    waiting: u64,
    /// Works that are being sent, by what all of each costs.
    sending: BTreeSet<(u64, usize)>,
    /// What all of them cost.
    sent: u64,
    /// How many bodies are sent at a time.
    jobs: u64,
}

/// What sending a blob of this size costs.
pub(super) fn cost(size: u64) -> u64 {
    size.saturating_add(REQUESTS)
}

impl Ready {
    /// Nothing yet, for a run that sends this many bodies at a time.
    pub(super) fn new(jobs: usize) -> Self {
        Self {
            order: BTreeSet::new(),
            by_cost: BTreeSet::new(),
            waiting: 0,
            sending: BTreeSet::new(),
            sent: 0,
            jobs: jobs.max(1) as u64,
        }
    }

    /// Adds a work. `is_sent` says whether its bytes have to be sent: it may only have to be mounted.
    pub(super) fn insert(&mut self, work: usize, size: u64, is_sent: bool) {
        self.order.insert(work);
        if is_sent && self.by_cost.insert((cost(size), work)) {
            self.waiting = self.waiting.saturating_add(cost(size));
        }
    }

    pub(super) fn remove(&mut self, work: usize, size: u64) {
        self.order.remove(&work);
        if self.by_cost.remove(&(cost(size), work)) {
            self.waiting = self.waiting.saturating_sub(cost(size));
        }
    }

    /// The work that goes next.
    pub(super) fn first(&self) -> Option<usize> {
        self.critical().or(self.order.first().copied())
    }

    /// The largest blob, if there would not be enough else to do while it is sent. With one body at a time no order takes
    /// longer than another.
    fn critical(&self) -> Option<usize> {
        let (cost, work) = *self.by_cost.last()?;
        let longest = self.sending.last().map_or(0, |(cost, _)| *cost);
        let rest = (self.waiting.saturating_add(self.sent) / self.jobs).max(longest);
        (self.jobs > 1 && cost.saturating_mul(SAFETY) >= rest).then_some(work)
    }

    /// The bytes of a work are sent from now on.
    pub(super) fn begin(&mut self, work: usize, size: u64) {
        if self.sending.insert((cost(size), work)) {
            self.sent = self.sent.saturating_add(cost(size));
        }
    }

    /// They are sent, or not to be sent any more.
    pub(super) fn end(&mut self, work: usize, size: u64) {
        if self.sending.remove(&(cost(size), work)) {
            self.sent = self.sent.saturating_sub(cost(size));
        }
    }
}
