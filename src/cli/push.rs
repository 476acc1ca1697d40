//! What import and the one-step mirror have in common: flags for the destination, and the report of a push.

use std::fs::Permissions;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use docker_mirror::{
    Choice, Destination, Digest, Error, IndexMode, Kind, Reference, Result, SpecialWriter, check_special, human_bytes,
    is_unsafe, open_regular,
    push::{Amount, Form, ImageReport, Mapping, OnExisting, Outcome as Became, PushReport, PushRequest},
    quote,
};
use serde::Serialize;

use super::failures::{self, AtOnce};
use super::output::{self, LeftOutPlatforms, Outcome};
use super::printer;
use super::progress::Display;
use super::status::Work;

/// Where images go, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct Target {
    /// Destination registry, optionally with a path
    #[arg(short, long, value_name = "REGISTRY[/PREFIX]", required = true)]
    dest: Option<Destination>,

    /// Include the source registry's host in the path, so that images from different registries do not collide
    #[arg(long)]
    keep_host: bool,

    /// Map references starting with SRC to DST at the destination; repeatable
    #[arg(long, value_name = "SRC=DST")]
    map: Vec<Mapping>,

    /// If the tag exists with a different digest: overwrite, skip or error
    #[arg(long, value_name = "WHAT", default_value = "overwrite")]
    on_existing: OnExisting,

    /// Also check every blob of images whose tags exist already, and send what is missing; without it, only their manifests
    /// are checked
    #[arg(long)]
    verify_existing: bool,

    /// Add signatures to those that are under the same tag (sha256-….sig) already; without it, what is there stays alone
    #[arg(long)]
    merge_signatures: bool,

    /// Show what would be pushed where, and how many bytes, without pushing
    #[arg(long)]
    dry_run: bool,

    /// Stop at the first image that fails
    #[arg(long)]
    fail_fast: bool,

    /// Write a JSON report of every image to this file
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
}

impl Target {
    /// What is done with blobs.
    pub(super) fn work(&self) -> Work {
        if self.dry_run { Work::Comparing } else { Work::Pushing }
    }

    pub(super) fn request(&self, index: Option<IndexMode>) -> Result<PushRequest> {
        let destination = self.dest.clone().ok_or_else(|| {
            Error::new(Kind::Usage, "no destination is given").with_hint("name it with `-d REGISTRY[/PREFIX]`")
        })?;
        Ok(PushRequest {
            mappings: self.map.clone(),
            on_existing: self.on_existing,
            verify_existing: self.verify_existing,
            index,
            dry_run: self.dry_run,
            fail_fast: self.fail_fast,
            merge_signatures: self.merge_signatures,
            temp_dir: Some(std::env::temp_dir()),
            ..PushRequest::new(destination.keep_host(self.keep_host))
        })
    }

    /// Does the work of a command, and sees to it that the report file never tells of an earlier run: until there is a
    /// report, it says that there is none, and if there will be none, it says why.
    pub(super) async fn reported(self, work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
        let Some(path) = &self.report else { return work.await };
        check_report(path)?;
        // The reader of a pipe gets exactly one report.
        if path.symlink_metadata().is_ok_and(|there| there.is_file()) {
            let why = "the run has not come to its end, or was ended before it could write its report";
            let none = Error::new(Kind::Cancelled, why);
            write_report(path, &PushReport::ended(self.dry_run, &none))?;
        }
        let outcome = work.await;
        if let Err(error) = &outcome {
            // What ended the run is worth more than a second error.
            let _ = write_report(path, &PushReport::ended(self.dry_run, error));
        }
        outcome
    }

    /// Shows a report, and writes it where that is wanted.
    pub(super) fn tell(&self, report: &PushReport, display: &Display) -> Result<Outcome> {
        let mut left_out = LeftOutPlatforms::default();
        for image in &report.images {
            notes(image, report.dry_run, &mut left_out);
            if let (Some(destination), Some(digest), None) = (&image.destination, &image.pushed, &image.error) {
                if report.dry_run {
                    output::result(planned(image, destination));
                } else {
                    output::result(pinned(destination, digest));
                }
            }
        }
        left_out.tell(display.is_verbose());
        let total = &report.total;
        let (uploaded, mounted) = match report.dry_run {
            true => ("to upload", "to reuse from other repositories"),
            false => ("uploaded", "reused from other repositories"),
        };
        let any_went_well = report.images.iter().any(|image| image.error.is_none());
        if any_went_well {
            let parts = [
                (total.uploaded, uploaded),
                (total.mounted, mounted),
                (total.skipped, "already there"),
            ];
            let parts = parts.iter().filter(|(amount, _)| amount.blobs > 0);
            let parts: Vec<String> = parts
                .map(|(blobs, what)| format!("{} {what}", amount(*blobs)))
                .collect();
            if !parts.is_empty() {
                output::info(parts.join(", "));
            }
        }
        let outcome = tell_failures(report, &display.at_once);
        if any_went_well {
            display.conclude(&images(report));
        }
        if let Some(path) = &self.report {
            write_report(path, report)?;
        }
        Ok(outcome)
    }
}

