//! Workers fetch blobs side by side; each is written to its own place and hashed on the way.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::journaled::{Journaled, frame};
use super::scheduler::{Assignment, Scheduler, Work};
use super::slot::{Slot, Verdict};
use super::whole_sum::InPlace;
use crate::bundle::plan::Plan;
use crate::bundle::ranges::Ranges;
use crate::error::{Error, Kind, Result, Side};
use crate::image::digest::Hasher;
use crate::lock::Mutex;
use crate::progress::{Event, Progress};
use crate::transfer::blocking::blocking;
use crate::transfer::export::request::Reused;
use crate::transfer::export::resolved::Failures;
use crate::transfer::export::reuse::{CopyError, Earlier};
use crate::transfer::sources::Sources;

/// Number of bytes that are copied from an earlier bundle before the journal learns of them.
const COPY_STEP: u64 = 64 << 20;

/// Number of bytes that are read back at a time.
const READ_BACK: usize = 1 << 20;

/// How often a blob may turn out wrong before it is given up, unless more repositories have it.
const MAX_WRONG: usize = 2;

/// Everything that filling needs.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) plan: Arc<Plan>,
    pub(super) output: Journaled,
    pub(super) sources: Sources,
    pub(super) earlier: Arc<Earlier>,
    pub(super) progress: Progress,
    pub(super) jobs: usize,
    /// Whether gaps in the file cost nothing.
    pub(super) sparse: bool,
    /// Told of what is in place, for the sum of the file.
    pub(super) in_place: Option<Arc<InPlace>>,
}

/// The result of filling.
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// The blobs that could not be fetched.
    pub(super) failures: Failures,
    pub(super) reused: Reused,
}

/// Fills every slot of a plan. `written` has the bytes that are in the file, by the number of their slot; they are hashed again.
///
/// # Errors
/// A failure of the output, which ends everything. Blobs that cannot be fetched are returned; all other blobs are in place.
pub(super) async fn fill(filling: Filling, mut written: HashMap<usize, Ranges>) -> Result<Filled> {
    let slots = filling.plan.blobs().iter().enumerate().map(|(number, place)| {
        let there = written.remove(&number).unwrap_or_default();
        Slot::new(number, place.clone(), there, filling.earlier.find(&place.blob))
    });
    let workers = Arc::new(Workers {
        scheduler: Mutex::new(Scheduler::new(slots, filling.sparse)),
        filled: Mutex::default(),
        changed: Notify::new(),
        filling,
    });
    let mut tasks = JoinSet::new();
    for _ in 0..workers.filling.jobs.max(1) {
        let workers = workers.clone();
        tasks.spawn(async move { workers.work().await });
    }
    while let Some(finished) = tasks.join_next().await {
        // The first failure of the output ends all workers: dropping the set aborts them.
        finished.map_err(|e| Error::internal("a worker ended early").with_source(e))??;
    }
    let filled = std::mem::take(&mut *workers.filled.lock());
    Ok(filled)
}

/// What the workers share.
#[derive(Debug)]
struct Workers {
    filling: Filling,
    scheduler: Mutex<Scheduler>,
    filled: Mutex<Filled>,
    /// Notified when the scheduler may have work for a worker that found none before.
    changed: Notify,
}

impl Workers {
    async fn work(&self) -> Result<()> {
        let mut own: Option<Arc<Slot>> = None;
        loop {
            // Before the question, so that no change between the answer and the wait is missed.
            let changed = self.changed.notified();
            let work = self.scheduler.lock().next(own.take().as_deref());
            match work {
                Work::Part(Assignment { slot, id, part }) => {
                    let result = self.bring(&slot, id, part).await;
                    slot.release(id);
                    match result {
                        Ok(()) => self.judge(&slot)?,
                        // The blob cannot be had, which is a matter of the images that need it.
                        Err(error) if error.side() == Some(Side::Source) => self.give_up(&slot, error),
                        // The output fails, which ends everything.
                        Err(error) => return Err(error),
                    }
                    self.changed.notify_waiters();
                    own = Some(slot);
                }
                Work::Wait => changed.await,
                Work::Done => return Ok(()),
            }
        }
    }

