//! Export into a file, which gets its name when it is complete; until then another run of the same command goes on with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::fill::{self, Failures, Filled, Filling};
use super::request::{Exported, Output, Report, Request};
use super::resolved::{Resolved, configs, moved, request_identity, unique, warn};
use super::reuse::Earlier;
use super::unfinished::Unfinished;
use super::{moves, unfinished};
use crate::bundle::file_system::FileSystem;
use crate::bundle::journal::{Header, Journal, OldSlot};
use crate::bundle::partial::{Partial, already_there};
use crate::bundle::plan::{Extras, Plan, TRAILER};
use crate::bundle::ranges::Ranges;
use crate::bundle::replay::Replay;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::tree::ImageTree;
use crate::progress::{Event, Progress, human_bytes};
use crate::registry::Registries;
use crate::transfer::resolve::Resolver;
use crate::transfer::sources::Sources;

pub(super) async fn export(request: Request, registries: &Registries, progress: &Progress) -> Result<Report> {
    let Output::File { path, force, fresh } = &request.output else {
        return Err(Error::new(Kind::Usage, "the output is no file"));
    };
    if !force && path.symlink_metadata().is_ok() {
        Partial::remove_stale_journal(path);
        return Err(already_there(path));
    }
    let earlier = Earlier::open(&request.reuse).await?;
    let partial = Arc::new(Partial::open(path)?);
    if *fresh {
        partial.journal().remove();
        partial.clear()?;
    }
    let result = FileExport {
        request: &request,
        registries,
        progress,
        partial: &partial,
        earlier,
    }
    .run(*force)
    .await;
    if !matches!(&result, Ok(report) if report.committed) && partial.is_empty().unwrap_or(false) {
        // This run has put nothing into it that the next one could use.
        partial.remove();
    } else if partial.check_synced().is_err() && Replay::distrust(&partial.journal()).is_err() {
        // What the disk has is not known, and cannot be noted down.
        partial.journal().remove();
    }
    result
}

/// One export into a file.
struct FileExport<'a> {
    request: &'a Request,
    registries: &'a Registries,
    progress: &'a Progress,
    partial: &'a Arc<Partial>,
    earlier: Arc<Earlier>,
}

