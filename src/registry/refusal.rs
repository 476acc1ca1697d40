//! A registry's refusal: its error codes, its message, and the resulting kind of error.

use std::fmt;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::redact::printable;
use crate::error::{Error, Kind};
use crate::image::digest::Digest;
use crate::text::few;

/// Maximum number of bytes quoted from an error's body.
pub(super) const MAX_QUOTE: usize = 1 << 10;

/// Words of registries for a used-up quota: the second ones are those of Harbor, the last ones those of Amazon's ECR.
const QUOTA: [&str; 3] = ["quota", "exceed the configured upper limit", "limitexceededexception"];

/// A registry's refusal in its own words: the source of an [`Error`] that came from a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Codes of the OCI distribution-spec, such as `MANIFEST_BLOB_UNKNOWN`, in the order of the answer.
    pub codes: Vec<String>,
    /// Digests in the details, such as those of missing blobs.
    pub digests: Vec<Digest>,
    /// Quoted message or body, shortened and made printable.
    quote: String,
    /// Body, for the log.
    pub(super) raw: String,
    /// Whether the body is a web page.
    pub(super) web_page: bool,
    /// Whether the request was a GET or HEAD, which needs no space at the registry.
    pub(super) reads: bool,
}

/// Body of a refusal: errors of a registry, or the words of the program that serves it, or of a proxy (RFC 9457).
#[derive(Deserialize)]
struct WireErrors {
    #[serde(default)]
    errors: Value,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    details: Value,
    #[serde(default)]
    error: Value,
    #[serde(default)]
    detail: Value,
    #[serde(default)]
    title: Value,
}

impl WireErrors {
    /// Returns the listed errors. A single text counts as the message of one error.
    fn listed(&mut self) -> Vec<WireError> {
        let errors = match self.errors.take() {
            Value::Array(errors) => errors,
            text @ Value::String(_) => vec![text],
            _ => Vec::new(),
        };
        let read = |error| match error {
            Value::String(message) => Some(WireError::from_message(message)),
            other => serde_json::from_value(other).ok(),
        };
        errors.into_iter().take(16).filter_map(read).collect()
    }

    /// Returns the words beside the listed errors: the message, and if there is nothing else, a text of another field.
    fn words(&self, has_errors: bool) -> Option<&str> {
        let text = |value: &'_ Value| value.as_str().is_some_and(|text| !text.trim().is_empty());
        let inner = self.error.get("message").unwrap_or(&self.error);
        let others = [&self.details, inner, &self.detail, &self.title];
        let others = others.into_iter().filter(|_| !has_errors);
        let mut all = std::iter::once(&self.message).chain(others);
        all.find(|value| text(value)).and_then(Value::as_str)
    }
}

#[derive(Deserialize)]
struct WireError {
    #[serde(default)]
    code: Value,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    detail: Value,
}

impl WireError {
    fn from_message(message: String) -> Self {
        Self {
            code: Value::Null,
            message: Some(message),
            detail: Value::Null,
        }
    }
}

impl Refusal {
    /// Returns the refusal behind an error, if the error came from a registry's status.
    pub fn in_error(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }

    /// Returns whether the registry gave this code.
    pub fn has(&self, code: &str) -> bool {
        self.codes.iter().any(|c| c == code)
    }

