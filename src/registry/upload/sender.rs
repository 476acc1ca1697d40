//! Sending of a blob's bytes into a session, by one strategy.

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Body, Method, StatusCode, Url};
use tokio::time::Instant;

use super::body::Cursor;
use super::profile::Strategy;
use super::session::Session;
use super::setback::{Blame, Setback};
use super::source::BlobSource;
use super::target::BlobTarget;
use crate::error::{Error, Kind};
use crate::registry::answer::{Answer, web_page};
use crate::registry::attempt::Renewed;
use crate::registry::content_range;
use crate::registry::context::Watch;
use crate::registry::failure::{Class, Failure};
use crate::registry::limiter::{Permit, Use};
use crate::registry::location;
use crate::registry::redact::shown;
use crate::registry::redirect;
use crate::registry::stop::Admission;
use crate::registry::token::Refused;
use crate::text::byte_count;

/// Maximum number of URLs that one body is sent to, if the registry redirects the upload.
const MAX_REDIRECTS: u32 = 4;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Bytes of a blob, and the permit to send them.
pub(super) struct Sender<'a> {
    source: &'a dyn BlobSource,
    pub(super) cursor: Cursor,
    pub(super) permit: Permit,
    /// Whether the next body pauses near its start, so that a refusal can be read.
    /// Set after a connection that broke under a body, perhaps because of an unread refusal, and for a blob that can be
    /// sent only once.
    pause_early: bool,
}

impl<'a> Sender<'a> {
    pub(super) fn new(target: &BlobTarget<'_>, source: &'a dyn BlobSource) -> Self {
        let (host, descriptor) = (target.host, target.descriptor);
        Self {
            source,
            cursor: Cursor::new(descriptor),
            permit: host.limiter.later(Use::Upload),
            pause_early: !host.upload_profile.takes(descriptor.size) && !source.can_replay(descriptor),
        }
    }

    /// Waits for a permit to send a body.
    /// An upload without a permit keeps no source open: the source may be a registry with a concurrency limit of its own,
    /// and another upload that has a permit would wait for the source forever.
    pub(super) async fn take_permit(&mut self) {
        if !self.permit.has_place() {
            self.cursor.abandon();
        }
        self.permit.acquire().await;
    }

    /// Gives the place back until [`take_permit`](Self::take_permit), and the source with it, for the same reason: the next
    /// request may wait for a place that another upload has, and that upload for the source.
    pub(super) fn release(&self) {
        self.cursor.abandon();
        self.permit.release();
    }

    /// Sends the bytes that the registry does not have yet, and closes the session.
    pub(super) async fn send_all(
        &mut self,
        target: &mut BlobTarget<'_>,
        strategy: Strategy,
        session: &mut Session,
    ) -> Result<(), Setback> {
        let size = target.descriptor.size;
        if strategy == Strategy::Whole && session.offset == 0 {
            let _admission = admit(target, size).await;
            let answer = self.send(target, Method::PUT, session, size, false).await?;
            return self.check_closed(target, answer).await;
        }
        while session.offset < size {
            let profile = &target.host.upload_profile;
            let length = match strategy {
                Strategy::Chunks => profile.chunk(),
                Strategy::Pieces => profile.piece(),
                Strategy::Whole | Strategy::Patch => size,
            };
            let end = size.min(session.offset.saturating_add(length));
            // Held until the registry has acknowledged the bytes and named the URL for the next bytes.
            let _admission = admit(target, end - session.offset).await;
            // Every registry supports a first PATCH without a range; later ones must state the position of their bytes.
            let ranged = matches!(strategy, Strategy::Chunks | Strategy::Pieces) || session.offset > 0;
            let answer = self.send(target, Method::PATCH, session, end, ranged).await?;
            let kept = content_range::parse_session(answer.header(&RANGE)).unwrap_or(end);
            // Each piece must be acknowledged in full: this detects a registry that does not keep pieces at the first piece.
            if strategy == Strategy::Pieces && kept != end {
                let what = format!("the registry has {} after {end} were sent", byte_count(kept));
                return Err(Setback::Corrupt(Error::new(Kind::Server, what)));
            }
            if answer.location().is_some() {
                *session = Session::from_answer(target.host, &answer)?;
                session.save(target);
            }
            answer.finish().await;
            session.offset = end;
        }
        self.close(target, session).await
    }

