//! The document that `--json` prints and `--report` writes: the result of a run, for programs. `docs/report.md` describes it.

use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clap::Args;
use docker_mirror::{
    Digest, Error, Kind, RateLimit, Result, SpecialWriter, check_special, human_bytes, is_unsafe, open_regular,
    parent_of, push::PushReport, quote,
};
use serde::Serialize;

use super::distinct_files::Named;
use super::environment::{is_true, set_path};
use super::output::{self, counted};
use super::printer;
use super::status::Status;
use super::temp_file::{OTHER_PLACE, bare, temp_file_beside, try_beside};

/// Version of the document's schema. A removed field or a changed meaning raises the version; a new field does not.
const VERSION: u32 = 1;

/// First fields of the documents that may be overwritten. `dryRun` came first in documents of earlier program versions.
const FIRST_FIELDS: [&str; 5] = [
    "reportVersion",
    "inspectVersion",
    "verifyVersion",
    "diffVersion",
    "dryRun",
];

/// Flags about the report of a run.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Reporting {
    /// Print one JSON document to standard output, in place of the results
    #[arg(long)]
    pub(super) json: bool,

    /// Write the same document to this file
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,

    /// State that all copies of the flags share.
    #[arg(skip)]
    run: Arc<Run>,
}

/// State of the report of one run.
#[derive(Debug)]
struct Run {
    start: Instant,
    contents: Mutex<Contents>,
    /// Whether the document has been written.
    written: AtomicBool,
    /// Whether the report file turned out not to be fit for a report, which the error of the run says.
    unfit: AtomicBool,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            contents: Mutex::default(),
            written: AtomicBool::new(false),
            unfit: AtomicBool::new(false),
        }
    }
}

#[derive(Debug, Default)]
struct Contents {
    report: PushReport,
    bundle: Option<BundleReport>,
    quota: Vec<QuotaReport>,
    /// State of a push, which says what was sent if the run ends before there is a report.
    push: Option<Arc<Status>>,
}

/// The bundle of an export.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BundleReport {
    /// Path of the bundle; `-` for standard output.
    pub(super) path: String,
    /// Whether the bundle is complete.
    pub(super) committed: bool,
    /// Whether the bundle was already complete, so that nothing was written.
    pub(super) up_to_date: bool,
    /// Size of the bundle in bytes before any compression; `None` if no plan was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<u64>,
    /// Result of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) planned: Option<Planned>,
    /// Digest of the file, if the run has read all bytes of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<Digest>,
    /// Blobs and bytes that came from earlier bundles.
    pub(super) reused: Reused,
    /// Tags that have moved since the first run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) moved: Vec<Moved>,
}

/// The work that an export would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Planned {
    blobs: u64,
    bytes: u64,
    /// Bytes that the unfinished file of an earlier run has.
    present: u64,
    /// Bytes that earlier bundles have.
    reusable: u64,
    to_fetch: u64,
    /// Free bytes in the file system of the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<u64>,
}

impl From<docker_mirror::export::DryRun> for Planned {
    fn from(plan: docker_mirror::export::DryRun) -> Self {
        Self {
            blobs: plan.blobs,
            bytes: plan.bytes,
            present: plan.present,
            reusable: plan.reusable,
            to_fetch: plan.to_fetch,
            free: plan.free,
        }
    }
}

/// Blobs and bytes that were copied from earlier bundles.
#[derive(Debug, Serialize)]
pub(super) struct Reused {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

impl From<docker_mirror::export::Reused> for Reused {
    fn from(reused: docker_mirror::export::Reused) -> Self {
        Self {
            blobs: reused.blobs,
            bytes: reused.bytes,
        }
    }
}

/// A tag that has moved since the first run.
#[derive(Debug, Serialize)]
pub(super) struct Moved {
    pub(super) source: String,
    /// Digest that the bundle keeps.
    pub(super) kept: Digest,
    /// Digest that the tag points to now.
    pub(super) now: Digest,
}

/// The remaining pull limit of a registry.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QuotaReport {
    registry: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_seconds: Option<u64>,
    /// Account or address whose pulls the registry counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// Number of pulls that the export of a dry run would need.
    #[serde(skip_serializing_if = "Option::is_none")]
    needed: Option<u64>,
}

impl QuotaReport {
    /// Creates the report of a registry's pull limit; the registry may state no limit.
    pub(super) fn new(registry: &str, limit: Option<&RateLimit>) -> Self {
        Self {
            registry: registry.to_owned(),
            limit: limit.and_then(|limit| limit.limit),
            remaining: limit.and_then(|limit| limit.remaining),
            window_seconds: limit.and_then(|limit| limit.window).map(|window| window.as_secs()),
            source: limit.and_then(|limit| limit.source.clone()),
            needed: None,
        }
    }

    /// Returns the report with the number of pulls that a planned export needs.
    pub(super) fn with_needed(self, needed: Option<u64>) -> Self {
        Self { needed, ..self }
    }
}

