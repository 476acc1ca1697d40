//! An upload session: the URL for an upload's bytes, and the number of bytes that the registry has.

use std::time::Duration;

use reqwest::header::RANGE;
use reqwest::{Method, StatusCode, Url};
use tokio::time::Instant;

use super::saved_sessions::SavedSession;
use super::target::BlobTarget;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Algorithm;
use crate::registry::answer::{Answer, web_page};
use crate::registry::content_range;
use crate::registry::context::Provenance;
use crate::registry::host::Host;
use crate::registry::location;
use crate::registry::reach::Zone;
use crate::registry::redirect;
use crate::registry::refusal::Refusal;

/// Age at which an empty session is replaced, since registries forget unused sessions.
const STALE: Duration = Duration::from_secs(600);

/// Maximum number of repeated requests for the offset of a session that an earlier run saved.
const MAX_QUESTIONS: usize = 20;

/// An upload session that the registry has opened.
pub(in crate::registry) struct Session {
    pub(super) url: Url,
    /// Number of bytes that the registry has.
    pub(super) offset: u64,
    /// Origin of the session's URL.
    pub(super) provenance: Provenance,
    /// Time of the registry's last answer about the session.
    heard: Instant,
}

impl Session {
    fn new(url: Url, offset: u64, provenance: Provenance) -> Self {
        Self {
            url,
            offset,
            provenance,
            heard: Instant::now(),
        }
    }

    /// Creates the session that an answer opens or continues, with offset 0.
    pub(in crate::registry) fn from_answer(host: &Host, answer: &Answer) -> Result<Self> {
        let text = answer.location().ok_or_else(|| {
            Error::new(
                Kind::Server,
                format!("`{}` accepts an upload without saying where it goes on", host.name),
            )
            .with_shared_cause()
            .with_hint(
                "its answer has no `Location`: check that this address is the registry, and the proxies in front of it",
            )
        })?;
        if let Some(minimum) = answer
            .named("oci-chunk-min-length")
            .and_then(|text| text.trim().parse().ok())
        {
            host.upload_profile.at_least(minimum);
        }
        let provenance = answer.provenance();
        let url = location::resolve(text, &answer.url, &host.base(), provenance.zone)?;
        Ok(Self::new(url, 0, provenance))
    }

    /// Opens a session. `None`: the registry claims to have the blob, and a HEAD confirmed that.
    pub(super) async fn open(target: &mut BlobTarget<'_>) -> Result<Option<Self>> {
        let mut url = target.host.url(target.repository, "blobs/uploads/");
        let algorithm = target.descriptor.digest.algorithm();
        if algorithm != Algorithm::Sha256 {
            url.set_query(Some(&format!("digest-algorithm={}", algorithm.as_str())));
        }
        let answer = target.host.exchange(&target.call(Method::POST, url)).await?;
        let status = answer.status();
        if status == StatusCode::ACCEPTED {
            let session = Self::from_answer(target.host, &answer).map_err(|e| e.context(&target.action))?;
            answer.finish().await;
            return Ok(Some(session));
        }
        if status.is_success() {
            let page = answer.is_web_page();
            answer.finish().await;
            return match page {
                true => Err(web_page(&target.host.name, &target.action)),
                false if target.is_present().await => Ok(None),
                false => Err(target.empty_success(status)),
            };
        }
        if redirect::is_redirect(status.as_u16()) {
            return Err(target.redirected(&answer).context(&target.action));
        }
        let error = answer.into_error(&target.action).await;
        let unknown = Refusal::in_error(&error).is_some_and(|refusal| refusal.has("NAME_UNKNOWN"));
        Err(if unknown {
            error.with_hint("this registry wants repositories or projects to be created first")
        } else {
            error
        })
    }

