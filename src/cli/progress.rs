//! Shows what an operation tells: lines at the bottom of a terminal that say how far it is; without a terminal, a line now and
//! then. What remains to be read are warnings and results.

use std::sync::Arc;
use std::time::Instant;

use docker_mirror::{Event, Phase, Progress, human_bytes};

use super::connection::Shared;
use super::failures::AtOnce;
use super::output::{self, counted, info, say};
use super::printer::{self, Item};
use super::status::{Status, Work};
use super::terminal;
use super::wording::short;

/// Shows what an operation tells.
pub(super) struct Display {
    work: Work,
    animated: bool,
    quiet: bool,
    verbose: bool,
    /// Whether each finished image gets a line, since the results on standard output cannot be seen.
    lists_images: bool,
    status: Arc<Status>,
    /// What was told of images the moment that they failed.
    pub(super) at_once: AtOnce,
}

impl Display {
    pub(super) fn new(work: Work, shared: &Shared) -> Arc<Self> {
        let verbose = shared.verbosity() > 0;
        let display = Self {
            work,
            animated: terminal::is_animated(),
            quiet: shared.is_quiet(),
            verbose,
            lists_images: verbose || (!terminal::is_animated() && output::results_are_out_of_sight()),
            status: Arc::new(Status::new(work, Instant::now())),
            at_once: AtOnce::default(),
        };
        if !display.quiet {
            printer::put(Item::Progress {
                status: display.status.clone(),
                animated: display.animated,
            });
        }
        Arc::new(display)
    }

    /// The handle that the library tells its events to.
    pub(super) fn progress(self: &Arc<Self>) -> Progress {
        let display = self.clone();
        Progress::new(move |event| display.show(event))
    }

    /// Whether more is said than by default.
    pub(super) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Takes the progress away; what follows is written below.
    pub(super) fn finish(&self) {
        printer::flush();
    }

    /// The last line of an operation: what came of it, how long it took, and how often something was tried again.
    pub(super) fn conclude(&self, what: &str) {
        let retries = match self.status.retries() {
            0 => String::new(),
            number => format!(", {}", counted(number, "retry", "retries")),
        };
        info(format!("{what} in {}{retries}", short(self.status.elapsed())));
    }

    fn show(&self, event: Event) {
        self.status.note(&event, Instant::now());
        match event {
            Event::Phase { phase, images } => self.begin(phase, images),
            Event::Planned {
                blobs, bytes, present, ..
            } => self.plan(blobs, bytes, present),
            // A terminal shows how many there were.
            Event::Retry { reason, pause } if !self.quiet && (self.verbose || !self.animated) => {
                let text = format!("note: {reason}; trying again in {:.1} s", pause.as_secs_f32());
                printer::put(Item::Trouble(text.into()));
            }
            Event::Unresolved { error, .. } => self.at_once.tell(&error),
            Event::Told(text) => say(format!("note: {text}")),
            Event::Warning(text) => printer::put(Item::Trouble(format!("warning: {text}").into())),
            Event::ImageDone {
                reference,
                digest,
                unchanged,
            } if self.lists_images && !self.quiet => {
                let word = match (self.work, unchanged) {
                    (Work::Fetching, _) => "exported",
                    (_, true) => "unchanged",
                    (_, false) => "pushed",
                };
                say(format!("{word} {reference} {digest}"));
            }
            Event::Resolved { reference, digest } if self.verbose => {
                say(format!("resolved {reference} {digest}"));
            }
            Event::BlobDone { digest, size } if self.verbose => {
                say(format!("blob {digest} ({})", human_bytes(size)));
            }
            Event::Note(text) if self.verbose => say(format!("note: {text}")),
            _ => {}
        }
    }

    fn begin(&self, phase: Phase, images: u64) {
        if self.animated {
            printer::put(Item::Draw);
        } else if images > 1 && phase == Phase::Resolving {
            info(format!("resolving {images} images"));
        }
    }

    fn plan(&self, blobs: u64, bytes: u64, present: u64) {
        if self.animated {
            printer::put(Item::Draw);
        } else if bytes > 0 {
            // A few small documents were read with the manifests; that is no start.
            let already = match present.saturating_mul(100) > bytes {
                true => format!(" ({} already present)", human_bytes(present)),
                false => String::new(),
            };
            let verb = match self.work {
                Work::Fetching => "fetching",
                Work::Pushing => "pushing",
                Work::Verifying => "verifying",
                Work::Comparing | Work::Asking => "comparing",
            };
            let blobs = counted(blobs, "blob", "blobs");
            info(format!("{verb} {blobs}, {}{already}", human_bytes(bytes)));
        }
    }
}
