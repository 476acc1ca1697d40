//! How long healthy images wait for images of a registry that does not answer or fails.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// Number of steps of [`STEP`] without a result after which the results so far are used without the missing ones.
/// Retries of a host that is down take a minute, so that five seconds cost little; a registry that works answers earlier.
const STEPS: u32 = 10;

/// Length of a step. Waiting in steps ignores a time in which the process did not run, such as a suspended machine: it
/// counts as one step.
const STEP: Duration = Duration::from_millis(500);

/// Waits for `next`. Returns `None` if it takes longer than five seconds; `next` is dropped then, so it must be cancel safe.
pub(super) async fn within_five_seconds<T>(next: impl Future<Output = T>) -> Option<T> {
    let mut next = pin!(next);
    for _ in 0..STEPS {
        if let Ok(value) = timeout(STEP, next.as_mut()).await {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_result_is_waited_for_only_so_long() {
        let after = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        assert_eq!(within_five_seconds(after(4)).await, Some(4));
        assert_eq!(within_five_seconds(after(6)).await, None);
    }
}