    /// Brings one part into its place.
    async fn bring(&self, slot: &Slot, id: u64, part: Range<u64>) -> Result<()> {
        self.hash_written(slot).await?;
        if part.is_empty() {
            return Ok(());
        }
        match slot.take_earlier() {
            Some(earlier) => self.copy(slot, id, earlier).await?,
            None => self.fetch(slot, id, part).await?,
        }
        self.hash_written(slot).await
    }

    /// Fetches one part.
    async fn fetch(&self, slot: &Slot, id: u64, part: Range<u64>) -> Result<()> {
        let (mode, wrong) = slot.read_mode();
        let refused = |error: &Error| error.kind() == Kind::NoRanges;
        let sources = &self.filling.sources;
        let mut stream = match sources.open(&slot.place.blob, part.clone(), mode, wrong).await {
            Err(error) if refused(&error) => {
                slot.refuse_range(id);
                return Ok(());
            }
            other => other?,
        };
        let mut hasher = slot.lend_hasher(part.start);
        let mut at = part.start;
        let mut noted = at;
        let result = loop {
            if slot.end_of(id).is_none_or(|end| end <= at) {
                break Ok(());
            }
            let mut chunk = match stream.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break Ok(()),
                // The connection broke, and the registry serves no ranges: the next request skips the written bytes.
                Err(error) if refused(&error) => {
                    slot.set_ranges_refused();
                    break Ok(());
                }
                Err(error) => break Err(error),
            };
            // Looked up now: meanwhile the rest may have been given to another worker, and the blob given up.
            let Some(end) = slot.end_of(id) else { break Ok(()) };
            chunk.truncate(usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX));
            let partial = &self.filling.output.partial;
            if let Err(error) = partial.write_at(&chunk, slot.place.offset + at) {
                break Err(error);
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            let begins = at == part.start;
            at += chunk.len() as u64;
            self.filling.progress.emit(Event::Bytes(chunk.len() as i64));
            slot.advance(id, at);
            if begins {
                // Another worker may help now.
                self.changed.notify_waiters();
            }
            if at - noted >= slot.journal_step() {
                if let Err(error) = self.note(slot, noted..at) {
                    break Err(error);
                }
                noted = at;
            }
        };
        if let Some(hasher) = hasher {
            slot.return_hasher(hasher, at);
        }
        if noted < at {
            self.note(slot, noted..at)?;
        }
        result
    }

    /// Copies what is absent of a blob from an earlier bundle. What cannot be read there is fetched.
    async fn copy(&self, slot: &Slot, id: u64, earlier: usize) -> Result<()> {
        let progress = &self.filling.progress;
        for gap in slot.gaps() {
            let mut at = gap.start;
            while at < gap.end {
                let step = at..gap.end.min(at + COPY_STEP);
                let (bundles, partial) = (self.filling.earlier.clone(), self.filling.output.partial.clone());
                let (digest, range) = (slot.place.blob.digest.clone(), step.clone());
                let target = slot.place.offset + at;
                let copied = blocking(move || bundles.copy(earlier, &digest, range, &partial, target)).await;
                match copied? {
                    Ok(()) => {}
                    Err(CopyError::Write(error)) => return Err(error),
                    Err(CopyError::Read(error)) => {
                        progress.warn(format!("{}; fetching it instead", error.full()));
                        slot.stop_reusing(id);
                        return Ok(());
                    }
                }
                let length = step.end - step.start;
                progress.emit(Event::Bytes(length as i64));
                at = step.end;
                slot.add_reused(id, at, length);
                self.note(slot, step)?;
            }
        }
        slot.advance(id, slot.size());
        Ok(())
    }

    /// Notes written bytes.
    fn note(&self, slot: &Slot, range: Range<u64>) -> Result<()> {
        self.filling.output.note(slot, range)?;
        if let Some(in_place) = &self.filling.in_place {
            in_place.advance(slot.number, slot.first_written());
        }
        if !self.filling.sparse {
            // The first absent byte may have moved, and with it the limit of the scheduler.
            self.changed.notify_waiters();
        }
        Ok(())
    }

    /// Hashes bytes that are written and not hashed, unless another worker has the hasher.
    async fn hash_written(&self, slot: &Slot) -> Result<()> {
        while let Some((mut hasher, range)) = slot.lend_hasher_for_written() {
            let mut at = range.start;
            let result = self.read_back(slot, &mut hasher, &mut at, range.end).await;
            slot.return_hasher(hasher, at);
            result?;
        }
        Ok(())
    }

    async fn read_back(&self, slot: &Slot, hasher: &mut Hasher, at: &mut u64, end: u64) -> Result<()> {
        let mut buffer = vec![0; READ_BACK.min(usize::try_from(end - *at).unwrap_or(READ_BACK))];
        while *at < end {
            let want = buffer.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX));
            let piece = &mut buffer[..want];
            let got = self.filling.output.partial.read_at(piece, slot.place.offset + *at)?;
            // Where the file is shorter than the journal says, what is absent reads as zeros later, and the digest tells.
            piece[got..].fill(0);
            hasher.update(piece);
            *at += want as u64;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Looks whether a slot is whole or wrong, once all of it is hashed.
    fn judge(&self, slot: &Slot) -> Result<()> {
        let (blob, progress) = (&slot.place.blob, &self.filling.progress);
        // Each repository that has it gets a chance.
        let max_wrong = MAX_WRONG.max(self.filling.sources.count(&blob.digest));
        let verdict = match slot.verdict(max_wrong) {
            None => return Ok(()),
            Some(Verdict::Whole { reused }) => return self.complete(slot, reused),
            Some(verdict) => verdict,
        };
        self.filling.output.discard(slot)?;
        if let Some(in_place) = &self.filling.in_place {
            in_place.discard();
        }
        progress.emit(Event::Bytes(-(slot.size() as i64)));
        let digest = &blob.digest;
        let Verdict::WrongFetched { found, again } = verdict else {
            match verdict {
                Verdict::WrongBefore { from_bundle: true } => progress.warn(format!(
                    "blob {digest}: what an earlier bundle has of it is wrong; fetching it instead"
                )),
                _ => progress.note(format!(
                    "blob {digest}: what was there of it is wrong; fetching it again"
                )),
            }
            return Ok(());
        };
        let error = Error::new(
            Kind::Integrity,
            format!(
                "blob {digest} has other bytes: they hash to {found} ({} bytes)",
                slot.size()
            ),
        )
        .with_hint("the registry, or something between it and here, changes bytes; try again, or another registry");
        match again {
            true => progress.warn(format!("{error}; fetching it again")),
            false => self.give_up(slot, error),
        }
        Ok(())
    }

    fn complete(&self, slot: &Slot, reused: u64) -> Result<()> {
        frame(&self.filling.output.partial, &slot.place)?;
        if let Some(in_place) = &self.filling.in_place {
            in_place.complete(slot.number);
        }
        self.scheduler.lock().close(slot);
        self.filled.lock().reused.add(reused);
        self.filling.progress.emit(Event::BlobDone {
            digest: slot.place.blob.digest.to_string(),
            size: slot.size(),
        });
        Ok(())
    }

    fn give_up(&self, slot: &Slot, error: Error) {
        slot.give_up();
        self.scheduler.lock().close(slot);
        let digest = slot.place.blob.digest.clone();
        self.filled.lock().failures.entry(digest).or_insert(error);
    }
}
