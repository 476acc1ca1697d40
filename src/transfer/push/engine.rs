//! The main loop of a push: starts blobs and manifests, and records the outcome of each image.

use std::collections::{HashMap, HashSet, VecDeque};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::compare::{Comparison, compare};
use super::destination::{with_destination_side, with_path_hint};
use super::ensure_blob::{self, EnsureOptions};
use super::grouping::{Grouping, Repository, TreeGroups};
use super::held_back::HeldBack;
use super::image_state::{Image, Images};
use super::lost_blobs;
use super::pipe::feed::{self, FeedEvent, PipeFeed};
use super::publish::{Published, Publisher};
use super::put_manifest::ManifestPutter;
use super::report::{Amount, ImageReport, Outcome};
use super::request::{PushItem, PushRequest};
use super::scheduler::{Job, Placed, Scheduler};
use super::together::Together;
use super::work::{Demand, Taker};
use crate::error::{Error, Kind, Result, Side};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::tree::ImageTree;
use crate::progress::{Event, Progress};
use crate::registry::Registry;
use crate::text::Warnings;

/// The result of a push.
pub(crate) struct PushResult {
    /// One report for each image, in the order of the items. They are not copied out of the images, since there are many.
    #[allow(clippy::vec_box)]
    pub(crate) images: Vec<Box<ImageReport>>,
    /// Warnings about the rest of a bundle in a pipe.
    pub(crate) warnings: Warnings,
    /// Error in the rest of a bundle in a pipe, even if no image failed because of it.
    pub(crate) bundle_error: Option<Error>,
}

/// Pushes images to one registry. The caller has checked that their names do not collide. `pushed_before` are images that this run
/// has pushed before, so that their blobs are in place.
///
/// # Errors
/// Only if the registry cannot be reached at all: errors of single images are in their reports.
pub(crate) async fn push(
    items: Vec<PushItem>,
    pushed_before: &[PushItem],
    request: &PushRequest,
    registry: &Registry,
    progress: &Progress,
    feed: Option<PipeFeed>,
) -> Result<PushResult> {
    let comparisons = compare(&items, request, registry, progress, registry.widest()).await;
    let comparisons = comparisons.map_err(with_destination_side)?;
    let comparisons = comparisons
        .into_iter()
        .map(|comparison| comparison.map_err(with_destination_side))
        .collect();
    let mut engine = Engine::new(items, pushed_before, comparisons, request, registry, progress);
    engine.run(feed).await?;
    // The reports take the memory of the plan.
    drop((engine.scheduler, engine.repositories));
    Ok(PushResult {
        images: engine.images.list.into_iter().map(Image::into_report).collect(),
        warnings: engine.warnings,
        bundle_error: engine.bundle_error,
    })
}

enum Done {
    Blob(Job, Result<Placed>),
    /// The manifests were put. The manifests are still to be read back, which does not block the repository.
    Manifests(usize, Box<Publisher>, Result<Published>),
    Image(usize, Result<Published>),
    /// A blob or the end came out of the pipe.
    Arrived(FeedEvent),
}

struct Engine<'a> {
    registry: &'a Registry,
    images: Images<'a>,
    repositories: Vec<Repository>,
    scheduler: Scheduler,
    /// Repositories with a ready image that are not busy.
    idle: VecDeque<usize>,
    held: HeldBack,
    warnings: Warnings,
    bundle_error: Option<Error>,
}

impl<'a> Engine<'a> {
    fn new(
        items: Vec<PushItem>,
        pushed_before: &[PushItem],
        comparisons: Vec<Result<Comparison>>,
        request: &'a PushRequest,
        registry: &'a Registry,
        progress: &'a Progress,
    ) -> Self {
        let mut engine = Self {
            registry,
            images: Images {
                list: Vec::with_capacity(items.len()),
                groups: Vec::new(),
                alive: 0,
                failed: false,
                request,
                progress,
                stop: false,
            },
            repositories: Vec::new(),
            scheduler: Scheduler::new([], &request.budget).0,
            idle: VecDeque::new(),
            held: HeldBack::default(),
            warnings: Warnings::default(),
            bundle_error: None,
        };
        let mut grouping = Grouping::new(ImageTree::shared_content);
        for item in pushed_before {
            let (_, group) = grouping.add(item);
            grouping.groups[group].in_place = true;
        }
        // The first image with each digest in each repository.
        let mut firsts = HashMap::new();
        for (number, (item, comparison)) in items.into_iter().zip(comparisons).enumerate() {
            let (repository, group) = grouping.add(&item);
            let root = item.tree.pushed().root.digest().clone();
            let mut image = Image::new(item, repository);
            let first = *firsts.entry((repository, root)).or_insert(number);
            if first < number {
                image.shares_digest = true;
                engine.images.list[first].shares_digest = true;
            }
            let group = &mut grouping.groups[group];
            group.in_place |= image.apply(comparison);
            group.alive |= image.alive;
            group.members.push(number);
            engine.images.list.push(image);
        }
        drop(firsts);
        let (repositories, groups, trees) = grouping.into_parts();
        engine.repositories = repositories;
        engine.images.groups = groups;
        engine.held = HeldBack::new(&engine.images.list);
        engine.images.alive = engine.images.list.iter().filter(|image| image.alive).count();
        engine.images.failed = engine.images.list.iter().any(|image| image.error().is_some());
        engine.images.stop = request.fail_fast && engine.images.failed;
        engine.plan(trees);
        engine
    }

