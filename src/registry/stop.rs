//! Graceful end of an interrupted run: uploads stop at a point from which the next run can resume.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Signal to stop uploads once the registry has acknowledged the bytes already sent.
/// Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether the stop was requested.
    asked: AtomicBool,
    /// Number of requests in flight that the stop waits for.
    held: watch::Sender<usize>,
}

/// A request in flight that the stop waits for, until the value is dropped.
#[derive(Debug)]
pub(super) struct Admission(Arc<Inner>);

impl Stop {
    /// Waits for short requests in flight, and keeps further requests from being sent.
    /// Afterwards no task of the run makes progress; the caller drops the run.
    pub async fn wind_up(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        // The sender lives as long as `self`.
        let _ = self.0.held.subscribe().wait_for(|held| *held == 0).await;
    }

    /// Returns whether [`wind_up`](Self::wind_up) has nothing to wait for.
    pub fn is_idle(&self) -> bool {
        *self.0.held.borrow() == 0
    }

    /// Returns the permission to send a short request. Never returns once the stop was requested.
    pub(super) async fn admit(&self) -> Admission {
        self.0.held.send_modify(|held| *held += 1);
        let admission = Admission(self.0.clone());
        // The order matters: a call of `wind_up` after this check sees the admission.
        if self.0.asked.load(Ordering::SeqCst) {
            drop(admission);
            return std::future::pending().await;
        }
        admission
    }
}

impl Drop for Admission {
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
        let (first, second) = (stop.admit().await, stop.clone().admit().await);
        let mut end = Box::pin(stop.wind_up());
        assert!(end.as_mut().now_or_never().is_none() && !stop.is_idle());
        drop(first);
        assert!(end.as_mut().now_or_never().is_none());
        assert!(stop.admit().now_or_never().is_none());
        drop(second);
        assert!(end.now_or_never().is_some() && stop.is_idle());
    }
}
