//! The thread that writes to standard output and standard error. Other threads put lines into its queue and go on: a
//! paused terminal or an unread pipe blocks this thread, and the others only once the queue is full.

use std::io::{self, Write};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use docker_mirror::Line;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// How many lines may wait to be written. One that finds no room waits itself.
const WAITING: usize = 1024;

/// How many lines about warnings and retries a run shows; the others are counted.
const TROUBLES: u64 = 1000;

/// How often the bar is drawn.
const REDRAW: Duration = Duration::from_millis(125);

/// How far a transfer is, in bytes.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    pub(super) total: AtomicU64,
    pub(super) done: AtomicI64,
}

impl Gauge {
    pub(super) fn position(&self) -> u64 {
        u64::try_from(self.done.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// What is put into the queue.
pub(super) enum Item {
    /// A line of result, on standard output.
    Result(Line),
    /// A line for people, on standard error.
    Said(Line),
    /// The same for a warning or a retry, of which there may be very many.
    Trouble(Line),
    /// From now on there is a bar below all lines.
    Bar(Arc<Gauge>),
    /// Takes the bar away, says how many troubles were not shown, and answers when all before it is written.
    Flush(mpsc::Sender<()>),
}

static QUEUE: OnceLock<SyncSender<Item>> = OnceLock::new();

/// The first failure to write a result: it must not keep the rest of a report from being shown, nor be forgotten.
static UNWRITTEN: Mutex<Option<io::Error>> = Mutex::new(None);

/// Starts the thread. Until then, lines are written where they come up.
pub(super) fn start() -> io::Result<()> {
    let (sender, items) = mpsc::sync_channel(WAITING);
    thread::Builder::new()
        .name("output".to_owned())
        .spawn(move || Printer::default().run(&items))?;
    let _ = QUEUE.set(sender);
    Ok(())
}

/// Writes an item after all that were put before it.
pub(super) fn put(item: Item) {
    match QUEUE.get() {
        // The thread ends with the program.
        Some(queue) => drop(queue.send(item)),
        None => Printer::default().show(item),
    }
}

/// Waits until everything is written.
pub(super) fn flush() {
    let (done, written) = mpsc::channel();
    put(Item::Flush(done));
    let _ = written.recv();
}

/// Lets `print` write, and waits for it no longer than this.
pub(super) fn within(limit: Duration, print: impl FnOnce() + Send + 'static) {
    let (done, written) = mpsc::channel();
    let all = move || {
        print();
        let _ = done.send(());
    };
    if thread::Builder::new().spawn(all).is_ok() {
        let _ = written.recv_timeout(limit);
    }
}

/// What kept results from being written, the first of it.
pub(super) fn unwritten() -> Option<io::Error> {
    UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[derive(Default)]
struct Printer {
    bar: Option<(ProgressBar, Arc<Gauge>)>,
    troubles: u64,
}

impl Printer {
    fn run(mut self, items: &Receiver<Item>) {
        loop {
            let item = match &self.bar {
                Some(_) => items.recv_timeout(REDRAW),
                None => items.recv().map_err(RecvTimeoutError::from),
            };
            match item {
                Ok(item) => self.show(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.draw();
        }
    }

    fn show(&mut self, item: Item) {
        match item {
            Item::Result(line) => self.write(|| {
                if let Err(error) = writeln!(io::stdout(), "{line}") {
                    UNWRITTEN
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                }
            }),
            Item::Said(line) => self.say(&line),
            Item::Trouble(line) => {
                self.troubles += 1;
                if self.troubles <= TROUBLES {
                    self.say(&line);
                }
            }
            Item::Bar(gauge) => self.bar = Some((bar(), gauge)),
            Item::Flush(done) => {
                if let Some((bar, _)) = self.bar.take() {
                    bar.finish_and_clear();
                }
                if self.troubles > TROUBLES {
                    let more = self.troubles - TROUBLES;
                    self.say(&format!("warning: {more} more warnings are not shown").into());
                    self.troubles = TROUBLES;
                }
                let _ = done.send(());
            }
        }
    }

    fn say(&self, line: &Line) {
        self.write(|| drop(writeln!(io::stderr(), "{line}")));
    }

    /// Above the bar, so that neither tears the other.
    fn write(&self, write: impl FnOnce()) {
        match &self.bar {
            Some((bar, _)) => bar.suspend(write),
            None => write(),
        }
    }

    fn draw(&self) {
        if let Some((bar, gauge)) = &self.bar {
            bar.set_length(gauge.total.load(Ordering::Relaxed));
            bar.set_position(gauge.position());
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
    let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{:#}", indicatif::HumanDuration(state.eta()));
    };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {left} left") {
        bar.set_style(style.with_key("left", left).progress_chars("=> "));
    }
    bar
}