impl FileExport<'_> {
    async fn run(self, force: bool) -> Result<Report> {
        let (request, partial, progress) = (self.request, self.partial, self.progress);
        let images = unique(&request.images);
        let identity = request_identity(&images, &request.wanted, request.docker_manifest);
        let mut left = unfinished::look(partial, &identity.0, progress)?.unwrap_or_default();
        let resolver = Resolver::new(
            self.registries.clone(),
            request.wanted.clone(),
            request.jobs,
            progress.clone(),
        )
        .with_pins(left.pins.clone());
        resolver.remember(std::mem::take(&mut left.manifests));
        let mut resolved = Resolved::new(&images, resolver.resolve_all(&images).await);
        let mut report = Report::default();
        // What is there of an image that an earlier run had would be lost by a plan without it.
        let some_lost = resolved.failed.iter().any(|(image, _)| left.pins.contains_key(image));
        if resolved.trees.is_empty() || (some_lost && !request.allow_partial) {
            report.images = resolved.trees.iter().map(Exported::new).collect();
            report.failed = resolved.failed;
            return Ok(report);
        }
        report.moved = moved(&left.pins, &resolved.trees, self.registries, request.jobs).await;

        let extras = match request.allow_partial {
            true => resolved.extras(request.docker_manifest),
            // There will be no bundle without them.
            false => Extras {
                missing: Vec::new(),
                docker_manifest: request.docker_manifest,
            },
        };
        let mut plan = Arc::new(Plan::new(&resolved.trees, &extras)?);
        warn(&plan, progress);
        let system = match request.file_system {
            Some(system) => system,
            None => partial.file_system()?,
        };
        partial.reserve(plan.total(), &system, human_bytes)?;
        let headers = Headers::new(&identity, &left, &plan, &resolved.trees);
        let there = Prepare {
            partial: partial.clone(),
            plan: plan.clone(),
            old: left.slots,
            headers: headers.clone(),
            configs: configs(&resolved.trees),
        };
        // Moves take as long as a disk does. A user who has enough of it is heard meanwhile.
        let (journal, written) = blocking(move || there.run()).await?;
        let filled = self.fill(&plan, &journal, written, &resolved.trees, &system).await?;
        report.reused = filled.reused;
        let mut failures = filled.failures;
        if resolved.drop_failed(&mut failures) && request.allow_partial && !resolved.trees.is_empty() {
            let smaller = Plan::new(&resolved.trees, &resolved.extras(request.docker_manifest))?;
            let again = Again {
                partial: partial.clone(),
                old: slots_of(&plan, &failures),
                header: headers.new.clone(),
                new: headers.for_plan(&smaller),
                plan: smaller,
            };
            plan = Arc::new(blocking(move || again.run()).await?);
        }
        report.size = plan.total();
        report.images = resolved.trees.iter().map(Exported::new).collect();
        report.committed = !resolved.trees.is_empty() && (resolved.failed.is_empty() || request.allow_partial);
        report.failed = resolved.failed;
        if report.committed {
            let partial = partial.clone();
            blocking(move || commit(&partial, &plan, force)).await?;
        }
        Ok(report)
    }

    async fn fill(
        &self,
        plan: &Arc<Plan>,
        journal: &Arc<Journal>,
        written: HashMap<usize, Ranges>,
        trees: &[ImageTree],
        system: &FileSystem,
    ) -> Result<Filled> {
        let sizes = written
            .iter()
            .map(|(slot, ranges)| ranges.len(plan.blobs()[*slot].blob.size));
        self.progress.emit(Event::Planned {
            blobs: plan.blobs().len() as u64,
            bytes: plan.blob_bytes(),
            present: sizes.sum(),
        });
        let filling = Filling {
            plan: plan.clone(),
            partial: self.partial.clone(),
            journal: journal.clone(),
            sources: Sources::new(trees, self.registries)?,
            earlier: self.earlier.clone(),
            progress: self.progress.clone(),
            jobs: self.request.jobs,
            sparse: system.sparse,
        };
        fill::fill(filling, written).await
    }
}

/// Work with the disk, off the threads that serve connections and listen to the user.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(Kind::Io, "writing the bundle was cut off").with_source(e))?
}

/// The journal's headers: for the places that an earlier run left, and for those of the plan.
#[derive(Clone)]
struct Headers {
    old: Header,
    new: Header,
}

impl Headers {
    fn new((request, summary): &(Digest, String), left: &Unfinished, plan: &Plan, trees: &[ImageTree]) -> Self {
        // An image that fails this time keeps its pin for the next.
        let kept = left
            .pins
            .iter()
            .map(|(name, digest)| (name.to_string(), digest.clone()));
        let mut pins: BTreeMap<String, Digest> = kept.collect();
        let found = trees
            .iter()
            .map(|tree| (tree.source.to_string(), tree.original.root.digest().clone()));
        pins.extend(found);
        let header = |front, types| {
            let mut header = Header::new(request.clone(), summary.clone(), front, pins.clone());
            header.types = types;
            header
        };
        Self {
            old: header(left.front, left.types.clone()),
            new: header(plan.front_len(), untold_types(trees)),
        }
    }

    fn for_plan(&self, plan: &Plan) -> Header {
        let mut header = self.new.clone();
        header.front = plan.front_len();
        header
    }
}

/// The media types of manifests whose bytes alone would be taken for another type.
fn untold_types(trees: &[ImageTree]) -> BTreeMap<Digest, String> {
    let manifests = trees.iter().flat_map(ImageTree::manifests);
    manifests
        .filter(|manifest| {
            let told = RawManifest::new(manifest.bytes().clone(), None, Some(manifest.digest()));
            !told.is_ok_and(|told| told.media_type() == manifest.media_type())
        })
        .map(|manifest| (manifest.digest().clone(), manifest.media_type().to_owned()))
        .collect()
}

