//! Upload capabilities of a host, learned from its behaviour and remembered for the run.
//! The host's name does not matter.
//!
//! | strategy | bodies | `Content-Range` | if refused |
//! |---|---|---|---|
//! | pieces | several PATCHes, sized by the speed of the line, and an empty PUT | always | whole |
//! | whole | one PUT | no | patch |
//! | patch | one PATCH, and an empty PUT | only from the middle on | chunks |
//! | chunks | several PATCHes, sized by what the host takes, and an empty PUT | always | the upload fails |

use crate::lock::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A way to send a blob, from the cheapest to the most robust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strategy {
    Pieces,
    Whole,
    Patch,
    Chunks,
}

impl Strategy {
    /// Returns the strategy to try if the host does not support this one; `None` after the last.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Pieces => Some(Self::Whole),
            Self::Whole => Some(Self::Patch),
            Self::Patch => Some(Self::Chunks),
            Self::Chunks => None,
        }
    }
}

/// Initial size of a chunk in bytes: the largest size that every known registry accepts.
const FIRST_CHUNK: u64 = 4 << 20;

/// Minimum size of a chunk in bytes: a proxy that refuses such a chunk refuses everything.
const SMALLEST_CHUNK: u64 = 64 << 10;

/// Maximum size of a chunk in bytes, even if the registry demands more.
/// Chunks are streamed, so they cost no memory.
const LARGEST_CHUNK: u64 = 1 << 30;

/// Target duration for sending one piece.
const PIECE_TIME: Duration = Duration::from_secs(2);

/// Size of the first piece in bytes, before the upload speed is known. Every known registry accepts it.
const FIRST_PIECE: u64 = 1 << 20;

/// Minimum size of a piece in bytes, however slow the line is.
const SMALLEST_PIECE: u64 = 256 << 10;

/// Maximum size of a piece in bytes, however fast the line is.
const LARGEST_PIECE: u64 = 256 << 20;

/// Known limits and speed of a host's uploads.
#[derive(Debug)]
pub(in crate::registry) struct UploadProfile {
    /// Cheapest strategy that is worth a try.
    cheapest: Mutex<Strategy>,
    /// Smallest body size in bytes that was refused as too large.
    too_large: AtomicU64,
    /// Current size of a chunk in bytes.
    chunk: AtomicU64,
    /// Size in bytes of the largest accepted body.
    taken: AtomicU64,
    /// Whether the host refused pieces.
    refuses_pieces: AtomicBool,
    /// Minimum size of a piece in bytes that the registry demands.
    minimum: AtomicU64,
    /// Recent upload speed in bytes per second; 0 if unknown.
    rate: AtomicU64,
}

impl Default for UploadProfile {
    fn default() -> Self {
        Self {
            cheapest: Mutex::new(Strategy::Whole),
            too_large: AtomicU64::new(u64::MAX),
            chunk: AtomicU64::new(FIRST_CHUNK),
            taken: AtomicU64::new(0),
            refuses_pieces: AtomicBool::new(false),
            minimum: AtomicU64::new(0),
            rate: AtomicU64::new(0),
        }
    }
}

impl UploadProfile {
    /// Returns the first strategy to try for a blob of this size.
    pub(super) fn strategy(&self, size: u64) -> Strategy {
        match size >= self.too_large.load(Ordering::Relaxed) {
            true => Strategy::Chunks,
            false => *self.cheapest.lock(),
        }
    }

    /// Records a strategy that succeeded after cheaper ones had failed for reasons that lie in the host.
    pub(super) fn learned(&self, strategy: Strategy) {
        let mut cheapest = self.cheapest.lock();
        *cheapest = strategy.max(*cheapest);
    }

    /// Records that a body of this size was accepted.
    pub(super) fn took(&self, size: u64) {
        self.taken.fetch_max(size, Ordering::Relaxed);
    }

    /// Returns whether a body of this size was accepted before, so that `size` is not too large.
    pub(super) fn takes(&self, size: u64) -> bool {
        size <= self.taken.load(Ordering::Relaxed)
    }

    /// Records that a body of this size was refused as too large.
    /// Returns false if chunks cannot get any smaller.
    pub(super) fn refused(&self, size: u64) -> bool {
        self.too_large.fetch_min(size, Ordering::Relaxed);
        let chunk = self.chunk();
        // The refused body was larger than a chunk, so chunks of the current size may still pass.
        if size > chunk {
            return true;
        }
        let smaller = (size.min(chunk) / 2).max(SMALLEST_CHUNK);
        self.chunk.fetch_min(smaller, Ordering::Relaxed);
        smaller < size
    }

