//! The end of a run that was interrupted: uploads stop at a point from which the next run can continue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Asks uploads to end where the registry has acknowledged what it got. Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    asked: AtomicBool,
    /// How many requests are worth waiting for.
    held: watch::Sender<usize>,
}

/// A request that is worth waiting for, until it is dropped.
#[derive(Debug)]
pub(super) struct Hold(Arc<Inner>);

impl Stop {
    /// Lets the requests end that are short and under way, and keeps further ones from being sent. Nothing that belongs to the
    /// run makes progress after that; it is to be dropped.
    pub async fn wind_up(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        // The sender lives as long as this does.
        let _ = self.0.held.subscribe().wait_for(|held| *held == 0).await;
    }

    /// The right to send something short. Waits for ever once the end was asked for.
    pub(super) async fn hold(&self) -> Hold {
        self.0.held.send_modify(|held| *held += 1);
        let hold = Hold(self.0.clone());
        // A call of `wind_up` after this sees the hold.
        if self.0.asked.load(Ordering::SeqCst) {
            drop(hold);
            return std::future::pending().await;
        }
        hold
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.held.send_modify(|held| *held -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn waits_for_what_is_under_way_and_lets_nothing_begin() {
        Stop::default().wind_up().await;
        let stop = Stop::default();
        let (first, second) = (stop.hold().await, stop.clone().hold().await);
        let mut end = Box::pin(stop.wind_up());
        assert!(end.as_mut().now_or_never().is_none());
        drop(first);
        assert!(end.as_mut().now_or_never().is_none());
        assert!(stop.hold().now_or_never().is_none());
        drop(second);
        assert!(end.now_or_never().is_some());
    }
}
