//! What a person, or a script, gets to read: results on stdout, everything else on stderr.

use std::io::{self, Write};

use docker_mirror::{Choice, Error, Kind, LISTED, LeftOut, Line, PlatformRecord, few, quote};

use super::printer::{self, Item};

/// How a command that ran through to its end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// Something failed; it has been reported.
    Failure,
}

/// Turns the log on: `-vv` shows every request and answer, `DOCKER_MIRROR_LOG` takes a list such as
/// `docker_mirror=debug,hyper=info`.
pub(super) fn start_log(verbose: u8) {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let default = match verbose {
        0 | 1 => Targets::new(),
        _ => Targets::new().with_target("docker_mirror", LevelFilter::DEBUG),
    };
    let filter = std::env::var("DOCKER_MIRROR_LOG")
        .ok()
        .and_then(|list| list.parse().ok())
        .unwrap_or(default);
    let format = tracing_subscriber::fmt::layer().with_writer(|| Log).with_target(false);
    let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
}

/// The log: each record is a line like any other.
struct Log;

impl Write for Log {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        say(text.trim_ascii_end());
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of result on stdout. [`unwritten`] tells in the end whether all of them got there.
pub(super) fn result(line: impl Into<Line>) {
    printer::put(Item::Result(line.into()));
}

/// Why results could not be written. A reader that closed the pipe wants no more of them, which is no failure.
pub(super) fn unwritten() -> Option<Error> {
    printer::unwritten().and_then(cannot_write)
}

/// A failure to write to stdout, unless its reader has gone.
pub(super) fn cannot_write(error: io::Error) -> Option<Error> {
    let kind = match error.kind() {
        io::ErrorKind::BrokenPipe => return None,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Kind::NoSpace,
        _ => Kind::Io,
    };
    Some(Error::new(kind, "cannot write the results to standard output").with_source(error))
}

/// A line for people on stderr.
pub(super) fn say(line: impl Into<Line>) {
    printer::put(Item::Said(line.into()));
}

/// One failure: what happened, and what to do about it.
pub(super) fn error(error: &Error) {
    say(format!("error: {}", error.full()));
    if let Some(hint) = error.hint() {
        say(format!("hint: {hint}"));
    }
}

/// Shows what a panic says as a line like any other: its message may quote anything.
pub(super) fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let what = (payload.downcast_ref::<&str>().copied())
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or_default();
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        let line = Line::from(format!("error: docker-mirror panicked{place}: {what}"));
        // The thread that writes lines may be the one that panicked.
        let _ = writeln!(
            io::stderr(),
            "{line}\nhint: this is a fault of docker-mirror: report it with this message"
        );
    }));
}

/// A number of things: `1 blob`, `2 blobs`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// What became of an index of which platforms were dropped.
pub(super) fn index_note(choice: Choice, original: &str, pushed: &str, dropped: &[PlatformRecord]) -> Option<String> {
    let platforms = dropped.iter().map(|entry| quote(&entry.platform));
    let dropped = format!(
        "{} dropped ({})",
        counted(dropped.len() as u64, "entry", "entries"),
        few(platforms)
    );
    match choice {
        Choice::Whole => None,
        Choice::Filtered => Some(format!("{dropped}: index {original} became {pushed}")),
        Choice::Sparse => Some(format!(
            "{dropped}: index {original} keeps its digest and lists them still"
        )),
    }
}

/// Warns of blobs of an image that were not carried.
pub(super) fn left_out(name: &str, blobs: &[LeftOut]) {
    for left in blobs.iter().take(LISTED) {
        say(format!(
            "warning: {name}: left out {} ({})",
            left.digest,
            quote(&left.reason)
        ));
    }
    if blobs.len() > LISTED {
        let more = counted((blobs.len() - LISTED) as u64, "more blob", "more blobs");
        say(format!("warning: {name}: left out {more}"));
    }
}
