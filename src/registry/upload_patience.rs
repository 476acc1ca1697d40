//! How long an upload that breaks again and again is put up with.

use std::time::{Duration, Instant};

/// So many more bytes kept, or so long a connection held, are progress.
const PROGRESS: u64 = 1 << 20;
const HELD: Duration = Duration::from_secs(60);

/// What an upload had to show for itself when it last broke.
pub(super) struct Patience {
    kept: u64,
    since: Instant,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            kept: 0,
            since: Instant::now(),
        }
    }

    /// Whether so much has happened since it last broke that patience starts anew; the registry has so many bytes now.
    pub(super) fn renewed(&mut self, kept: u64) -> bool {
        let renewed = kept >= self.kept + PROGRESS || self.since.elapsed() >= HELD;
        *self = Self { kept, ..Self::new() };
        renewed
    }
}
