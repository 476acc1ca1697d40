//! What an operation tells about itself while it runs. The library emits; a front end decides what a person sees.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::text::Line;

/// What an operation does before the blobs to transfer are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looks images up at their registries.
    Resolving,
    /// Asks the destination what its tags hold.
    Checking,
}

/// One thing that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A phase begins, which goes through this many images.
    Phase {
        /// What is done with them.
        phase: Phase,
        /// How many there are.
        images: u64,
    },
    /// A step of the phase is through for one image, well or not. Resolving has two steps (its root, and what is below it),
    /// checking has one.
    Step,
    /// A request, or several for one thing, are in flight until [`Event::Ended`].
    Begun {
        /// Differs from that of all others.
        id: u64,
        /// The image or repository that they are for, with its registry.
        name: Line,
    },
    /// What began with this number has ended.
    Ended {
        /// As in [`Event::Begun`].
        id: u64,
    },
    /// What an image reference turned out to be; its manifests are known, its blobs are still to come.
    Resolved {
        /// The canonical source reference.
        reference: Line,
        /// The digest of the root manifest that will be carried.
        digest: String,
    },
    /// An image cannot be resolved. What comes of the whole run says so again.
    Unresolved {
        /// The canonical source reference.
        reference: Line,
        /// Why.
        error: Error,
    },
    /// The work is known: numbers of images, manifests, blobs and bytes, of which some are already in place.
    Planned {
        /// Images that are transferred.
        images: u64,
        /// Manifests that are sent after their blobs.
        manifests: u64,
        /// Blobs to transfer, each counted once.
        blobs: u64,
        /// Bytes of all these blobs.
        bytes: u64,
        /// Bytes of them that an earlier run or another bundle already has.
        present: u64,
    },
    /// More has to be moved than was planned, since something has to be sent a second time.
    Grown {
        /// Blobs more.
        blobs: u64,
        /// Bytes more.
        bytes: u64,
    },
    /// Bytes that arrived (positive) or that turned out useless and will be moved again (negative).
    Bytes(i64),
    /// A blob is in place.
    BlobDone {
        /// Its digest.
        digest: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A manifest is in place.
    ManifestDone,
    /// All of an image is in place.
    ImageDone {
        /// The canonical source reference, or the destination where one is pushed to.
        reference: Line,
        /// The digest of its root manifest.
        digest: String,
        /// Whether it was there already.
        unchanged: bool,
    },
    /// A request will be tried again.
    Retry {
        /// What failed and why, in one line.
        reason: Line,
        /// How long the pause is.
        pause: std::time::Duration,
    },
    /// Something that the user should know, though the work goes on.
    Warning(Line),
    /// Something that the user should know, and that is no fault.
    Told(Line),
    /// Something that is worth a line where much is wanted (`--verbose`).
    Note(Line),
}

/// A handle to the listener for events. Cheap to clone; by default there is none.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Event) + Send + Sync>);

impl Progress {
    /// Sends each event to `listener`, on the thread on which it happens. The listener must not block.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// No listener.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    /// Tells one event.
    pub(crate) fn emit(&self, event: Event) {
        (self.0)(event);
    }

    /// Tells that requests for an image or repository are in flight, until the value is dropped.
    pub(crate) fn begin(&self, name: impl fmt::Display) -> InFlight {
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

    /// Tells something that the user should know.
    pub fn warn(&self, text: impl Into<Line>) {
        self.emit(Event::Warning(text.into()));
    }

    /// Tells something that the user should know, and that is no fault.
    pub(crate) fn tell(&self, text: impl Into<Line>) {
        self.emit(Event::Told(text.into()));
    }

    /// Tells something that is worth a line where much is wanted.
    pub fn note(&self, text: impl Into<Line>) {
        self.emit(Event::Note(text.into()));
    }
}

/// Requests in flight; see [`Progress::begin`].
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

/// A size for people, in binary units: what is said about bytes says it in this form.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
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
