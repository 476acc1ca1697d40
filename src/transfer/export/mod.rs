//! Export: from registries into one file.
//!
//! Manifests first; they give the plan, and the plan gives every byte of the bundle its place. Then blobs side by side into
//! their places, and the final name last.

mod ahead;
mod fill;
mod ordered;
mod reuse;
mod slot;
mod unfinished;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use crate::bundle::journal::{Header, Journal, OldSlot};
use crate::bundle::partial::{Partial, already_there};
use crate::bundle::plan::{Extras, Plan, TRAILER};
use crate::bundle::ranges::Ranges;
use crate::bundle::record::Missing;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::reference::{Reference, Target};
use crate::image::tree::{Choice, ImageTree, LeftOut, PlatformRecord};
use crate::progress::{Event, Progress, human_bytes};
use crate::registry::{Presence, Registries};
use crate::transfer::fetch::Sources;
use crate::transfer::resolve::{Resolver, Wanted};

pub use ordered::Compression;

/// Where a bundle goes.
pub enum Output {
    /// A file, which gets its name when it is complete.
    File {
        /// The final name.
        path: PathBuf,
        /// Whether a file of that name is replaced.
        force: bool,
        /// Whether an unfinished earlier run is thrown away.
        fresh: bool,
    },
    /// A pipe: the same bytes in order. They cannot be taken back, so whoever reads them must heed the exit code.
    Pipe(Box<dyn Write + Send>),
}

/// What to export, and how.
pub struct Request {
    /// The images.
    pub images: Vec<Reference>,
    /// Which of their platforms, and what becomes of their indexes.
    pub wanted: Wanted,
    /// Where the bundle goes.
    pub output: Output,
    /// Compression of the whole bundle.
    pub compression: Compression,
    /// Blobs in flight.
    pub jobs: usize,
    /// Whether images that fail are left out; otherwise any failure keeps the bundle from getting its name.
    pub allow_partial: bool,
    /// Whether `manifest.json` is written, for `docker load` and `podman load`.
    pub docker_manifest: bool,
    /// Earlier bundles whose blobs need not be fetched.
    pub reuse: Vec<PathBuf>,
    /// How much is read ahead of a pipe, in bytes.
    pub read_ahead: u64,
}

/// What became of an export.
#[derive(Debug, Default)]
pub struct Report {
    /// The images in the bundle, in the order in which they were asked for.
    pub images: Vec<Exported>,
    /// The images that failed, in that order.
    pub failed: Vec<(Reference, Error)>,
    /// Tags that have moved since the first run, which the bundle keeps to: reference, digest in the bundle, digest now.
    pub moved: Vec<(Reference, Digest, Digest)>,
    /// Whether the bundle is complete under its name.
    pub committed: bool,
    /// The size of the bundle, in bytes; uncompressed.
    pub size: u64,
    /// Bytes that came from earlier bundles.
    pub reused: u64,
}

/// One image in a bundle.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The name that it was asked for by.
    pub source: Reference,
    /// The digest that goes under the name.
    pub digest: Digest,
    /// The digest that the source has.
    pub original: Digest,
    /// Which of both goes under the name, and why it may differ.
    pub choice: Choice,
    /// Platforms in the bundle.
    pub kept: Vec<PlatformRecord>,
    /// Platforms that are not.
    pub dropped: Vec<PlatformRecord>,
    /// Blobs that are not.
    pub left_out: Vec<LeftOut>,
}

impl Exported {
    fn new(tree: &ImageTree) -> Self {
        Self {
            source: tree.source.clone(),
            digest: tree.pushed().root.digest().clone(),
            original: tree.original.root.digest().clone(),
            choice: tree.choice,
            kept: tree.kept.clone(),
            dropped: tree.dropped.clone(),
            left_out: tree.left_out.clone(),
        }
    }
}

/// Exports images into one bundle.
///
/// Images that fail do not keep the others from being tried; they are in the report. Without
/// [`allow_partial`](Request::allow_partial) the bundle then stays unfinished, and the same call goes on from there.
///
/// # Errors
/// What ends everything: the output cannot be written, is there already, or belongs to another run.
pub async fn export(request: Request, registries: &Registries, progress: &Progress) -> Result<Report> {
    match request.output {
        Output::File { .. } if request.compression == Compression::None => to_file(request, registries, progress).await,
        _ => ordered::export(request, registries, progress).await,
    }
}

/// The images with their trees, and those that have none.
struct Resolved {
    trees: Vec<ImageTree>,
    failed: Vec<(Reference, Error)>,
}

