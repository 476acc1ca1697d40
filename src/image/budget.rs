//! The memory budget of a run for documents from outside, which no bundle or registry can exceed.
//!
//! The budget counts objects that may be numerous: parsed manifests, members of archives, names, platforms, and the plan of
//! each blob. Each object is counted by its maximum size before it is kept, and released when it is dropped. Buffers of a
//! fixed size are not counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Kind, Result};

/// Maximum memory of one run for parsed documents, in bytes. With the buffers of transfers, a run stays below 256 MB. A
/// multi-platform image takes about 75 KB, so that some 1700 images fit.
pub(crate) const LIMIT: u64 = 128 << 20;

/// Maximum memory of an image of ordinary size, in bytes.
const ORDINARY: u64 = 512 << 10;

/// Large images must leave this fraction of the budget free for ordinary images: one sixteenth.
const PART_FOR_ORDINARY: u64 = 16;

/// Memory that the name of an image takes, from the index of its bundle to its line in the report, in bytes.
pub(crate) const NAME: u64 = 3 << 10;

/// The memory budget of a run. All clones share it.
#[derive(Clone)]
pub struct Budget(Arc<Account>);

struct Account {
    limit: u64,
    taken: AtomicU64,
}

impl Budget {
    /// Default size of a budget in bytes.
    pub const DEFAULT: u64 = LIMIT;

    /// Creates a budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Account {
            limit,
            taken: AtomicU64::new(0),
        }))
    }

    /// Creates an unused budget of the same size, for another attempt after everything from the first attempt was dropped.
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.0.limit)
    }

    /// Takes `bytes` of the budget until the run ends.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if less than `bytes` is left; nothing is taken in that case.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let account = &self.0;
        let add = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= account.limit);
        match account.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.exceeded()),
        }
    }

    /// Takes `bytes` of the budget until the returned value is dropped.
    ///
    /// # Errors
    /// The same errors as [`take`](Self::take).
    pub fn hold(&self, bytes: u64) -> Result<Held> {
        self.take(bytes)?;
        let budget = self.clone();
        Ok(Held { budget, bytes })
    }

    /// Returns an error if an image is large and the budget left is too small for ordinary images.
    ///
    /// `bytes` is the memory that the image has already taken. A few large images must not make all other images of a run fail.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the image has to be refused.
    pub(crate) fn leave_room(&self, bytes: u64) -> Result<()> {
        match bytes > ORDINARY && self.left() < self.0.limit / PART_FOR_ORDINARY {
            true => Err(self.exceeded()),
            false => Ok(()),
        }
    }

    /// Gives back what was taken by [`take`](Self::take).
    pub(crate) fn give_back(&self, bytes: u64) {
        self.0.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns the number of bytes left.
    pub fn left(&self) -> u64 {
        self.0.limit.saturating_sub(self.0.taken.load(Ordering::Relaxed))
    }

    fn exceeded(&self) -> Error {
        Error::new(
            Kind::TooLarge,
            format!(
                "too large to handle: together with all else in this run it takes more than {} MiB of memory",
                self.0.limit >> 20
            ),
        )
        .with_hint("handle fewer images in one run; an import takes some of a bundle's images with `--only`")
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} of {} left)", self.left(), self.0.limit)
    }
}

/// A taken part of a budget, which is given back on drop.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: u64,
}

impl Held {
    /// Takes `bytes` more of the budget.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if less than `bytes` is left.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<()> {
        self.resize(self.bytes.saturating_add(bytes))
    }

    /// Keeps the taken memory until the run ends.
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }

    /// Changes the taken part to `bytes`, by taking more or giving some back.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if too little is left; the taken part stays unchanged in that case.
    pub fn resize(&mut self, bytes: u64) -> Result<()> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.budget.take(more)?,
            None => self.budget.give_back(self.bytes - bytes),
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = Budget::new(10);
        let mut held = budget.clone().hold(6).unwrap();
        assert_eq!(budget.hold(5).unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(budget.left(), 4);
        assert!(held.resize(11).is_err());
        held.resize(10).unwrap();
        assert_eq!(budget.left(), 0);
        held.resize(3).unwrap();
        budget.take(2).unwrap();
        assert_eq!(budget.left(), 5);
        drop(held);
        assert_eq!(budget.left(), 8);
        assert!(budget.hold(u64::MAX).is_err());
    }

    #[test]
    fn large_images_leave_a_part_to_ordinary_ones() {
        let budget = Budget::new(16 << 20);
        let _held = budget.hold(13 << 20).unwrap();
        budget.leave_room(8 << 20).unwrap();
        let _more = budget.hold(2 << 20).unwrap();
        budget.leave_room(2 << 20).unwrap();
        let _rest = budget.hold(768 << 10).unwrap();
        assert_eq!(budget.leave_room(2 << 20).unwrap_err().kind(), Kind::TooLarge);
        budget.leave_room(ORDINARY).unwrap();
    }
}
