//! A registry's answer, and its conversion into an error by status, with the registry's words.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, LOCATION};
use reqwest::{Response, StatusCode, Url};
use tokio::time::Instant;

use super::content_encoding::{self, Encoding};
use super::context::Provenance;
use super::failure::Failure;
use super::limiter::Permit;
use super::reach::Zone;
use super::redact::{authority, printable};
use super::refusal::{MAX_QUOTE, Refusal};
use super::retry::{is_passing, long_pause};
use crate::error::{Error, Kind};
use crate::image::digest::Digest;
use crate::progress::human_duration;
use crate::text::{byte_count, counted};

/// Hint for a refusal by a store to which the registry redirected.
const STORE_REFUSES: &str = "it is not the registry that refuses but the store that it redirects to, and no login helps: the \
    signed address may have expired (check the clocks of the registry and of this machine), or a proxy on the way changes it";

/// Hint for a store to which the registry redirected and which fails at the moment.
const STORE_IN_TROUBLE: &str = "the store to which the registry redirects, or a proxy on the way to it, is in trouble at the moment: run \
    again later";

/// Hint for a store to which the registry redirected and which lacks what the registry has.
const STORE_LOST: &str = "the registry has this, and the store to which it redirects does not: have the image pushed there again, or the \
    storage of the registry checked";

/// Hint for a web page in place of the answer of a store.
const NO_STORE: &str = "the registry redirects to this address, which answers with a web page: see what is between it and this machine (a \
    proxy, a login page), or have the registry serve blobs by itself (distribution: `storage: redirect: disable: true`)";

/// Hint for a registry without space.
pub(super) const FULL: &str = "the registry has no more room for this project, by its quota or on its disk: have that raised, or remove what is not needed";

/// Hint for a registry that cannot answer a pull for lack of space.
const NO_DISK: &str = "the registry, or a cache in front of it, has no room left on its disk: ask its administrator";

/// Hint for a registry whose quota for pulls is used up.
const PULL_QUOTA: &str = "a quota of the registry is used up: wait and run again, or ask its administrator";

/// Hint for a registry that takes no pushes.
const READ_ONLY: &str = "the registry does not allow this: it may be read-only, or a cache that takes no pushes";

/// Hint for a status that is neither a registry's success nor a refusal.
const NO_REGISTRY: &str = "no registry answers so: check the address, and what is between it and this machine (a proxy, a cache, a \
    login page); `-vv` shows each request";

/// Hint for a refusal without a reason.
const NO_REASON: &str = "a registry states why it refuses, and this answer has no reason: see the log of the registry, and what is \
    between it and this machine (a proxy, a gateway); `-vv` shows each request";

/// Maximum number of bytes read of an error's body.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Maximum time to read an error's body. After a timeout, the error is made from the status alone.
const WORDS_TIMEOUT: Duration = Duration::from_secs(15);

/// Minimum speed in bytes per second of a body that is read into memory.
/// Applies beyond twice the stall timeout. Since the size of such a body is bounded, so is the time for which a server can
/// keep the client waiting.
const SLOWEST_BODY: u64 = 4 << 10;

/// An answer with its head read and its body still to come.
pub(super) struct Answer {
    response: Response,
    /// Address that answered, after redirects.
    pub(super) url: Url,
    /// Whether the registry itself answered, not a server to which it redirected.
    pub(super) from_registry: bool,
    /// Bytes of an error's body, if already read.
    words: Option<Bytes>,
    /// Server that redirected to the one that answered.
    pub(super) redirected_by: Option<String>,
    /// Whether a redirect was followed, to another server or to another address of the same one.
    pub(super) was_redirected: bool,
    /// Hint for a refusal, if more is known than the status.
    hint: Option<String>,
    /// Status to assume in place of the received one.
    meant: Option<StatusCode>,
    /// Whether the request was a GET or HEAD, which changes nothing at the registry.
    pub(super) reads: bool,
    /// The permit of the request, which is in flight until its body was read.
    pub(super) permit: Option<Permit>,
    stall: Duration,
}

impl Answer {
    pub(super) fn new(response: Response, url: Url, from_registry: bool, stall: Duration) -> Self {
        Self {
            response,
            url,
            from_registry,
            redirected_by: None,
            was_redirected: false,
            words: None,
            hint: None,
            meant: None,
            reads: false,
            permit: None,
            stall,
        }
    }

    /// Returns the provenance of an address that this answer contains.
    pub(super) fn provenance(&self) -> Provenance {
        Provenance {
            own: self.from_registry,
            zone: self.zone(),
        }
    }

