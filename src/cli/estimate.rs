//! The speed of a transfer, and an estimate of the remaining time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Length of the most recent period that the speed is measured over.
const WINDOW: Duration = Duration::from_secs(15);

/// Minimum time to measure before the remaining time is estimated.
const FIRST: Duration = Duration::from_secs(3);

/// Overhead of the request for one blob, in bytes that could be sent in the same time.
const PER_BLOB: u64 = 16 << 10;

/// Assumed speed of manifests before any was sent, in manifests per second.
const MANIFESTS_PER_SECOND: f64 = 20.0;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    bytes: u64,
    blobs: u64,
    manifests: u64,
}

/// Samples of a transfer's progress in the last [`WINDOW`].
#[derive(Debug, Default)]
pub(super) struct Speed(VecDeque<Sample>);

impl Speed {
    pub(super) fn add(&mut self, at: Instant, bytes: u64, blobs: u64, manifests: u64) {
        let sample = Sample {
            at,
            bytes,
            blobs,
            manifests,
        };
        // Four samples a second are enough, and bound the list.
        let is_close = |before: &Sample| at.saturating_duration_since(before.at) < Duration::from_millis(250);
        if self.0.len() > 1 && self.0.iter().rev().nth(1).is_some_and(is_close) {
            self.0.pop_back();
        }
        self.0.push_back(sample);
        while self.0.len() > 2 && at.saturating_duration_since(self.0[0].at) > WINDOW {
            self.0.pop_front();
        }
    }

    /// Returns the first and the last sample and the seconds between them; `None` below 0.4 s, where a rate would be noise.
    fn ends(&self) -> Option<(Sample, Sample, f64)> {
        let (first, last) = (*self.0.front()?, *self.0.back()?);
        let time = last.at.saturating_duration_since(first.at);
        (time > Duration::from_millis(400)).then_some((first, last, time.as_secs_f64()))
    }

    /// Returns the speed in bytes per second, or `None` before there is enough to measure.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub(super) fn bytes_per_second(&self) -> Option<u64> {
        let (first, last, seconds) = self.ends()?;
        Some((last.bytes.saturating_sub(first.bytes) as f64 / seconds) as u64)
    }
}

/// Estimates the remaining time from the speed of the last seconds.
///
/// `bytes`, `blobs` and `manifests` are the amounts that remain. Returns `None` in the first seconds and while nothing moves.
/// Manifests are sent after the blobs and are estimated by their own speed.
#[allow(clippy::cast_precision_loss)]
pub(super) fn time_left(speed: &Speed, bytes: u64, blobs: u64, manifests: u64) -> Option<Duration> {
    let (first, last, seconds) = speed.ends()?;
    if seconds < FIRST.as_secs_f64() {
        return None;
    }
    let cost = |bytes: u64, blobs: u64| bytes as f64 + (blobs as f64) * PER_BLOB as f64;
    let moved = cost(
        last.bytes.saturating_sub(first.bytes),
        last.blobs.saturating_sub(first.blobs),
    );
    let of_blobs = match cost(bytes, blobs) {
        0.0 => 0.0,
        _ if moved == 0.0 => return None,
        rest => rest / (moved / seconds),
    };
    let sent = last.manifests.saturating_sub(first.manifests) as f64 / seconds;
    // While blobs remain, few manifests are sent, so their measured rate says nothing about how fast they can go.
    let of_manifests = manifests as f64
        / if bytes == 0 && sent > 0.0 {
            sent
        } else {
            MANIFESTS_PER_SECOND.max(sent)
        };
    Duration::try_from_secs_f64((of_blobs + of_manifests).ceil()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a `Speed` with samples of (second, bytes, blobs, manifests).
    fn speed(samples: &[(f64, u64, u64, u64)]) -> Speed {
        let start = Instant::now();
        let mut speed = Speed::default();
        for (second, bytes, blobs, manifests) in samples {
            speed.add(start + Duration::from_secs_f64(*second), *bytes, *blobs, *manifests);
        }
        speed
    }

    #[test]
    fn the_time_left_counts_blobs_and_manifests() {
        let even = speed(&[(0.0, 0, 0, 0), (4.0, 40 << 20, 0, 0)]);
        assert_eq!(even.bytes_per_second(), Some(10 << 20));
        let seconds = |bytes, blobs, manifests| time_left(&even, bytes, blobs, manifests).map(|left| left.as_secs());
        assert_eq!(seconds(100 << 20, 0, 0), Some(10));
        assert_eq!(seconds(100 << 20, 0, 200), Some(20));
        assert_eq!(seconds(0, 6400, 0), Some(10));
        assert_eq!(seconds(0, 0, 0), Some(0));
        // Once no bytes remain, the measured speed of manifests is used.
        let end = speed(&[(0.0, 0, 0, 0), (10.0, 0, 0, 50)]);
        assert_eq!(time_left(&end, 0, 0, 100).unwrap().as_secs(), 20);
    }

    #[test]
    fn nothing_is_said_in_the_first_seconds_or_while_nothing_moves() {
        let begun = speed(&[(0.0, 0, 0, 0), (2.0, 1 << 20, 0, 0)]);
        assert_eq!(time_left(&begun, 1 << 20, 0, 0), None);
        assert!(begun.bytes_per_second().is_some());
        let stuck = speed(&[(0.0, 7, 0, 0), (9.0, 7, 0, 0)]);
        assert_eq!(time_left(&stuck, 1, 0, 0), None);
        // A blob with a wrong digest is subtracted again, so the count of bytes can fall.
        let back = speed(&[(0.0, 9 << 20, 0, 0), (9.0, 0, 0, 0)]);
        assert_eq!((back.bytes_per_second(), time_left(&back, 1, 0, 0)), (Some(0), None));
    }

    #[test]
    fn only_the_last_seconds_count_and_the_list_is_bounded() {
        let mut speed = Speed::default();
        let start = Instant::now();
        for step in 0..10_000_u64 {
            let bytes = if step < 5000 { 0 } else { (step - 5000) << 10 };
            speed.add(start + Duration::from_millis(step * 10), bytes, 0, 0);
        }
        assert!(speed.0.len() < 200, "{}", speed.0.len());
        let rate = speed.bytes_per_second().unwrap();
        assert!((95 << 10..105 << 10).contains(&rate), "{rate}");
    }
}
