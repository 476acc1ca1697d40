//! Adaptive concurrency limit of a host: a state machine without I/O, tasks or a clock of its own.
//!
//! A host that has not answered yet gets few requests. Afterwards time is divided into rounds: as many answers as the limit
//! allows requests, a tenth of a second at a near host, or one second. At first the limit doubles after each round, as long as
//! the doubling raises the rate by a good part of what it could; it quadruples if the rounds are long and the rate grows as fast
//! as the limit. Then the limit returns to the last helpful value; from time to time a somewhat larger or smaller limit is tried
//! in turn: a larger limit stays if it helps, a smaller limit if it does not hurt.
//!
//! Each refusal (429 or 503) of one burst takes one from the number of requests in flight: what is left is what the host
//! accepted. A broken connection halves that number. From there the limit grows by one every other round. When that request
//! is refused, the limit before it stays, for twice as many rounds each time. So a host with a limit of its own refuses one
//! burst, and then single requests, ever more rarely.
//!
//! The method resembles TCP (slow start, additive increase, multiplicative decrease) and BBR (grow while the delivery rate
//! grows). It measures rates, not latencies: for a given number of requests, one follows from the other (Little's law), and
//! the duration of a request says nothing when bodies have all sizes.

use std::time::Duration;

use tokio::time::Instant;

/// Number of bytes counted for a request besides its body.
/// With it, one rate covers both answers without a body and large bodies.
const REQUEST: u64 = 128 << 10;

/// Minimum length of a round: answers of a near host come in bursts.
const SHORTEST_ROUND: Duration = Duration::from_millis(20);

/// Minimum length of a round of a near host, which gives many answers for each request that the limit allows. Its rate differs
/// from one moment to the next by more than a larger limit could gain, so that a short round would say little.
const NEAR_ROUND: Duration = Duration::from_millis(100);

/// Number of answers for each request of the limit, within [`SHORTEST_ROUND`], that makes a host a near one.
const NEAR_ANSWERS: usize = 4;

/// Maximum length of a round, however few requests were answered.
const LONGEST_ROUND: Duration = Duration::from_secs(1);

/// Minimum gain of a larger limit, as a fraction of the gain on an idle host.
/// A smaller limit may cost no more than that.
const LEAST_GAIN: f64 = 0.15;

/// Minimum length of a round of a distant host. Each round of a distant host is expensive, so its limit grows in larger steps.
const DISTANT_ROUND: Duration = Duration::from_millis(100);

/// Minimum gain of the last step before a larger step, as a fraction of the gain on an idle host.
/// A host that gains that much is far from its own limit.
const FULL_GAIN: f64 = 0.75;

/// Factors by which the limit grows at first: usually, and on a distant host that is far from its own limit.
const STEP: f64 = 2.0;
const LARGE_STEP: f64 = 4.0;

/// Factors of the limits that are tried from time to time, relative to the current limit.
const MORE: f64 = 1.25;
const FEWER: f64 = 0.8;

/// Number of rounds before another limit is tried; doubles with each trial that brings nothing.
const FIRST_PAUSE: u32 = 2;

/// Number of rounds before another limit is tried when the limit has reached its maximum.
const PAUSE_AT_CEILING: u32 = 16;

/// Maximum number of rounds between two trials.
const LONGEST_PAUSE: u32 = 64;

/// Number of rounds before one more request is tried after a refusal.
/// Doubles with each further refusal.
const PAUSE_AFTER_REFUSAL: u32 = 16;

/// Maximum number of rounds between two such trials. It takes hours to get there: the refusals of a host with a limit of its own
/// are few in a run of any length.
const LONGEST_PAUSE_AFTER_REFUSAL: u32 = 1 << 16;

/// Concurrency limit of a host, with the state that adjusts it.
#[derive(Debug)]
pub(super) struct Pace {
    limit: usize,
    /// Minimum limit that trials may choose.
    floor: usize,
    /// Maximum limit that trials may choose.
    ceiling: usize,
    phase: Phase,
    /// Number of rounds before the next trial.
    pause: u32,
    /// Whether the next trial lowers the limit.
    fewer: bool,
    round: Round,
    /// Time at which trouble last shrank the limit. Requests that began earlier belong to the same trouble.
    shrunk: Option<Instant>,
    /// Maximum number of requests that the host can have accepted when it last refused some.
    accepted: usize,
    /// Last limit after trouble that a whole round succeeded with.
    good: Option<usize>,
}

