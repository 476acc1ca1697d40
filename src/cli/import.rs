//! `docker-mirror import`: pushes the images of bundles to a registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use docker_mirror::{
    Bundle, Error, GivenName, Incoming, IndexMode, Kind, OpenOptions, PlatformFilter, Progress, Result, Verification,
    VerifyOptions, WantList, few, few_with,
    import::{self, Selection},
    push::{PushReport, PushRequest},
    quote, verify,
};

use super::bundles::{check_named, check_readable, is_stdin, only_pipe, read_blocking, stdin, warnings_of_unfinished};
use super::connection::Shared;
use super::distinct_files;
use super::memory;
use super::output::{LeftOutBy, Outcome, counted, say};
use super::output_file::OutputFile;
use super::progress::Display;
use super::push::Target;
use super::referrer_flags::ReferrerFlags;
use super::report::Reporting;
use super::status::Work;
use super::verify::{WANT_START, open_options, print_verification, write_wanted};

#[derive(Debug, Clone, Args)]
pub(super) struct Arguments {
    /// Bundles, archives of other programs, or folders with an OCI layout or with bundles; blobs are shared among them.
    /// `-` alone is one bundle from a pipe
    #[arg(value_name = "BUNDLE", required = true)]
    pub(super) bundles: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) target: Target,

    /// Import only images whose reference matches this pattern, such as '*/library/*'; repeatable
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,

    /// The name of the image in an archive that has none. `@N=IMAGE` names the one that the archive lists at place N, counted
    /// from 0, and `sha256:...=IMAGE` the one of this digest, whether they have a name or not; repeatable
    #[arg(long, value_name = "[@N=|DIGEST=]IMAGE")]
    name: Vec<GivenName>,

    /// Platform to import, of those in the bundle; repeatable [default: all that the bundle has]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<String>,

    /// What the tag points to when platforms were left out: auto, filtered or sparse [default: what the bundle says]
    #[arg(long, value_name = "MODE")]
    index: Option<IndexMode>,

    /// Verify the bundles before anything is sent, and send nothing if something is wrong with them
    #[arg(long)]
    verify: bool,

    /// If the import fails, write which blobs are damaged or absent to this file: what `export --want` needs to fetch just these
    #[arg(long, value_name = "FILE")]
    want: Option<PathBuf>,

    #[command(flatten)]
    referrers: ReferrerFlags,

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

/// Returns whether a bundle can be read only once.
fn is_pipe(path: &Path) -> bool {
    is_stdin(path) || (path.exists() && !path.is_file() && !path.is_dir())
}

/// Verifies the bundles without a registry.
async fn verified(arguments: &Arguments, progress: Progress) -> Result<Verification> {
    let (paths, names) = (arguments.bundles.clone(), arguments.name.clone());
    if let Some(pipe) = paths.iter().find(|path| is_pipe(path)) {
        let what = format!(
            "`{}` can be read once, so that it cannot be verified by `--verify` or `--want`",
            quote(pipe)
        );
        return Err(Error::new(Kind::Usage, what).with_hint("save what is in the pipe to a file first"));
    }
    check_named(&paths)?;
    let work = move || {
        let options = open_options(names, progress.clone());
        let bundle = Bundle::open(&paths, &options)?;
        check_readable(&bundle)?;
        let options = VerifyOptions {
            progress,
            ..VerifyOptions::default()
        };
        verify(&bundle, None, &options)
    };
    read_blocking(work).await?
}

