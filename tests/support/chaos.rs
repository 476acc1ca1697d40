//! What a [`Proxy`](super::proxy::Proxy) does wrong, and when: drawn from a seed, so that a run can be looked at again.
//!
//! A draw depends on the seed, on what is asked (method and path, without the names of upload sessions) and on how often
//! that was asked before; not on the order in which requests that run side by side happen to arrive.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use super::fault::scatter;

/// One thing that goes wrong with one exchange. A place in a body is a fraction of its length, in 1/1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// RST once the request is read to the end of its head; nobody hears of it.
    Refused,
    /// The request is carried out, and its answer is lost: RST.
    Lost,
    /// The answer ends in a RST.
    Reset(u64),
    /// The answer ends in a FIN.
    Closed(u64),
    /// The answer stops, and nothing more comes.
    Stalled(u64),
    /// The answer begins late.
    Late(Duration),
    /// One bit of the answer's body is another.
    Flipped(u64),
    /// The answer's body comes in small pieces.
    Dripping,
    /// The answer comes twice.
    Twice,
    /// The answer to another GET by digest comes.
    Misplaced,
    /// What comes is no HTTP.
    Garbage,
    /// A status of a server in trouble.
    Trouble {
        status: u16,
        retry_after: RetryAfter,
        /// Whether the request is carried out all the same.
        carried_out: bool,
    },
    /// 401 with a challenge for a token, which the proxy itself hands out.
    Challenged,
    /// The request's body ends early, for both sides.
    UploadCut(u64),
    /// One bit of the request's body is another.
    UploadFlipped(u64),
    /// The request's body is not read any more.
    UploadStalled(u64),
}

/// How a server in trouble says when to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    Unsaid,
    Seconds(u64),
    /// As a date, so many seconds from now.
    Date(u64),
}

impl Mishap {
    /// A word for counting.
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

/// What is asked, as far as a draw depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Bytes of its body.
    pub body: u64,
}

impl Asked<'_> {
    /// The same for the same request, whatever the registry called the upload.
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

/// What goes wrong in one run.
#[derive(Debug)]
pub struct Schedule {
    seed: u64,
    /// Requests of a thousand that something happens to.
    rate: u64,
    /// Of a thousand kinds of requests, those that the same happens to each time.
    stubborn: u64,
    /// Spans of the run, counted in requests, in which every request gets the same status.
    bursts: Vec<(Range<u64>, Mishap)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: u64,
    asked: HashMap<u64, u64>,
    happened: BTreeMap<&'static str, u64>,
}

/// A sequence of draws.
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
    /// That of a seed: from hardly anything to nearly everything.
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

    /// The same to every request.
    pub fn always(mishap: Mishap) -> Self {
        Self {
            seed: 0,
            rate: 0,
            stubborn: 0,
            bursts: vec![(0..u64::MAX, mishap)],
            state: Mutex::default(),
        }
    }

    /// What happens to the next request.
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

    /// Notes that something was really done: not all that is drawn fits what the registry answers.
    pub fn happened(&self, mishap: Mishap) {
        *self.state.lock().unwrap().happened.entry(mishap.name()).or_default() += 1;
    }

    /// What was done, and how often.
    pub fn tally(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().unwrap().happened.clone()
    }

    /// How it was drawn, for messages.
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
