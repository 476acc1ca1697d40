//! When a host is left alone: after several requests in a row failed in the same way, each after its own retries.
//!
//! A host that is down is then not asked again for each of hundreds of images. What may pass is tried again after a pause, by
//! one request for all.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::failure::{Class, Failure};
use crate::error::{Error, Kind, Result};
use crate::lock::Mutex;

/// How many requests in a row fail in the same way before the host is left alone.
const LIMIT: u32 = 3;

/// The same for failures that may be those of some repositories alone, where the host's root does answer.
const LIMIT_OF_REPOSITORIES: u32 = 10;

/// How many different repositories those failures have to concern.
const REPOSITORIES: usize = 3;

/// How long a host is left alone before one request finds out whether it is back.
const PAUSE: Duration = Duration::from_secs(60);

/// In which way a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureMode {
    /// No connection could be made.
    Unreachable,
    /// Its certificate, or what it speaks, is refused here.
    Untrusted,
    /// Connections broke or stalled.
    Broken,
    /// It answered with this status, which may pass.
    Status(StatusCode),
    /// Its token server could not be asked.
    NoToken,
}

impl FailureMode {
    /// The way in which the host itself failed; `None` for a server that it redirected to, and for rules of this side.
    pub(super) fn from_failure(failure: &Failure) -> Option<Self> {
        if failure.elsewhere {
            return None;
        }
        match failure.class {
            Class::Connect => Some(Self::Unreachable),
            Class::Broken | Class::NotHttp => Some(Self::Broken),
            Class::Final | Class::NotTls => (failure.error.kind() == Kind::Network).then_some(Self::Untrusted),
        }
    }

    /// Whether it may be over in a while.
    pub(super) fn may_pass(self) -> bool {
        self != Self::Untrusted
    }
}

/// The failures of one host since it last answered.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
    opened: Notify,
}

#[derive(Debug, Default)]
struct State {
    way: Option<FailureMode>,
    /// Requests in a row that failed in that way.
    requests: u32,
    /// Their repositories, as far as it matters how many there are.
    repositories: Vec<String>,
    /// The last attempt whose failure was told, counted within its request.
    told: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    error: Error,
    /// When one request may try again; never if nothing.
    again: Option<Instant>,
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    GoOn,
    /// The host is to be left alone if its root fails as well.
    AskRoot,
    /// The host is to be left alone.
    Leave,
}

impl Breaker {
    /// Lets a request through, unless the host is left alone. Returns whether the request is to find out whether it is back.
    ///
    /// # Errors
    /// What the host failed with.
    pub(super) fn check(&self) -> Result<bool> {
        let mut state = self.state.lock();
        let Some(open) = &mut state.open else { return Ok(false) };
        let now = Instant::now();
        if open.again.is_some_and(|again| now >= again) {
            // This request finds out for all.
            open.again = Some(now + PAUSE);
            return Ok(true);
        }
        Err(open.error.clone())
    }

    /// What the host failed with, while it is left alone.
    pub(super) fn error(&self) -> Option<Error> {
        self.state.lock().open.as_ref().map(|open| open.error.clone())
    }

    /// The host answered: earlier failures no longer count.
    pub(super) fn answered(&self) {
        *self.state.lock() = State::default();
    }

    /// Whether the failure of the `attempt`th attempt of a request is news: it is told once for all requests that fail in the
    /// same way at the same time.
    pub(super) fn is_news(&self, way: FailureMode, attempt: u32) -> bool {
        let mut state = self.state.lock();
        state.begin(way);
        let news = attempt > state.told;
        state.told = state.told.max(attempt);
        news
    }

    /// Counts a request that was given up. `limit` is how many may be.
    pub(super) fn gave_up(&self, way: FailureMode, repository: &str, limit: u32) -> Verdict {
        let mut state = self.state.lock();
        state.begin(way);
        state.requests += 1;
        if state.repositories.len() < REPOSITORIES && !state.repositories.iter().any(|known| known == repository) {
            state.repositories.push(repository.to_owned());
        }
        match way {
            FailureMode::Broken | FailureMode::Status(_)
                if state.requests >= LIMIT_OF_REPOSITORIES && state.repositories.len() >= REPOSITORIES =>
            {
                Verdict::Leave
            }
            FailureMode::Broken | FailureMode::Status(_) if state.requests.is_multiple_of(limit) => Verdict::AskRoot,
            FailureMode::Broken | FailureMode::Status(_) => Verdict::GoOn,
            _ if state.requests >= limit => Verdict::Leave,
            _ => Verdict::GoOn,
        }
    }

    /// How many requests in a row may fail at a host: one at a mirror, since there is somewhere else to go, and one where the
    /// address never answered, since it is most likely wrong.
    pub(super) fn limit(mirror: bool, wrong_address: bool) -> u32 {
        if mirror || wrong_address { 1 } else { LIMIT }
    }

