//! Concurrency limit of one host: permits in request order, as many as the [`Pace`] allows.
//!
//! All requests count while they are on the wire: until the last byte of the answer was read. No request exceeds the limit, so
//! no task may hold a place while it waits for another one: an upload gives its place back before it sends other requests than
//! its bodies.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pace::{Pace, Trouble};
use crate::lock::Mutex;

/// Kind of request that takes a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A request whose answer is short.
    Request,
    /// A body that is received.
    Download,
    /// A body that is sent.
    Upload,
}

const USES: usize = 3;

/// Number of bodies that are sent concurrently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lines {
    /// Current maximum number; at least 1.
    pub(crate) count: usize,
    /// Number to which `count` may soon grow; `count` itself if it is not growing.
    pub(crate) most: usize,
}

/// Concurrency limit of one host.
#[derive(Debug, Clone)]
pub(super) struct Limiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// Maximum number of bodies in each direction.
    bodies: usize,
    /// Number of places taken, by use.
    taken: [usize; USES],
    /// Number of sent bodies that wait for their answers without a place.
    waiting: usize,
    /// Maximum number of requests that were in flight together so far.
    peak: usize,
    /// Tasks that wait for a place, in order.
    queue: VecDeque<Waiter>,
    /// Time before which no request of any kind starts.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    what: Use,
    granted: oneshot::Sender<()>,
}

/// Permission to have one request in flight, with a place in the limit or without a place yet.
/// Given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    place: Arc<Place>,
    /// Start of the request, or time of its last failure.
    since: Instant,
}

/// Place of a request in the limit.
#[derive(Debug)]
pub(super) struct Place {
    limiter: Limiter,
    what: Use,
    stage: Mutex<Stage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is sent yet, and no place is taken.
    Outside,
    /// The place is taken.
    Sending,
    /// The body is sent, and the request waits for its answer: it counts as a request, but not as a body.
    Waiting,
}

/// Concurrency limits of all hosts of one side. A host has one limit, also if it is a mirror of another one, or is used with
/// and without a check of its certificate.
#[derive(Debug, Default)]
pub(super) struct Limiters(Mutex<HashMap<String, Limiter>>);

impl Limiters {
    /// Returns the limit of `HOST[:PORT]`, which `new` creates at the first call.
    pub(super) fn get(&self, host: &str, new: impl FnOnce() -> Limiter) -> Limiter {
        let mut limiters = self.0.lock();
        limiters.entry(host.to_owned()).or_insert_with(new).clone()
    }
}

impl Limiter {
    /// Creates a limit of `bodies` bodies in each direction, and of `pace` for all requests together.
    pub(super) fn new(bodies: usize, pace: Pace) -> Self {
        let state = State {
            pace,
            bodies: bodies.max(1),
            taken: [0; USES],
            waiting: 0,
            peak: 0,
            queue: VecDeque::new(),
            paused_until: None,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
        }))
    }

    /// Returns a permit without a place: see [`Permit::acquire`].
    pub(super) fn later(&self, what: Use) -> Permit {
        Permit {
            place: Arc::new(Place {
                limiter: self.clone(),
                what,
                stage: Mutex::new(Stage::Outside),
            }),
            since: Instant::now(),
        }
    }

    /// Waits for a place. Places are given in the order of the first polls.
    pub(super) async fn permit(&self, what: Use) -> Permit {
        let mut permit = self.later(what);
        permit.acquire().await;
        permit
    }

    async fn acquire(&self, what: Use) {
        let receiver = {
            let mut state = self.0.state.lock();
            if state.queue.is_empty() && state.has_room(what) {
                state.enter(what);
                return;
            }
            let (granted, receiver) = oneshot::channel();
            state.queue.push_back(Waiter { what, granted });
            state.grant();
            receiver
        };
        let mut turn = Turn {
            limiter: self,
            what,
            receiver,
            is_taken: false,
        };
        // The sender is never dropped before it has sent.
        let _ = (&mut turn.receiver).await;
        turn.is_taken = true;
    }

    /// Starts no request to the host for this long, as the host asked.
    pub(super) fn pause_for(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.0.state.lock();
        state.paused_until = Some(state.paused_until.map_or(until, |held| held.max(until)));
    }

    /// Waits until the pause that the host asked for is over.
    pub(super) async fn wait_for_pause(&self) {
        let paused_until = self.0.state.lock().paused_until;
        if let Some(until) = paused_until {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Records that the host throttled a request. `begun` is the start of the request.
    pub(super) fn refused(&self, begun: Instant) {
        self.trouble(begun, Trouble::Refused);
    }

    fn trouble(&self, begun: Instant, trouble: Trouble) {
        let mut state = self.0.state.lock();
        let under_way = state.under_way();
        state.pace.trouble(Instant::now(), begun, under_way, trouble);
    }

    /// Records that bytes of a body were transferred.
    pub(super) fn moved(&self, bytes: u64) {
        let mut state = self.0.state.lock();
        let before = state.pace.limit();
        state.pace.moved(Instant::now(), bytes);
        if state.pace.limit() > before {
            state.grant();
        }
    }

    /// Returns the maximum number of requests that were in flight together so far.
    pub(super) fn peak(&self) -> usize {
        self.0.state.lock().peak
    }

    /// Returns how many uploads may send their bodies concurrently now.
    pub(super) fn lines(&self) -> Lines {
        let state = self.0.state.lock();
        Lines {
            count: state.bodies(),
            most: state.bodies.min(state.pace.reach()),
        }
    }

    /// Returns the current maximum number of requests in flight.
    pub(super) fn limit(&self) -> usize {
        self.0.state.lock().pace.limit()
    }
}

impl State {
    fn under_way(&self) -> usize {
        self.taken.iter().sum::<usize>() + self.waiting
    }

    /// Returns the current maximum number of bodies in each direction.
    fn bodies(&self) -> usize {
        self.bodies.min(self.pace.limit())
    }

    fn has_room(&self, what: Use) -> bool {
        let is_allowed = match what {
            Use::Request => true,
            Use::Download | Use::Upload => self.taken[what as usize] < self.bodies(),
        };
        is_allowed && self.under_way() < self.pace.limit()
    }

    fn enter(&mut self, what: Use) {
        self.taken[what as usize] += 1;
        self.peak = self.peak.max(self.under_way());
    }

    /// Gives places to waiting tasks in order.
    /// A body beyond the number of bodies does not block requests of other kinds.
    fn grant(&mut self) {
        let mut at = 0;
        while let Some(waiter) = self.queue.get(at) {
            if self.under_way() >= self.pace.limit() {
                self.pace.pressed();
                break;
            }
            let what = waiter.what;
            if !self.has_room(what) {
                at += 1;
            } else if let Some(waiter) = self.queue.remove(at)
                && waiter.granted.send(()).is_ok()
            {
                self.enter(what);
            }
        }
    }
}

/// A task's wait for a place. Dropping it gives back a place that was granted in the meantime.
struct Turn<'a> {
    limiter: &'a Limiter,
    what: Use,
    receiver: oneshot::Receiver<()>,
    /// Whether the task has received its place.
    is_taken: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        let mut state = self.limiter.0.state.lock();
        self.receiver.close();
        if self.receiver.try_recv().is_ok() {
            state.taken[self.what as usize] -= 1;
        }
        state.grant();
    }
}

