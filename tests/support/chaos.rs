//! The faults that a [`Proxy`](super::proxy::Proxy) injects, drawn from a seed so that a run can be repeated.
//!
//! A draw depends on the seed, the request (method and path, without the names of upload sessions) and the number of equal
//! earlier requests. The draw does not depend on the order in which parallel requests arrive.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use super::fault::scatter;

/// A fault of one request or its answer. A position in a body is a fraction of the body's length, in 1/1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The connection is reset after the request's head; the registry never sees the request.
    Refused,
    /// The registry handles the request, but the connection is reset before the answer.
    Lost,
    /// The connection is reset at this position of the answer.
    Reset(u64),
    /// The connection is closed at this position of the answer.
    Closed(u64),
    /// The answer stops at this position, and the connection stays open.
    Stalled(u64),
    /// The answer begins after this delay.
    Late(Duration),
    /// One bit of the answer's body is flipped at this position.
    Flipped(u64),
    /// The answer's body arrives in small parts.
    Dripping,
    /// The answer is sent twice.
    Twice,
    /// The answer to another GET by digest is sent.
    Misplaced,
    /// Bytes that are not HTTP are sent.
    Garbage,
    /// An error status, such as 503, is sent.
    Trouble {
        status: u16,
        retry_after: RetryAfter,
        /// Whether the registry handles the request nevertheless.
        carried_out: bool,
    },
    /// A 401 is sent with a challenge for a token that the proxy itself issues.
    Challenged,
    /// The request's body is cut at this position, for both the client and the registry.
    UploadCut(u64),
    /// One bit of the request's body is flipped at this position.
    UploadFlipped(u64),
    /// The request's body is not read beyond this position.
    UploadStalled(u64),
}

/// The form of the `Retry-After` header of an error answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    Unsaid,
    Seconds(u64),
    /// A date, in this number of seconds from now.
    Date(u64),
}

impl Mishap {
    /// Returns the name under which this fault is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "connection reset before the answer",
            Self::Lost => "answer lost",
            Self::Reset(_) => "answer reset",
            Self::Closed(_) => "answer truncated",
            Self::Stalled(_) => "answer stalled",
            Self::Late(_) => "answer late",
            Self::Flipped(_) => "answer with a flipped bit",
            Self::Dripping => "answer dripping",
            Self::Twice => "answer twice",
            Self::Misplaced => "answer misplaced",
            Self::Garbage => "no HTTP",
            Self::Trouble { status: 429, .. } => "429",
            Self::Trouble { status: 500, .. } => "500",
            Self::Trouble { status: 502, .. } => "502",
            Self::Trouble { status: 503, .. } => "503",
            Self::Trouble { .. } => "504",
            Self::Challenged => "401",
            Self::UploadCut(_) => "upload cut",
            Self::UploadFlipped(_) => "upload with a flipped bit",
            Self::UploadStalled(_) => "upload stalled",
        }
    }
}

/// The parts of a request that a draw depends on.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Length of the body in bytes.
    pub body: u64,
}

