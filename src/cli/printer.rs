//! The printer thread, which writes to standard output and standard error. Other threads put lines into its queue and go on:
//! a paused terminal or an unread pipe blocks the printer at once, but other threads only when the queue is full.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use docker_mirror::{Line, counted};

use super::status::Status;
use super::terminal::{self, Live};

/// Maximum number of lines in the queue. A thread that adds a line to a full queue blocks.
const WAITING: usize = 1024;

/// Maximum number of lines about warnings and retries that a run shows; further lines are only counted.
const TROUBLES: u64 = 1000;

/// Interval between two drawings of the progress.
const REDRAW: Duration = Duration::from_millis(80);

/// Interval at which the printer checks, without a terminal, whether a progress line is due.
const LOOK: Duration = Duration::from_millis(500);

/// An entry of the printer's queue.
pub(super) enum Item {
    /// A result line, for standard output.
    Result(Line),
    /// A line for people, for standard error.
    Said(Line),
    /// A line for standard error about a warning or a retry. A run shows only the first [`TROUBLES`] of these lines.
    Trouble(Line),
    /// Starts to show the progress: below all lines if `animated`, else as an occasional line.
    Progress {
        /// The state of the operation.
        status: Arc<Status>,
        /// Whether the terminal can redraw lines.
        animated: bool,
    },
    /// Draws the progress now.
    Draw,
    /// Stops showing progress, prints the number of suppressed warnings, and answers when all earlier items are written.
    Flush(mpsc::Sender<()>),
}

static QUEUE: OnceLock<SyncSender<Item>> = OnceLock::new();

/// First failure to write a result. The printer goes on after the failure; [`unwritten`] reports the failure in the end.
static UNWRITTEN: Mutex<Option<io::Error>> = Mutex::new(None);

/// Starts the printer thread. Before this call, each thread writes its lines directly.
pub(super) fn start() -> io::Result<()> {
    let (sender, items) = mpsc::sync_channel(WAITING);
    thread::Builder::new()
        .name("output".to_owned())
        .spawn(move || Printer::default().run(&items))?;
    let _ = QUEUE.set(sender);
    Ok(())
}

/// Adds an item to the end of the queue. Before [`start`], writes the item directly.
pub(super) fn put(item: Item) {
    match QUEUE.get() {
        // Sending cannot fail, since the printer runs until the program ends.
        Some(queue) => drop(queue.send(item)),
        None => Printer::default().show(item),
    }
}

/// Waits until all queued items are written.
pub(super) fn flush() {
    let (done, written) = mpsc::channel();
    put(Item::Flush(done));
    let _ = written.recv();
}

/// Runs `print` on another thread and waits for it for at most `limit`.
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

/// Returns the first failure to write a result, once.
pub(super) fn unwritten() -> Option<io::Error> {
    UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[derive(Default)]
struct Printer {
    progress: Option<(Arc<Status>, bool)>,
    live: Live,
    troubles: u64,
}

impl Printer {
    fn run(mut self, items: &Receiver<Item>) {
        loop {
            let item = match &self.progress {
                Some((_, true)) => items.recv_timeout(REDRAW),
                Some((_, false)) => items.recv_timeout(LOOK),
                None => items.recv().map_err(RecvTimeoutError::from),
            };
            let is_pressed = item.is_ok();
            match item {
                Ok(item) => self.show(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // All queued lines are written before the progress is drawn again, instead of drawing after each line.
            let mut more = 0;
            while is_pressed
                && more < WAITING
                && let Ok(item) = items.try_recv()
            {
                self.show(item);
                more += 1;
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
            Item::Progress { status, animated } => self.progress = Some((status, animated)),
            Item::Draw => {}
            Item::Flush(done) => {
                self.write(|| ());
                self.progress = None;
                if self.troubles > TROUBLES {
                    let more = self.troubles - TROUBLES;
                    let more = counted(more, "more warning is not shown", "more warnings are not shown");
                    self.say(&format!("warning: {more}").into());
                    self.troubles = TROUBLES;
                }
                let _ = done.send(());
            }
        }
    }

    fn say(&mut self, line: &Line) {
        self.write(|| {
            let line = terminal::paint(line);
            drop(io::stderr().write_all(format!("{line}\n").as_bytes()));
        });
    }

    /// Clears the drawn progress and then writes, so that the lines of both do not mix.
    fn write(&mut self, write: impl FnOnce()) {
        if matches!(self.progress, Some((_, true))) {
            let clear = self.live.clear(terminal::columns());
            let _ = io::stderr().write_all(clear.as_bytes());
        }
        write();
    }

    fn draw(&mut self) {
        match self.progress.clone() {
            Some((status, true)) => {
                let columns = terminal::columns();
                let lines = status.lines(columns, Instant::now());
                let text = self.live.draw(lines, columns);
                let _ = io::stderr().write_all(text.as_bytes());
            }
            Some((status, false)) => {
                if let Some(line) = status.heartbeat(Instant::now()) {
                    self.say(&line.into());
                }
            }
            None => {}
        }
    }
}
