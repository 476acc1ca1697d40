//! The unfinished file together with its journal: what is written is noted, and made durable now and then.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::slot::Slot;
use crate::bundle::journal::Journal;
use crate::bundle::partial::Partial;
use crate::bundle::plan;
use crate::error::Result;

/// Number of written bytes after which they are made durable, so that a power cut costs little and the last sync before the
/// rename has little left to do.
const SYNC_STEP: u64 = 128 << 20;

/// An unfinished file and its journal.
#[derive(Debug)]
pub(super) struct Journaled {
    pub(super) partial: Arc<Partial>,
    journal: Arc<Journal>,
    /// Bytes that were noted since the last sync.
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

    /// Notes written bytes of a slot, and makes them durable after [`SYNC_STEP`].
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
            // In the background: the transfer goes on. The next part that is noted finds out if this fails.
            tokio::task::spawn_blocking(move || journal.synced(|| partial.sync()));
        }
        Ok(())
    }

    /// Notes that what the journal says of a slot is wrong.
    pub(super) fn discard(&self, slot: &Slot) -> Result<()> {
        self.journal.discard(slot.number)
    }
}

/// Writes what stands around the bytes of a slot in the tar: its header and its padding.
pub(super) fn frame(partial: &Partial, place: &plan::BlobSlot) -> Result<()> {
    let padding = usize::try_from(place.padding()).unwrap_or(0);
    partial.write_at(&place.header()?, place.header_offset)?;
    partial.write_at(&[0; 512][..padding], place.end())
}
