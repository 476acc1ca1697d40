//! How many requests to a host may be under way at a time: a state machine without I/O, tasks or a clock of its own.
//!
//! A host that has not answered yet gets few requests. Then time is cut into rounds: as many answers as the limit allows
//! requests, or one second. While nothing is known about a host, the limit doubles after each round, as long as that makes the
//! whole faster by a good part of what it could. Then it goes back to the last limit that did, and from time to time some more
//! and some fewer are tried in turn: more stay if they help, and fewer if they do not hurt. Trouble (a 429 or 503, a broken connection) halves
//! the number of requests that are under way; from there it grows by one a round, and where that one is refused, the limit
//! before it stands. So a host with a limit of its own refuses one burst, and then single requests, ever more rarely.
//!
//! The idea is that of TCP (slow start, additive increase, multiplicative decrease) and of BBR (grow while the delivery rate
//! grows). The rate is taken instead of latencies: for the same number of requests the one is as good as the other (Little's
//! law), and the length of a request says nothing where bodies have all sizes.

use std::time::Duration;

use tokio::time::Instant;

/// What a request counts in bytes besides its body, so that answers without a body and large bodies have one rate.
const REQUEST: u64 = 128 << 10;

/// Minimum length of a round: answers of a near host come in fits and starts.
const SHORTEST_ROUND: Duration = Duration::from_millis(20);

/// A round ends after this time though few bodies have come to their end.
const LONGEST_ROUND: Duration = Duration::from_secs(1);

/// A larger limit stays if it brings at least this part of what it would bring if the host were not busy at all; a smaller one, if
/// it costs no more than that.
const LEAST_GAIN: f64 = 0.15;

/// The limits that are tried from time to time, in relation to the present one.
const MORE: f64 = 1.25;
const FEWER: f64 = 0.8;

/// Number of rounds before another limit is tried; it doubles with each trial that brings nothing.
const FIRST_PAUSE: u32 = 2;

/// The same where the limit is as large as it may be.
const PAUSE_AT_CEILING: u32 = 16;

/// Maximum number of rounds between two trials.
const LONGEST_PAUSE: u32 = 64;

/// Number of rounds before one request more is tried again after it was refused; it doubles too.
const PAUSE_AFTER_REFUSAL: u32 = 16;

/// The limit of a host, and how it changes.
#[derive(Debug)]
pub(super) struct Pace {
    limit: usize,
    /// No fewer are tried.
    floor: usize,
    ceiling: usize,
    phase: Phase,
    pause: u32,
    /// Whether fewer requests are tried next, and not more.
    fewer: bool,
    round: Round,
    /// When the limit last shrank for trouble. Requests that began before it had the same trouble.
    shrunk: Option<Instant>,
    /// A limit after trouble that a whole round went well with.
    good: Option<usize>,
}

/// What the present round is for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// No answer has come yet. With the limit that holds from then on.
    Greet(usize),
    /// Nothing is known yet: the limit doubles. With the limit before the last doubling, and the rate that it had.
    Start(Option<Trial>),
    /// The limit stays for this many rounds more.
    Keep(u32),
    /// The limit has changed; answers to requests that began before are still among those of this round.
    Settle(Trial),
    /// The rate of the new limit is measured.
    Try(Trial),
    /// After trouble: one more after this many rounds.
    Climb(u32),
}

/// The limit before another one that is being tried, and its rate in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Trial {
    from: usize,
    rate: f64,
}

#[derive(Debug, Default)]
struct Round {
    /// When its first event was; `None` before that.
    begun: Option<Instant>,
    bytes: u64,
    answers: usize,
    /// Whether a request had to wait because of the limit.
    pressed: bool,
}

impl Pace {
    /// A limit that finds itself: `first` until there is an answer, then `start`, and from there up to `ceiling`.
    pub(super) fn automatic(first: usize, start: usize, ceiling: usize) -> Self {
        Self::new(first, ceiling, Phase::Greet(start.min(ceiling)))
    }

    /// A limit that is below `ceiling` only after trouble.
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
            good: None,
        }
    }

    /// How many requests may be under way; at least one.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// A request has to wait because of the limit.
    pub(super) fn pressed(&mut self) {
        self.round.pressed = true;
    }

    /// Bytes of a body went over the line.
    pub(super) fn moved(&mut self, now: Instant, bytes: u64) {
        self.round.bytes = self.round.bytes.saturating_add(bytes);
        self.check(now);
    }

    /// A request came to a good end.
    pub(super) fn answered(&mut self, now: Instant) {
        self.round.bytes = self.round.bytes.saturating_add(REQUEST);
        self.round.answers += 1;
        if let Phase::Greet(start) = self.phase {
            self.limit = start.max(1);
            self.phase = Phase::Start(None);
        }
        self.check(now);
    }

    /// A request that began at `begun` was refused, or its connection broke, while `under_way` requests were. What began
    /// before the last trouble is part of that one.
    pub(super) fn trouble(&mut self, now: Instant, begun: Instant, under_way: usize) {
        if self.shrunk.is_some_and(|at| begun < at) {
            return;
        }
        self.shrunk = Some(now);
        self.round = Round::default();
        if let Some(good) = self.good.filter(|good| self.limit == good + 1) {
            self.limit = good;
            self.phase = Phase::Climb(self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            return;
        }
        self.good = None;
        self.pause = PAUSE_AFTER_REFUSAL;
        self.limit = (under_way.min(self.limit) / 2).max(1);
        self.phase = Phase::Climb(0);
    }

    /// Ends the round if it is long enough.
    fn check(&mut self, now: Instant) {
        let begun = *self.round.begun.get_or_insert(now);
        let time = now.saturating_duration_since(begun);
        let is_over = time >= LONGEST_ROUND || (self.round.answers >= self.limit && time >= SHORTEST_ROUND);
        if !is_over {
            return;
        }
        let round = std::mem::take(&mut self.round);
        self.round.begun = Some(now);
        // A round that the limit did not hold up says nothing about it.
        if round.pressed {
            self.decide(round.bytes as f64 / time.as_secs_f64());
        }
    }

    /// What follows a round with this rate.
    fn decide(&mut self, rate: f64) {
        let helped = |trial: Trial, limit: usize| {
            let growth = limit as f64 / trial.from as f64 - 1.0;
            rate >= trial.rate * (1.0 + growth * LEAST_GAIN)
        };
        self.phase = match self.phase {
            Phase::Greet(_) => self.phase,
            Phase::Start(Some(trial)) if !helped(trial, self.limit) => self.go_back(trial),
            Phase::Start(_) => match self.change(2.0, rate) {
                Some(trial) => Phase::Start(Some(trial)),
                None => Phase::Keep(PAUSE_AT_CEILING),
            },
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
                Phase::Climb(0)
            }
            Phase::Climb(rounds) => Phase::Climb(rounds - 1),
        };
    }

    /// Begins a trial of another limit.
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
