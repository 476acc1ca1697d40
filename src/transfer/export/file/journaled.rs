//! The unfinished file with its journal: records written bytes, and syncs the file regularly.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::slot::Slot;
use crate::bundle::journal::Journal;
use crate::bundle::partial::Partial;
use crate::bundle::plan;
use crate::error::Result;

/// Number of written bytes after which the file is synced to disk.
/// Frequent syncs limit the loss after a power cut and shorten the last sync before the rename.
const SYNC_STEP: u64 = 128 << 20;

/// An unfinished file and its journal.
#[derive(Debug)]
pub(super) struct Journaled {
    pub(super) partial: Arc<Partial>,
    journal: Arc<Journal>,
    /// Bytes recorded since the last sync.
    since_sync: AtomicU64,
}

impl Journaled {
    pub(super) fn new(partial: Arc<Partial>, journal: Arc<Journal>) -> Self {
        Self {
            partial,
            journal,
            since_sync: AtomicU64::new(0),
        }
    }

    /// Records written bytes of a slot in the journal, and starts a sync after [`SYNC_STEP`] bytes.
    ///
    /// # Errors
    /// Errors of the journal, and the error of an earlier sync in the background.
    pub(super) fn note(&self, slot: &Slot, range: Range<u64>) -> Result<()> {
        let length = range.end - range.start;
        slot.add_written(range.clone());
        self.partial.check_synced()?;
        self.journal.written(slot.number, range)?;
        let sum = self.since_sync.fetch_add(length, Ordering::Relaxed) + length;
        let reset = || {
            self.since_sync
                .compare_exchange(sum, 0, Ordering::Relaxed, Ordering::Relaxed)
        };
        if sum >= SYNC_STEP && reset().is_ok() {
            let (journal, partial) = (self.journal.clone(), self.partial.clone());
            // The sync runs in the background, so that the transfer continues. If it fails, the next call returns its
            // error.
            tokio::task::spawn_blocking(move || journal.synced(|| partial.sync()));
        }
        Ok(())
    }

    /// Records in the journal that the written bytes of a slot are invalid.
    pub(super) fn discard(&self, slot: &Slot) -> Result<()> {
        self.journal.discard(slot.number)
    }
}

/// Writes the tar header before a slot's bytes and the padding behind them.
pub(super) fn frame(partial: &Partial, place: &plan::BlobSlot) -> Result<()> {
    let padding = usize::try_from(place.padding()).unwrap_or(0);
    partial.write_at(&place.header()?, place.header_offset)?;
    partial.write_at(&[0; 512][..padding], place.end())
}