/// Kind of failure that shrinks the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The host throttled the request: 429 or 503.
    Refused,
    /// The connection broke.
    Broken,
}

/// Purpose of the current round.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// No answer has come yet. Holds the limit after the first answer.
    Greet(usize),
    /// The limit grows in large steps. Holds the limit before the last step and its rate.
    Start(Option<Trial>),
    /// The last step did not help in one round, which may be chance: the limit is measured once more.
    Doubt(Trial),
    /// The limit stays for this many more rounds.
    Keep(u32),
    /// The limit has changed, but some answers of the round belong to requests from before the change.
    Settle(Trial),
    /// The rate of the new limit is measured.
    Try(Trial),
    /// After trouble: the limit grows by one after this many rounds.
    Climb(u32),
}

/// The limit before a trial, and its rate in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Trial {
    from: usize,
    rate: f64,
}

#[derive(Debug, Default)]
struct Round {
    /// Time of the round's first event; `None` before that.
    begun: Option<Instant>,
    bytes: u64,
    answers: usize,
    /// Whether a request had to wait because of the limit.
    pressed: bool,
}

impl Pace {
    /// Creates an automatic limit.
    /// It is `first` until there is an answer, then `start`, and from there up to `ceiling`.
    pub(super) fn automatic(first: usize, start: usize, ceiling: usize) -> Self {
        Self::new(first, ceiling, Phase::Greet(start.min(ceiling)))
    }

    /// Creates a limit that is below `ceiling` only after trouble.
    pub(super) fn fixed(ceiling: usize) -> Self {
        Self::new(ceiling, ceiling, Phase::Climb(0))
    }

