//! `docker-mirror limits`: what is left of a registry's pull limit.

use clap::Args;
use docker_mirror::error::{Error, Result};
use docker_mirror::image::reference::{DOCKER_HUB, Reference};
use docker_mirror::registry::RateLimit;

use super::connection::{Shared, Side};
use super::output::{self, Outcome};
use super::progress::Display;

/// The image by which Docker Hub itself lets its limit be asked for.
const HUB_PREVIEW: &str = "ratelimitpreview/test:latest";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A registry, or an image on it (needed where the registry is not Docker Hub) [default: docker.io]
    #[arg(value_name = "REGISTRY|IMAGE")]
    registry: Option<String>,

    #[command(flatten)]
    pub(super) shared: Shared,
}

pub(super) async fn run(arguments: Arguments) -> Result<Outcome> {
    let asked = arguments.registry.as_deref().unwrap_or(DOCKER_HUB);
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&asked);
    let image: Reference = if hub {
        HUB_PREVIEW.parse()?
    } else {
        asked.parse::<Reference>().map_err(|e: Error| {
            e.with_hint("name an image on the registry, such as `registry.example.com/some/image:tag`")
        })?
    };
    let display = Display::new(arguments.shared.verbosity() > 0);
    let progress = display.progress();
    let registries = arguments
        .shared
        .registries(Side::Source, &[image.host()], None, &progress)?;
    let registry = registries.host(image.host())?;
    let limit = registry.rate_limit(image.repository(), &image.target()).await;
    display.finish();
    match limit? {
        Some(limit) => output::result(&format!("{}: {}", image.host(), describe(&limit))),
        None => output::result(&format!("{}: no limit is stated", image.host())),
    }
    Ok(Outcome::Success)
}

/// A quota in words.
pub(super) fn describe(limit: &RateLimit) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "an unknown number".to_owned(), |n| n.to_string());
    let mut text = format!("{} of {} pulls are left", number(limit.remaining), number(limit.limit));
    if let Some(window) = limit.window {
        text.push_str(&format!(" in {}", humantime::format_duration(window)));
    }
    if let Some(source) = &limit.source {
        text.push_str(&format!(", counted for {source}"));
    }
    text
}
