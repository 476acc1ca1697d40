//! The result of an export: its messages, and the output of `--dry-run`, `--report` and `--json`.

use std::path::Path;

use docker_mirror::{
    Digest, Error, Kind, LOST_MANIFEST, Reference, Registries,
    export::{DryRun, Exported, Report, Reused},
    few, human_bytes,
    push::{ImageReport, Outcome as Became, PushReport},
    quote,
};

use super::exit::Outcome;
use super::failures::{self, AtOnce};
use super::output::{self, LeftOutBy, LeftOutPlatforms, without_digest};
use super::progress::Display;
use super::report::{BundleReport, Moved, QuotaReport, Reporting};

/// Settings of the run that decide which messages are shown at its end.
pub(super) struct Messages<'a> {
    pub(super) output: &'a Path,
    /// Whether the output is standard output.
    pub(super) to_pipe: bool,
    /// Whether another run of the same command continues a run that stopped.
    pub(super) resumes: bool,
    pub(super) allow_partial: bool,
    /// Whether earlier bundles were given.
    pub(super) reuses: bool,
    pub(super) verbose: bool,
    pub(super) left_out_by: LeftOutBy,
    /// Patterns that could not be resolved, with the errors.
    pub(super) patterns: &'a [(String, Error)],
}

impl Messages<'_> {
    /// Prints the result of an export, or of its dry run, and returns the outcome.
    pub(super) fn print(&self, report: &Report, registries: &Registries, display: &Display) -> Outcome {
        let is_whole = report.failed.is_empty() && self.patterns.is_empty();
        if let Some(plan) = &report.dry_run {
            for image in &report.images {
                let name = without_digest(&image.source);
                output::result(format!("{name}@{}", image.digest));
                // Otherwise, the messages about failed images include those about referrers.
                if is_whole {
                    print_referrers(&name, image);
                }
            }
            print_plan(plan, report, self.output, registries);
            if let Some(error) = &report.does_not_fit {
                output::error(error);
            }
        }
        let outcome = match report.dry_run {
            Some(_) if is_whole && report.does_not_fit.is_none() => report_missing_referrers(report),
            Some(_) if is_whole => Outcome::Failure,
            _ => {
                self.print_images(report);
                self.print_failures(report, &display.at_once)
            }
        };
        if report.up_to_date {
            let checked = match &report.sha256 {
                Some(sum) => format!("its blobs were not checked (`docker-mirror verify` does); {sum}"),
                None => "its blobs were not read (`docker-mirror verify` reads them)".to_owned(),
            };
            output::info(format!(
                "`{}` is up to date: nothing was written; {checked}",
                quote(self.output)
            ));
        } else if report.committed {
            self.print_written(report, display);
        }
        outcome
    }

    /// Prints the images of an export, and how each differs from its source.
    fn print_images(&self, report: &Report) {
        for (reference, pinned, now) in &report.moved {
            output::say(format!(
                "warning: {reference} has moved to {now} since the first run; the bundle keeps {pinned} (`--fresh` starts anew)"
            ));
        }
        let mut left_out = LeftOutPlatforms::default();
        for image in report.images.iter().filter(|_| !report.nothing_fetched) {
            let name = without_digest(&image.source);
            left_out.add(&name, image.choice, (&image.original, &image.digest), &image.dropped);
            output::left_out(&name, &image.left_out);
            print_referrers(&name, image);
        }
        left_out.print(self.verbose, self.left_out_by);
        for image in report.images.iter().filter(|_| report.committed) {
            let line = format!("{}@{}", without_digest(&image.source), image.digest);
            match self.to_pipe {
                true => output::say(line),
                false => output::result(line),
            }
        }
    }

    /// Prints the images that failed, and what to do next. Returns the outcome of the export.
    fn print_failures(&self, report: &Report, at_once: &AtOnce) -> Outcome {
        let failed = report.failed.iter();
        let failed = failed.map(|(image, error)| (without_digest(image), error.clone()));
        let failed: Vec<(String, Error)> = self.patterns.iter().cloned().chain(failed).collect();
        if failed.is_empty() {
            return report_missing_referrers(report);
        }
        let reason = || Outcome::from_errors(failed.iter().map(|(_, error)| error), false);
        let count = failed.len();
        let all = count + report.images.len();
        if report.nothing_fetched && !report.images.is_empty() {
            let title = format!("{count} of {all} images cannot be resolved; nothing was fetched");
            failures::print_rest(&title, all, &failed, at_once);
            // An index was found under its name, although a manifest of it was not.
            let are_names = failed.iter().all(|(_, error)| {
                matches!(error.kind(), Kind::NotFound | Kind::Usage) && error.hint() != Some(LOST_MANIFEST)
            });
            let first = match are_names {
                true => "correct the names",
                false => "run again once the cause is mended",
            };
            output::say(format!(
                "hint: {first}, or give `--allow-partial` to make a bundle without these images"
            ));
            return reason();
        }
        let would_be_made = report.dry_run.is_some() && self.allow_partial && !report.images.is_empty();
        let end = match (report.committed, self.allow_partial) {
            _ if would_be_made => "the bundle would be made without them",
            (true, _) => "the bundle was written without them and records that they are missing",
            (false, true) => "there is nothing to write a bundle of",
            (false, false) => "there is no bundle",
        };
        failures::print_rest(&format!("{count} of {all} images failed; {end}"), all, &failed, at_once);
        if report.committed || would_be_made {
            return Outcome::Partial;
        }
        if !report.images.is_empty() {
            let leave_out = "give `--allow-partial` to leave them out";
            // Another run would meet these errors again, so the hint does not suggest a retry.
            let is_final = |kind| matches!(kind, Kind::NotFound | Kind::Usage | Kind::Unsupported | Kind::Malformed);
            let all_final = report.failed.iter().all(|(_, error)| is_final(error.kind()));
            output::say(match (self.resumes, all_final) {
                (true, true) => format!(
                    "hint: correct the list, or {leave_out}; an export of another list takes over the blobs of the unfinished file"
                ),
                (true, false) => {
                    format!("hint: run the same command again to continue the unfinished file, or {leave_out}")
                }
                (false, _) => format!("hint: {leave_out}"),
            });
        }
        reason()
    }

    /// Prints what was written, and how much of it came from earlier bundles.
    fn print_written(&self, report: &Report, display: &Display) {
        let Reused { blobs, bytes } = report.reused;
        if self.reuses || blobs > 0 {
            output::info(format!(
                "{}, {} came from earlier bundles",
                output::counted(blobs, "blob", "blobs"),
                human_bytes(bytes)
            ));
        }
        let name = match self.to_pipe {
            true => "the bundle to standard output".to_owned(),
            false => quote(self.output).to_string(),
        };
        let images = output::counted(report.images.len() as u64, "image", "images");
        // A compressed bundle is smaller than the size in the report.
        let file = std::fs::metadata(self.output).ok().filter(|_| !self.to_pipe);
        let size = human_bytes(file.map_or(report.size, |file| file.len()));
        let sum = with_comma(report.sha256.as_ref());
        display.conclude(&format!("wrote {name}: {images}, {size}{sum}"));
    }
}

