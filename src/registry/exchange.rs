//! The exchange of a request for an answer: authorization, one replay after a challenge, redirects, pauses and retries.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use reqwest::{Method, StatusCode, Url};
use tokio::time::Instant;

use super::answer::Answer;
use super::attempt::{Attempt, Renewal};
use super::breaker::FailureMode;
use super::call::{Call, MAX_FRESH, is_stale_address};
use super::failure::{Class, Failure};
use super::host::{Host, is_throttling};
use super::limiter::{Permit, Use};
use super::limits::RateLimit;
use super::outage::Trouble;
use super::redact::authority;
use super::redirect::{self, Outgoing};
use super::retry::{Backoff, is_passing, retry_after};
use crate::error::{Error, Kind, Result};
use crate::image::reference::DOCKER_HUB;
use crate::progress::human_duration;

/// Maximum pause that is waited for at a mirror, in whose place another host can be asked.
const LONGEST_PAUSE_OF_MIRROR: Duration = Duration::from_secs(5);

impl Host {
    /// Sends a call until the answer is final or the retry budget is used up. The caller judges the status.
    pub(super) async fn exchange(&self, call: &Call<'_>) -> Result<Answer> {
        let mut backoff = Backoff::new(&self.context.options);
        self.exchange_within(call, &mut backoff).await
    }

    /// Sends a call like [`exchange`](Self::exchange), within the retry budget of a larger operation.
    pub(super) async fn exchange_within(&self, call: &Call<'_>, backoff: &mut Backoff) -> Result<Answer> {
        let in_call = |error: Error| error.context(&call.action);
        let finds_out = self.breaker.check().map_err(in_call)?;
        let permit = match call.has_place {
            true => None,
            false => Some(self.limiter.permit(Use::Request).await),
        };
        // The breaker may have opened while this request waited for its permit.
        if let Some(error) = self.breaker.error().filter(|_| !finds_out) {
            return Err(in_call(error));
        }
        let url = self.by_scheme(&call.url);
        let attempt = match self.attempt(call, &url).await {
            Ok(attempt) => attempt,
            Err(error) => return Err(in_call(self.without_token(call, error).await)),
        };
        let mut exchange = Exchange {
            host: self,
            call,
            backoff,
            permit,
            url,
            attempt,
            attempts: 0,
            unconnected: 0,
            fresh: 0,
        };
        loop {
            if let Some(answer) = exchange.send().await? {
                return Ok(answer);
            }
        }
    }

    /// Returns the error for a 429 about a used-up pull quota.
    /// The quota's window lasts hours, so waiting is no use.
    async fn quota_used_up(&self, answer: &mut Answer, action: &str) -> Option<Error> {
        if answer.status() != StatusCode::TOO_MANY_REQUESTS || !answer.from_registry {
            return None;
        }
        let words = answer.words().await.to_ascii_lowercase();
        // The answer to a HEAD has no body, but its headers state the quota.
        let none_left = RateLimit::from_headers(answer.headers()).is_some_and(|limit| limit.remaining == Some(0));
        let quota = none_left
            || words.contains("pull rate limit")
            || (self.name == DOCKER_HUB && words.contains("toomanyrequests"));
        quota.then(|| {
            let window = self
                .rate_limit()
                .and_then(|limit| limit.window)
                .map_or_else(String::new, |window| {
                    format!(" (counted over {})", human_duration(window))
                });
            Error::new(
                Kind::RateLimited,
                format!("pull limit of `{}` reached{window}", self.name),
            )
            .with_shared_cause()
            .context(action)
            .with_hint("log in (accounts have a higher limit) or wait, and run the same command again to resume")
        })
    }
}

/// A call that is sent until its answer is final.
struct Exchange<'a, 'c> {
    host: &'a Host,
    call: &'a Call<'c>,
    backoff: &'a mut Backoff,
    /// The permit for a request to the host; `None` if the caller holds one.
    permit: Option<Permit>,
    /// Address of the call, with the scheme that was detected.
    url: Url,
    attempt: Attempt,
    /// Number of times that the call was sent.
    attempts: u32,
    /// Number of attempts for which no connection was made.
    unconnected: u32,
    /// Number of fresh addresses that were requested.
    fresh: u32,
}

