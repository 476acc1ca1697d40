//! Import: pushes the images of bundles to a registry.
//! Only the bundles and the destination are read or contacted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;

use super::attach::Attacher;
use super::bundle_blobs::{BundleBlobs, PipeBlobs};
use super::push::asked_image::AskedImage;
use super::push::destination;
use super::push::pipe::feed::PipeFeed;
use super::push::push_all::push_all;
use super::push::report::{self, ArchiveReport, PushReport};
use super::push::request::{BlobOrigin, PushItem, PushRequest};
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
use crate::image::budget::{Budget, NAME};
use crate::image::digest::Digest;
use crate::image::manifest::View;
use crate::image::narrow::narrow as narrow_tree;
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::image::referrer::parse_tag_beside;
use crate::image::tree::{ImageTree, IndexMode, platform_list};
use crate::inventory::images::missing_in_words;
use crate::progress::{Progress, human_bytes};
use crate::registry::Registries;
use crate::text::{Warnings, counted, shorten};

/// The images of a bundle to import, with their platforms and referrers.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns (`*`, `?`, `[…]`, `{a,b}`) for references; an image is imported if any pattern matches.
    /// No patterns select all images. A pattern is matched against the whole reference and against the short forms that a
    /// user may type: without `docker.io/` and `library/`, without tag and digest.
    pub only: Vec<String>,
    /// Platforms to import, out of the platforms in the bundle.
    pub platforms: Option<PlatformFilter>,
    /// Referrers to import with the images.
    pub referrers: ReferrerChoice,
}

/// Pushes the images of a bundle to a registry.
///
/// # Errors
/// If nothing was sent at all: the selection matches no image, names collide, the registry cannot be reached. Errors of
/// single images are in the report; nothing is sent for an incomplete image.
pub async fn import(
    bundle: Arc<Bundle>,
    select: Selection,
    request: PushRequest,
    registries: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    let origin: Arc<dyn BlobOrigin> = Arc::new(BundleBlobs(bundle.blobs()));
    let sums = Sums::start(&bundle, &request);
    let mut report = push(bundle, origin, None, select, request, registries, progress.clone()).await?;
    report.files = sums.finish(&progress).await;
    Ok(report)
}

/// Computes the checksums of the bundle's files during the push, if the report needs them.
struct Sums {
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<Vec<VerifiedFile>>>,
}

impl Sums {
    /// Starts to read the files, if the report needs their checksums.
    fn start(bundle: &Arc<Bundle>, request: &PushRequest) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (bundle, stopped) = (bundle.clone(), stop.clone());
        let is_wanted = request.with_lock && !request.dry_run;
        Self {
            stop,
            work: is_wanted.then(|| tokio::task::spawn_blocking(move || bundle.sums(&stopped))),
        }
    }

    /// Waits for the checksums and returns them.
    async fn finish(mut self, progress: &Progress) -> Vec<VerifiedFile> {
        let Some(work) = self.work.take() else {
            return Vec::new();
        };
        if !work.is_finished() {
            progress.info("reading the rest of the bundle: the report states its SHA-256");
        }
        work.await.unwrap_or_default()
    }
}

impl Drop for Sums {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Pushes the images of a bundle that is read from a pipe.
/// Only the front of the bundle was read before ([`Bundle::from_pipe`]); its blobs are uploaded in a single pass as they
/// come out of the pipe.
///
/// The bytes read ahead take a few dozen MiB of memory. A small blob is kept whole and can be sent again. Only the last
/// bytes of a large blob are kept, so an upload of a large blob that has to start again fails its images, with a hint.
/// Large blobs that several repositories need are an exception: as long as the registry has not shown that it mounts blobs,
/// they are spooled to [`PushRequest::temp_dir`], if that is set. Missing blobs are known only at the end of the pipe: an
/// image with a missing blob fails and gets no tag.
///
/// # Errors
/// Like [`import`].
pub async fn import_pipe(
    bundle: Arc<Bundle>,
    rest: Incoming,
    select: Selection,
    request: PushRequest,
    registries: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    let feed = PipeFeed::new(bundle.blobs(), rest);
    let kept = feed.kept();
    let origin: Arc<dyn BlobOrigin> = Arc::new(PipeBlobs::new(bundle.blobs(), &feed));
    let mut report = push(bundle, origin, Some(feed), select, request, registries, progress).await?;
    report.files.extend(kept.sum());
    Ok(report)
}

/// Pushes the selected images of a bundle. With a `feed`, blobs come out of a pipe.
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
    let missing = missing_everywhere(&bundle);
    let claim = |missing: &Missing| missing_in_words(&missing.reference, &missing.reason);
    let claims: Warnings = missing.iter().map(claim).collect();
    claims.iter().for_each(|claim| progress.warn(claim.clone()));
    let all = chosen(&bundle, &select.only)?;
    let (chosen, chosen_broken) = all.split_at(bundle.images().len());
    let (trees, reserved) = read(&bundle, chosen, &select);

