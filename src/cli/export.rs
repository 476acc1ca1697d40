//! `docker-mirror export`: fetches images from their registries into one file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use docker_mirror::{
    Digest, Error, IndexMode, Kind, Lock, MAX_WANT_LIST, PlatformFilter, Result, WantList, Wanted,
    export::{self, Compression, Output, Request, Reused, SupplementRequest, WrittenSupplement},
    human_bytes, quote,
};

use super::bundles::check_named;
use super::connection::{MirrorFlags, Shared};
use super::distinct_files;
use super::export_output;
use super::export_report::{self, Messages};
use super::images::{self, ImageFlags};
use super::input_file::{read_lock, read_text};
use super::memory;
use super::output::{self, LeftOutBy, Outcome};
use super::progress::Display;
use super::referrer_flags::ReferrerFlags;
use super::report::Reporting;
use super::status::Work;
use super::values::whole;

/// Flags that select platforms and referrers, shared with the one-step command.
#[derive(Debug, Clone, Args)]
pub(super) struct Selection {
    /// Platform to include, such as linux/arm64; repeatable; `all` for every platform [default: every linux platform]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(super) platform: Vec<String>,

    /// What the tag points to when platforms were left out: filtered (new digest), sparse (original digest), or auto: sparse
    /// for an image pinned by digest, else filtered
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(super) index: IndexMode,

    #[command(flatten)]
    pub(super) referrers: ReferrerFlags,
}

