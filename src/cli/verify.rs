//! `docker-mirror verify`: checks every byte of bundles against their digests, without a registry.

use std::path::{Path, PathBuf};

use clap::Args;
use docker_mirror::{
    Bundle, Checked, Fault, FaultKind, GivenName, Incoming, Line, Missing, OpenOptions, Progress, Result, Verification,
    VerifiedFile, VerifyOptions, WantList, few, human_bytes, missing_in_words, quote, verify,
};
use serde::Serialize;

use super::bundles::{check_named, check_readable, is_stdin, only_pipe, read_blocking, stdin, warnings_of_unfinished};
use super::connection::Shared;
use super::distinct_files;
use super::memory;
use super::output::{Outcome, counted, info, result, say};
use super::output_file::OutputFile;
use super::progress::Display;
use super::report::{Reporting, Tool};
use super::status::Work;

/// Text that every want-list begins with.
pub(super) const WANT_START: &str = "docker-mirror want-list ";

/// Maximum number of hints about single faults that are shown.
const MAX_HINTS: usize = 10;

/// Version of the schema of the `--json` document.
const VERSION: u32 = 1;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Bundles, archives of other programs, or folders with an OCI layout or with bundles; blobs are shared among them. `-` alone
    /// is one bundle from a pipe
    #[arg(value_name = "BUNDLE", required = true)]
    pub(super) bundles: Vec<PathBuf>,

    /// Unpack the layers too, and compare their content with what the configs promise
    #[arg(long)]
    deep: bool,

    /// Write which blobs are damaged or absent to this file: what `export --want` needs to fetch just these
    #[arg(long, value_name = "FILE")]
    want: Option<PathBuf>,

    /// The name of the image in an archive that has none, as for `import`; repeatable
    #[arg(long, value_name = "[@N=|DIGEST=]IMAGE")]
    name: Vec<GivenName>,

    #[command(flatten)]
    pub(super) reporting: Reporting,

    #[command(flatten)]
    pub(super) shared: Shared,
}

