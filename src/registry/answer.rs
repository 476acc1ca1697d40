//! A registry's answer, and how it becomes an error: by status, with the registry's own words quoted.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::content_encoding::{self, Encoding};
use super::context::Provenance;
use super::failure::Failure;
use super::reach::Zone;
use super::redact::{authority, printable};
use super::retry::is_passing;
use crate::error::{Error, Kind};
use crate::image::digest::Digest;

/// What to do where a store refuses to which a registry redirected.
const STORE_REFUSES: &str = "it is not the registry that refuses but the store that it redirects to, and no login helps: the \
    signed address may have expired (check the clocks of the registry and of this machine), or a proxy on the way changes it";

/// How much of an error's body is read, and how much of it is quoted.
const MAX_ERROR_BODY: usize = 64 << 10;
const MAX_QUOTE: usize = 1 << 10;

/// How long reading an error's body may take altogether. The status alone says enough.
const WORDS_TIMEOUT: Duration = Duration::from_secs(15);

/// A body that is read into memory has twice the stall timeout, and the time that its bytes take at this rate (bytes per
/// second). Since its size is bounded, so is the time that a server can keep this side waiting.
const SLOWEST_BODY: u64 = 4 << 10;

/// An answer with its head read and its body still to come.
pub(super) struct Answer {
    response: Response,
    /// The address that answered, after redirects.
    pub(super) url: Url,
    /// Whether the registry itself answered, and not a server to which it redirected.
    pub(super) from_registry: bool,
    /// Bytes of an error's body, where they were read already.
    words: Option<Bytes>,
    /// The server that was asked, where it had redirected to another one.
    pub(super) redirected_by: Option<String>,
    /// What to do about a refusal, where more is known than the status.
    hint: Option<String>,
    stall: Duration,
}

impl Answer {
    pub(super) fn new(response: Response, url: Url, from_registry: bool, stall: Duration) -> Self {
        Self {
            response,
            url,
            from_registry,
            redirected_by: None,
            words: None,
            hint: None,
            stall,
        }
    }

    /// What follows for an address that this answer names.
    pub(super) fn provenance(&self) -> Provenance {
        Provenance {
            own: self.from_registry,
            zone: self.zone(),
        }
    }

    /// The zone of the server that answered.
    pub(super) fn zone(&self) -> Zone {
        let zone = self.response.extensions().get::<Zone>().copied();
        zone.unwrap_or(Zone::Network)
    }

    /// With what to do about a refusal.
    #[must_use]
    pub(super) fn with_hint(mut self, hint: String) -> Self {
        self.hint = Some(hint);
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header as text; `None` where it is absent or no text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The same for a header without a constant.
    pub(super) fn named(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// `Docker-Content-Digest`, where it is one that can be checked.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.named("docker-content-digest")?.trim().parse().ok()
    }

    /// The length of the body as the head states it. Read from the header, since a HEAD has no body to measure.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(&reqwest::header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// Whether the body claims to be a web page.
    pub(super) fn is_web_page(&self) -> bool {
        let media_type = self.header(&CONTENT_TYPE).unwrap_or_default();
        crate::image::media_type::essence(media_type) == "text/html"
    }

    /// The body as it comes.
    pub(super) fn into_body(self) -> Response {
        self.response
    }

    /// The next bytes of the body, waited for no longer than the stall timeout.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        chunk(&mut self.response, self.stall, &authority(&self.url)).await
    }

    /// All of the body, up to `cap` bytes, within a time that depends on the bytes that came; `Err(None)` where it has more.
    pub(super) async fn bytes(mut self, cap: u64) -> Result<Bytes, Option<Failure>> {
        if self.length().is_some_and(|length| length > cap) {
            return Err(None);
        }
        let mut all = BytesMut::new();
        let begun = Instant::now();
        loop {
            let earned = Duration::from_secs(all.len() as u64 / SLOWEST_BODY);
            let chunk = tokio::time::timeout_at(begun + self.stall * 2 + earned, self.chunk()).await;
            let chunk = chunk.unwrap_or_else(|_| {
                let (host, seconds) = (authority(&self.url), begun.elapsed().as_secs_f32());
                let length = all.len();
                Err(Failure::broken(format!(
                    "`{host}` sent {length} bytes in {seconds:.1} seconds"
                )))
            });
            let Some(bytes) = chunk.map_err(Some)? else {
                return Ok(all.freeze());
            };
            if (all.len() + bytes.len()) as u64 > cap {
                return Err(None);
            }
            all.extend_from_slice(&bytes);
        }
    }

    /// The encoding that the body claims to have.
    pub(super) fn encoding(&self) -> Option<Encoding> {
        Encoding::of_headers(self.headers())
    }

    /// All of a body that is JSON, as [`bytes`](Self::bytes), without the encoding that a proxy gave it.
    pub(super) async fn json(self, cap: u64) -> Result<Bytes, Option<Failure>> {
        let encoding = self.encoding();
        Ok(content_encoding::json(self.bytes(cap).await?, encoding, cap))
    }

