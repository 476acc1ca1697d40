//! Body of an upload: bytes of a blob, hashed as they are sent.
//! The last bytes are sent only after the digest is verified, so that a corrupt blob never makes a complete upload.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::{Body, Frame, SizeHint};

use super::source::{BlobSource, BlobStream};
use crate::error::{Error, Kind, Result, Side};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Hasher;
use crate::lock::Mutex;
use crate::registry::context::Watch;
use crate::text::byte_count;

/// Minimum distance in bytes between two saved states of the hash.
/// An upload that resumes in the middle thus re-reads little, and the source has to go back hardly further than to the
/// registry's offset.
const MARK_EVERY: u64 = 1 << 20;

/// Maximum number of saved hash states of one blob, which take some two megabytes.
const MAX_MARKS: u64 = 8192;

/// Position up to which a blob was read and hashed.
/// Shared by the bodies of successive requests, of which only the latest may read: the HTTP library may still hold the body
/// of a broken connection for a moment.
#[derive(Clone)]
pub(super) struct Cursor {
    descriptor: Descriptor,
    state: Arc<Mutex<State>>,
}

struct State {
    stream: Option<BlobStream>,
    /// Bytes read from the stream that no body has taken yet; not hashed.
    rest: Bytes,
    /// Number of bytes hashed.
    at: u64,
    /// Highest number of bytes ever read.
    furthest: u64,
    hasher: Hasher,
    /// Saved states of the hash, by position.
    marks: BTreeMap<u64, Hasher>,
    /// Number of the body that may read.
    reader: u64,
    /// Whether the body must not read any more, although its connection may still be in use for the answer.
    halted: bool,
    waker: Option<Waker>,
    error: Option<Error>,
}

