//! Who may send a request to a host now: places in the order in which they are asked for, as many as the [`Pace`] allows.
//!
//! All requests count: those without a body from the first byte to the head of the answer, those with a body until it is
//! through. Of each kind one may always be under way. So an upload whose source has to be asked first, and a request that is part
//! of an upload, never wait for places that only they could give back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pace::Pace;
use crate::lock::Mutex;

/// What takes a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A request whose answer is short.
    Request,
    /// A body that is read.
    Download,
    /// A body that is sent.
    Upload,
}

const USES: usize = 3;

/// The limit of one host.
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
    /// Places in use, by their use.
    taken: [usize; USES],
    /// Bodies that are out, and wait for their answers without a place.
    waiting: usize,
    /// The most requests that were ever under way together.
    peak: usize,
    /// Who waits for a place, the first one in front.
    queue: VecDeque<Waiter>,
    /// No request of any kind starts before this.
    hold: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    what: Use,
    granted: oneshot::Sender<()>,
}

/// The right to have one body on its way, with a place in the limit or without one yet. Given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    place: Arc<Place>,
    since: Instant,
}

/// Where a request counts.
#[derive(Debug)]
pub(super) struct Place {
    limiter: Limiter,
    what: Use,
    stage: Mutex<Stage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is sent yet.
    Outside,
    /// It is taken.
    Sending,
    /// It was left: the body is out, and the answer is waited for.
    Waiting,
}

impl Limiter {
    /// At most `bodies` bodies in each direction, and as many requests altogether as `pace` says.
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

    /// A permit without a place yet: see [`Permit::take`].
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

    /// Waits for a place. Places are given in the order in which they were asked for, which is that of the first polls.
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

    /// The host asked for silence: nothing is sent to it for this long.
    pub(super) fn hold(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.0.state.lock();
        state.hold = Some(state.hold.map_or(until, |held| held.max(until)));
    }

    /// Waits until the silence that the host asked for is over.
    pub(super) async fn quiet(&self) {
        let hold = self.0.state.lock().hold;
        if let Some(until) = hold {
            tokio::time::sleep_until(until).await;
        }
    }

    /// The host refused a request that began at `begun` because it has too much to do, or a connection broke.
    pub(super) fn trouble(&self, begun: Instant) {
        let mut state = self.0.state.lock();
        let under_way = state.under_way();
        state.pace.trouble(Instant::now(), begun, under_way);
    }

    /// Bytes of a body went over the line.
    pub(super) fn moved(&self, bytes: u64) {
        let mut state = self.0.state.lock();
        let before = state.pace.limit();
        state.pace.moved(Instant::now(), bytes);
        if state.pace.limit() > before {
            state.grant();
        }
    }

    /// The most requests that were ever under way together.
    pub(super) fn peak(&self) -> usize {
        self.0.state.lock().peak
    }

    /// How many requests may be under way now.
    pub(super) fn limit(&self) -> usize {
        self.0.state.lock().pace.limit()
    }
}

impl State {
    fn under_way(&self) -> usize {
        self.taken.iter().sum::<usize>() + self.waiting
    }

    /// Maximum number of bodies in each direction at this moment.
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

    /// Gives places to those who wait, in their order. One that has to wait for its use alone lets others pass.
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
                break;
            } else {
                at += 1;
            }
        }
    }
}

/// A wait for a place. A place that was granted to a wait that has ended is given back.
struct Turn<'a> {
    limiter: &'a Limiter,
    what: Use,
    receiver: oneshot::Receiver<()>,
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
    /// It came to a good end.
    pub(super) fn went_well(&self) {
        let mut state = self.place.limiter.0.state.lock();
        state.pace.answered(Instant::now());
        state.grant();
    }

    /// The host throttled or the connection broke. Requests that were in flight together shrink the limit once.
    pub(super) fn went_wrong(&mut self) {
        self.place.limiter.trouble(self.since);
        self.since = Instant::now();
    }

    /// For the body, which leaves its place when it is out.
    pub(super) fn place(&self) -> Arc<Place> {
        self.place.clone()
    }

    /// Whether it has a place.
    pub(super) fn has_place(&self) -> bool {
        self.place.stage() == Stage::Sending
    }

    /// Waits for a place, unless it has one: there is a body to send.
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
    /// The body is out, and its answer may take long: registries move and sync what they got before they answer. The next
    /// body may have the place, so that the line is not idle. Of a limit of n only n - 1 wait like this, so that one place
    /// means one request at a time.
    pub(super) fn leave(&self) {
        self.enter(Stage::Waiting);
    }

    /// Bytes of the body went over the line.
    pub(super) fn moved(&self, bytes: u64) {
        self.limiter.moved(bytes);
    }

    fn enter(&self, next: Stage) {
        let mut state = self.limiter.0.state.lock();
        let mut stage = self.stage.lock();
        match (*stage, next) {
            // The place was counted when it was granted.
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

    /// A limiter of a fixed number of bodies, and of as many requests as `-j` allows with it.
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
        // Two of four places are gone with the shrinking, and all that come back at once wake a waiting task.
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
        // Who comes back for another try waits in line like anybody else.
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
