//! One blob into one repository: the upload ladder. An upload that breaks goes on from the offset that the registry
//! states, where that can be relied on; a way of uploading that a registry refuses is replaced by the next more patient one.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::answer::{Answer, web_page};
use super::call::Call;
use super::content_range;
use super::host::Host;
use super::ladder::Rung;
use super::limiter::Permit;
use super::location;
use super::proof;
use super::redirect;
use super::refusal::Refusal;
use super::retry::{Backoff, BlobProgress};
use super::scope::Scope;
use super::types::Presence;
use super::upload_body::Cursor;
use super::upload_session::Session;
use super::upload_source::BlobSource;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Algorithm;

/// Attempts without progress before a blob is given up.
const MAX_SESSIONS: usize = 12;

/// Maximum number of resyncs to the registry's offset after a 416.
const MAX_MISPLACED: usize = 3;

/// What to do about a registry that forgets sessions.
const FORGETS: &str = "if several replicas of the registry stand behind this address, give all of them the same secret (distribution: \
     `http.secret`), or have the load balancer keep a client at one of them (sticky sessions)";

/// One blob on its way into one repository.
pub(super) struct Upload<'a> {
    pub(super) host: &'a Host,
    pub(super) repository: &'a str,
    pub(super) descriptor: &'a Descriptor,
    pub(super) source: &'a dyn BlobSource,
    pub(super) scope: Scope,
    pub(super) cursor: Cursor,
    pub(super) action: String,
    pub(super) permit: Permit,
    /// What may still fail before the blob is given up, but for opening a session.
    pub(super) backoff: Backoff,
    /// Whether the next body waits a moment for a refusal: where the connection broke under the last one, for the reason, and
    /// where there is but one attempt.
    pub(super) listen: bool,
}

/// What came of an attempt; the errors that end the upload are not in here.
pub(super) enum Outcome {
    Done,
    /// The request body is larger than something on the way allows.
    TooLarge(u64, Error),
    /// This registry wants uploads in another way.
    Unsuited(Error),
    /// The session's offset is not what was thought.
    Misplaced(Error),
    /// The session holds bytes that are not the blob's.
    Lost(Error),
    /// The session is gone.
    Forgotten(Error),
    /// It may go on after a pause, in the same session.
    Broken(Error, Option<Duration>, Blame),
    /// A new authorization is at hand.
    Refreshed,
    /// The bytes cannot be read, or are not those of the digest, which has nothing to do with the registry.
    NoBytes(Error),
}

