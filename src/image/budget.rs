//! The memory that a run may take for documents from outside: counted, so that no bundle or registry can exceed it.
//!
//! What is counted are the things of which there may be many: manifests as they are parsed, members of archives, names,
//! platforms, and what is planned for each blob. Each is counted by what it takes at most, before it is kept, and given back
//! when it is dropped. Buffers of a fixed size are not counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Kind, Result};

/// Memory in bytes that one run may take for what it parses. With the buffers of transfers a run stays below 256 MB. A
/// multi-platform image takes about 75 KB, so that some 1700 of them fit.
pub(crate) const LIMIT: u64 = 128 << 20;

/// Memory in bytes that an image of ordinary size takes at most.
const ORDINARY: u64 = 512 << 10;

/// The part of the budget that larger images leave to ordinary ones.
const PART_FOR_ORDINARY: u64 = 16;

/// Memory in bytes that a name takes, from the index of its bundle to its line in the report.
pub(crate) const NAME: u64 = 3 << 10;

/// The memory budget of a run. All clones share it.
#[derive(Clone)]
pub struct Budget(Arc<Account>);

struct Account {
    limit: u64,
    taken: AtomicU64,
}

impl Budget {
    /// The bytes of the default budget.
    pub const DEFAULT: u64 = LIMIT;

    /// A budget of this many bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Account {
            limit,
            taken: AtomicU64::new(0),
        }))
    }

    /// A budget of the same size, of which nothing is taken: for another attempt, when all that the first one kept was dropped.
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.0.limit)
    }

    /// Takes memory for as long as the run lasts.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if less is left; nothing is taken then.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let account = &self.0;
        let add = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= account.limit);
        match account.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.exceeded()),
        }
    }

    /// Takes memory until what is returned is dropped.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn hold(&self, bytes: u64) -> Result<Held> {
        self.take(bytes)?;
        let budget = self.clone();
        Ok(Held { budget, bytes })
    }

    /// Refuses an image that takes this many bytes, all of which are taken, if it is large and leaves too little for images of
    /// ordinary size: a few large images in a run are no reason for all others to fail.
    ///
    /// # Errors
    /// [`Kind::TooLarge`].
    pub(crate) fn leave_room(&self, bytes: u64) -> Result<()> {
        match bytes > ORDINARY && self.left() < self.0.limit / PART_FOR_ORDINARY {
            true => Err(self.exceeded()),
            false => Ok(()),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.0.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How many bytes are left.
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

/// Memory that was taken, and is given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: u64,
}

impl Held {
    /// Takes this many bytes more.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if less is left.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<()> {
        self.resize(self.bytes.saturating_add(bytes))
    }

    /// Keeps it for as long as the run lasts.
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }

    /// Takes more, or gives some back, so that it is this many bytes.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if less is left; it stays what it was then.
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
