//! Events of a running operation. The library emits events; a front end decides what a person sees.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::text::{Line, byte_count};

/// A stage of an operation before the blobs to transfer are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Resolving references at their registries.
    Resolving,
    /// Reading the present tags at the destination.
    Checking,
}

/// One event of a running operation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A phase starts.
    Phase {
        /// The phase that starts.
        phase: Phase,
        /// Number of images in the phase.
        images: u64,
    },
    /// One step of this phase ended for one image, in success or failure. Images may still be resolved while others are pushed.
    ///
    /// Resolving has two steps per image (the root manifest, and the manifests below the root); checking has one.
    Step(Phase),
    /// One or more requests for an image or repository are in flight until [`Event::Ended`].
    Begun {
        /// Unique number of this event.
        id: u64,
        /// The image or repository that the requests are for, with its registry.
        name: Line,
    },
    /// The requests that [`Event::Begun`] announced have ended.
    Ended {
        /// The number from [`Event::Begun`].
        id: u64,
    },
    /// An image reference was resolved:
    /// its manifests are known, its blobs are not transferred yet.
    Resolved {
        /// The canonical source reference.
        reference: Line,
        /// Digest of the root manifest that the operation carries.
        digest: String,
    },
    /// An image cannot be resolved. The report of the operation repeats this failure.
    Unresolved {
        /// The canonical source reference.
        reference: Line,
        /// The cause.
        error: Error,
    },
    /// The work is known:
    /// numbers of images, manifests, blobs and bytes, including those already in place.
    Planned {
        /// Number of images to transfer.
        images: u64,
        /// Number of manifests to send after their blobs.
        manifests: u64,
        /// Number of blobs to transfer, each counted once.
        blobs: u64,
        /// Total size of these blobs in bytes.
        bytes: u64,
        /// Bytes of these blobs already present from an earlier run or another bundle.
        present: u64,
    },
    /// The planned work grew, since some blobs have to be sent a second time.
    Grown {
        /// Number of additional blobs.
        blobs: u64,
        /// Number of additional bytes.
        bytes: u64,
    },
    /// Number of bytes that arrived (positive) or that were discarded
    /// and will be transferred again (negative).
    Bytes(i64),
    /// A blob is complete at its target.
    BlobDone {
        /// Digest of the blob.
        digest: String,
        /// Size of the blob in bytes.
        size: u64,
    },
    /// All bytes of a blob were sent, and the registry has it. [`Event::BlobDone`] follows.
    Uploaded {
        /// Size of the blob in bytes.
        size: u64,
    },
    /// A manifest is complete at its target.
    ManifestDone,
    /// An image is complete at its target.
    ImageDone {
        /// The canonical source reference, or the destination reference in a push.
        reference: Line,
        /// Digest of the root manifest.
        digest: String,
        /// Whether the image already existed at the target.
        unchanged: bool,
    },
    /// A server answered a request, with whatever status.
    Answered,
    /// A request will be retried.
    Retry {
        /// The failure and its cause, in one line.
        reason: Line,
        /// Pause before the retry.
        pause: Duration,
    },
    /// A warning: the user should know about a problem, though the work goes on.
    Warning(Line),
    /// Information for the user about something that is not a problem.
    Info(Line),
    /// A detail for verbose output (`--verbose`).
    Note(Line),
}

/// A handle to the event listener. Cloning is cheap; the default handle drops all events.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Event) + Send + Sync>);

impl Progress {
    /// Creates a handle that passes each event to `listener`, on the thread that emits the event.
    /// The listener must not block.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Creates a handle that drops all events.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    /// Emits an event.
    pub(crate) fn emit(&self, event: Event) {
        (self.0)(event);
    }

    /// Announces requests in flight for an image or repository.
    /// Dropping the returned value announces their end.
    pub(crate) fn in_flight(&self, name: impl fmt::Display) -> InFlight {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.emit(Event::Begun {
            id,
            name: name.to_string().into(),
        });
        InFlight {
            progress: self.clone(),
            id,
        }
    }

    /// Emits a warning.
    pub fn warn(&self, text: impl Into<Line>) {
        self.emit(Event::Warning(text.into()));
    }

    /// Emits information for the user about something that is not a problem.
    pub fn info(&self, text: impl Into<Line>) {
        self.emit(Event::Info(text.into()));
    }

    /// Emits a detail for verbose output.
    pub fn note(&self, text: impl Into<Line>) {
        self.emit(Event::Note(text.into()));
    }
}

/// Requests in flight: emits [`Event::Ended`] when dropped. See [`Progress::in_flight`].
#[derive(Debug)]
pub(crate) struct InFlight {
    progress: Progress,
    id: u64,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.progress.emit(Event::Ended { id: self.id });
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::silent()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Maximum duration that is shown in full: a server may state one of any length.
const LONGEST_SHOWN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Formats a duration for people, such as `6h` or `2days 3h`; a very long one as `more than 30 days`.
pub fn human_duration(time: Duration) -> String {
    match time > LONGEST_SHOWN {
        true => "more than 30 days".to_owned(),
        false => humantime::format_duration(Duration::from_secs(time.as_secs())).to_string(),
    }
}

/// Formats a number of bytes for people, in binary units. All messages use this form.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return byte_count(bytes);
    }
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_shown_for_people_however_long_it_is() {
        for (seconds, text) in [
            (21_600, "6h"),
            (90_061, "1day 1h 1m 1s"),
            (30 * 86_400, "30days"),
            (30 * 86_400 + 1, "more than 30 days"),
            (u64::MAX, "more than 30 days"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_number_of_bytes_is_shown_for_people() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (2, "2 bytes"),
            (1536, "1.5 KiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
