//! Buffer for one blob from a pipe.
//! The pipe thread appends bytes as they arrive, the upload reads them at the same time, and read bytes are evicted. The
//! most recently read bytes stay in memory, so that a broken upload can resume at the registry's offset. If earlier bytes
//! may be needed again, evicted bytes are spooled to a temporary file.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, OnceLock, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::watch;

use super::spool::Spool;
use crate::error::{Error, Kind, Result};
use crate::lock::Mutex;
use crate::registry::BlobStream;
use crate::transfer::push::request::PushRequest;

/// Maximum number of bytes read from the pipe at a time.
pub(crate) const PIECE: usize = 256 << 10;

/// Maximum number of bytes of one blob in memory. A blob of at most this size is kept whole.
pub(crate) const WINDOW: u64 = PushRequest::LEAST_BUFFER;

/// Maximum number of unread bytes while read bytes are still evicted.
/// The rest of the window keeps read bytes: they may be on the wire, and are needed again if the connection breaks.
const AHEAD: u64 = 2 << 20;

/// A blob that arrives or has arrived.
pub(crate) struct BlobBuffer {
    place: String,
    size: u64,
    window: Mutex<Window>,
    /// Bytes before the window, if they are spooled.
    spool: Spool,
    /// Notified when the upload has read more bytes.
    moved: Condvar,
    /// Notified when more bytes have arrived.
    reached: watch::Sender<Reached>,
    failure: OnceLock<Error>,
}

/// The bytes `start..end` of the blob.
#[derive(Default)]
struct Window {
    pieces: VecDeque<Bytes>,
    start: u64,
    end: u64,
    /// Offset up to which the current upload has read.
    read: u64,
    closed: bool,
}

/// Number of bytes that have arrived, and whether reading ended with an error.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    bytes: u64,
    failed: bool,
}

