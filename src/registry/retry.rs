//! Choice of failures to retry, number of retries, and pauses.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::options::Options;
use crate::progress::Event;
use crate::text::Line;

/// Maximum pause that a server can request; a longer request is shortened to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// Maximum pause of the exponential backoff.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Returns whether a status is transient. 499, 520 to 524, 530, 598 and 599 come from proxies in front of registries.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 499 | 500 | 502..=504 | 520..=524 | 530 | 598 | 599)
}

/// Number of newly transferred bytes after which a blob has made progress, for downloads and uploads.
const MIN_PROGRESS: u64 = 1 << 20;

/// A retry budget: the maximum number of retries, and their pauses.
/// Pauses grow exponentially, with jitter, and are never shorter than what the server requested.
///
/// Every failure counts, however long the attempt took. Only transferred bytes renew a budget: see [`BlobProgress`].
pub(super) struct Backoff {
    pauses: ExponentialBackoff,
}

/// Progress of one blob, which decides when its retry budget is renewed.
pub(super) struct BlobProgress {
    /// Number of bytes transferred when the budget was last renewed; never decreases.
    reached: u64,
    /// Number of further bytes that renew the budget.
    needed: u64,
}

impl BlobProgress {
    /// Creates the progress for the bytes from `start` on of a blob of `size` bytes.
    ///
    /// [`MIN_PROGRESS`] bytes renew the budget; for a small blob, a sixteenth of its size is enough.
    pub(super) fn new(start: u64, size: u64) -> Self {
        Self {
            reached: start,
            needed: MIN_PROGRESS.min(size / 16).max(1),
        }
    }

    /// Returns whether `arrived`, the number of bytes transferred so far, renews the budget.
    /// Bytes that are transferred again after the receiver lost them do not count.
    pub(super) fn renews(&mut self, arrived: u64) -> bool {
        let renews = arrived.saturating_sub(self.reached) >= self.needed;
        if renews {
            self.reached = arrived;
        }
        renews
    }
}

impl Backoff {
    pub(super) fn new(options: &Options) -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(options.retry_pause())
            .with_max_delay(LONGEST_BACKOFF)
            .with_max_times(options.retries() as usize)
            .with_jitter()
            .build();
        Self { pauses }
    }

    /// Creates a budget that allows no retry.
    pub(super) fn none() -> Self {
        Self {
            pauses: ExponentialBuilder::new().with_max_times(0).build(),
        }
    }

    /// Returns the pause before the next attempt; `None` if the budget is used up.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let own = self.pauses.next()?;
        Some(own.max(asked.unwrap_or_default()))
    }

    /// Takes the next pause without reporting it. Returns false if the budget is used up.
    pub(super) async fn pause_silently(&mut self, asked: Option<Duration>) -> bool {
        let Some(pause) = self.next(asked) else { return false };
        tokio::time::sleep(pause).await;
        true
    }

    /// Takes the next pause and reports `reason`. Returns false if the budget is used up.
    pub(super) async fn pause<R: Into<Line>>(
        &mut self,
        options: &Options,
        asked: Option<Duration>,
        reason: impl FnOnce() -> R,
    ) -> bool {
        let Some(pause) = self.next(asked) else { return false };
        options.progress.emit(Event::Retry {
            reason: reason().into(),
            pause,
        });
        tokio::time::sleep(pause).await;
        true
    }
}

/// Maximum `Retry-After`; a server that requests a longer pause is not asked again in this run.
const TOO_LONG: Duration = Duration::from_secs(600);

/// Returns `Retry-After` if it is longer than a run waits.
pub(super) fn long_pause(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    stated_pause(headers, now).filter(|asked| *asked > TOO_LONG)
}

/// Returns `Retry-After`, limited to two minutes; `None` if the header is absent or invalid.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    Some(stated_pause(headers, now)?.min(LONGEST_PAUSE))
}

/// Parses `Retry-After`, in seconds or as a date.
fn stated_pause(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // A number that does not fit is longer than any pause taken.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?
    };
    Some(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        retry_after(&headers, now).map(|d| d.as_secs())
    }

    #[test]
    fn both_forms_of_retry_after_are_clamped() {
        for (text, expected) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("3600", Some(120)),
            ("99999999999999999999999", Some(120)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 09:49:47 GMT", Some(120)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(asked(text), expected, "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::now()), None);
    }

    #[test]
    fn pauses_grow_and_end() {
        let options = Options {
            retries: Some(3),
            retry_pause: Some(Duration::from_millis(100)),
            ..Options::default()
        };
        let mut backoff = Backoff::new(&options);
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.next(None)).collect();
        assert_eq!(pauses.len(), 3);
        assert!(pauses[0] >= Duration::from_millis(100) && pauses[2] >= Duration::from_millis(400));
        let mut backoff = Backoff::new(&options);
        assert!(backoff.next(Some(Duration::from_secs(9))).unwrap() >= Duration::from_secs(9));
    }

    #[test]
    fn only_bytes_that_are_new_renew_a_budget() {
        let mut progress = BlobProgress::new(0, 1 << 30);
        for (arrived, renews) in [
            (0, false),
            (MIN_PROGRESS - 1, false),
            (MIN_PROGRESS, true),
            (0, false),
            (MIN_PROGRESS, false),
            (2 * MIN_PROGRESS - 1, false),
            (3 * MIN_PROGRESS, true),
            (2 * MIN_PROGRESS, false),
            (u64::MAX, true),
            (u64::MAX, false),
        ] {
            assert_eq!(progress.renews(arrived), renews, "{arrived}");
        }
        let mut small = BlobProgress::new(2, 32);
        assert!(!small.renews(3) && small.renews(4) && !small.renews(5) && small.renews(6));
        assert!(!BlobProgress::new(0, 0).renews(0));
    }

    #[test]
    fn refusals_are_final() {
        for status in [400, 401, 403, 404, 405, 412, 413, 415, 416, 501, 505, 525, 526] {
            assert!(!is_passing(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
