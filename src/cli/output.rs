//! What a person, or a script, gets to read: results on stdout, everything else on stderr.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use docker_mirror::{Choice, Digest, Error, Kind, LISTED, LeftOut, Line, PlatformRecord, Unusable, few, quote};

pub(super) use super::exit::Outcome;
use super::failures;
use super::printer::{self, Item};
pub(super) use super::wording::counted;

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

/// Whether standard output has one document about the whole run, and no lines.
static JSON: AtomicBool = AtomicBool::new(false);

/// Leaves standard output to the document of `--json`.
pub(super) fn set_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// A line of result on stdout. [`unwritten`] tells in the end whether all of them got there.
pub(super) fn result(line: impl Into<Line>) {
    if JSON.load(Ordering::Relaxed) {
        return;
    }
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

/// Whether results do not reach the terminal of standard error: standard output is a file, or is discarded.
pub(super) fn results_are_out_of_sight() -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    let stdout = io::stdout();
    let kind = stdout
        .as_fd()
        .try_clone_to_owned()
        .and_then(|fd| std::fs::File::from(fd).metadata());
    kind.is_ok_and(|there| there.is_file() || (there.file_type().is_char_device() && !stdout.is_terminal()))
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on, [`info`] says nothing.
pub(super) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// A line for people on stderr that can be done without.
pub(super) fn info(line: impl Into<Line>) {
    if !QUIET.load(Ordering::Relaxed) {
        say(line);
    }
}

/// A line for people on stderr.
pub(super) fn say(line: impl Into<Line>) {
    printer::put(Item::Said(line.into()));
}

/// One failure: what happened, and what to do about it.
pub(super) fn error(error: &Error) {
    match error.parts() {
        [] => say(format!("error: {}", error.full())),
        parts => return failures::tell(&error.to_string(), parts.len(), parts),
    }
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

/// Platforms that were left out of images as asked. One image gets a line; those of several are summed up.
#[derive(Debug, Default)]
pub(super) struct LeftOutPlatforms {
    lines: Vec<String>,
    platforms: u64,
}

impl LeftOutPlatforms {
    /// Takes note of an image of which these platforms were left out.
    pub(super) fn add(&mut self, name: &str, choice: Choice, digests: (&Digest, &Digest), dropped: &[PlatformRecord]) {
        let (original, pushed) = digests;
        let platforms = few(dropped.iter().map(|entry| quote(&entry.platform)));
        let index = match choice {
            Choice::Whole => return,
            Choice::Filtered => format!("the index digest is now {pushed} (was {original})"),
            Choice::Sparse => format!("the index keeps its digest {original}; the entries left out are still listed"),
        };
        self.lines.push(format!("note: {name}: left out {platforms}; {index}"));
        self.platforms += dropped.len() as u64;
    }

    /// Shows it.
    pub(super) fn tell(self, verbose: bool) {
        if verbose || self.lines.len() == 1 {
            self.lines.into_iter().for_each(info);
        } else if !self.lines.is_empty() {
            info(format!(
                "note: {} images: {} left out as asked, which changes or thins out their indexes (`-v` lists them)",
                self.lines.len(),
                counted(self.platforms, "platform", "platforms")
            ));
        }
    }
}

/// Says what travels with an image: signatures, attestations and other referrers, by type and number.
pub(super) fn referrers(name: &str, counts: &BTreeMap<String, usize>) {
    if counts.is_empty() {
        return;
    }
    let all = counted(counts.values().sum::<usize>() as u64, "referrer", "referrers");
    let types = few(counts.iter().map(|(kind, count)| format!("{count} x {}", quote(kind))));
    info(format!("note: {name}: {all}: {types}"));
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

/// How many images and files that cannot be used are told one by one.
const MAX_UNUSABLE: usize = 1000;

/// Tells which images and files cannot be used.
pub(super) fn tell_unusable<'a>(all: impl Iterator<Item = &'a Unusable>) {
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

/// The error of an image or a file that cannot be used, which says what that is.
fn unusable(label: &str, error: &Error) -> Error {
    let label = quote(label).to_string();
    match error.to_string().contains(&label) || label.contains(":@") {
        true => error.clone(),
        false => error.clone().context(format!("`{label}`")),
    }
}
