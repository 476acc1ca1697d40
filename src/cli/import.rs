//! `docker-mirror import`: stage two.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use docker_mirror::bundle::read::{Bundle, OpenOptions};
use docker_mirror::error::{Error, Kind, Result};
use docker_mirror::image::platform::PlatformFilter;
use docker_mirror::image::reference::Reference;
use docker_mirror::image::tree::IndexMode;
use docker_mirror::transfer::import::{self, Selection};

use super::connection::{Shared, Side};
use super::output::Outcome;
use super::progress::Display;
use super::push::Target;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Bundles, archives of other programs, or folders with an OCI layout or with bundles; blobs are shared among them; `-`
    /// for standard input, which is kept in a temporary file
    #[arg(value_name = "BUNDLE", required = true)]
    bundles: Vec<PathBuf>,

    #[command(flatten)]
    target: Target,

    /// Import only images whose reference matches this pattern, such as '*/library/*'; repeatable
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,

    /// The name of the image in an archive that has none
    #[arg(long, value_name = "IMAGE")]
    name: Option<Reference>,

    /// A platform to import, of those in the bundle; repeatable [default: all that the bundle has]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<String>,

    /// What becomes of an index of which platforms are dropped: auto, filtered or sparse [default: what the bundle says]
    #[arg(long, value_name = "MODE")]
    index: Option<IndexMode>,

    #[command(flatten)]
    pub(super) shared: Shared,
}

pub(super) async fn run(arguments: Arguments) -> Result<Outcome> {
    let request = arguments.target.request(arguments.shared.jobs(), arguments.index)?;
    let select = Selection {
        only: arguments.only,
        platforms: match arguments.platform.as_slice() {
            [] => None,
            flags => Some(PlatformFilter::from_flags(flags)?),
        },
    };
    let display = Display::new(arguments.shared.verbosity() > 0);
    let progress = display.progress();
    let hosts = [request.destination.host()];
    let registries = arguments
        .shared
        .registries(Side::Destination, &hosts, None, &progress)?;
    let options = OpenOptions {
        name: arguments.name,
        temp_dir: Some(std::env::temp_dir()),
    };
    let bundles = arguments.bundles;
    let from_stdin = bundles.iter().any(|path| path.as_os_str() == "-");
    if from_stdin && bundles.len() > 1 {
        return Err(Error::new(
            Kind::Usage,
            "standard input is imported alone, without other bundles",
        ));
    }
    let open = move || match from_stdin {
        true => Bundle::from_reader(std::io::stdin().lock(), "standard input", &options),
        false => Bundle::open(&bundles, &options),
    };
    let bundle = tokio::task::spawn_blocking(open)
        .await
        .map_err(|e| Error::new(Kind::Io, "reading the bundle was cut off").with_source(e))??;
    let report = import::import(Arc::new(bundle), select, request, &registries, progress).await;
    display.finish();
    arguments.target.tell(&report?)
}