    let (items, mut slots, unusable) = place_images(&bundle, trees, &select, &request, &origin, &progress);
    destination::check_any_is_usable(slots.len(), unusable)?;
    for (image, _) in bundle.broken().iter().zip(chosen_broken).filter(|(_, chosen)| **chosen) {
        slots.push(AskedImage::failed(&image.label, &image.error));
    }
    destination::check_mappings(&request, items.iter().map(|item| &item.tree.source), &progress);
    request.budget = bundle.budget().clone();
    let broken = bundle.broken_archives().iter().map(|archive| ArchiveReport {
        path: archive.label.as_str().into(),
        error: Error::clone(&archive.error),
    });
    let broken: Vec<ArchiveReport> = broken.collect();
    // With `fail_fast`, an unreadable archive ends the run before anything is sent.
    if request.fail_fast
        && let Some(first) = broken.first()
    {
        return Err(first.error.clone());
    }
    let has_docker_manifest = bundle.has_docker_manifest();
    let mut warnings = bundle.warnings().clone();
    // The plan of the push takes the reserved memory next, and that of the names and records.
    drop((reserved, bundle));
    let mut report = push_all(items, &[], slots, &request, registries, &progress, feed).await?;
    let shortened = |missing: Missing| Missing {
        reference: shorten(missing.reference),
        reason: shorten(missing.reason),
    };
    report.missing = missing.into_iter().map(shortened).collect();
    if let Some(lock) = &mut report.lock {
        lock.docker_manifest = has_docker_manifest;
    }
    report.broken_archives = broken;
    warnings.append(report.warnings);
    report.warnings = warnings;
    Ok(report)
}

/// Returns the images that the records of the bundles call missing and that no bundle has.
/// The list is only a claim: nothing proves that these images were ever requested.
fn missing_everywhere(bundle: &Bundle) -> Vec<Missing> {
    let there: HashSet<&Reference> = bundle.images().iter().map(|image| &image.name).collect();
    let is_there = |missing: &&Missing| {
        missing
            .reference
            .parse()
            .is_ok_and(|name: Reference| there.contains(&name))
    };
    bundle
        .missing()
        .iter()
        .filter(|missing| !is_there(missing))
        .cloned()
        .collect()
}

/// Gives each image its name at the destination. Returns the items of the push, an entry for each image in the order of the
/// bundle, and the errors of images without a usable name.
fn place_images(
    bundle: &Bundle,
    trees: Vec<ReadImage>,
    select: &Selection,
    request: &PushRequest,
    origin: &Arc<dyn BlobOrigin>,
    progress: &Progress,
) -> (Vec<PushItem>, Vec<AskedImage>, Vec<Error>) {
    let mut slots = Vec::new();
    let mut items = Vec::new();
    let mut unusable = Vec::new();
    let mut absent = HashMap::new();
    let mut summaries = HashMap::new();
    for (place, tree) in trees {
        let image = &bundle.images()[place];
        let tree = match tree {
            Ok(tree) => tree,
            Err(error) => {
                slots.push(AskedImage::failed(&image.name, &error));
                continue;
            }
        };
        if let Some(filter) = &select.platforms {
            let absent = absent
                .entry(tree.shared_content())
                .or_insert_with(|| resolve::absent(&tree, filter));
            resolve::warn_of_absent(&tree.source, absent, progress);
        }
        // An image may have very many names and blobs: its blobs are counted once, not under each name.
        let summary = summaries.entry(tree.shared_content()).or_insert_with(|| summary(&tree));
        progress.note(format!("{} {}: {summary}", tree.source, tree.pushed().root.digest()));
        let source = tree.source.to_string();
        match destination::item(request, tree, origin.clone(), image.rebuilt) {
            Ok(item) => {
                slots.push(AskedImage::Item(source));
                items.push(item);
            }
            Err(error) => {
                slots.push(AskedImage::failed(&source, &error));
                unusable.push(error);
            }
        }
    }
    (items, slots, unusable)
}