/// The document about a run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    report_version: u32,
    tool: Tool,
    command: &'a str,
    exit_code: u8,
    /// Duration of the run in seconds.
    seconds: f64,
    #[serde(flatten)]
    report: &'a PushReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<&'a BundleReport>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    quota: &'a [QuotaReport],
}

/// Name and version of the program.
#[derive(Serialize)]
pub(super) struct Tool {
    name: &'static str,
    version: &'static str,
}

impl Tool {
    /// This program.
    pub(super) const THIS: Self = Self {
        name: "docker-mirror",
        version: env!("DOCKER_MIRROR_VERSION"),
    };
}

impl Reporting {
    /// Checks before the first request that the report can be written, and writes a document which says that the run has not
    /// ended.
    pub(super) fn prepare(&self, command: &str, dry_run: bool) -> Result<()> {
        self.contents().report.dry_run = dry_run;
        let Some(path) = &self.report else { return Ok(()) };
        let ready = self.begin_file(path, command, dry_run);
        self.run.unfit.store(ready.is_err(), Ordering::Relaxed);
        ready
    }

    fn begin_file(&self, path: &Path, command: &str, dry_run: bool) -> Result<()> {
        check_report(path)?;
        // A device or pipe gets no preliminary document, since its reader expects exactly one report.
        if !is_special(path) {
            let why = "the run has not come to its end, or was ended before it could write its report";
            let none = Contents {
                report: PushReport::ended(dry_run, &Error::new(Kind::Cancelled, why)),
                ..Contents::default()
            };
            write_report(path, &self.document(command, 1, &none))?;
        }
        Ok(())
    }