impl Resolved {
    fn new(references: &[Reference], results: Vec<Result<ImageTree>>) -> Self {
        let mut resolved = Self {
            trees: Vec::new(),
            failed: Vec::new(),
        };
        for (reference, result) in references.iter().zip(results) {
            match result {
                Ok(tree) => resolved.trees.push(tree),
                Err(error) => resolved.failed.push((reference.clone(), error)),
            }
        }
        resolved
    }

    /// Takes out the images that need a blob that could not be fetched.
    fn drop_failed(&mut self, failures: &mut fill::Failures) {
        let trees = std::mem::take(&mut self.trees);
        for tree in trees {
            let culprit = tree
                .blobs()
                .into_iter()
                .find(|b| failures.contains_key(&b.descriptor.digest));
            match culprit {
                None => self.trees.push(tree),
                Some(blob) => {
                    let digest = &blob.descriptor.digest;
                    let error = failures
                        .remove(digest)
                        .unwrap_or_else(|| Error::new(Kind::Incomplete, format!("blob {digest} could not be fetched")));
                    // The next image that needs it gets the same message.
                    failures.insert(digest.clone(), Error::new(error.kind(), error.full()));
                    self.failed.push((tree.source.clone(), error.context(&tree.source)));
                }
            }
        }
    }

    fn extras(&self, docker_manifest: bool) -> Extras {
        Extras {
            missing: self
                .failed
                .iter()
                .map(|(reference, error)| Missing {
                    reference: reference.to_string(),
                    // The kind of failure, not its words: those name addresses and times, and two runs would differ.
                    reason: format!("{:?}", error.kind()).to_ascii_lowercase(),
                })
                .collect(),
            docker_manifest,
        }
    }
}

fn unique(images: &[Reference]) -> Vec<Reference> {
    let mut seen = std::collections::HashSet::new();
    images.iter().filter(|image| seen.insert(*image)).cloned().collect()
}

/// A digest of what was asked for, and the same for people.
fn request_identity(images: &[Reference], wanted: &Wanted, docker_manifest: bool) -> (Digest, String) {
    let mut names: Vec<String> = images.iter().map(Reference::to_string).collect();
    names.sort();
    let text = format!("{names:?} {} {:?} {docker_manifest}", wanted.platforms, wanted.index);
    let mut summary = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        summary.push_str(&format!(" and {} more", names.len() - 3));
    }
    summary.push_str(&format!("; platforms: {}", wanted.platforms));
    (Digest::sha256(text.as_bytes()), summary)
}

async fn to_file(request: Request, registries: &Registries, progress: &Progress) -> Result<Report> {
    let Output::File { path, force, fresh } = &request.output else {
        return Err(Error::new(Kind::Usage, "the output is no file"));
    };
    if !force && path.symlink_metadata().is_ok() {
        return Err(already_there(path));
    }
    let partial = Arc::new(Partial::open(path)?);
    if *fresh {
        partial.clear()?;
    }
    let result = FileExport {
        request: &request,
        registries,
        progress,
        partial: &partial,
    }
    .run(*force)
    .await;
    if !matches!(&result, Ok(report) if report.committed) && partial.is_empty().unwrap_or(false) {
        // This run has put nothing into it that the next one could use.
        partial.remove();
    }
    result
}

/// One export into a file.
struct FileExport<'a> {
    request: &'a Request,
    registries: &'a Registries,
    progress: &'a Progress,
    partial: &'a Arc<Partial>,
}

