//! Upload of one blob: a series of attempts, each in a session and by a strategy.
//! The series ends when the registry has the blob or the retry budget is used up.

use std::time::Duration;

use tokio::time::Instant;

use super::profile::Strategy;
use super::sender::Sender;
use super::session::Session;
use super::setback::{Blame, Setback};
use super::source::BlobSource;
use super::target::BlobTarget;
use crate::error::{Error, Result};
use crate::image::descriptor::Descriptor;
use crate::registry::host::Host;
use crate::registry::outage::Content;

/// Maximum number of resyncs to the registry's offset after a 416.
const MAX_RESYNCS: u32 = 3;

/// Hint for a registry that forgets sessions.
const FORGETS: &str = "if several replicas of the registry stand behind this address, give all of them the same secret (distribution: \
     `http.secret`), or have the load balancer keep a client at one of them (sticky sessions)";

/// Upload of one blob into one repository.
pub(in crate::registry) struct Upload<'a> {
    target: BlobTarget<'a>,
    sender: Sender<'a>,
    strategy: Strategy,
    /// Whether a cheaper strategy was dropped for reasons that lie in the host.
    left_cheaper: bool,
    /// Number of failures since the strategy last changed.
    troubles: u32,
    resyncs: u32,
    /// Whether the current session is that of an earlier run. Bytes sent by that run may then still arrive.
    restored: bool,
    /// Offset at which the authorization was last renewed.
    refreshed: Option<u64>,
    /// Number of consecutive broken connections after which the registry had no more bytes than `furthest`.
    stuck: u32,
    /// Highest offset that the registry reported after a broken connection.
    furthest: u64,
}

/// Consequence of an attempt.
enum Next {
    /// The registry has the blob.
    Done,
    /// Another attempt, in this session or in a new session.
    Attempt(Option<Session>),
}

impl<'a> Upload<'a> {
    pub(in crate::registry) fn new(
        host: &'a Host,
        repository: &'a str,
        descriptor: &'a Descriptor,
        source: &'a dyn BlobSource,
    ) -> Self {
        let target = BlobTarget::new(host, repository, descriptor);
        let profile = &host.upload_profile;
        let strategy = match profile.strategy(descriptor.size) {
            // There is only one attempt, and every registry supports this strategy.
            Strategy::Whole if !source.can_replay(descriptor) => Strategy::Patch,
            // The next run can resume after the last piece; few registries resume a request that broke off.
            Strategy::Whole if target.saved.is_some() && descriptor.size > profile.piece() => Strategy::Pieces,
            strategy => strategy,
        };
        Self {
            sender: Sender::new(&target, source),
            target,
            strategy,
            left_cheaper: false,
            troubles: 0,
            resyncs: 0,
            restored: false,
            refreshed: None,
            stuck: 0,
            furthest: 0,
        }
    }

    /// Uploads the blob, first into `session` if one is open.
    pub(in crate::registry) async fn run(self, session: Option<Session>) -> Result<()> {
        let (host, repository) = (self.target.host, self.target.repository);
        let check = host.breaker_of_writes(Content::Blob).check();
        check.map_err(|error| error.context(&self.target.action))?;
        let sent = self.try_all(session).await;
        host.count_write(Content::Blob, repository, &sent);
        sent
    }

    async fn try_all(mut self, session: Option<Session>) -> Result<()> {
        let mut next = session;
        if next.is_none() {
            next = Session::restore(&mut self.target).await?;
            self.restored = next.is_some();
        }
        while let Some(session) = self.ready(next.take()).await? {
            match self.attempt(session).await? {
                Next::Done => break,
                Next::Attempt(session) => next = session,
            }
        }
        self.sender.permit.went_well();
        Ok(())
    }

    /// Returns the session to send into, and takes a permit for a body. `None`: the registry has the blob.
    async fn ready(&mut self, mut open: Option<Session>) -> Result<Option<Session>> {
        loop {
            let session = match open.take() {
                Some(session) => session,
                // A session is opened while other bodies are in flight: only bodies need a permit.
                None => {
                    self.restored = false;
                    match Session::open(&mut self.target).await? {
                        Some(session) => session,
                        None => return Ok(None),
                    }
                }
            };
            self.sender.take_permit().await;
            if !session.is_stale(Instant::now()) {
                session.save(&self.target);
                return Ok(Some(session));
            }
            self.sender.release();
            session.cancel(&self.target).await;
        }
    }