    /// Returns the network zone of the server that answered.
    pub(super) fn zone(&self) -> Zone {
        let zone = self.response.extensions().get::<Zone>().copied();
        zone.unwrap_or(Zone::Network)
    }

    /// Sets the hint for a refusal.
    #[must_use]
    pub(super) fn with_hint(mut self, hint: String) -> Self {
        self.hint = Some(hint);
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.meant.unwrap_or_else(|| self.response.status())
    }

    /// Treats a 403 as a 429 if the body mentions a rate limit: GitHub's registry throttles with a 403.
    pub(super) async fn find_throttling(&mut self) {
        if self.status() == StatusCode::FORBIDDEN
            && self.from_registry
            && self.words().await.to_ascii_lowercase().contains("secondary rate limit")
        {
            self.meant = Some(StatusCode::TOO_MANY_REQUESTS);
        }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Returns a header as text; `None` if the header is absent or not text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// Returns `Location`; `None` if the header is absent or not UTF-8. Some servers send other characters than ASCII unescaped.
    pub(super) fn location(&self) -> Option<&str> {
        std::str::from_utf8(self.headers().get(LOCATION)?.as_bytes()).ok()
    }

    /// Returns a header by its name as text; `None` if the header is absent or not text.
    pub(super) fn named(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// Returns `Docker-Content-Digest`; `None` if its algorithm is not supported.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.named("docker-content-digest")?.trim().parse().ok()
    }

    /// Returns the body's length from `Content-Length`.
    /// Read from the header, since a HEAD has no body to measure.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(&reqwest::header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// Returns whether the body claims to be a web page.
    pub(super) fn is_web_page(&self) -> bool {
        let media_type = self.header(&CONTENT_TYPE).unwrap_or_default();
        crate::image::media_type::essence(media_type) == "text/html"
    }

    /// Returns the response with its unread body.
    pub(super) fn into_body(self) -> Response {
        self.response
    }

    /// Returns the next bytes of the body, waiting no longer than the stall timeout.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        chunk(&mut self.response, self.stall, &authority(&self.url)).await
    }

    /// Reads the whole body, up to `cap` bytes; `Err(None)` if it is longer.
    /// The time limit grows with the bytes received.
    pub(super) async fn bytes(mut self, cap: u64) -> Result<Bytes, Option<Failure>> {
        if self.length().is_some_and(|length| length > cap) {
            return Err(None);
        }
        // One allocation: a buffer that grows in steps fragments memory. Pages that are reserved and never written cost
        // nothing.
        let mut all = BytesMut::with_capacity(self.length().and_then(|length| length.try_into().ok()).unwrap_or(0));
        let begun = Instant::now();
        loop {
            let earned = Duration::from_secs(all.len() as u64 / SLOWEST_BODY);
            let chunk = tokio::time::timeout_at(begun + self.stall * 2 + earned, self.chunk()).await;
            let chunk = chunk.unwrap_or_else(|_| {
                let (host, seconds) = (authority(&self.url), begun.elapsed().as_secs_f32());
                let length = byte_count(all.len() as u64);
                Err(Failure::broken(format!(
                    "`{host}` sent {length} in {seconds:.1} seconds"
                )))
            });
            let Some(bytes) = chunk.map_err(Some)? else {
                // A buffer that grew in steps may have twice the capacity that the body needs.
                return Ok(match all.capacity() > all.len() + all.len() / 8 {
                    true => Bytes::copy_from_slice(&all),
                    false => all.freeze(),
                });
            };
            if (all.len() + bytes.len()) as u64 > cap {
                return Err(None);
            }
            all.extend_from_slice(&bytes);
        }
    }

    /// Returns the body's encoding according to its headers.
    pub(super) fn encoding(&self) -> Option<Encoding> {
        Encoding::from_headers(self.headers())
    }

    /// Reads a JSON body like [`bytes`](Self::bytes) and undoes the encoding that a proxy may have applied; `Err(None)` also if
    /// the decoded text is longer than `cap`.
    pub(super) async fn json(self, cap: u64) -> Result<Bytes, Option<Failure>> {
        let encoding = self.encoding();
        content_encoding::json(self.bytes(cap).await?, encoding, cap).ok_or(None)
    }