impl Asked<'_> {
    /// Returns a hash of the request that does not depend on the name of the upload session.
    fn key(&self) -> u64 {
        let path = self.target.split('?').next().unwrap_or_default();
        let path = match path.split_once("/blobs/uploads/") {
            Some((front, _)) => format!("{front}/blobs/uploads/ {}", self.body),
            None => path.to_owned(),
        };
        let text = format!("{} {path}", self.method);
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// The faults of one run.
#[derive(Debug)]
pub struct Schedule {
    seed: u64,
    /// Number of requests per thousand that get a fault.
    rate: u64,
    /// Number of distinct requests per thousand that get the same fault each time.
    stubborn: u64,
    /// Ranges of request numbers in which every request gets the same fault.
    bursts: Vec<(Range<u64>, Mishap)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: u64,
    asked: HashMap<u64, u64>,
    happened: BTreeMap<&'static str, u64>,
}

/// A sequence of random numbers from a seed.
struct Dice(u64, u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.1 += 1;
        scatter(self.0, self.1) % n
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

impl Schedule {
    /// Creates the schedule of a seed. Schedules range from no faults to a fault in almost half of the requests.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(scatter(seed, 0), 0);
        let rate = dice.one_of(&[0, 15, 40, 80, 120, 200, 400]);
        let stubborn = dice.one_of(&[0, 0, 0, 15, 40]);
        let mut bursts = Vec::new();
        for _ in 0..dice.below(4) {
            let start = dice.below(60);
            let length = dice.one_of(&[1, 3, 8, 20]);
            let carried_out = dice.below(4) == 0;
            bursts.push((start..start + length, trouble(&mut dice, carried_out)));
        }
        Self {
            seed,
            rate,
            stubborn,
            bursts,
            state: Mutex::default(),
        }
    }

    /// Creates a schedule that gives every request the same fault.
    pub fn always(mishap: Mishap) -> Self {
        Self {
            seed: 0,
            rate: 0,
            stubborn: 0,
            bursts: vec![(0..u64::MAX, mishap)],
            state: Mutex::default(),
        }
    }

    /// Draws the fault of the next request.
    pub fn draw(&self, asked: Asked<'_>) -> Option<Mishap> {
        let key = asked.key();
        let (number, time) = {
            let mut state = self.state.lock().unwrap();
            state.requests += 1;
            let number = state.requests;
            let time = state.asked.entry(key).or_default();
            *time += 1;
            (number, *time)
        };
        if let Some((_, mishap)) = self.bursts.iter().find(|(span, _)| span.contains(&number)) {
            return Some(*mishap);
        }
        let mut once = Dice(scatter(self.seed, key), 0);
        if once.below(1000) < self.stubborn {
            return Some(mishap(&mut once, asked));
        }
        let mut each = Dice(scatter(scatter(self.seed, key), time), 0);
        (each.below(1000) < self.rate).then(|| mishap(&mut each, asked))
    }

    /// Counts a fault that was really injected: some drawn faults do not fit the registry's answer.
    pub fn happened(&self, mishap: Mishap) {
        *self.state.lock().unwrap().happened.entry(mishap.name()).or_default() += 1;
    }

    /// Returns the number of injected faults by name.
    pub fn tally(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().unwrap().happened.clone()
    }

    /// Returns the parameters of the schedule, for messages.
    pub fn describe(&self) -> String {
        format!(
            "seed {}: {} of 1000 requests, {} of 1000 stubborn, bursts {:?}",
            self.seed, self.rate, self.stubborn, self.bursts
        )
    }
}

fn trouble(dice: &mut Dice, carried_out: bool) -> Mishap {
    let waits = [
        RetryAfter::Unsaid,
        RetryAfter::Unsaid,
        RetryAfter::Seconds(0),
        RetryAfter::Seconds(1),
        RetryAfter::Date(1),
    ];
    Mishap::Trouble {
        status: dice.one_of(&[429, 500, 502, 503, 504]),
        retry_after: dice.one_of(&waits),
        carried_out,
    }
}

fn mishap(dice: &mut Dice, asked: Asked<'_>) -> Mishap {
    let at = dice.below(1025);
    if asked.body > 0 && dice.below(2) == 0 {
        return match dice.below(3) {
            0 => Mishap::UploadCut(at),
            1 => Mishap::UploadFlipped(at.min(1023)),
            _ => Mishap::UploadStalled(at.min(1023)),
        };
    }
    match dice.below(17) {
        0 => Mishap::Refused,
        1 => Mishap::Lost,
        2 | 3 => Mishap::Reset(at),
        4 => Mishap::Closed(at),
        5 => Mishap::Stalled(at.min(1023)),
        6 => Mishap::Late(Duration::from_millis(at)),
        7 | 8 => Mishap::Flipped(at.min(1023)),
        9 => Mishap::Dripping,
        10 | 11 => Mishap::Twice,
        12 => Mishap::Misplaced,
        13 => Mishap::Garbage,
        14 => Mishap::Challenged,
        _ => {
            let carried_out = dice.below(3) == 0;
            trouble(dice, carried_out)
        }
    }
}
