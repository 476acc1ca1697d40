//! Import: from bundles into a registry. Nothing but the bundles and the destination is contacted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::task::JoinHandle;

use super::attach::Attacher;
use super::blocking::blocking;
use super::push::asked_image::AskedImage;
use super::push::destination;
use super::push::pipe::blob_buffer::WINDOW;
use super::push::pipe::feed::{KeptBlobs, PipeFeed};
use super::push::push_all::push_arriving;
use super::push::report::{self, ArchiveReport, ImageReport, PushReport};
use super::push::request::{BlobOrigin, PushRequest};
use super::push::reservation::Reservation;
use super::referrers::ReferrerChoice;
use super::resolve;
use super::runnable;
use super::select_images::{Candidate, choose};
use crate::bundle::read::stream::pipe::Incoming;
use crate::bundle::read::summed::VerifiedFile;
use crate::bundle::read::{Bundle, BundledImage};
use crate::bundle::record::Missing;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::narrow::narrow as narrow_tree;
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::image::tree::{ImageTree, IndexMode};
use crate::inventory::images::missing_in_words;
use crate::progress::{Progress, human_bytes};
use crate::registry::{BlobSource, BlobStream, Registries};
use crate::text::{Warnings, counted, few, quote, shorten};

/// How many bytes of a bundle are read at a time: larger pieces are no faster, and each blob in flight holds one.
const PIECE: usize = 256 << 10;

/// Which images of a bundle are imported, and how much of them.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns (`*`, `?`, `[…]`, `{a,b}`) on references; an image is taken if one of them fits. None means all images.
    /// A pattern is held against the whole reference, and against the forms that a user may type for it: without
    /// `docker.io/` and `library/`, without tag and digest.
    pub only: Vec<String>,
    /// Platforms, of those that are in the bundle.
    pub platforms: Option<PlatformFilter>,
    /// Which of the manifests that refer to them go along.
    pub referrers: ReferrerChoice,
}

/// Pushes the images of a bundle to a registry.
///
/// # Errors
/// If nothing was sent at all: the selection fits nothing, names collide, the registry cannot be reached. What is wrong with
/// one image of the bundle, or fails with it, is in the report; nothing is sent for an image that is not whole.
pub async fn import(
    bundle: Arc<Bundle>,
    select: Selection,
    request: PushRequest,
    registries: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    let origin: Arc<dyn BlobOrigin> = Arc::new(BundleBlobs(bundle.clone()));
    let sums = Sums::start(&bundle, &request);
    let mut report = push(bundle, origin, None, select, request, registries, progress.clone()).await?;
    report.files = sums.finish(&progress).await;
    Ok(report)
}

/// The sums of the files, which are read beside the push where the report is to have them.
struct Sums {
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<Vec<VerifiedFile>>>,
}

impl Sums {
    fn start(bundle: &Arc<Bundle>, request: &PushRequest) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (bundle, stopped) = (bundle.clone(), stop.clone());
        let is_wanted = request.with_lock && !request.dry_run;
        Self {
            stop,
            work: is_wanted.then(|| tokio::task::spawn_blocking(move || bundle.sums(&stopped))),
        }
    }

    async fn finish(mut self, progress: &Progress) -> Vec<VerifiedFile> {
        let Some(work) = self.work.take() else {
            return Vec::new();
        };
        if !work.is_finished() {
            progress.tell("reading the rest of the bundle: the report states its SHA-256");
        }
        work.await.unwrap_or_default()
    }
}

