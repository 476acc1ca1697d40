//! Blobs that arrive from a pipe once, in the order of the bundle, and the engine that waits for them.
//!
//! A thread reads the pipe from start to end, at most [`PushRequest::buffer`] bytes ahead of the registry. The thread hands
//! each wanted blob to its upload as the bytes arrive. A blob that fits into a window of memory is kept until all of its
//! repositories are done; of a larger blob, only the last bytes are kept. A larger blob that several repositories need is
//! spooled to a temporary file as it leaves memory, unless the registry has shown that it mounts blobs. Unwanted blobs are
//! skipped. The engine starts jobs for a blob only after the blob has begun to arrive, and releases the blob once all
//! repositories are done.
//!
//! # Why every wait ends
//!
//! There are three kinds of waits: the thread waits for room, an upload waits for bytes, and a job waits for its turn to
//! send or for a place among the running jobs.
//!
//! - The engine starts no job for a blob that has not begun to arrive, and the thread begins a blob only after the last
//!   byte of the previous blob. So each job that runs, holds a turn or waits for a turn either has all of its bytes, or
//!   belongs to the one blob that is arriving now.
//! - A job with all of its bytes needs only the registry. All requests to a registry end in bounded time; then the job
//!   ends, with success or failure. So the arriving blob gets its place and its turn.
//! - In the middle of a blob, the thread waits until the upload has read more bytes, which needs a turn (see above) and the
//!   registry. If the job ends early and no other job for the blob is left, the engine releases the blob, and the rest of
//!   its bytes is skipped.
//! - Between two blobs, the thread waits for room, which is taken by blobs that have arrived. Each of these blobs has jobs
//!   that end (see above), and its room is released with the last job. Blobs whose images have all failed have no jobs, and
//!   their room is released at once.
//!
//! So the engine works in the order of arrival, even if a scheduler that knows all blobs would prefer another order.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::blob_buffer::{BlobBuffer, PIECE, WINDOW};
use super::spool::Spool;
use crate::bundle::read::Store;
use crate::bundle::read::stream::pipe::{Arriving, Incoming};
use crate::bundle::read::summed::VerifiedFile;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::lock::Mutex;
use crate::progress::Progress;
use crate::text::{Warnings, quote};
use crate::transfer::push::request::PushRequest;

/// Minimum number of bytes that a blob counts for, to cover the state kept beside its bytes.
const LEAST: u64 = 16 << 10;

/// An event from the pipe.
pub(crate) enum FeedEvent {
    /// A wanted blob of this size has begun to arrive, so that its first bytes can be read now or shortly.
    Blob(Digest, u64),
    /// The end of the pipe, with warnings, or the error that broke the pipe.
    End(Result<Warnings>),
}

/// The engine's handle of the pipe. Dropping the handle stops reading the pipe.
pub(crate) struct PipeFeed {
    front: Arc<Store>,
    kept: Arc<KeptBlobs>,
    incoming: Option<Incoming>,
    sender: UnboundedSender<FeedEvent>,
    receiver: UnboundedReceiver<FeedEvent>,
}

impl PipeFeed {
    /// Returns a feed of the blobs of a bundle whose front was read.
    pub(crate) fn new(front: Arc<Store>, incoming: Incoming) -> Self {
        let (sender, receiver) = unbounded_channel();
        Self {
            front,
            kept: Arc::default(),
            incoming: Some(incoming),
            sender,
            receiver,
        }
    }

    /// Returns the blobs that have arrived, for uploads.
    pub(crate) fn kept(&self) -> Arc<KeptBlobs> {
        self.kept.clone()
    }

    /// Returns whether a blob is in the front of the bundle, so that it need not be awaited.
    pub(crate) fn in_front(&self, blob: &Descriptor) -> bool {
        self.front.size_of(&blob.digest).is_some()
    }