/// `190 unchanged, 10 pushed (3 tags updated), 0 failed`.
fn images(report: &PushReport) -> String {
    let count = |outcome: Became| report.images.iter().filter(|image| image.outcome == outcome).count();
    let updated = report.images.iter().filter(|image| image.replaced.is_some()).count();
    let (pushed, planned) = (count(Became::Pushed), count(Became::Planned));
    let mut parts = vec![match report.dry_run {
        true => format!("{planned} to push"),
        false => format!("{} new", pushed - updated.min(pushed)),
    }];
    if updated > 0 {
        parts.push(format!(
            "{updated} {}",
            if report.dry_run { "of them to update" } else { "updated" }
        ));
    }
    for (number, word) in [
        (count(Became::Unchanged), "unchanged"),
        (count(Became::LeftAlone), "left alone"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {word}"));
        }
    }
    parts.push(format!("{} failed", count(Became::Failed)));
    parts.join(", ")
}

fn pinned(destination: &str, digest: &Digest) -> String {
    match destination.parse::<Reference>() {
        Ok(reference) => format!("{}@{digest}", super::export::bare(&reference)),
        Err(_) => format!("{destination}@{digest}"),
    }
}

fn planned(image: &ImageReport, destination: &str) -> String {
    let counts = &image.counts;
    let state = match image.outcome {
        Became::Unchanged => "is there already".to_owned(),
        Became::LeftAlone => "the tag is left alone".to_owned(),
        _ => format!(
            "{} to send, {} to reuse, {} already there",
            human_bytes(counts.uploaded.bytes),
            human_bytes(counts.mounted.bytes),
            human_bytes(counts.skipped.bytes)
        ),
    };
    format!("{} -> {destination}  {state}", image.source)
}

fn amount(amount: Amount) -> String {
    let noun = if amount.blobs == 1 { "blob" } else { "blobs" };
    format!("{} {noun} ({})", amount.blobs, human_bytes(amount.bytes))
}

/// What is not exactly as it was at the source, or as it was asked for.
fn notes(image: &ImageReport, dry_run: bool, left_out: &mut LeftOutPlatforms) {
    let name = image.destination.as_deref().unwrap_or(&image.source);
    let choice = match image.index {
        Some(Form::Filtered | Form::Fallback) => Choice::Filtered,
        Some(Form::Sparse) => Choice::Sparse,
        _ => Choice::Whole,
    };
    if let (Some(original), Some(pushed)) = (&image.original, &image.pushed) {
        left_out.add(name, choice, (original, pushed), &image.dropped);
    }
    if image.rebuilt {
        output::info(format!(
            "note: {name}: the archive has no manifest, so one was built; its digest is new"
        ));
    }
    if image.outcome == Became::LeftAlone {
        output::info(format!(
            "note: {name}: skipped, since the tag exists with a different digest"
        ));
    }
    if let Some(replaced) = &image.replaced {
        let what = if dry_run { "would be updated" } else { "updated" };
        output::info(format!("note: {name}: tag {what} (was {replaced})"));
    }
    output::left_out(name, &image.left_out);
    output::referrers(name, &image.referrers);
    output::left_out(name, &image.left_out_referrers);
    for warning in image.warnings.iter() {
        output::say(format!("warning: {name}: {warning}"));
    }
}

fn tell_failures(report: &PushReport, at_once: &AtOnce) -> Outcome {
    if !report.broken_archives.is_empty() {
        let failed = report.broken_archives.iter();
        let failed: Vec<(String, Error)> = failed.map(|a| (a.path.to_string(), a.error.clone())).collect();
        let count = output::counted(failed.len() as u64, "file or folder", "files or folders");
        let title = format!("{count} could not be read; the images of others are not affected");
        failures::tell(&title, failed.len(), &failed);
    }
    let failed: Vec<(String, Error)> = report
        .images
        .iter()
        .filter_map(|image| {
            let error = image.error.clone()?;
            let error = match error.names_image() {
                true => error,
                false => error.context(format!("`{}`", image.source)),
            };
            Some((image.source.clone(), error))
        })
        .collect();
    if !failed.is_empty() {
        let total = report.images.len();
        let title = format!("{} of {total} images failed", failed.len());
        failures::tell_rest(&title, total, &failed, at_once);
    }
    // The warning of each image says which digest that is, and what is there instead.
    let (refused, unknown): (Vec<&ImageReport>, Vec<&ImageReport>) = report
        .images
        .iter()
        .filter(|image| image.pinned_digest_missing)
        .partition(|image| image.index == Some(Form::Fallback));
    unpinned(
        report,
        &refused,
        "pushed with a filtered index instead of the sparse one requested",
        "have everything in the bundle (`docker-mirror export --platform all`), or accept the new digest with `--index \
         filtered`",
    );
    unpinned(
        report,
        &unknown,
        "are not known there by the digest that they are pinned to",
        "ask for them by their SHA-256 digest",
    );
    let lost: Vec<&ImageReport> = report.images.iter().filter(|image| image.referrers_lost).collect();
    unpinned(
        report,
        &lost,
        "went without all that belongs to them (signatures, attestations); the warnings say what is left out, and why",
        "mend what the warnings say and run again, or go without by `--no-referrers`",
    );
    if let Some(fault) = &report.bundle_error {
        bundle_fault(report, fault);
    }
    if report.failed() {
        Outcome::Failure
    } else {
        Outcome::Success
    }
}

