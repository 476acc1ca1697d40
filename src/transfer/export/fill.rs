//! Fills the slots of a plan: blobs side by side, each written to its own place and hashed on the way.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::gate::Gate;
use super::request::Reused;
use super::reuse::Earlier;
use super::slot::Slot;
use crate::bundle::journal::Journal;
use crate::bundle::partial::Partial;
use crate::bundle::plan::Plan;
use crate::bundle::ranges::Ranges;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::progress::{Event, Progress};
use crate::registry::WithoutRange;
use crate::transfer::sources::Sources;

/// The journal learns of a part's progress each time that this many bytes were written. Several connections may be at work
/// on one blob, and each of them may be so far ahead of the journal when the program is killed: a kill is to cost less than
/// 8 MiB for each blob.
const JOURNAL_STEP: u64 = 1 << 20;

/// What was written is made durable each time that this many bytes were, so that a power cut costs little and the last
/// sync before the rename has little left to do.
const SYNC_STEP: u64 = 128 << 20;

/// Everything that filling needs.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) plan: Arc<Plan>,
    pub(super) partial: Arc<Partial>,
    pub(super) journal: Arc<Journal>,
    pub(super) sources: Sources,
    pub(super) earlier: Arc<Earlier>,
    pub(super) progress: Progress,
    pub(super) jobs: usize,
    /// Whether gaps in the file cost nothing.
    pub(super) sparse: bool,
}

/// The blobs that could not be fetched, and why.
pub(super) type Failures = HashMap<Digest, Error>;

/// What came of filling.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) failures: Failures,
    pub(super) reused: Reused,
}

/// Why a part did not come.
pub(super) enum Trouble {
    /// The output fails, which ends everything.
    Output(Error),
    /// The blob cannot be had, which is a matter of the images that need it.
    Source(Error),
}

/// Fills every slot. `written` says what is there of each, by its number; all of it is hashed again.
///
/// # Errors
/// A failure of the output, which ends everything. Blobs that cannot be had are returned; the others are in place.
pub(super) async fn fill(filling: Filling, mut written: HashMap<usize, Ranges>) -> Result<Filled> {
    let slots = filling.plan.blobs().iter().enumerate();
    let queue = slots
        .map(|(number, place)| {
            let there = written.remove(&number).unwrap_or_default();
            let earlier = filling.earlier.find(&place.blob);
            Arc::new(Slot::new(number, place.clone(), there, earlier))
        })
        .collect();
    let engine = Arc::new(Engine {
        board: Mutex::new(Board {
            queue,
            open: BTreeMap::new(),
            failures: Failures::new(),
            reused: Reused::default(),
            next_id: 0,
        }),
        changed: Notify::new(),
        since_sync: AtomicU64::new(0),
        gate: (!filling.sparse).then(Gate::default),
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
    Ok(Filled {
        failures: std::mem::take(&mut board.failures),
        reused: board.reused,
    })
}

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) filling: Filling,
    board: Mutex<Board>,
    /// Somebody may find work now who found none before.
    changed: Notify,
    since_sync: AtomicU64,
    /// Rings when the first absent byte has moved; only on file systems without gaps.
    pub(super) gate: Option<Gate>,
}

/// What there is to do.
#[derive(Debug)]
pub(super) struct Board {
    queue: VecDeque<Arc<Slot>>,
    pub(super) open: BTreeMap<usize, Arc<Slot>>,
    pub(super) failures: Failures,
    pub(super) reused: Reused,
    next_id: u64,
}

enum Work {
    /// Fetch this part.
    Part(Arc<Slot>, u64, Range<u64>),
    Wait,
    Done,
}

impl Engine {
    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
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
                    if let Some(gate) = &self.gate {
                        gate.moved();
                    }
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

    /// Brings one part into its place.
    async fn part(&self, slot: &Slot, id: u64, part: Range<u64>) -> Result<(), Trouble> {
        self.catch_up(slot).await?;
        if part.is_empty() {
            return Ok(());
        }
        // Before a connection is opened: whoever waits with one in hand keeps it from those who are waited for.
        if let Some(gate) = &self.gate {
            gate.pass(slot.place.offset + part.start, || self.front()).await;
        }
        let earlier = slot.lock().earlier.take();
        match earlier {
            Some(earlier) => self.take_over(slot, id, earlier).await?,
            None => self.fetch(slot, id, part).await?,
        }
        self.catch_up(slot).await
    }

    /// The first byte of the file that is absent, as far as blobs were begun.
    fn front(&self) -> u64 {
        let board = self.board();
        let open = board.open.values().filter_map(|slot| {
            let first = slot.lock().first_absent()?;
            Some(slot.place.offset + first)
        });
        open.min().unwrap_or(u64::MAX)
    }

    /// Fetches one part.
    async fn fetch(&self, slot: &Slot, id: u64, part: Range<u64>) -> Result<(), Trouble> {
        let (mode, wrong) = {
            let state = slot.lock();
            let mode = if state.ranges_refused {
                WithoutRange::Skip
            } else {
                WithoutRange::Refuse
            };
            (mode, state.wrong)
        };
        let refused = |error: &Error| error.kind() == Kind::Unsupported && mode == WithoutRange::Refuse;
        let opened = self
            .filling
            .sources
            .open(&slot.place.blob, part.clone(), mode, wrong as usize)
            .await;
        let mut stream = match opened {
            Err(error) if refused(&error) => {
                let mut state = slot.lock();
                state.abandon(id);
                state.join();
                return Ok(());
            }
            other => other.map_err(Trouble::Source)?,
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
                Err(error) if refused(&error) => {
                    slot.lock().ranges_refused = true;
                    break Ok(());
                }
                Err(error) => break Err(Trouble::Source(error)),
            };
            chunk.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
            if let Err(error) = self.filling.partial.write_at(&chunk, slot.place.offset + at) {
                break Err(Trouble::Output(error));
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            at += chunk.len() as u64;
            self.filling.progress.emit(Event::Bytes(chunk.len() as i64));
            slot.lock().advance(id, at);
            if at - noted >= JOURNAL_STEP {
                if let Err(error) = self.note(slot, noted..at) {
                    break Err(error);
                }
                noted = at;
            }
        };
        if let Some(hasher) = hasher {
            slot.lock().give_back(hasher, at);
        }
        if noted < at {
            self.note(slot, noted..at)?;
        }
        result
    }

    /// Tells the journal of written bytes, and now and then makes them durable.
    pub(super) fn note(&self, slot: &Slot, range: Range<u64>) -> Result<(), Trouble> {
        let length = range.end - range.start;
        slot.lock().written.insert(range.clone());
        self.filling.partial.check_synced().map_err(Trouble::Output)?;
        let journal = &self.filling.journal;
        journal.written(slot.number, range).map_err(Trouble::Output)?;
        if let Some(gate) = &self.gate {
            gate.moved();
        }
        let sum = self.since_sync.fetch_add(length, Ordering::Relaxed) + length;
        if sum >= SYNC_STEP
            && self
                .since_sync
                .compare_exchange(sum, 0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let (journal, partial) = (self.filling.journal.clone(), self.filling.partial.clone());
            // In the background: the transfer goes on. The next part that is noted finds out if this fails.
            tokio::task::spawn_blocking(move || journal.synced(|| partial.sync()));
        }
        Ok(())
    }
}