    /// Reads the body of an error. A body that cannot be read is ignored: the status alone decides.
    pub(super) async fn words(&mut self) -> &str {
        if self.words.is_none() {
            let mut all = BytesMut::new();
            let until = Instant::now() + WORDS_TIMEOUT;
            while all.len() < MAX_ERROR_BODY {
                match tokio::time::timeout_at(until, self.chunk()).await {
                    Ok(Ok(Some(bytes))) => all.extend_from_slice(&bytes[..bytes.len().min(MAX_ERROR_BODY - all.len())]),
                    Ok(Ok(None) | Err(_)) | Err(_) => break,
                }
            }
            let decoded = content_encoding::json(all.freeze(), self.encoding(), MAX_ERROR_BODY as u64);
            self.words = Some(decoded.unwrap_or_default());
        }
        // A body that is not UTF-8 is not quoted.
        self.words
            .as_deref()
            .map_or("", |bytes| std::str::from_utf8(bytes).unwrap_or_default())
    }

    /// Returns the server that answered, in words: the registry, or the server to which the registry redirected.
    pub(super) fn server(&self) -> String {
        match self.redirected_by {
            Some(_) => format!("`{}`, to which the registry redirects,", authority(&self.url)),
            None => "the registry".to_owned(),
        }
    }

    /// Reads the rest of a small body, so that the connection can be used again.
    pub(super) async fn finish(mut self) {
        self.words().await;
    }

    /// Returns the registry's message in the body of a refusal, if any.
    pub(super) async fn quote(&mut self) -> Option<String> {
        let error = self.refusal().await;
        let refusal = Refusal::in_error(&error).filter(|refusal| !refusal.is_silent());
        refusal.map(ToString::to_string)
    }

    /// Returns the log message for a fresh address from a registry after its store refused the last one.
    pub(super) fn stale_words(&self, action: &str) -> String {
        let (host, status) = (authority(&self.url), shown_status(self.status()));
        format!("{action}: `{host}`, to which the registry redirected, answered {status}; asking for a fresh address")
    }

    /// Returns the answer in words: `` `host` answered 401 Unauthorized: … ``.
    pub(super) async fn into_words(mut self) -> String {
        self.refusal().await.full()
    }

    /// Returns the error of an answer that asks for a longer pause than a run waits; `None` for any other answer.
    pub(super) async fn long_pause(&mut self) -> Option<Error> {
        let pause = long_pause(self.headers(), SystemTime::now())?;
        let hint = format!(
            "the registry asks for a pause of {}, which is longer than a run waits: run the same command again after that, \
             or ask the administrator of the registry",
            human_duration(pause)
        );
        Some(self.refusal().await.with_hint(hint))
    }

    /// Converts an unexpected status into an error.
    /// `action` says what failed: `cannot read manifest x of h/r`.
    pub(super) async fn into_error(mut self, action: &str) -> Error {
        self.refusal().await.context(action)
    }

