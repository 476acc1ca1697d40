//! Faults as data: which requests, and what goes wrong with them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::gate::{Allowance, Gate};
use super::wire::End;

/// One rule. A server holds a list of them; all that match a request take effect in the order of the list, and the first
/// one that answers by itself ends the matter.
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

    /// Whether this rule takes effect on a request; counts it if it is one of those meant.
    pub fn strikes(&self, method: &str, target: &str, header: impl Fn(&str) -> Option<String>) -> bool {
        if !self.when.means(method, target, header) {
            return false;
        }
        let nth = self.seen.fetch_add(1, Ordering::SeqCst);
        nth >= self.when.skip
            && self.when.times.is_none_or(|times| nth - self.when.skip < times)
            && self
                .when
                .chance
                .is_none_or(|(seed, permille)| scatter(seed, nth) % 1000 < permille)
    }

    /// How many requests this rule has matched, whether it took effect on them or not.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }
}

/// Which requests a rule means.
#[derive(Debug, Clone, Default)]
pub struct When {
    method: Option<String>,
    target: Vec<String>,
    not_target: Vec<String>,
    header: Option<(String, bool)>,
    skip: u64,
    times: Option<u64>,
    chance: Option<(u64, u64)>,
}

impl When {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests of this method whose path and query hold this text: `When::method("GET", "/blobs/")`.
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

    /// Any method, path and query hold this text.
    pub fn path(target: &str) -> Self {
        Self {
            target: vec![target.to_owned()],
            ..Self::default()
        }
    }

    /// And this text too.
    pub fn and(mut self, target: &str) -> Self {
        self.target.push(target.to_owned());
        self
    }

    /// But not this one.
    pub fn but_not(mut self, target: &str) -> Self {
        self.not_target.push(target.to_owned());
        self
    }

    /// Only with this request header.
    pub fn with_header(mut self, name: &str) -> Self {
        self.header = Some((name.to_owned(), true));
        self
    }

