//! Workers that fetch blobs concurrently, write each blob to its offset, and hash it on the way.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::journaled::{Journaled, frame};
use super::scheduler::{Assignment, Help, Scheduler, Work};
use super::slot::{PROBE_PATIENCE, Slot, Verdict};
use super::whole_sum::InPlace;
use crate::bundle::plan::Plan;
use crate::bundle::ranges::Ranges;
use crate::error::{Error, Kind, Result, Side};
use crate::image::digest::Hasher;
use crate::lock::Mutex;
use crate::progress::{Event, Progress};
use crate::registry::WithoutRange;
use crate::text::byte_count;
use crate::transfer::blocking::blocking;
use crate::transfer::export::request::Reused;
use crate::transfer::export::resolved::Failures;
use crate::transfer::export::reuse::{CopyError, Earlier};
use crate::transfer::sources::{Opening, Sources};

/// Number of bytes copied from an earlier bundle before the journal records them.
const COPY_STEP: u64 = 64 << 20;

/// Maximum number of bytes read back at a time.
const READ_BACK: usize = 1 << 20;

/// Maximum number of fetches of a blob with a wrong digest, unless more mirrors and repositories have the blob.
const MAX_WRONG: usize = 2;

/// Inputs for filling the slots of a plan.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) plan: Arc<Plan>,
    pub(super) output: Journaled,
    pub(super) sources: Sources,
    pub(super) earlier: Arc<Earlier>,
    pub(super) progress: Progress,
    pub(super) jobs: usize,
    /// Whether the file system supports sparse files, so that gaps cost nothing.
    pub(super) sparse: bool,
    /// Receives the progress of writing, for the checksum of the file.
    pub(super) in_place: Option<Arc<InPlace>>,
}

/// Result of filling the slots of a plan.
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// Blobs that could not be fetched, with their errors.
    pub(super) failures: Failures,
    pub(super) reused: Reused,
}

/// Fills every slot of a plan.
/// `written` contains the written ranges in the file, by slot number; their bytes are hashed again.
///
/// # Errors
/// A failure of the output, which ends all workers. Blobs that cannot be fetched are returned in [`Filled::failures`]; all
/// other blobs are complete.
pub(super) async fn fill(filling: Filling, mut written: HashMap<usize, Ranges>) -> Result<Filled> {
    let (plan, earlier) = (filling.plan.clone(), filling.earlier.clone());
    let slots = (0..plan.blobs().len()).map(move |number| {
        let place = &plan.blobs()[number];
        let there = written.remove(&number).unwrap_or_default();
        Slot::new(number, place.clone(), there, earlier.find(&place.blob))
    });
    let workers = Arc::new(Workers {
        scheduler: Mutex::new(Scheduler::new(slots, filling.sparse)),
        filled: Mutex::default(),
        changed: Notify::new(),
        filling,
    });
    let mut tasks = JoinSet::new();
    let jobs = workers.filling.jobs.max(1);
    // While a worker hashes what other workers have written, the spare worker uses its place at the registry.
    for number in 0..jobs + usize::from(jobs > 1) {
        let workers = workers.clone();
        tasks.spawn(async move { workers.work(number == jobs).await });
    }
    while let Some(finished) = tasks.join_next().await {
        // The first failure of the output ends all workers: dropping `tasks` aborts them.
        finished.map_err(|e| Error::internal("a worker ended early").with_source(e))??;
    }
    let filled = std::mem::take(&mut *workers.filled.lock());
    Ok(filled)
}

/// State that all workers share.
#[derive(Debug)]
struct Workers {
    filling: Filling,
    scheduler: Mutex<Scheduler>,
    filled: Mutex<Filled>,
    /// Notified when the scheduler may have work for a waiting worker.
    changed: Notify,
}

impl Workers {
    /// Runs one worker until all slots are finished. A spare worker opens no blob.
    async fn work(&self, is_spare: bool) -> Result<()> {
        let mut own: Option<Arc<Slot>> = None;
        loop {
            // Subscribed before asking the scheduler, so that no change between the answer and the wait is missed.
            let changed = self.changed.notified();
            let work = match is_spare {
                true => self.scheduler.lock().next_help(),
                false => self.scheduler.lock().next(own.take().as_deref()),
            };
            let (slot, id, result) = match work {
                Work::Open(Assignment { slot, id, part }) => {
                    let result = self.fill_part(&slot, id, part).await;
                    (slot, id, result)
                }
                Work::Help(help) => {
                    let result = self.help(&help).await;
                    (help.slot, help.id, result)
                }
                Work::Wait => {
                    // A first request that hangs holds up the other workers of its blob for no longer than this.
                    let _ = tokio::time::timeout(PROBE_PATIENCE, changed).await;
                    continue;
                }
                Work::Done => return Ok(()),
            };
            slot.release(id);
            match result {
                Ok(()) => self.check_digest(&slot)?,
                // A missing blob fails only the images that need it.
                Err(error) if error.side() == Some(Side::Source) => self.give_up(&slot, error),
                // A failure of the output ends all workers.
                Err(error) => return Err(error),
            }
            self.changed.notify_waiters();
            own = Some(slot);
        }
    }

    /// Fetches or copies the first part of a blob, and hashes the written bytes.
    async fn fill_part(&self, slot: &Slot, id: u64, part: Range<u64>) -> Result<()> {
        self.hash_written(slot).await?;
        if part.is_empty() {
            return Ok(());
        }
        match slot.take_earlier() {
            Some(earlier) => self.copy(slot, id, earlier).await?,
            None => {
                let mut opening = self.opening(slot)?;
                opening.wait_for_place().await;
                self.fetch(slot, id, part, opening).await?;
            }
        }
        self.hash_written(slot).await
    }