    /// Queues the blobs of all images, or counts blobs that are known to be in place as skipped.
    fn plan(&mut self, mut trees: Vec<TreeGroups>) {
        let images = &mut self.images;
        let needs = images.groups.iter().filter(|group| group.alive && !group.in_place);
        let needy: HashSet<usize> = needs.map(|group| group.repository).collect();
        let budget = images.request.budget.clone();
        // If memory does not suffice for all images, images with few blobs come first.
        trees.sort_by_cached_key(|(tree, _)| tree.blobs().len());
        let demands = trees.into_iter().map(|(tree, groups)| {
            let blobs: Vec<Descriptor> = tree.blobs().into_iter().map(|blob| blob.descriptor).collect();
            let mut all = Amount::default();
            blobs.iter().for_each(|blob| all.one(blob.size));
            let mut takers = Vec::new();
            let mut is_held = false;
            for number in groups {
                let group = &mut images.groups[number];
                if group.in_place {
                    for &member in &group.members {
                        let image = &mut images.list[member];
                        if image.alive || image.report().outcome == Outcome::Unchanged {
                            image.report().counts.skipped.plus(all);
                        }
                    }
                }
                group.members.retain(|member| images.list[*member].alive);
                // Blobs in place are listed for repositories that need them, and once as a mount source for all others.
                let is_of_use = needy.contains(&group.repository) || !std::mem::replace(&mut is_held, true);
                if (group.in_place && is_of_use) || (!group.in_place && group.alive) {
                    takers.push(Taker {
                        group: number as u32,
                        repository: group.repository as u32,
                        in_place: group.in_place,
                    });
                }
            }
            Demand { blobs, groups: takers }
        });
        let (queue, sorted) = Scheduler::new(demands, &budget);
        for (number, awaited) in sorted.awaited {
            let group = &mut images.groups[number];
            group.waiting = awaited.needs;
            group.counts.skipped = awaited.known;
        }
        for (number, error) in sorted.too_large {
            images.fail_group(number, &error);
        }
        let (blobs, bytes) = queue.size();
        self.scheduler = queue;
        images.progress.emit(Event::Planned {
            images: images.list.len() as u64,
            manifests: images.manifests(),
            blobs,
            bytes,
            present: 0,
        });
    }

