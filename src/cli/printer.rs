//! The thread that writes to standard output and standard error. Other threads put lines into its queue and go on: a
//! paused terminal or an unread pipe blocks this thread, and the others only once the queue is full.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use docker_mirror::Line;

use super::status::Status;
use super::terminal::{self, Live};

/// How many lines may wait to be written. One that finds no room waits itself.
const WAITING: usize = 1024;

/// How many lines about warnings and retries a run shows; the others are counted.
const TROUBLES: u64 = 1000;

/// How often progress is drawn.
const REDRAW: Duration = Duration::from_millis(80);

/// How often it is looked where there is no terminal whether a line about the progress is due.
const LOOK: Duration = Duration::from_millis(500);

/// What is put into the queue.
pub(super) enum Item {
    /// A line of result, on standard output.
    Result(Line),
    /// A line for people, on standard error.
    Said(Line),
    /// The same for a warning or a retry, of which there may be very many.
    Trouble(Line),
    /// From now on the progress is shown: below all lines where the terminal is `animated`, else by a line now and then.
    Progress {
        /// How far things are.
        status: Arc<Status>,
        /// Whether lines can be drawn again.
        animated: bool,
    },
    /// Draws the progress now.
    Draw,
    /// Shows no progress any more, says how many troubles were not shown, and answers when all before it is written.
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
            // Many lines at once are written without drawing the progress below each of them.
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
                    self.say(&format!("warning: {more} more warnings are not shown").into());
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

    /// Above the progress, so that neither tears the other.
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
