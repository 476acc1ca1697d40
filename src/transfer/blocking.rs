//! Work that blocks, off the threads that serve connections and listen to the user.

use crate::error::{Error, Result};

/// Runs `work` on a thread of its own.
///
/// # Errors
/// If it panicked or the runtime ends; what `work` returns is returned as it is.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("a task ended early").with_source(e))
}