    /// Records the registry's `OCI-Chunk-Min-Length`.
    pub(in crate::registry) fn at_least(&self, minimum: u64) {
        let minimum = minimum.min(LARGEST_CHUNK);
        self.chunk.fetch_max(minimum, Ordering::Relaxed);
        self.minimum.fetch_max(minimum, Ordering::Relaxed);
    }

    /// Records that the host does not accept a blob in pieces.
    pub(super) fn refused_pieces(&self) {
        self.refuses_pieces.store(true, Ordering::Relaxed);
    }

    /// Records the time from sending a body of this many bytes to its acknowledgement.
    pub(super) fn timed(&self, bytes: u64, time: Duration) {
        // The time of a smaller body depends more on the latency than on the speed.
        if bytes >= SMALLEST_PIECE {
            let rate = (bytes as f64 / time.as_secs_f64().max(1e-3)) as u64;
            let before = self.rate.load(Ordering::Relaxed);
            let mean = if before == 0 { rate } else { before.midpoint(rate) };
            self.rate.store(mean, Ordering::Relaxed);
        }
    }

    /// Returns the size of a piece in bytes; unlimited if the host refused pieces.
    pub(super) fn piece(&self) -> u64 {
        match self.refuses_pieces.load(Ordering::Relaxed) {
            true => u64::MAX,
            false => self.short(),
        }
    }

    /// Returns whether a body of this many bytes is sent within a few seconds.
    pub(super) fn is_short(&self, length: u64) -> bool {
        length <= self.short()
    }

    fn short(&self) -> u64 {
        let rate = self.rate.load(Ordering::Relaxed);
        let piece = match rate {
            0 => FIRST_PIECE,
            rate => (rate as f64 * PIECE_TIME.as_secs_f64()) as u64,
        };
        piece
            .clamp(SMALLEST_PIECE, LARGEST_PIECE)
            .max(self.minimum.load(Ordering::Relaxed))
    }

    /// Returns the size of a chunk in bytes.
    pub(super) fn chunk(&self) -> u64 {
        self.chunk.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_limit_is_found() {
        let profile = UploadProfile::default();
        assert_eq!(profile.strategy(1 << 40), Strategy::Whole);
        assert!(profile.refused(100 << 20));
        assert_eq!(
            (profile.strategy(100 << 20), profile.strategy(1 << 20), profile.chunk()),
            (Strategy::Chunks, Strategy::Whole, 4 << 20)
        );
        let mut tries = 0;
        while profile.chunk() > 1 << 20 {
            assert!(profile.refused(profile.chunk()));
            tries += 1;
        }
        assert_eq!(tries, 2);
        while profile.refused(profile.chunk()) {}
        assert_eq!(profile.chunk(), SMALLEST_CHUNK);
    }

    #[test]
    fn a_piece_takes_about_two_seconds() {
        let profile = UploadProfile::default();
        assert_eq!(profile.piece(), FIRST_PIECE);
        profile.timed(1000, Duration::from_secs(100));
        assert_eq!(profile.piece(), FIRST_PIECE, "a small body says nothing about the line");
        profile.timed(1 << 20, Duration::from_millis(250));
        assert_eq!(profile.piece(), 8 << 20);
        profile.timed(4 << 20, Duration::from_secs(2));
        assert_eq!(profile.piece(), 6 << 20);
        for _ in 0..40 {
            profile.timed(1 << 30, Duration::ZERO);
        }
        assert_eq!(profile.piece(), LARGEST_PIECE);
        for _ in 0..80 {
            profile.timed(1 << 20, Duration::from_secs(100));
        }
        assert_eq!(profile.piece(), SMALLEST_PIECE);
        profile.at_least(5 << 20);
        assert_eq!(profile.piece(), 5 << 20);
    }

    #[test]
    fn a_stated_minimum_counts() {
        let profile = UploadProfile::default();
        profile.at_least(5 << 20);
        assert_eq!(profile.chunk(), 5 << 20);
        profile.at_least(u64::MAX);
        assert_eq!(profile.chunk(), LARGEST_CHUNK);
        profile.learned(Strategy::Patch);
        assert_eq!(profile.strategy(1), Strategy::Patch);
    }
}
