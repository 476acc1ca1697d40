//! Requests that may be redirected.
//! Redirects are followed here, not by the HTTP library, since this client decides what a server on the way may see and to
//! which address it may redirect.

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue};
use reqwest::{Body, Method, Url};

use super::answer::Answer;
use super::context::{Context, Trust, Watch, same_origin};
use super::failure::{Class, Failure, OUT_OF_REACH_HINT};
use super::reach::Reach;
use super::redact::{authority, origin as origin_of, printable, shown};
use super::stores::Stores;
use crate::error::{Error, Kind};

/// Maximum number of redirects of one request; more are a loop.
const MAX_HOPS: usize = 10;

/// A request that can be sent again unchanged.
pub(super) struct Outgoing<'a> {
    pub(super) method: &'a Method,
    pub(super) url: Url,
    pub(super) headers: &'a HeaderMap,
    /// Authorization; sent only to the origin of `url`.
    pub(super) authorization: Option<&'a HeaderValue>,
    pub(super) body: Option<Bytes>,
    /// Trust in the server of `url`; every other server is a stranger.
    pub(super) trust: Trust,
    /// Whether to return a redirect to another server instead of following it.
    pub(super) stays: bool,
    /// Circuit breakers of the servers to which the registry redirects.
    pub(super) stores: Option<&'a Stores>,
}

/// Hint for a registry that redirects to an unusable server.
pub(super) const REDIRECTS: &str = "make that server reachable from here by the scheme of the registry, or have the registry serve \
     blobs by itself (distribution: `storage: redirect: disable: true`)";

/// Sends a request; follows the redirects of a GET or HEAD.
pub(super) async fn send(context: &Context, outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
    let origin = outgoing.url.clone();
    let mut url = origin.clone();
    // Once another origin took part, no credentials are sent, even to the first origin.
    let mut trusted = true;
    let mut trust = outgoing.trust;
    for _ in 0..=MAX_HOPS {
        let mut headers = outgoing.headers.clone();
        if trusted && let Some(authorization) = outgoing.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(body) = &outgoing.body {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let watch = outgoing.body.as_ref().map(|body| Watch::whole(body.len() as u64));
        let body = outgoing.body.clone().map(Body::from);
        let sent = context
            .send(outgoing.method, &url, headers, body, watch.as_ref(), trust)
            .await;
        let response = sent.map_err(|failure| match same_origin(&url, &origin) {
            true => failure,
            false => led_away(failure, &url, &origin),
        })?;
        let from_registry = trusted && outgoing.trust.registry;
        let mut answer = Answer::new(response, url.clone(), from_registry, context.options.stall_timeout());
        if !same_origin(&url, &origin) {
            answer.redirected_by = Some(authority(&origin));
        }
        answer.was_redirected = url != origin;
        answer.reads = matches!(*outgoing.method, Method::GET | Method::HEAD);
        if !is_redirect(answer.status().as_u16()) {
            return Ok(answer);
        }
        if !answer.reads {
            return Ok(answer);
        }
        let next = match target(&answer, &origin) {
            Err(_) if outgoing.stays => return Ok(answer),
            next => next?,
        };
        let home = same_origin(&next, &origin);
        if outgoing.stays && !home {
            return Ok(answer);
        }
        trusted = trusted && home;
        trust = match (home, trusted) {
            (true, true) => outgoing.trust,
            (true, false) => outgoing.trust.without_certificate(),
            (false, _) => Trust::stranger(answer.zone()),
        };
        if answer.redirected_by.is_some()
            && let Some(stores) = outgoing.stores
        {
            stores.answered(&authority(&url), answer.status());
        }
        answer.finish().await;
        if !home && let Some(stores) = outgoing.stores {
            stores.check(&authority(&next)).map_err(|error| Failure {
                error,
                class: Class::NotSent,
                elsewhere: Some(authority(&next)),
            })?;
        }
        url = next;
    }
    // Without the URL of the request, since this may be the answer to all requests.
    Err(refused(format!(
        "`{}` redirects more than {MAX_HOPS} times, at last to {}",
        authority(&origin),
        shown(&url)
    )))
}

pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Returns the target of a redirect, if the client may follow it.
/// `origin` is the URL that was requested first.
pub(super) fn target(answer: &Answer, origin: &Url) -> Result<Url, Failure> {
    let from = &answer.url;
    let text = answer
        .location()
        .ok_or_else(|| refused(format!("`{}` redirects without saying where to", authority(from))))?;
    let mut next = from.join(text).map_err(|e| {
        refused(format!(
            "{} redirects to `{}`, which is not an address: {e}",
            shown(from),
            printable(text, 128)
        ))
    })?;
    // User information in a redirect is not a login for the target.
    let _ = next.set_username("");
    let _ = next.set_password(None);
    next.set_fragment(None);
    if !matches!(next.scheme(), "http" | "https") {
        return Err(unusable(from, &next, "which is not http"));
    }
    if from.scheme() == "https" && next.scheme() == "http" {
        let mut failure = unusable(from, &next, "which gives up encryption");
        failure.error = failure.error.with_hint(REDIRECTS);
        return Err(failure);
    }
    if !same_origin(&next, origin) && !Reach::From(answer.zone()).allows_url(&next) {
        let mut failure = unusable(from, &next, "an address of this machine or of its local link");
        failure.error = failure.error.with_hint(OUT_OF_REACH_HINT);
        return Err(failure);
    }
    Ok(next)
}

/// Marks the failure of a request to a server to which a registry redirected.
fn led_away(mut failure: Failure, url: &Url, origin: &Url) -> Failure {
    failure.elsewhere = Some(authority(url));
    failure.error = failure
        .error
        .context(format!("`{}` redirects to another server", authority(origin)))
        .or_hint(REDIRECTS);
    failure
}

/// Returns the failure for a redirect that is not followed. Its cause has no paths, so that it is the same for all images.
fn unusable(from: &Url, to: &Url, why: &str) -> Failure {
    let mut failure = refused(format!("{} redirects to {}, {why}", shown(from), shown(to)));
    let cause = format!("`{}` redirects to `{}`, {why}", origin_of(from), origin_of(to));
    failure.error = failure.error.with_cause(&cause);
    failure
}

fn refused(message: String) -> Failure {
    Failure {
        error: Error::new(Kind::Server, message).with_hint(
            "check that this address is the registry itself, and not a proxy or a login page in front of it",
        ),
        class: Class::Final,
        elsewhere: None,
    }
}