/// Whether a broken upload says something about the way of uploading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// The host was busy, or something before it was.
    Nobody,
    /// The connection broke: the wire, or a host that wants it otherwise.
    Wire,
    /// The host failed over it.
    Host,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        host: &'a Host,
        repository: &'a str,
        descriptor: &'a Descriptor,
        source: &'a dyn BlobSource,
    ) -> Self {
        Self {
            permit: host.uploads.later(),
            backoff: Backoff::new(&host.context.options),
            host,
            repository,
            descriptor,
            source,
            scope: Scope::push(repository),
            cursor: Cursor::new(descriptor),
            action: format!(
                "cannot upload blob {} to `{}/{repository}`",
                descriptor.digest, host.name
            ),
            listen: !host.ladder.takes(descriptor.size) && !source.is_kept(descriptor),
        }
    }

    /// Sends the blob; goes on in `session` where one is open.
    pub(super) async fn run(mut self, session: Option<Session>) -> Result<()> {
        self.climb(session).await?;
        self.permit.went_well();
        Ok(())
    }

    async fn climb(&mut self, session: Option<Session>) -> Result<()> {
        let host = self.host;
        let options = &host.context.options;
        let size = self.descriptor.size;
        let mut rung = self.host.ladder.rung(size);
        if !self.source.is_kept(self.descriptor) {
            // There is one attempt, and this is the way that every registry knows.
            rung = rung.max(Rung::Patch);
        }
        let (mut sessions, mut troubles, mut misplaced, mut refreshed) = (0, 0, 0, None);
        let (mut climbed, mut progress) = (false, BlobProgress::new(0, size));
        // How often pieces broke without a byte more that the registry kept, and how far it was.
        let (mut stuck, mut furthest, mut in_parts) = (0, 0, false);
        let mut open = match session {
            Some(session) => Some(session),
            None => self.earlier().await?,
        };
        loop {
            let mut session = match open.take() {
                Some(session) => session,
                None => match self.open().await? {
                    Some(session) => session,
                    None => return Ok(()),
                },
            };
            // A session is opened while other bodies are on their way.
            self.take_place().await;
            if session.is_stale(Instant::now()) {
                self.cancel(&session).await;
                session = match self.open().await? {
                    Some(session) => session,
                    None => return Ok(()),
                };
            }
            self.keep(&session);
            sessions += 1;
            let pieces = self.goes_in_pieces(rung);
            // What is left after a piece may go in one, and still depends on the registry to take the blob in parts.
            in_parts = rung == Rung::Whole && (pieces || in_parts && session.offset > 0);
            let outcome = self.attempt(rung, pieces, &mut session).await;
            if in_parts && Self::refuses_pieces(&outcome, troubles > 0) {
                self.give_up_pieces(Some(session)).await;
                troubles = 0;
                continue;
            }
            let error = match outcome {
                Err(error) => {
                    self.cancel(&session).await;
                    return Err(error.context(&self.action));
                }
                Ok(Outcome::NoBytes(error)) => {
                    self.cancel(&session).await;
                    return Err(error);
                }
                Ok(Outcome::Done) => {
                    if climbed {
                        self.host.ladder.climbed(rung);
                    }
                    if rung != Rung::Chunks && !in_parts {
                        self.host.ladder.took(size);
                    }
                    self.forget();
                    return Ok(());
                }
                // Again only where bytes arrived since the last time.
                Ok(Outcome::Refreshed) => {
                    let error = self.host.auth.unauthorized("refuses the upload with a fresh token too");
                    let error = error.context(&self.action);
                    if refreshed.replace(session.offset).is_some_and(|at| session.offset <= at) {
                        if in_parts {
                            self.give_up_pieces(Some(session)).await;
                            continue;
                        }
                        return Err(error);
                    }
                    if progress.renews(session.offset) {
                        (self.backoff, sessions) = (Backoff::new(options), 0);
                    }
                    open = self.resume(session).await?;
                    if open.is_none() && self.arrived().await {
                        return Ok(());
                    }
                    error
                }
                Ok(Outcome::TooLarge(length, error)) => {
                    self.cancel(&session).await;
                    if !self.host.ladder.refused(length) {
                        return Err(error);
                    }
                    // Remembered by the size that was refused: smaller blobs still go the cheap way.
                    rung = Rung::Chunks;
                    error
                }
                Ok(Outcome::Unsuited(error)) => {
                    self.cancel(&session).await;
                    let Some(next) = rung.next() else { return Err(error) };
                    (rung, climbed, troubles) = (next, true, 0);
                    error
                }
                Ok(Outcome::Misplaced(error)) => {
                    misplaced += 1;
                    let at = session.offset;
                    match misplaced {
                        1..=MAX_MISPLACED => {
                            open = self.resume(session).await?;
                            // Where the offset was right it is the piece that is refused; the second time in any case.
                            let right = at == 0 || open.as_ref().is_some_and(|session| session.offset == at);
                            if in_parts && (right || misplaced > 1) {
                                self.give_up_pieces(open.take()).await;
                            }
                        }
                        4 if rung != Rung::Whole => rung = Rung::Whole,
                        4 => {}
                        _ => return Err(error),
                    }
                    error
                }
                Ok(Outcome::Lost(error)) => {
                    troubles += 1;
                    if self.arrived().await {
                        return Ok(());
                    }
                    if troubles > 2 {
                        return Err(error);
                    }
                    error
                }
                Ok(Outcome::Forgotten(error)) => {
                    if self.arrived().await {
                        return Ok(());
                    }
                    troubles += 1;
                    if troubles > 1 && !self.backoff.pause(options, None, || error.full()).await {
                        return Err(error.with_hint(FORGETS));
                    }
                    error
                }
                Ok(Outcome::Broken(error, asked, blame)) => {
                    self.permit.went_wrong();
                    troubles += 1;
                    let again = self.backoff.pause(options, asked, || error.full()).await;
                    if !again && !in_parts {
                        return Err(error);
                    }
                    open = self.resume(session).await?;
                    let kept = open.as_ref().map_or(0, |session| session.offset);
                    if progress.renews(kept) {
                        (self.backoff, sessions) = (Backoff::new(options), 0);
                    }
                    stuck = if kept > furthest { 0 } else { stuck + 1 };
                    furthest = furthest.max(kept);
                    if in_parts && (!again || stuck > 1) {
                        // Some servers, and what stands before them, fail over each piece, and take the whole.
                        self.give_up_pieces(open.take()).await;
                        (self.backoff, troubles, sessions) = (Backoff::new(options), 0, 0);
                        continue;
                    }
                    if open.is_none() {
                        // The end of it may have arrived, and only the answer been lost.
                        if self.arrived().await {
                            return Ok(());
                        }
                        // Twice without a byte kept: perhaps one request with the whole body is what breaks it. Chunks would
                        // be worse off; some registries do not know them. Only a host's own words are held against it.
                        if blame != Blame::Nobody && troubles % 2 == 0 && rung == Rung::Whole {
                            rung = Rung::Patch;
                            climbed |= blame == Blame::Host;
                        }
                    }
                    error
                }
            };
            if sessions >= MAX_SESSIONS {
                return Err(error);
            }
        }
    }

    /// Waits for a permit to send a body. An upload without a permit keeps no source open: the source may be a registry that
    /// serves a limited number at a time, and another upload with a permit would wait for it for ever.
    pub(super) async fn take_place(&mut self) {
        if !self.permit.has_place() {
            self.cursor.abandon();
        }
        self.permit.take().await;
    }

    /// Opens a session. `None`: the registry says that the blob is there, and it is.
    async fn open(&mut self) -> Result<Option<Session>> {
        let mut url = self.host.url(self.repository, "blobs/uploads/");
        if self.descriptor.digest.algorithm() != Algorithm::Sha256 {
            url.set_query(Some(&format!(
                "digest-algorithm={}",
                self.descriptor.digest.algorithm().as_str()
            )));
        }
        let call = Call::new(
            Method::POST,
            url,
            self.repository,
            self.scope.clone(),
            self.action.clone(),
        );
        let answer = self.host.exchange(&call).await?;
        match answer.status() {
            StatusCode::ACCEPTED => {
                let session = self.host.session(&answer).map_err(|e| e.context(&self.action))?;
                answer.finish().await;
                Ok(Some(session))
            }
            status if status.is_success() && answer.is_web_page() => {
                answer.finish().await;
                Err(web_page(&self.host.name, &self.action))
            }
            status if status.is_success() => {
                answer.finish().await;
                if self.arrived().await {
                    Ok(None)
                } else {
                    Err(self.says_yes_to_all(status))
                }
            }
            status if redirect::is_redirect(status.as_u16()) => Err(self.redirected(&answer).context(&self.action)),
            _ => {
                let error = answer.into_error(&self.action).await;
                let unknown = Refusal::of(&error).is_some_and(|refusal| refusal.has("NAME_UNKNOWN"));
                Err(if unknown {
                    error.with_hint("this registry wants repositories or projects to be created first")
                } else {
                    error
                })
            }
        }
    }

    async fn attempt(&mut self, rung: Rung, pieces: bool, session: &mut Session) -> Result<Outcome> {
        let size = self.descriptor.size;
        if rung == Rung::Whole && session.offset == 0 && !pieces {
            let _hold = self.hold(size).await;
            let url = location::with_digest(&session.url, &self.descriptor.digest);
            let target = (url, session.provenance);
            return Ok(match self.send(Method::PUT, target, 0, size, false).await? {
                Ok(answer) => self.closed(answer).await?,
                Err(outcome) => outcome,
            });
        }
        while session.offset < size {
            let start = session.offset;
            let length = match rung {
                Rung::Chunks => self.host.ladder.chunk(),
                _ if pieces => self.host.ladder.piece(),
                _ => size,
            };
            let end = size.min(start.saturating_add(length));
            // Until the registry has acknowledged it and said where it goes on.
            let _hold = self.hold(end - start).await;
            // Without a range the first PATCH is what every registry knows; what goes on in the middle has to say so.
            let ranged = rung == Rung::Chunks || pieces || start > 0;
            let target = (session.url.clone(), session.provenance);
            match self.send(Method::PATCH, target, start, end, ranged).await? {
                Ok(answer) => {
                    let kept = content_range::of_session(answer.header(&RANGE)).unwrap_or(end);
                    if pieces && kept != end {
                        let what = format!("the registry has {kept} bytes after {end} were sent");
                        return Ok(Outcome::Lost(Error::new(Kind::Server, what)));
                    }
                    if answer.header(&LOCATION).is_some() {
                        let next = self.host.session(&answer)?;
                        (session.url, session.provenance) = (next.url, next.provenance);
                        self.keep(session);
                    }
                    answer.finish().await;
                    session.offset = end;
                }
                Err(outcome) => return Ok(outcome),
            }
        }
        self.close(session).await
    }

    /// The empty PUT that ends an upload.
    async fn close(&mut self, session: &Session) -> Result<Outcome> {
        let url = location::with_digest(&session.url, &self.descriptor.digest);
        let call = Call::new(
            Method::PUT,
            url,
            self.repository,
            self.scope.clone(),
            "cannot end the upload".to_owned(),
        )
        .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
        .named_by(session.provenance)
        .once();
        match self.host.exchange(&call).await {
            Ok(answer) if answer.status().is_success() => self.closed(answer).await,
            Ok(answer) => {
                // Some registries take the last PATCH for the end, and then know nothing of the upload.
                let outcome = self.judge(answer, 0, Instant::now()).await?;
                if !matches!(outcome, Outcome::Broken(..)) && self.arrived().await {
                    Ok(Outcome::Done)
                } else {
                    Ok(outcome)
                }
            }
            Err(error) if error.kind() == Kind::Network => {
                Ok(Outcome::Broken(error.context(&self.action), None, Blame::Wire))
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at the answer that ends an upload with success.
    async fn closed(&mut self, answer: Answer) -> Result<Outcome> {
        let status = answer.status();
        let stated = answer
            .digest()
            .filter(|stated| stated.algorithm() == self.descriptor.digest.algorithm());
        let page = answer.is_web_page();
        answer.finish().await;
        if let Some(stated) = stated
            && stated != self.descriptor.digest
        {
            // The bytes were proved while they were sent: this is nothing that the source could help.
            return Err(
                Error::new(Kind::Server, format!("the registry stored it as {stated}")).with_hint(
                    "the registry, or something before it, altered the blob: run the import again, and report it to the operator of the \
                     registry if that does not help",
                ),
            );
        }
        // 201 is the specified answer; after another success the blob has to be found by HEAD.
        if status == StatusCode::CREATED && !page {
            return Ok(Outcome::Done);
        }
        let pause = self.host.context.options.retry_pause();
        let ask = || {
            self.host
                .head_blob(self.repository, self.descriptor, self.scope.clone())
        };
        if proof::look(pause, ask).await == Some(true) {
            self.host.proof.found_upload();
            return Ok(Outcome::Done);
        }
        match page {
            true => Err(web_page(&self.host.name, "cannot end the upload")),
            false => Err(self.says_yes_to_all(status)),
        }
    }

    async fn arrived(&mut self) -> bool {
        let head = self
            .host
            .head_blob_within(self.repository, self.descriptor, self.scope.clone(), &mut self.backoff)
            .await;
        let found = matches!(head, Ok(Presence::Present(())));
        if found {
            self.host.proof.found_upload();
        }
        found
    }

    fn says_yes_to_all(&self, status: StatusCode) -> Error {
        Error::new(
            Kind::Server,
            format!(
                "`{}` answered {} and does not have the blob",
                self.host.name,
                status.as_u16()
            ),
        )
        .with_hint("is this address a registry?")
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        self.cursor.abandon();
    }
}
