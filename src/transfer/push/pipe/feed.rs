//! Blobs that come out of a pipe in an order of its own, once, and the engine that waits for them.
//!
//! A thread reads the pipe from front to end, at most [`PushRequest::buffer`] bytes ahead of the registry. A blob that is wanted is handed
//! to its upload as it arrives; one that fits into a window of memory is kept until nothing is left to do with it, of a
//! larger one only the last bytes are. A larger one that several repositories need is spooled to a temporary file as it
//! leaves memory, unless the registry has shown that it mounts blobs. All others are read over. The engine starts on a blob
//! when its first bytes are here, never before, and says when it is done in all repositories; then it is
//! forgotten.
//!
//! # Why every wait ends
//!
//! Three things wait: the thread for room, an upload for bytes, and a job for its turn to send or for a place among the jobs
//! that run.
//!
//! - The engine gives no job to a blob that has not begun to arrive, and the thread begins with a blob only when the one
//!   before it is here to its last byte. So each job that runs, holds a turn or waits for one has all of its bytes, or is
//!   that of the one blob whose bytes come in now.
//! - Jobs of the first kind need only the registry. All requests to a registry end in bounded time; then the job ends, well
//!   or not. So the blob whose bytes come in now gets its place and its turn.
//! - In the middle of a blob the thread waits for its upload to read on, which needs a turn (see above) and the registry. If
//!   the job ends early, well or not, and no other is left, the engine gives the blob back, and its rest is read over.
//! - Between two blobs the thread waits for room, which is taken by blobs that have arrived. Each has a job that ends (see
//!   above), and its room is given back with the last one. The same holds for blobs whose images have all failed: they have
//!   no job, and their room is given back at once.
//!
//! The order of the engine is thus the order of arrival, even where a queue that knows all blobs would prefer another.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::blob_buffer::{BlobBuffer, PIECE, WINDOW};
use super::spool::Spool;
use crate::bundle::read::Bundle;
use crate::bundle::read::stream::pipe::{Arriving, Incoming};
use crate::bundle::read::summed::VerifiedFile;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::lock::Mutex;
use crate::progress::Progress;
use crate::text::{Warnings, quote};
use crate::transfer::push::request::PushRequest;

/// A blob counts for at least this much, for all that is kept beside its bytes.
const LEAST: u64 = 16 << 10;

/// What comes out of the pipe.
pub(crate) enum FeedEvent {
    /// A blob that is wanted, of this size: its first bytes can be read, or will be in a moment.
    Blob(Digest, u64),
    /// The end, with warnings, or what broke the pipe.
    End(Result<Warnings>),
}

/// The engine's side. When it is dropped, the pipe is not read any more.
pub(crate) struct PipeFeed {
    front: Arc<Bundle>,
    kept: Arc<KeptBlobs>,
    incoming: Option<Incoming>,
    sender: UnboundedSender<FeedEvent>,
    receiver: UnboundedReceiver<FeedEvent>,
}

impl PipeFeed {
    /// The blobs of a bundle whose front was read.
    pub(crate) fn new(front: Arc<Bundle>, incoming: Incoming) -> Self {
        let (sender, receiver) = unbounded_channel();
        Self {
            front,
            kept: Arc::default(),
            incoming: Some(incoming),
            sender,
            receiver,
        }
    }

    /// Where uploads find the blobs that have arrived.
    pub(crate) fn kept(&self) -> Arc<KeptBlobs> {
        self.kept.clone()
    }

    /// Whether a blob is in the front of the bundle, so that it need not be waited for.
    pub(crate) fn in_front(&self, blob: &Descriptor) -> bool {
        self.front.size_of(&blob.digest).is_some()
    }

    /// Reads on, and reports the `wanted` blobs, each with its number of repositories.
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
        // A thread of its own: a read from a pipe cannot be cancelled, and must not delay the end of the runtime.
        std::thread::Builder::new()
            .name("pipe".to_owned())
            .spawn(move || feeder.run())
            .map_err(|e| Error::new(Kind::Io, "cannot start the thread that reads the pipe").with_source(e))?;
        Ok(())
    }

    /// What comes next; waits for it. Nothing comes behind the end.
    pub(crate) async fn next(&mut self) -> FeedEvent {
        let gone = || FeedEvent::End(Err(Error::new(Kind::Io, "the pipe is not read any more")));
        self.receiver.recv().await.unwrap_or_else(gone)
    }

    /// Whether a blob that was sent to one repository will be mounted into the others.
    pub(crate) fn expect_mounts(&self, yes: bool) {
        self.kept.state.lock().mounts = yes;
    }

    /// Nothing will be done with this blob any more.
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

/// The blobs that are on their way.
#[derive(Default)]
pub(crate) struct KeptBlobs {
    state: Mutex<State>,
    /// Told when there is more room, or no use for it any more.
    room: Condvar,
}

#[derive(Default)]
struct State {
    /// Blobs that have not come yet, with the sizes that manifests state and the number of repositories that need one of that
    /// size.
    wanted: HashMap<Digest, Vec<(u64, usize)>>,
    /// Whether a blob that was sent to one repository will be mounted into the others.
    mounts: bool,
    flows: HashMap<Digest, Arc<BlobBuffer>>,
    /// What each blob on its way takes.
    taken: HashMap<Digest, u64>,
    room: u64,
    closed: bool,
    /// The sum of all that came out of the pipe, once its end was reached.
    sum: Option<VerifiedFile>,
}

impl KeptBlobs {
    /// A blob, if it is on its way.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<BlobBuffer>> {
        self.state.lock().flows.get(digest).cloned()
    }

    /// The sum of all that came out of the pipe, where it was asked for and its end was reached.
    pub(crate) fn sum(&self) -> Option<VerifiedFile> {
        self.state.lock().sum.clone()
    }

    /// Takes room for a blob, and waits for it. `false` if no upload needs it any more.
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

/// The thread that reads the pipe.
struct Feeder {
    incoming: Incoming,
    kept: Arc<KeptBlobs>,
    sender: UnboundedSender<FeedEvent>,
    /// Whether the bytes of blobs are of use, and not only their names.
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
            // If no manifest states this size, only the size is of use, for the error.
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

    /// Where the bytes of a blob go that leave memory. Where they may be needed again: the first repository that refuses a
    /// mount wants them from the start, and then it is too late to keep them.
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

    /// Hands a blob on to its end, or until no upload needs it any more.
    fn pass_on(&mut self, blob: Arriving, spool: Spool) -> Result<()> {
        let Arriving {
            digest, size, place, ..
        } = blob;
        let flow = Arc::new(BlobBuffer::new(place, size, spool));
        self.kept.state.lock().flows.insert(digest.clone(), flow.clone());
        let _ = self.sender.send(FeedEvent::Blob(digest, size));
        // However this ends, no reader may wait for bytes that will not come.
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

struct Guard<'a>(&'a BlobBuffer);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fail(&Error::new(Kind::Io, "the pipe is not read any more"));
    }
}
