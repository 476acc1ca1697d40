//! Size of the next part of a large blob, from the bytes that are left and the speeds of the connections. No I/O but the
//! clock.
//!
//! All connections should end together, with few requests, since a connection receives nothing during the round trip of a
//! request. A part cannot be cut short once it is requested without fetching bytes twice. So the first part of a connection is
//! small and measures its rate. Each later part is three quarters of what the connection would fetch until all connections
//! end: the last quarter makes up for rates that change, and for connections that come late.

use std::time::Duration;

use tokio::time::Instant;

/// Minimum size in bytes of a part.
const LEAST_PART: u64 = 256 << 10;

/// Maximum size in bytes of the first part of a connection.
const FIRST_PART: u64 = 4 << 20;

/// First part of a connection, as a fraction of its share: a connection with a tenth of the rate of the others still ends
/// with them.
const FIRST_FRACTION: f64 = 1.0 / 16.0;

/// Maximum size in bytes of a part in any case, and of one that lasts [`MOST_TRIPS`] round trips.
/// Parts stay in the page cache until they are hashed.
const PART: u64 = 32 << 20;
const MOST_PART: u64 = 256 << 20;

/// Minimum size in bytes of a blob that is fetched in parts.
pub(super) const LARGE: u64 = 2 * PART;

/// Fraction of the share of a connection that its next part has.
const FRACTION: f64 = 0.75;

/// Minimum and maximum duration of a part, in round trips.
/// The minimum bounds the cost of the requests near the end. The maximum bounds how late a connection ends that becomes slow
/// in the middle of a part, and what is left for connections that come late; longer parts would save less than 3 % of the time.
const LEAST_TRIPS: f64 = 4.0;
const MOST_TRIPS: f64 = 32.0;

/// Maximum duration of a part, as a multiple of the time since the first request for the blob, while the number of connections
/// grows: each new connection takes its share of what is left.
const MOST_AGES: f64 = 1.5;

/// Minimum number of received bytes from which a rate is computed.
const MEASURED: u64 = 128 << 10;

/// Speed of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    /// Bytes per second, without the time before the first bytes.
    rate: f64,
    /// Time from the request to the first bytes.
    latency: Duration,
}

/// Times of a part that is being fetched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    /// Time of the request.
    asked: Instant,
    /// Time at which the first bytes had arrived, and the offset behind them.
    begun: Option<(Instant, u64)>,
    /// Offset behind the last bytes that arrived.
    at: u64,
}

impl Meter {
    /// Returns the meter of a part that is requested now.
    pub(super) fn new() -> Self {
        Self {
            asked: Instant::now(),
            begun: None,
            at: 0,
        }
    }

    /// Returns the time since the request.
    pub(super) fn age(&self) -> Duration {
        self.asked.elapsed()
    }

    /// Records that the bytes before the offset `at` have arrived.
    pub(super) fn arrived(&mut self, at: u64) {
        self.begun.get_or_insert_with(|| (Instant::now(), at));
        self.at = at;
    }

    /// Returns the speed so far, or `None` if too few bytes have arrived.
    pub(super) fn speed(&self) -> Option<Speed> {
        let (since, from) = self.begun?;
        let (bytes, time) = (self.at - from, since.elapsed());
        (bytes >= MEASURED && !time.is_zero()).then(|| Speed {
            rate: bytes as f64 / time.as_secs_f64(),
            latency: since - self.asked,
        })
    }
}

/// Returns the size of the next part of a connection, in bytes.
///
/// `left` is the number of bytes that have not arrived. `age` is the time since the first request for the blob, or `None` if the
/// number of connections does not grow. `speed` is that of the connection, and `others` has the speeds of all other connections at
/// work. A speed is `None` until it is measured.
pub(super) fn next(left: u64, age: Option<Duration>, speed: Option<Speed>, others: &[Option<Speed>]) -> u64 {
    let even = left as f64 / (others.len() + 1) as f64;
    let Some(Speed { rate, latency }) = speed else {
        return ((even * FIRST_FRACTION) as u64).clamp(LEAST_PART, FIRST_PART);
    };
    let all = others
        .iter()
        .fold(rate, |all, other| all + other.map_or(rate, |other| other.rate));
    // A short measurement may be wrong by much.
    let share = (left as f64 * rate / all).min(even * 2.0);
    let trips = |count: f64| rate * latency.as_secs_f64() * count;
    let least = trips(LEAST_TRIPS);
    let part = (share * FRACTION).max(least);
    // The rest of the share would be too small for a part of its own.
    let part = if share - part < least { share } else { part };
    let most = age.map_or(f64::MAX, |age| rate * age.as_secs_f64() * MOST_AGES);
    let part = part.min(most);
    (part as u64).clamp(LEAST_PART, (trips(MOST_TRIPS) as u64).clamp(PART, MOST_PART))
}

/// Returns the size of the next part on a file system without sparse files, in bytes, for this number of other connections.
/// Only few connections work at a time there, so that each gets an even share.
pub(super) fn next_without_gaps(left: u64, others: usize) -> u64 {
    (left / (others as u64 + 1)).clamp(FIRST_PART, PART)
}
