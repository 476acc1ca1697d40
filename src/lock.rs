//! A mutex that can always be locked.

use std::sync::{MutexGuard, PoisonError};

/// A mutex that survives the panic of a thread that holds it. What such a thread leaves behind is used as it is: the panic ends the
/// run, and the threads that put things in order until then must not panic as well.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits until no other thread holds it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, once no other thread has the mutex.
    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