/// Returns the SHA-256 of a bundle for the end of a line.
pub(super) fn with_comma(sum: Option<&Digest>) -> String {
    sum.map_or_else(String::new, |sum| format!(", {sum}"))
}

/// Prints the referrers of an image: those that are carried, those that hold for the unfiltered index alone, and those left out.
fn print_referrers(name: &str, image: &Exported) {
    output::referrers(name, &image.referrers);
    if image.referrers_of_unfiltered > 0 {
        output::info(format!(
            "note: {name}: {} of them refer to the unfiltered index {}, and are pushed only with it (`import --index sparse`)",
            image.referrers_of_unfiltered, image.original
        ));
    }
    output::left_out(name, &image.left_out_referrers);
}

/// Prints what an export would write and fetch, and the pull limits of its registries.
fn print_plan(plan: &DryRun, report: &Report, output: &Path, registries: &Registries) {
    let free = plan
        .free
        .map_or_else(String::new, |free| format!("; {} are free", human_bytes(free)));
    let name = match output.as_os_str() == "-" {
        true => "the bundle to standard output".to_owned(),
        false => quote(output).to_string(),
    };
    let parts = [
        (plan.to_fetch, "to fetch"),
        (plan.present, "present already"),
        (plan.reusable, "from earlier bundles"),
    ];
    let parts = parts.iter().filter(|(bytes, _)| *bytes > 0);
    let parts: Vec<String> = parts
        .map(|(bytes, what)| format!("{} {what}", human_bytes(*bytes)))
        .collect();
    let blobs = match parts.as_slice() {
        [] => String::new(),
        [part] => format!(" ({part})"),
        parts => format!(" ({}: {})", human_bytes(plan.bytes), parts.join(", ")),
    };
    output::say(format!(
        "would write {name}: {}, {}{blobs}, {} in all{free}",
        output::counted(report.images.len() as u64, "image", "images"),
        output::counted(plan.blobs, "blob", "blobs"),
        human_bytes(report.size),
    ));
    for host in hosts(report) {
        let limit = registries
            .host(host)
            .ok()
            .and_then(|registry| registry.last_rate_limit());
        if let Some(limit) = limit {
            let needed = report.pulls_needed.get(host).copied().unwrap_or_default();
            output::say(format!(
                "{host}: {} needed, {}{}",
                output::counted(needed, "pull", "pulls"),
                super::limits::describe(&limit),
                match needed {
                    0 => "; the manifests are in the cache",
                    _ => "",
                }
            ));
        }
    }
}