    /// Converts an unexpected status into an error without an action.
    /// Otherwise like [`into_error`](Self::into_error).
    pub(super) async fn refusal(&mut self) -> Error {
        self.words().await;
        let status = self.status();
        let body = self.words.as_deref().unwrap_or_default();
        let mut refusal = Refusal::read(status, body, self.is_web_page());
        refusal.reads = self.reads;
        let host = authority(&self.url);
        let message = match &self.redirected_by {
            Some(registry) => format!(
                "`{host}`, to which `{registry}` had redirected, answered {}",
                shown_status(status)
            ),
            None => format!("`{host}` answered {}", shown_status(status)),
        };
        let kind = refusal.kind();
        let mut error = Error::new(kind, message);
        tracing::debug!(target: "docker_mirror::wire", "= {}", printable(&refusal.raw, MAX_QUOTE));
        // Gateways in front of a registry report outages with web pages: those say nothing about the address.
        let is_page = refusal.web_page && !is_passing(status) && !refusal.wants_https();
        let hint = if is_page && self.redirected_by.is_none() {
            Some("it answered with a web page; is this address a registry?")
        } else {
            match kind {
                _ if is_page => Some(NO_STORE),
                _ if refusal.is_full() => Some(if self.reads { PULL_QUOTA } else { FULL }),
                _ if refusal.lacks_disk() => Some(NO_DISK),
                _ if refusal.wants_https() => Some(
                    "the registry speaks https at this port: omit `--plain-http` (in one step `--src-plain-http` or \
                     `--dest-plain-http`)",
                ),
                // The store gets no login, so another login cannot help.
                Kind::Unauthorized | Kind::Denied if self.redirected_by.is_some() => Some(STORE_REFUSES),
                Kind::NotFound if self.redirected_by.is_some() => Some(STORE_LOST),
                _ if is_passing(status) && self.redirected_by.is_some() => Some(STORE_IN_TROUBLE),
                _ if status == StatusCode::BAD_REQUEST && self.was_redirected => Some(STORE_REFUSES),
                _ if refusal.is_of_expired_login() && self.was_redirected => Some(STORE_REFUSES),
                _ if refusal.is_of_expired_login() => Some("the login has expired: log in again"),
                _ if refusal.is_read_only() && !self.reads => Some(READ_ONLY),
                _ if refusal.is_of_policy() => {
                    Some("a policy of the registry forbids this: ask the administrator of the project")
                }
                _ if refusal.lacks_project() => Some("create the project at the registry first, or check its name"),
                Kind::Unauthorized => Some(
                    "log in to the registry, or check that the name is right: some registries say this of what does not exist",
                ),
                Kind::Denied => Some("this account lacks permission for this; use another account or ask for access"),
                Kind::NotFound if refusal.codes.is_empty() => {
                    Some("check the name, and whether this address is a registry: it does not answer like one")
                }
                Kind::NotFound => Some("check the name and the tag"),
                Kind::Unsupported if status == StatusCode::METHOD_NOT_ALLOWED && !self.reads => Some(READ_ONLY),
                Kind::Unsupported if status == StatusCode::METHOD_NOT_ALLOWED => Some(NO_REGISTRY),
                Kind::RateLimited => Some("wait and run again, or log in: accounts have higher limits"),
                _ if is_passing(status) => {
                    Some("the registry, or a proxy in front of it, is in trouble at the moment: run again later")
                }
                _ if !status.is_client_error() && !status.is_server_error() => Some(NO_REGISTRY),
                _ => gateway_hint(status).or(refusal.is_silent().then_some(NO_REASON)),
            }
        };
        if let Some(hint) = self.hint.as_deref().or(hint) {
            error = error.with_hint(hint);
        }
        // A manifest or blob that is absent, a tag that must not change, and a range beyond the end are facts about one image.
        // All other answers that several images get in the same words have one cause.
        let is_of_image = match kind {
            Kind::NotFound => self.reads && !refusal.web_page,
            Kind::Exists => true,
            _ => status == StatusCode::RANGE_NOT_SATISFIABLE,
        };
        error = error.with_source(refusal);
        if is_of_image { error } else { error.with_shared_cause() }
    }
}

/// Returns the hint for a status that does not come from the registry, but from something between it and this machine.
fn gateway_hint(status: StatusCode) -> Option<&'static str> {
    Some(match status.as_u16() {
        407 => {
            "a proxy on the way wants a login: put its user name and password into HTTPS_PROXY (`http://USER:PASSWORD@PROXY`)"
        }
        410 => {
            "the registry says that this is gone for good: look for its new address, since a registry may have moved, or name another source"
        }
        451 => "the registry may not serve this for legal reasons: ask its administrator, or name another source",
        495 | 496 => "the server wants a client certificate: give `--cert` and `--key`",
        511 => "the network wants a login first: open a web page in a browser on this machine, log in, and run again",
        525 | 526 => {
            "the gateway in front of the registry cannot connect to it by TLS: ask the administrator of the registry"
        }
        _ => return None,
    })
}

/// Returns the error for a web page in place of a registry's answer: a login page, or a wrong address.
pub(super) fn web_page(host: &str, action: &str) -> Error {
    Error::new(Kind::Server, format!("the answer of `{host}` is a web page"))
        .with_shared_cause()
        .context(action)
        .with_hint("is this address a registry, and does a login page stand in front of it?")
}

/// Returns the error for JSON in place of a manifest, such as the error of a gateway with status 200.
pub(super) fn other_json(host: &str, action: &str, body: &[u8]) -> Error {
    let body = printable(&String::from_utf8_lossy(body), 200);
    Error::new(
        Kind::Server,
        format!("the answer of `{host}` is JSON that is no manifest: {body}"),
    )
    .with_shared_cause()
    .context(action)
    .with_hint("is this address a registry, and does a gateway stand in front of it?")
}

/// Returns the next chunk of a response, waiting no longer than `stall`.
pub(super) async fn chunk(response: &mut Response, stall: Duration, host: &str) -> Result<Option<Bytes>, Failure> {
    match tokio::time::timeout(stall, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => {
            let mut failure = Failure::from_reqwest(error, host, None);
            failure.class = super::failure::Class::Broken;
            Err(failure)
        }
        Err(_) => Err(Failure::broken(format!(
            "`{host}` sent nothing for {}",
            counted(stall.as_secs(), "second", "seconds")
        ))),
    }
}

fn shown_status(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}