    /// Returns the file of the report, with its flag.
    pub(super) fn file(&self) -> Named<'_> {
        ("--report", self.report.as_deref())
    }

    /// Returns whether the user asked for a report (`--json` or `--report`).
    pub(super) fn is_wanted(&self) -> bool {
        self.json || self.report.is_some()
    }

    /// Stores the result of the run until its exit code is known.
    pub(super) fn keep(&self, report: PushReport, bundle: Option<BundleReport>) {
        let mut contents = self.contents();
        contents.report = report;
        contents.bundle = bundle;
    }

    /// Reads from the state of a push what was sent if the run ends early.
    pub(super) fn watch(&self, push: &Arc<Status>) {
        self.contents().push = Some(push.clone());
    }

    /// Returns in words what a push has sent so far; `None` if that is nothing.
    pub(super) fn sent(&self) -> Option<String> {
        let (whole, rest) = self.contents().push.as_ref()?.sent();
        let blobs = counted(whole.blobs, "blob", "blobs");
        match (whole.blobs, rest) {
            (0, 0) => None,
            (_, 0) => Some(format!("{blobs} ({}) uploaded", human_bytes(whole.bytes))),
            _ => Some(format!(
                "{blobs} ({}) uploaded, and {} of unfinished ones",
                human_bytes(whole.bytes),
                human_bytes(rest)
            )),
        }
    }

    /// Stores the remaining pull limit of a registry for the report.
    pub(super) fn keep_quota(&self, quota: QuotaReport) {
        self.contents().quota.push(quota);
    }

    /// Writes the document of a run that `error` ended before any work began, and returns the exit code.
    pub(super) fn end(&self, command: &str, code: u8, error: &Error) -> ExitCode {
        if let Err(error) = self.write(command, code, Some(error)) {
            output::error(&error);
        }
        ExitCode::from(code)
    }

    /// Writes the document of a command that contacts no registry, in place of the document about the run.
    ///
    /// # Errors
    /// The same errors as [`write`](Self::write).
    pub(super) fn write_result(&self, document: &impl Serialize) -> Result<()> {
        self.run.written.store(true, Ordering::Relaxed);
        self.write_to_all(document, true)
    }

    /// Finds the reporting flags in a command line that the parser refused.
    pub(super) fn from_refused(arguments: &[String]) -> Self {
        let options = || arguments.iter().take_while(|word| *word != "--");
        let file = || {
            let joined = options().find_map(|word| word.strip_prefix("--report="));
            let parted = options().skip_while(|word| *word != "--report").nth(1);
            joined.or(parted.map(String::as_str)).filter(|file| !file.is_empty())
        };
        Self {
            json: options().any(|word| word == "--json") || is_true("DOCKER_MIRROR_JSON"),
            report: file().map(PathBuf::from).or_else(|| set_path("DOCKER_MIRROR_REPORT")),
            ..Self::default()
        }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.run.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the document, unless it was already written. `error` is the error that ended the run.
    ///
    /// # Errors
    /// An error if the file or standard output cannot be written.
    pub(super) fn write(&self, command: &str, exit_code: u8, error: Option<&Error>) -> Result<()> {
        if !self.is_wanted() || self.run.written.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let mut contents = std::mem::take(&mut *self.contents());
        if let Some(error) = error {
            contents.report.error.get_or_insert_with(|| error.clone());
            if let Some(push) = contents.push.as_ref().filter(|_| contents.report.images.is_empty()) {
                contents.report.total.uploaded = push.sent().0;
            }
        }
        let document = self.document(command, exit_code, &contents);
        // After wrong usage (exit code 2), the path itself may be the mistake, so it is checked again before writing.
        let is_fit = !self.run.unfit.load(Ordering::Relaxed)
            && (exit_code != 2 || self.report.as_deref().is_some_and(|path| check_report(path).is_ok()));
        self.write_to_all(&document, is_fit)
    }

    /// Writes a document to the report file (if `to_file`) and to standard output, as the flags ask.
    fn write_to_all(&self, document: &impl Serialize, to_file: bool) -> Result<()> {
        let file = match &self.report {
            Some(path) if to_file => write_report(path, document),
            _ => Ok(()),
        };
        if self.json {
            printer::flush();
            if let Some(error) = write_json(io::stdout().lock(), document)
                .err()
                .and_then(output::cannot_write)
            {
                return Err(error);
            }
        }
        file
    }

    fn document<'a>(&self, command: &'a str, exit_code: u8, contents: &'a Contents) -> Document<'a> {
        Document {
            report_version: VERSION,
            tool: Tool::THIS,
            command,
            exit_code,
            seconds: (self.run.start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            report: &contents.report,
            bundle: contents.bundle.as_ref(),
            quota: &contents.quota,
        }
    }
}

/// Checks that a report can be written to `path` without overwriting anything but an earlier report.
fn check_report(path: &Path) -> Result<()> {
    let usage = |why: &str| Err(Error::new(Kind::Usage, format!("`--report {}`: {why}", quote(&path))));
    if path.as_os_str() == "-" {
        return usage(
            "the report goes to a file; `--json` prints it to standard output, and a file of this name is `./-`",
        );
    }
    if path.is_dir() {
        return usage("this is a folder; name a file in it");
    }
    if is_special(path) {
        return match check_special(path) {
            Err(_) if path.is_symlink() && !path.exists() => usage("this is a link to nothing; name a file"),
            Err(_) if path.is_symlink() && path.is_file() => {
                usage("this is a link to a file, and links are not followed; name the file itself")
            }
            other => other.map_err(|e| Error::io("write", path, e)),
        };
    }
    if path.is_file() && !may_be_replaced(path).map_err(|e| Error::io("read", path, e))? {
        return usage("this file exists and is not a report; it is not replaced")
            .map_err(|e| e.with_hint("name another file"));
    }
    if !parent_of(path).is_dir() {
        return usage("its folder does not exist").map_err(|e| e.with_hint(make_folder_hint(path)));
    }
    match try_beside(path) {
        Ok(()) => Ok(()),
        Err(error) => {
            usage(&format!("no file can be made in its folder: {}", bare(error))).map_err(|e| e.with_hint(OTHER_PLACE))
        }
    }
}

/// Returns the hint for an output whose folder does not exist.
pub(super) fn make_folder_hint(path: &Path) -> String {
    format!("create the folder `{}`, or name another one", quote(parent_of(path)))
}

/// Returns whether a file is an earlier report or empty, so that a bundle named by mistake is not overwritten.
fn may_be_replaced(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    open_regular(path)?.take(256).read_to_end(&mut head)?;
    let text = String::from_utf8_lossy(&head);
    let begin = text.trim_ascii_start().strip_prefix('{').unwrap_or_default();
    Ok(head.is_empty()
        || FIRST_FIELDS.iter().any(|first| {
            let field = begin.trim_ascii_start().strip_prefix('"');
            field.is_some_and(|field| field.starts_with(&format!("{first}\"")))
        }))
}

/// Returns whether a path is written to in place instead of being replaced: a device, a pipe, or a link to one.
fn is_special(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|there| !there.is_file())
}

/// Writes a report. A regular file gets its name only when the report is complete.
fn write_report(path: &Path, report: &impl Serialize) -> Result<()> {
    let write = || -> io::Result<()> {
        if is_special(path) {
            // The device may be the terminal that also shows the lines, so those are written first.
            printer::flush();
            return write_json(SpecialWriter::open(path)?, report);
        }
        let file = temp_file_beside(path)?;
        write_json(file.as_file(), report)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|e| Error::io("write", path, bare(e)).with_hint(OTHER_PLACE))
}

/// Writes a report as JSON while it is serialized, so that the text is never whole in memory.
pub(super) fn write_json(out: impl Write, report: &impl Serialize) -> io::Result<()> {
    let mut out = Escaping(BufWriter::with_capacity(64 << 10, out));
    serde_json::to_writer_pretty(&mut out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Escapes characters that are valid in JSON but control a terminal, since the report may be shown on a terminal. Every
/// write must consist of whole UTF-8 characters.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        // JSON has already escaped line breaks inside strings; an unescaped line break separates fields.
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe(*c) && *c != '\n') {
            self.0.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(self.0, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_all(rest.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
