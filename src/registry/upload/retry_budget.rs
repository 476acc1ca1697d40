//! Retry budget of one upload.

use std::time::Duration;

use crate::error::Error;
use crate::registry::options::Options;
use crate::registry::retry::{Backoff, BlobProgress};

/// Maximum number of sessions without progress for one blob.
const MAX_SESSIONS: u32 = 12;

/// Remaining pauses and sessions of one upload. Bytes that the registry acknowledges renew both.
pub(super) struct RetryBudget<'a> {
    options: &'a Options,
    pub(super) backoff: Backoff,
    progress: BlobProgress,
    /// Number of sessions used since the last renewal.
    sessions: u32,
}

impl<'a> RetryBudget<'a> {
    pub(super) fn new(options: &'a Options, size: u64) -> Self {
        Self {
            options,
            backoff: Backoff::new(options),
            progress: BlobProgress::new(0, size),
            sessions: 0,
        }
    }

    /// Counts a session that bytes are sent into.
    pub(super) fn count_session(&mut self) {
        self.sessions += 1;
    }

    /// Returns whether the budget has no sessions left.
    pub(super) fn is_spent(&self) -> bool {
        self.sessions >= MAX_SESSIONS
    }

    /// Renews the budget if the registry has acknowledged enough bytes since the last renewal.
    pub(super) fn acknowledged(&mut self, offset: u64) {
        if self.progress.renews(offset) {
            self.renew();
        }
    }

    pub(super) fn renew(&mut self) {
        (self.backoff, self.sessions) = (Backoff::new(self.options), 0);
    }

    /// Takes the next pause, not shorter than the pause that the registry `asked` for.
    /// Returns false if none is left.
    pub(super) async fn pause(&mut self, asked: Option<Duration>, error: &Error) -> bool {
        self.backoff.pause(self.options, asked, || error.full()).await
    }
}