impl Drop for Sums {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The same with a bundle of which only the front was read ([`Bundle::from_pipe`]): its blobs are sent as they come out of
/// the pipe, in a single pass.
///
/// A few dozen MiB of memory hold what was read ahead. A small blob is kept as a whole and can be sent again. Of a large one only
/// the last bytes are kept, so that an upload that has to begin again fails its images, with a hint. The exception are large
/// blobs that several repositories need: as long as the registry has not shown that it mounts blobs, they are spooled to
/// [`PushRequest::temp_dir`], if there is one. Whether every blob is there is known only at the end of the pipe: an image that
/// lacks one fails, and gets no tag.
///
/// # Errors
/// As [`import`].
pub async fn import_pipe(
    bundle: Arc<Bundle>,
    rest: Incoming,
    select: Selection,
    request: PushRequest,
    registries: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    let feed = PipeFeed::new(bundle.clone(), rest);
    let kept = feed.kept();
    let origin: Arc<dyn BlobOrigin> = Arc::new(PipeBlobs::new(bundle.clone(), &feed));
    let mut report = push(bundle, origin, Some(feed), select, request, registries, progress).await?;
    report.files.extend(kept.sum());
    Ok(report)
}

async fn push(
    bundle: Arc<Bundle>,
    origin: Arc<dyn BlobOrigin>,
    feed: Option<PipeFeed>,
    select: Selection,
    mut request: PushRequest,
    registries: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    for warning in bundle.warnings().iter() {
        progress.warn(warning.clone());
    }
    // What one bundle lacks may be in another one. Nothing proves that an image was ever asked for.
    let there: HashSet<&Reference> = bundle.images().iter().map(|image| &image.name).collect();
    let is_there = |missing: &Missing| {
        missing
            .reference
            .parse()
            .is_ok_and(|name: Reference| there.contains(&name))
    };
    let missing = bundle.missing().iter();
    let missing: Vec<Missing> = missing.filter(|m| !is_there(m)).cloned().collect();
    let claim = |missing: &Missing| missing_in_words(&missing.reference, &missing.reason);
    let claims: Warnings = missing.iter().map(claim).collect();
    claims.iter().for_each(|claim| progress.warn(claim.clone()));
    let all = chosen(&bundle, &select.only)?;
    let (chosen, chosen_broken) = all.split_at(bundle.images().len());
    let (trees, reserved) = read(bundle.clone(), chosen.to_vec(), select.clone()).await?;

    let mut slots = Vec::new();
    let mut items = Vec::new();
    let mut unusable = Vec::new();
    let mut absent = HashMap::new();
    for (place, tree) in trees {
        let image = &bundle.images()[place];
        let tree = match tree {
            Ok(tree) => tree,
            Err(error) => {
                slots.push(AskedImage::Failed(Box::new(ImageReport::unresolved(
                    &image.name,
                    &error,
                ))));
                continue;
            }
        };
        if let Some(filter) = &select.platforms {
            let absent = absent
                .entry(tree.shared_content())
                .or_insert_with(|| resolve::absent(&tree, filter));
            resolve::warn_of_absent(&tree.source, absent, &progress);
        }
        progress.note(summary(&tree));
        let source = tree.source.to_string();
        match destination::item(&request, tree, origin.clone(), image.rebuilt) {
            Ok(item) => {
                slots.push(AskedImage::Item(source));
                items.push(item);
            }
            Err(error) => {
                slots.push(AskedImage::Failed(Box::new(ImageReport::unresolved(&source, &error))));
                unusable.push(error);
            }
        }
    }
    destination::check_any_is_usable(slots.len(), unusable)?;
    for (image, _) in bundle.broken().iter().zip(chosen_broken).filter(|(_, chosen)| **chosen) {
        let report = ImageReport::unresolved(&image.label, &image.error);
        slots.push(AskedImage::Failed(Box::new(report)));
    }
    destination::check_mappings(&request, items.iter().map(|item| &item.tree.source), &progress);
    request.budget = bundle.budget().clone();
    drop(reserved);
    let broken = bundle.broken_archives();
    if request.fail_fast
        && let Some(first) = broken.first()
    {
        return Err(Error::clone(&first.error));
    }
    let mut report = push_arriving(items, slots, &request, registries, &progress, feed).await?;
    let shortened = |missing: Missing| Missing {
        reference: shorten(missing.reference),
        reason: shorten(missing.reason),
    };
    report.missing = missing.into_iter().map(shortened).collect();
    if let Some(lock) = &mut report.lock {
        lock.docker_manifest = bundle.has_docker_manifest();
    }
    let broken = broken.iter().map(|archive| ArchiveReport {
        path: archive.label.as_str().into(),
        error: Error::clone(&archive.error),
    });
    report.broken_archives = broken.collect();
    let mut warnings = bundle.warnings().clone();
    warnings.append(report.warnings);
    report.warnings = warnings;
    Ok(report)
}

/// One line that says what an image is made of.
fn summary(tree: &ImageTree) -> String {
    let (manifests, blobs) = (tree.manifests(), tree.blobs());
    let sizes = manifests.iter().map(|manifest| manifest.descriptor().size);
    let sizes = sizes.chain(blobs.iter().map(|blob| blob.descriptor.size));
    let layers = blobs.iter().filter(|blob| !blob.is_config).count();
    format!(
        "{} {}: {}; {}, {}",
        tree.source,
        tree.pushed().root.digest(),
        few(tree.kept.iter().map(|kept| quote(&kept.platform))),
        counted(layers as u64, "layer", "layers"),
        human_bytes(sizes.fold(0, u64::saturating_add))
    )
}

/// Which of the images, and behind them which of the broken ones, the patterns mean.
pub(super) fn chosen(bundle: &Bundle, only: &[String]) -> Result<Vec<bool>> {
    // What belongs to an image is chosen with it.
    let named = bundle.images().iter();
    let named = named.map(|image| Candidate::Named(image.attached_to.as_ref().unwrap_or(&image.name)));
    let broken = bundle.broken().iter().map(|image| match &image.name {
        Some(name) => Candidate::Named(name),
        None => Candidate::Nameless(&image.label),
    });
    let candidates: Vec<Candidate<'_>> = named.chain(broken).collect();
    choose(&candidates, only)
}

/// The platforms that are wanted, of which there must be one.
fn narrow(tree: ImageTree, image: &BundledImage, platforms: Option<&PlatformFilter>) -> Result<ImageTree> {
    // What belongs to an image runs nowhere.
    if image.attached_to.is_some() {
        return Ok(tree);
    }
    // What a bundle of this program carries was chosen when it was made.
    runnable::check(&tree, platforms.is_some() || image.record.is_some())?;
    match platforms {
        Some(filter) => narrow_tree(tree, filter),
        None => Ok(tree),
    }
}

/// An image by its place in the bundle, or why it cannot be pushed.
type ReadImage = (usize, Result<ImageTree>);

/// Reads the manifests of the chosen images and of what belongs to them, and checks that all that they name is there. What
/// images share but for their names is read once.
async fn read(bundle: Arc<Bundle>, chosen: Vec<bool>, select: Selection) -> Result<(Vec<ReadImage>, Reservation)> {
    let work = move || {
        let mut attacher = Attacher::new(&bundle, &select.referrers);
        let platforms = select.platforms.as_ref();
        let mut reserved = Reservation::new(bundle.budget());
        let mut read = |image: &BundledImage, attacher: &mut Attacher<'_>| {
            let mut tree = narrow(bundle.tree_of(image)?, image, platforms)?;
            if image.attached_to.is_none() {
                attacher.attach(&mut tree, &image.name.name())?;
            }
            // They are many and served to decide about platforms; as blobs they are read again.
            tree.configs.clear();
            reserved.add(&tree)?;
            bundle.budget().take(tree.uncounted_memory())?;
            let listed = report::bytes_of_lists(&tree);
            Ok((tree, listed))
        };
        let mut known = HashMap::new();
        let mut trees = Vec::new();
        let images = bundle.images().iter().enumerate().filter(|(place, _)| chosen[*place]);
        // What stands beside images is one of them where no image takes it.
        let (images, beside): (Vec<_>, Vec<_>) = images.partition(|(_, image)| image.attached_to.is_none());
        for (place, image) in images.into_iter().chain(beside) {
            if attacher.is_claimed(place) {
                continue;
            }
            let repository = attacher.depends_on_repository().then(|| image.name.name());
            let key = (image.content(), repository);
            let tree: &Result<(ImageTree, u64)> = known.entry(key).or_insert_with(|| read(image, &mut attacher));
            let named = match tree {
                // What a report lists of an image under each of its names is bounded like memory.
                Ok((tree, listed)) => bundle.budget().take(*listed).map(|()| named(tree, image)),
                Err(error) => Err(error.clone()),
            };
            trees.push((place, named.map_err(|e| image.place_error(e))));
        }
        trees.sort_by_key(|(place, _)| *place);
        (trees, reserved)
    };
    blocking(work).await
}