    /// Leaves the host alone from now on; false if it already is. What may pass is tried again later, but at a mirror.
    pub(super) fn leave(&self, way: FailureMode, mirror: bool, error: Error) -> bool {
        let mut state = self.state.lock();
        let first = state.open.is_none();
        let again = (way.may_pass() && !mirror).then(|| Instant::now() + PAUSE);
        state.open = Some(Open { error, again });
        drop(state);
        self.opened.notify_waiters();
        first
    }

    /// Waits for a pause, but no longer than until the host is left alone. False if it is, or if there is no pause.
    pub(super) async fn wait(&self, pause: impl Future<Output = bool>) -> bool {
        let mut opened = std::pin::pin!(self.opened.notified());
        opened.as_mut().enable();
        if self.error().is_some() {
            return false;
        }
        tokio::select! {
            biased;
            () = opened => false,
            again = pause => again,
        }
    }
}

impl State {
    /// Starts to count anew where a request failed in another way than those before.
    fn begin(&mut self, way: FailureMode) {
        if self.way != Some(way) {
            *self = Self {
                way: Some(way),
                open: self.open.take(),
                ..Self::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: FailureMode = FailureMode::Status(StatusCode::BAD_GATEWAY);

    fn down() -> Error {
        Error::new(Kind::Network, "down")
    }

    #[test]
    fn only_failures_in_a_row_and_of_one_kind_count() {
        let breaker = Breaker::default();
        for _ in 0..5 {
            assert_eq!(breaker.gave_up(FailureMode::Unreachable, "a", LIMIT), Verdict::GoOn);
            assert_eq!(breaker.gave_up(FailureMode::Unreachable, "a", LIMIT), Verdict::GoOn);
            assert_eq!(breaker.gave_up(FailureMode::NoToken, "a", LIMIT), Verdict::GoOn);
            assert_eq!(breaker.gave_up(FailureMode::NoToken, "a", LIMIT), Verdict::GoOn);
            breaker.answered();
        }
        let verdicts = [(); 3].map(|()| breaker.gave_up(FailureMode::Unreachable, "a", LIMIT));
        assert_eq!(verdicts, [Verdict::GoOn, Verdict::GoOn, Verdict::Leave]);
        assert_eq!(
            Breaker::default().gave_up(FailureMode::Unreachable, "a", 1),
            Verdict::Leave
        );
    }

    #[test]
    fn failures_that_may_be_those_of_a_repository_need_the_root_or_many_of_them() {
        let breaker = Breaker::default();
        for number in 1..40 {
            let verdict = breaker.gave_up(BUSY, ["a", "b"][number % 2], LIMIT);
            let expected = if number % 3 == 0 {
                Verdict::AskRoot
            } else {
                Verdict::GoOn
            };
            assert_eq!(verdict, expected, "{number}");
        }
        assert_eq!(breaker.gave_up(BUSY, "c", LIMIT), Verdict::Leave);
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_finds_out_whether_the_host_is_back() {
        let breaker = Breaker::default();
        assert!(breaker.leave(BUSY, false, down()));
        assert!(!breaker.leave(BUSY, false, down()), "it was left already");
        assert!(breaker.check().is_err());
        tokio::time::advance(PAUSE).await;
        assert!(breaker.check().is_ok());
        assert!(breaker.check().is_err(), "the others wait for the one");
        breaker.answered();
        assert!(breaker.check().is_ok());
        // A certificate does not become a better one, and a mirror is not needed.
        for (way, mirror) in [(FailureMode::Untrusted, false), (FailureMode::Unreachable, true)] {
            let breaker = Breaker::default();
            breaker.leave(way, mirror, down());
            tokio::time::advance(PAUSE * 100).await;
            assert!(breaker.check().is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_when_the_host_is_left_alone() {
        let breaker = Breaker::default();
        let pause = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            true
        };
        assert!(breaker.wait(pause).await);
        let begun = Instant::now();
        let leave = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            breaker.leave(BUSY, false, down());
        };
        let (waited, ()) = tokio::join!(breaker.wait(std::future::pending()), leave);
        assert!(!waited);
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        assert!(!breaker.wait(std::future::ready(true)).await);
    }

    #[test]
    fn each_attempt_is_told_once() {
        let breaker = Breaker::default();
        assert!(breaker.is_news(BUSY, 1));
        assert!(!breaker.is_news(BUSY, 1));
        assert!(breaker.is_news(BUSY, 2));
        assert!(!breaker.is_news(BUSY, 1));
        assert!(breaker.is_news(FailureMode::Broken, 1));
        breaker.answered();
        assert!(breaker.is_news(FailureMode::Broken, 1));
    }
}
