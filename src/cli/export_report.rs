//! The output of `--dry-run`, `--report` and `--json` for an export.

use std::path::Path;

use docker_mirror::{
    Error, Reference, Registries,
    export::{DryRun, Exported, Report},
    few, human_bytes,
    push::{ImageReport, Outcome as Became, PushReport},
    quote,
};

use super::exit::Outcome;
use super::output;
use super::report::{BundleReport, Moved, QuotaReport, Reporting};

/// Prints the referrers of an image: those that are carried, those that hold for the unfiltered index alone, and those left out.
pub(super) fn referrers(name: &str, image: &Exported) {
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
pub(super) fn print_plan(plan: &DryRun, report: &Report, output: &Path, registries: &Registries) {
    let free = plan
        .free
        .map_or_else(String::new, |free| format!("; {} are free", human_bytes(free)));
    output::say(format!(
        "would write {}: {}, {}, {} ({} present already, {} from earlier bundles, {} to fetch){free}",
        quote(output),
        output::counted(report.images.len() as u64, "image", "images"),
        output::counted(plan.blobs, "blob", "blobs"),
        human_bytes(report.size),
        human_bytes(plan.present),
        human_bytes(plan.reusable),
        human_bytes(plan.to_fetch),
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
pub(super) fn report_missing_referrers(report: &Report) -> Outcome {
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
