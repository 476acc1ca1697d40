//! Circuit breaker: stops requests to a host after consecutive failures.
//!
//! A host that is down is thus not asked again for each of hundreds of images. After a pause, one request tries again on
//! behalf of all, if the failure may be transient. Each failed request has used up its own retries before.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::failure::{Class, Failure};
use crate::error::{Error, Kind, Result};
use crate::lock::Mutex;

/// Number of consecutive requests that fail before the breaker opens.
const LIMIT: u32 = 3;

/// Number of consecutive failures that open the breaker although the host's root answers.
/// It is larger, since each failure may concern only its repository.
const LIMIT_OF_REPOSITORIES: u32 = 10;

/// Number of different repositories that have to be among the [`LIMIT_OF_REPOSITORIES`] failures.
const REPOSITORIES: usize = 3;

/// Pause before one request may try a host again whose breaker is open.
pub(super) const PAUSE: Duration = Duration::from_secs(60);

/// Way in which a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FailureMode {
    /// No connection could be made.
    Unreachable,
    /// The client rejects the host's certificate, or the protocol that the host speaks.
    Untrusted,
    /// Connections broke or stalled.
    Broken,
    /// The host answered with this transient status.
    Status(StatusCode),
    /// The host's token server could not be asked.
    NoToken,
    /// The host's token server failed at a request, which may concern its repository alone.
    TokenFailed,
}

impl FailureMode {
    /// Returns the way in which the server failed; `None` for rules of this client, and if no request was sent.
    pub(super) fn from_failure(failure: &Failure) -> Option<Self> {
        match failure.class {
            Class::Connect => Some(Self::Unreachable),
            Class::Broken | Class::NotHttp => Some(Self::Broken),
            Class::NotSent => None,
            Class::Final | Class::NotTls => (failure.error.kind() == Kind::Network).then_some(Self::Untrusted),
        }
    }

    /// Returns whether the failure may be transient.
    pub(super) fn may_pass(self) -> bool {
        self != Self::Untrusted
    }
}

/// Failures of one host since its last answer.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
    /// Notified when the breaker opens.
    opened: Notify,
}

#[derive(Debug, Default)]
struct State {
    modes: HashMap<FailureMode, Count>,
    /// Repositories of the failed requests; at most [`REPOSITORIES`] are kept.
    repositories: Vec<String>,
    open: Option<Open>,
}

/// Failures of one mode.
#[derive(Debug, Default)]
struct Count {
    /// Number of requests that were given up.
    requests: u32,
    /// Highest number of an attempt whose failure was reported; attempts are counted within a request.
    reported: u32,
}

#[derive(Debug)]
struct Open {
    error: Error,
    /// Time from which one request may try again; `None` for the rest of the run.
    again: Option<Instant>,
}

/// Consequence of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The breaker stays closed.
    GoOn,
    /// The breaker opens if the host's root fails as well.
    AskRoot,
    /// The breaker opens.
    Leave,
}

impl Breaker {
    /// Lets a request through, unless the breaker is open.
    /// Returns whether this request tries on behalf of all.
    ///
    /// # Errors
    /// The failure for which the breaker is open.
    pub(super) fn check(&self) -> Result<bool> {
        let mut state = self.state.lock();
        let Some(open) = &mut state.open else { return Ok(false) };
        let now = Instant::now();
        if open.again.is_some_and(|again| now >= again) {
            // This request tries on behalf of all; the next one may try after another pause.
            open.again = Some(now + PAUSE);
            return Ok(true);
        }
        Err(open.error.clone())
    }

    /// Returns the failure for which the breaker is open; `None` while it is closed.
    pub(super) fn error(&self) -> Option<Error> {
        self.state.lock().open.as_ref().map(|open| open.error.clone())
    }

    /// Closes the breaker and forgets earlier failures, since the host answered.
    pub(super) fn answered(&self) {
        *self.state.lock() = State::default();
    }

    /// Like [`answered`](Self::answered), for an answer with this status.
    /// The attempts that were reported for the same status stay reported.
    pub(super) fn answered_with(&self, status: StatusCode) {
        let mode = FailureMode::Status(status);
        let mut state = self.state.lock();
        let reported = state.modes.get(&mode).map(|count| count.reported);
        *state = State::default();
        if let Some(reported) = reported {
            state.modes.insert(mode, Count { requests: 0, reported });
        }
    }

    /// Returns whether to report the failure of a request's `attempt`th attempt.
    /// A failure is reported once for all requests that fail in the same way at the same time.
    pub(super) fn is_news(&self, way: FailureMode, attempt: u32) -> bool {
        let mut state = self.state.lock();
        let count = state.modes.entry(way).or_default();
        let news = attempt > count.reported;
        count.reported = count.reported.max(attempt);
        news
    }

