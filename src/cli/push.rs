//! Parts shared by import and the one-step mirror: flags for the destination, and the report of a push.

use clap::Args;
use docker_mirror::{
    Choice, Destination, Digest, Error, IndexMode, Kind, Reference, Result, few, human_bytes,
    push::{Amount, Form, ImageReport, Mapping, OnExisting, Outcome as Became, PushReport, PushRequest},
};

use super::failures::{self, AtOnce};
use super::output::{self, LeftOutBy, LeftOutPlatforms, Outcome};
use super::progress::Display;
use super::report::Reporting;
use super::status::Work;

/// Flags about the destination of images.
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

    /// If the tag exists with a different digest: overwrite, skip or error [default: overwrite]
    #[arg(long, value_name = "WHAT")]
    on_existing: Option<OnExisting>,

    /// Also check every blob of images whose tags exist already, and send what is missing; without it, only their manifests
    /// are checked
    #[arg(long)]
    verify_existing: bool,

    /// Merge cosign signatures into a tag (sha256-….sig) that exists with others [default: leave the existing tag unchanged]
    #[arg(long)]
    merge_signatures: bool,

    /// Also tag each platform's manifest, such as TAG_amd64 and TAG_arm_v7. It is an error if such a tag exists and is not of the
    /// image that TAG holds, unless --on-existing says what to do
    #[arg(long)]
    platform_tags: bool,

    /// Show what would be pushed where, and how many bytes, without pushing
    #[arg(long)]
    dry_run: bool,

    /// Stop at the first image that fails
    #[arg(long)]
    fail_fast: bool,
}

impl Target {
    /// Returns whether `--dry-run` was given.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Returns the kind of work that the progress line shows.
    pub(super) fn work(&self) -> Work {
        if self.dry_run { Work::Comparing } else { Work::Pushing }
    }

    pub(super) fn request(&self, index: Option<IndexMode>) -> Result<PushRequest> {
        let destination = self.dest.clone().ok_or_else(|| {
            Error::new(Kind::Usage, "no destination is given").with_hint("name it with `-d REGISTRY[/PREFIX]`")
        })?;
        Ok(PushRequest {
            mappings: self.map.clone(),
            on_existing: self.on_existing.unwrap_or_default(),
            verify_existing: self.verify_existing,
            index,
            platform_tags: self.platform_tags,
            replaces_foreign_tags: self.on_existing == Some(OnExisting::Overwrite),
            dry_run: self.dry_run,
            fail_fast: self.fail_fast,
            merge_signatures: self.merge_signatures,
            temp_dir: Some(std::env::temp_dir()),
            ..PushRequest::new(destination.keep_host(self.keep_host))
        })
    }

    /// Prints a report, and stores it for `--report` and `--json`.
    pub(super) fn report(
        &self,
        report: PushReport,
        display: &Display,
        reporting: &Reporting,
        reads_bundle: bool,
        left_out_by: LeftOutBy,
    ) -> Outcome {
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
        left_out.print(display.is_verbose(), left_out_by);
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
        print_failures(&report, &display.at_once, reads_bundle);
        let outcome = outcome(&report, reads_bundle);
        if any_went_well {
            display.conclude(&images(&report));
        }
        reporting.keep(report, None);
        outcome
    }
}

/// Returns the numbers of images by outcome, such as `7 new, 3 updated, 1 pushed again, 190 unchanged, 0 failed`.
fn images(report: &PushReport) -> String {
    let count = |outcome: Became| report.images.iter().filter(|image| image.outcome == outcome).count();
    let updated = report.images.iter().filter(|image| image.replaced.is_some()).count();
    let again = report.images.iter().filter(|image| image.pushed_again).count();
    let (pushed, planned) = (count(Became::Pushed), count(Became::Planned));
    let mut parts = vec![match report.dry_run {
        true => format!("{planned} to push"),
        false => format!("{} new", pushed.saturating_sub(updated + again)),
    }];
    if updated > 0 {
        parts.push(format!(
            "{updated} {}",
            if report.dry_run { "of them to update" } else { "updated" }
        ));
    }
    for (number, word) in [
        (again, "pushed again"),
        (count(Became::Unchanged), "unchanged"),
        (count(Became::LeftAlone), "left alone"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {word}"));
        }
    }
    parts.push(format!("{} failed", count(Became::Failed)));
    let unpinned = report.images.iter().filter(|image| image.pinned_digest_missing).count();
    if unpinned > 0 {
        parts.push(format!("{unpinned} without the original digest"));
    }
    // The first warnings name them, far above in a long run.
    if !report.missing.is_empty() {
        parts.push(format!("{} missing from the bundle", report.missing.len()));
    }
    parts.join(", ")
}

