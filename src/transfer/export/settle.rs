//! What becomes of a slot: hashed as far as it is written, then done, begun anew, or given up.

use super::fill::{Engine, Trouble};
use super::slot::Slot;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Hasher;
use crate::progress::Event;

/// How much is read back at a time.
const READ_BACK: usize = 1 << 20;

/// How often a blob may turn out wrong before it is given up, if not more places have it.
const MAX_WRONG: u32 = 2;

impl Engine {
    /// Hashes on over parts that are written and not hashed, if nobody else is at it.
    pub(super) async fn catch_up(&self, slot: &Slot) -> Result<(), Trouble> {
        loop {
            let (mut hasher, mut at, end) = {
                let mut state = slot.lock();
                let Some(end) = state.written.end_of(state.hashed) else {
                    return Ok(());
                };
                let Some(hasher) = state.hasher.take() else {
                    return Ok(());
                };
                (hasher, state.hashed, end)
            };
            let result = self.read_back(slot, &mut hasher, &mut at, end).await;
            slot.lock().give_back(hasher, at);
            result?;
        }
    }

    async fn read_back(&self, slot: &Slot, hasher: &mut Hasher, at: &mut u64, end: u64) -> Result<(), Trouble> {
        let mut buffer = vec![0; READ_BACK.min(usize::try_from(end - *at).unwrap_or(READ_BACK))];
        while *at < end {
            let want = buffer.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX));
            let got = self
                .filling
                .partial
                .read_at(&mut buffer[..want], slot.place.offset + *at)
                .map_err(Trouble::Output)?;
            if got < want {
                // The file is shorter than the journal says: what is absent reads as zeros later, and the digest tells.
                buffer[got..want].fill(0);
            }
            hasher.update(&buffer[..want]);
            *at += want as u64;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Looks at a slot after somebody worked on it: is it whole, wrong, or beyond help?
    pub(super) fn settle(&self, slot: &Slot, result: Result<(), Trouble>) -> Result<()> {
        match result {
            Ok(()) => {}
            Err(Trouble::Output(error)) => return Err(error),
            Err(Trouble::Source(error)) => {
                self.fail(slot, error);
                return Ok(());
            }
        }
        let size = slot.size();
        let hasher = {
            let mut state = slot.lock();
            if !state.pending.is_empty() || !state.active.is_empty() || state.hashed < size || state.failed {
                return Ok(());
            }
            state.hasher.take()
        };
        let Some(hasher) = hasher else { return Ok(()) };
        let found = hasher.finish();
        let blob = &slot.place.blob;
        if found == blob.digest {
            self.complete(slot)?;
            return Ok(());
        }
        // Each place that has it gets a chance.
        let max_wrong = MAX_WRONG.max(u32::try_from(self.filling.sources.count(&blob.digest)).unwrap_or(u32::MAX));
        let (inherited, reused) = {
            let mut state = slot.lock();
            let (inherited, reused) = (state.inherited, state.reused > 0);
            if !inherited {
                state.wrong += 1;
            }
            if inherited || state.wrong < max_wrong {
                state.reset(blob.digest.hasher());
            }
            (inherited, reused)
        };
        self.filling.journal.discard(slot.number)?;
        self.filling.progress.emit(Event::Bytes(-(size as i64)));
        if reused {
            let digest = &blob.digest;
            let text = format!("blob {digest}: what an earlier bundle has of it is wrong; fetching it instead");
            self.filling.progress.warn(text);
            return Ok(());
        }
        if inherited {
            self.filling.progress.note(format!(
                "blob {}: what was there of it is wrong; fetching it again",
                blob.digest
            ));
            return Ok(());
        }
        let error = Error::new(
            Kind::Integrity,
            format!(
                "blob {} has other bytes: they hash to {found} ({size} bytes)",
                blob.digest
            ),
        )
        .with_hint("the registry, or something between it and here, changes bytes; try again, or another registry");
        if slot.lock().wrong < max_wrong {
            self.filling.progress.warn(format!("{error}; fetching it again"));
        } else {
            self.fail(slot, error);
        }
        Ok(())
    }

    fn complete(&self, slot: &Slot) -> Result<()> {
        let partial = &self.filling.partial;
        let zeros = [0; 512];
        let padding = usize::try_from(slot.place.padding()).unwrap_or(0);
        partial.write_at(&slot.place.header()?, slot.place.header_offset)?;
        partial.write_at(&zeros[..padding], slot.place.end())?;
        let reused = slot.lock().reused;
        {
            let mut board = self.board();
            board.open.remove(&slot.number);
            board.reused.add(reused);
        }
        self.filling.progress.emit(Event::BlobDone {
            digest: slot.place.blob.digest.to_string(),
            size: slot.size(),
        });
        Ok(())
    }

    fn fail(&self, slot: &Slot, error: Error) {
        {
            let mut state = slot.lock();
            state.failed = true;
            state.pending.clear();
            // Whoever still works on a part of it finds that the part is gone, and stops.
            state.active.clear();
        }
        let mut board = self.board();
        board.open.remove(&slot.number);
        board.failures.entry(slot.place.blob.digest.clone()).or_insert(error);
    }
}
