//! Blobs that are read ahead of a bundle that is written from front to back.
//!
//! Blobs are read side by side, each into a buffer of its own with a bound, so that the one whose turn it is never waits for
//! room that later ones have taken. Nor may it wait for a connection that later ones hold: streams are opened strictly in the
//! order of the plan, and where that is not enough (the one in front lost its place, or has to go to another registry), later
//! ones give theirs back.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::writer::Writer;
use crate::bundle::plan::{Plan, TRAILER};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::lock::Mutex;
use crate::progress::{Event, Progress};
use crate::registry::WithoutRange;
use crate::transfer::export::request::Reused;
use crate::transfer::export::reuse::Earlier;
use crate::transfer::sources::{SourceReader, Sources};

/// No buffer of a blob is smaller than this.
const MIN_BUFFER: u64 = 128 << 10;

/// How many buffers the room for reading ahead is shared among. More blobs are read at the same time as long as they are smaller.
const BUFFERS: usize = 6;

/// When the blob in front has brought nothing for this long, those behind it that wait for room give their connections back.
const GIVE_WAY: Duration = Duration::from_secs(1);

/// Some bytes of a blob, and the room that they take.
type Piece = Result<(Bytes, OwnedSemaphorePermit)>;

/// What all readers share.
#[derive(Debug, Default)]
pub(super) struct Prefetcher {
    pub(super) sources: Sources,
    pub(super) earlier: Arc<Earlier>,
    /// Small blobs that are at hand.
    pub(super) known: BTreeMap<Digest, Bytes>,
    /// How many blobs are read at the same time.
    pub(super) jobs: usize,
    /// How many bytes may be read ahead altogether.
    pub(super) read_ahead: u64,
    pub(super) progress: Progress,
    /// Tells readers that wait for room to give their connections back.
    pub(super) give_way: Notify,
    /// Blobs and bytes that came from earlier bundles so far.
    pub(super) reused: Mutex<Reused>,
}

impl Prefetcher {
    /// Blobs and bytes that came from earlier bundles so far.
    pub(super) fn reused(&self) -> Reused {
        *self.reused.lock()
    }

    /// Sends the whole bundle to the writer, in order.
    pub(super) async fn copy(self: Arc<Self>, plan: &Plan, writer: &Writer) -> Result<()> {
        let mut tasks = JoinSet::new();
        let mut ahead: VecDeque<(u64, mpsc::UnboundedReceiver<Piece>)> = VecDeque::new();
        // The sum of the room that they may take.
        let mut reserved = 0;
        let mut slots = plan.blobs().iter();
        for piece in plan.front() {
            writer.send(piece?).await?;
        }
        for current in plan.blobs() {
            while ahead.len() < self.jobs && (ahead.len() < BUFFERS || reserved < self.read_ahead) {
                let Some(slot) = slots.next() else { break };
                let room = slot.blob.size.min(self.buffer());
                reserved += room;
                let (sender, receiver) = mpsc::unbounded_channel();
                let mut reader: Pin<Box<_>> = Box::pin(self.clone().reader(slot.blob.clone(), sender));
                // As far as the line for a connection, here and now: tasks start in no order.
                if (&mut reader).now_or_never().is_none() {
                    tasks.spawn(reader);
                }
                ahead.push_back((room, receiver));
            }
            let Some((room, mut pieces)) = ahead.pop_front() else {
                break;
            };
            reserved -= room;
            writer.send(current.header()?.into()).await?;
            let mut left = current.blob.size;
            while let Some(piece) = self.next(&mut pieces).await {
                let (bytes, room) = piece?;
                let length = bytes.len();
                left = left.saturating_sub(length as u64);
                writer.send(bytes).await?;
                drop(room);
                self.progress.emit(Event::Bytes(length as i64));
            }
            if left > 0 {
                return Err(Error::new(
                    Kind::Network,
                    format!("blob {} ended too early", current.blob.digest),
                ));
            }
            let padding = usize::try_from(current.padding()).unwrap_or(0);
            writer.send(Bytes::from_static(&[0; 512]).slice(..padding)).await?;
            self.progress.emit(Event::BlobDone {
                digest: current.blob.digest.to_string(),
                size: current.blob.size,
            });
        }
        writer.send(vec![0; usize::try_from(TRAILER).unwrap_or(0)].into()).await
    }

    /// How many bytes of a blob are read ahead at most.
    fn buffer(&self) -> u64 {
        (self.read_ahead / self.jobs.min(BUFFERS) as u64).max(MIN_BUFFER)
    }

