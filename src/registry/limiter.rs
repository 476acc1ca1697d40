//! How many bodies may be in flight to a host: fewer after it throttled or broke connections, more again as long as all
//! goes well (additive increase, multiplicative decrease).

use std::sync::Arc;
use std::time::Duration;

use crate::lock::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The limit of one host in one direction.
#[derive(Debug, Clone)]
pub(super) struct Limiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// The free permits. Tasks get them in the order in which they asked.
    free: Semaphore,
}

#[derive(Debug)]
struct State {
    /// The present limit; whole places count.
    limit: f64,
    ceiling: f64,
    /// Places that exist, free or taken. Above the limit only while bodies are in flight that began before it shrank.
    places: usize,
    /// When the limit last shrank: troubles of requests that began before it are the same trouble.
    shrunk: Option<Instant>,
    /// No request of any kind starts before this.
    hold: Option<Instant>,
    /// Bodies that are out, and wait for their answers without a place.
    waiting: usize,
}

/// The right to have one body on its way, with a place in the limit or without one yet. Given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    place: Arc<Place>,
    since: Instant,
}

/// Where the body of a [`Permit`] counts.
#[derive(Debug)]
pub(super) struct Place {
    limiter: Limiter,
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
    pub(super) fn new(ceiling: usize) -> Self {
        let places = ceiling.clamp(1, Semaphore::MAX_PERMITS);
        let limit = places as f64;
        let state = State {
            limit,
            ceiling: limit,
            places,
            shrunk: None,
            hold: None,
            waiting: 0,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            free: Semaphore::new(places),
        }))
    }

    /// A permit without a place yet: see [`Permit::take`].
    pub(super) fn later(&self) -> Permit {
        Permit {
            place: Arc::new(Place {
                limiter: self.clone(),
                stage: Mutex::new(Stage::Outside),
            }),
            since: Instant::now(),
        }
    }

    /// Waits for a place. Places are given in the order in which they were asked for, which is that of the first polls.
    pub(super) async fn permit(&self) -> Permit {
        let mut permit = self.later();
        permit.take().await;
        permit
    }

    async fn take(&self) {
        // The semaphore is never closed; a failure to wait could only mean that nothing is counted any more.
        if let Ok(place) = self.0.free.acquire().await {
            place.forget();
        }
    }

    fn give_back(&self, state: &mut State) {
        if state.places > state.limit as usize {
            state.places -= 1;
        } else {
            self.0.free.add_permits(1);
        }
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

    /// Halves the limit, once for all requests that were under way together: `begun` is when the one in trouble began.
    pub(super) fn shrink(&self, begun: Instant) {
        let mut state = self.0.state.lock();
        if state.shrunk.is_none_or(|at| at <= begun) {
            state.limit = (state.limit / 2.0).max(1.0);
            state.shrunk = Some(Instant::now());
            // Permits in use are removed when they are returned.
            let surplus = state.places.saturating_sub(state.limit as usize);
            state.places -= self.0.free.forget_permits(surplus);
        }
    }

    #[cfg(test)]
    pub(super) fn limit(&self) -> usize {
        self.0.state.lock().limit as usize
    }
}

impl Permit {
    /// The body went through: the limit grows by one once as many bodies as it has places went through.
    pub(super) fn went_well(&self) {
        let limiter = &self.place.limiter;
        let mut state = limiter.0.state.lock();
        state.limit = (state.limit + 1.0 / state.limit).min(state.ceiling);
        let more = (state.limit as usize).saturating_sub(state.places);
        state.places += more;
        limiter.0.free.add_permits(more);
    }

    /// The host throttled or the connection broke: half the limit. Requests that were in flight together shrink it once.
    pub(super) fn went_wrong(&mut self) {
        self.place.limiter.shrink(self.since);
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
            self.place.limiter.take().await;
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

    fn enter(&self, next: Stage) {
        let mut state = self.limiter.0.state.lock();
        let mut stage = self.stage.lock();
        match (*stage, next) {
            (Stage::Outside, Stage::Sending) => {}
            (Stage::Sending, Stage::Waiting) if state.waiting + 1 < state.limit as usize => {
                state.waiting += 1;
                self.limiter.give_back(&mut state);
            }
            (Stage::Sending, Stage::Outside) => self.limiter.give_back(&mut state),
            (Stage::Waiting, Stage::Sending | Stage::Outside) => state.waiting -= 1,
            _ => return,
        }
        *stage = next;
    }

    fn stage(&self) -> Stage {
        *self.stage.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_given_in_the_order_in_which_they_were_asked_for() {
        let limiter = Limiter::new(4);
        let mut held: Vec<_> = Vec::new();
        for _ in 0..4 {
            held.push(limiter.permit().await);
        }
        held[0].went_wrong();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting: Vec<_> = (0..6)
            .map(|number| {
                let (limiter, sender) = (limiter.clone(), sender.clone());
                Box::pin(async move {
                    let permit = limiter.permit().await;
                    sender.send(number).unwrap();
                    drop(permit);
                })
            })
            .collect();
        for future in &mut waiting {
            assert!(futures_util::FutureExt::now_or_never(future).is_none());
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
        assert_eq!(limiter.0.free.available_permits(), limiter.limit());
    }

    #[tokio::test]
    async fn shrinks_once_per_trouble_and_grows_back() {
        let limiter = Limiter::new(8);
        let mut together = Vec::new();
        for _ in 0..8 {
            together.push(limiter.permit().await);
        }
        together.iter_mut().for_each(Permit::went_wrong);
        assert_eq!(limiter.limit(), 4, "eight failures at once are one trouble");
        together[0].went_wrong();
        assert_eq!(limiter.limit(), 2, "the next one is another");
        drop(together);
        let permit = limiter.permit().await;
        for _ in 0..100 {
            permit.went_well();
        }
        assert_eq!(limiter.limit(), 8, "never above the ceiling");
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_makes_room_but_never_all_of_them() {
        let limiter = Limiter::new(3);
        let mut permits = Vec::new();
        for waiting in [1, 2, 2, 2, 2] {
            let permit = limiter.permit().await;
            permit.place().leave();
            assert_eq!(limiter.0.state.lock().waiting, waiting);
            permits.push(permit);
        }
        assert_eq!(limiter.0.free.available_permits(), 0, "three keep their places");
        // Who comes back for another try waits in line like anybody else.
        let mut again = Box::pin(permits[0].take());
        assert!(futures_util::FutureExt::now_or_never(&mut again).is_none());
        drop(again);
        permits.pop();
        permits[0].take().await;
        assert_eq!(
            (limiter.0.state.lock().waiting, limiter.0.free.available_permits()),
            (1, 0)
        );
        permits[0].take().await;
        drop(permits);
        assert_eq!(
            (limiter.0.state.lock().waiting, limiter.0.free.available_permits()),
            (0, 3)
        );
    }

    #[tokio::test]
    async fn one_place_means_one_at_a_time() {
        let limiter = Limiter::new(1);
        let permit = limiter.permit().await;
        permit.place().leave();
        assert_eq!(
            (limiter.0.state.lock().waiting, limiter.0.free.available_permits()),
            (0, 0)
        );
        drop(permit);
        let mut last = limiter.permit().await;
        last.went_wrong();
        drop(last);
        assert_eq!(limiter.0.free.available_permits(), 1);
    }

    #[tokio::test]
    async fn never_below_one_and_waiters_wake() {
        let limiter = Limiter::new(2);
        let mut first = limiter.permit().await;
        first.went_wrong();
        first.went_wrong();
        first.went_wrong();
        assert_eq!(limiter.limit(), 1);
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.permit().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }
}