impl Selection {
    pub(super) fn wanted(&self) -> Result<Wanted> {
        Ok(Wanted {
            platforms: PlatformFilter::from_flags(&self.platform)?,
            index: self.index,
            referrers: self.referrers.choice()?,
            ..Wanted::default()
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) images: ImageFlags,

    /// The bundle to write; `-` for standard output
    #[arg(short, long, value_name = "BUNDLE.tar")]
    output: PathBuf,

    #[command(flatten)]
    selection: Selection,

    /// Overwrite an existing output file once the new bundle is complete
    #[arg(long)]
    force: bool,

    /// Start anew instead of continuing an unfinished export
    #[arg(long)]
    pub(super) fresh: bool,

    /// Write the bundle even if some images fail; missing ones are recorded in it. With `--want`, write the supplement without the
    /// blobs that are gone
    #[arg(long)]
    allow_partial: bool,

    /// Export exactly what a lock pins: the digests of an earlier bundle and of its signatures, without a look at any tag.
    /// `inspect --lock` writes one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arguments", "lists", "platform", "no_referrers", "referrers"])]
    pub(super) lock: Option<PathBuf>,

    /// Fetch only the blobs of a want-list, which complete a damaged bundle: `import DAMAGED.tar SUPPLEMENT.tar`. `verify --want`
    /// writes one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arguments", "lists", "platform", "lock"])]
    want: Option<PathBuf>,

    /// Show sizes, what would be fetched, and free space, without writing anything
    #[arg(long, conflicts_with = "want")]
    pub(super) dry_run: bool,

    /// Take blobs from an earlier bundle instead of the network; repeatable
    #[arg(long, value_name = "OLD.tar")]
    reuse: Vec<PathBuf>,

    /// Compress the whole bundle with gzip (also by an output named .tar.gz); saves little, since layers are compressed
    /// already; random access is lost, and such an export cannot be resumed
    #[arg(long, conflicts_with = "zstd")]
    gzip: bool,

    /// Compress the whole bundle with zstd (also by an output named .tar.zst); as for --gzip
    #[arg(long)]
    zstd: bool,

    /// Omit manifest.json (breaks `docker load` and `podman load`)
    #[arg(long)]
    no_docker_manifest: bool,

    /// Read-ahead when the output is a pipe, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = whole::<u32>(1, 65536))]
    read_ahead: u32,

    #[command(flatten)]
    pub(super) reporting: Reporting,

    #[command(flatten)]
    pub(super) shared: Shared,

    #[command(flatten)]
    mirrors: MirrorFlags,
}

impl Arguments {
    /// Checks that the bundle and the report are files of their own.
    ///
    /// # Errors
    /// Those of [`distinct_files::check`].
    pub(super) fn check_files(&self) -> Result<()> {
        let lists = self.images.lists.iter();
        let lists = lists.map(|path| ("--images", Some(path.as_path())));
        let inputs: Vec<_> = lists.chain([("--lock", self.lock.as_deref())]).collect();
        let report = self.reporting.file();
        distinct_files::check(&[("-o", Some(&self.output)), report], &inputs)?;
        if let Some(path) = report
            .1
            .filter(|path| self.output.as_os_str() == "-" && output::is_stdout(path))
        {
            let what = format!("`--report {}`: the bundle goes to standard output", quote(path));
            return Err(Error::new(Kind::Usage, what).with_hint("name a file for the report"));
        }
        // An interrupted run leaves these files, which the next run reads.
        let unfinished = [".partial", ".partial.journal"].map(|suffix| {
            let mut path = self.output.clone().into_os_string();
            path.push(suffix);
            PathBuf::from(path)
        });
        let [partial, journal] = &unfinished;
        distinct_files::check(&[("-o", Some(partial)), ("-o", Some(journal)), report], &[])
    }

    /// Returns whether another run of the same command continues a run that stopped.
    pub(super) fn resumes(&self) -> bool {
        self.output.as_os_str() != "-" && compression(self) == Compression::None
    }

    /// Returns the output for the bundle: a file, or standard output unless it is a terminal.
    fn output(&self) -> Result<Output> {
        if self.output.as_os_str() != "-" {
            return Ok(Output::File {
                path: self.output.clone(),
                force: self.force,
                fresh: self.fresh,
            });
        }
        Ok(Output::Pipe(Box::new(export_output::stdout()?)))
    }
}

fn compression(arguments: &Arguments) -> Compression {
    export_output::compression(&arguments.output, arguments.gzip, arguments.zstd)
}

/// Adds the line of the lock to an error that names a digest of the lock.
fn in_lock(error: Error, path: &Path, lock: &Lock) -> Error {
    let text = error.full();
    let digests = text
        .match_indices("sha256:")
        .filter_map(|(at, _)| text.get(at..at + 71)?.parse().ok());
    let line = digests.filter_map(|digest: Digest| lock.line_of(&digest)).next();
    match line {
        Some(line) => error.context(format!("`{}`, line {line}", quote(path))),
        None => error,
    }
}

/// Refuses earlier bundles that are missing or cannot be opened.
fn check_reused(arguments: &Arguments) -> Result<()> {
    check_named(&arguments.reuse).map_err(|e| e.context("`--reuse`"))
}

fn display(arguments: &Arguments) -> Arc<Display> {
    match arguments.output.as_os_str() == "-" {
        true => Display::of_stream(Work::Fetching, &arguments.shared, std::io::stdout()),
        false => Display::new(Work::Fetching, &arguments.shared),
    }
}

/// Fetches the blobs of a want-list.
async fn supplement(arguments: Arguments, path: &Path) -> Result<Outcome> {
    let named = |error: Error| error.context(format!("`{}`", quote(path)));
    let text = read_text(path, MAX_WANT_LIST).map_err(|e| e.with_kind(Kind::Usage))?;
    let list = WantList::parse(&text).map_err(|e| named(e.with_kind(Kind::Usage)))?;
    if list.is_empty() {
        output::info(format!(
            "nothing has to be fetched: the want-list `{}` has no blob, and no supplement was written",
            quote(path)
        ));
        return Ok(Outcome::Success);
    }
    check_reused(&arguments)?;
    let display = display(&arguments);
    let progress = display.progress();
    let hosts: BTreeSet<&str> = list.blobs().map(|blob| blob.reference.host()).collect();
    let hosts: Vec<&str> = hosts.into_iter().collect();
    let registries = arguments.shared.sources(&hosts, &arguments.mirrors, None, &progress)?;
    let request = SupplementRequest {
        list: path.to_owned(),
        allow_partial: arguments.allow_partial,
        output: arguments.output()?,
        compression: compression(&arguments),
        jobs: arguments.shared.jobs(),
        reuse: arguments.reuse.clone(),
        read_ahead: memory::read_ahead(u64::from(arguments.read_ahead) << 20),
    };
    export::check_output(&request.output)?;
    let written = export::supplement(&list, request, &registries, &progress).await;
    display.finish();
    let WrittenSupplement {
        reused: Reused { blobs, bytes },
        sha256,
        missing,
    } = written?;
    if blobs > 0 {
        let blobs = output::counted(blobs, "blob", "blobs");
        output::info(format!("{blobs}, {} came from earlier bundles", human_bytes(bytes)));
    }
    let mut blobs = output::counted((list.len() - missing) as u64, "blob", "blobs");
    if missing > 0 {
        blobs += &format!(" of {}", list.len());
    }
    let written = std::fs::metadata(&arguments.output)
        .ok()
        .filter(std::fs::Metadata::is_file);
    let sum = export_report::with_comma(sha256.as_ref());
    display.conclude(&match written {
        Some(file) if arguments.output.as_os_str() != "-" => format!(
            "wrote {}: a supplement with {blobs}, {}{sum}",
            quote(&arguments.output),
            human_bytes(file.len())
        ),
        _ => format!("wrote a supplement with {blobs}{sum}"),
    });
    Ok(match missing {
        0 => Outcome::Success,
        _ => Outcome::Partial,
    })
}

pub(super) async fn run(arguments: Arguments) -> Result<Outcome> {
    export_output::check_name(&arguments.output)?;
    export_output::check_compression(&arguments.output, compression(&arguments))?;
    export_output::check_ending(&arguments.output, compression(&arguments))?;
    if let Some(path) = arguments.want.clone() {
        return supplement(arguments, &path).await;
    }
    let lock = match &arguments.lock {
        Some(path) => Some((
            path.clone(),
            Arc::new(read_lock(path).map_err(|e| e.with_kind(Kind::Usage))?),
        )),
        None => None,
    };
    let list = match &lock {
        Some((_, lock)) => images::from_references(lock.images.iter().map(|image| &image.reference))?,
        None => arguments.images.read()?,
    };
    let mut wanted = arguments.selection.wanted()?;
    let to_pipe = arguments.output.as_os_str() == "-";
    if !arguments.dry_run {
        export::check_output(&arguments.output()?)?;
    }
    if to_pipe && arguments.reporting.json {
        return Err(Error::new(
            Kind::Usage,
            "standard output has either the bundle (`-o -`) or the document of `--json`",
        )
        .with_hint("write the document to a file: `--report FILE.json`"));
    }
    check_reused(&arguments)?;
    let display = display(&arguments);
    let progress = display.progress();
    let registries = arguments
        .shared
        .sources(&list.hosts(), &arguments.mirrors, None, &progress)?;
    let asked = arguments.images.expand(list, &registries, &arguments.shared).await?;
    if !asked.failed.is_empty() && (!arguments.allow_partial || asked.images.is_empty()) {
        display.finish();
        return Err(images::unresolved(asked.failed));
    }
    wanted.exceptions = images::exceptions(&asked);
    let is_asked = lock.is_some() || !wanted.exceptions.is_empty() || !arguments.selection.platform.is_empty();
    images::warn_of_destinations(&asked);
    wanted.lock = lock.as_ref().map(|(_, lock)| lock.clone());
    let request = Request {
        images: asked.images.iter().map(|image| image.reference.clone()).collect(),
        wanted,
        compression: compression(&arguments),
        jobs: arguments.shared.jobs(),
        allow_partial: arguments.allow_partial,
        dry_run: arguments.dry_run,
        docker_manifest: lock
            .as_ref()
            .map_or(!arguments.no_docker_manifest, |(_, lock)| lock.docker_manifest),
        with_lock: arguments.reporting.is_wanted(),
        reuse: arguments.reuse.clone(),
        read_ahead: memory::read_ahead(u64::from(arguments.read_ahead) << 20),
        budget: memory::budget(),
        file_system: None,
        output: arguments.output()?,
    };
    let report = export::export(request, &registries, &progress).await;
    registries.note_concurrency();
    registries.note_mirrors();
    display.finish();
    let mut report = report?;
    if let Some((path, lock)) = &lock {
        let failed = std::mem::take(&mut report.failed).into_iter();
        report.failed = failed
            .map(|(image, error)| (image, in_lock(error, path, lock)))
            .collect();
    }
    let messages = Messages {
        output: &arguments.output,
        to_pipe,
        resumes: arguments.resumes(),
        allow_partial: arguments.allow_partial,
        reuses: !arguments.reuse.is_empty(),
        verbose: arguments.shared.verbosity() > 0,
        left_out_by: LeftOutBy::new(is_asked),
        patterns: &asked.failed,
    };
    let outcome = messages.print(&report, &registries, &display);
    export_report::keep_quotas(&arguments.reporting, &report, &registries);
    export_report::keep(
        &arguments.reporting,
        arguments.dry_run,
        &arguments.output,
        report,
        &asked.failed,
    );
    Ok(outcome)
}
