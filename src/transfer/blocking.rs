//! Runs blocking work away from the threads that serve connections and handle signals.

use crate::error::{Error, Result};

/// Runs `work` on a thread for blocking work and returns its result.
///
/// # Errors
/// If `work` panicked or the runtime shut down. Errors that `work` itself returns are part of `T`.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("a task ended early").with_source(e))
}
