//! A bar on a terminal; otherwise a line per finished image and now and then one that says how far things are.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use docker_mirror::{Event, Progress, human_bytes};

use super::output::{counted, say};
use super::printer::{self, Gauge, Item};

/// Without a terminal, a line about the progress comes at most this often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Shows what an operation tells.
pub(super) struct Display {
    terminal: bool,
    verbose: bool,
    gauge: Arc<Gauge>,
    start: Instant,
    images: AtomicU64,
    blobs: AtomicU64,
    moved: AtomicI64,
    last_line: Mutex<Instant>,
}

impl Display {
    pub(super) fn new(verbose: bool) -> Arc<Self> {
        Arc::new(Self {
            terminal: io::stderr().is_terminal(),
            verbose,
            gauge: Arc::default(),
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
        printer::flush();
        let images = self.images.load(Ordering::Relaxed);
        if !self.verbose || images == 0 {
            return;
        }
        let blobs = self.blobs.load(Ordering::Relaxed);
        // With what was there already: how much was sent or fetched is for the report to say.
        let bytes = u64::try_from(self.moved.load(Ordering::Relaxed)).unwrap_or(0);
        say(format!(
            "{}, {}, {} in {:.1} s",
            counted(images, "image", "images"),
            counted(blobs, "blob", "blobs"),
            human_bytes(bytes),
            self.start.elapsed().as_secs_f64()
        ));
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
                let text = format!("{reason}; trying again in {:.1} s", pause.as_secs_f32());
                printer::put(Item::Trouble(text.into()));
            }
            Event::Warning(text) => printer::put(Item::Trouble(format!("warning: {text}").into())),
            Event::ImageDone { reference, digest } if self.verbose || !self.terminal => {
                say(format!("done {reference} {digest}"));
            }
            Event::Resolved { reference, digest } if self.verbose => {
                say(format!("resolved {reference} {digest}"));
            }
            Event::BlobDone { digest, size } if self.verbose => {
                say(format!("blob {digest} ({})", human_bytes(size)));
            }
            Event::Note(text) if self.verbose => say(text),
            _ => {}
        }
    }

    fn grow(&self, bytes: u64) {
        self.gauge.total.fetch_add(bytes, Ordering::Relaxed);
    }

    fn plan(&self, blobs: u64, bytes: u64, present: u64) {
        let done = i64::try_from(present).unwrap_or(i64::MAX);
        self.gauge.total.store(bytes, Ordering::Relaxed);
        self.gauge.done.store(done, Ordering::Relaxed);
        if self.terminal {
            printer::put(Item::Bar(self.gauge.clone()));
        } else if bytes > 0 {
            let already = if present > 0 {
                format!(", {} of them already here", human_bytes(present))
            } else {
                String::new()
            };
            let blobs = counted(blobs, "blob", "blobs");
            say(format!("{blobs}, {}{already}", human_bytes(bytes)));
        }
    }

    fn advance(&self, count: i64) {
        self.moved.fetch_add(count, Ordering::Relaxed);
        self.gauge.done.fetch_add(count, Ordering::Relaxed);
        if self.terminal {
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
            let (done, total) = (self.gauge.position(), self.gauge.total.load(Ordering::Relaxed));
            say(format!("{} of {}", human_bytes(done), human_bytes(total)));
        }
    }
}