    /// The next piece of the blob in front.
    async fn next(&self, pieces: &mut mpsc::UnboundedReceiver<Piece>) -> Option<Piece> {
        loop {
            match tokio::time::timeout(GIVE_WAY, pieces.recv()).await {
                Ok(piece) => return piece,
                Err(_) => self.give_way.notify_waiters(),
            }
        }
    }

    async fn reader(self: Arc<Self>, blob: Descriptor, sender: mpsc::UnboundedSender<Piece>) {
        if let Err(error) = self.read(&blob, &sender).await {
            let _ = sender.send(Err(error));
        }
    }

    async fn read(&self, blob: &Descriptor, sender: &mpsc::UnboundedSender<Piece>) -> Result<()> {
        let buffer = self.buffer();
        // The bound is in bytes, by permits; the channel itself has none.
        let most = usize::try_from(buffer).unwrap_or(usize::MAX);
        let room = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let mut hasher = blob.digest.hasher();
        let mut held_back = None;
        let mut at = 0;
        let mut origin = self.origin(blob).await;
        while at < blob.size {
            let Some(bytes) = self.chunk(blob, at, &mut origin, most).await? else {
                break;
            };
            hasher.update(&bytes);
            at += bytes.len() as u64;
            // One piece is held back until the digest is proved, so that no wrong blob is ever whole in the pipe.
            if let Some(piece) = held_back.take()
                && sender.send(Ok(piece)).is_err()
            {
                return Ok(());
            }
            let wanted = u32::try_from((bytes.len() as u64).min(buffer)).unwrap_or(u32::MAX);
            let waiting = room.clone().acquire_many_owned(wanted);
            tokio::pin!(waiting);
            let taken = tokio::select! {
                biased;
                taken = &mut waiting => taken,
                // The blob in front waits for bytes: a connection that is only held open could be one that it needs.
                () = self.give_way.notified() => {
                    if let FetchedFrom::Network(stream) = &mut origin {
                        *stream = None;
                    }
                    waiting.await
                }
            };
            let taken =
                taken.map_err(|e| Error::new(Kind::Cancelled, "the bundle is not written any more").with_source(e))?;
            held_back = Some((bytes, taken));
        }
        let found = hasher.finish();
        if found != blob.digest {
            return Err(Error::new(
                Kind::Integrity,
                format!("blob {} has other bytes: they hash to {found}", blob.digest),
            )
            .with_hint("what was written is of no use; run it again, or export to a plain file, which can be mended"));
        }
        if let Some(piece) = held_back {
            let _ = sender.send(Ok(piece));
        }
        Ok(())
    }

    /// Where a blob comes from. What an earlier bundle has is hashed before any of it is sent: a pipe takes nothing back.
    async fn origin(&self, blob: &Descriptor) -> FetchedFrom {
        if let Some(bytes) = self.known.get(&blob.digest) {
            return FetchedFrom::Memory(bytes.clone());
        }
        if let Some(bundle) = self.earlier.find(blob) {
            match self.earlier.verify(bundle, &blob.digest).await {
                Ok(()) => return FetchedFrom::Earlier(bundle),
                Err(error) => self.progress.warn(format!("{}; fetching it instead", error.full())),
            }
        }
        FetchedFrom::Network(None)
    }

    async fn chunk(&self, blob: &Descriptor, at: u64, origin: &mut FetchedFrom, most: usize) -> Result<Option<Bytes>> {
        match origin {
            FetchedFrom::Memory(bytes) => return Ok(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            FetchedFrom::Earlier(bundle) => match self.earlier.read(*bundle, &blob.digest, at, most).await {
                Ok(bytes) => {
                    let mut reused = self.reused.lock();
                    reused.blobs += u64::from(at == 0);
                    reused.bytes += bytes.len() as u64;
                    return Ok(Some(bytes).filter(|bytes| !bytes.is_empty()));
                }
                Err(error) => {
                    self.progress.warn(format!("{}; fetching the rest", error.full()));
                    *origin = FetchedFrom::Network(None);
                }
            },
            FetchedFrom::Network(_) => {}
        }
        let FetchedFrom::Network(stream) = origin else {
            return Ok(None);
        };
        let open = match stream {
            Some(stream) => stream,
            none => none.insert(Box::new(
                self.sources.open(blob, at..blob.size, WithoutRange::Skip, 0).await?,
            )),
        };
        open.chunk().await
    }
}

/// Where a blob comes from.
enum FetchedFrom {
    Memory(Bytes),
    /// The earlier bundle of this number.
    Earlier(usize),
    /// A registry; no stream where there is no connection at this moment.
    Network(Option<Box<SourceReader>>),
}
