//! `docker-mirror diff`: shows the differences between two bundles, without a registry.

use std::path::{Path, PathBuf};

use clap::Args;
use docker_mirror::{
    ChangedImage, ChangedReferrer, Difference, Error, ImageState, Inventory, Kind, Lock, OpenOptions, PieceAmount,
    ReferrerChoice, ReferrerState, Result, few, human_bytes, import::Selection, inspect, open_regular, quote,
    text_as_utf8,
};
use serde::Serialize;
use std::io::Read;

use super::connection::Shared;
use super::input_file::read_lock;
use super::output::{self, Outcome, counted, result};
use super::progress::Display;
use super::report::{Reporting, Tool};
use super::status::Work;
use super::{bundles, memory};

/// Version of the schema of the `--json` document.
const VERSION: u32 = 1;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The old side: a bundle, an archive of another program, a folder, or a lock
    #[arg(value_name = "OLD")]
    pub(super) old: PathBuf,

    /// The new side, as the old one
    #[arg(value_name = "NEW")]
    pub(super) new: PathBuf,

    /// End with exit code 1 where there is a difference, and with 2 where a side cannot be compared
    #[arg(long)]
    exit_code: bool,

    #[command(flatten)]
    pub(super) reporting: Reporting,

    #[command(flatten)]
    pub(super) shared: Shared,
}

pub(super) async fn run(arguments: Arguments) -> Result<Outcome> {
    let Arguments { old, new, .. } = &arguments;
    if bundles::is_stdin(old) && bundles::is_stdin(new) {
        return Err(Error::new(Kind::Usage, "only one side can come from standard input")
            .with_hint("save the bundle in the pipe to a file first"));
    }
    bundles::check_named(&[old.clone(), new.clone()])?;
    let display = Display::new(Work::Asking, &arguments.shared);
    let progress = display.progress();
    let (old, new) = (old.clone(), new.clone());
    let work = move || {
        let options = OpenOptions {
            temp_dir: Some(std::env::temp_dir()),
            progress: progress.clone(),
            budget: memory::budget(),
            allow_none: true,
            ..OpenOptions::default()
        };
        bundles::warnings_of_unfinished(&[old.clone(), new.clone()]).for_each(|warning| progress.warn(warning));
        // Reads the bundles in sequence, so that the documents of the first are dropped before the second is read. The inventory
        // of the first bundle still counts against the memory budget.
        let old = read(&old, &options)?;
        let new = read(&new, &options)?;
        let has_images = !(old.images.is_empty() && new.images.is_empty());
        Ok::<_, Error>((Difference::new(&old, &new), old.broken, new.broken, has_images))
    };
    let compared = bundles::read_blocking(work).await?;
    display.finish();
    let (difference, mut old_broken, mut new_broken, has_images) =
        compared.map_err(|error| match arguments.exit_code {
            // Exit code 1 says that there is a difference.
            true if Outcome::from_error(&error, true) == Outcome::Failure => error.with_kind(Kind::Usage),
            _ => error,
        })?;
    for (path, broken) in [(&arguments.old, &mut old_broken), (&arguments.new, &mut new_broken)] {
        // An image without a name is called by its place in the archive.
        let nameless = broken.iter_mut().filter(|image| image.label.contains(":@"));
        nameless.for_each(|image| image.error = named_by_lock(path, &image.error).into());
    }
    arguments.reporting.write_result(&Document {
        diff_version: VERSION,
        tool: Tool::THIS,
        difference: &difference,
    })?;
    if !arguments.reporting.json {
        print(&difference);
    }
    output::print_unusable(old_broken.iter().chain(&new_broken));
    let outcome = Outcome::from_unusable(old_broken.iter().chain(&new_broken), has_images);
    Ok(match outcome {
        Outcome::Success if arguments.exit_code && !difference.is_empty() => Outcome::Failure,
        // Exit code 1 says that there is a difference.
        Outcome::Failure if arguments.exit_code => Outcome::Usage,
        outcome => outcome,
    })
}

/// Replaces the hint about a missing name: this command has no `--name`, and a lock holds the name.
fn named_by_lock(path: &Path, error: &Error) -> Error {
    let path = quote(&path).to_string();
    Error::clone(error).with_hint(format!(
        "make a lock with its name, and compare the lock: `docker-mirror inspect {path} --name REPOSITORY:TAG --lock {path}.lock`"
    ))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    diff_version: u32,
    tool: Tool,
    #[serde(flatten)]
    difference: &'a Difference,
}

