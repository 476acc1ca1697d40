//! The images of a command, from its arguments and lists in files, including patterns of tags.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use docker_mirror::{
    CheckedList, Error, Expanded, ImageList, Kind, MAX_LIST, PlatformFilter, Reference, Registries, Rename, Result,
    expand, few, quote, read_named, text_as_utf8, wait_for_pipe,
};

use super::bundles::{SILENT_STDIN, bundle_hint, is_archive};
use super::connection::Shared;
use super::output;
use super::values::whole;

/// The images of a command that reads registries.
#[derive(Debug, Clone, Args)]
pub(super) struct ImageFlags {
    /// Images, such as golang:alpine, quay.io/a/b:1 or name@sha256:…; tags by pattern: 'acme/app:1.*', 'acme/app:~1.4',
    /// 'latest 3 of acme/app'; '!acme/app:*-rc*' leaves out
    #[arg(value_name = "IMAGE", required_unless_present = "lists")]
    pub(super) arguments: Vec<String>,

    /// Read images from a file, one on each line; `-` for standard input; repeatable
    #[arg(short = 'f', long = "images", value_name = "FILE")]
    pub(super) lists: Vec<PathBuf>,

    /// The most tags that one pattern may match
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = whole::<u32>(1, 100_000))]
    max_tags: u32,
}

/// Makes a list from references that are already parsed.
pub(super) fn from_references<'a>(references: impl Iterator<Item = &'a Reference>) -> Result<CheckedList> {
    let mut list = ImageList::default();
    references.for_each(|reference| list.add_argument(&reference.to_string()));
    list.check().map_err(|(faults, more)| sum_up(faults, more))
}

impl ImageFlags {
    /// Reads and checks all images, and reports all faults together so that a user can correct them in one go.
    ///
    /// # Errors
    /// [`Kind::Usage`] with a part for each fault.
    pub(super) fn read(&self) -> Result<CheckedList> {
        let mut list = ImageList::default();
        for argument in &self.arguments {
            let path = Path::new(argument);
            if is_archive(path) {
                let what = format!("`{}` is an archive, and not the name of an image", quote(path));
                list.add_unreadable(Error::new(Kind::Usage, what).with_hint(bundle_hint(path)));
                continue;
            }
            list.add_argument(argument);
            if path.is_file() {
                output::say(format!(
                    "warning: `{0}` is taken for an image, though there is a file of this name; a list in a file is given with \
                     `--images {0}`",
                    quote(argument)
                ));
            }
        }
        let stdin = self.lists.iter().filter(|path| path.as_os_str() == "-").count();
        if stdin > 1 {
            return Err(Error::new(
                Kind::Usage,
                "`--images -` appears twice, and standard input can be read once",
            ));
        }
        for path in &self.lists {
            match read_list(path) {
                Ok((name, bytes)) => list.add_file(&name, text_as_utf8(bytes)),
                Err(error) => list.add_unreadable(error),
            }
        }
        let list = list.check().map_err(|(faults, more)| sum_up(faults, more))?;
        for warning in &list.warnings {
            output::say(format!("warning: {warning}"));
        }
        Ok(list)
    }

    /// Expands patterns to the matching tags of their registries, and prints which tags match.
    pub(super) async fn expand(&self, list: CheckedList, registries: &Registries, shared: &Shared) -> Result<Expanded> {
        let most = usize::try_from(self.max_tags).unwrap_or(usize::MAX);
        let expanded = expand(list, registries, most, shared.jobs()).await?;
        for warning in &expanded.warnings {
            output::say(format!("warning: {warning}"));
        }
        for note in &expanded.notes {
            output::info(format!("note: {note}"));
        }
        if expanded.images.is_empty() && expanded.failed.is_empty() {
            return Err(Error::new(
                Kind::Usage,
                "no image is left: lines that begin with `!` leave all of them out",
            ));
        }
        Ok(expanded)
    }
}

