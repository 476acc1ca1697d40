//! A bar on a terminal; otherwise a line per finished image and now and then one that says how far things are.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use docker_mirror::progress::{Event, Progress, human_bytes};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::output::{clean, counted};

/// Without a terminal, a line about the progress comes at most this often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Shows what an operation tells.
pub(super) struct Display {
    bar: ProgressBar,
    terminal: bool,
    verbose: bool,
    total: AtomicU64,
    done: AtomicI64,
    start: Instant,
    images: AtomicU64,
    blobs: AtomicU64,
    moved: AtomicI64,
    last_line: Mutex<Instant>,
}

impl Display {
    pub(super) fn new(verbose: bool) -> Arc<Self> {
        let terminal = io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Arc::new(Self {
            bar,
            terminal,
            verbose,
            total: AtomicU64::new(0),
            done: AtomicI64::new(0),
            start: Instant::now(),
            images: AtomicU64::new(0),
            blobs: AtomicU64::new(0),
            moved: AtomicI64::new(0),
            last_line: Mutex::new(Instant::now()),
        })
    }

    /// The handle that the library tells its events to.
    pub(super) fn progress(self: &Arc<Self>) -> Progress {
        let display = self.clone();
        Progress::new(move |event| display.show(event))
    }

    /// Takes the bar away; what follows is written below. Where much is wanted, says what it came to.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
        let images = self.images.load(Ordering::Relaxed);
        if !self.verbose || images == 0 {
            return;
        }
        let blobs = self.blobs.load(Ordering::Relaxed);
        // With what was there already: how much was sent or fetched is for the report to say.
        let bytes = u64::try_from(self.moved.load(Ordering::Relaxed)).unwrap_or(0);
        self.line(&format!(
            "{}, {}, {} in {:.1} s",
            counted(images, "image", "images"),
            counted(blobs, "blob", "blobs"),
            human_bytes(bytes),
            self.start.elapsed().as_secs_f64()
        ));
    }

    fn line(&self, text: &str) {
        let text = clean(text);
        // Above the bar, so that neither tears the other.
        self.bar.suspend(|| super::output::say(&text));
    }

    fn show(&self, event: Event) {
        match &event {
            Event::ImageDone { .. } => self.images.fetch_add(1, Ordering::Relaxed),
            Event::BlobDone { .. } => self.blobs.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        match event {
            Event::Planned { blobs, bytes, present } => self.plan(blobs, bytes, present),
            Event::Grown { bytes, .. } => self.grow(bytes),
            Event::Bytes(count) => self.advance(count),
            Event::Retry { reason, pause } => {
                self.line(&format!("{reason}; trying again in {:.1} s", pause.as_secs_f32()));
            }
            Event::Warning(text) => self.line(&format!("warning: {text}")),
            Event::ImageDone { reference, digest } if self.verbose || !self.terminal => {
                self.line(&format!("done {reference} {digest}"));
            }
            Event::Resolved { reference, digest } if self.verbose => {
                self.line(&format!("resolved {reference} {digest}"));
            }
            Event::BlobDone { digest, size } if self.verbose => {
                self.line(&format!("blob {digest} ({})", human_bytes(size)));
            }
            Event::Note(text) if self.verbose => self.line(&text),
            _ => {}
        }
    }

    fn grow(&self, bytes: u64) {
        let total = self.total.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.terminal {
            self.bar.set_length(total);
        }
    }

    fn plan(&self, blobs: u64, bytes: u64, present: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        self.done
            .store(i64::try_from(present).unwrap_or(i64::MAX), Ordering::Relaxed);
        if self.terminal {
            self.bar.set_length(bytes);
            self.bar.set_position(present);
            let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{:#}", indicatif::HumanDuration(state.eta()));
            };
            if let Ok(style) =
                ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {left} left")
            {
                self.bar.set_style(style.with_key("left", left).progress_chars("=> "));
            }
            self.bar.reset_eta();
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
            self.bar.tick();
        } else if bytes > 0 {
            let already = if present > 0 {
                format!(", {} of them already here", human_bytes(present))
            } else {
                String::new()
            };
            let blobs = counted(blobs, "blob", "blobs");
            self.line(&format!("{blobs}, {}{already}", human_bytes(bytes)));
        }
    }

    fn advance(&self, count: i64) {
        self.moved.fetch_add(count, Ordering::Relaxed);
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        if self.terminal {
            self.bar.set_position(u64::try_from(done).unwrap_or(0));
            return;
        }
        let due = {
            let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
            let due = last.elapsed() >= HEARTBEAT;
            if due {
                *last = Instant::now();
            }
            due
        };
        if due {
            let total = self.total.load(Ordering::Relaxed);
            self.line(&format!(
                "{} of {}",
                human_bytes(u64::try_from(done).unwrap_or(0)),
                human_bytes(total)
            ));
        }
    }
}