    async fn run(&mut self, mut feed: Option<PipeFeed>) -> Result<()> {
        for number in 0..self.images.list.len() {
            if !self.images.list[number].alive {
                self.images.emit_done(number);
            }
        }
        for number in 0..self.images.groups.len() {
            let group = &self.images.groups[number];
            if group.alive && group.waiting == 0 {
                self.ready(number);
            }
        }
        if let Some(feed) = &mut feed {
            self.scheduler.defer_unless(|blob| feed.in_front(blob));
            feed.start(self.scheduler.deferred(), self.images.request, self.images.progress)?;
        }
        let mut open = feed.is_some();
        let mut blobs: FuturesUnordered<BoxFuture<'a, Done>> = FuturesUnordered::new();
        let mut publishing: FuturesUnordered<BoxFuture<'a, Done>> = FuturesUnordered::new();
        while !self.images.stop {
            let width = self.registry.width();
            self.scheduler.set_lines(self.registry.lines());
            while blobs.len() < width {
                let groups = &self.images.groups;
                let Some(job) = self.scheduler.next(|number| groups[number].alive) else {
                    break;
                };
                blobs.push(self.start(job));
            }
            while publishing.len() < width {
                let Some(publisher) = self.publish() else { break };
                publishing.push(publisher);
            }
            let finished = self.scheduler.drain_finished();
            if let Some(pipe) = &mut feed {
                finished.iter().for_each(|digest| pipe.release(digest));
                pipe.expect_mounts(self.scheduler.mounts_work());
            }
            if self.images.lost() {
                // No image can succeed any more, so the rest of the pipe is not read.
                (feed, open) = (None, false);
            }
            let done = tokio::select! {
                Some(done) = blobs.next(), if !blobs.is_empty() => done,
                Some(done) = publishing.next(), if !publishing.is_empty() => done,
                event = feed::next(&mut feed), if open => Done::Arrived(event),
                else => break,
            };
            match done {
                Done::Arrived(FeedEvent::Blob(digest, size)) => self.arrived(&digest, size),
                Done::Arrived(FeedEvent::End(outcome)) => {
                    open = false;
                    self.pipe_ended(outcome);
                }
                Done::Blob(job, outcome) => self.blob_done(job, outcome),
                Done::Manifests(number, publisher, outcome) => {
                    publishing.push(self.read_back(number, publisher, outcome))
                }
                Done::Image(number, outcome) => self.published(number, outcome),
            }
        }
        // After a stop, unfinished blobs are dropped, since no tag refers to them. Manifests being put are awaited: their
        // tag may exist already, and only the result says whether the image was pushed.
        drop(blobs);
        while let Some(done) = publishing.next().await {
            match done {
                Done::Manifests(number, publisher, outcome) => {
                    publishing.push(self.read_back(number, publisher, outcome))
                }
                Done::Image(number, outcome) => self.published(number, outcome),
                Done::Blob(..) | Done::Arrived(_) => {}
            }
        }
        self.held.give_up(&mut self.images);
        self.images.give_up();
        Ok(())
    }