    /// Counts a request that was given up. `limit` is the number of such requests that opens the breaker.
    /// A host that goes down may break one connection, refuse the next, and have a gateway answer for it, so failures of
    /// all modes count together. Those of the token server say nothing about the host.
    pub(super) fn gave_up(&self, way: FailureMode, repository: &str, limit: u32) -> Verdict {
        let mut state = self.state.lock();
        let count = state.modes.entry(way).or_default();
        count.requests += 1;
        let alike = count.requests;
        let is_of_host = |mode: FailureMode| !matches!(mode, FailureMode::NoToken | FailureMode::TokenFailed);
        let of_host = state.modes.iter().filter(|(mode, _)| is_of_host(**mode));
        let all: u32 = of_host.map(|(_, count)| count.requests).sum();
        if state.repositories.len() < REPOSITORIES && !state.repositories.iter().any(|known| known == repository) {
            state.repositories.push(repository.to_owned());
        }
        match way {
            FailureMode::Unreachable | FailureMode::Untrusted | FailureMode::NoToken if alike >= limit => {
                Verdict::Leave
            }
            FailureMode::TokenFailed
                if alike >= limit && state.repositories.len() >= REPOSITORIES.min(limit as usize) =>
            {
                Verdict::Leave
            }
            FailureMode::NoToken | FailureMode::TokenFailed => Verdict::GoOn,
            _ if all >= LIMIT_OF_REPOSITORIES && state.repositories.len() >= REPOSITORIES => Verdict::Leave,
            _ if all.is_multiple_of(limit) => Verdict::AskRoot,
            _ => Verdict::GoOn,
        }
    }

    /// Returns the number of consecutive failed requests that opens a host's breaker.
    /// The number is 1 for a mirror, since another host is available, and for an address that never answered, since it is
    /// most likely wrong.
    pub(super) fn limit(mirror: bool, wrong_address: bool) -> u32 {
        if mirror || wrong_address { 1 } else { LIMIT }
    }

    /// Opens the breaker; returns false if it is already open.
    /// Only transient failures of the origin are tried again later.
    pub(super) fn open(&self, way: FailureMode, mirror: bool, error: Error) -> bool {
        let mut state = self.state.lock();
        let first = state.open.is_none();
        let again = (way.may_pass() && !mirror).then(|| Instant::now() + PAUSE);
        state.open = Some(Open { error, again });
        drop(state);
        self.opened.notify_waiters();
        first
    }

    /// Waits for a pause, or until the breaker opens.
    /// Returns false if the breaker is open, or if `pause` returns false.
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
        assert!(breaker.open(BUSY, false, down()));
        assert!(!breaker.open(BUSY, false, down()), "it is open already");
        assert!(breaker.check().is_err());
        tokio::time::advance(PAUSE).await;
        assert!(breaker.check().is_ok());
        assert!(breaker.check().is_err(), "the others wait for the one");
        breaker.answered();
        assert!(breaker.check().is_ok());
        // A certificate does not become valid by waiting, and a mirror can be replaced.
        for (way, mirror) in [(FailureMode::Untrusted, false), (FailureMode::Unreachable, true)] {
            let breaker = Breaker::default();
            breaker.open(way, mirror, down());
            tokio::time::advance(PAUSE * 100).await;
            assert!(breaker.check().is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_when_the_breaker_opens() {
        let breaker = Breaker::default();
        let pause = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            true
        };
        assert!(breaker.wait(pause).await);
        let begun = Instant::now();
        let opening = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            breaker.open(BUSY, false, down());
        };
        let (waited, ()) = tokio::join!(breaker.wait(std::future::pending()), opening);
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

    #[test]
    fn a_report_of_another_failure_does_not_reset_the_count() {
        let breaker = Breaker::default();
        let verdicts = [(); 3].map(|()| {
            let verdict = breaker.gave_up(FailureMode::Unreachable, "a", LIMIT);
            breaker.is_news(FailureMode::Broken, 1);
            verdict
        });
        assert_eq!(verdicts, [Verdict::GoOn, Verdict::GoOn, Verdict::Leave]);
    }

    #[test]
    fn a_token_server_that_fails_for_one_repository_may_work_for_others() {
        let breaker = Breaker::default();
        for _ in 0..40 {
            assert_eq!(breaker.gave_up(FailureMode::TokenFailed, "a", LIMIT), Verdict::GoOn);
        }
        let verdicts = ["b", "c"].map(|name| breaker.gave_up(FailureMode::TokenFailed, name, LIMIT));
        assert_eq!(verdicts, [Verdict::GoOn, Verdict::Leave]);
        // Another host is available in place of a mirror.
        let verdict = Breaker::default().gave_up(FailureMode::TokenFailed, "a", 1);
        assert_eq!(verdict, Verdict::Leave);
    }

    #[test]
    fn failures_of_all_modes_count_together() {
        let breaker = Breaker::default();
        let modes = [FailureMode::Unreachable, FailureMode::Broken, BUSY];
        let verdicts = modes.map(|mode| breaker.gave_up(mode, "a", LIMIT));
        assert_eq!(verdicts, [Verdict::GoOn, Verdict::GoOn, Verdict::AskRoot]);
    }

    #[test]
    fn an_answer_keeps_only_the_reports_of_its_own_status() {
        let breaker = Breaker::default();
        let refused = FailureMode::Status(StatusCode::FORBIDDEN);
        assert!(breaker.is_news(refused, 1) && breaker.is_news(BUSY, 1));
        assert_eq!(breaker.gave_up(BUSY, "a", LIMIT), Verdict::GoOn);
        breaker.answered_with(StatusCode::FORBIDDEN);
        assert!(!breaker.is_news(refused, 1) && breaker.is_news(BUSY, 1));
        let verdicts = [(); 2].map(|()| breaker.gave_up(BUSY, "a", LIMIT));
        assert_eq!(verdicts, [Verdict::GoOn, Verdict::GoOn]);
        breaker.answered_with(StatusCode::OK);
        assert!(breaker.is_news(refused, 1));
    }
}