    /// Fetches a part of an open blob, and hashes the written bytes.
    async fn help(&self, help: &Help) -> Result<()> {
        let slot = &help.slot;
        self.hash_written(slot).await?;
        let opening = match self.opening(slot) {
            Ok(mut opening) => {
                opening.wait_for_place().await;
                Ok(opening)
            }
            failed => failed,
        };
        // Ends the wait in any case.
        let part = help.assign(opening.as_ref().is_ok_and(Opening::is_growing));
        match (opening?, part) {
            // All that is left to do is to check the digest.
            (_, Some(part)) if part.is_empty() => {}
            (opening, Some(part)) => self.fetch(slot, help.id, part, opening).await?,
            (_, None) => return Ok(()),
        }
        self.hash_written(slot).await
    }

    /// Prepares a request for a part of a blob.
    fn opening(&self, slot: &Slot) -> Result<Opening> {
        self.filling
            .sources
            .prepare(&slot.place.blob.digest, slot.wrong_reads())
    }

    /// Fetches one part from a registry and writes it. `opening` has a place at the registry.
    async fn fetch(&self, slot: &Slot, id: u64, part: Range<u64>, opening: Opening) -> Result<()> {
        let mode = slot.read_mode();
        let refused = |error: &Error| error.kind() == Kind::NoRanges;
        slot.requested(id);
        let mut stream = match opening.open(&slot.place.blob, part.clone(), mode).await {
            Err(error) if refused(&error) => {
                slot.refuse_range(id);
                return Ok(());
            }
            other => other?,
        };
        if stream.left() > part.end - part.start {
            slot.extend(id);
        } else if mode != WithoutRange::Skip {
            slot.set_ranges_served();
        }
        // Other workers may help now, or know that they cannot.
        self.changed.notify_waiters();
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
                // The connection broke, and the registry serves no range requests: the next request skips the written
                // bytes.
                Err(error) if refused(&error) => {
                    slot.set_ranges_refused();
                    break Ok(());
                }
                Err(error) => break Err(error),
            };
            slot.received(id, at + chunk.len() as u64);
            // The end is read again here: while the chunk was awaited, another worker may have taken the rest, or the blob
            // may have been given up.
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
                // The first bytes have arrived, so another worker may help now.
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

    /// Copies the absent ranges of a blob from an earlier bundle.
    /// If the earlier bundle cannot be read, the rest is fetched.
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

    /// Records written bytes in the journal, and for the checksum.
    fn note(&self, slot: &Slot, range: Range<u64>) -> Result<()> {
        self.filling.output.note(slot, range)?;
        if let Some(in_place) = &self.filling.in_place {
            in_place.advance(slot.number, slot.first_written());
        }
        if !self.filling.sparse {
            // The first absent byte may have moved, and the limit of the scheduler with it.
            self.changed.notify_waiters();
        }
        Ok(())
    }

    /// Hashes bytes that are written and not hashed yet, unless another worker holds the hasher.
    async fn hash_written(&self, slot: &Slot) -> Result<()> {
        while let Some((mut hasher, range)) = slot.lend_hasher_for_written() {
            let mut at = range.start;
            let result = self.read_back(slot, &mut hasher, &mut at, range.end).await;
            slot.return_hasher(hasher, at);
            result?;
        }
        Ok(())
    }

    /// Hashes the written bytes from `at` to `end`, and advances `at`.
    async fn read_back(&self, slot: &Slot, hasher: &mut Hasher, at: &mut u64, end: u64) -> Result<()> {
        let mut buffer = vec![0; READ_BACK.min(usize::try_from(end - *at).unwrap_or(READ_BACK))];
        while *at < end {
            let want = buffer.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX));
            let piece = &mut buffer[..want];
            let got = self.filling.output.partial.read_at(piece, slot.place.offset + *at)?;
            // In a file that is shorter than the journal says, absent bytes read as zeros later, and the digest check finds
            // them.
            piece[got..].fill(0);
            hasher.update(piece);
            *at += want as u64;
            // The read awaits nothing, so other tasks of this thread get a turn here.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Checks the digest of a slot once all bytes are hashed.
    /// The slot is then completed, restarted or given up.
    fn check_digest(&self, slot: &Slot) -> Result<()> {
        let (blob, progress) = (&slot.place.blob, &self.filling.progress);
        // Every mirror and repository that has the blob is tried.
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
                    "blob {digest}: its bytes in an earlier bundle are wrong; fetching it instead"
                )),
                _ => progress.note(format!(
                    "blob {digest}: its bytes from an earlier run are wrong; fetching it again"
                )),
            }
            return Ok(());
        };
        let error = Error::new(
            Kind::Integrity,
            format!(
                "blob {digest} has other bytes: they hash to {found} ({})",
                byte_count(slot.size())
            ),
        )
        .with_hint("the registry, or something between it and here, changes bytes; try again, or another registry");
        // The place of this read, without the repository and the blob: so it is told once for all of them.
        let wrong_reads = slot.wrong_reads().saturating_sub(1);
        let source = self.filling.sources.first(digest, wrong_reads).unwrap_or_default();
        let host = source.split('/').next().unwrap_or_default();
        let cause = format!("`{host}` sends blobs with other bytes than their digests promise");
        if again {
            progress.warn(format!("{cause}; they are fetched again"));
            progress.note(format!("{error}; fetching it again"));
        } else {
            self.give_up(slot, error.with_cause(&cause));
        }
        Ok(())
    }

    /// Writes the header and padding of a verified slot, and counts its blob as done.
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

    /// Gives up a blob and records the error.
    fn give_up(&self, slot: &Slot, error: Error) {
        slot.give_up();
        self.scheduler.lock().close(slot);
        let digest = slot.place.blob.digest.clone();
        self.filled.lock().failures.entry(digest).or_insert(error);
    }
}