impl BlobBuffer {
    /// Returns a buffer before the first byte arrives.
    /// `place` describes the blob's position in the bundle, for error messages.
    pub(crate) fn new(place: String, size: u64, spool: Spool) -> Self {
        Self {
            place,
            size,
            window: Mutex::default(),
            spool,
            moved: Condvar::new(),
            reached: watch::Sender::new(Reached::default()),
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Returns whether all bytes that have arrived can be read again.
    pub(crate) fn can_replay(&self) -> bool {
        self.size <= WINDOW || self.spool.is_on()
    }

    /// Appends the next bytes, and waits for room if the window is full.
    /// Returns `false` if no upload needs the blob any more.
    pub(crate) fn write(&self, bytes: Bytes) -> bool {
        let arrived = bytes.len() as u64;
        let full = |window: &mut Window| {
            !window.closed && window.end - window.start + arrived > WINDOW && window.end - window.read > AHEAD
        };
        let waited = self.moved.wait_while(self.window.lock(), full);
        let mut window = waited.unwrap_or_else(PoisonError::into_inner);
        if window.closed {
            return false;
        }
        while window.end - window.start + arrived > WINDOW {
            let Some(oldest) = window.pieces.front().cloned() else {
                break;
            };
            // The lock is released, since the disk may be slow and readers must not wait for it. No other thread removes
            // bytes.
            drop(window);
            self.spool.put(&oldest);
            window = self.window.lock();
            window.pieces.pop_front();
            window.start += oldest.len() as u64;
        }
        window.pieces.push_back(bytes);
        window.end += arrived;
        drop(window);
        self.reached.send_modify(|reached| reached.bytes += arrived);
        true
    }

    /// Ends the writing: no upload reads the blob any more.
    pub(crate) fn close(&self) {
        self.window.lock().closed = true;
        self.moved.notify_all();
    }

    /// Ends the reading with an error, unless all bytes have arrived.
    pub(crate) fn fail(&self, error: &Error) {
        if self.reached.borrow().bytes < self.size {
            let _ = self.failure.set(error.clone());
            self.reached.send_modify(|reached| reached.failed = true);
        }
    }

    /// Returns the bytes from `offset` on as a stream, which waits for bytes that have not arrived yet.
    /// Earlier streams of the blob must not be read any more.
    ///
    /// # Errors
    /// [`Kind::Io`] if the bytes are neither in memory nor spooled, or cannot be read from the spool.
    pub(crate) fn stream(self: &Arc<Self>, offset: u64) -> Result<BlobStream> {
        {
            let mut window = self.window.lock();
            if offset < window.start && !self.spool.is_on() {
                return Err(self.gone(window.start));
            }
            window.read = offset;
        }
        let start = (self.clone(), self.reached.subscribe(), offset);
        let pieces = stream::try_unfold(start, |(flow, mut receiver, at)| async move {
            if at >= flow.size {
                return Ok(None);
            }
            let reached = receiver.wait_for(|reached| reached.bytes > at || reached.failed).await;
            let reached = reached.map(|reached| *reached).unwrap_or_default();
            if reached.bytes <= at {
                return Err(flow.failed());
            }
            let piece = flow.read(at)?;
            let next = at + piece.len() as u64;
            Ok(Some((piece, (flow, receiver, next))))
        });
        Ok(pieces.boxed())
    }

    /// Returns bytes at offset `at`, from the window or from the spool.
    fn read(&self, at: u64) -> Result<Bytes> {
        let mut window = self.window.lock();
        let mut start = window.start;
        if at < start {
            drop(window);
            let length = usize::try_from(start - at).unwrap_or(PIECE).min(PIECE);
            let bytes = self.spool.get(at, length).unwrap_or_else(|| Err(self.gone(start)))?;
            self.window.lock().read = at + length as u64;
            self.moved.notify_all();
            return Ok(bytes);
        }
        for piece in &window.pieces {
            let end = start + piece.len() as u64;
            if at < end {
                let rest = piece.slice(usize::try_from(at - start).unwrap_or_default()..);
                window.read = end;
                self.moved.notify_all();
                return Ok(rest);
            }
            start = end;
        }
        Err(self.failed())
    }

    /// Returns the error for bytes that are neither in memory nor spooled.
    fn gone(&self, start: u64) -> Error {
        let gone = format!(
            "the upload has to begin again, and the first {start} bytes of the blob are no longer available from the pipe"
        );
        match self.spool.failure() {
            None => Error::new(Kind::Io, gone).with_hint(
                "run the import again, which skips the blobs that the registry has already, or import the bundle as a file",
            ),
            Some(why) => Error::new(Kind::Io, format!("{gone}; they could not be spooled: {why}")).with_hint(
                "save the bundle to a file and import that, or set TMPDIR to a directory with room for the blob",
            ),
        }
    }

    /// Returns the error for bytes that will not arrive.
    fn failed(&self) -> Error {
        let unread = || Error::new(Kind::Io, "the pipe is not read any more");
        self.failure.get().cloned().unwrap_or_else(unread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(pieces: u64) -> Arc<BlobBuffer> {
        spooled(pieces, Spool::off())
    }

    fn spooled(pieces: u64, spool: Spool) -> Arc<BlobBuffer> {
        Arc::new(BlobBuffer::new("there".to_owned(), pieces * PIECE as u64, spool))
    }

    /// Writes and reads all pieces of a blob.
    async fn pass(flow: &Arc<BlobBuffer>, count: u64) {
        let writer = flow.clone();
        let thread = std::thread::spawn(move || (0..count).all(|n| writer.write(piece(n))));
        let all: Vec<_> = flow.stream(0).unwrap().collect().await;
        assert!(all.iter().all(Result::is_ok));
        assert!(thread.join().unwrap());
    }

    #[tokio::test]
    async fn what_is_put_away_can_be_had_again_and_memory_stays_as_it_was() {
        let count = 3 * WINDOW / PIECE as u64;
        let file = tempfile::tempfile().unwrap();
        let flow = spooled(count, Spool::to(file.try_clone().unwrap()));
        pass(&flow, count).await;
        assert!(flow.can_replay());
        assert_eq!(file.metadata().unwrap().len(), 2 * WINDOW, "only what left memory");
        for _ in 0..2 {
            let all: Vec<Bytes> = flow.stream(5).unwrap().map(Result::unwrap).collect().await;
            let whole: Vec<u8> = (0..count).flat_map(|n| piece(n).to_vec()).skip(5).collect();
            assert!(all.concat() == whole);
            assert!(flow.window.lock().pieces.len() as u64 <= WINDOW / PIECE as u64);
        }
    }

    #[tokio::test]
    async fn where_it_cannot_be_put_away_the_advice_says_so() {
        let count = 2 * WINDOW / PIECE as u64;
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let nowhere = std::path::Path::new("/nowhere/at/all");
        for (spool, why) in [
            (Spool::to(full), "No space"),
            (Spool::in_folder(Some(nowhere)), "/nowhere"),
        ] {
            let flow = spooled(count, spool);
            pass(&flow, count).await;
            assert!(!flow.can_replay());
            let error = flow.stream(0).err().unwrap();
            assert!(error.to_string().contains(why), "{error}");
            assert!(
                error.hint().unwrap().starts_with("save the bundle to a file"),
                "{error:?}"
            );
            assert!(error.hint().unwrap().contains("TMPDIR"), "{error:?}");
        }
    }

    fn piece(n: u64) -> Bytes {
        Bytes::from(vec![n as u8; PIECE])
    }

    #[tokio::test]
    async fn what_fits_is_kept_as_a_whole() {
        let count = WINDOW / PIECE as u64;
        let flow = flow(count);
        (0..count).for_each(|n| assert!(flow.write(piece(n))));
        for _ in 0..2 {
            let all: Vec<_> = flow.stream(0).unwrap().collect().await;
            assert_eq!(all.len() as u64, count);
        }
        let rest: Vec<_> = flow.stream(WINDOW - 3).unwrap().collect().await;
        assert_eq!(rest[0].as_ref().unwrap(), &vec![(count - 1) as u8; 3]);
    }

    #[tokio::test]
    async fn the_pipe_waits_for_the_upload_and_the_last_bytes_can_be_had_again() {
        let count = 4 * WINDOW / PIECE as u64;
        let flow = flow(count);
        let writer = flow.clone();
        let thread = std::thread::spawn(move || (0..count).all(|n| writer.write(piece(n))));
        let mut stream = flow.stream(0).unwrap();
        for n in 0..count / 2 {
            assert_eq!(stream.next().await.unwrap().unwrap(), piece(n));
            let window = flow.window.lock();
            assert!(window.end - window.start <= WINDOW);
        }
        let at = count / 2 * PIECE as u64;
        let error = flow.stream(0).err().unwrap();
        assert!(
            error.to_string().contains("no longer available from the pipe"),
            "{error}"
        );
        let back = at - (WINDOW - AHEAD - PIECE as u64);
        let rest: Vec<_> = flow.stream(back).unwrap().collect().await;
        let length: usize = rest.iter().map(|piece| piece.as_ref().unwrap().len()).sum();
        assert_eq!(length as u64, flow.size - back);
        assert!(thread.join().unwrap());
    }

    #[tokio::test]
    async fn nobody_waits_for_what_will_not_come() {
        let flow = flow(100);
        assert!(flow.write(piece(0)));
        flow.fail(&Error::new(Kind::Malformed, "cut off"));
        let mut stream = flow.stream(0).unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        assert_eq!(stream.next().await.unwrap().unwrap_err().to_string(), "cut off");
        flow.close();
        assert!(!flow.write(piece(1)));
    }
}