fn pinned(destination: &str, digest: &Digest) -> String {
    match destination.parse::<Reference>() {
        Ok(reference) => format!("{}@{digest}", output::without_digest(&reference)),
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
    format!(
        "{} ({})",
        output::counted(amount.blobs, "blob", "blobs"),
        human_bytes(amount.bytes)
    )
}

/// Prints how an image differs from its source or from the request: left-out platforms, a new digest, skipped blobs, warnings.
fn notes(image: &ImageReport, dry_run: bool, left_out: &mut LeftOutPlatforms) {
    let name = image.destination.as_deref().unwrap_or(&image.source);
    if image.outcome == Became::LeftAlone {
        // What the image would have brought is not there.
        output::info(format!(
            "note: {name}: skipped, since the tag exists with a different digest"
        ));
        return;
    }
    let choice = match image.index {
        Some(Form::Filtered | Form::Fallback) => Choice::Filtered,
        Some(Form::Sparse) => Choice::Sparse,
        _ => Choice::Whole,
    };
    // For the smaller index in place of a refused one, a warning says it.
    let has_warning = image.index == Some(Form::Fallback);
    if let (Some(original), Some(pushed), false) = (&image.original, &image.pushed, has_warning) {
        left_out.add(name, choice, (original, pushed), &image.dropped);
    }
    if image.rebuilt {
        output::info(format!(
            "note: {name}: the archive has no manifest, so one was built; its digest is new"
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

fn print_failures(report: &PushReport, at_once: &AtOnce, reads_bundle: bool) {
    if !report.broken_archives.is_empty() {
        let failed = report.broken_archives.iter();
        let failed: Vec<(String, Error)> = failed.map(|a| (a.path.to_string(), a.error.clone())).collect();
        let count = output::counted(failed.len() as u64, "file or folder", "files or folders");
        let title = format!("{count} could not be read; the images of others are not affected");
        failures::print(&title, failed.len(), &failed);
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
        failures::print_rest(&title, total, &failed, at_once);
    }
    // The warning of each image names the pinned digest and the digest at the destination.
    let (refused, unknown): (Vec<&ImageReport>, Vec<&ImageReport>) = report
        .images
        .iter()
        .filter(|image| image.pinned_digest_missing)
        .partition(|image| image.index == Some(Form::Fallback));
    unpinned(
        report,
        &refused,
        "pushed with a filtered index, since the registry rejects the original one without all its platforms",
        match reads_bundle {
            true => {
                "have everything in the bundle (`docker-mirror export --platform all`), or accept the new digest with `--index \
                 filtered`"
            }
            false => "copy all platforms (`--platform all`), or accept the new digest with `--index filtered`",
        },
    );
    unpinned(
        report,
        &unknown,
        "are not available at the destination under their pinned digest",
        "ask for them by their SHA-256 digest",
    );
    let lost: Vec<&ImageReport> = report.images.iter().filter(|image| image.referrers_lost).collect();
    let would = if report.dry_run { "would be" } else { "are" };
    unpinned(
        report,
        &lost,
        &format!(
            "{would} at the destination without some referrers (signatures, attestations); the warnings say what is left \
             out, and why"
        ),
        "fix what the warnings name and run again, or omit the referrers with `--no-referrers`",
    );
    if let Some(fault) = &report.bundle_error {
        bundle_fault(report, fault);
    }
}

/// Returns the outcome of a push: the reason of the failures if all have the same reason.
fn outcome(report: &PushReport, reads_bundle: bool) -> Outcome {
    if !report.failed() {
        return Outcome::Success;
    }
    if report.bundle_error.is_some() {
        return Outcome::Damaged;
    }
    if report
        .images
        .iter()
        .any(|image| image.pinned_digest_missing || image.referrers_lost)
    {
        return Outcome::Failure;
    }
    let images = report.images.iter().filter_map(|image| image.error.as_ref());
    let archives = report.broken_archives.iter().map(|archive| &archive.error);
    Outcome::from_errors(images.chain(archives), reads_bundle)
}

/// Prints an error with the names of these images, and a hint. Does nothing without images.
fn unpinned(report: &PushReport, images: &[&ImageReport], what: &str, hint: &str) {
    if images.is_empty() {
        return;
    }
    let names = images
        .iter()
        .map(|image| image.destination.as_deref().unwrap_or(&image.source));
    output::say(format!(
        "error: {} of {} images {what}: {}",
        images.len(),
        report.images.len(),
        few(names)
    ));
    output::say(format!("hint: {hint}"));
}

/// Prints a fault of the bundle that is not the fault of a single image, unless a failed image has already shown it.
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