    /// Reads what the registry says about an error. What cannot be read is left out: the status alone decides.
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
            self.words = Some(content_encoding::json(
                all.freeze(),
                self.encoding(),
                MAX_ERROR_BODY as u64,
            ));
        }
        // Not UTF-8 is not worth quoting.
        self.words
            .as_deref()
            .map_or("", |bytes| std::str::from_utf8(bytes).unwrap_or_default())
    }

    /// Reads the rest of a small body, so that the connection can be used again.
    pub(super) async fn finish(mut self) {
        self.words().await;
    }

    /// Why the address to which the registry redirected is asked for anew.
    pub(super) fn stale_words(&self, action: &str) -> String {
        let (host, status) = (authority(&self.url), shown_status(self.status()));
        format!("{action}: `{host}`, to which the registry redirected, answered {status}; asking for a fresh address")
    }

    /// What was answered, in words: `` `host` answered 401 Unauthorized: … ``.
    pub(super) async fn into_words(mut self) -> String {
        self.refusal().await.full()
    }

    /// An error from a status that was not hoped for. `action` names what was tried: `cannot read manifest x of h/r`.
    pub(super) async fn into_error(mut self, action: &str) -> Error {
        self.refusal().await.context(action)
    }

    /// The same without what was tried.
    pub(super) async fn refusal(&mut self) -> Error {
        self.words().await;
        let refusal = Refusal::read(
            self.status(),
            self.words.as_deref().unwrap_or_default(),
            self.is_web_page(),
        );
        let status = self.status();
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
        // A gateway in front of a registry says in web pages that it is in trouble.
        let hint = if refusal.web_page && !is_passing(status) {
            Some("it answered with a web page; is this address a registry?")
        } else {
            match kind {
                // Another login would change nothing: it stays with the registry.
                Kind::Unauthorized | Kind::Denied if self.redirected_by.is_some() => Some(STORE_REFUSES),
                _ if status == StatusCode::BAD_REQUEST && self.redirected_by.is_some() => Some(STORE_REFUSES),
                Kind::Unauthorized => Some(
                    "log in to the registry, or check that the name is right: some registries say this of what does not exist",
                ),
                Kind::Denied => {
                    Some("the account in use may not do this; log in with another, or have the right granted")
                }
                Kind::NotFound => Some("check the name and the tag"),
                Kind::RateLimited => Some("wait and run again, or log in: accounts have higher limits"),
                _ if is_passing(status) => {
                    Some("the registry, or a proxy in front of it, is in trouble at the moment: run again later")
                }
                _ => None,
            }
        };
        if let Some(hint) = self.hint.as_deref().or(hint) {
            error = error.with_hint(hint);
        }
        if !refusal.is_silent() {
            error = error.with_source(refusal);
        }
        // Of the others the same words mean another thing for each image.
        match kind {
            Kind::Unauthorized | Kind::Denied | Kind::RateLimited => error.with_shared_cause(),
            _ if is_passing(status) => error.with_shared_cause(),
            _ => error,
        }
    }
}

/// `chunk` of a response under a stall timeout.
pub(super) async fn chunk(response: &mut Response, stall: Duration, host: &str) -> Result<Option<Bytes>, Failure> {
    match tokio::time::timeout(stall, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => {
            let mut failure = Failure::of(error, host, None);
            failure.class = super::failure::Class::Broken;
            Err(failure)
        }
        Err(_) => Err(Failure::broken(format!(
            "`{host}` sent nothing for {} seconds",
            stall.as_secs()
        ))),
    }
}

fn shown_status(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// A registry's refusal in its own words: the source of an [`Error`] that came from a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The codes of the OCI distribution-spec, such as `MANIFEST_BLOB_UNKNOWN`, in the order in which they came.
    pub codes: Vec<String>,
    /// Digests that the details name, such as those of missing blobs.
    pub digests: Vec<Digest>,
    /// What is quoted: message or body, cut and made printable.
    quote: String,
    pub(super) web_page: bool,
}

#[derive(Deserialize)]
struct WireErrors {
    #[serde(default)]
    errors: Vec<WireError>,
    #[serde(default, alias = "details")]
    message: Option<String>,
}

#[derive(Deserialize)]
struct WireError {
    #[serde(default)]
    code: serde_json::Value,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    detail: serde_json::Value,
}

impl Refusal {
    /// The refusal behind an error, where a registry's status was its cause.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// Whether the registry gave this code.
    pub fn has(&self, code: &str) -> bool {
        self.codes.iter().any(|c| c == code)
    }

