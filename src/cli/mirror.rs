//! `docker-mirror -d REGISTRY IMAGE...`: copies images from registry to registry, without a file between them.

use clap::Args;
use docker_mirror::{Resolver, Result, mirror, push::ImageReport};

use super::connection::{MirrorFlags, Shared, Sides};
use super::export::Selection;
use super::images::{self, ImageFlags};
use super::memory;
use super::output::{LeftOutBy, Outcome};
use super::progress::Display;
use super::push::Target;
use super::report::Reporting;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) images: ImageFlags,

    #[command(flatten)]
    pub(super) target: Target,

    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    pub(super) reporting: Reporting,

    #[command(flatten)]
    pub(super) shared: Shared,

    #[command(flatten)]
    mirrors: MirrorFlags,

    #[command(flatten)]
    sides: Sides,
}

impl Arguments {
    /// Returns whether a password of one side is read from standard input.
    pub(super) fn reads_password(&self) -> bool {
        self.sides.reads_password()
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<Outcome> {
    let list = arguments.images.read()?;
    let mut wanted = arguments.selection.wanted()?;
    let mut request = arguments.target.request(None)?;
    request.with_lock = arguments.reporting.is_wanted();
    request.require_referrers = wanted.referrers.is_required();
    let display = Display::new(arguments.target.work(), &arguments.shared);
    arguments.reporting.watch(&display.status);
    let progress = display.progress();
    let (shared, sides) = (&arguments.shared, Some(&arguments.sides));
    let sources = shared.sources(&list.hosts(), &arguments.mirrors, sides, &progress)?;
    let destinations = shared.destination(request.destination.host(), sides, &progress)?;
    let asked = arguments.images.expand(list, &sources, shared).await?;
    if asked.images.is_empty() && !asked.failed.is_empty() {
        display.finish();
        return Err(images::unresolved(asked.failed));
    }
    wanted.exceptions = images::exceptions(&asked);
    let left_out_by = LeftOutBy::new(!wanted.exceptions.is_empty() || !arguments.selection.platform.is_empty());
    request.destinations = images::destinations(&asked);
    let resolver =
        Resolver::new(sources.clone(), wanted, arguments.shared.jobs(), progress.clone()).with_budget(memory::budget());
    let images: Vec<_> = asked.images.into_iter().map(|image| image.reference).collect();
    request.budget = resolver.budget().clone();
    let report = mirror::resolve_and_mirror(&resolver, &images, &sources, request, &destinations, progress).await;
    sources.note_concurrency();
    sources.note_mirrors();
    destinations.note_concurrency();
    display.finish();
    let mut report = report?;
    let patterns = asked.failed.iter();
    report
        .images
        .extend(patterns.map(|(pattern, error)| ImageReport::unresolved(pattern, error)));
    Ok((arguments.target).report(report, &display, &arguments.reporting, false, left_out_by))
}
