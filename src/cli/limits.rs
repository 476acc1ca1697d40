//! `docker-mirror limits`: shows the remaining pull limit of a registry.

use clap::Args;
use docker_mirror::{DOCKER_HUB, Error, RateLimit, Reference, Result, human_duration};

use super::connection::{MirrorFlags, Shared};
use super::output::{self, Outcome, counted};
use super::progress::Display;
use super::report::{QuotaReport, Reporting};
use super::status::Work;

/// Image that Docker Hub provides for asking about the pull limit.
const HUB_PREVIEW: &str = "ratelimitpreview/test:latest";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A registry, or an image on it, where a registry limits the pulls of some images only [default: docker.io]
    #[arg(value_name = "REGISTRY|IMAGE")]
    registry: Option<String>,

    #[command(flatten)]
    pub(super) reporting: Reporting,

    #[command(flatten)]
    pub(super) shared: Shared,
}

pub(super) async fn run(arguments: Arguments) -> Result<Outcome> {
    let asked = arguments.registry.as_deref().unwrap_or(DOCKER_HUB);
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&asked);
    let bare = !hub && is_registry(asked);
    let image: Reference = if hub {
        HUB_PREVIEW.parse()?
    } else {
        // A reference needs a repository; the name is arbitrary, since only the root of the registry is asked.
        let image = if bare { format!("{asked}/any") } else { asked.to_owned() };
        image
            .parse()
            .map_err(|e: Error| e.with_hint("name a registry, such as `registry.example.com`, or an image on it"))?
    };
    let display = Display::new(Work::Asking, &arguments.shared);
    let progress = display.progress();
    let registries = arguments
        .shared
        .sources(&[image.host()], &MirrorFlags::default(), None, &progress)?;
    let registry = registries.host(image.host())?;
    let limit = if bare {
        registry.rate_limit_of_root().await
    } else {
        registry.rate_limit(image.repository(), &image.target()).await
    };
    display.finish();
    let limit = limit?;
    arguments
        .reporting
        .keep_quota(QuotaReport::new(image.host(), limit.as_ref()));
    match limit {
        Some(limit) => output::result(format!("{}: {}", image.host(), describe(&limit))),
        None => output::result(format!("{}: no limit is stated", image.host())),
    }
    Ok(Outcome::Success)
}

/// Returns whether a text names a registry and not an image: no path, and a dot before the port or the name `localhost`.
fn is_registry(text: &str) -> bool {
    let text = text.trim_end_matches('/');
    let (name, _) = text.split_once(':').unwrap_or((text, ""));
    !text.contains('/') && !text.contains('@') && (name.contains('.') || name == "localhost" || name.starts_with('['))
}

/// Returns a pull limit in words.
pub(super) fn describe(limit: &RateLimit) -> String {
    let mut text = match (limit.remaining, limit.limit) {
        (Some(remaining), Some(limit)) => format!("{remaining} of {} left", counted(limit, "pull is", "pulls are")),
        (Some(remaining), None) => format!("{} left", counted(remaining, "pull is", "pulls are")),
        (None, Some(limit)) => format!("{} allowed", counted(limit, "pull is", "pulls are")),
        (None, None) => "a limit is stated, but no number".to_owned(),
    };
    if let Some(window) = limit.window {
        text.push_str(&format!(" in {}", human_duration(window)));
    }
    if let Some(source) = &limit.source {
        text.push_str(&format!(", counted for {source}"));
    }
    text
}