    /// Sends the bytes from the session's offset to `end` in one request.
    /// Returns the answer if it is a success.
    async fn send(
        &mut self,
        target: &mut BlobTarget<'_>,
        method: Method,
        session: &Session,
        end: u64,
        ranged: bool,
    ) -> Result<Answer, Setback> {
        let (host, start) = (target.host, session.offset);
        let mut provenance = session.provenance;
        let mut url = match method {
            Method::PUT => location::with_digest(&session.url, &target.descriptor.digest),
            _ => session.url.clone(),
        };
        let mut headers = headers(start, end, ranged);
        let mut is_unconnected = false;
        for _ in 0..MAX_REDIRECTS {
            host.limiter.wait_for_pause().await;
            let begun = Instant::now();
            let authorization = host
                .authorize(&url, provenance, target.repository, &target.scope, true, None)
                .await?;
            headers.remove(AUTHORIZATION);
            if let Some(authorization) = &authorization {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            self.take_permit().await;
            let watch = Watch::new(self.permit.place(), end == target.descriptor.size);
            let pause_early = std::mem::take(&mut self.pause_early);
            let body = self.cursor.body(self.source, start, end, &watch, pause_early).await;
            let body = Some(Body::wrap(body.map_err(Setback::NoBytes)?));
            let started = Instant::now();
            let trust = host.trust(&url, provenance);
            let sent = host
                .context
                .send(&method, &url, headers.clone(), body, Some(&watch), trust)
                .await;
            // Checked first: a failing source ends the body, which the HTTP client reports as a broken connection.
            if let Some(error) = self.cursor.failed() {
                return Err(Setback::NoBytes(error));
            }
            let response = match sent {
                Ok(response) => response,
                // The registry named another server, which most likely cannot be reached from here at all.
                Err(Failure { error, class, .. }) if class == Class::Connect && !host.owns(&url) => {
                    let error = target.with_address_hint(&url, error);
                    if is_unconnected || !target.budget.pause(None, &error).await {
                        return Err(Setback::Final(error.with_shared_cause()));
                    }
                    is_unconnected = true;
                    continue;
                }
                Err(failure) => {
                    self.pause_early = end > start && !failure.class.is_final();
                    return Err(unanswered(target, &url, failure));
                }
            };
            let own = provenance.own && host.owns(&url);
            let answer = Answer::new(response, url.clone(), own, host.context.options.stall_timeout());
            host.note_answer(&answer);
            // The server may continue to read and discard. A source that cannot be replayed would lose these bytes.
            if !answer.status().is_success() {
                self.cursor.halt();
            }
            match answer.status().as_u16() {
                200..=299 => {
                    host.upload_profile.timed(end - start, started.elapsed());
                    return Ok(answer);
                }
                307 | 308 => {
                    url = redirect::target(&answer, &host.base()).map_err(|failure| failure.error)?;
                    // Once another origin took part, no credentials are sent, even to an address on the registry.
                    provenance = answer.provenance();
                }
                401 if own => {
                    let refused = Refused::new(authorization.as_ref(), begun);
                    return Err(unauthorized(target, answer, refused).await);
                }
                _ => return Err(Setback::from_refusal(target, answer, end - start, begun).await),
            }
        }
        let what = format!("`{}` redirects the upload again and again", host.name);
        let error = Error::new(Kind::Server, format!("{what}, at last to {}", shown(&url)));
        Err(Setback::Final(error.with_cause(&what)))
    }

    /// Closes an upload with an empty PUT, in the place of the last body.
    async fn close(&self, target: &mut BlobTarget<'_>, session: &Session) -> Result<(), Setback> {
        let url = location::with_digest(&session.url, &target.descriptor.digest);
        let call = target.call(Method::PUT, url).header(CONTENT_TYPE, OCTETS);
        let mut call = call.once().with_place();
        call.action = "cannot end the upload".to_owned();
        match target.host.exchange(&call.named_by(session.provenance)).await {
            Ok(answer) if answer.status().is_success() => self.check_closed(target, answer).await,
            Ok(answer) => {
                let setback = Setback::from_refusal(target, answer, 0, Instant::now()).await;
                // Some registries take the last PATCH for the end, and then no longer know the upload.
                let over = !matches!(setback, Setback::Broken(..) | Setback::Final(_));
                // The request that asks takes a place of its own.
                self.release();
                if over && target.is_present().await {
                    Ok(())
                } else {
                    Err(setback)
                }
            }
            Err(error) if error.kind() == Kind::Network => Err(Setback::broken(target, error, Blame::Wire)),
            Err(error) => Err(Setback::Final(error)),
        }
    }

    /// Checks the successful answer that closes an upload.
    async fn check_closed(&self, target: &BlobTarget<'_>, answer: Answer) -> Result<(), Setback> {
        let status = answer.status();
        let expected = &target.descriptor.digest;
        let stated = answer
            .digest()
            .filter(|stated| stated.algorithm() == expected.algorithm());
        let page = answer.is_web_page();
        answer.finish().await;
        if let Some(stated) = stated
            && stated != *expected
        {
            // The bytes were verified while they were sent, so the source is not at fault.
            let error = Error::new(Kind::Server, format!("the registry stored it as {stated}"));
            return Err(Setback::Final(error.with_hint(
                "the registry, or something before it, altered the blob: run the import again, and report it to the operator of the \
                 registry if that does not help",
            )));
        }
        // 201 is the specified answer; after any other success, a HEAD has to confirm the blob.
        if status == StatusCode::CREATED && !page {
            return Ok(());
        }
        // The requests that ask take places of their own.
        self.release();
        Err(Setback::Final(match target.becomes_present().await {
            Some(true) => return Ok(()),
            _ if page => web_page(&target.host.name, "cannot end the upload"),
            Some(false) => target.empty_success(status),
            None => target.unconfirmed(status),
        }))
    }
}

impl Drop for Sender<'_> {
    fn drop(&mut self) {
        self.cursor.abandon();
    }
}