/// Reads one side of the comparison: a lock, or any archive that `inspect` can read.
fn read(path: &Path, options: &OpenOptions) -> Result<Inventory> {
    match lock(path)? {
        Some(lock) => Ok(lock.into_inventory()),
        None => {
            let bundle = bundles::open_front(std::slice::from_ref(&path.to_owned()), options)?;
            bundles::check_readable(&bundle)?;
            bundles::check_no_broken_archive(&bundle)?;
            if bundle.is_supplement() {
                let what = format!("`{}` is a supplement, which has no image to compare", quote(&path));
                return Err(Error::new(Kind::Usage, what));
            }
            let select = Selection {
                referrers: ReferrerChoice::all(),
                ..Selection::default()
            };
            inspect(&bundle, &select, false)
        }
    }
}

/// Reads the lock in a file. Returns `None` if the file does not begin with a brace, as a lock or a report does.
fn lock(path: &Path) -> Result<Option<Lock>> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut head = [0; 64];
    let got = open_regular(path)
        .and_then(|mut file| file.read(&mut head))
        .unwrap_or(0);
    // An editor or a shell may have written the lock in another encoding, which `export --lock` reads too.
    if !text_as_utf8(head[..got].to_vec()).trim_ascii_start().starts_with(b"{") {
        return Ok(None);
    }
    Ok(Some(read_lock(path).map_err(|e| e.with_kind(Kind::Usage))?))
}

fn print(difference: &Difference) {
    for image in &difference.added {
        result(format!("+ {}", whole(image)));
    }
    for image in &difference.removed {
        result(format!("- {}", whole(image)));
    }
    for image in &difference.changed {
        changed(image);
    }
    let Difference {
        added,
        removed,
        changed,
        unchanged,
        came,
        went,
        stayed,
    } = difference;
    result(format!(
        "{} added, {} removed, {} changed, {unchanged} unchanged",
        counted(added.len() as u64, "image", "images"),
        removed.len(),
        changed.len()
    ));
    result(format!(
        "{} came, {} went, {} stayed",
        amount(*came),
        amount(*went),
        amount(*stayed)
    ));
}

fn whole(image: &ImageState) -> String {
    let platforms = few(image.platforms.iter().map(|platform| quote(platform)));
    format!(
        "{} {} ({platforms}; {})",
        quote(&image.reference),
        image.digest,
        human_bytes(image.bytes)
    )
}

fn changed(image: &ChangedImage) {
    let name = quote(&image.reference);
    result(match image.moved {
        true => format!("~ {name} {} -> {}", image.old_digest, image.new_digest),
        false => format!("~ {name} {}", image.new_digest),
    });
    let sides = [
        ("platforms added", &image.platforms_added),
        ("platforms removed", &image.platforms_removed),
        ("platforms changed", &image.platforms_changed),
    ];
    for (what, platforms) in sides.into_iter().filter(|(_, platforms)| !platforms.is_empty()) {
        result(format!(
            "    {what}: {}",
            few(platforms.iter().map(|platform| quote(platform)))
        ));
    }
    for (what, referrers) in [
        ("referrers added", &image.referrers_added),
        ("referrers removed", &image.referrers_removed),
    ] {
        if !referrers.is_empty() {
            let each = |it: &ReferrerState| format!("{} {}", quote(&it.artifact_type), it.digest);
            result(format!("    {what}: {}", few(referrers.iter().map(each))));
        }
    }
    if !image.referrers_changed.is_empty() {
        let each = |it: &ChangedReferrer| {
            let kind = quote(&it.artifact_type);
            format!("{kind} {} -> {}", it.old_digest, it.new_digest)
        };
        let changed = few(image.referrers_changed.iter().map(each));
        result(format!("    referrers changed: {changed}"));
    }
    result(format!("    {} came, {} went", amount(image.came), amount(image.went)));
}

fn amount(amount: PieceAmount) -> String {
    let pieces = counted(amount.pieces as u64, "blob", "blobs");
    format!("{pieces} ({})", human_bytes(amount.bytes))
}
