//! How an upload goes on: what the registry says of a session, of this run or of an earlier one.

use reqwest::Method;
use reqwest::header::{LOCATION, RANGE};

use super::content_range;
use super::host::Call;
use super::location;
use super::upload::{Session, Upload};
use super::upload_sessions::{LARGE, Sessions};
use crate::error::Result;

impl Upload<'_> {
    /// Asks the registry how much it has. `None`: the session is of no use any more.
    pub(super) async fn resume(&self, session: Session) -> Result<Option<Session>> {
        self.resume_up_to(session, self.cursor.reached()).await
    }

    /// The session of an earlier run, where there is one and the registry still knows it. What was sent then is not known,
    /// so that only the closing request proves it.
    pub(super) async fn earlier(&self) -> Result<Option<Session>> {
        let digest = &self.descriptor.digest;
        let Some(sessions) = self.sessions() else {
            return Ok(None);
        };
        let Some(address) = sessions.get(&self.host.name, self.repository, digest) else {
            return Ok(None);
        };
        let base = self.host.base();
        let Ok(url) = location::resolve(&address, &base, &base) else {
            self.forget();
            return Ok(None);
        };
        let found = self.resume_up_to(Session::new(url, 0), self.descriptor.size).await?;
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

    pub(super) fn keep(&self, session: &Session) {
        if let Some(sessions) = self.sessions() {
            sessions.put(&self.host.name, self.repository, &self.descriptor.digest, &session.url);
        }
    }

    pub(super) fn forget(&self) {
        if let Some(sessions) = self.sessions() {
            sessions.forget(&self.host.name, self.repository, &self.descriptor.digest);
        }
    }

    async fn resume_up_to(&self, session: Session, limit: u64) -> Result<Option<Session>> {
        let call = Call::new(
            Method::GET,
            session.url.clone(),
            self.repository,
            self.scope.clone(),
            self.action.clone(),
        );
        let Ok(answer) = self.host.exchange(&call).await else {
            return Ok(None);
        };
        if !answer.status().is_success() {
            answer.finish().await;
            return Ok(None);
        }
        let stated = content_range::of_session(answer.header(&RANGE));
        let url = match answer.header(&LOCATION) {
            Some(_) => self.host.session(&answer)?.url,
            None => session.url,
        };
        answer.finish().await;
        let session = Session::new(url, stated.unwrap_or_default());
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
        .once();
        if let Ok(answer) = self.host.exchange(&call).await {
            answer.finish().await;
        }
    }
}
