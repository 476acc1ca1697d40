//! Output for people and scripts: results on stdout, everything else on stderr.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use docker_mirror::{
    Choice, Digest, Error, Kind, LISTED, LeftOut, Line, PlatformRecord, Reference, Unusable, counts_in_words, few,
    platform_counts, platform_list, quote,
};

pub(super) use super::exit::Outcome;
use super::failures;
use super::printer::{self, Item};
pub(super) use super::wording::counted;

/// Environment variable that sets the filters of the log.
pub(super) const LOG: &str = "DOCKER_MIRROR_LOG";

/// Turns the log on. `-vv` shows every request and response; [`LOG`] sets filters such as
/// `docker_mirror=debug,hyper=info`.
pub(super) fn start_log(verbose: u8) {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let default = match verbose {
        0 | 1 => Targets::new(),
        _ => Targets::new().with_target("docker_mirror", LevelFilter::DEBUG),
    };
    let filter = match std::env::var(LOG) {
        Ok(list) if !list.is_empty() => list.parse::<Targets>().unwrap_or_else(|error| {
            say(format!(
                "warning: the variable `{LOG}` is not used: {}; write targets and levels, such as \
                 `docker_mirror=debug,hyper=info`",
                quote(&error.to_string())
            ));
            default
        }),
        _ => default,
    };
    let format = tracing_subscriber::fmt::layer().with_writer(|| Log).with_target(false);
    let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
}

/// Writer of the log, which prints each record as a line on standard error.
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

/// Whether standard output is reserved for the `--json` document.
static JSON: AtomicBool = AtomicBool::new(false);

/// Reserves standard output for the `--json` document, so that [`result`] prints nothing.
pub(super) fn set_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Prints a result line on stdout. At the end of the run, [`unwritten`] returns the error if a line could not be written.
pub(super) fn result(line: impl Into<Line>) {
    if JSON.load(Ordering::Relaxed) {
        return;
    }
    printer::put(Item::Result(line.into()));
}

/// Returns why results could not be written. A closed pipe is not a failure, since its reader wants no more results.
pub(super) fn unwritten() -> Option<Error> {
    printer::unwritten().and_then(cannot_write)
}

/// Turns a failed write to stdout into an error, or `None` for a closed pipe.
pub(super) fn cannot_write(error: io::Error) -> Option<Error> {
    let kind = match error.kind() {
        io::ErrorKind::BrokenPipe => return None,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Kind::NoSpace,
        _ => Kind::Io,
    };
    Some(Error::new(kind, "cannot write the results to standard output").with_source(error))
}

fn metadata(stream: BorrowedFd<'_>) -> io::Result<std::fs::Metadata> {
    std::fs::File::from(stream.try_clone_to_owned()?).metadata()
}

/// Returns whether a path leads to the pipe or file that is standard output.
pub(super) fn is_stdout(path: &std::path::Path) -> bool {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let (Ok(there), Ok(stdout)) = (path.metadata(), metadata(io::stdout().as_fd())) else {
        return false;
    };
    (there.dev(), there.ino()) == (stdout.dev(), stdout.ino()) && !there.file_type().is_char_device()
}

/// Returns whether standard output is a file or a device such as `/dev/null`, so that results are not seen on a terminal.
pub(super) fn results_are_out_of_sight() -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    use std::os::unix::fs::MetadataExt as _;
    let stdout = io::stdout();
    let (Ok(there), Ok(messages)) = (metadata(stdout.as_fd()), metadata(io::stderr().as_fd())) else {
        return false;
    };
    // Both may go to one log, such as that of a job of cron.
    let is_one_log = (there.dev(), there.ino()) == (messages.dev(), messages.ino());
    let is_device = there.file_type().is_char_device() && !stdout.is_terminal();
    is_device || (there.is_file() && !is_one_log)
}

/// Returns whether a stream is a pipe.
pub(super) fn is_pipe(stream: BorrowedFd<'_>) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    metadata(stream).is_ok_and(|there| there.file_type().is_fifo())
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// Sets whether [`info`] prints nothing.
pub(super) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Prints a line for people on stderr, unless `--quiet` is set.
pub(super) fn info(line: impl Into<Line>) {
    if !QUIET.load(Ordering::Relaxed) {
        say(line);
    }
}

/// Prints a line for people on stderr.
pub(super) fn say(line: impl Into<Line>) {
    printer::put(Item::Said(line.into()));
}

/// Prints an error and its hint.
pub(super) fn error(error: &Error) {
    match error.parts() {
        [] => say(format!("error: {}", error.full())),
        parts => return failures::print(&error.to_string(), parts.len(), parts),
    }
    if let Some(hint) = error.hint() {
        say(format!("hint: {hint}"));
    }
}

/// Prints panics as one escaped line, since the message of a panic may quote text from outside.
pub(super) fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let what = (payload.downcast_ref::<&str>().copied())
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or_default();
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        let line = Line::from(format!("error: docker-mirror panicked{place}: {what}"));
        // Writes directly to stderr, since the panicking thread may be the printer.
        let _ = writeln!(
            io::stderr(),
            "{line}\nhint: this is a fault of docker-mirror: report it with this message"
        );
    }));
}