impl Arguments {
    /// Checks that the want-list and the report are files of their own.
    ///
    /// # Errors
    /// Those of [`distinct_files::check`].
    pub(super) fn check_files(&self) -> Result<()> {
        distinct_files::check(&[("--want", self.want.as_deref()), self.reporting.file()], &[])
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<Outcome> {
    only_pipe(&arguments.bundles)?;
    let want = OutputFile::new("--want", "want-list", WANT_START, arguments.want.as_deref())?;
    check_named(&arguments.bundles)?;
    let display = match arguments.bundles.iter().any(|path| is_stdin(path)) {
        true => Display::of_stream(Work::Verifying, &arguments.shared, std::io::stdin()),
        false => Display::new(Work::Verifying, &arguments.shared),
    };
    let open = open_options(arguments.name.clone(), display.progress());
    let options = VerifyOptions {
        deep: arguments.deep,
        progress: display.progress(),
        ..VerifyOptions::default()
    };
    let paths = arguments.bundles.clone();
    let work = move || {
        let (bundle, rest) = open_all(&paths, &open, options.deep)?;
        check_readable(&bundle)?;
        verify(&bundle, rest, &options)
    };
    let verified = read_blocking(work).await?;
    display.finish();
    let mut verified = verified?;
    let unfinished: Vec<String> = warnings_of_unfinished(&arguments.bundles).collect();
    let is_unfinished = !unfinished.is_empty();
    verified.warnings.extend(unfinished);
    if let Some(want) = want {
        write_wanted(&want, &verified.wanted, verified.is_sound())?;
    }
    write(&arguments.reporting, &verified)?;
    if !arguments.reporting.json {
        print_verification(&verified, arguments.want.as_deref(), is_unfinished, result);
    }
    Ok(match verified.is_sound() {
        true => Outcome::Success,
        false => Outcome::Damaged,
    })
}

/// Returns the options to open bundles for a verification, which goes on after faults.
pub(super) fn open_options(names: Vec<GivenName>, progress: Progress) -> OpenOptions {
    OpenOptions {
        names,
        temp_dir: Some(std::env::temp_dir()),
        progress,
        budget: memory::budget(),
        sum: true,
        allow_none: true,
        continue_after_faults: true,
        ..OpenOptions::default()
    }
}

/// Writes the want-list. An empty list is written too, since a list of an earlier run would be taken for the answer of this one.
pub(super) fn write_wanted(file: &OutputFile, list: &WantList, is_sound: bool) -> Result<()> {
    file.write(&list.to_text())?;
    if list.is_empty() {
        let why = match is_sound {
            true => "nothing has to be fetched again",
            false => "nothing of what is wrong can be fetched",
        };
        info(format!(
            "note: {why}: the want-list `{}` has no blob",
            quote(file.path())
        ));
    }
    Ok(())
}

/// Opens the bundles. For a single file or pipe that is read once, the second value reads the layers; with `twice`, there
/// is no second value, and the layers can be read again.
pub(super) fn open_all(paths: &[PathBuf], options: &OpenOptions, twice: bool) -> Result<(Bundle, Option<Incoming>)> {
    match paths {
        [path] if is_stdin(path) && twice => Ok((
            Bundle::from_reader(stdin("verify -", &options.progress)?, "standard input", options)?,
            None,
        )),
        [path] if is_stdin(path) => Bundle::from_pipe(stdin("verify -", &options.progress)?, "standard input", options),
        [path] if twice => Ok((Bundle::open(std::slice::from_ref(path), options)?, None)),
        [path] => Bundle::open_passing(path, options),
        _ => Ok((Bundle::open(paths, options)?, None)),
    }
}

/// Prints a line for each fault, the checksums of the files and a verdict through `put`, and notes on standard error.
/// `list` is the file of the want-list, if one was requested, and `is_unfinished` says whether a file is an unfinished export,
/// which a warning says how to complete: no other hint applies then.
pub(super) fn print_verification(verified: &Verification, list: Option<&Path>, is_unfinished: bool, put: fn(String)) {
    for fault in &verified.faults {
        put(line(fault));
    }
    if verified.more_faults > 0 {
        put(counted(
            verified.more_faults,
            "more fault is not shown",
            "more faults are not shown",
        ));
    }
    for replaced in &verified.replaced {
        let what = described(replaced);
        say(match replaced.kind {
            FaultKind::Tar => format!("note: {what}; together with the supplement nothing is missing"),
            _ if replaced.hint.as_deref() == Some(Fault::REMADE) => format!("note: {what}; {}", Fault::REMADE),
            _ => format!("note: {what}; another bundle has the right bytes"),
        });
    }
    for warning in verified.warnings.iter() {
        say(format!("warning: {warning}"));
    }
    for file in &verified.files {
        put(format!("{}  {}", file.sha256, file.path));
    }
    let Checked {
        images,
        members,
        blobs,
        bytes,
        layers_unpacked,
        unpacked_bytes,
        layers_not_unpacked: _,
        unreferenced_blobs,
        unreferenced_bytes,
    } = verified.checked;
    let deep = match layers_unpacked {
        0 => String::new(),
        layers => format!(
            ", and {} unpacked ({})",
            counted(layers, "layer", "layers"),
            human_bytes(unpacked_bytes)
        ),
    };
    say(format!(
        "checked {}, {}, {} ({}) against their digests{deep}",
        counted(images, "image", "images"),
        counted(members, "member", "members"),
        counted(blobs, "blob", "blobs"),
        human_bytes(bytes)
    ));
    if unreferenced_blobs > 0 {
        say(format!(
            "note: {} ({}) belong to no image: nothing in the bundle refers to them",
            counted(unreferenced_blobs, "blob", "blobs"),
            human_bytes(unreferenced_bytes)
        ));
    }
    for missing in &verified.missing {
        say(format!(
            "note: {}",
            missing_in_words(&missing.reference, &missing.reason)
        ));
    }
    let mut hints: Vec<String> = Vec::new();
    for hint in verified.faults.iter().filter_map(|fault| fault.hint.as_deref()) {
        if hints.len() <= MAX_HINTS && !hints.iter().any(|known| known == hint) {
            hints.push(hint.to_owned());
        }
    }
    let is_explained = !hints.is_empty();
    hints.extend(next_step(verified, list, is_explained));
    hints
        .into_iter()
        .filter(|_| !is_unfinished)
        .for_each(|hint| say(format!("hint: {hint}")));
    put(verdict(verified, list));
}

/// Returns what to do about faults of the bundle as a whole. `is_explained` says whether a fault has a hint of its own.
fn next_step(verified: &Verification, list: Option<&Path>, is_explained: bool) -> Option<String> {
    let file = list.map_or_else(|| "FILE".to_owned(), |path| quote(&path).to_string());
    let fetch = format!("`docker-mirror export --want {file} -o supplement.tar`");
    match (verified.is_sound(), verified.wanted.is_empty(), list.is_some()) {
        (true, ..) => None,
        (false, true, _) if is_explained => None,
        (false, true, _) => Some(
            "no blob can be fetched for it: copy the file again and compare its SHA-256 with that of the original, or export the \
             images again"
                .to_owned(),
        ),
        (false, false, _) if verified.unread_manifests > 0 => Some(format!(
            "copy the file again if that is possible; otherwise fetch what the want-list (`--want {file}`) names with {fetch}, and \
             verify this bundle together with the supplement, with `--want` again: each time it finds what is missing one level \
             below"
        )),
        (false, false, true) => Some(format!(
            "{fetch} fetches what the list names; import the supplement together with this bundle"
        )),
        (false, false, false) => Some(format!(
            "run the command again with `--want FILE`, fetch what the list names with {fetch}, and import the supplement \
             together with this bundle"
        )),
    }
}

/// Returns the verdict: one line that begins with `SOUND` or `DAMAGED`.
fn verdict(verified: &Verification, list: Option<&Path>) -> String {
    let count = verified.faults.len() as u64 + verified.more_faults;
    let unread = match verified.unread_manifests {
        0 => String::new(),
        unread => format!(
            "; what {} list{} is unknown and may be damaged or missing as well",
            counted(unread, "damaged or missing manifest", "damaged or missing manifests"),
            if unread == 1 { "s" } else { "" }
        ),
    };
    match count {
        0 if verified.is_supplement => "SOUND as a supplement: every blob matches its digest; it has no image, and \
             completes a damaged bundle"
            .to_owned(),
        0 => {
            let missing = match verified.missing.len() {
                0 => "every image is complete".to_owned(),
                missing => format!(
                    "every image in it is complete; it lacks {} that the export asked for",
                    counted(missing as u64, "image", "images")
                ),
            };
            let packed = match verified.checked.layers_not_unpacked {
                0 => String::new(),
                layers => format!("; not unpacked: {}", counted(layers, "layer", "layers")),
            };
            let warnings = match verified.warnings.len() {
                0 => String::new(),
                warnings => format!("; {}", counted(warnings as u64, "warning", "warnings")),
            };
            format!("SOUND: every blob matches its digest, and {missing}{packed}{warnings}")
        }
        _ => {
            let wanted = match verified.wanted.len() {
                0 => String::new(),
                blobs => format!(
                    "; to fetch again: {} ({}), which `--want {}` lists",
                    counted(blobs as u64, "blob", "blobs"),
                    size_of(&verified.wanted),
                    list.map_or_else(|| "FILE".to_owned(), |path| quote(&path).to_string())
                ),
            };
            format!("DAMAGED: {}{wanted}{unread}", counted(count, "fault", "faults"))
        }
    }
}

/// Returns the size of all wanted blobs as text, with the number of those whose size is unknown.
fn size_of(wanted: &WantList) -> String {
    let known = human_bytes(wanted.bytes());
    match wanted.blobs().filter(|blob| blob.size.is_none()).count() {
        0 => known,
        unknown if unknown == wanted.len() => "of unknown size".to_owned(),
        unknown => format!("{known}, and {unknown} of unknown size"),
    }
}

fn described(fault: &Fault) -> String {
    // The name of a blob's member repeats the digest that the message begins with.
    let is_named = |member: &str| {
        let digest = fault.digest.as_ref().map(docker_mirror::Digest::hex);
        digest.is_some_and(|hex| member.ends_with(&hex) && fault.message.contains(&hex))
    };
    let names_file = |file: &Line| fault.message.contains(&*format!("`{file}`"));
    let place = match (&fault.file, &fault.member, fault.offset) {
        (Some(file), ..) if names_file(file) => String::new(),
        (Some(file), Some(member), Some(offset)) if is_named(member) => format!("`{file}` at offset {offset}: "),
        (Some(file), Some(member), Some(offset)) => format!("`{file}`: member `{member}` at offset {offset}: "),
        (Some(file), Some(member), None) => format!("`{file}`: member `{member}`: "),
        (Some(file), ..) => format!("`{file}`: "),
        (None, ..) => String::new(),
    };
    format!("{place}{}", fault.message)
}

fn line(fault: &Fault) -> String {
    let suffer = match (fault.images.len(), fault.more_images) {
        (0, _) => String::new(),
        (_, 0) => format!(" (images: {})", few(&fault.images)),
        (_, more) => format!(" (images: {} and {more} more)", few(&fault.images)),
    };
    let names_itself = fault.images.iter().all(|image| fault.message.contains(&**image));
    let suffer = if names_itself { String::new() } else { suffer };
    format!("FAULT {}{suffer}", described(fault))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    verify_version: u32,
    tool: Tool,
    sound: bool,
    files: &'a [VerifiedFile],
    checked: Checked,
    faults: &'a [Fault],
    more_faults: u64,
    replaced: &'a [Fault],
    wanted: Vec<Wanted<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [Missing],
    supplement: bool,
    warnings: &'a [Line],
}

#[derive(Serialize)]
struct Wanted<'a> {
    digest: &'a docker_mirror::Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    reference: String,
}

fn write(reporting: &Reporting, verified: &Verification) -> Result<()> {
    let wanted = verified.wanted.blobs().map(|blob| Wanted {
        digest: &blob.digest,
        size: blob.size,
        reference: blob.reference.to_string(),
    });
    reporting.write_result(&Document {
        verify_version: VERSION,
        tool: Tool::THIS,
        sound: verified.is_sound(),
        files: &verified.files,
        checked: verified.checked,
        faults: &verified.faults,
        more_faults: verified.more_faults,
        replaced: &verified.replaced,
        wanted: wanted.collect(),
        missing: &verified.missing,
        supplement: verified.is_supplement,
        warnings: &verified.warnings,
    })
}
