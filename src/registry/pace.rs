//! How many bodies may be in flight to a host: fewer after it throttled or broke connections, more again as long as all
//! goes well (additive increase, multiplicative decrease).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The limit of one host in one direction.
#[derive(Debug, Clone)]
pub(super) struct Pace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    /// The present limit; whole places count.
    limit: f64,
    ceiling: f64,
    in_flight: usize,
    /// When the limit last shrank: troubles of requests that began before it are the same trouble.
    shrunk: Option<Instant>,
    /// No request of any kind starts before this.
    hold: Option<Instant>,
}

/// The right to have one body in flight. Given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    pace: Pace,
    since: Instant,
}

impl Pace {
    pub(super) fn new(ceiling: usize) -> Self {
        let limit = ceiling.max(1) as f64;
        let state = State {
            limit,
            ceiling: limit,
            in_flight: 0,
            shrunk: None,
            hold: None,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            freed: Notify::new(),
        }))
    }

    /// Waits for a place. Places are given in the order in which they were asked for.
    pub(super) async fn permit(&self) -> Permit {
        loop {
            {
                let mut state = self.state();
                if state.in_flight < state.limit as usize {
                    state.in_flight += 1;
                    return Permit {
                        pace: self.clone(),
                        since: Instant::now(),
                    };
                }
            }
            // A place that is freed between the look above and this line is remembered by `Notify`.
            self.0.freed.notified().await;
        }
    }

    /// The host asked for silence: nothing is sent to it for this long.
    pub(super) fn hold(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.state();
        state.hold = Some(state.hold.map_or(until, |held| held.max(until)));
    }

    /// Waits until the silence that the host asked for is over.
    pub(super) async fn quiet(&self) {
        let hold = self.state().hold;
        if let Some(until) = hold {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Halves the limit, once for all requests that were under way together: `begun` is when the one in trouble began.
    pub(super) fn shrink(&self, begun: Instant) {
        let mut state = self.state();
        if state.shrunk.is_none_or(|at| at <= begun) {
            state.limit = (state.limit / 2.0).max(1.0);
            state.shrunk = Some(Instant::now());
        }
    }

    #[cfg(test)]
    pub(super) fn limit(&self) -> usize {
        self.state().limit as usize
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The body went through: the limit grows by one once as many bodies as it has places went through.
    pub(super) fn went_well(&self) {
        let mut state = self.pace.state();
        state.limit = (state.limit + 1.0 / state.limit).min(state.ceiling);
        drop(state);
        self.pace.0.freed.notify_one();
    }

    /// The host throttled or the connection broke: half the limit. Requests that were in flight together shrink it once.
    pub(super) fn went_wrong(&mut self) {
        self.pace.shrink(self.since);
        self.since = Instant::now();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pace.state().in_flight -= 1;
        self.pace.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shrinks_once_per_trouble_and_grows_back() {
        let pace = Pace::new(8);
        let mut together = Vec::new();
        for _ in 0..8 {
            together.push(pace.permit().await);
        }
        together.iter_mut().for_each(Permit::went_wrong);
        assert_eq!(pace.limit(), 4, "eight failures at once are one trouble");
        together[0].went_wrong();
        assert_eq!(pace.limit(), 2, "the next one is another");
        drop(together);
        let permit = pace.permit().await;
        for _ in 0..100 {
            permit.went_well();
        }
        assert_eq!(pace.limit(), 8, "never above the ceiling");
    }

    #[tokio::test]
    async fn never_below_one_and_waiters_wake() {
        let pace = Pace::new(2);
        let mut first = pace.permit().await;
        first.went_wrong();
        first.went_wrong();
        first.went_wrong();
        assert_eq!(pace.limit(), 1);
        let waiting = tokio::spawn({
            let pace = pace.clone();
            async move { pace.permit().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }
}