/// Returns a few words on what an image contains, which are the same under each of its names.
fn summary(tree: &ImageTree) -> String {
    let (manifests, blobs) = (tree.manifests(), tree.blobs());
    let sizes = manifests.iter().map(|manifest| manifest.descriptor().size);
    let sizes = sizes.chain(blobs.iter().map(|blob| blob.descriptor.size));
    // As `inspect` counts them: without the blobs of signatures and other referrers.
    let own: HashSet<&Digest> = tree
        .own_manifests()
        .flat_map(|manifest| manifest.blobs())
        .map(|blob| &blob.digest)
        .collect();
    let layers = blobs
        .iter()
        .filter(|blob| !blob.is_config && own.contains(&blob.descriptor.digest));
    let layers = layers.count();
    let mut summary = format!(
        "{}; {}, {}",
        platform_list(&tree.kept),
        counted(layers as u64, "layer", "layers"),
        human_bytes(sizes.fold(0, u64::saturating_add))
    );
    let referrers = tree.referrer_counts().values().sum::<usize>() as u64;
    if referrers > 0 {
        summary.push_str(&format!("; {}", counted(referrers, "referrer", "referrers")));
    }
    if !tree.dropped.is_empty() {
        summary.push_str(&format!("; without {}", platform_list(&tree.dropped)));
    }
    summary
}

/// Returns whether the patterns select each image of the bundle, followed by each broken image.
pub(super) fn chosen(bundle: &Bundle, only: &[String]) -> Result<Vec<bool>> {
    // An attachment is selected together with its image.
    let named = bundle.images().iter();
    let named = named.map(|image| Candidate::Named(image.attached_to.as_ref().unwrap_or(&image.name)));
    let broken = bundle.broken().iter().map(|image| match &image.name {
        Some(name) => Candidate::Named(name),
        None => Candidate::Nameless(&image.label),
    });
    let candidates: Vec<Candidate<'_>> = named.chain(broken).collect();
    choose(&candidates, only)
}

/// Reduces a tree to the requested platforms.
///
/// # Errors
/// [`Kind::NotFound`] if the image has none of the requested platforms.
fn narrow(tree: ImageTree, image: &BundledImage, platforms: Option<&PlatformFilter>) -> Result<ImageTree> {
    // An attached image (a signature, for example) has no platform to select.
    if image.attached_to.is_some() {
        return Ok(tree);
    }
    // The user already selected the platforms of an image with a record when the bundle was made.
    runnable::check(&tree, platforms.is_some() || image.record.is_some())?;
    match platforms {
        Some(filter) => narrow_tree(tree, filter),
        None => Ok(tree),
    }
}

/// The position of an image in the bundle, and its tree or the reason why it cannot be pushed.
type ReadImage = (usize, Result<ImageTree>);