/// Returns the headers of a body with the bytes from `start` to `end`.
fn headers(start: u64, end: u64, ranged: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, OCTETS);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
    if ranged && let Ok(range) = HeaderValue::try_from(format!("{start}-{}", end - 1)) {
        headers.insert(CONTENT_RANGE, range);
    }
    headers
}

/// Returns the setback of a request without an answer.
fn unanswered(target: &BlobTarget<'_>, url: &Url, failure: Failure) -> Setback {
    let Failure { error, class, .. } = failure;
    // A certificate that is not accepted has a hint of its own, which helps at each address.
    let has_hint = class == Class::Final && error.kind() == Kind::Network;
    let error = if has_hint {
        error
    } else {
        target.with_address_hint(url, error)
    };
    match class.is_final() {
        true => Setback::Final(error.with_shared_cause()),
        false => Setback::broken(target, error, Blame::Wire),
    }
}

/// Renews the login that a 401 rejected, and returns the setback.
async fn unauthorized(target: &mut BlobTarget<'_>, answer: Answer, refused: Option<Refused<'_>>) -> Setback {
    let host = target.host;
    match host
        .rechallenged(&answer, target.repository, &mut target.scope, refused)
        .await
    {
        Ok(Renewed::With(_)) => Setback::Refreshed,
        Ok(Renewed::MayPass(error)) => Setback::broken(target, error, Blame::Nobody),
        Ok(Renewed::Nothing) => Setback::Broken(answer.into_error(&target.action).await, None, Blame::Nobody),
        Err(error) => error.into(),
    }
}

/// Waits for the permission to send `length` bytes.
/// Only short bodies delay the end of an interrupted run.
async fn admit(target: &BlobTarget<'_>, length: u64) -> Option<Admission> {
    let admission = target.host.context.options.stop.admit().await;
    Some(admission).filter(|_| target.host.upload_profile.is_short(length))
}
