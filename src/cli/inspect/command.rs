//! The command `inspect`.

use std::path::{Path, PathBuf};

use clap::Args;
use docker_mirror::{
    Bundle, Error, GivenName, Lock, OpenOptions, PlatformFilter, ReferrerChoice, Result, Sharing, import::Selection,
    inspect, quote,
};

use super::document;
use super::page;
use super::table;
use crate::cli::bundles;
use crate::cli::connection::Shared;
use crate::cli::distinct_files;
use crate::cli::memory;
use crate::cli::output::{self, Outcome, counted, say};
use crate::cli::output_file::OutputFile;
use crate::cli::progress::Display;
use crate::cli::report::Reporting;
use crate::cli::status::Work;

/// Text that every lock begins with.
pub(crate) const LOCK_START: &str = "{\n  \"lockVersion\"";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Bundles, archives of other programs, or folders with an OCI layout or with bundles. `-` alone is one bundle from a pipe, of
    /// which no more than the front is read
    #[arg(value_name = "BUNDLE", required = true)]
    pub(crate) bundles: Vec<PathBuf>,

    /// List the configs and layers of each platform too
    #[arg(long)]
    layers: bool,

    /// Show only images whose reference matches this pattern, such as '*/library/*'; repeatable
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,

    /// Show only this platform, and images that have it; repeatable
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<String>,

    /// The name of the image in an archive that has none, as for `import`; repeatable
    #[arg(long, value_name = "[@N=|DIGEST=]IMAGE")]
    name: Vec<GivenName>,

    /// Write a lock to this file: what `export --lock` needs to export the same again, with all platforms of the bundle
    #[arg(long, value_name = "FILE", conflicts_with = "platform")]
    lock: Option<PathBuf>,

    /// Write a page to this file that shows all of it in a browser
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) reporting: Reporting,

    #[command(flatten)]
    pub(crate) shared: Shared,
}

impl Arguments {
    /// Checks that the lock, the page and the report are files of their own.
    ///
    /// # Errors
    /// Those of [`distinct_files::check`].
    pub(crate) fn check_files(&self) -> Result<()> {
        let (lock, html) = (("--lock", self.lock.as_deref()), ("--html", self.html.as_deref()));
        distinct_files::check(&[lock, html, self.reporting.file()], &[])
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<Outcome> {
    let select = Selection {
        only: arguments.only.clone(),
        platforms: match arguments.platform.as_slice() {
            [] => None,
            flags => Some(PlatformFilter::from_flags(flags)?),
        },
        referrers: ReferrerChoice::all(),
    };
    bundles::only_pipe(&arguments.bundles)?;
    let lock = OutputFile::new("--lock", "lock", LOCK_START, arguments.lock.as_deref())?;
    let html = OutputFile::new("--html", "page of a bundle", page::START, arguments.html.as_deref())?;
    bundles::check_named(&arguments.bundles)?;
    let display = Display::new(Work::Asking, &arguments.shared);
    let options = OpenOptions {
        names: arguments.name.clone(),
        temp_dir: Some(std::env::temp_dir()),
        progress: display.progress(),
        budget: memory::budget(),
        allow_none: true,
        ..OpenOptions::default()
    };
    let (paths, with_texts) = (arguments.bundles.clone(), html.is_some());
    let read = move || {
        let bundle: Bundle = bundles::open_front(&paths, &options)?;
        bundles::check_readable(&bundle)?;
        let mut inventory = inspect(&bundle, &select, with_texts)?;
        inventory.warnings.extend(bundles::warnings_of_unfinished(&paths));
        Ok::<_, Error>(inventory)
    };
    let inventory = bundles::read_blocking(read).await?;
    display.finish();
    let inventory = inventory?;
    let sharing = Sharing::new(&inventory);
    // A lock of the others would look like a lock of the whole bundle.
    let is_unlocked = lock.is_some() && !inventory.broken.is_empty();
    if let Some(lock) = lock.filter(|_| !is_unlocked) {
        lock.write(&Lock::new(&inventory)?.to_text())?;
    }
    if let Some(html) = html {
        let files = arguments.bundles.iter().map(|path| file_size(path)).collect::<Vec<_>>();
        html.write(&page::render(&inventory, &sharing, &files))?;
    }
    document::write(&arguments.reporting, &inventory, &sharing)?;
    if !arguments.reporting.json {
        table::show(&inventory, &sharing, arguments.layers);
        output::print_unusable(inventory.broken.iter());
        say(unread(&arguments.bundles));
    }
    if is_unlocked {
        let count = counted(inventory.broken.len() as u64, "image or file", "images or files");
        say(format!(
            "error: the lock was not written: {count} of the bundle cannot be used"
        ));
    }
    Ok(Outcome::from_unusable(
        inventory.broken.iter(),
        !inventory.images.is_empty(),
    ))
}

/// Returns what the command did not check, and how to check it.
fn unread(bundles: &[PathBuf]) -> String {
    let bundles = match bundles {
        [one] if !bundles::is_stdin(one) => quote(one).to_string(),
        _ => "BUNDLE".to_owned(),
    };
    format!(
        "note: no layer was read: `docker-mirror verify {bundles}` checks every byte, and prints the SHA-256 of the file"
    )
}

/// Returns the path of a bundle, and its size in bytes if it is a file.
fn file_size(path: &Path) -> (String, Option<u64>) {
    let size = path.metadata().ok().filter(std::fs::Metadata::is_file);
    (quote(&path).to_string(), size.map(|found| found.len()))
}