    /// Starts reading the pipe, and reports the `wanted` blobs, each with its number of repositories.
    ///
    /// # Errors
    /// [`Kind::Io`] if the thread cannot be started.
    pub(crate) fn start<'d>(
        &mut self,
        wanted: impl Iterator<Item = (&'d Descriptor, usize)>,
        request: &PushRequest,
        progress: &Progress,
    ) -> Result<()> {
        let Some(incoming) = self.incoming.take() else {
            return Ok(());
        };
        {
            let mut state = self.kept.state.lock();
            state.room = request.buffer.max(PushRequest::LEAST_BUFFER);
            for (blob, repositories) in wanted {
                let wanted = state.wanted.entry(blob.digest.clone()).or_default();
                wanted.push((blob.size, repositories));
            }
        }
        let feeder = Feeder {
            incoming,
            kept: self.kept.clone(),
            sender: self.sender.clone(),
            needed: !request.dry_run,
            temp_dir: request.temp_dir.clone(),
            progress: progress.clone(),
        };
        // A dedicated thread: a read from a pipe cannot be cancelled, and must not delay the shutdown of the runtime.
        std::thread::Builder::new()
            .name("pipe".to_owned())
            .spawn(move || feeder.run())
            .map_err(|e| Error::new(Kind::Io, "cannot start the thread that reads the pipe").with_source(e))?;
        Ok(())
    }

    /// Waits for the next event. After the end, only the end is returned.
    pub(crate) async fn next(&mut self) -> FeedEvent {
        let gone = || FeedEvent::End(Err(Error::new(Kind::Io, "the pipe is not read any more")));
        self.receiver.recv().await.unwrap_or_else(gone)
    }

    /// Sets whether a blob in one repository is expected to be mounted into other repositories.
    pub(crate) fn expect_mounts(&self, yes: bool) {
        self.kept.state.lock().mounts = yes;
    }

    /// Releases a blob that no job needs any more.
    pub(crate) fn release(&self, digest: &Digest) {
        self.kept.release(digest);
    }
}

impl Drop for PipeFeed {
    fn drop(&mut self) {
        let error = Error::new(Kind::Cancelled, "the pipe is not read any more");
        let mut state = self.kept.state.lock();
        state.closed = true;
        for flow in state.flows.values() {
            flow.fail(&error);
            flow.close();
        }
        self.kept.room.notify_all();
    }
}

/// Blobs that are arriving or have arrived, and the room for them.
#[derive(Default)]
pub(crate) struct KeptBlobs {
    state: Mutex<State>,
    /// Notified when room is released, or the feed is closed.
    room: Condvar,
}

#[derive(Default)]
struct State {
    /// Blobs that have not arrived yet, with the sizes that manifests state.
    /// Each size comes with the number of repositories that need the blob with this size.
    wanted: HashMap<Digest, Vec<(u64, usize)>>,
    /// Whether a blob in one repository is expected to be mounted into other repositories.
    mounts: bool,
    flows: HashMap<Digest, Arc<BlobBuffer>>,
    /// Room taken by each blob, in bytes.
    taken: HashMap<Digest, u64>,
    room: u64,
    closed: bool,
    /// Checksum of all bytes from the pipe, after its end was reached.
    sum: Option<VerifiedFile>,
}

impl KeptBlobs {
    /// Returns the buffer of a blob that is arriving or has arrived.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<BlobBuffer>> {
        self.state.lock().flows.get(digest).cloned()
    }

    /// Returns the checksum of all bytes from the pipe, if requested and the end was reached.
    pub(crate) fn sum(&self) -> Option<VerifiedFile> {
        self.state.lock().sum.clone()
    }

    /// Waits for room for a blob and takes it. Returns `false` if no upload needs the blob any more.
    fn reserve(&self, digest: &Digest, size: u64) -> bool {
        let cost = size.clamp(LEAST, WINDOW);
        let waited = self
            .room
            .wait_while(self.state.lock(), |state| !state.closed && state.room < cost);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return false;
        }
        state.room -= cost;
        state.taken.insert(digest.clone(), cost);
        true
    }

    fn release(&self, digest: &Digest) {
        let mut state = self.state.lock();
        if let Some(flow) = state.flows.remove(digest) {
            flow.close();
        }
        state.room += state.taken.remove(digest).unwrap_or_default();
        self.room.notify_all();
    }
}

