//! On file systems without gaps: nobody writes far ahead of the first byte that is absent.
//!
//! FAT and exFAT fill what is skipped with zeros, which costs as much as the bytes themselves and comes before them.

use tokio::sync::Notify;

/// Nobody starts to write farther than this ahead of the first byte that is absent.
pub(super) const AHEAD: u64 = 64 << 20;

/// Holds back those who are too far ahead.
#[derive(Debug, Default)]
pub(super) struct Gate(Notify);

impl Gate {
    /// Whether somebody may write at `at` while everything before `front` is there; both in bytes from the start of the file.
    pub(super) fn is_open(front: u64, at: u64) -> bool {
        at <= front.saturating_add(AHEAD)
    }

    /// Waits until the gate is open for `at`; `front` tells how far it is.
    pub(super) async fn pass(&self, at: u64, front: impl Fn() -> u64) {
        loop {
            // Before the look, so that no move between the look and the wait is missed.
            let moved = self.0.notified();
            if Self::is_open(front(), at) {
                return;
            }
            moved.await;
        }
    }

    /// The front has moved.
    pub(super) fn moved(&self) {
        self.0.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn opens_as_the_front_moves() {
        assert!(Gate::is_open(0, AHEAD) && !Gate::is_open(0, AHEAD + 1) && Gate::is_open(u64::MAX, u64::MAX));
        let gate = Arc::new(Gate::default());
        let front = Arc::new(AtomicU64::new(0));
        let waiting = tokio::spawn({
            let (gate, front) = (gate.clone(), front.clone());
            async move { gate.pass(AHEAD + 10, || front.load(Ordering::SeqCst)).await }
        });
        for at in [0, 1, 9] {
            front.store(at, Ordering::SeqCst);
            gate.moved();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished(), "open at {at}");
        }
        front.store(10, Ordering::SeqCst);
        gate.moved();
        waiting.await.unwrap();
    }
}