fn read_list(path: &Path) -> Result<(String, Vec<u8>)> {
    if path.as_os_str() != "-" {
        if is_archive(path) {
            let what = format!("`--images {}`: it is an archive, and no list of images", quote(path));
            return Err(Error::new(Kind::Usage, what).with_hint(bundle_hint(path)));
        }
        let read = read_named(path, MAX_LIST).map_err(|e| match e.kind() {
            std::io::ErrorKind::IsADirectory => {
                Error::new(Kind::Usage, format!("`--images {}`: it is a folder", quote(path)))
                    .with_hint("name a file with one image on each line")
            }
            _ => Error::io("read", path, e).context("`--images`"),
        })?;
        return Ok((path.to_string_lossy().into_owned(), read));
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Error::new(
            Kind::Usage,
            "`--images -` reads a list from standard input, which is a terminal",
        )
        .with_hint("write `... | docker-mirror export --images - -o bundle.tar`"));
    }
    wait_for_pipe(&stdin, || output::info(SILENT_STDIN));
    let mut bytes = Vec::new();
    let read = stdin.lock().take(MAX_LIST + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::new(Kind::Usage, "cannot read the list from standard input").with_source(e))?;
    Ok(("standard input".to_owned(), bytes))
}

/// Joins all faults of the lists into one error whose parts are named by their place (argument, or file and line).
fn sum_up(mut faults: Vec<Error>, more: usize) -> Error {
    if faults.len() == 1 && more == 0 {
        return faults.remove(0);
    }
    let named = faults.into_iter().map(|fault| {
        let text = fault.to_string();
        let place = text.split_once(": ").map_or(text.as_str(), |(place, _)| place);
        (place.trim_matches('`').to_owned(), fault)
    });
    let parts: Vec<(String, Error)> = named.collect();
    let title = match more {
        0 => format!("{} names or lines are wrong; nothing was done", parts.len()),
        _ => format!(
            "{} names or lines are wrong; nothing was done; the first {} are",
            parts.len() + more,
            parts.len()
        ),
    };
    Error::new(Kind::Usage, title).with_parts(parts)
}

/// Joins the errors of all patterns that could not be resolved into one error.
pub(super) fn unresolved(mut failed: Vec<(String, Error)>) -> Error {
    if failed.len() == 1 {
        let (_, error) = failed.remove(0);
        return error;
    }
    let kind = failed[0].1.kind();
    let kind = if failed.iter().all(|(_, error)| error.kind() == kind) {
        kind
    } else {
        Kind::Incomplete
    };
    let title = format!("{} patterns cannot be resolved; nothing was fetched", failed.len());
    Error::new(kind, title).with_parts(failed)
}

/// Returns the platforms of each image that has its own platforms in the list.
pub(super) fn exceptions(asked: &Expanded) -> BTreeMap<Reference, PlatformFilter> {
    let exceptions = asked.images.iter();
    exceptions
        .filter_map(|image| Some((image.reference.clone(), image.platforms.clone()?)))
        .collect()
}

/// Returns the destination of each image that has its own destination in the list.
pub(super) fn destinations(asked: &Expanded) -> HashMap<Reference, Rename> {
    let renamed = asked.images.iter();
    renamed
        .filter_map(|image| Some((image.reference.clone(), image.destination.clone()?)))
        .collect()
}

/// Warns that an export ignores the destinations in the list, since a bundle does not store destinations.
pub(super) fn warn_of_destinations(asked: &Expanded) {
    let renamed: Vec<String> = asked
        .images
        .iter()
        .filter(|image| image.destination.is_some())
        .map(|image| format!("`{}`", image.reference))
        .collect();
    if !renamed.is_empty() {
        output::say(format!(
            "warning: the destination of {} is not used: an export makes a bundle, and `import --map SRC=DST` says where its \
             images go",
            few(&renamed)
        ));
    }
}