/// Reports images whose referrers exist but could not be exported. Earlier warnings have named each missing referrer.
fn report_missing_referrers(report: &Report) -> Outcome {
    let lost = report.images.iter().filter(|image| image.lacks_referrers);
    let lost: Vec<&Reference> = lost.map(|image| &image.source).collect();
    if lost.is_empty() {
        return Outcome::Success;
    }
    output::say(format!(
        "error: {} of {} images were exported without some referrers (signatures, attestations); the warnings say what is left \
         out, and why: {}",
        lost.len(),
        report.images.len(),
        few(&lost)
    ));
    output::say("hint: fix the referrers at the source, or omit them with `--no-referrers`");
    Outcome::Failure
}

/// Returns the remaining pull limit of a registry, if the registry states a limit.
fn quota(host: &str, registries: &Registries) -> Option<QuotaReport> {
    let limit = registries.host(host).ok()?.last_rate_limit()?;
    Some(QuotaReport::new(host, Some(&limit)))
}

/// Adds the remaining pull limits of the registries to the report.
pub(super) fn keep_quotas(reporting: &Reporting, report: &Report, registries: &Registries) {
    for host in hosts(report) {
        if let Some(quota) = quota(host, registries) {
            let needed = report.dry_run.and_then(|_| report.pulls_needed.get(host).copied());
            reporting.keep_quota(quota.with_needed(needed));
        }
    }
}

/// Returns the hosts of all images, without duplicates.
fn hosts(report: &Report) -> std::collections::BTreeSet<&str> {
    report.images.iter().map(|image| image.source.host()).collect()
}

/// Stores the result of an export for `--report` and `--json`.
pub(super) fn keep(reporting: &Reporting, dry_run: bool, output: &Path, report: Report, patterns: &[(String, Error)]) {
    let became = match (report.up_to_date, report.committed) {
        (true, _) => Became::Unchanged,
        (false, true) => Became::Exported,
        (false, false) if report.dry_run.is_some() => Became::Planned,
        (false, false) => Became::NotExported,
    };
    let images = report.images.iter().map(|image| ImageReport::exported(image, became));
    let failed = report
        .failed
        .iter()
        .map(|(image, error)| ImageReport::unresolved(image, error));
    let patterns = patterns
        .iter()
        .map(|(pattern, error)| ImageReport::unresolved(pattern, error));
    let all = PushReport {
        dry_run,
        images: images.chain(failed).chain(patterns).collect(),
        lock: report.lock,
        ..PushReport::default()
    };
    let moved = report.moved.into_iter();
    let bundle = BundleReport {
        path: quote(output).to_string(),
        committed: report.committed,
        up_to_date: report.up_to_date,
        size: (report.size > 0).then_some(report.size),
        planned: report.dry_run.map(Into::into),
        sha256: report.sha256,
        reused: report.reused.into(),
        moved: moved
            .map(|(source, kept, now)| Moved {
                source: source.to_string(),
                kept,
                now,
            })
            .collect(),
    };
    reporting.keep(all, Some(bundle));
}