impl Cursor {
    pub(super) fn new(descriptor: &Descriptor) -> Self {
        let hasher = descriptor.digest.hasher();
        let state = State {
            stream: None,
            rest: Bytes::new(),
            at: 0,
            furthest: 0,
            marks: BTreeMap::from([(0, hasher.clone())]),
            hasher,
            reader: 0,
            halted: false,
            waker: None,
            error: None,
        };
        Self {
            descriptor: descriptor.clone(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Creates a body of the bytes `start..end`. Earlier bodies can no longer read.
    ///
    /// With `pause_early` the body sends a little and then pauses, so that an early answer is read. A server that refuses a
    /// body without reading it closes the connection, and a client that is writing then sees a broken pipe instead of the
    /// refusal.
    pub(super) async fn body(
        &self,
        source: &dyn BlobSource,
        start: u64,
        end: u64,
        watch: &Watch,
        pause_early: bool,
    ) -> Result<UploadBody> {
        let (reader, open_at) = {
            let mut state = self.state.lock();
            state.next_reader();
            state.error = None;
            let goes_on = state.at == start && state.stream.is_some();
            if !goes_on {
                // The map always has a mark at position 0.
                let mark = state.marks.range(..=start).next_back();
                let (at, hasher) =
                    mark.map_or_else(|| (0, self.descriptor.digest.hasher()), |(at, h)| (*at, h.clone()));
                (state.at, state.hasher) = (at, hasher);
                state.rest = Bytes::new();
                state.stream = None;
            }
            (state.reader, (!goes_on).then_some(state.at))
        };
        if let Some(at) = open_at {
            let opened = source.open(&self.descriptor, at).await;
            let stream = opened.map_err(|e| e.with_side(Side::Source))?;
            self.state.lock().stream = Some(stream);
        }
        if start == end {
            watch.out();
        }
        Ok(UploadBody {
            cursor: self.clone(),
            reader,
            at: start,
            end,
            watch: watch.clone(),
            pause: if pause_early { EarlyPause::Due } else { EarlyPause::None },
        })
    }

    /// Stops reading the body, since the answer came before its end.
    /// A server may continue to read the rest of a body that it has refused, and a source may not be able to provide these
    /// bytes again.
    pub(super) fn halt(&self) {
        self.state.lock().halted = true;
    }

    /// Releases the earlier body and the source.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.next_reader();
        state.stream = None;
    }

    /// Returns and clears the source's error, if that ended the last body.
    pub(super) fn failed(&self) -> Option<Error> {
        self.state.lock().error.take()
    }

    /// Returns the highest number of bytes ever read: the registry cannot have more.
    pub(super) fn reached(&self) -> u64 {
        self.state.lock().furthest
    }
}

impl State {
    fn next_reader(&mut self) {
        self.reader += 1;
        self.halted = false;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Returns the next bytes up to `end`, at most `most`, after hashing them.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        descriptor: &Descriptor,
        end: u64,
        most: usize,
    ) -> Poll<Result<Bytes>> {
        while self.rest.is_empty() {
            let next = match &mut self.stream {
                Some(stream) => std::task::ready!(stream.poll_next_unpin(context)),
                None => None,
            };
            self.rest = match next {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {
                    return Poll::Ready(Err(Error::new(
                        Kind::Integrity,
                        format!(
                            "blob {} ends after {} of {}",
                            descriptor.digest,
                            self.at,
                            byte_count(descriptor.size)
                        ),
                    )));
                }
            };
        }
        let wanted = usize::try_from(end - self.at)
            .unwrap_or(usize::MAX)
            .min(self.rest.len())
            .min(most);
        let bytes = self.rest.split_to(wanted);
        self.hasher.update(&bytes);
        self.at += bytes.len() as u64;
        self.furthest = self.furthest.max(self.at);
        let marked = self.marks.range(..=self.at).next_back().map_or(0, |(at, _)| *at);
        if self.at - marked >= MARK_EVERY.max(descriptor.size / MAX_MARKS) {
            self.marks.insert(self.at, self.hasher.clone());
        }
        if self.at == descriptor.size {
            let actual = self.hasher.clone().finish();
            if actual != descriptor.digest {
                return Poll::Ready(Err(Error::new(
                    Kind::Integrity,
                    format!("blob {} has other bytes: they hash to {actual}", descriptor.digest),
                )));
            }
        }
        Poll::Ready(Ok(bytes))
    }
}

/// Bytes `at..end` of a blob, as a request body of known length.
pub(super) struct UploadBody {
    cursor: Cursor,
    /// Number of this body; only the body with the cursor's current number may read.
    reader: u64,
    /// Offset of the next byte to send.
    at: u64,
    /// Offset after the last byte to send.
    end: u64,
    watch: Watch,
    pause: EarlyPause,
}

/// State of the pause near the start of a body.
enum EarlyPause {
    None,
    /// The pause follows after the next bytes.
    Due,
    Now(Pin<Box<tokio::time::Sleep>>),
}

/// Maximum number of bytes sent before the pause.
const BEFORE_PAUSE: usize = 16 << 10;

/// Length of the pause.
const EARLY_PAUSE: Duration = Duration::from_millis(500);

impl Body for UploadBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.at == this.end {
            return Poll::Ready(None);
        }
        if let EarlyPause::Now(pause) = &mut this.pause {
            this.watch.waiting(true);
            std::task::ready!(pause.as_mut().poll(context));
            this.watch.waiting(false);
            this.pause = EarlyPause::None;
        }
        let mut state = this.cursor.state.lock();
        if state.reader != this.reader {
            return Poll::Ready(Some(Err(Error::new(Kind::Cancelled, "the request was given up"))));
        }
        if state.halted {
            this.watch.waiting(true);
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        loop {
            let most = if matches!(this.pause, EarlyPause::Due) {
                BEFORE_PAUSE
            } else {
                usize::MAX
            };
            let bytes = match state.poll_next(context, &this.cursor.descriptor, this.end, most) {
                Poll::Ready(Ok(bytes)) => bytes,
                Poll::Ready(Err(error)) => {
                    state.stream = None;
                    let error = error.with_side(Side::Source);
                    state.error = Some(error.clone());
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => {
                    this.watch.waiting(true);
                    return Poll::Pending;
                }
            };
            this.watch.waiting(false);
            // The source was opened at a mark before the upload's offset: the bytes up to the offset are only hashed.
            let behind = state.at.saturating_sub(this.at).min(bytes.len() as u64);
            let bytes = bytes.slice(bytes.len() - behind as usize..);
            if bytes.is_empty() {
                continue;
            }
            if matches!(this.pause, EarlyPause::Due) {
                this.pause = EarlyPause::Now(Box::pin(tokio::time::sleep(EARLY_PAUSE)));
            }
            this.at += bytes.len() as u64;
            this.watch.sent(bytes.len() as u64);
            if this.at == this.end {
                this.watch.out();
            }
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::BoxFuture;

    struct Memory(Bytes, Mutex<Vec<u64>>);

    impl BlobSource for Memory {
        fn open<'a>(&'a self, _: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
            self.1.lock().push(offset);
            let rest = self.0.slice(offset as usize..);
            let pieces: Vec<_> = rest
                .chunks(1 << 20)
                .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                .collect();
            Box::pin(async move { Ok(futures_util::stream::iter(pieces).boxed()) })
        }
    }

    async fn read(mut body: UploadBody) -> Result<Vec<u8>, (usize, Error)> {
        let mut all = Vec::new();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            match frame {
                Ok(frame) => all.extend_from_slice(&frame.into_data().unwrap()),
                Err(error) => return Err((all.len(), error)),
            }
        }
        Ok(all)
    }

    #[tokio::test]
    async fn goes_on_from_a_mark() {
        let bytes: Bytes = (0..20u32 << 18).flat_map(u32::to_le_bytes).collect::<Vec<_>>().into();
        let descriptor = Descriptor::from_content("x", &bytes);
        let source = Memory(bytes.clone(), Mutex::default());
        let cursor = Cursor::new(&descriptor);
        let part = async |start, end| {
            let body = cursor.body(&source, start, end, &Watch::default(), false).await;
            read(body.unwrap()).await.unwrap()
        };
        assert_eq!(part(0, 10 << 20).await, bytes[..10 << 20]);
        let rest = part(10 << 20, descriptor.size).await;
        assert_eq!(rest, bytes[10 << 20..], "the same stream goes on");
        assert_eq!(part(9 << 20, descriptor.size).await, bytes[9 << 20..]);
        assert_eq!(*source.1.lock(), [0, 9 << 20], "no further back than it must");
        assert_eq!(part(3 << 20, 4 << 20).await, bytes[3 << 20..4 << 20]);
    }

    #[tokio::test]
    async fn the_last_bytes_of_a_wrong_blob_stay_here() {
        let bytes = Bytes::from(vec![7; 3 << 20]);
        let descriptor = Descriptor::from_content("x", &bytes);
        let mut edited = bytes.to_vec();
        edited[5] = 8;
        let source = Memory(edited.into(), Mutex::default());
        let cursor = Cursor::new(&descriptor);
        let body = cursor
            .body(&source, 0, descriptor.size, &Watch::default(), false)
            .await
            .unwrap();
        let (sent, error) = read(body).await.unwrap_err();
        assert!(sent < bytes.len());
        assert_eq!(error.kind(), Kind::Integrity);
        assert_eq!(cursor.failed().unwrap().kind(), Kind::Integrity);
        let short = Memory(bytes.slice(..100), Mutex::default());
        let body = cursor
            .body(&short, 0, descriptor.size, &Watch::default(), false)
            .await
            .unwrap();
        assert_eq!(read(body).await.unwrap_err().1.kind(), Kind::Integrity);
    }

    #[tokio::test]
    async fn an_abandoned_body_reads_no_more() {
        let bytes = Bytes::from_static(b"hello");
        let descriptor = Descriptor::from_content("x", &bytes);
        let source = Memory(bytes, Mutex::default());
        let cursor = Cursor::new(&descriptor);
        let old = cursor.body(&source, 0, 5, &Watch::default(), false).await.unwrap();
        let new = cursor.body(&source, 0, 5, &Watch::default(), false).await.unwrap();
        assert_eq!(read(old).await.unwrap_err().1.kind(), Kind::Cancelled);
        assert_eq!(read(new).await.unwrap(), b"hello");
    }
}
