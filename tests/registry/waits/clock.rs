//! Time that the test makes: a second of it passes for each moment in which nothing moves.

use std::time::Duration;

use tokio::time::{advance, timeout};

/// No test needs more of the scripted time than this.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Runs something to its end while the clock of the runtime, which has to be paused, is moved on.
///
/// # Panics
/// If a day of that time was not enough.
pub(crate) async fn run<T>(work: impl Future<Output = T>) -> T {
    let clock = async {
        loop {
            // Bytes on the wire need a moment that does not depend on the paused clock. As long as a thread is at work, the
            // runtime leaves the clock alone.
            let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
            advance(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        result = timeout(DAY, work) => result.expect("it is still waiting after a day"),
        () = clock => unreachable!("the clock never stops"),
    }
}
