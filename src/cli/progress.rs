//! Shows the events of an operation: as progress lines at the bottom of a terminal, or as an occasional line without a
//! terminal. Warnings and results stay on the screen.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use docker_mirror::{Event, Line, Phase, Progress, human_bytes};

use super::connection::Shared;
use super::failures::AtOnce;
use super::output::{self, counted, info, say};
use super::printer::{self, Item};
use super::status::{Status, Work};
use super::terminal;
use super::wording::short;

/// Maximum number of different warnings whose repetitions are recognized. A run shows hardly more.
const REMEMBERED: usize = 1000;

/// Shows the events of an operation.
pub(super) struct Display {
    work: Work,
    animated: bool,
    quiet: bool,
    verbose: bool,
    /// Whether each finished image gets a line on standard error, since the results on standard output are not visible.
    lists_images: bool,
    pub(super) status: Arc<Status>,
    /// Failures that were printed as soon as they happened.
    pub(super) at_once: AtOnce,
    /// Warnings that were printed, and the number of those that repeated one of them.
    warned: Mutex<(HashSet<Line>, u64)>,
}

impl Display {
    pub(super) fn new(work: Work, shared: &Shared) -> Arc<Self> {
        Self::start(work, shared, terminal::is_animated())
    }

    /// Like [`new`](Self::new), for a command whose bundle goes through this standard stream. If the stream is a pipe, the program at
    /// its other end may write to the same terminal, where a redrawn line would mix with its lines: this process writes plain lines.
    pub(super) fn of_stream(work: Work, shared: &Shared, stream: impl AsFd) -> Arc<Self> {
        Self::start(
            work,
            shared,
            terminal::is_animated() && !output::is_pipe(stream.as_fd()),
        )
    }

    fn start(work: Work, shared: &Shared, animated: bool) -> Arc<Self> {
        let verbose = shared.verbosity() > 0;
        let display = Self {
            work,
            animated,
            quiet: shared.is_quiet(),
            verbose,
            lists_images: verbose || (!animated && output::results_are_out_of_sight()),
            status: Arc::new(Status::new(work, Instant::now())),
            at_once: AtOnce::default(),
            warned: Mutex::default(),
        };
        if !display.quiet {
            printer::put(Item::Progress {
                status: display.status.clone(),
                animated: display.animated,
            });
        }
        Arc::new(display)
    }

    /// Returns the handle through which the library reports its events.
    pub(super) fn progress(self: &Arc<Self>) -> Progress {
        let display = self.clone();
        Progress::new(move |event| display.show(event))
    }

    /// Returns whether `-v` or `--debug` was given.
    pub(super) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Removes the progress lines, and writes all queued lines and the number of repeated warnings.
    pub(super) fn finish(&self) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut warned.1) {
            0 => {}
            repeated => {
                let repeated = counted(repeated, "repeated warning is", "repeated warnings are");
                printer::put(Item::Trouble(format!("warning: {repeated} not shown").into()));
            }
        }
        drop(warned);
        printer::flush();
    }

    /// Prints a warning, or counts it if the same warning was printed before.
    fn warn(&self, text: Line) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.0.contains(&text) {
            warned.1 += 1;
            return;
        }
        let line = format!("warning: {text}").into();
        if warned.0.len() < REMEMBERED {
            warned.0.insert(text);
        }
        drop(warned);
        printer::put(Item::Trouble(line));
    }

    /// Prints the last line of an operation: its result, its duration and the number of retries.
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
            Event::Phase { phase, images } => self.start_phase(phase, images),
            Event::Planned {
                blobs, bytes, present, ..
            } => {
                self.at_once.print_waiting();
                self.plan(blobs, bytes, present);
            }
            // On an animated terminal, the progress line shows the number of retries instead.
            Event::Retry { reason, pause } if !self.quiet && (self.verbose || !self.animated) => {
                let text = format!("note: {reason}; trying again in {:.1} s", pause.as_secs_f32());
                printer::put(Item::Trouble(text.into()));
            }
            Event::Unresolved { reference, error } => self.at_once.print(reference.to_string(), &error),
            Event::Info(text) => say(format!("note: {text}")),
            Event::Warning(text) => self.warn(text),
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

    fn start_phase(&self, phase: Phase, images: u64) {
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
            // Below 1 %, the present bytes are only small documents fetched with the manifests, not an earlier run's work.
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
