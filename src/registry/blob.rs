//! Reading of a blob across broken connections, expired addresses and failing mirrors.
//! Yields exactly the requested bytes, as they arrive, without a copy and without a change of thread.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::answer::{self, Answer};
use super::blob_body::Body;
use super::call::Call;
use super::candidate::{Candidate, ReadPlace};
use super::content_encoding::Encoding;
use super::content_range;
use super::failure::Failure;
use super::limiter::{Permit, Use};
use super::redact::{authority, printable};
use super::refusal::Refusal;
use super::retry::{Backoff, BlobProgress};
use super::scope::Scope;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::text::byte_count;

/// Reaction of a reader to a server that ignores `Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutRange {
    /// Read from the start and discard the first bytes.
    Skip,
    /// Fail with `Kind::NoRanges`.
    Refuse,
    /// Read the whole blob if the range begins where the blob does, and fail with `Kind::NoRanges` if not.
    Extend,
}

/// Reader of a blob, or of a part of it.
pub struct BlobReader {
    /// Remaining candidates; the first is the current candidate.
    places: VecDeque<Candidate>,
    descriptor: Descriptor,
    /// Offset of the next byte to return.
    at: u64,
    /// Offset after the last requested byte.
    end: u64,
    without_range: WithoutRange,
    /// Whether the current candidate refused a valid range, so that the whole blob has to be requested.
    ranges_refused: bool,
    body: Option<Body>,
    permit: Option<Permit>,
    backoff: Backoff,
    /// Whether the blob was requested again after an answer of a wrong length.
    asked_again: bool,
    progress: BlobProgress,
    /// Time spent waiting for the network since the last check of the minimum rate.
    waited: Duration,
    /// Number of bytes received since the last check of the minimum rate.
    waited_for: u64,
}

fn no_registry() -> Error {
    Error::internal("no registry to read from")
}

/// Hint for a blob whose size differs from the size in its manifest.
const PUSH_AGAIN: &str =
    "the manifest and the blob do not belong together: have the image pushed there again, or name another source";

/// Hint for a blob that the registry does not have.
const LOST_BLOB: &str = "the registry does not have a blob that its manifest lists: have the image pushed there again";

impl BlobReader {
    /// Opens `range` of a blob at the first candidate that serves it.
    ///
    /// When a candidate refuses or breaks off, the reader continues with the next one; no byte is returned twice.
    ///
    /// # Errors
    /// Those of the last candidate. [`Kind::NoRanges`] at once if a candidate does not serve ranges and `without_range`
    /// forbids to read the whole blob: the caller may ask in another way, so the candidate is not given up.
    pub async fn open(
        candidates: Vec<Candidate>,
        descriptor: &Descriptor,
        range: Range<u64>,
        without_range: WithoutRange,
    ) -> Result<Self> {
        Self::open_in(None, candidates, descriptor, range, without_range).await
    }

    /// Opens `range` of a blob as [`open`](Self::open) does, with a place at the first candidate.
    pub(crate) async fn open_in(
        place: Option<ReadPlace>,
        candidates: Vec<Candidate>,
        descriptor: &Descriptor,
        range: Range<u64>,
        without_range: WithoutRange,
    ) -> Result<Self> {
        if range.start > range.end || range.end > descriptor.size {
            return Err(Error::internal(format!(
                "bytes {}..{} of blob {} were asked for, which has {}",
                range.start, range.end, descriptor.digest, descriptor.size
            )));
        }
        let places = VecDeque::from(candidates);
        let first = places.front().ok_or_else(no_registry)?;
        let mut reader = Self {
            backoff: Backoff::new(&first.host.context.options),
            places,
            descriptor: descriptor.clone(),
            at: range.start,
            end: range.end,
            without_range,
            ranges_refused: false,
            body: None,
            permit: place.map(|place| place.0),
            asked_again: false,
            progress: BlobProgress::new(range.start, descriptor.size),
            waited: Duration::ZERO,
            waited_for: 0,
        };
        if reader.at < reader.end {
            reader.connect().await?;
        }
        if reader.without_range == WithoutRange::Extend {
            // The caller knows the end of the range from now on.
            reader.without_range = WithoutRange::Refuse;
        }
        Ok(reader)
    }