/// A tree under one of its names.
pub(super) fn named(tree: &ImageTree, image: &BundledImage) -> ImageTree {
    let mut tree = tree.clone();
    tree.source = image.name.clone();
    // A record says which index goes under the name; else that depends on the name.
    if image.record.as_ref().is_none_or(|record| record.filtered.is_none()) {
        tree.choose(IndexMode::Auto);
    }
    tree
}

/// The blobs of a bundle.
pub(crate) struct BundleBlobs(pub(crate) Arc<Bundle>);

impl BlobSource for BundleBlobs {
    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        let (bundle, digest) = (self.0.clone(), descriptor.digest.clone());
        let pieces = stream::try_unfold((offset, Bytes::new()), move |(at, former)| {
            let piece = read_piece(&bundle, &digest, at, former);
            async move { Ok(piece?.map(|(piece, length)| (piece.slice(..length), (at + length as u64, piece)))) }
        });
        Box::pin(async move { Ok(pieces.boxed()) })
    }
}

/// The next bytes of a blob, at the start of a buffer. They are read where they are asked for: a hand-over to another thread
/// costs more than the read. The former buffer is used again once the connection has released it.
fn read_piece(bundle: &Bundle, digest: &Digest, at: u64, former: Bytes) -> Result<Option<(Bytes, usize)>> {
    let mut buffer = match former.try_into_mut() {
        Ok(buffer) if buffer.len() == PIECE => buffer,
        _ => BytesMut::zeroed(PIECE),
    };
    let length = bundle.read_at(digest, at, &mut buffer)?.min(PIECE);
    Ok((length > 0).then(|| (buffer.freeze(), length)))
}

