//! Prefetches the blobs of a bundle that is written in order.
//!
//! Blobs are read concurrently, each into a bounded buffer of its own, so the blob being written never waits for memory
//! that later blobs hold. The blob being written must not wait for a connection that later blobs hold either: streams are
//! opened strictly in the order of the plan. If the blob being written still gets no connection, because it lost its
//! connection or has to move to another registry, later blobs release their connections.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::writer::{PartialWriter, Writer};
use crate::bundle::partial::Partial;
use crate::bundle::plan::{Plan, TRAILER};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::lock::Mutex;
use crate::progress::{Event, Progress};
use crate::registry::WithoutRange;
use crate::transfer::export::request::{Compression, Output, Reused};
use crate::transfer::export::reuse::Earlier;
use crate::transfer::sources::{SourceReader, Sources};

/// Minimum size of the buffer of one blob, in bytes.
const MIN_BUFFER: u64 = 128 << 10;

/// Number of full-size buffers that share the memory for reading ahead.
/// More blobs are prefetched concurrently if they are smaller.
const BUFFERS: usize = 6;

/// Time without data for the blob being written before later blobs release their connections.
/// Only later blobs with full buffers do so.
const GIVE_WAY: Duration = Duration::from_secs(1);

/// Bytes of a blob, with the buffer space that they take.
type Piece = Result<(Bytes, OwnedSemaphorePermit)>;

/// State that all prefetching tasks share.
#[derive(Debug, Default)]
pub(super) struct Prefetcher {
    pub(super) sources: Sources,
    pub(super) earlier: Arc<Earlier>,
    /// Configs and manifests that are already in memory.
    pub(super) known: BTreeMap<Digest, Bytes>,
    /// Maximum number of blobs read concurrently.
    pub(super) jobs: usize,
    /// Maximum number of bytes read ahead for all blobs together.
    pub(super) read_ahead: u64,
    pub(super) progress: Progress,
    /// Wakes tasks that wait for buffer space, to make them release their connections.
    pub(super) give_way: Notify,
    /// Number of blobs and bytes copied from earlier bundles so far.
    pub(super) reused: Mutex<Reused>,
}

impl Prefetcher {
    /// Writes the whole bundle to `partial`, or else to the pipe. Returns what came from earlier bundles, and the digest of the
    /// written bytes.
    ///
    /// # Errors
    /// Errors of reading a blob, [`Kind::Integrity`] for a wrong digest, and errors of writing.
    pub(super) async fn write(
        self,
        plan: &Plan,
        output: Output,
        partial: Option<&Arc<Partial>>,
        compression: Compression,
    ) -> Result<(Reused, Option<Digest>)> {
        let sink: Box<dyn Write + Send> = match (output, partial) {
            (_, Some(partial)) => Box::new(PartialWriter::new(partial.clone())),
            (Output::Pipe(pipe), None) => pipe,
            (Output::File { .. }, None) => return Err(Error::internal("the output is not a pipe")),
        };
        let prefetcher = Arc::new(self);
        let writer = Writer::start(sink, compression)?;
        let copied = prefetcher.clone().copy(plan, &writer).await;
        let sha256 = writer.finish(copied).await?;
        let reused = *prefetcher.reused.lock();
        Ok((reused, sha256))
    }

    /// Sends the whole bundle to the writer, in order.
    async fn copy(self: Arc<Self>, plan: &Plan, writer: &Writer) -> Result<()> {
        let mut tasks = JoinSet::new();
        let mut ahead: VecDeque<(u64, mpsc::UnboundedReceiver<Piece>)> = VecDeque::new();
        // Sum of the buffer sizes of all blobs in `ahead`, in bytes.
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
                // The first poll joins the queue for a connection. The poll happens here, in the order of the plan, since
                // spawned tasks start in any order.
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

    /// Returns the maximum number of bytes of one blob that are read ahead.
    fn buffer(&self) -> u64 {
        (self.read_ahead / self.jobs.min(BUFFERS) as u64).max(MIN_BUFFER)
    }

    /// Returns the next piece of the blob being written.
    /// Every second without a piece, later blobs are told to release connections.
    async fn next(&self, pieces: &mut mpsc::UnboundedReceiver<Piece>) -> Option<Piece> {
        loop {
            match tokio::time::timeout(GIVE_WAY, pieces.recv()).await {
                Ok(piece) => return piece,
                Err(_) => self.give_way.notify_waiters(),
            }
        }
    }

    /// Reads one blob, and sends its error to the receiver.
    async fn reader(self: Arc<Self>, blob: Descriptor, sender: mpsc::UnboundedSender<Piece>) {
        if let Err(error) = self.read(&blob, &sender).await {
            let _ = sender.send(Err(error));
        }
    }

    /// Reads one blob into its buffer and verifies its digest.
    async fn read(&self, blob: &Descriptor, sender: &mpsc::UnboundedSender<Piece>) -> Result<()> {
        let buffer = self.buffer();
        // Semaphore permits limit the buffered bytes; the channel itself is unbounded.
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
            // The last piece is held back until the digest is verified, so that the pipe never contains a whole blob with
            // wrong bytes.
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
                // The blob being written waits for bytes and may need the connection that this task holds idle.
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

    /// Returns where to read a blob from.
    /// A blob in an earlier bundle is hashed before its first byte is sent, since bytes in a pipe cannot be taken back.
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

    /// Returns the next bytes of a blob. If an earlier bundle fails, the rest is fetched from a registry.
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

/// The place that a blob is read from.
enum FetchedFrom {
    Memory(Bytes),
    /// The earlier bundle at this position.
    Earlier(usize),
    /// A registry; without a reader if no connection is open at the moment.
    Network(Option<Box<SourceReader>>),
}