    /// Sends the bytes that the session lacks, and chooses the consequence of a failure.
    async fn attempt(&mut self, mut session: Session) -> Result<Next> {
        self.target.budget.count_session();
        let sent = self
            .sender
            .send_all(&mut self.target, self.strategy, &mut session)
            .await;
        if let Err(Setback::Broken(..)) = &sent {
            self.sender.permit.went_wrong();
        }
        // The requests after a failure take places of their own, and the upload must not hold one meanwhile.
        self.sender.release();
        let Err(setback) = sent else {
            self.remember();
            return Ok(Next::Done);
        };
        if self.refuses_pieces(&setback) {
            return self.without_pieces(Some(session)).await;
        }
        let (error, next) = match setback {
            Setback::Final(error) => {
                session.cancel(&self.target).await;
                return Err(error.context(&self.target.action));
            }
            Setback::NoBytes(error) => {
                session.cancel(&self.target).await;
                return Err(error);
            }
            Setback::TooLarge(length, error) => {
                session.cancel(&self.target).await;
                if !self.target.host.upload_profile.refused(length) {
                    return Err(error);
                }
                // The refused size is remembered for the host: smaller blobs are still sent in one request.
                self.strategy = Strategy::Chunks;
                (error, Next::Attempt(None))
            }
            Setback::Unsuited(error) => {
                session.cancel(&self.target).await;
                let Some(next) = self.strategy.next() else {
                    return Err(error);
                };
                (self.strategy, self.left_cheaper, self.troubles) = (next, true, 0);
                (error, Next::Attempt(None))
            }
            Setback::Corrupt(error) => {
                self.troubles += 1;
                match self.target.is_present().await {
                    true => return Ok(Next::Done),
                    false if self.troubles > 2 => return Err(error),
                    false => (error, Next::Attempt(None)),
                }
            }
            Setback::Forgotten(error) => {
                if self.target.is_present().await {
                    return Ok(Next::Done);
                }
                self.troubles += 1;
                if self.troubles > 1 && !self.target.budget.pause(None, &error).await {
                    return Err(error.with_hint(FORGETS));
                }
                (error, Next::Attempt(None))
            }
            Setback::Refreshed => {
                let (host, repository) = (self.target.host, self.target.repository);
                let found = host.context.credentials.lookup(&host.name, repository).await;
                let error = host
                    .auth
                    .unauthorized("refuses the upload with a fresh token too", &found);
                let error = error.context(&self.target.action);
                (error.clone(), self.refreshed(session, error).await?)
            }
            Setback::Misplaced(error) => (error.clone(), self.misplaced(session, error).await?),
            Setback::Broken(error, asked, blame) => (error.clone(), self.broken(session, error, asked, blame).await?),
        };
        match next {
            Next::Attempt(_) if self.target.budget.is_spent() => Err(error),
            next => Ok(next),
        }
    }

    /// Records what the host accepted, for later blobs.
    fn remember(&self) {
        let profile = &self.target.host.upload_profile;
        if self.left_cheaper {
            profile.learned(self.strategy);
        }
        if matches!(self.strategy, Strategy::Whole | Strategy::Patch) {
            // Only bodies of the whole size prove something about a proxy's limit.
            profile.took(self.target.descriptor.size);
        }
        if let Some(saved) = &self.target.saved {
            saved.forget();
        }
    }

    /// Continues after a renewed authorization, if bytes arrived since the last renewal.
    /// Otherwise another token is pointless.
    async fn refreshed(&mut self, session: Session, error: Error) -> Result<Next> {
        let before = self.refreshed.replace(session.offset);
        if before.is_some_and(|before| session.offset <= before) {
            return match self.strategy {
                Strategy::Pieces => self.without_pieces(Some(session)).await,
                _ => Err(error),
            };
        }
        self.target.budget.acknowledged(session.offset);
        let session = self.ask(session).await?;
        if session.is_none() && self.target.is_present().await {
            return Ok(Next::Done);
        }
        Ok(Next::Attempt(session))
    }

