//! How an upload goes on: what the registry says of a session, of this run or of an earlier one.

use reqwest::Method;
use reqwest::header::{LOCATION, RANGE};

use super::call::Call;
use super::content_range;
use super::context::Provenance;
use super::ladder::Rung;
use super::location;
use super::reach::Zone;
use super::stop::Hold;
use super::upload::{Outcome, Upload};
use super::upload_session::Session;
use super::upload_sessions::{LARGE, Sessions};
use crate::error::Result;

impl Upload<'_> {
    /// Asks the registry how much it has. `None`: the session is of no use any more.
    pub(super) async fn resume(&mut self, session: Session) -> Result<Option<Session>> {
        self.resume_up_to(session, self.cursor.reached()).await
    }

    /// The session of an earlier run, where there is one and the registry still knows it. What was sent then is not known,
    /// so that only the closing request proves it.
    pub(super) async fn earlier(&mut self) -> Result<Option<Session>> {
        let digest = &self.descriptor.digest;
        let Some(sessions) = self.sessions() else {
            return Ok(None);
        };
        let Some(address) = sessions.get(&self.host.name, self.repository, digest) else {
            return Ok(None);
        };
        let base = self.host.base();
        // The file does not say which server named the address.
        let zone = Zone::of_text(&base).unwrap_or(Zone::Network);
        let Ok(url) = location::resolve(&address, &base, &base, zone) else {
            self.forget();
            return Ok(None);
        };
        let own = self.host.owns(&url);
        let session = Session::new(url, 0, Provenance { own, zone });
        let found = self.resume_up_to(session, self.descriptor.size).await?;
        if found.is_none() {
            self.forget();
        }
        Ok(found)
    }

    /// Where sessions are kept, if one of this blob is worth it.
    fn sessions(&self) -> Option<&Sessions> {
        let sessions = self.host.context.sessions.as_ref();
        sessions.filter(|_| self.descriptor.size >= LARGE)
    }

    /// Whether the blob goes in pieces that the registry acknowledges one by one, since it is larger than one and the next run
    /// may go on from the last one. Few registries continue a request that broke off.
    pub(super) fn goes_in_pieces(&self, rung: Rung) -> bool {
        let ladder = &self.host.ladder;
        rung == Rung::Whole
            && ladder.takes_pieces()
            && self.descriptor.size > ladder.piece()
            && self.sessions().is_some()
            && self.source.is_kept(self.descriptor)
    }

    /// Whether what came of pieces shows that the registry does not take them, whatever it says. After a connection that `broke`, a
    /// wrong offset may have that reason.
    pub(super) fn refuses_pieces(outcome: &Result<Outcome>, broke: bool) -> bool {
        match outcome {
            Err(_) | Ok(Outcome::Unsuited(_) | Outcome::TooLarge(..) | Outcome::Lost(_) | Outcome::Forgotten(_)) => {
                true
            }
            Ok(Outcome::Misplaced(_)) => !broke,
            Ok(_) => false,
        }
    }

    /// From now on blobs go to the host in one request.
    pub(super) async fn give_up_pieces(&self, session: Option<Session>) {
        self.host.ladder.refused_pieces();
        if let Some(session) = session {
            self.cancel(&session).await;
        }
    }

    /// The right to send this many bytes. A body that takes long does not keep the run from its end.
    pub(super) async fn hold(&self, length: u64) -> Option<Hold> {
        let hold = self.host.context.options.stop.hold().await;
        Some(hold).filter(|_| length <= self.host.ladder.piece())
    }

    pub(super) fn keep(&self, session: &Session) {
        // The next run would take an address on the registry for one that the registry chose itself.
        let chosen_by_other = self.host.owns(&session.url) && !session.provenance.own;
        if let Some(sessions) = self.sessions().filter(|_| !chosen_by_other) {
            sessions.put(&self.host.name, self.repository, &self.descriptor.digest, &session.url);
        }
    }

    pub(super) fn forget(&self) {
        if let Some(sessions) = self.sessions() {
            sessions.forget(&self.host.name, self.repository, &self.descriptor.digest);
        }
    }

    async fn resume_up_to(&mut self, session: Session, limit: u64) -> Result<Option<Session>> {
        let call = Call::new(
            Method::GET,
            session.url.clone(),
            self.repository,
            self.scope.clone(),
            self.action.clone(),
        )
        .named_by(session.provenance);
        let Ok(answer) = self.host.exchange_within(&call, &mut self.backoff).await else {
            return Ok(None);
        };
        if !answer.status().is_success() {
            answer.finish().await;
            return Ok(None);
        }
        let stated = content_range::of_session(answer.header(&RANGE));
        let (url, provenance) = match answer.header(&LOCATION) {
            Some(_) => {
                let next = self.host.session(&answer)?;
                (next.url, next.provenance)
            }
            None => (session.url, session.provenance),
        };
        answer.finish().await;
        let session = Session::new(url, stated.unwrap_or_default(), provenance);
        // More than was sent cannot be the blob's own bytes.
        if stated.is_some() && session.offset <= limit {
            tracing::debug!("upload of {} goes on from {}", self.descriptor.digest, session.offset);
            Ok(Some(session))
        } else {
            self.cancel(&session).await;
            Ok(None)
        }
    }

    /// Tells the registry that the session is given up. Many do not allow it, so nothing depends on it.
    pub(super) async fn cancel(&self, session: &Session) {
        self.forget();
        let call = Call::new(
            Method::DELETE,
            session.url.clone(),
            self.repository,
            self.scope.clone(),
            self.action.clone(),
        )
        .named_by(session.provenance)
        .once();
        if let Ok(answer) = self.host.exchange(&call).await {
            answer.finish().await;
        }
    }
}