impl Exchange<'_, '_> {
    /// Sends the call once. Returns the final answer, or `None` if the call is to be sent again.
    async fn send(&mut self) -> Result<Option<Answer>> {
        let (host, call) = (self.host, self.call);
        self.attempts += 1;
        // Before the proof, which others with a permit may wait for.
        self.take_place().await;
        let alone = host.prove(call, &mut self.attempt).await;
        let alone = alone.map_err(|e| self.in_call(e))?;
        host.limiter.wait_for_pause().await;
        let begun = Instant::now();
        let outgoing = Outgoing {
            method: &call.method,
            url: self.url.clone(),
            headers: &call.headers,
            authorization: self.attempt.authorization.as_ref(),
            body: call.body.clone(),
            trust: host.trust(&self.url, call.provenance),
            stays: call.stays,
            stores: Some(&host.stores),
        };
        let sent = redirect::send(&host.context, outgoing).await;
        self.count(&sent);
        if host.found_tls(&sent, &self.url).await || host.found_plain(&sent, &self.url).await {
            self.url = host.by_scheme(&self.url);
            return Ok(None);
        }
        let mut answer = match sent {
            Ok(answer) => answer,
            Err(failure) => {
                drop(alone);
                return self.retry_failure(failure).await.map(|()| None);
            }
        };
        answer.find_throttling().await;
        host.note_answer(&answer);
        let renewal = match answer.from_registry && host.owns(&self.url) {
            true => host.renew(&mut answer, call, &mut self.attempt, begun).await,
            false => Ok(Renewal::Stands),
        };
        let renewal = match renewal {
            Ok(renewal) => renewal,
            Err(error) => return Err(self.in_call(host.without_token(call, error).await)),
        };
        drop(alone);
        if self.asks_for_fresh_address(&answer).await {
            answer.finish().await;
            return Ok(None);
        }
        let may_pass = match renewal {
            Renewal::Again => {
                answer.finish().await;
                return Ok(None);
            }
            Renewal::MayPass(error) => Some(error),
            Renewal::Stands => None,
        };
        if (is_passing(answer.status()) || may_pass.is_some())
            && call.repeat
            && self.retry_refusal(&mut answer, begun, may_pass.is_some()).await?
        {
            return Ok(None);
        }
        match may_pass {
            Some(error) if !host.auth.is_challenged() => Err(self.in_call(error)),
            _ => {
                let answer = host.add_refusal_hint(answer, call, &self.attempt).await;
                let mut answer = answer.map_err(|e| self.in_call(e))?;
                // An answer without a body is complete, and its caller may send further requests before dropping it.
                if call.method != Method::HEAD {
                    answer.permit = self.permit.take();
                }
                Ok(Some(answer))
            }
        }
    }

    /// Waits for a place for the next request, unless the caller or the exchange has one.
    async fn take_place(&mut self) {
        if let Some(permit) = &mut self.permit {
            permit.acquire().await;
        }
    }

    fn in_call(&self, error: Error) -> Error {
        error.context(&self.call.action)
    }

    /// Reports the result of a request to its permit, if the exchange holds one.
    fn count(&mut self, sent: &Result<Answer, Failure>) {
        let Some(permit) = &mut self.permit else { return };
        match sent {
            // A 401 says nothing about the load: the client repeats the request with an authorization.
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => {}
            Ok(answer) if !is_passing(answer.status()) => permit.went_well(),
            Err(failure) if failure.class == Class::Broken => permit.went_wrong(),
            _ => {}
        }
    }

