//! Blobs that come out of a pipe in an order of its own, once, and the engine that waits for them.
//!
//! A thread reads the pipe from front to end. A blob that is wanted is written down for as long as it is on its way: small
//! ones in memory, others in a file without a name. All others are read over. The engine starts on a blob when its first
//! bytes are here, never before, and says when it is through with it in all repositories; then it is forgotten.
//!
//! # Why nobody waits for ever
//!
//! Three things wait: the thread for room, an upload for bytes, and a job for a turn to upload or for a place among the
//! jobs that run.
//!
//! - The thread waits for room only *between* two blobs. Whatever it has begun to write down it writes to the end at the
//!   speed of the pipe, whether or not somebody reads it, so at most one blob is incomplete at any time, and that one waits
//!   for nothing but the pipe.
//! - The engine gives no job to a blob that has not begun to arrive. So each job that runs, holds a turn or waits for one
//!   has all of its bytes, or is the one blob whose bytes come in now. No job waits for the bytes of a later blob, which
//!   is what would close the circle with a thread that waits for an earlier one to go.
//! - Room is taken by blobs that have arrived. Each has a job that runs or that waits for a turn, and turns are held by
//!   jobs of the same kind, which need only the registry. All requests to a registry end in bounded time; then the job
//!   ends, well or not, and the engine gives back the room of the blob when its last job is over. The same holds for blobs
//!   whose images have all failed: they have no job, and their room is given back at once.
//!
//! The order of the engine is thus the order of arrival, whatever order a queue that knows all blobs would prefer.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::flow::{Flow, PIECE, SMALL};
use crate::bundle::read::Bundle;
use crate::bundle::read::pipe::{Arriving, Incoming};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;

/// Small blobs on their way take at most this much memory together.
const MEMORY: u64 = 16 << 20;

/// A small blob counts for at least this much, for all that is kept beside its bytes.
const LEAST: u64 = 16 << 10;

/// What comes out of the pipe.
pub(crate) enum Arrival {
    /// A blob that is wanted, of this size: its first bytes can be read, or will be in a moment.
    Blob(Digest, u64),
    /// The end, with warnings, or what broke the pipe.
    End(Result<Vec<String>>),
}

/// The engine's side. When it is dropped, the pipe is not read any more.
pub(crate) struct Arrivals {
    front: Arc<Bundle>,
    kept: Arc<Kept>,
    incoming: Option<Incoming>,
    sender: UnboundedSender<Arrival>,
    receiver: UnboundedReceiver<Arrival>,
}

impl Arrivals {
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
    pub(crate) fn kept(&self) -> Arc<Kept> {
        self.kept.clone()
    }

    /// Whether a blob stands in the front, and need not be waited for.
    pub(crate) fn in_front(&self, blob: &Descriptor) -> bool {
        self.front.size_of(&blob.digest).is_some()
    }

    /// Reads on, and tells of the blobs that are `wanted`. At most `files` large ones are on their way at a time. Their
    /// bytes are only kept if they are `needed`.
    pub(crate) fn start<'d>(
        &mut self,
        wanted: impl Iterator<Item = &'d Descriptor>,
        files: usize,
        needed: bool,
    ) -> Result<()> {
        let Some(incoming) = self.incoming.take() else {
            return Ok(());
        };
        {
            let mut state = self.kept.state();
            state.files_left = files.max(1);
            state.memory_left = MEMORY;
            for blob in wanted {
                state.wanted.entry(blob.digest.clone()).or_default().push(blob.size);
            }
        }
        let feeder = Feeder {
            incoming,
            kept: self.kept.clone(),
            sender: self.sender.clone(),
            needed,
        };
        // A thread of its own: a read from a pipe cannot be called off, and must not hold up the runtime's end.
        std::thread::Builder::new()
            .name("pipe".to_owned())
            .spawn(move || feeder.run())
            .map_err(|e| Error::new(Kind::Io, "cannot start the thread that reads the pipe").with_source(e))?;
        Ok(())
    }

    /// What comes next; waits for it. Nothing comes behind the end.
    pub(crate) async fn next(&mut self) -> Arrival {
        let gone = || Arrival::End(Err(Error::new(Kind::Io, "the pipe is not read any more")));
        self.receiver.recv().await.unwrap_or_else(gone)
    }

    /// Nothing will be done with this blob any more.
    pub(crate) fn release(&self, digest: &Digest) {
        self.kept.release(digest);
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        let error = Error::new(Kind::Cancelled, "the pipe is not read any more");
        let mut state = self.kept.state();
        state.closed = true;
        state.flows.values().for_each(|flow| flow.fail(&error));
        self.kept.room.notify_all();
    }
}