    fn new(start: usize, ceiling: usize, phase: Phase) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            limit: start.clamp(1, ceiling),
            floor: start.clamp(1, ceiling),
            ceiling,
            phase,
            pause: FIRST_PAUSE,
            fewer: false,
            round: Round::default(),
            shrunk: None,
            accepted: ceiling,
            good: None,
        }
    }

    /// Returns the maximum number of requests in flight; at least 1.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the number to which the limit may grow in large steps; the limit itself if it does not grow like that.
    pub(super) fn reach(&self) -> usize {
        match self.phase {
            Phase::Greet(_) | Phase::Start(_) | Phase::Doubt(_) => self.ceiling,
            _ => self.limit,
        }
    }

    /// Records that a request has to wait because of the limit.
    pub(super) fn pressed(&mut self) {
        self.round.pressed = true;
    }

    /// Records that bytes of a body were transferred.
    pub(super) fn moved(&mut self, now: Instant, bytes: u64) {
        self.round.bytes = self.round.bytes.saturating_add(bytes);
        self.check(now);
    }

    /// Records that a request succeeded.
    pub(super) fn answered(&mut self, now: Instant) {
        self.round.bytes = self.round.bytes.saturating_add(REQUEST);
        self.round.answers += 1;
        if let Phase::Greet(start) = self.phase {
            self.limit = start.max(1);
            self.phase = Phase::Start(None);
        }
        self.check(now);
    }

    /// Records that one of `under_way` requests was throttled, or that its connection broke.
    ///
    /// A request that began (at `begun`) before the last trouble belongs to that trouble: its refusal only lowers the number of
    /// requests that the host can have accepted.
    pub(super) fn trouble(&mut self, now: Instant, begun: Instant, under_way: usize, trouble: Trouble) {
        if self.shrunk.is_some_and(|at| begun < at) {
            if trouble == Trouble::Refused {
                self.accepted = self.accepted.saturating_sub(1).max(1);
                self.limit = self.limit.min(self.accepted);
            }
            return;
        }
        self.shrunk = Some(now);
        self.round = Round::default();
        let under_way = under_way.min(self.limit).max(1);
        self.accepted = (under_way - 1).max(1);
        let good = self.good.take();
        let pause = self.pause;
        match (good, trouble) {
            // One more request was tried, and the host refused it.
            (Some(good), _) if self.limit == good + 1 => {
                let longest = match trouble {
                    Trouble::Refused => LONGEST_PAUSE_AFTER_REFUSAL,
                    Trouble::Broken => LONGEST_PAUSE,
                };
                self.limit = good;
                self.good = Some(good);
                self.phase = Phase::Climb(pause.min(longest));
                self.pause = pause.max((pause * 2).min(longest));
            }
            // The host accepts slightly fewer requests than before, for example since other clients use it.
            (Some(good), Trouble::Refused) if self.accepted >= good - good / 4 => {
                self.limit = self.accepted;
                self.good = Some(self.limit);
                self.phase = Phase::Climb(pause);
            }
            _ => {
                self.limit = match trouble {
                    Trouble::Refused => self.accepted,
                    Trouble::Broken => (under_way / 2).max(1),
                };
                self.phase = Phase::Climb(0);
                self.pause = PAUSE_AFTER_REFUSAL;
            }
        }
    }

    /// Ends the round if it is long enough.
    fn check(&mut self, now: Instant) {
        let begun = *self.round.begun.get_or_insert(now);
        let time = now.saturating_duration_since(begun);
        let is_near = self.round.answers >= self.limit.saturating_mul(NEAR_ANSWERS);
        let shortest = if is_near { NEAR_ROUND } else { SHORTEST_ROUND };
        let is_over = time >= LONGEST_ROUND || (self.round.answers >= self.limit && time >= shortest);
        if !is_over {
            return;
        }
        let round = std::mem::take(&mut self.round);
        self.round.begun = Some(now);
        // A round in which no request waited says nothing about the limit.
        if round.pressed {
            self.decide(round.bytes as f64 / time.as_secs_f64(), time);
        }
    }

    /// Chooses the next phase and limit from the rate and the length of the finished round.
    fn decide(&mut self, rate: f64, time: Duration) {
        let gained = |trial: Trial, limit: usize, part: f64| {
            let growth = limit as f64 / trial.from as f64 - 1.0;
            rate >= trial.rate * (1.0 + growth * part)
        };
        let helped = |trial: Trial, limit: usize| gained(trial, limit, LEAST_GAIN);
        self.phase = match self.phase {
            Phase::Greet(_) => self.phase,
            Phase::Start(Some(trial)) if !helped(trial, self.limit) => Phase::Doubt(trial),
            Phase::Doubt(trial) if !helped(trial, self.limit) => self.go_back(trial),
            Phase::Start(last) => {
                let is_idle = last.is_some_and(|trial| gained(trial, self.limit, FULL_GAIN));
                let factor = if is_idle && time >= DISTANT_ROUND {
                    LARGE_STEP
                } else {
                    STEP
                };
                self.grow(factor, rate)
            }
            Phase::Doubt(_) => self.grow(STEP, rate),
            Phase::Keep(0) => self.attempt(rate),
            Phase::Keep(rounds) => Phase::Keep(rounds - 1),
            Phase::Settle(trial) => Phase::Try(trial),
            Phase::Try(trial) if !helped(trial, self.limit) => self.go_back(trial),
            Phase::Try(_) => {
                self.pause = FIRST_PAUSE;
                self.attempt(rate)
            }
            Phase::Climb(0) => {
                self.good = Some(self.limit);
                self.limit = (self.limit + 1).min(self.ceiling);
                // The answers of the next round belong to requests from before the change.
                Phase::Climb(1)
            }
            Phase::Climb(rounds) => Phase::Climb(rounds - 1),
        };
    }

    /// Raises the limit while it still grows in large steps.
    fn grow(&mut self, factor: f64, rate: f64) -> Phase {
        self.change(factor, rate)
            .map_or(Phase::Keep(PAUSE_AT_CEILING), |trial| Phase::Start(Some(trial)))
    }

    /// Starts a trial of another limit.
    fn attempt(&mut self, rate: f64) -> Phase {
        let factor = if self.fewer { FEWER } else { MORE };
        self.change(factor, rate).map_or_else(
            || {
                self.fewer = !self.fewer;
                Phase::Keep(self.pause)
            },
            Phase::Settle,
        )
    }

    fn change(&mut self, factor: f64, rate: f64) -> Option<Trial> {
        let from = self.limit;
        let other = (from as f64 * factor).ceil() as usize;
        self.limit = other.clamp(self.floor.min(from), self.ceiling);
        (self.limit != from).then_some(Trial { from, rate })
    }

    fn go_back(&mut self, trial: Trial) -> Phase {
        self.limit = trial.from;
        self.fewer = !self.fewer;
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Phase::Keep(pause)
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
