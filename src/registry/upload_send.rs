//! Sending the bytes of an upload in one request, and what a refusal of them means.

use std::time::SystemTime;

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Body, Method, StatusCode, Url};
use tokio::time::Instant;

use super::answer::Answer;
use super::attempt::Renewed;
use super::context::{Provenance, Watch};
use super::failure::Failure;
use super::redact::shown;
use super::redirect;
use super::refusal::Refusal;
use super::retry::{is_passing, retry_after};
use super::token::Refused;
use super::upload::{Blame, Outcome, Upload};
use crate::error::{Error, Kind, Result};

impl Upload<'_> {
    /// Sends `start..end`. The inner result is the answer if it is a success.
    pub(super) async fn send(
        &mut self,
        method: Method,
        (mut url, mut provenance): (Url, Provenance),
        start: u64,
        end: u64,
        ranged: bool,
    ) -> Result<Result<Answer, Outcome>> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
        if ranged && let Ok(range) = HeaderValue::try_from(format!("{start}-{}", end - 1)) {
            headers.insert(CONTENT_RANGE, range);
        }
        for _ in 0..4 {
            self.host.downloads.quiet().await;
            let begun = Instant::now();
            let authorization = self
                .host
                .authorize(&url, provenance, self.repository, &self.scope, true, None)
                .await?;
            headers.remove(AUTHORIZATION);
            if let Some(authorization) = &authorization {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            self.take_place().await;
            let watch = if end == self.descriptor.size {
                Watch::last(self.permit.place())
            } else {
                Watch::default()
            };
            let listen = std::mem::take(&mut self.listen);
            let body = match self.cursor.body(self.source, start, end, &watch, listen).await {
                Ok(body) => Body::wrap(body),
                Err(error) => return Ok(Err(Outcome::NoBytes(error))),
            };
            let started = Instant::now();
            let sent = self
                .host
                .context
                .send(
                    &method,
                    &url,
                    headers.clone(),
                    Some(body),
                    Some(&watch),
                    self.host.trust(&url, provenance),
                )
                .await;
            if let Some(error) = self.cursor.failed() {
                return Ok(Err(Outcome::NoBytes(error)));
            }
            let response = match sent {
                Ok(response) => response,
                Err(Failure { error, class, .. }) if class.is_final() => return Err(error),
                Err(Failure { error, .. }) => {
                    self.listen = end > start;
                    return Ok(Err(Outcome::Broken(error.context(&self.action), None, Blame::Wire)));
                }
            };
            let own = provenance.own && self.host.owns(&url);
            let answer = Answer::new(response, url.clone(), own, self.host.context.options.stall_timeout());
            self.host.heard(&answer);
            if !answer.status().is_success() {
                self.cursor.halt();
            }
            match answer.status().as_u16() {
                200..=299 => {
                    self.host.ladder.timed(end - start, started.elapsed());
                    return Ok(Ok(answer));
                }
                307 | 308 => {
                    url = redirect::target(&answer, &self.host.base()).map_err(|failure| failure.error)?;
                    // Once another origin took part, credentials stay away, even if it sends us back.
                    provenance = answer.provenance();
                    continue;
                }
                401 if own => {
                    let fresh = self
                        .host
                        .rechallenged(
                            &answer,
                            self.repository,
                            &mut self.scope,
                            Refused::of(authorization.as_ref(), begun),
                        )
                        .await?;
                    return Ok(Err(match fresh {
                        Renewed::With(_) => Outcome::Refreshed,
                        Renewed::Nothing => Outcome::Broken(answer.into_error(&self.action).await, None, Blame::Nobody),
                        Renewed::MayPass(error) => Outcome::Broken(error.context(&self.action), None, Blame::Nobody),
                    }));
                }
                _ => return self.judge(answer, end - start, begun).await.map(Err),
            }
        }
        Err(Error::new(
            Kind::Server,
            format!(
                "the registry redirects the upload again and again, at last to {}",
                shown(&url)
            ),
        ))
    }

    /// What a refusal of bytes means for the way of uploading. `length` is that of the refused body.
    pub(super) async fn judge(&self, mut answer: Answer, length: u64, begun: Instant) -> Result<Outcome> {
        let status = answer.status();
        if redirect::is_redirect(status.as_u16()) {
            return Err(self.redirected(&answer));
        }
        let asked = retry_after(answer.headers(), SystemTime::now());
        let led_back = status == StatusCode::UNAUTHORIZED && !answer.from_registry && self.host.owns(&answer.url);
        // The caller adds what was tried where the upload ends with this error.
        let mut error = answer.refusal().await;
        if led_back {
            error = error.with_hint(
                "another server led the upload to this address of the registry, so the login was not sent along: \
                 check the storage or proxy to which the registry sends its uploads",
            );
        }
        let is_judged = matches!(status.as_u16(), 400 | 404 | 405 | 411 | 413 | 416 | 501);
        if !is_judged && !is_passing(status) {
            return Err(error);
        }
        let error = error.context(&self.action);
        let has = |code: &str| Refusal::of(&error).is_some_and(|refusal| refusal.has(code));
        Ok(match status.as_u16() {
            413 => Outcome::TooLarge(
                length,
                error.context(format!("{} bytes", self.descriptor.size)).with_hint(
                    "something between here and the registry limits the size of requests: have the limit raised \
                     (nginx: `client_max_body_size`)",
                ),
            ),
            416 => Outcome::Misplaced(error),
            // Distribution says so of a session that another replica opened, and of one that broke off.
            400 | 404 if has("BLOB_UPLOAD_UNKNOWN") || has("BLOB_UPLOAD_INVALID") => Outcome::Forgotten(error),
            400 if has("DIGEST_INVALID") || has("SIZE_INVALID") => Outcome::Lost(error),
            400 | 404 | 405 | 411 | 501 => Outcome::Unsuited(error),
            _ => {
                self.host.throttled(status, asked, begun);
                let blame = if status.as_u16() == 500 {
                    Blame::Host
                } else {
                    Blame::Nobody
                };
                Outcome::Broken(error, asked, blame)
            }
        })
    }

    pub(super) fn redirected(&self, answer: &Answer) -> Error {
        let target = redirect::target(answer, &self.host.base());
        let target = target.map_or_else(|failure| failure.error.to_string(), |url| shown(&url));
        Error::new(
            Kind::Server,
            format!(
                "the registry redirects the upload ({}) to {target}",
                answer.status().as_u16()
            ),
        )
        .with_hint("name the registry by the address that it redirects to")
    }
}