/// The slots of a plan as the journal has them, with these bytes in each.
fn slots(plan: &Plan, written: impl Fn(usize, u64) -> Ranges) -> Vec<OldSlot> {
    let slots = plan.blobs().iter().enumerate();
    slots
        .map(|(number, slot)| OldSlot {
            digest: slot.blob.digest.clone(),
            size: slot.blob.size,
            offset: slot.offset,
            written: written(number, slot.blob.size),
        })
        .collect()
}

fn whole(size: u64) -> Ranges {
    let mut all = Ranges::default();
    all.insert(0..size);
    all
}

/// The slots of a plan after filling: all are there but those that failed.
fn slots_of(plan: &Plan, failures: &Failures) -> Vec<OldSlot> {
    slots(plan, |number, size| {
        match failures.contains_key(&plan.blobs()[number].blob.digest) {
            true => Ranges::default(),
            false => whole(size),
        }
    })
}

/// What is done to the file before blobs are fetched.
struct Prepare {
    partial: Arc<Partial>,
    plan: Arc<Plan>,
    old: Vec<OldSlot>,
    headers: Headers,
    configs: BTreeMap<Digest, Bytes>,
}

impl Prepare {
    fn run(self) -> Result<(Arc<Journal>, HashMap<usize, Ranges>)> {
        let Self { partial, plan, .. } = &self;
        let mut written = moves::settle_in(partial, &self.headers.old, plan, &self.old)?;
        let carried = !written.is_empty();
        if carried {
            // Once here, so that another power cut does not cost what this one left.
            partial.sync()?;
        }
        let there = slots(plan, |number, _| written.get(&number).cloned().unwrap_or_default());
        // Before the first byte of the bundle: a file with something in it and no journal could not be continued.
        let journal = Journal::create(&partial.journal(), &self.headers.new, &there, carried)?;
        write_front(partial, plan)?;
        for (number, slot) in plan.blobs().iter().enumerate() {
            if let Some(bytes) = self.configs.get(&slot.blob.digest)
                && bytes.len() as u64 == slot.blob.size
            {
                partial.write_at(bytes, slot.offset)?;
                journal.written(number, 0..slot.blob.size)?;
                written.entry(number).or_default().insert(0..slot.blob.size);
            }
        }
        Ok((Arc::new(journal), written))
    }
}

fn write_front(partial: &Partial, plan: &Plan) -> Result<()> {
    let mut at = 0;
    for piece in plan.front() {
        let piece = piece?;
        partial.write_at(&piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// What is done to the file when images turn out to be left out.
struct Again {
    partial: Arc<Partial>,
    plan: Plan,
    old: Vec<OldSlot>,
    header: Header,
    new: Header,
}

impl Again {
    /// Moves what is there to its place in the plan without them.
    fn run(self) -> Result<Plan> {
        let Self { partial, plan, .. } = &self;
        moves::settle_in(partial, &self.header, plan, &self.old)?;
        partial.sync()?;
        let there = slots(plan, |_, size| whole(size));
        Journal::create(&partial.journal(), &self.new, &there, true)?;
        for slot in plan.blobs() {
            partial.write_at(&slot.header()?, slot.header_offset)?;
            let padding = usize::try_from(slot.padding()).unwrap_or(0);
            partial.write_at(&[0; 512][..padding], slot.end())?;
        }
        write_front(partial, plan)?;
        Ok(self.plan)
    }
}

fn commit(partial: &Partial, plan: &Plan, force: bool) -> Result<()> {
    let end = plan.total() - TRAILER;
    let zeros = vec![0; usize::try_from(TRAILER).unwrap_or(0)];
    partial.write_at(&zeros, end)?;
    partial.commit(plan.total(), force)
}