    pub(super) fn read(status: StatusCode, body: &[u8], web_page: bool) -> Self {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let text = text.trim_start_matches('\u{feff}').trim();
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
            raw: text.chars().take(MAX_QUOTE).collect(),
            web_page,
            reads: false,
        };
        if web_page {
            return refusal;
        }
        let Ok(mut wire) = serde_json::from_str::<WireErrors>(text) else {
            let said = store_error(text);
            refusal.quote = printable(said.as_deref().unwrap_or(text), MAX_QUOTE);
            return refusal;
        };
        let mut said = Vec::new();
        for error in wire.listed() {
            let code = error.code.as_str().map(|code| printable(code, 64)).unwrap_or_default();
            let message = error
                .message
                .map(|message| printable(&message, 256))
                .unwrap_or_default();
            find_digests(&error.detail, &mut refusal.digests);
            find_digests(&Value::String(message.clone()), &mut refusal.digests);
            let mut line = match (code.is_empty(), message.is_empty()) {
                (false, false) => format!("{code}: {message}"),
                _ => format!("{code}{message}"),
            };
            let detail = match &error.detail {
                Value::Null => String::new(),
                Value::String(text) => printable(text, 256),
                // In structured details, only digests mean something to the user; the log has the whole body.
                other => {
                    let mut found = Vec::new();
                    find_digests(other, &mut found);
                    few(found)
                }
            };
            if !detail.is_empty() && detail != message {
                line = format!("{line} ({detail})");
            }
            said.extend((!line.is_empty()).then_some(line));
            refusal.codes.extend((!code.is_empty()).then_some(code));
        }
        said.extend(wire.words(!said.is_empty()).map(|message| printable(message, 256)));
        refusal.quote = printable(&said.join("; "), MAX_QUOTE);
        refusal
    }

    /// Returns whether the registry has no space for a push, or a quota is used up.
    pub(super) fn is_full(&self) -> bool {
        let said = self.quote.to_ascii_lowercase();
        let of_quota = self.has("QUOTA") || (self.status != 429 && QUOTA.iter().any(|words| said.contains(words)));
        of_quota || (self.lacks_disk() && !self.reads)
    }

    /// Returns whether the disk of the registry, or of a cache in front of it, is full.
    pub(super) fn lacks_disk(&self) -> bool {
        self.status == 507 || self.raw.contains("no space left on device")
    }

    /// Returns whether the login has expired, as the token services of cloud providers say with a 403.
    pub(super) fn is_of_expired_login(&self) -> bool {
        matches!(self.status, 401 | 403) && self.quote.to_ascii_lowercase().contains("expired")
    }

    /// Returns whether nothing may be changed at the moment, or in this repository.
    pub(super) fn is_read_only(&self) -> bool {
        let said = self.quote.to_ascii_lowercase();
        let words = ["read-only", "read only", "readonly", "archived"];
        matches!(self.status, 400 | 403 | 405) && words.iter().any(|word| said.contains(word))
    }

    /// Returns whether a policy of the registry forbids the request, such as one on vulnerable or unsigned images.
    pub(super) fn is_of_policy(&self) -> bool {
        self.has("PROJECTPOLICYVIOLATION") || (self.status == 412 && self.quote.to_ascii_lowercase().contains("policy"))
    }

    /// Returns whether the project that the repository belongs to does not exist.
    pub(super) fn lacks_project(&self) -> bool {
        let said = self.quote.to_ascii_lowercase();
        self.status == 404 && said.contains("project") && (said.contains("not found") || said.contains("not exist"))
    }

    /// Returns whether an https server rejects plain http, as the servers of Go, nginx and Apache do in words.
    pub(super) fn wants_https(&self) -> bool {
        let said = self.raw.to_ascii_lowercase();
        self.status == 400
            && (said.contains("http request to an https server")
                || said.contains("http request was sent to https port")
                || said.contains("plain http to an ssl-enabled server port"))
    }

    pub(super) fn is_silent(&self) -> bool {
        self.quote.is_empty() && self.codes.is_empty() && !self.web_page
    }

    pub(super) fn kind(&self) -> Kind {
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

/// Extracts code and message of an object store's XML error.
/// The other elements differ from request to request.
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

/// Collects digests from anywhere in a detail.
/// Registries put them under `digest`, `Digest`, `Name`, or into a sentence.
fn find_digests(value: &Value, found: &mut Vec<Digest>) {
    match value {
        Value::String(text) => {
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':')).take(256) {
                if let Ok(digest) = word.parse::<Digest>()
                    && found.len() < 64
                    && !found.contains(&digest)
                {
                    found.push(digest);
                }
            }
        }
        // The recursion is bounded, since serde_json limits the depth.
        Value::Array(values) => values.iter().for_each(|v| find_digests(v, found)),
        Value::Object(members) => members.values().for_each(|v| find_digests(v, found)),
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
        for (body, said) in [
            (r#"{"errors":null}"#, ""),
            (r#"{"errors":{}}"#, ""),
            (r#"{"errors":"not found"}"#, "not found"),
            (
                r#"{"errors":["not found",7,{"message":"at all"}]}"#,
                "not found; at all",
            ),
            (r#"{"errors":[{"status":404,"message":"Not found"}]}"#, "Not found"),
            (r#"{"error":"no such image"}"#, "no such image"),
            (r#"{"error":{"code":403,"message":"no such image"}}"#, "no such image"),
            (
                r#"{"title":"Not Found","status":404,"detail":"no such image"}"#,
                "no such image",
            ),
            (r#"{"title":"Not Found","detail":""}"#, "Not Found"),
            (r#"{"message":7,"details":"no such image"}"#, "no such image"),
            (
                "\u{feff}{\"errors\":[{\"code\":\"UNKNOWN\",\"message\":\"x\"}]}",
                "UNKNOWN: x",
            ),
            (r#"{"errors":[{"code":"UNKNOWN"}],"error":"x"}"#, "UNKNOWN"),
        ] {
            assert_eq!(read(404, body).to_string(), said, "{body}");
        }
        let _ = read(500, r#"[1,2]"#);
    }

    #[test]
    fn a_used_up_quota_is_known_by_its_words() {
        let denied = |message: &str| format!(r#"{{"errors":[{{"code":"DENIED","message":"{message}"}}]}}"#);
        let harbor = "adding 1.0 MiB of storage resource, which when updated to current usage of 10.0 GiB will exceed the \
                      configured upper limit of 10.0 GiB.";
        for (status, body, full) in [
            (403, denied(harbor), true),
            (403, denied("quota exceeded"), true),
            (400, denied("LimitExceededException: too many images"), true),
            (507, String::new(), true),
            (500, denied("write /var/lib: no space left on device"), true),
            (429, denied("quota of requests"), false),
            (403, denied("requested access to the resource is denied"), false),
        ] {
            assert_eq!(read(status, &body).is_full(), full, "{status} {body}");
        }
        let mut read_only = read(507, "");
        read_only.reads = true;
        assert!(!read_only.is_full() && read_only.lacks_disk());
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
