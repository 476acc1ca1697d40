//! Faults as data: rules that select requests, and the fault that a rule injects.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::gate::{Allowance, Gate};
use super::wire::End;

/// A rule with a condition and an action. A server applies all matching rules in the order of its list, up to the first
/// rule that answers the request itself.
#[derive(Debug)]
pub struct Fault {
    pub when: When,
    pub action: Action,
    seen: AtomicU64,
}

impl Fault {
    pub fn new(when: When, action: Action) -> Self {
        Self {
            when,
            action,
            seen: AtomicU64::new(0),
        }
    }

    /// Returns whether this rule takes effect on a request, and counts the request if the condition matches.
    pub fn strikes(&self, method: &str, target: &str, header: impl Fn(&str) -> Option<String>) -> bool {
        if !self.when.means(method, target, header) {
            return false;
        }
        let nth = self.seen.fetch_add(1, Ordering::SeqCst);
        nth >= self.when.skip && self.when.times.is_none_or(|times| nth - self.when.skip < times)
    }

    /// Returns the number of requests that the condition has matched, whether or not the rule took effect.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }
}

/// The condition of a rule: the requests that it selects.
#[derive(Debug, Clone, Default)]
pub struct When {
    method: Option<String>,
    target: Vec<String>,
    not_target: Vec<String>,
    header: Option<(String, bool)>,
    skip: u64,
    times: Option<u64>,
}

impl When {
    /// Selects every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Selects requests of this method whose path and query contain this text: `When::method("GET", "/blobs/")`.
    pub fn method(method: &str, target: &str) -> Self {
        Self {
            method: Some(method.to_owned()),
            target: vec![target.to_owned()],
            ..Self::default()
        }
    }

    pub fn get(target: &str) -> Self {
        Self::method("GET", target)
    }

    pub fn head(target: &str) -> Self {
        Self::method("HEAD", target)
    }

    pub fn put(target: &str) -> Self {
        Self::method("PUT", target)
    }

    pub fn post(target: &str) -> Self {
        Self::method("POST", target)
    }

    pub fn patch(target: &str) -> Self {
        Self::method("PATCH", target)
    }

    /// Selects requests of any method whose path and query contain this text.
    pub fn path(target: &str) -> Self {
        Self {
            target: vec![target.to_owned()],
            ..Self::default()
        }
    }

    /// Restricts the condition to requests whose path and query also contain this text.
    pub fn and(mut self, target: &str) -> Self {
        self.target.push(target.to_owned());
        self
    }

    /// Excludes requests whose path and query contain this text.
    pub fn but_not(mut self, target: &str) -> Self {
        self.not_target.push(target.to_owned());
        self
    }

    /// Restricts the condition to requests with this header.
    pub fn with_header(mut self, name: &str) -> Self {
        self.header = Some((name.to_owned(), true));
        self
    }

    /// Restricts the condition to requests without this header.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header = Some((name.to_owned(), false));
        self
    }

    /// Restricts the rule to `n` matching requests (the first `n`, unless [`after`](Self::after) skips some).
    pub fn first(mut self, n: u64) -> Self {
        self.times = Some(n);
        self
    }

    /// Skips the first `n` matching requests.
    pub fn after(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }

    /// Restricts the rule to the `n`th matching request, counted from 1.
    pub fn nth(self, n: u64) -> Self {
        self.after(n - 1).first(1)
    }

    fn means(&self, method: &str, target: &str, header: impl Fn(&str) -> Option<String>) -> bool {
        self.method.as_deref().is_none_or(|m| m == method)
            && self.target.iter().all(|t| target.contains(t))
            && !self.not_target.iter().any(|t| target.contains(t))
            && self
                .header
                .as_ref()
                .is_none_or(|(name, there)| header(name).is_some() == *there)
    }
}