    /// Reads back the manifests of an image. Other images of the repository may continue meanwhile, unless another tag gets
    /// the same digest: distribution rewrites its link for a digest with each tag, and fails a request that reads the link
    /// at that moment.
    fn read_back(
        &mut self,
        number: usize,
        publisher: Box<Publisher>,
        outcome: Result<Published>,
    ) -> BoxFuture<'a, Done> {
        if !self.is_shared(number) {
            self.release(number);
        }
        Box::pin(async move {
            let checked = match outcome {
                Ok(published) => publisher.read_back(published).await,
                Err(error) => Err(error),
            };
            Done::Image(number, checked)
        })
    }

    /// Handles the start of a blob that comes out of the pipe.
    fn arrived(&mut self, digest: &Digest, size: u64) {
        for (group, stated) in self.scheduler.arrived(digest, size) {
            let why = format!("blob {digest} has {size} bytes in the bundle, where {stated} are stated");
            self.lose_blob(group, digest, &Error::new(Kind::Integrity, why));
        }
    }

    /// Handles the end of the pipe, with or without an error. Blobs that have not arrived are missing.
    fn pipe_ended(&mut self, outcome: Result<Warnings>) {
        let images = &self.images;
        let is_own = |group: usize, blob: &Digest| lost_blobs::is_own_blob(images, group, blob);
        let lacking = self.scheduler.missing_blobs(is_own);
        match &outcome {
            Ok(warnings) => {
                let progress = self.images.progress;
                warnings.iter().for_each(|warning| progress.warn(warning.clone()));
                self.warnings.append(warnings.clone());
            }
            // Recorded even if every image has all of its blobs, since a bundle file with this error would be rejected.
            Err(error) => self.bundle_error = Some(error.clone()),
        }
        for group in lost_blobs::lose_missing(&mut self.images, &lacking, self.bundle_error.as_ref()) {
            self.ready(group);
        }
    }

    /// Records that a blob does not get into the repository of a group.
    fn lose_blob(&mut self, group: usize, blob: &Digest, error: &Error) {
        if lost_blobs::lose_blob(&mut self.images, group, blob, error) {
            self.ready(group);
        }
    }

    /// Starts a job of the scheduler.
    fn start(&mut self, job: Job) -> BoxFuture<'a, Done> {
        let repository = self.repositories[job.need.repository].name.clone();
        let from = job.mount_from.map(|holder| self.repositories[holder].name.clone());
        let group = &self.images.groups[job.need.groups[0]];
        let origin = self.images.list[group.members[0]].item().blobs.clone();
        let (registry, progress) = (self.registry, self.images.progress);
        let dry_run = self.images.request.dry_run;
        Box::pin(async move {
            let outcome = if dry_run {
                ensure_blob::predict_placement(registry, &repository, &job.descriptor, from.is_some()).await
            } else {
                let way = EnsureOptions {
                    mount_from: from.as_deref(),
                    ask: job.ask,
                    extra: from.is_some(),
                };
                ensure_blob::ensure_blob(registry, &repository, &job.descriptor, &origin, way, progress).await
            };
            Done::Blob(job, outcome.map_err(with_destination_side))
        })
    }

    fn blob_done(&mut self, job: Job, outcome: Result<Placed>) {
        let size = job.descriptor.size;
        let placed = match outcome {
            Ok(placed) => placed,
            Err(error) => {
                let image = self.images.groups[job.need.groups[0]].members.first();
                let error = match image.map(|number| self.images.list[*number].item()) {
                    Some(item) => with_path_hint(error, &item.destination),
                    None => error,
                };
                let lost = self.scheduler.failed(&job, error.side() == Some(Side::Source));
                for &group in job.need.groups.iter().chain(&lost) {
                    self.lose_blob(group, &job.descriptor.digest, &error);
                }
                return;
            }
        };
        self.scheduler.placed(&job, placed);
        if job.mount_from.is_none() || (placed == Placed::Uploaded && !self.images.request.dry_run) {
            let counted = placed == Placed::Uploaded && !self.images.request.dry_run;
            ensure_blob::report_done(self.images.progress, &job.descriptor, counted);
        }
        for (i, &group) in job.need.groups.iter().enumerate() {
            if self.images.groups[group].placed(placed, i == 0, size) {
                self.ready(group);
            }
        }
    }

    /// Queues the images of a group for their manifests, after all of its blobs are in place.
    fn ready(&mut self, group: usize) {
        self.images.share_counts(group);
        let group = &mut self.images.groups[group];
        group.alive = false;
        let lost = group.lost.clone();
        for number in std::mem::take(&mut group.members) {
            self.images.list[number].lost = lost.clone();
            if self.images.request.dry_run {
                self.images.planned(number);
                continue;
            }
            self.queue(number);
        }
    }

    /// Queues an image for its manifests, unless another image comes before it.
    fn queue(&mut self, number: usize) {
        if !self.held.may_go(&mut self.images, number) {
            return;
        }
        let place = self.images.list[number].repository;
        let repository = &mut self.repositories[place];
        repository.ready.push_back(number);
        if !repository.busy && repository.ready.len() == 1 {
            self.idle.push_back(place);
        }
    }

    /// Starts to put the manifests of the next ready image, in a repository that is not busy.
    fn publish(&mut self) -> Option<BoxFuture<'a, Done>> {
        let place = self.idle.pop_front()?;
        let number = self.repositories[place].ready.pop_front()?;
        self.repositories[place].busy = true;
        let (repository, image) = (&self.repositories[place], &self.images.list[number]);
        // With `fail_fast`, no tag is put before it is its image's turn.
        let together = match self.is_shared(number) && !self.images.request.fail_fast {
            true => {
                let ready = repository.ready.iter().map(|other| self.images.list[*other].item());
                Together::new(image.item(), ready, &repository.tagged)
            }
            false => Together::default(),
        };
        let publisher = Publisher {
            putter: ManifestPutter {
                registry: self.registry.clone(),
                item: image.item().clone(),
                written: repository.written.clone(),
                pause: self.images.request.pause,
                merge_signatures: self.images.request.merge_signatures,
                require_referrers: self.images.request.require_referrers,
                lost: image.lost.clone(),
                progress: self.images.progress.clone(),
            },
            before: image.before.clone(),
            together,
        };
        Some(Box::pin(async move {
            let outcome = publisher.publish().await;
            Done::Manifests(number, Box::new(publisher), outcome)
        }))
    }

    /// Records the result of an image after its manifests were put and read back.
    fn published(&mut self, number: usize, outcome: Result<Published>) {
        if self.is_shared(number) {
            self.release(number);
        }
        let destination = &self.images.list[number].item().destination;
        let outcome = outcome.map_err(|error| with_path_hint(with_destination_side(error), destination));
        self.images.published(number, outcome);
        self.held.release(number).into_iter().for_each(|held| self.queue(held));
    }

    /// Returns whether several tags of the image's repository get the image's digest.
    fn is_shared(&self, number: usize) -> bool {
        self.images.list[number].shares_digest
    }

    /// Lets the repository of an image take the manifests of the next ready image.
    fn release(&mut self, number: usize) {
        let place = self.images.list[number].repository;
        let repository = &mut self.repositories[place];
        repository.busy = false;
        if !repository.ready.is_empty() {
            self.idle.push_back(place);
        }
    }
}