/// Names the images that the destination does not have by their pinned digest.
fn unpinned(report: &PushReport, images: &[&ImageReport], what: &str, hint: &str) {
    if images.is_empty() {
        return;
    }
    output::say(format!(
        "error: {} of {} images {what}:",
        images.len(),
        report.images.len()
    ));
    for image in images {
        output::say(format!("  {}", image.destination.as_deref().unwrap_or(&image.source)));
    }
    output::say(format!("hint: {hint}"));
}

/// A bundle that was found wrong behind its images. Where an image failed for it, that was told with the image.
fn bundle_fault(report: &PushReport, fault: &Error) {
    let mut told = report.images.iter().filter_map(|image| image.error.as_ref());
    if told.any(|failure| failure.full() == fault.full()) {
        return;
    }
    let error = Error::new(fault.kind(), format!("the bundle is faulty: {}", fault.full()));
    output::error(&match fault.hint() {
        Some(hint) => error.with_hint(hint),
        None => error.with_hint("make the bundle again, or copy it again and compare checksums"),
    });
    if !report.dry_run && report.images.iter().any(|image| image.error.is_none()) {
        output::say(
            "note: the images that are listed above are complete all the same: the bytes of each were compared with its digest",
        );
    }
}

/// Finds out before the first request whether the report can be written.
fn check_report(path: &Path) -> Result<()> {
    let usage = |why: &str| Err(Error::new(Kind::Usage, format!("`--report {}`: {why}", quote(&path))));
    if path.as_os_str() == "-" {
        return usage("the report goes to a file, since standard output has the results; a file of this name is `./-`");
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
        return usage("this file is there and is no report; it is not replaced");
    }
    if !folder_of(path).is_dir() {
        return usage("its folder does not exist");
    }
    match unnamed(path) {
        Ok(_) => Ok(()),
        Err(error) => usage(&format!("no file can be made in its folder: {}", bare(error))),
    }
}

/// An error without the name of a temporary file, which means nothing to anybody.
pub(super) fn bare(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.source());
    let code = inner.and_then(|inner| inner.downcast_ref::<io::Error>()?.raw_os_error());
    code.map_or(error, io::Error::from_raw_os_error)
}

/// Whether a file is a report, or has nothing in it: a bundle that is named by mistake is not to be lost.
fn may_be_replaced(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    open_regular(path)?.take(256).read_to_end(&mut head)?;
    let text = String::from_utf8_lossy(&head);
    let begin = text.trim_ascii_start().strip_prefix('{').unwrap_or_default();
    Ok(head.is_empty() || begin.trim_ascii_start().starts_with("\"dryRun\""))
}

/// Whether something is written to and not replaced: a device or a pipe, which may stand behind a link.
fn is_special(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|there| !there.is_file())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A file beside `path`, with the permissions that any new file gets.
pub(super) fn unnamed(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let permissions = Permissions::from_mode(0o666);
    tempfile::Builder::new()
        .permissions(permissions)
        .tempfile_in(folder_of(path))
}

/// The report gets its name when it is complete.
fn write_report(path: &Path, report: &PushReport) -> Result<()> {
    let write = || -> io::Result<()> {
        if is_special(path) {
            // It may be where the lines go, too.
            printer::flush();
            return write_json(SpecialWriter::open(path)?, report);
        }
        let file = unnamed(path)?;
        write_json(file.as_file(), report)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|e| Error::io("write", path, bare(e)))
}

/// Writes a report as it is made: as one text it would be in memory once more.
pub(super) fn write_json(out: impl Write, report: &impl Serialize) -> io::Result<()> {
    let mut out = Escaping(BufWriter::with_capacity(64 << 10, out));
    serde_json::to_writer_pretty(&mut out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Escapes the characters that JSON allows in a text and that a terminal obeys: the report may be written to one. Whatever is
/// written has whole characters.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        // A line break in a text is escaped already; this one stands between the members.
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