/// Reads the manifests of the selected images and their attachments.
/// Checks that all blobs are present. Images that differ only in their names are read once.
///
/// The current thread is blocked meanwhile, on purpose: the plan of the push takes the memory that reading leaves free, and memory
/// that one thread frees hardly ever serves another one.
fn read(bundle: &Bundle, chosen: &[bool], select: &Selection) -> (Vec<ReadImage>, Reservation) {
    let mut attacher = Attacher::new(bundle, &select.referrers);
    let platforms = select.platforms.as_ref();
    let mut reserved = Reservation::new(bundle.budget());
    let mut read = |image: &BundledImage, attacher: &mut Attacher<'_>| {
        let mut tree = narrow(bundle.tree_of(image)?, image, platforms)?;
        if image.attached_to.is_none() {
            attacher.attach(&mut tree, image)?;
        }
        // Configs can take much memory and only served to select platforms; as blobs they are read again.
        tree.configs.clear();
        reserved.add(&tree)?;
        bundle.budget().take(tree.uncounted_memory())?;
        let listed = report::bytes_of_lists(&tree);
        Ok((tree, listed))
    };
    // The position in `trees` of the first image with each content, and the bytes of its lists in a report.
    let mut known: HashMap<_, Result<(usize, u64)>> = HashMap::new();
    let mut trees: Vec<ReadImage> = Vec::new();
    let mut separate = HashSet::new();
    let broken = bundle.broken().iter().filter_map(|broken| broken.name.as_ref());
    let mut failed: HashSet<String> = broken.map(Reference::name).collect();
    let images = bundle.images().iter().enumerate().filter(|(place, _)| chosen[*place]);
    // An image with a cosign tag is pushed as an image of its own only if no other image claims it as an attachment. So
    // images with a cosign tag come last.
    let (images, beside): (Vec<_>, Vec<_>) = images.partition(|(_, image)| image.attached_to.is_none());
    let mut whole_subjects: Option<HashSet<Subject>> = None;
    for (place, image) in images.into_iter().chain(beside) {
        if !attacher.is_separate(place, image, platforms) {
            continue;
        }
        // An image that failed has claimed none, and its signature is not pushed without it. What a whole image of the
        // repository lists is no signature of another one.
        if image.attached_to.is_some() && failed.contains(&image.name.name()) {
            let whole = whole_subjects.get_or_insert_with(|| listed_by_whole(&trees, &failed, bundle.budget()));
            if !whole.contains(&subject_of(image)) {
                continue;
            }
        }
        if image.attached_to.is_some() && !separate.insert(&image.name) {
            let what = "the bundles hold two of this name, and the image that they belong to cannot be used";
            let error = Error::new(Kind::Malformed, what).with_hint("import the bundles one after the other");
            trees.push((place, Err(image.place_error(error))));
            continue;
        }
        let repository = attacher.depends_on_repository().then(|| image.name.name());
        let key = (image.content(), repository);
        let tree = match known.get(&key) {
            Some(Ok((first, listed))) => trees[*first].1.clone().map(|tree| (tree, *listed)),
            Some(Err(error)) => Err(error.clone()),
            None => read(image, &mut attacher),
        };
        // The lists that a report repeats under each name of an image count against the memory budget.
        let named = tree.and_then(|(tree, listed)| {
            bundle.budget().take(listed)?;
            Ok((named(&tree, image), listed))
        });
        known.entry(key).or_insert_with(|| match &named {
            Ok((_, listed)) => Ok((trees.len(), *listed)),
            Err(error) => Err(error.clone()),
        });
        if named.is_err() && image.attached_to.is_none() {
            failed.insert(image.name.name());
        }
        let named = named.map(|(tree, _)| tree);
        trees.push((place, named.map_err(|e| image.place_error(e))));
    }
    // Images with a cosign tag were read last; reports follow the order of the bundle.
    trees.sort_unstable_by_key(|(place, _)| *place);
    // The trees have their manifests, and nothing is read again.
    bundle.drop_documents();
    (trees, reserved)
}

/// The repository of a manifest, and its referrers tag.
type Subject = (String, String);

/// Returns the subject of an image with a cosign tag.
fn subject_of(image: &BundledImage) -> Subject {
    let subject = image.name.tag().and_then(parse_tag_beside);
    let subject = subject.map(|(subject, _)| subject.to_owned());
    (image.name.name(), subject.unwrap_or_default())
}

/// Returns the manifests that the indexes of whole images list, of the repositories with an image that `failed`, as far as the
/// memory budget allows.
fn listed_by_whole(trees: &[ReadImage], failed: &HashSet<String>, budget: &Budget) -> HashSet<Subject> {
    let mut listed = HashSet::new();
    for tree in trees.iter().filter_map(|(_, tree)| tree.as_ref().ok()) {
        let repository = tree.source.name();
        if !failed.contains(&repository) {
            continue;
        }
        for manifest in tree.own_manifests() {
            let View::Index(index) = manifest.view() else { continue };
            if budget.take(index.entries.len() as u64 * NAME).is_err() {
                return listed;
            }
            let digests = index.entries.iter().map(|entry| &entry.descriptor.digest);
            listed.extend(digests.map(|digest| (repository.clone(), digest.referrers_tag())));
        }
    }
    listed
}

/// Returns a copy of a tree under the name of `image`.
pub(super) fn named(tree: &ImageTree, image: &BundledImage) -> ImageTree {
    let mut tree = tree.clone();
    tree.source = image.name.clone();
    // If the record does not state which index to push under the name, the name decides.
    if image.record.as_ref().is_none_or(|record| record.filtered.is_none()) {
        tree.choose(IndexMode::Auto);
    }
    tree
}