    /// Returns the offset after the last byte that the reader returns.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Returns the next bytes; `None` after exactly the requested range.
    ///
    /// # Errors
    /// Fails after broken connections without progress, after a refusal, or if the server sends more or fewer bytes than the
    /// descriptor states. Bytes returned before the error may be right. The caller hashes them.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at == self.end {
                return self.finish().await;
            }
            let Some(body) = &mut self.body else {
                self.connect().await?;
                continue;
            };
            let Some(place) = self.places.front() else {
                return Err(no_registry());
            };
            let stall = place.host.context.options.stall_timeout();
            let begun = Instant::now();
            let failure = match body.chunk(stall).await {
                Ok(Some(mut bytes)) => {
                    place.host.limiter.moved(bytes.len() as u64);
                    let skipped = body.skip.min(bytes.len() as u64);
                    body.skip -= skipped;
                    bytes = bytes.slice(skipped as usize..);
                    let wanted = self.end - self.at;
                    if bytes.len() as u64 > wanted {
                        if !body.measured && self.end == self.descriptor.size {
                            let host = body.host.clone();
                            return Err(self.too_long(&host));
                        }
                        bytes.truncate(wanted as usize);
                    }
                    self.at += bytes.len() as u64;
                    match self.too_slow(begun.elapsed(), skipped + bytes.len() as u64) {
                        Some(failure) => failure,
                        None if bytes.is_empty() => continue,
                        None => return Ok(Some(bytes)),
                    }
                }
                Ok(None) => Failure::broken(format!(
                    "`{}` ended the body after {} of {}",
                    body.host,
                    self.at,
                    byte_count(self.end)
                )),
                Err(failure) => failure,
            };
            self.broken(failure).await?;
        }
    }

    /// Ends the reader after the last requested byte: a body of unknown length must end here too.
    async fn finish(&mut self) -> Result<Option<Bytes>> {
        if let Some(mut body) = self.body.take() {
            if !body.measured && self.end == self.descriptor.size {
                // A server that neither sends nor ends is not waited for: all requested bytes have arrived.
                let rest = body.chunk(Duration::from_secs(1)).await;
                if matches!(rest, Ok(Some(bytes)) if !bytes.is_empty()) {
                    return Err(self.too_long(&body.host));
                }
            } else if self.end == self.descriptor.size {
                // Reading the end of the body lets the connection be reused for the next request.
                let _ = body.chunk(Duration::from_secs(1)).await;
            }
            if let Some(permit) = self.permit.take() {
                permit.went_well();
            }
        }
        self.permit = None;
        Ok(None)
    }

    /// Connects to the current candidate, or to the next one that answers.
    async fn connect(&mut self) -> Result<()> {
        loop {
            match self.ask().await {
                Ok(Some(body)) => {
                    if let Some(place) = self.places.front().filter(|_| self.ranges_refused) {
                        place.host.no_ranges.store(true, Ordering::Relaxed);
                    }
                    self.body = Some(body);
                    return Ok(());
                }
                Ok(None) => self.ranges_refused = true,
                Err(error) if error.kind() == Kind::NoRanges => return Err(error),
                Err(error) => {
                    if !self.asks_again(&error).await {
                        self.next_place(error)?;
                    }
                }
            }
        }
    }

    /// Returns whether to request the blob once more from the last candidate, after a pause.
    /// A store or proxy may answer a single time with an error page or with a cut body, under a status of success.
    async fn asks_again(&mut self, error: &Error) -> bool {
        if error.kind() != Kind::Integrity || self.places.len() > 1 || std::mem::replace(&mut self.asked_again, true) {
            return false;
        }
        self.backoff.pause_silently(None).await
    }

    fn next_place(&mut self, error: Error) -> Result<()> {
        let Some(gone) = self.places.pop_front() else {
            return Err(error);
        };
        let Some(next) = self.places.front() else {
            // The last candidate stays, so that another call asks it again.
            self.places.push_front(gone);
            return Err(error);
        };
        self.ranges_refused = false;
        self.backoff = Backoff::new(&next.host.context.options);
        // Another repository of the same host uses the same permit: giving the permit back would mean to queue again.
        if Arc::ptr_eq(&gone.host, &next.host) {
            gone.host.warn_about_fallback(&error, &next.to_string());
        } else {
            gone.host.warn_about_fallback(&error, &next.host.name);
            self.permit = None;
        }
        Ok(())
    }

    /// Requests the blob from the current candidate.
    /// `None` if the candidate refuses the range, so that the whole blob has to be requested.
    async fn ask(&mut self) -> Result<Option<Body>> {
        let Some(place) = self.places.front().cloned() else {
            return Err(no_registry());
        };
        let (host, repository) = (&place.host, place.repository.as_str());
        if self.permit.is_none() {
            self.permit = Some(host.limiter.permit(Use::Download).await);
        }
        let action = format!("cannot read blob {} of `{place}`", self.descriptor.digest);
        let url = host.url(repository, &format!("blobs/{}", self.descriptor.digest));
        let mut call = Call::new(Method::GET, url, repository, Scope::pull(repository), action).with_place();
        let whole = self.at == 0 && self.end == self.descriptor.size;
        if !whole && host.no_ranges.load(Ordering::Relaxed) {
            self.refused_range(&call.action)?;
            self.ranges_refused = true;
        }
        let is_range = !whole && !self.ranges_refused;
        if is_range && let Ok(range) = HeaderValue::try_from(format!("bytes={}-{}", self.at, self.end - 1)) {
            call = call.header(RANGE, range);
        }
        let answer = host.exchange(&call).await?;
        match answer.status() {
            StatusCode::OK => self.whole_body(answer, &call.action, whole).map(Some),
            // A part of an encoded blob cannot be decoded.
            StatusCode::PARTIAL_CONTENT if is_range && self.is_encoded(&answer) => self.refused_range(&call.action),
            StatusCode::PARTIAL_CONTENT if !whole || content_range::parse_answer(answer.headers()).is_some() => {
                match self.part(answer, &call.action) {
                    // Another part than the requested one is as good as none: the whole blob may still come.
                    Err(_) if is_range => self.refused_range(&call.action),
                    part => part.map(Some),
                }
            }
            // The range lies within the blob, so a 416 means that the server refuses all ranges.
            StatusCode::RANGE_NOT_SATISFIABLE
                if is_range
                    && content_range::parse_refusal(answer.headers())
                        .is_none_or(|size| size == self.descriptor.size) =>
            {
                self.refused_range(&call.action)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.asked_again = true;
                Err(Error::new(
                    Kind::Integrity,
                    format!(
                        "{}: {} has fewer than the {} that its manifest promises",
                        call.action,
                        answer.server(),
                        byte_count(self.descriptor.size)
                    ),
                )
                .with_hint(PUSH_AGAIN))
            }
            StatusCode::NOT_FOUND if !answer.is_web_page() => {
                let error = answer.into_error(&call.action).await;
                let has_codes = Refusal::in_error(&error).is_some_and(|refusal| !refusal.codes.is_empty());
                Err(if has_codes { error.with_hint(LOST_BLOB) } else { error })
            }
            status => {
                let error = answer.into_error(&call.action).await;
                // A registry without ranges may refuse a request that has one, for example with 400 or 501.
                let refuses =
                    error.kind() == Kind::Unsupported || matches!(status.as_u16(), 400 | 405 | 406 | 412 | 417);
                match is_range && refuses {
                    true => self.refused_range(&call.action),
                    false => Err(error),
                }
            }
        }
    }

    /// Returns `None` for a candidate that does not serve the range, so that the whole blob is requested; an error if the caller
    /// does not want that.
    fn refused_range(&self, action: &str) -> Result<Option<Body>> {
        match self.without_range {
            WithoutRange::Refuse | WithoutRange::Extend => {
                let what = format!("{action}: the registry does not serve ranges");
                Err(Error::new(Kind::NoRanges, what))
            }
            WithoutRange::Skip => Ok(None),
        }
    }

    fn whole_body(&mut self, answer: Answer, action: &str, wanted: bool) -> Result<Body> {
        let encoding = answer.encoding().filter(|_| self.is_encoded(&answer));
        if encoding.is_none() {
            self.check_length(&answer, action, self.descriptor.size)?;
        }
        if !wanted && self.without_range == WithoutRange::Extend && self.at == 0 {
            self.end = self.descriptor.size;
            self.without_range = WithoutRange::Skip;
        } else if !wanted {
            self.refused_range(action)?;
        }
        Ok(self.body(answer, self.at, encoding))
    }

    fn part(&self, answer: Answer, action: &str) -> Result<Body> {
        let stated = content_range::parse_answer(answer.headers());
        let right = stated.filter(|(first, last, total)| {
            *first == self.at && *last < self.end && total.is_none_or(|total| total == self.descriptor.size)
        });
        let Some((first, last, _)) = right else {
            let stated = answer
                .header(&reqwest::header::CONTENT_RANGE)
                .map(|text| printable(text, 64));
            return Err(Error::new(
                Kind::Server,
                format!(
                    "{action}: bytes {}-{} of {} were asked for, {} sends {}",
                    self.at,
                    self.end - 1,
                    self.descriptor.size,
                    answer.server(),
                    stated.map_or_else(|| "a part without a range".to_owned(), |stated| format!("`{stated}`")),
                ),
            ));
        };
        self.check_length(&answer, action, last - first + 1)?;
        Ok(self.body(answer, 0, None))
    }

    /// Returns whether a proxy encoded the blob, although no encoding was accepted.
    /// Some servers wrongly claim an encoding for blobs that are compressed themselves, as layers are.
    fn is_encoded(&self, answer: &Answer) -> bool {
        let stated = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                content_range::parse_answer(answer.headers()).and_then(|(_, _, total)| total)
            }
            _ => answer.length(),
        };
        let media_type = &self.descriptor.media_type;
        let is_compressed = media_type.contains("gzip") || media_type.contains("zstd");
        answer.encoding().is_some() && stated.map_or(!is_compressed, |size| size != self.descriptor.size)
    }

    fn body(&self, answer: Answer, skip: u64, claimed: Option<Encoding>) -> Body {
        Body {
            measured: answer.length().is_some() && claimed.is_none(),
            decoding: None,
            claimed,
            host: authority(&answer.url),
            skip,
            response: answer.into_body(),
        }
    }

    fn check_length(&self, answer: &Answer, action: &str, expected: u64) -> Result<()> {
        if answer.is_web_page() && self.descriptor.media_type != "text/html" && answer.length() != Some(expected) {
            return Err(answer::web_page(&authority(&answer.url), action));
        }
        match answer.length() {
            Some(length) if length != expected => {
                let encoded = answer.header(&CONTENT_ENCODING).map(|text| printable(text, 32));
                let (why, hint) = match encoded {
                    Some(encoding) => (
                        format!(" (encoded as `{encoding}`, which was not asked for)"),
                        "a proxy in front of the registry compresses what it passes on: have that switched off",
                    ),
                    None => (String::new(), PUSH_AGAIN),
                };
                let server = answer.server();
                let sent = byte_count(length);
                let message = format!("{action}: {server} sends {sent}{why}, its manifest promises {expected}");
                let host = authority(&answer.url);
                let cause = format!("`{host}` sends another length of a blob than its manifest promises{why}");
                Err(Error::new(Kind::Integrity, message).with_cause(&cause).with_hint(hint))
            }
            _ => Ok(()),
        }
    }

    /// Recovers from a broken body: pauses, then reconnects to the current candidate, or to the next one.
    /// Progress since the last failures renews the retry budget.
    async fn broken(&mut self, failure: Failure) -> Result<()> {
        self.body = None;
        self.waited = Duration::ZERO;
        self.waited_for = 0;
        if let Some(permit) = &mut self.permit {
            permit.went_wrong();
        }
        let Some(place) = self.places.front().cloned() else {
            return Err(failure.error);
        };
        let options = &place.host.context.options;
        if self.progress.renews(self.at) {
            self.backoff = Backoff::new(options);
        }
        let size = byte_count(self.descriptor.size);
        let error = failure.error.with_shared_cause().context(format!(
            "cannot read blob {} of `{}/{}` after {} of {size}",
            self.descriptor.digest, place.host.name, place.repository, self.at
        ));
        if self.backoff.pause(options, None, || error.full()).await {
            Ok(())
        } else {
            self.next_place(error)
        }
    }

    /// Checks the minimum rate. Only the time spent waiting for the network counts, not the caller's time.
    fn too_slow(&mut self, waited: Duration, bytes: u64) -> Option<Failure> {
        self.waited += waited;
        self.waited_for += bytes;
        let options = &self.places.front()?.host.context.options;
        if self.waited < options.stall_timeout() * 2 {
            return None;
        }
        let minimum = options.minimum_rate();
        let rate = (self.waited_for as f64 / self.waited.as_secs_f64()) as u64;
        self.waited = Duration::ZERO;
        self.waited_for = 0;
        let host = &self.body.as_ref()?.host;
        (rate < minimum).then(|| Failure::broken(format!("`{host}` sends {rate} bytes per second")))
    }

    fn too_long(&self, host: &str) -> Error {
        let Descriptor { size, digest, .. } = &self.descriptor;
        let what = format!("`{host}` sends more than the {} of blob {digest}", byte_count(*size));
        Error::new(Kind::Integrity, what).with_hint(PUSH_AGAIN)
    }
}

impl std::fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobReader({} {}..{})", self.descriptor.digest, self.at, self.end)
    }
}