/// State of the thread that reads the pipe.
struct Feeder {
    incoming: Incoming,
    kept: Arc<KeptBlobs>,
    sender: UnboundedSender<FeedEvent>,
    /// Whether the bytes of blobs are needed. A dry run needs only their digests and sizes.
    needed: bool,
    temp_dir: Option<PathBuf>,
    progress: Progress,
}

impl Feeder {
    fn run(mut self) {
        let end = self.feed().map(|()| self.incoming.warnings());
        if end.is_ok() {
            let sum = self.incoming.sum();
            self.kept.state.lock().sum = sum;
        }
        // A closed channel means that the push has ended.
        let _ = self.sender.send(FeedEvent::End(end));
    }

    /// Reads the pipe to its end, and passes on the wanted blobs.
    fn feed(&mut self) -> Result<()> {
        while let Some(blob) = self.incoming.next_blob()? {
            let sizes = {
                let mut state = self.kept.state.lock();
                if state.closed {
                    return Ok(());
                }
                state.wanted.remove(&blob.digest)
            };
            let Some(sizes) = sizes else { continue };
            // If no manifest states this size, the engine needs only the size, for the error.
            let stated = sizes.iter().find(|(size, _)| *size == blob.size);
            let Some((_, repositories)) = stated.filter(|_| self.needed) else {
                let _ = self.sender.send(FeedEvent::Blob(blob.digest, blob.size));
                continue;
            };
            if !self.kept.reserve(&blob.digest, blob.size) {
                return Ok(());
            }
            let spool = self.spool(&blob, *repositories);
            self.pass_on(blob, spool)?;
        }
        Ok(())
    }

    /// Returns the spool for the evicted bytes of a blob.
    /// Blobs that several repositories need are spooled from the start: the first repository that refuses a mount needs all
    /// bytes again, and by then it is too late to spool them.
    fn spool(&self, blob: &Arriving, repositories: usize) -> Spool {
        if repositories < 2 || blob.size <= WINDOW || self.kept.state.lock().mounts {
            return Spool::off();
        }
        let spool = Spool::in_folder(self.temp_dir.as_deref());
        if let Some(folder) = self.temp_dir.as_deref().filter(|_| spool.is_on()) {
            self.progress.note(format!(
                "blob {} is needed in {repositories} repositories, and the registry has not shown that it mounts blobs: it goes \
                 to a temporary file in `{}` as well",
                blob.digest,
                quote(&folder)
            ));
        }
        spool
    }

    /// Passes the bytes of a blob to its buffer, until its end or until no upload needs the blob.
    fn pass_on(&mut self, blob: Arriving, spool: Spool) -> Result<()> {
        let Arriving {
            digest, size, place, ..
        } = blob;
        let flow = Arc::new(BlobBuffer::new(place, size, spool));
        self.kept.state.lock().flows.insert(digest.clone(), flow.clone());
        let _ = self.sender.send(FeedEvent::Blob(digest, size));
        // The guard ensures that no reader waits forever, however this function ends.
        let _guard = Guard(&flow);
        let mut left = size;
        while left > 0 {
            let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
            let got = match self.incoming.read(&mut piece) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) => {
                    flow.fail(&error);
                    return Err(error);
                }
            };
            piece.truncate(got);
            left -= got as u64;
            if !flow.write(piece.into()) {
                break;
            }
        }
        Ok(())
    }
}

/// Ends the reading of a buffer when the thread stops passing on its blob.
struct Guard<'a>(&'a BlobBuffer);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fail(&Error::new(Kind::Io, "the pipe is not read any more"));
    }
}

/// Waits for the next event of a pipe; without a pipe, for ever.
pub(in crate::transfer::push) async fn next(feed: &mut Option<PipeFeed>) -> FeedEvent {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}