/// Returns a pseudo-random number that depends only on its arguments (splitmix64).
pub fn scatter(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The action of a rule: the fault that the rule injects.
#[derive(Debug, Clone)]
pub enum Action {
    // Actions that replace the real answer. The request body is read first, except by `Early`.
    /// Sends this answer and does not change the store. `{target}` in a header stands for path and query of the request.
    Answer(Canned),
    /// Sends this answer before the request body is read, and closes the connection.
    Early(Canned),
    /// Ends the connection without an answer (with `Stall`, the client waits for ever).
    End(End),
    /// Writes these bytes instead of an answer, and ends the connection.
    Raw(Vec<u8>, End),

    // Actions on the request.
    /// Delays the request by this time.
    Delay(Duration),
    /// Delays the request until the gate is open.
    Hold(Gate),
    /// Opens the gate for the waiting requests.
    Open(Gate),
    /// Reads and keeps this number of bytes of the request body (an upload session grows), then ends the connection.
    CutRequest(u64, End),

    // Actions that change the real answer.
    /// Replaces the status and keeps the rest of the answer; the request has already taken effect.
    Status(u16),
    /// Sets an answer header; `None` removes it.
    Header(&'static str, Option<String>),
    /// Cuts the body after this number of bytes, and ends the connection.
    Cut(u64, End),
    /// Stops the bodies of all matching answers when their common allowance is spent.
    Allow(Allowance),
    /// Sends the body slowly: a pause after each part of this number of bytes.
    Drip(usize, Duration),
    /// Flips one bit of the byte at this offset of the blob (not of the range that the answer has).
    FlipBit(u64),
    /// Replaces the body; `Content-Length` is the length of the new body.
    Body(Vec<u8>),
    /// Adds this number to the `Content-Length` of the body.
    ContentLength(i64),
    /// Sends this number of bytes beyond a correct `Content-Length`.
    Overrun(usize),
    /// Sends the body with `Transfer-Encoding: chunked` instead of `Content-Length`.
    Chunked,

    // Actions on how the request is understood.
    /// Ignores `Range`, and answers with 200 and the whole body.
    IgnoreRange,
    /// Answers a range request with 206 and bytes from another start, shifted by this number, with a true `Content-Range`.
    WrongStart(i64),
    /// Answers every `Range` with 416.
    NoRange,
    /// Answers `HEAD` of an absent blob as if the blob were present.
    PretendPresent,
    /// Ignores `mount`, and answers with 202 and an ordinary upload session.
    IgnoreMount,
    /// Answers an upload or a mount with 201, but does not store the blob.
    Lose,
    /// Stores only this number of bytes of an upload, under the digest of the whole.
    KeepOnly(u64),
    /// Reports the range `0-0` for an upload, regardless of the received bytes.
    ZeroStatus,
    /// Sends the `Location` of an upload in another form.
    Location(LocationForm),
    /// Answers requests to an upload session with 404 BLOB_UPLOAD_UNKNOWN.
    ForgetUpload,
}

/// An answer as data.
#[derive(Debug, Clone, Default)]
pub struct Canned {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// The form of `Location` in the answers to uploads.
#[derive(Debug, Clone)]
pub enum LocationForm {
    /// A path: `/v2/...`.
    Path,
    /// A full URL: `http://127.0.0.1:PORT/v2/...`. Answers without a fault have the same form.
    Absolute,
    /// A URL without a scheme: `127.0.0.1:PORT/v2/...`.
    NoScheme,
    /// A URL relative to the request's URL: `UUID?...`.
    Relative,
    /// No `Location` header.
    Absent,
    /// A URL on another server, given as `http://other:port`.
    Elsewhere(String),
}

impl Action {
    /// Returns an answer with the error body of registries (OCI distribution-spec, "Error Codes").
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Answer(Canned::error(status, code, message))
    }

    /// Returns an answer without headers and body.
    pub fn status(status: u16) -> Self {
        Self::Answer(Canned {
            status,
            ..Canned::default()
        })
    }

    /// Returns a 429 like Docker Hub's, with this `Retry-After`.
    pub fn throttled(retry_after: Option<&str>) -> Self {
        let mut canned = Canned::error(429, "TOOMANYREQUESTS", "too many requests");
        if let Some(value) = retry_after {
            canned.headers.push(("retry-after".to_owned(), value.to_owned()));
        }
        Self::Answer(canned)
    }

    /// Returns a 200 with an HTML page, as captive portals and login forms send.
    pub fn html() -> Self {
        Self::Answer(Canned {
            status: 200,
            headers: vec![("content-type".to_owned(), "text/html; charset=utf-8".to_owned())],
            body: b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>"
                .to_vec(),
        })
    }

    /// Returns a redirect. `{target}` in the address stands for path and query of the request.
    pub fn redirect(status: u16, to: &str) -> Self {
        Self::Answer(Canned {
            status,
            headers: vec![("location".to_owned(), to.to_owned())],
            body: Vec::new(),
        })
    }

    /// Returns a 401 with these `WWW-Authenticate` headers, regardless of the client's credentials.
    pub fn challenge(headers: &[&str]) -> Self {
        let mut canned = Canned::error(401, "UNAUTHORIZED", "authentication required");
        canned
            .headers
            .extend(headers.iter().map(|h| ("www-authenticate".to_owned(), (*h).to_owned())));
        Self::Answer(canned)
    }

    /// Cuts the body after this number of bytes and closes the connection.
    pub fn cut(after: u64) -> Self {
        Self::Cut(after, End::Close)
    }

    /// Cuts the body after this number of bytes and resets the connection.
    pub fn reset(after: u64) -> Self {
        Self::Cut(after, End::Reset)
    }

    /// Stops the body after this number of bytes and keeps the connection open.
    pub fn stall(after: u64) -> Self {
        Self::Cut(after, End::Stall)
    }
}

impl Canned {
    /// Returns an answer with the error body of registries.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": message, "detail": {}}]});
        Self {
            status,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.to_string().into_bytes(),
        }
    }

    /// Adds a header.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}
