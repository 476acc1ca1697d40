//! Concurrency limit of one host: permits in request order, as many as the [`Pace`] allows.
//!
//! All requests count: a request without a body until the head of its answer, a request with a body until the body is
//! complete. One request of each kind is always allowed. So an upload whose source has to be asked first, and a request that
//! is part of an upload, never wait for permits that only they could give back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pace::Pace;
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
    hold: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    what: Use,
    granted: oneshot::Sender<()>,
}

/// Permission to have one body in flight, with a place in the limit or without a place yet.
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
    /// The body is sent and the place is given up; the request waits for its answer.
    Waiting,
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
            hold: None,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
        }))
    }

    /// Returns a permit without a place: see [`Permit::take`].
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
        permit.take().await;
        permit
    }

    async fn take(&self, what: Use) {
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
    pub(super) fn hold(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.0.state.lock();
        state.hold = Some(state.hold.map_or(until, |held| held.max(until)));
    }

    /// Waits until the pause that the host asked for is over.
    pub(super) async fn quiet(&self) {
        let hold = self.0.state.lock().hold;
        if let Some(until) = hold {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Records that a request was throttled by the host, or that its connection broke.
    /// `begun` is the request's start.
    pub(super) fn trouble(&self, begun: Instant) {
        let mut state = self.0.state.lock();
        let under_way = state.under_way();
        state.pace.trouble(Instant::now(), begun, under_way);
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
        let taken = self.taken[what as usize];
        let most = match what {
            Use::Request => usize::MAX,
            Use::Download | Use::Upload => self.bodies(),
        };
        taken == 0 || (taken < most && self.under_way() < self.pace.limit())
    }

    fn enter(&mut self, what: Use) {
        self.taken[what as usize] += 1;
        self.peak = self.peak.max(self.under_way());
    }

    /// Gives places to waiting tasks in order.
    /// A task whose kind of request has no room does not block tasks of other kinds.
    fn grant(&mut self) {
        let mut at = 0;
        while let Some(waiter) = self.queue.get(at) {
            let what = waiter.what;
            let is_full = self.under_way() >= self.pace.limit();
            if is_full {
                self.pace.pressed();
            }
            if self.has_room(what) {
                if let Some(waiter) = self.queue.remove(at)
                    && waiter.granted.send(()).is_ok()
                {
                    self.enter(what);
                }
            } else if is_full && self.taken.iter().all(|taken| *taken > 0) {
                // No kind of request has room, so no later waiter can be served.
                break;
            } else {
                at += 1;
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

    /// Records that the host throttled or the connection broke.
    /// Requests in flight together shrink the limit only once.
    pub(super) fn went_wrong(&mut self) {
        self.place.limiter.trouble(self.since);
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

    /// Waits for a place, unless the permit has one: a body is about to be sent.
    pub(super) async fn take(&mut self) {
        if !self.has_place() {
            self.place.limiter.take(self.place.what).await;
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
    pub(super) fn leave(&self) {
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
mod tests {
    use super::*;
    use futures_util::FutureExt;

    /// Creates a limiter with a fixed number of bodies, and the same number of requests in total.
    fn limiter(bodies: usize) -> Limiter {
        Limiter::new(bodies, Pace::fixed(bodies))
    }

    fn under_way(limiter: &Limiter) -> usize {
        limiter.0.state.lock().under_way()
    }

    #[tokio::test]
    async fn places_are_given_in_the_order_in_which_they_were_asked_for() {
        let limiter = limiter(4);
        let mut held: Vec<_> = Vec::new();
        for _ in 0..4 {
            held.push(limiter.permit(Use::Download).await);
        }
        held[0].went_wrong();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting: Vec<_> = (0..6)
            .map(|number| {
                let (limiter, sender) = (limiter.clone(), sender.clone());
                Box::pin(async move {
                    let permit = limiter.permit(Use::Download).await;
                    sender.send(number).unwrap();
                    drop(permit);
                })
            })
            .collect();
        for future in &mut waiting {
            assert!(future.now_or_never().is_none());
        }
        // The limit has shrunk from four to two, and four permits that come back together still wake waiting tasks.
        drop(held);
        let tasks: Vec<_> = waiting.into_iter().rev().map(tokio::spawn).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let order: Vec<i32> = std::iter::from_fn(|| order.try_recv().ok()).collect();
        assert_eq!(order.len(), 6);
        assert!(order[..2].iter().all(|n| *n < 2), "{order:?}");
        assert!(order[4..].iter().all(|n| *n >= 2), "{order:?}");
        assert_eq!((under_way(&limiter), limiter.limit(), limiter.peak()), (0, 2, 4));
    }

    #[tokio::test]
    async fn shrinks_once_per_trouble() {
        let limiter = limiter(8);
        let mut together = Vec::new();
        for _ in 0..8 {
            together.push(limiter.permit(Use::Upload).await);
        }
        together.iter_mut().for_each(Permit::went_wrong);
        assert_eq!(limiter.limit(), 4, "eight failures at once are one trouble");
        together[0].went_wrong();
        assert_eq!(limiter.limit(), 2, "the next one is another");
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_makes_room_but_never_all_of_them() {
        let limiter = Limiter::new(3, Pace::fixed(9));
        let mut permits = Vec::new();
        for waiting in [1, 2, 2, 2, 2] {
            let permit = limiter.permit(Use::Upload).await;
            permit.place().leave();
            assert_eq!(limiter.0.state.lock().waiting, waiting);
            permits.push(permit);
        }
        assert_eq!(under_way(&limiter), 5, "three keep their places");
        // A permit that needs its place again waits in line like any other.
        let mut again = Box::pin(permits[0].take());
        assert!((&mut again).now_or_never().is_none());
        drop(again);
        permits.pop();
        permits[0].take().await;
        let state = |limiter: &Limiter| {
            let state = limiter.0.state.lock();
            (state.waiting, state.taken)
        };
        assert_eq!(state(&limiter), (1, [0, 0, 3]));
        permits[0].take().await;
        drop(permits);
        assert_eq!(state(&limiter), (0, [0, 0, 0]));
    }

    #[tokio::test]
    async fn one_place_means_one_at_a_time() {
        let limiter = limiter(1);
        let permit = limiter.permit(Use::Upload).await;
        permit.place().leave();
        assert!(limiter.permit(Use::Upload).now_or_never().is_none());
        drop(permit);
        let mut last = limiter.permit(Use::Upload).await;
        last.went_wrong();
        drop(last);
        assert_eq!((under_way(&limiter), limiter.limit()), (0, 1));
    }

    #[tokio::test]
    async fn never_below_one_and_waiters_wake() {
        let limiter = limiter(2);
        let mut first = limiter.permit(Use::Download).await;
        first.went_wrong();
        first.went_wrong();
        first.went_wrong();
        assert_eq!(limiter.limit(), 1);
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.permit(Use::Download).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn one_of_each_use_is_never_held_up_by_the_others() {
        let limiter = Limiter::new(2, Pace::fixed(2));
        let upload = limiter.permit(Use::Upload).await;
        let _other = limiter.permit(Use::Upload).await;
        let request = limiter.permit(Use::Request).await;
        let _download = limiter.permit(Use::Download).await;
        let mut second = Box::pin(limiter.permit(Use::Request));
        assert!((&mut second).now_or_never().is_none(), "the second one waits");
        drop(upload);
        assert!(
            (&mut second).now_or_never().is_none(),
            "four were under way, two may be"
        );
        drop(request);
        assert!((&mut second).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_place_that_was_granted_to_a_dropped_wait_goes_to_the_next_one() {
        let limiter = limiter(1);
        let first = limiter.permit(Use::Request).await;
        let mut dropped = Box::pin(limiter.permit(Use::Request));
        let mut next = Box::pin(limiter.permit(Use::Request));
        assert!((&mut dropped).now_or_never().is_none());
        assert!((&mut next).now_or_never().is_none());
        drop(first);
        drop(dropped);
        assert!((&mut next).now_or_never().is_some());
    }
}
