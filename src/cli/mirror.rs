//! `docker-mirror -d REGISTRY IMAGE...`: both stages in one, no file between them.

use clap::Args;
use docker_mirror::{Reference, Resolver, Result, mirror};

use super::connection::{MirrorFlags, Shared, Sides};
use super::export::{Selection, references};
use super::memory;
use super::output::Outcome;
use super::progress::Display;
use super::push::Target;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Images, such as hello-world, golang:alpine, quay.io/a/b:1 or name@sha256:…
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,

    #[command(flatten)]
    pub(super) target: Target,

    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    pub(super) shared: Shared,

    #[command(flatten)]
    mirrors: MirrorFlags,

    #[command(flatten)]
    sides: Sides,
}

pub(super) async fn run(arguments: Arguments) -> Result<Outcome> {
    let images = references(&arguments.images)?;
    let wanted = arguments.selection.wanted()?;
    let mut request = arguments.target.request(None)?;
    let display = Display::new(arguments.target.work(), &arguments.shared);
    let progress = display.progress();
    let (shared, sides) = (&arguments.shared, Some(&arguments.sides));
    let hosts: Vec<&str> = images.iter().map(Reference::host).collect();
    let sources = shared.sources(&hosts, &arguments.mirrors, sides, &progress)?;
    let destinations = shared.destination(request.destination.host(), sides, &progress)?;
    let resolver =
        Resolver::new(sources.clone(), wanted, arguments.shared.jobs(), progress.clone()).with_budget(memory::budget());
    let mut seen = std::collections::HashSet::new();
    let images: Vec<_> = images.into_iter().filter(|image| seen.insert(image.clone())).collect();
    let trees = resolver.resolve_all(&images).await;
    let trees = images.into_iter().zip(trees).collect();
    request.budget = resolver.budget().clone();
    let report = mirror::mirror(trees, &sources, request, &destinations, progress).await;
    display.finish();
    arguments.target.tell(&report?, &display)
}
