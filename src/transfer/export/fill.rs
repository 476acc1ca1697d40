//! Fills the slots of a plan: blobs side by side, each written to its own place and hashed on the way.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::slot::Slot;
use crate::bundle::journal::Journal;
use crate::bundle::partial::Partial;
use crate::bundle::plan::Plan;
use crate::bundle::ranges::Ranges;
use crate::error::{Error, Kind, Result};
use crate::image::digest::{Digest, Hasher};
use crate::progress::{Event, Progress};
use crate::registry::WithoutRange;
use crate::transfer::fetch::Sources;

/// The journal learns of a part's progress each time that this many bytes were written.
const JOURNAL_STEP: u64 = 4 << 20;

/// What was written is made durable each time that this many bytes were, so that a power cut costs little and the last
/// sync before the rename has little left to do.
const SYNC_STEP: u64 = 128 << 20;

/// On a file system that fills gaps with zeros, nobody writes farther than this ahead of the first byte that is absent.
const AHEAD: u64 = 64 << 20;

/// How much is read back at a time.
const READ_BACK: usize = 1 << 20;

/// How often a blob may turn out wrong before it is given up.
const MAX_WRONG: u32 = 2;

/// Everything that filling needs.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) plan: Arc<Plan>,
    pub(super) partial: Arc<Partial>,
    pub(super) journal: Arc<Journal>,
    pub(super) sources: Sources,
    pub(super) progress: Progress,
    pub(super) jobs: usize,
}

/// The blobs that could not be fetched, and why.
pub(super) type Failures = HashMap<Digest, Error>;

/// Fills every slot. `written` says what earlier runs wrote of each, by its number; all of it is hashed again.
///
/// # Errors
/// A failure of the output, which ends everything. Blobs that cannot be had are returned; the others are in place.
pub(super) async fn fill(filling: Filling, mut written: HashMap<usize, Ranges>) -> Result<Failures> {
    let sparse = filling.partial.file_system()?.sparse;
    let queue = filling
        .plan
        .blobs()
        .iter()
        .enumerate()
        .map(|(number, place)| Slot::new(number, place.clone(), written.remove(&number).unwrap_or_default()))
        .map(Arc::new)
        .collect();
    let engine = Arc::new(Engine {
        board: Mutex::new(Board {
            queue,
            open: BTreeMap::new(),
            failures: Failures::new(),
            next_id: 0,
        }),
        changed: Notify::new(),
        since_sync: AtomicU64::new(0),
        gate: (!sparse).then(Notify::new),
        filling,
    });
    let mut workers = JoinSet::new();
    for _ in 0..engine.filling.jobs.max(1) {
        let engine = engine.clone();
        workers.spawn(async move { engine.work().await });
    }
    while let Some(finished) = workers.join_next().await {
        // The first failure of the output ends all workers: dropping the set aborts them.
        finished.map_err(|e| Error::new(Kind::Io, "a worker died").with_source(e))??;
    }
    let mut board = engine.board();
    Ok(std::mem::take(&mut board.failures))
}

#[derive(Debug)]
struct Engine {
    filling: Filling,
    board: Mutex<Board>,
    /// Somebody may find work now who found none before.
    changed: Notify,
    since_sync: AtomicU64,
    /// Rings when the first absent byte has moved; only on file systems without gaps.
    gate: Option<Notify>,
}

/// What there is to do.
#[derive(Debug)]
struct Board {
    queue: VecDeque<Arc<Slot>>,
    open: BTreeMap<usize, Arc<Slot>>,
    failures: Failures,
    next_id: u64,
}

enum Work {
    /// Fetch this part.
    Part(Arc<Slot>, u64, Range<u64>),
    Wait,
    Done,
}

impl Engine {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(&self) -> Result<()> {
        let mut mine = None;
        loop {
            let notified = self.changed.notified();
            match self.next(mine.take()) {
                Work::Part(slot, id, part) => {
                    let result = self.part(&slot, id, part).await;
                    slot.lock().release(id);
                    self.settle(&slot, result)?;
                    self.changed.notify_waiters();
                    mine = Some(slot);
                }
                Work::Wait => notified.await,
                Work::Done => return Ok(()),
            }
        }
    }

    /// A task goes on with its own blob, whose hasher it has, then opens the next one of the plan. When all are open it helps
    /// with the parts of a large one.
    fn next(&self, mine: Option<Arc<Slot>>) -> Work {
        let mut board = self.board();
        board.next_id += 1;
        let id = board.next_id;
        if let Some(slot) = mine
            && board.open.contains_key(&slot.number)
            && let Some(part) = slot.lock().take(id)
        {
            return Work::Part(slot.clone(), id, part);
        }
        if let Some(slot) = board.queue.pop_front() {
            board.open.insert(slot.number, slot.clone());
            let part = slot.lock().take(id);
            return part.map_or(Work::Wait, |part| Work::Part(slot, id, part));
        }
        for slot in board.open.values() {
            if let Some(part) = slot.lock().take(id) {
                return Work::Part(slot.clone(), id, part);
            }
        }
        if board.open.is_empty() { Work::Done } else { Work::Wait }
    }