    /// Only without this request header.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header = Some((name.to_owned(), false));
        self
    }

    /// The first `n` of them only.
    pub fn first(mut self, n: u64) -> Self {
        self.times = Some(n);
        self
    }

    /// Not the first `n` of them.
    pub fn after(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }

    /// Only the `n`th, counted from 1.
    pub fn nth(self, n: u64) -> Self {
        self.after(n - 1).first(1)
    }

    /// About `permille` of a thousand, always the same ones for the same seed and order of requests.
    pub fn sometimes(mut self, seed: u64, permille: u64) -> Self {
        self.chance = Some((seed, permille));
        self
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

/// A number that looks random and depends on nothing but its arguments (splitmix64).
pub fn scatter(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Action {
    // Instead of the real answer. The request body is read first, except by `Early`.
    /// This answer; nothing happens to the store. `{target}` in a header stands for path and query of the request.
    Answer(Canned),
    /// This answer before the request body is read; the connection is closed then.
    Early(Canned),
    /// The connection ends without an answer (`Stall`: the client waits for ever).
    End(End),
    /// These bytes on the wire instead of an answer, then this end.
    Raw(Vec<u8>, End),

    // The request.
    /// Goes on after this long.
    Delay(Duration),
    /// Goes on once the gate is open.
    Hold(Gate),
    /// Opens the gate, for the requests that wait there.
    Open(Gate),
    /// This many bytes of the request body are read and kept (an upload session grows by them), then this end.
    CutRequest(u64, End),

    // The real answer, changed.
    /// This status, all else as it was; the request has had its effect.
    Status(u16),
    /// Sets an answer header; `None` removes it.
    Header(&'static str, Option<String>),
    /// The body breaks off after this many bytes.
    Cut(u64, End),
    /// The bodies of all these answers together stop where the allowance is spent.
    Allow(Allowance),
    /// Little by little: this many bytes, then a pause of this length.
    Drip(usize, Duration),
    /// Flips one bit of the byte at this offset of the blob (not of the answer, where that is a range).
    FlipBit(u64),
    /// Another body; `Content-Length` is that of the new one.
    Body(Vec<u8>),
    /// Another `Content-Length` than the body has.
    ContentLength(i64),
    /// `Content-Length` is right, and this many more bytes follow.
    Overrun(usize),
    /// `Transfer-Encoding: chunked` instead of `Content-Length`.
    Chunked,

    // How the request is understood.
    /// `Range` is ignored: 200 and the whole body.
    IgnoreRange,
    /// 206 and bytes that begin so many bytes off what was asked for, told truthfully in `Content-Range`.
    WrongStart(i64),
    /// 416 to every `Range`.
    NoRange,
    /// `HEAD` says that the blob is there though it is not.
    PretendPresent,
    /// `mount` is ignored: 202 and an ordinary upload session.
    IgnoreMount,
    /// An upload or a mount is answered with 201, and the blob is not there afterwards.
    Lose,
    /// An upload's status says `0-0`, whatever has arrived.
    ZeroStatus,
    /// The `Location` of an upload in another form.
    Location(LocationForm),
    /// The upload session is gone: 404 BLOB_UPLOAD_UNKNOWN.
    ForgetUpload,
}

/// An answer as data.
#[derive(Debug, Clone, Default)]
pub struct Canned {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// How `Location` stands in the answers to uploads.
#[derive(Debug, Clone)]
pub enum LocationForm {
    /// `/v2/...`
    Path,
    /// `http://127.0.0.1:PORT/v2/...` (what is sent without any fault, too)
    Absolute,
    /// `127.0.0.1:PORT/v2/...`
    NoScheme,
    /// `UUID?...`, relative to the request's own address
    Relative,
    /// Not there.
    Absent,
    /// On another server: `http://other:port` before the path.
    Elsewhere(String),
}

impl Action {
    /// An answer with an error body as registries write it (OCI distribution-spec, "Error Codes").
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Answer(Canned::error(status, code, message))
    }

    /// An answer with nothing in it.
    pub fn status(status: u16) -> Self {
        Self::Answer(Canned {
            status,
            ..Canned::default()
        })
    }

    /// 429 as Docker Hub says it, with this `Retry-After`.
    pub fn throttled(retry_after: Option<&str>) -> Self {
        let mut canned = Canned::error(429, "TOOMANYREQUESTS", "too many requests");
        if let Some(value) = retry_after {
            canned.headers.push(("retry-after".to_owned(), value.to_owned()));
        }
        Self::Answer(canned)
    }

    /// 200 and a page of HTML: a captive portal, a login form.
    pub fn html() -> Self {
        Self::Answer(Canned {
            status: 200,
            headers: vec![("content-type".to_owned(), "text/html; charset=utf-8".to_owned())],
            body: b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>"
                .to_vec(),
        })
    }

    /// A redirect; `{target}` in the address stands for path and query of the request.
    pub fn redirect(status: u16, to: &str) -> Self {
        Self::Answer(Canned {
            status,
            headers: vec![("location".to_owned(), to.to_owned())],
            body: Vec::new(),
        })
    }

    /// 401 with these `WWW-Authenticate` headers, whatever the client brings.
    pub fn challenge(headers: &[&str]) -> Self {
        let mut canned = Canned::error(401, "UNAUTHORIZED", "authentication required");
        canned
            .headers
            .extend(headers.iter().map(|h| ("www-authenticate".to_owned(), (*h).to_owned())));
        Self::Answer(canned)
    }

    /// The body breaks off after this many bytes and the connection is closed.
    pub fn cut(after: u64) -> Self {
        Self::Cut(after, End::Close)
    }

    /// The body breaks off after this many bytes and the connection is reset.
    pub fn reset(after: u64) -> Self {
        Self::Cut(after, End::Reset)
    }

    /// The body stops after this many bytes and the connection stays open.
    pub fn stall(after: u64) -> Self {
        Self::Cut(after, End::Stall)
    }
}

impl Canned {
    /// An error body as registries write it.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({"errors": [{"code": code, "message": message, "detail": {}}]});
        Self {
            status,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.to_string().into_bytes(),
        }
    }

    /// The same with one more header.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}