/// The blobs that are on their way.
#[derive(Default)]
pub(crate) struct Kept {
    state: Mutex<State>,
    /// Told when there is more room, or no use for it any more.
    room: Condvar,
}

#[derive(Default)]
struct State {
    /// Blobs that have not come yet, with the sizes that manifests state.
    wanted: HashMap<Digest, Vec<u64>>,
    flows: HashMap<Digest, Arc<Flow>>,
    /// What each blob on its way takes.
    taken: HashMap<Digest, u64>,
    files_left: usize,
    memory_left: u64,
    closed: bool,
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob, if it is on its way.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<Flow>> {
        self.state().flows.get(digest).cloned()
    }

    /// Takes room for a blob, and waits for it. `false` if nobody wants it any more.
    fn reserve(&self, digest: &Digest, size: u64) -> bool {
        let cost = size.max(LEAST);
        let full = |state: &mut State| {
            !state.closed
                && match size > SMALL {
                    true => state.files_left == 0,
                    false => state.memory_left < cost,
                }
        };
        let waited = self.room.wait_while(self.state(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return false;
        }
        if size > SMALL {
            state.files_left -= 1;
        } else {
            state.memory_left -= cost;
        }
        state.taken.insert(digest.clone(), size);
        true
    }

    fn release(&self, digest: &Digest) {
        let mut state = self.state();
        state.flows.remove(digest);
        if let Some(size) = state.taken.remove(digest) {
            if size > SMALL {
                state.files_left += 1;
            } else {
                state.memory_left += size.max(LEAST);
            }
        }
        self.room.notify_all();
    }
}

/// The thread that reads the pipe.
struct Feeder {
    incoming: Incoming,
    kept: Arc<Kept>,
    sender: UnboundedSender<Arrival>,
    needed: bool,
}

impl Feeder {
    fn run(mut self) {
        let end = self.feed().map(|()| self.incoming.warning().into_iter().collect());
        // If nobody listens any more, nobody wants to know.
        let _ = self.sender.send(Arrival::End(end));
    }

    fn feed(&mut self) -> Result<()> {
        let mut buffer = vec![0; PIECE];
        while let Some(blob) = self.incoming.next()? {
            let sizes = {
                let mut state = self.kept.state();
                if state.closed {
                    return Ok(());
                }
                state.wanted.remove(&blob.digest)
            };
            let Some(sizes) = sizes else { continue };
            // Of a blob whose size no manifest states, nothing is of use but the size.
            if !self.needed || !sizes.contains(&blob.size) {
                let _ = self.sender.send(Arrival::Blob(blob.digest, blob.size));
                continue;
            }
            if !self.kept.reserve(&blob.digest, blob.size) {
                return Ok(());
            }
            self.pass_on(blob, &mut buffer)?;
        }
        Ok(())
    }

    /// Writes a blob down to its end, or until nobody wants it any more.
    fn pass_on(&mut self, blob: Arriving, buffer: &mut [u8]) -> Result<()> {
        let Arriving { digest, size, place } = blob;
        let flow = Flow::new(place.clone(), size, self.incoming.temp_dir());
        let flow = Arc::new(flow.unwrap_or_else(|error| Flow::broken(place, size, &error)));
        self.kept.state().flows.insert(digest.clone(), flow.clone());
        let _ = self.sender.send(Arrival::Blob(digest.clone(), size));
        // However this ends, nobody waits for bytes that will not come.
        let _guard = Guard(&flow);
        while self.kept.get(&digest).is_some() && !self.kept.state().closed {
            let got = match self.incoming.read(buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) => {
                    flow.fail(&error);
                    return Err(error);
                }
            };
            if let Err(error) = flow.write(&buffer[..got]) {
                // The rest of it is read over; smaller blobs may still fit.
                flow.fail(&error);
                break;
            }
        }
        Ok(())
    }
}

struct Guard<'a>(&'a Flow);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fail(&Error::new(Kind::Io, "the pipe is not read any more"));
    }
}