    fn read(status: StatusCode, body: &[u8], web_page: bool) -> Self {
        let text = std::str::from_utf8(body).unwrap_or_default().trim();
        let web_page = web_page
            || text
                .get(..14)
                .is_some_and(|start| start.eq_ignore_ascii_case("<!doctype html"))
            || text.starts_with("<html");
        let mut refusal = Self {
            status: status.as_u16(),
            codes: Vec::new(),
            digests: Vec::new(),
            quote: String::new(),
            web_page,
        };
        if web_page {
            return refusal;
        }
        let Ok(wire) = serde_json::from_str::<WireErrors>(text) else {
            let said = store_error(text);
            refusal.quote = printable(said.as_deref().unwrap_or(text), MAX_QUOTE);
            return refusal;
        };
        let mut said = Vec::new();
        for error in wire.errors.into_iter().take(16) {
            let code = error.code.as_str().map(|code| printable(code, 64)).unwrap_or_default();
            let message = error
                .message
                .map(|message| printable(&message, 256))
                .unwrap_or_default();
            find_digests(&error.detail, &mut refusal.digests);
            find_digests(&serde_json::Value::String(message.clone()), &mut refusal.digests);
            let mut line = match (code.is_empty(), message.is_empty()) {
                (false, false) => format!("{code}: {message}"),
                _ => format!("{code}{message}"),
            };
            let detail = match &error.detail {
                serde_json::Value::Null => String::new(),
                serde_json::Value::String(text) => printable(text, 256),
                other => printable(&other.to_string(), 256),
            };
            if !detail.is_empty() && detail != "{}" && detail != message {
                line = format!("{line} ({detail})");
            }
            said.extend((!line.is_empty()).then_some(line));
            refusal.codes.extend((!code.is_empty()).then_some(code));
        }
        said.extend(wire.message.map(|message| printable(&message, 256)));
        refusal.quote = printable(&said.join("; "), MAX_QUOTE);
        refusal
    }

    fn is_silent(&self) -> bool {
        self.quote.is_empty() && self.codes.is_empty() && !self.web_page
    }

    fn kind(&self) -> Kind {
        match self.status {
            401 => Kind::Unauthorized,
            403 => Kind::Denied,
            404 => Kind::NotFound,
            429 => Kind::RateLimited,
            _ if self.has("TAG_INVALID") => Kind::Exists,
            _ if self.has("DENIED") => Kind::Denied,
            405 | 411 | 413 | 415 | 416 | 501 => Kind::Unsupported,
            _ => Kind::Server,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.web_page { "a web page" } else { &self.quote })
    }
}

impl std::error::Error for Refusal {}

/// Code and message of the XML in which object stores report errors. What else is in it differs from request to request.
fn store_error(text: &str) -> Option<String> {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        Some(value.lines().next().unwrap_or_default().trim().to_owned())
    };
    let code = element("Code")?;
    Some(match element("Message") {
        Some(message) => format!("{code}: {message}"),
        None => code,
    })
}

/// Digests anywhere in a detail: registries put them under `digest`, `Digest`, `Name`, or into a sentence.
fn find_digests(value: &serde_json::Value, found: &mut Vec<Digest>) {
    match value {
        serde_json::Value::String(text) => {
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':')).take(256) {
                if let Ok(digest) = word.parse::<Digest>()
                    && found.len() < 64
                    && !found.contains(&digest)
                {
                    found.push(digest);
                }
            }
        }
        // serde_json limits the depth of what it parses, so this ends.
        serde_json::Value::Array(values) => values.iter().for_each(|v| find_digests(v, found)),
        serde_json::Value::Object(members) => members.values().for_each(|v| find_digests(v, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Refusal {
        Refusal::read(StatusCode::from_u16(status).unwrap(), body.as_bytes(), false)
    }

    #[test]
    fn quotes_the_registrys_words() {
        let digest = Digest::sha256(b"x");
        let body = format!(
            r#"{{"errors":[{{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown","detail":{{"digest":"{digest}"}}}}]}}"#
        );
        let refusal = read(400, &body);
        assert!(refusal.has("MANIFEST_BLOB_UNKNOWN"));
        assert_eq!(refusal.digests, std::slice::from_ref(&digest));
        assert!(refusal.to_string().starts_with("MANIFEST_BLOB_UNKNOWN: blob unknown ("));
        assert_eq!(
            read(404, r#"{"errors":[{"code":7,"message":null}],"message":"gone"}"#).to_string(),
            "gone"
        );
        assert_eq!(read(500, "plain\u{1b}[2J text\n").to_string(), "plain\\u{1b}[2J text");
        assert_eq!(read(400, &format!("no {digest}, sorry")).digests, []);
        assert!(read(200, "<!DOCTYPE html><p>").web_page);
        assert!(read(500, "").is_silent());
        assert!(read(500, &"x".repeat(5000)).to_string().len() < MAX_QUOTE + 8);
        let _ = read(500, r#"{"errors":{}}"#);
        let _ = read(500, r#"[1,2]"#);
    }

    #[test]
    fn kinds_follow_the_status() {
        for (status, body, kind) in [
            (401, "", Kind::Unauthorized),
            (403, "", Kind::Denied),
            (404, "<html>", Kind::NotFound),
            (429, "", Kind::RateLimited),
            (400, r#"{"errors":[{"code":"TAG_INVALID"}]}"#, Kind::Exists),
            (413, "", Kind::Unsupported),
            (503, "", Kind::Server),
        ] {
            assert_eq!(read(status, body).kind(), kind, "{status}");
        }
    }
}