    /// Pauses after an attempt without an answer, before the call is sent again.
    ///
    /// # Errors
    /// The failure, if it is final or the retry budget is used up.
    async fn retry_failure(&mut self, failure: Failure) -> Result<()> {
        let (host, call) = (self.host, self.call);
        self.unconnected += u32::from(failure.class == Class::Connect);
        // The registry may have named another server for the request, whose failures say nothing about the registry.
        let own = host.owns(&self.url);
        if own && failure.elsewhere.is_some() {
            // The registry itself has answered: with the redirect.
            host.breaker.answered();
        }
        let reached = own && host.reached.load(Ordering::Relaxed);
        // A host that never answered gets one retry instead of all; a mirror gets none, since there is another host.
        let patient = match host.is_mirror {
            true => self.unconnected == 0,
            false => reached || self.unconnected < 2,
        };
        let again = !failure.class.is_final() && call.repeat && patient;
        let way = FailureMode::from_failure(&failure).filter(|_| own);
        let store = failure.elsewhere.as_deref();
        let way = way.map(|mode| Trouble { mode, store });
        let reason = || failure.error.full();
        if again && host.pause(self.backoff, way, self.attempts, None, reason).await {
            return Ok(());
        }
        let error = failure.error.clone().or_shared_cause();
        let wrong_address = !reached && self.unconnected >= 2 && store.is_none();
        Err(self.in_call(match way {
            Some(way) if call.repeat => host.gave_up(way, call.repository, error, wrong_address).await,
            _ => error,
        }))
    }

    /// Returns whether to ask the registry for another address, since the store to which it redirected refuses.
    async fn asks_for_fresh_address(&mut self, answer: &Answer) -> bool {
        let call = self.call;
        if !is_stale_address(answer, call) || self.fresh == MAX_FRESH {
            return false;
        }
        self.fresh += 1;
        let reason = || answer.stale_words(&call.action);
        // The first retry needs no pause: the registry did not fail, its store did.
        let store = answer.redirected_by.as_ref().map(|_| authority(&answer.url));
        let way = Some(Trouble {
            mode: FailureMode::Status(answer.status()),
            store: store.as_deref(),
        });
        self.fresh == 1 || self.host.pause(self.backoff, way, self.attempts, None, reason).await
    }

    /// Pauses after a refusal that may pass, and returns whether to send the call again.
    /// With `vague`, the refusal is a 401 without a challenge, which does not count as a failure of the host.
    ///
    /// # Errors
    /// The refusal, if the registry asks for a longer pause than a run waits, or its quota is used up.
    async fn retry_refusal(&mut self, answer: &mut Answer, begun: Instant, vague: bool) -> Result<bool> {
        let (host, call, status) = (self.host, self.call, answer.status());
        if let Some(error) = host.quota_used_up(answer, &call.action).await {
            return Err(error);
        }
        if let Some(error) = answer.long_pause().await {
            return Err(self.in_call(error));
        }
        let asked = retry_after(answer.headers(), SystemTime::now());
        // The next host is asked at once in place of a mirror that asks for a pause, and the mirror not again.
        let waits = !host.is_mirror || asked.is_none_or(|pause| pause <= LONGEST_PAUSE_OF_MIRROR);
        if waits {
            host.throttled(status, asked, begun);
        }
        // A host that has worked may accept another request now. A host that is down refuses it like this one, and
        // the circuit breaker would open only after a request for every image.
        let makes_room = is_throttling(status) && host.accepted.load(Ordering::Relaxed);
        if let Some(permit) = self.permit.as_ref().filter(|_| makes_room) {
            permit.release();
        }
        let error = answer.refusal().await;
        let store = answer.redirected_by.as_ref().map(|_| authority(&answer.url));
        let way = (answer.from_registry || store.is_some()).then_some(Trouble {
            mode: FailureMode::Status(status),
            store: store.as_deref(),
        });
        if waits
            && host
                .pause(self.backoff, way, self.attempts, asked, || error.full())
                .await
        {
            // The token may have expired during the pause. The token server may be the registry itself.
            self.take_place().await;
            return match host.authorize_again(call, &self.url, &mut self.attempt).await {
                Ok(()) => Ok(true),
                Err(error) => Err(self.in_call(host.without_token(call, error).await)),
            };
        }
        if let Some(way) = way.filter(|_| !vague) {
            host.gave_up(way, call.repository, error, false).await;
        }
        Ok(false)
    }
}