/// Why platforms were left out, for the summary of several images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftOutBy {
    /// The default, which keeps Linux alone.
    Default,
    /// Flags or a list of this run.
    Request,
    /// An earlier run, which made the bundle.
    Bundle,
}

impl LeftOutBy {
    /// Returns why a run leaves out platforms. `is_asked` says that a flag, a list or a lock states platforms.
    pub(super) fn new(is_asked: bool) -> Self {
        match is_asked {
            true => Self::Request,
            false => Self::Default,
        }
    }
}

/// Platforms that were left out, as one note for a single image or a summary for several images.
#[derive(Debug, Default)]
pub(super) struct LeftOutPlatforms {
    lines: Vec<String>,
    /// Numbers of platforms, nested indexes and attestations.
    counts: [u64; 3],
}

impl LeftOutPlatforms {
    /// Adds an image and its left-out platforms.
    pub(super) fn add(&mut self, name: &str, choice: Choice, digests: (&Digest, &Digest), dropped: &[PlatformRecord]) {
        let (original, pushed) = digests;
        let platforms = platform_list(dropped);
        let index = match choice {
            Choice::Whole => return,
            Choice::Filtered => format!("the index digest is now {pushed} (was {original})"),
            Choice::Sparse => format!("the index keeps its digest {original}; the entries left out are still listed"),
        };
        self.lines.push(format!("note: {name}: left out {platforms}; {index}"));
        let counts = self.counts.iter_mut().zip(platform_counts(dropped));
        counts.for_each(|(sum, count)| *sum += count);
    }

    /// Prints the notes: one per image if there is only one image or with `verbose`, else a summary. What an earlier run left out
    /// of several images was summed up by that run, and is not repeated.
    pub(super) fn print(self, verbose: bool, by: LeftOutBy) {
        if verbose || self.lines.len() == 1 {
            self.lines.into_iter().for_each(info);
        } else if !self.lines.is_empty() && by != LeftOutBy::Bundle {
            let why = match by {
                LeftOutBy::Default => "by default (`--platform all` keeps them)",
                _ => "as asked",
            };
            // Attestations follow their platforms and are not counted beside them.
            let counts = match self.counts {
                [0, 0, attestations] => [0, 0, attestations],
                [platforms, indexes, _] => [platforms, indexes, 0],
            };
            let counts: Vec<String> = counts_in_words(counts).collect();
            info(format!(
                "note: {} images: {} left out {why}; `-v` lists them and the digest of each index",
                self.lines.len(),
                counts.join(" and ")
            ));
        }
    }
}

/// Returns a reference without its digest, for output that adds the digest.
pub(super) fn without_digest(reference: &Reference) -> String {
    match reference.tag() {
        Some(tag) => format!("{}:{tag}", reference.name()),
        None => reference.name(),
    }
}

/// Prints the number of referrers carried with an image (signatures, attestations and others), by type.
pub(super) fn referrers(name: &str, counts: &BTreeMap<String, usize>) {
    if counts.is_empty() {
        return;
    }
    let all = counted(counts.values().sum::<usize>() as u64, "referrer", "referrers");
    let types = few(counts.iter().map(|(kind, count)| format!("{count} x {}", quote(kind))));
    info(format!("note: {name}: {all}: {types}"));
}

/// Warns about blobs or referrers of an image that were left out.
pub(super) fn left_out(name: &str, all: &[LeftOut]) {
    for left in all.iter().take(LISTED) {
        say(format!(
            "warning: {name}: left out {} ({})",
            left.digest,
            quote(&left.reason)
        ));
    }
    if all.len() > LISTED {
        say(format!("warning: {name}: left out {} more", all.len() - LISTED));
    }
}

/// Maximum number of unusable images and files that are printed one by one.
const MAX_UNUSABLE: usize = 1000;

/// Prints an error for each unusable image and file.
pub(super) fn print_unusable<'a>(all: impl Iterator<Item = &'a Unusable>) {
    let mut all = all.fuse();
    for broken in all.by_ref().take(MAX_UNUSABLE) {
        error(&unusable(&broken.label, &broken.error));
    }
    match all.count() as u64 {
        0 => {}
        more => say(format!(
            "error: {} cannot be used either",
            counted(more, "more image or file", "more images and files")
        )),
    }
}

/// Returns the error of an unusable image or file, with its name added unless the message already contains the name.
fn unusable(label: &str, error: &Error) -> Error {
    let label = quote(label).to_string();
    match error.to_string().contains(&label) || label.contains(":@") {
        true => error.clone(),
        false => error.clone().context(format!("`{label}`")),
    }
}