impl BlobOrigin for BundleBlobs {
    fn describe(&self, digest: &Digest) -> String {
        self.0.describe(digest)
    }

    fn hint(&self) -> &'static str {
        "the bundle was modified or corrupted in transit: copy it again, and compare checksums"
    }

    fn fail_over(&self, digest: &Digest) -> bool {
        self.0.next_copy(digest)
    }
}

/// The blobs of a bundle in a pipe: those of its front, and those that are on their way.
pub(crate) struct PipeBlobs {
    front: BundleBlobs,
    kept: Arc<KeptBlobs>,
}

impl PipeBlobs {
    pub(crate) fn new(front: Arc<Bundle>, feed: &PipeFeed) -> Self {
        Self {
            front: BundleBlobs(front),
            kept: feed.kept(),
        }
    }
}

impl BlobSource for PipeBlobs {
    fn can_replay(&self, descriptor: &Descriptor) -> bool {
        let flow = self.kept.get(&descriptor.digest);
        flow.map_or(descriptor.size <= WINDOW, |flow| flow.can_replay())
            || self.front.0.size_of(&descriptor.digest).is_some()
    }

    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        if let Some(flow) = self.kept.get(&descriptor.digest) {
            return Box::pin(async move { flow.stream(offset) });
        }
        if self.front.0.size_of(&descriptor.digest).is_some() {
            return self.front.open(descriptor, offset);
        }
        let gone = format!("blob {} is no longer available from the pipe", descriptor.digest);
        let error = Error::new(Kind::NotFound, gone)
            .with_hint("the registry wants it once more: run the import again, or import the bundle as a file");
        Box::pin(async move { Err(error) })
    }
}

impl BlobOrigin for PipeBlobs {
    fn describe(&self, digest: &Digest) -> String {
        let flow = self.kept.get(digest);
        flow.map_or_else(|| self.front.describe(digest), |flow| flow.place().to_owned())
    }

    fn hint(&self) -> &'static str {
        self.front.hint()
    }

    fn fail_over(&self, _digest: &Digest) -> bool {
        false
    }
}