    /// Adopts the registry's offset; after [`MAX_RESYNCS`] times, sends the whole blob once more.
    async fn misplaced(&mut self, session: Session, error: Error) -> Result<Next> {
        self.resyncs += 1;
        let at = session.offset;
        if self.resyncs > MAX_RESYNCS {
            let last = self.resyncs > MAX_RESYNCS + 1;
            self.strategy = Strategy::Whole;
            return if last { Err(error) } else { Ok(Next::Attempt(None)) };
        }
        let session = self.ask(session).await?;
        let pieces = self.strategy == Strategy::Pieces;
        // If the offset was right, the registry refuses the piece itself; a second resync counts as that in any case.
        let right = at == 0 || session.as_ref().is_some_and(|session| session.offset == at);
        if pieces && (right || self.resyncs > 1) && !self.restored {
            return self.without_pieces(session).await;
        }
        Ok(Next::Attempt(session))
    }

    /// Continues after a pause, in the same session if the registry still has it.
    async fn broken(&mut self, session: Session, error: Error, asked: Option<Duration>, blame: Blame) -> Result<Next> {
        let pieces = self.strategy == Strategy::Pieces;
        self.troubles += 1;
        let breaker = self.target.host.breaker_of_writes(Content::Blob);
        let again = breaker.wait(self.target.budget.pause(asked, &error)).await;
        if !again && !pieces {
            return Err(error);
        }
        let session = self.ask(session).await?;
        let kept = session.as_ref().map_or(0, |session| session.offset);
        self.target.budget.acknowledged(kept);
        self.stuck = if kept > self.furthest { 0 } else { self.stuck + 1 };
        self.furthest = self.furthest.max(kept);
        if pieces && (!again || self.stuck > 1) {
            // Some servers, and proxies in front of them, fail at each piece, and accept the whole blob.
            self.target.budget.renew();
            return self.without_pieces(session).await;
        }
        if session.is_none() {
            if self.target.is_present().await {
                return Ok(Next::Done);
            }
            // Twice the registry kept no byte: perhaps the connection breaks because one request has the whole body. Chunks
            // would be worse, since some registries do not support them. Only the host's own error (500) is remembered for
            // later blobs.
            if blame != Blame::Nobody && self.troubles.is_multiple_of(2) && self.strategy == Strategy::Whole {
                self.strategy = Strategy::Patch;
                self.left_cheaper |= blame == Blame::Host;
            }
        }
        Ok(Next::Attempt(session))
    }

    /// Asks the registry for its offset, which must not exceed the bytes read so far.
    /// The bytes were read by this run, or by the run that opened the session.
    async fn ask(&mut self, session: Session) -> Result<Option<Session>> {
        let limit = match self.restored {
            true => self.target.descriptor.size,
            false => self.sender.cursor.reached(),
        };
        session.ask(&mut self.target, limit).await
    }

    /// Returns whether a failure of pieces shows that the registry does not support them.
    /// The registry's answer may say otherwise. A wrong offset has another cause after a broken connection, or if bytes of
    /// a killed run may still arrive.
    fn refuses_pieces(&self, setback: &Setback) -> bool {
        self.strategy == Strategy::Pieces
            && match setback {
                Setback::NoBytes(_) | Setback::Broken(..) | Setback::Refreshed => false,
                Setback::Misplaced(_) => self.troubles == 0 && !self.restored,
                _ => true,
            }
    }

    /// Sends this blob and all further blobs of the host in one request each.
    async fn without_pieces(&mut self, session: Option<Session>) -> Result<Next> {
        self.target.host.upload_profile.refused_pieces();
        (self.strategy, self.troubles) = (Strategy::Whole, 0);
        if let Some(session) = session {
            session.cancel(&self.target).await;
        }
        Ok(Next::Attempt(None))
    }
}