impl Permit {
    /// Records that the request succeeded.
    pub(super) fn went_well(&self) {
        let mut state = self.place.limiter.0.state.lock();
        state.pace.answered(Instant::now());
        state.grant();
    }

    /// Records that the connection broke.
    /// Requests in flight together shrink the limit only once.
    pub(super) fn went_wrong(&mut self) {
        self.place.limiter.trouble(self.since, Trouble::Broken);
        self.since = Instant::now();
    }

    /// Returns the place, for the body, which gives up the place once all bytes are sent.
    pub(super) fn place(&self) -> Arc<Place> {
        self.place.clone()
    }

    /// Returns whether the permit has a place.
    pub(super) fn has_place(&self) -> bool {
        self.place.stage() == Stage::Sending
    }

    /// Gives the place back until [`acquire`](Self::acquire), for a pause in which nothing is sent.
    pub(super) fn release(&self) {
        self.place.enter(Stage::Outside);
    }

    /// Waits for a place, unless the permit has one.
    pub(super) async fn acquire(&mut self) {
        if !self.has_place() {
            // The answer to the previous body has come, so the permit must not count while it waits for its next place.
            self.release();
            self.place.limiter.acquire(self.place.what).await;
            self.place.enter(Stage::Sending);
            self.since = Instant::now();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.place.enter(Stage::Outside);
    }
}

impl Place {
    /// Gives up the place while the sent body waits for its answer.
    /// The answer may take long: registries move and sync a blob before they answer. The next body can take the place, so
    /// that the line is not idle. With a limit of n bodies, only n - 1 can wait like this, so that a limit of 1 means one
    /// request at a time.
    pub(super) fn release(&self) {
        self.enter(Stage::Waiting);
    }

    /// Records that bytes of the body were transferred.
    pub(super) fn moved(&self, bytes: u64) {
        self.limiter.moved(bytes);
    }

    fn enter(&self, next: Stage) {
        let mut state = self.limiter.0.state.lock();
        let mut stage = self.stage.lock();
        match (*stage, next) {
            // The place was already counted when it was granted.
            (Stage::Outside, Stage::Sending) => {}
            (Stage::Sending, Stage::Waiting) if state.waiting + 1 < state.bodies() => {
                state.waiting += 1;
                state.taken[self.what as usize] -= 1;
            }
            (Stage::Sending, Stage::Outside) => state.taken[self.what as usize] -= 1,
            (Stage::Waiting, Stage::Sending | Stage::Outside) => state.waiting -= 1,
            _ => return,
        }
        *stage = next;
        state.grant();
    }

    fn stage(&self) -> Stage {
        *self.stage.lock()
    }
}

#[cfg(test)]
#[path = "limiter_tests.rs"]
mod tests;
