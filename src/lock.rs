//! A mutex without poisoning.

use std::sync::{MutexGuard, PoisonError};

/// A mutex that stays usable after a thread panicked while holding the lock.
///
/// The value is used as the panicking thread left it:
/// the panic ends the run, and the threads that clean up until then must not panic as well.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits until no other thread holds the lock, and takes it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the value and consumes the mutex.
    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
