//! What a person, or a script, gets to read: results on stdout, everything else on stderr.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use docker_mirror::error::{Error, Kind};
use docker_mirror::image::tree::{Choice, PlatformRecord};

/// How a command that ran through to its end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// Something failed; it has been reported.
    Failure,
}

/// Turns the log on: `-vv` shows every request and answer, `DOCKER_MIRROR_LOG` takes the usual filters.
pub(super) fn start_log(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let default = if verbose >= 2 { "docker_mirror=debug" } else { "off" };
    let filter = std::env::var("DOCKER_MIRROR_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .try_init();
}

/// The first failure to write a result: it must not keep the rest of a report from being shown, nor be forgotten.
static UNWRITTEN: Mutex<Option<io::Error>> = Mutex::new(None);

/// A line of result on stdout. [`unwritten`] tells in the end whether all of them got there.
pub(super) fn result(line: &str) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        UNWRITTEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }
}

/// What kept results from being written. Whoever closed the pipe does not want more of them, which is no failure.
pub(super) fn unwritten() -> Option<Error> {
    let error = UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    cannot_write(error)
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
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// One failure: what happened, and what to do about it.
pub(super) fn error(error: &Error) {
    say(&format!("error: {}", clean(&error.full())));
    if let Some(hint) = error.hint() {
        say(&format!("hint: {}", clean(hint)));
    }
}

/// The failures of several images, after all were tried.
pub(super) fn failures<'a>(title: &str, failures: impl IntoIterator<Item = &'a Error>) {
    say(&format!("error: {title}"));
    let mut hints: Vec<&str> = Vec::new();
    for failure in failures {
        say(&format!("  {}", clean(&failure.full())));
        if let Some(hint) = failure.hint()
            && !hints.contains(&hint)
        {
            hints.push(hint);
        }
    }
    for hint in hints {
        say(&format!("hint: {}", clean(hint)));
    }
}

/// Text from outside must not steer the terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// A number of things: `1 blob`, `2 blobs`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// What became of an index of which platforms were dropped.
pub(super) fn index_note(choice: Choice, original: &str, pushed: &str, dropped: &[PlatformRecord]) -> Option<String> {
    let platforms: Vec<&str> = dropped.iter().map(|entry| entry.platform.as_str()).collect();
    let dropped = format!(
        "{} dropped ({})",
        counted(dropped.len() as u64, "entry", "entries"),
        clean(&platforms.join(", "))
    );
    match choice {
        Choice::Whole => None,
        Choice::Filtered => Some(format!("{dropped}: index {original} became {pushed}")),
        Choice::Sparse => Some(format!(
            "{dropped}: index {original} keeps its digest and lists them still"
        )),
    }
}
