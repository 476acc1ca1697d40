//! A virtual clock: one second passes for each moment in which nothing moves.

use std::time::Duration;

use tokio::time::{advance, timeout};

/// No test needs more of the scripted time than this.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Runs `work` to its end while the paused clock of the runtime is advanced.
///
/// # Panics
///
/// If a day of that time was not enough.
pub(crate) async fn run<T>(work: impl Future<Output = T>) -> T {
    let clock = async {
        loop {
            // Bytes on the wire need real time, which the paused clock does not measure. While a blocking thread works,
            // the runtime does not advance the clock.
            let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
            advance(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        result = timeout(DAY, work) => result.expect("it is still waiting after a day"),
        () = clock => unreachable!("the clock never stops"),
    }
}