    /// Fetches one part into its place.
    async fn part(&self, slot: &Slot, id: u64, part: Range<u64>) -> Result<()> {
        self.catch_up(slot).await?;
        if part.is_empty() {
            return Ok(());
        }
        let (mode, wrong) = {
            let state = slot.lock();
            let mode = if state.ranges_refused {
                WithoutRange::Skip
            } else {
                WithoutRange::Refuse
            };
            (mode, state.wrong)
        };
        // Before a connection is opened: whoever waits with one in hand keeps it from those who are waited for.
        self.wait_for_the_front(slot, part.start).await;
        let blob = &slot.place.blob;
        let opened = self
            .filling
            .sources
            .open(blob, part.clone(), mode, wrong as usize)
            .await;
        let mut stream = match opened {
            Err(error) if error.kind() == Kind::Unsupported && mode == WithoutRange::Refuse => {
                let mut state = slot.lock();
                state.abandon(id);
                state.join(slot.size());
                return Ok(());
            }
            other => other?,
        };
        let mut hasher = slot.lock().lend(part.start);
        let mut at = part.start;
        let mut noted = at;
        let result = loop {
            let Some(end) = slot.lock().end_of(id).filter(|end| at < *end) else {
                break Ok(());
            };
            let mut chunk: Bytes = match stream.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break Ok(()),
                // The connection broke, and the registry does not serve the rest alone: the next turn reads over what is there.
                Err(error) if error.kind() == Kind::Unsupported && mode == WithoutRange::Refuse => {
                    slot.lock().ranges_refused = true;
                    break Ok(());
                }
                Err(error) => break Err(error),
            };
            chunk.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
            if let Err(error) = self.filling.partial.write_at(&chunk, slot.place.offset + at) {
                break Err(fatal(error));
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            at += chunk.len() as u64;
            self.filling.progress.emit(Event::Bytes(chunk.len() as i64));
            slot.lock().advance(id, at);
            if at - noted >= JOURNAL_STEP {
                if let Err(error) = self.note(slot, noted..at).await {
                    break Err(fatal(error));
                }
                noted = at;
            }
        };
        if let Some(hasher) = hasher {
            slot.lock().give_back(hasher, at);
        }
        if noted < at {
            self.note(slot, noted..at).await.map_err(fatal)?;
        }
        result?;
        self.catch_up(slot).await
    }

    /// Tells the journal of written bytes, and now and then makes them durable.
    async fn note(&self, slot: &Slot, range: Range<u64>) -> Result<()> {
        let length = range.end - range.start;
        slot.lock().written.insert(range.clone());
        self.filling.journal.written(slot.number, range)?;
        if let Some(gate) = &self.gate {
            gate.notify_waiters();
        }
        let sum = self.since_sync.fetch_add(length, Ordering::Relaxed) + length;
        if sum >= SYNC_STEP
            && self
                .since_sync
                .compare_exchange(sum, 0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let (journal, partial) = (self.filling.journal.clone(), self.filling.partial.clone());
            // In the background: the transfer goes on. A disk that fails is met again at the end, by the last sync.
            tokio::task::spawn_blocking(move || journal.synced(|| partial.sync()));
        }
        Ok(())
    }

    /// Hashes on over parts that are written and not hashed, if nobody else is at it.
    async fn catch_up(&self, slot: &Slot) -> Result<()> {
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

    async fn read_back(&self, slot: &Slot, hasher: &mut Hasher, at: &mut u64, end: u64) -> Result<()> {
        let mut buffer = vec![0; READ_BACK.min(usize::try_from(end - *at).unwrap_or(READ_BACK))];
        while *at < end {
            let want = buffer.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX));
            let got = self
                .filling
                .partial
                .read_at(&mut buffer[..want], slot.place.offset + *at)
                .map_err(fatal)?;
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

    /// On a file system without gaps, waits until what comes before has arrived, up to [`AHEAD`] bytes.
    async fn wait_for_the_front(&self, slot: &Slot, at: u64) {
        let Some(gate) = &self.gate else { return };
        loop {
            let notified = gate.notified();
            let front = {
                let board = self.board();
                let open = board.open.values().filter_map(|slot| {
                    let first = slot.lock().first_absent()?;
                    Some(slot.place.offset + first)
                });
                open.min().unwrap_or(u64::MAX)
            };
            if slot.place.offset + at <= front.saturating_add(AHEAD) {
                return;
            }
            // The notes of others ring; the pause is for the one note that came between the look and the wait.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(200), notified).await;
        }
    }

    /// Looks at a slot after somebody worked on it: is it whole, wrong, or beyond help?
    fn settle(&self, slot: &Arc<Slot>, result: Result<()>) -> Result<()> {
        if let Err(error) = result {
            if is_fatal(&error) {
                return Err(error);
            }
            self.fail(slot, error);
            return Ok(());
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
        let inherited = {
            let mut state = slot.lock();
            let inherited = state.inherited;
            if !inherited {
                state.wrong += 1;
            }
            if inherited || state.wrong < MAX_WRONG {
                state.reset(blob.digest.hasher(), size);
            }
            inherited
        };
        self.filling.journal.discard(slot.number)?;
        self.filling.progress.emit(Event::Bytes(-(size as i64)));
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
        if slot.lock().wrong < MAX_WRONG {
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
        self.board().open.remove(&slot.number);
        if let Some(gate) = &self.gate {
            gate.notify_waiters();
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

/// A failure of the output, as opposed to one of a registry.
fn fatal(error: Error) -> Error {
    debug_assert!(is_fatal(&error), "{error:?}");
    error
}

fn is_fatal(error: &Error) -> bool {
    matches!(error.kind(), Kind::Io | Kind::NoSpace | Kind::Exists)
}
