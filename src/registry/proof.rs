//! Check that a registry keeps the blobs that it accepts.
//! Some registries answer 201 to an upload or a mount and do not have the blob afterwards. If such a registry also accepts
//! manifests unchecked, an incomplete image would be reported as pushed.
//!
//! The first upload and the first mount of a run are checked with a HEAD, which costs two requests. If one of these blobs is
//! missing or has another size, every later blob is checked, and no further blob is mounted. The first manifest below an index
//! is checked in the same way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::types::Presence;
use crate::error::Result;

/// Maximum number of repeated checks of a missing blob, since replicas lag behind.
/// The pauses are 1, 2 and 4 times the pause before the first retry: three and a half seconds in total by default.
const LOOKS_AGAIN: u32 = 3;

/// Number of inconclusive HEADs after which the registry is trusted.
const MAX_UNCLEAR: u32 = 3;

/// Kind of accepted content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepted {
    /// The bytes of a blob.
    Upload,
    /// A blob of another repository.
    Mount,
}

/// Whether a registry has a blob that it accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The registry has the blob, or is trusted.
    Kept,
    /// The registry does not have the blob, or has this number of bytes of it.
    Lost(Option<u64>),
    /// Like [`Lost`](Self::Lost), for the first lost blob of its host.
    FirstLost(Option<u64>),
}

impl Fate {
    /// Returns what the registry has of a lost blob of `size` bytes, in words.
    pub(super) fn in_words(self, size: u64) -> String {
        match self {
            Self::Lost(Some(found)) | Self::FirstLost(Some(found)) => {
                format!("has {found} instead of {size} bytes of it")
            }
            _ => "does not have it".to_owned(),
        }
    }
}

/// Checks of a host's accepted blobs so far.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// Whether an accepted blob was missing.
    doubted: AtomicBool,
    uploads: First,
    mounts: First,
}

/// State of the check of the first upload, or of the first mount.
#[derive(Debug, Default)]
struct First {
    /// Whether no further HEAD is needed.
    proven: AtomicBool,
    /// Number of inconclusive answers; the lock is held by the task that sends the HEAD.
    unclear: tokio::sync::Mutex<u32>,
}

impl First {
    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    fn mark_proven(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }
}

impl Proof {
    /// Returns whether an accepted blob was missing.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// Records that an uploaded blob was found.
    pub(super) fn found_upload(&self) {
        self.uploads.mark_proven();
    }

    /// Returns whether the registry has an accepted blob; calls `ask` only if necessary.
    /// `pause` is the pause before the first repeated check. A registry with inconclusive answers is trusted.
    pub(super) async fn check<F>(&self, accepted: Accepted, pause: Duration, ask: impl Fn() -> F) -> Fate
    where
        F: Future<Output = Result<Presence<()>>>,
    {
        let first = match accepted {
            Accepted::Upload => &self.uploads,
            Accepted::Mount => &self.mounts,
        };
        if !self.is_doubted() {
            if first.is_proven() {
                return Fate::Kept;
            }
            // Blobs that are accepted in the meantime wait here for the check of the first one.
            let mut unclear = first.unclear.lock().await;
            if !self.is_doubted() {
                if first.is_proven() {
                    return Fate::Kept;
                }
                let found = check_with_retries(pause, ask).await;
                let lost = lost(&found);
                match (found, lost) {
                    (_, Some(size)) if self.doubted.swap(true, Ordering::Relaxed) => return Fate::Lost(size),
                    (_, Some(size)) => return Fate::FirstLost(size),
                    (Presence::Present(()), None) => first.mark_proven(),
                    (_, None) => {
                        *unclear += 1;
                        if *unclear == MAX_UNCLEAR {
                            first.mark_proven();
                        }
                    }
                }
                return Fate::Kept;
            }
        }
        lost(&check_with_retries(pause, ask).await).map_or(Fate::Kept, Fate::Lost)
    }
}

/// Returns the size in bytes, if known, of a blob that the registry did not keep whole; `None` for any other answer.
fn lost(found: &Presence<()>) -> Option<Option<u64>> {
    match found {
        Presence::Missing => Some(None),
        Presence::OtherSize(size) => Some(Some(*size)),
        Presence::Present(()) | Presence::Unknown => None,
    }
}

/// Checks a blob that was just accepted, up to [`LOOKS_AGAIN`] times more if it is missing or has another size.
/// [`Presence::Unknown`] if inconclusive.
pub(super) async fn check_with_retries<F>(pause: Duration, ask: impl Fn() -> F) -> Presence<()>
where
    F: Future<Output = Result<Presence<()>>>,
{
    let mut again = 0;
    loop {
        let found = ask().await.unwrap_or(Presence::Unknown);
        if again == LOOKS_AGAIN || lost(&found).is_none() {
            return found;
        }
        tokio::time::sleep(pause * (1 << again)).await;
        again += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Error, Kind};
    use crate::registry::options::Options;

    /// Checks a blob that appears after `heads` HEADs.
    /// Returns the result, the number of requests, and the time waited.
    async fn found_after(heads: u32) -> (Presence<()>, u32, Duration) {
        let asked = Cell::new(0);
        let begun = tokio::time::Instant::now();
        let found = check_with_retries(Options::default().retry_pause(), || {
            asked.set(asked.get() + 1);
            std::future::ready(Ok(if asked.get() > heads {
                Presence::Present(())
            } else {
                Presence::Missing
            }))
        })
        .await;
        (found, asked.get(), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_has_three_and_a_half_seconds_to_appear() {
        assert_eq!(found_after(0).await, (Presence::Present(()), 1, Duration::ZERO));
        assert_eq!(
            found_after(2).await,
            (Presence::Present(()), 3, Duration::from_millis(1500))
        );
        assert_eq!(
            found_after(3).await,
            (Presence::Present(()), 4, Duration::from_millis(3500))
        );
        assert_eq!(
            found_after(4).await,
            (Presence::Missing, 4, Duration::from_millis(3500))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_does_not_say_is_asked_once() {
        let asked = Cell::new(0);
        let ask = |answer: fn() -> Result<Presence<()>>| {
            asked.set(asked.get() + 1);
            std::future::ready(answer())
        };
        let unknown = || ask(|| Ok(Presence::Unknown));
        assert_eq!(
            check_with_retries(Duration::from_secs(1), unknown).await,
            Presence::Unknown
        );
        let failed = || ask(|| Err(Error::new(Kind::Denied, "no")));
        assert_eq!(
            check_with_retries(Duration::from_secs(1), failed).await,
            Presence::Unknown
        );
        assert_eq!(asked.get(), 2);
    }
}