    /// Restores the session that an earlier run saved, if the registry still knows it.
    /// The bytes that the earlier run sent are unknown here: only the digest in the closing request verifies them.
    pub(super) async fn restore(target: &mut BlobTarget<'_>) -> Result<Option<Self>> {
        let Some(address) = target.saved.as_ref().and_then(SavedSession::get) else {
            return Ok(None);
        };
        let base = target.host.base();
        // The file does not say which server named the URL.
        let zone = Zone::from_url(&base).unwrap_or(Zone::Network);
        let found = match location::resolve(&address, &base, &base, zone) {
            Ok(url) => {
                let own = target.host.owns(&url);
                let session = Self::new(url, 0, Provenance { own, zone });
                session.wait_until_offset_is_stable(target).await?
            }
            Err(_) => None,
        };
        if let (None, Some(saved)) = (&found, &target.saved) {
            saved.forget();
            target.host.context.options.progress.info(format!(
                "`{}` no longer has what an earlier run sent of blob {}: it is sent from the start",
                target.host.name, target.descriptor.digest
            ));
        }
        Ok(found)
    }

    /// Asks for the offset until it no longer grows.
    /// Bytes sent by a process that was killed still arrive for a while.
    async fn wait_until_offset_is_stable(self, target: &mut BlobTarget<'_>) -> Result<Option<Self>> {
        let limit = target.descriptor.size;
        let Some(mut session) = self.ask(target, limit).await? else {
            return Ok(None);
        };
        for _ in 0..MAX_QUESTIONS {
            tokio::time::sleep(target.host.context.options.retry_pause()).await;
            let before = session.offset;
            match session.ask(target, limit).await? {
                Some(next) => session = next,
                None => return Ok(None),
            }
            if session.offset <= before {
                break;
            }
        }
        Ok(Some(session))
    }

    /// Asks the registry for the session's offset.
    /// `None` if the session is unusable, or if the registry claims more than `limit` bytes, which cannot all be the
    /// blob's.
    pub(super) async fn ask(self, target: &mut BlobTarget<'_>, limit: u64) -> Result<Option<Self>> {
        let call = target.call(Method::GET, self.url.clone()).named_by(self.provenance);
        let Ok(answer) = target.host.exchange_within(&call, &mut target.budget.backoff).await else {
            return Ok(None);
        };
        if !answer.status().is_success() {
            answer.finish().await;
            return Ok(None);
        }
        let stated = content_range::parse_session(answer.header(&RANGE));
        let mut session = match answer.location() {
            Some(_) => Self::from_answer(target.host, &answer)?,
            None => Self::new(self.url, 0, self.provenance),
        };
        answer.finish().await;
        match stated {
            Some(offset) if offset <= limit => {
                tracing::debug!("upload of {} continues at {offset}", target.descriptor.digest);
                session.offset = offset;
                Ok(Some(session))
            }
            _ => {
                session.cancel(target).await;
                Ok(None)
            }
        }
    }

    /// Cancels the session at the registry. Many registries do not support that, so failures are ignored.
    pub(super) async fn cancel(&self, target: &BlobTarget<'_>) {
        if let Some(saved) = &target.saved {
            saved.forget();
        }
        let call = target.call(Method::DELETE, self.url.clone());
        if let Ok(answer) = target.host.exchange(&call.named_by(self.provenance).once()).await {
            answer.finish().await;
        }
    }

    /// Saves the session for the next run.
    pub(super) fn save(&self, target: &BlobTarget<'_>) {
        // The next run would trust a URL on the registry as the registry's own choice, and send its login there.
        let chosen_by_other = target.host.owns(&self.url) && !self.provenance.own;
        if let (Some(saved), false) = (&target.saved, chosen_by_other) {
            saved.put(&self.url);
        }
    }

    /// Returns whether a new session is preferable. A session that has bytes is worth a try at any age.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.offset == 0 && now.duration_since(self.heard) >= STALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_bytes_gets_stale() {
        let url: Url = "https://r.example/v2/a/blobs/uploads/1".parse().unwrap();
        let mut session = Session::new(url, 0, Provenance::OWN);
        assert!(!session.is_stale(session.heard + STALE / 2));
        assert!(session.is_stale(session.heard + STALE));
        session.offset = 1;
        assert!(!session.is_stale(session.heard + STALE * 10));
    }
}