/// Returns the report of an import that sends nothing, since its bundles have faults.
fn refused(arguments: &Arguments, found: Verification) -> PushReport {
    let count = found.faults.len() as u64 + found.more_faults;
    let bundles = few(arguments.bundles.iter().map(|path| format!("`{}`", quote(path))));
    let first = found.faults.first().map(|fault| format!(": {}", fault.message));
    let what = format!(
        "{bundles}: {} found by `--verify`, and nothing was sent{}",
        counted(count, "fault was", "faults were"),
        first.unwrap_or_default()
    );
    let error = Error::new(Kind::Integrity, what);
    let error = match found.faults.iter().find_map(|fault| fault.hint.clone()) {
        Some(hint) => error.with_hint(hint),
        None if found.wanted.is_empty() => error,
        None => error.with_hint("`docker-mirror verify BUNDLE --want FILE` lists what to fetch again"),
    };
    PushReport {
        files: found.files,
        warnings: found.warnings,
        ..PushReport::ended(false, &error)
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<Outcome> {
    let want = OutputFile::new("--want", "want-list", WANT_START, arguments.want.as_deref())?;
    let Some(want) = want else {
        let (bundles, verified) = (arguments.bundles.clone(), arguments.verify);
        let mut is_from_registry = None;
        let outcome = import_all(arguments, &mut is_from_registry).await;
        // Only blobs can be listed: not a document of the archive that cannot be read.
        let may_want = match &outcome {
            Ok(outcome) => *outcome == Outcome::Damaged,
            Err(error) => {
                let is_cut = error.hint().is_some_and(|hint| hint.contains("truncated"));
                Outcome::from_error(error, true) == Outcome::Damaged
                    && (is_cut || (error.hint().is_none() && error.kind() == Kind::Integrity))
            }
        };
        if verified || !may_want {
            return outcome;
        }
        let hint = read_blocking(move || want_hint(&bundles, is_from_registry)).await;
        // An error of the hint says nothing about the import.
        return match (outcome, hint.ok().flatten()) {
            (Ok(outcome), Some(hint)) => {
                say(format!("hint: {hint}"));
                Ok(outcome)
            }
            (Err(error), Some(hint)) => Err(match error.hint().map(|first| format!("{first}; {hint}")) {
                Some(both) => error.with_hint(both),
                None => error.with_hint(hint),
            }),
            (outcome, None) => outcome,
        };
    };
    // A failed import is followed by a verification, which lists every damaged or missing blob for the want-list.
    let again = arguments.clone();
    let outcome = import_all(arguments, &mut None).await;
    let (list, is_sound) = match &outcome {
        Ok(Outcome::Success) => (WantList::default(), true),
        Err(error) if error.kind() == Kind::Usage => return outcome,
        _ => {
            let found = verified(&again, Progress::silent()).await?;
            let is_sound = found.is_sound();
            (found.wanted, is_sound)
        }
    };
    write_wanted(&want, &list, is_sound)?;
    if !list.is_empty() {
        let path = quote(want.path());
        say(format!(
            "wrote `{path}`: {}; `docker-mirror export --want {path} -o supplement.tar` fetches what it lists, and an import of the \
             supplement together with this bundle completes it",
            counted(list.len() as u64, "blob", "blobs")
        ));
    }
    outcome
}

/// Returns how to fetch only the damaged blobs; `None` where a want-list would have none: for a pipe, which cannot be read again,
/// and for archives in the format of `docker save`, whose layers no registry has.
/// `is_from_registry` is what the import set, or `None` if it could not open the bundles.
fn want_hint(bundles: &[PathBuf], is_from_registry: Option<bool>) -> Option<String> {
    if bundles.iter().any(|path| is_pipe(path)) {
        return None;
    }
    let options = OpenOptions {
        sum: false,
        // A hint is not worth the time and the disk to unpack a compressed archive once more.
        temp_dir: None,
        ..open_options(Vec::new(), Progress::silent())
    };
    let opens = |path: &PathBuf| Bundle::open_front(path, &options).is_ok_and(|bundle| has_registry_image(&bundle));
    if !is_from_registry.unwrap_or_else(|| bundles.iter().any(opens)) {
        return None;
    }
    let bundles = few_with(bundles.iter().map(|path| quote(path).to_string()), " ");
    Some(format!(
        "`docker-mirror verify {bundles} --want want.txt` lists what is damaged, so that only that has to be fetched again"
    ))
}

/// Returns whether a bundle has an image that was not made from an archive in the format of `docker save`.
fn has_registry_image(bundle: &Bundle) -> bool {
    bundle.images().iter().any(|image| !image.rebuilt)
}

/// Imports the bundles. Sets `is_from_registry` to the result of [`has_registry_image`] once they are open.
async fn import_all(arguments: Arguments, is_from_registry: &mut Option<bool>) -> Result<Outcome> {
    only_pipe(&arguments.bundles)?;
    let unfinished: Vec<String> = warnings_of_unfinished(&arguments.bundles).collect();
    unfinished.iter().for_each(|warning| say(format!("warning: {warning}")));
    if arguments.verify {
        let display = Display::new(Work::Verifying, &arguments.shared);
        let found = verified(&arguments, display.progress()).await;
        display.finish();
        let found = found?;
        print_verification(&found, arguments.want.as_deref(), !unfinished.is_empty(), say);
        if !found.is_sound() {
            arguments.reporting.keep(refused(&arguments, found), None);
            return Ok(Outcome::Damaged);
        }
    }
    let left_out_by = match arguments.platform.is_empty() {
        true => LeftOutBy::Bundle,
        false => LeftOutBy::Request,
    };
    let mut request = arguments.target.request(arguments.index)?;
    request.with_lock = arguments.reporting.is_wanted();
    let select = Selection {
        only: arguments.only,
        platforms: match arguments.platform.as_slice() {
            [] => None,
            flags => Some(PlatformFilter::from_flags(flags)?),
        },
        referrers: arguments.referrers.choice()?,
    };
    request.require_referrers = select.referrers.is_required();
    let display = match arguments.bundles.iter().any(|path| is_stdin(path)) {
        true => Display::of_stream(arguments.target.work(), &arguments.shared, std::io::stdin()),
        false => Display::new(arguments.target.work(), &arguments.shared),
    };
    arguments.reporting.watch(&display.status);
    let progress = display.progress();
    let registries = arguments
        .shared
        .destination(request.destination.host(), None, &progress)?;
    let options = OpenOptions {
        names: arguments.name,
        temp_dir: Some(std::env::temp_dir()),
        progress: progress.clone(),
        budget: memory::budget(),
        sum: request.with_lock && !request.dry_run,
        ..OpenOptions::default()
    };
    let bundles = arguments.bundles;
    check_named(&bundles)?;
    let opened = match bundles.iter().any(|path| is_pipe(path)) {
        // A pipe may be silent for any time, and an interrupt must be heard meanwhile.
        true => read_blocking(move || open(&bundles, &options)).await?,
        // On this thread: what reading leaves free serves the push, and would not in the heap of another thread.
        false => open(&bundles, &options),
    };
    let (bundle, rest) = opened.map_err(|error| match error.kind() {
        // The paths exist, so the error means that the named folders contain no bundles, or none of a supported format.
        Kind::NotFound | Kind::Unsupported => error.with_kind(Kind::Usage),
        _ => error,
    })?;
    *is_from_registry = Some(has_registry_image(&bundle));
    let bundle = Arc::new(bundle);
    let report = match rest {
        Some(rest) => {
            let request = PushRequest {
                buffer: memory::pipe_buffer(PushRequest::BUFFER, PushRequest::LEAST_BUFFER)?,
                ..request
            };
            import::import_pipe(bundle, rest, select, request, &registries, progress).await
        }
        None => import::import(bundle, select, request, &registries, progress).await,
    };
    registries.note_concurrency();
    display.finish();
    Ok((arguments.target).report(report?, &display, &arguments.reporting, true, left_out_by))
}

/// Opens the bundles. A bundle from a pipe is read up to its layers; the second value reads the layers.
fn open(bundles: &[PathBuf], options: &OpenOptions) -> Result<(Bundle, Option<Incoming>)> {
    match bundles {
        [path] if is_stdin(path) => Bundle::from_pipe(
            stdin("import - -d REGISTRY", &options.progress)?,
            "standard input",
            options,
        ),
        [path] => Bundle::open_one(path, options),
        _ => Ok((Bundle::open(bundles, options)?, None)),
    }
}
