//! Whether a registry keeps the blobs that it accepts. Some answer 201 to an upload or a mount and do not have the blob
//! afterwards. Where they also store manifests unchecked, an incomplete image would be reported as pushed.
//!
//! The first upload and the first mount of a run are looked for by HEAD, which costs two requests. If one of them is not
//! found, every later blob is looked for, and no blob is mounted any more. The first manifest below an index is looked for in
//! the same way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::types::Presence;
use crate::error::Result;

/// How often a blob is looked for again that is not there yet, since replicas lag behind. The pauses are 1, 2 and 4 times
/// the pause before the first retry: three and a half seconds in all by default.
const LOOKS_AGAIN: u32 = 3;

/// After this many HEADs that say neither yes nor no, the registry is believed.
const MAX_UNCLEAR: u32 = 3;

/// What a registry accepted.
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
    /// It is there, or the registry is believed.
    Kept,
    /// It is not there.
    Lost,
    /// It is not there, and is the first one at its host.
    FirstLost,
}

/// Which accepted blobs of a host were looked for, and whether one was lost.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// An accepted blob was not found.
    doubted: AtomicBool,
    uploads: First,
    mounts: First,
}

/// The first upload, or the first mount.
#[derive(Debug, Default)]
struct First {
    /// It needs no further HEAD.
    settled: AtomicBool,
    /// Held by the task that asks; the number of unclear answers.
    unclear: tokio::sync::Mutex<u32>,
}

impl First {
    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }
}

impl Proof {
    /// Whether an accepted blob was not found.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// An uploaded blob was found.
    pub(super) fn found_upload(&self) {
        self.uploads.settle();
    }

    /// Whether the registry has an accepted blob; `ask` is called as far as that is necessary. `pause` is the first pause
    /// before it looks again. A registry that does not say is believed.
    pub(super) async fn check<F>(&self, accepted: Accepted, pause: Duration, ask: impl Fn() -> F) -> Fate
    where
        F: Future<Output = Result<Presence<()>>>,
    {
        let first = match accepted {
            Accepted::Upload => &self.uploads,
            Accepted::Mount => &self.mounts,
        };
        if !self.is_doubted() {
            if first.is_settled() {
                return Fate::Kept;
            }
            // Blobs that are accepted in the meantime wait here for the answer about the first one.
            let mut unclear = first.unclear.lock().await;
            if !self.is_doubted() {
                if first.is_settled() {
                    return Fate::Kept;
                }
                match look(pause, ask).await {
                    Some(true) => first.settle(),
                    Some(false) if self.doubted.swap(true, Ordering::Relaxed) => return Fate::Lost,
                    Some(false) => return Fate::FirstLost,
                    None => {
                        *unclear += 1;
                        if *unclear == MAX_UNCLEAR {
                            first.settle();
                        }
                    }
                }
                return Fate::Kept;
            }
        }
        match look(pause, ask).await {
            Some(false) => Fate::Lost,
            Some(true) | None => Fate::Kept,
        }
    }
}

/// Looks for a blob that was just accepted, and again up to [`LOOKS_AGAIN`] times. `None` if the registry does not say.
pub(super) async fn look<F>(pause: Duration, ask: impl Fn() -> F) -> Option<bool>
where
    F: Future<Output = Result<Presence<()>>>,
{
    for again in 0..=LOOKS_AGAIN {
        match ask().await {
            Ok(Presence::Present(())) => return Some(true),
            Ok(Presence::Missing) if again < LOOKS_AGAIN => tokio::time::sleep(pause * (1 << again)).await,
            Ok(Presence::Missing) => return Some(false),
            Ok(Presence::Unknown) | Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Error, Kind};
    use crate::registry::options::Options;

    /// For a blob that appears after the given number of HEADs: the result, the number of requests, and the time waited.
    async fn found_after(heads: u32) -> (Option<bool>, u32, Duration) {
        let asked = Cell::new(0);
        let begun = tokio::time::Instant::now();
        let found = look(Options::default().retry_pause(), || {
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
        assert_eq!(found_after(0).await, (Some(true), 1, Duration::ZERO));
        assert_eq!(found_after(2).await, (Some(true), 3, Duration::from_millis(1500)));
        assert_eq!(found_after(3).await, (Some(true), 4, Duration::from_millis(3500)));
        assert_eq!(found_after(4).await, (Some(false), 4, Duration::from_millis(3500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_does_not_say_is_asked_once() {
        let asked = Cell::new(0);
        let ask = |answer: fn() -> Result<Presence<()>>| {
            asked.set(asked.get() + 1);
            std::future::ready(answer())
        };
        let unknown = || ask(|| Ok(Presence::Unknown));
        assert_eq!(look(Duration::from_secs(1), unknown).await, None);
        let failed = || ask(|| Err(Error::new(Kind::Denied, "no")));
        assert_eq!(look(Duration::from_secs(1), failed).await, None);
        assert_eq!(asked.get(), 2);
    }
}
