//! Failures of an attempt to upload a blob.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use tokio::time::Instant;

use super::target::BlobTarget;
use crate::error::Error;
use crate::registry::answer::Answer;
use crate::registry::redirect;
use crate::registry::refusal::Refusal;
use crate::registry::retry::{is_passing, retry_after};
use crate::text::byte_count;

/// Failure of an attempt to upload a blob, classified by the possible reaction.
pub(super) enum Setback {
    /// Sending the blob in another way would not help.
    Final(Error),
    /// The source fails, or its bytes do not match the digest; the registry is not at fault.
    NoBytes(Error),
    /// A request body of this many bytes exceeds a limit of the registry or of a proxy.
    TooLarge(u64, Error),
    /// The registry does not support the strategy.
    Unsuited(Error),
    /// The offset in the request is not the session's offset.
    Misplaced(Error),
    /// The session contains bytes that are not the blob's.
    Corrupt(Error),
    /// The registry no longer knows the session.
    Forgotten(Error),
    /// The session may continue after a pause, at least as long as the registry asked for.
    Broken(Error, Option<Duration>, Blame),
    /// The authorization was renewed, so the attempt can be repeated.
    Refreshed,
}

/// Conclusion about the strategy after a broken upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// None: the host, or a proxy in front of it, was busy.
    Nobody,
    /// Uncertain: the connection broke.
    Wire,
    /// The host failed at the request.
    Host,
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Setback {
    pub(super) fn broken(target: &BlobTarget<'_>, error: Error, blame: Blame) -> Self {
        Self::Broken(error.or_shared_cause().context(&target.action), None, blame)
    }

    /// Classifies the refusal of a body of `length` bytes.
    pub(super) async fn from_refusal(target: &BlobTarget<'_>, mut answer: Answer, length: u64, begun: Instant) -> Self {
        let status = answer.status();
        if redirect::is_redirect(status.as_u16()) {
            return Self::Final(target.redirected(&answer));
        }
        if is_passing(status)
            && let Some(error) = answer.long_pause().await
        {
            return Self::Final(error.context(&target.action));
        }
        let asked = retry_after(answer.headers(), SystemTime::now());
        let led_back = status == StatusCode::UNAUTHORIZED && !answer.from_registry && target.host.owns(&answer.url);
        let mut error = answer.refusal().await;
        if led_back {
            error = error.with_hint(
                "another server led the upload to this address of the registry, so the login was not sent along: \
                 check the storage or proxy to which the registry sends its uploads",
            );
        }
        let has = |code: &str| Refusal::in_error(&error).is_some_and(|refusal| refusal.has(code));
        // Distribution uses these codes for a session of another replica, and for a session that broke off.
        let forgotten = has("BLOB_UPLOAD_UNKNOWN") || has("BLOB_UPLOAD_INVALID");
        let corrupt = has("DIGEST_INVALID") || has("SIZE_INVALID");
        let named = |error: Error| error.context(&target.action);
        match status.as_u16() {
            413 => Self::TooLarge(
                length,
                named(error).context(byte_count(target.descriptor.size)).with_hint(
                    "something between here and the registry limits the size of requests: have the limit raised \
                     (nginx: `client_max_body_size`)",
                ),
            ),
            416 => Self::Misplaced(named(error)),
            400 | 404 if forgotten => Self::Forgotten(named(error)),
            400 if corrupt => Self::Corrupt(named(error)),
            400 | 404 | 405 | 411 | 501 => Self::Unsuited(named(error)),
            code if is_passing(status) => {
                target.host.throttled(status, asked, begun);
                let blame = if code == 500 { Blame::Host } else { Blame::Nobody };
                Self::Broken(named(error), asked, blame)
            }
            _ => Self::Final(error),
        }
    }
}