impl FileExport<'_> {
    async fn run(&self, force: bool) -> Result<Report> {
        let Self {
            request,
            registries,
            progress,
            partial,
        } = *self;
        let images = unique(&request.images);
        let identity = request_identity(&images, &request.wanted, request.docker_manifest);
        let left = unfinished::look(partial, &identity.0)?.unwrap_or_default();
        let mut report = Report::default();
        let resolver = Resolver::new(
            registries.clone(),
            request.wanted.clone(),
            request.jobs,
            progress.clone(),
        )
        .with_pins(left.pins.clone());
        resolver.remember(left.manifests);
        let mut resolved = Resolved::new(&images, resolver.resolve_all(&images).await);
        if resolved.trees.is_empty() {
            report.failed = resolved.failed;
            return Ok(report);
        }
        report.moved = moved(&left.pins, &resolved.trees, registries, request.jobs).await;

        // Images that failed are noted in the bundle only once it is clear that it is committed without them.
        let extras = Extras {
            missing: Vec::new(),
            docker_manifest: request.docker_manifest,
        };
        let mut plan = Arc::new(Plan::new(&resolved.trees, &extras)?);
        partial.reserve(plan.total(), human_bytes)?;
        let mut written = unfinished::settle_in(partial, &plan, left.slots)?;
        let journal = self.journal(&identity, &plan, &resolved.trees)?;
        partial.write_at(plan.front(), 0)?;
        for (slot, ranges) in &written {
            for range in ranges.iter() {
                journal.written(*slot, range)?;
            }
        }
        report.reused = reuse::reuse(&request.reuse, &plan, partial, &journal, &mut written, progress).await?;
        let sizes = written
            .iter()
            .map(|(slot, ranges)| ranges.len(plan.blobs()[*slot].blob.size));
        progress.emit(Event::Planned {
            blobs: plan.blobs().len() as u64,
            bytes: plan.blob_bytes(),
            present: sizes.sum(),
        });
        let filling = fill::Filling {
            plan: plan.clone(),
            partial: partial.clone(),
            journal,
            sources: Sources::new(&resolved.trees, registries, progress.clone())?,
            progress: progress.clone(),
            jobs: request.jobs,
        };
        let mut failures = fill::fill(filling, written).await?;
        resolved.drop_failed(&mut failures);

        let some_are_good = !resolved.trees.is_empty();
        if !resolved.failed.is_empty() && request.allow_partial && some_are_good {
            plan = Arc::new(self.without_failed(&resolved, &plan, &identity)?);
        }
        report.size = plan.total();
        report.images = resolved.trees.iter().map(Exported::new).collect();
        report.committed = some_are_good && (resolved.failed.is_empty() || request.allow_partial);
        report.failed = resolved.failed;
        if report.committed {
            commit(partial, &plan, force)?;
            for image in &report.images {
                progress.emit(Event::ImageDone {
                    reference: image.source.to_string(),
                    digest: image.digest.to_string(),
                });
            }
        }
        Ok(report)
    }

    fn journal(
        &self,
        (identity, summary): &(Digest, String),
        plan: &Plan,
        trees: &[ImageTree],
    ) -> Result<Arc<Journal>> {
        let pins: BTreeMap<String, Digest> = trees
            .iter()
            .map(|tree| (tree.source.to_string(), tree.original.root.digest().clone()))
            .collect();
        let header = Header::new(identity.clone(), summary.clone(), plan.front().len() as u64, pins);
        Journal::create(self.partial.journal_path(), &header, plan).map(Arc::new)
    }

    /// Plans again without the images that failed, and moves what is there to its new place.
    fn without_failed(&self, resolved: &Resolved, old: &Plan, identity: &(Digest, String)) -> Result<Plan> {
        let plan = Plan::new(&resolved.trees, &resolved.extras(self.request.docker_manifest))?;
        let slots = old
            .blobs()
            .iter()
            .map(|slot| OldSlot {
                digest: slot.blob.digest.clone(),
                size: slot.blob.size,
                offset: slot.offset,
                written: Ranges::default(),
            })
            .collect();
        // A kill in the middle of the moves leaves a journal that claims nothing: the next run fetches again, and is right.
        self.journal(identity, &plan, &resolved.trees)?;
        unfinished::settle_in(self.partial, &plan, slots)?;
        for slot in plan.blobs() {
            self.partial.write_at(&slot.header()?, slot.header_offset)?;
            let padding = usize::try_from(slot.padding()).unwrap_or(0);
            self.partial.write_at(&[0; 512][..padding], slot.end())?;
        }
        self.partial.write_at(plan.front(), 0)?;
        Ok(plan)
    }
}

fn commit(partial: &Partial, plan: &Plan, force: bool) -> Result<()> {
    let end = plan.total() - TRAILER;
    let zeros = vec![0; usize::try_from(TRAILER).unwrap_or(0)];
    partial.write_at(&zeros, end)?;
    partial.commit(plan.total(), force)
}

/// Tags that point elsewhere by now. A registry that does not answer says nothing about it.
async fn moved(
    pins: &HashMap<Reference, Digest>,
    trees: &[ImageTree],
    registries: &Registries,
    jobs: usize,
) -> Vec<(Reference, Digest, Digest)> {
    let pinned: Vec<(Reference, Digest)> = trees
        .iter()
        .filter_map(|tree| Some((tree.source.clone(), pins.get(&tree.source)?.clone())))
        .collect();
    stream::iter(pinned)
        .map(|(reference, pin)| async move {
            let target @ Target::Tag(_) = reference.target() else {
                return None;
            };
            let registry = registries.host(reference.host()).ok()?;
            match registry.head_manifest(reference.repository(), &target).await.ok()? {
                Presence::Present(head) => {
                    let now = head.digest?;
                    (now != pin).then_some((reference, pin, now))
                }
                _ => None,
            }
        })
        .buffered(jobs.max(1))
        .filter_map(|found| async move { found })
        .collect()
        .await
}
