//! The one-step mirror: copies images between registries without storing blobs on disk.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::mpsc;

use super::patience::soon;
use super::push::asked_image::AskedImage;
use super::push::destination;
use super::push::push_all::push_all;
use super::push::report::{ImageReport, Outcome, PushReport};
use super::push::request::{BlobOrigin, PushItem, PushRequest};
use super::resolve::Resolver;
use super::sources::{Repository, Sources};
use crate::error::{Error, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::inventory::lock::Lock;
use crate::lock::Mutex;
use crate::progress::{Event, Phase, Progress};
use crate::registry::{BlobSource, BlobStream, Registries, WithoutRange};
use crate::text::{Warnings, counted, few};

/// Resolves images and pushes them to the destination.
///
/// `sources` and `destinations` must have limits of their own, as two values of [`Registries::new`] do: an upload that waits for
/// bytes of its own host would wait for a place that only itself gives back.
///
/// All images are resolved before the first blob is sent. Only images of a registry that does not answer or fails are not
/// waited for: if none of them is resolved [`soon`], the others are pushed first.
///
/// # Errors
/// Those of [`mirror`].
pub async fn resolve_and_mirror(
    resolver: &Resolver,
    images: &[Reference],
    sources: &Registries,
    request: PushRequest,
    destinations: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    let (sender, resolved) = mpsc::unbounded_channel();
    let resolving = async move {
        let send = move |number: usize, tree: Result<ImageTree>| drop(sender.send((number, tree)));
        Box::pin(resolver.resolve_each(images, &send)).await;
        // The channel ends here, and the push after it.
        drop(send);
        std::future::pending::<Infallible>().await
    };
    let run = Run {
        resolver,
        images,
        sources,
        request: &request,
        destinations,
        progress: &progress,
    };
    tokio::select! {
        report = run.push_resolved(resolved) => report,
        never = resolving => match never {},
    }
}

/// The number of a requested image, and its tree or error.
type Resolved = (usize, Result<ImageTree>);

/// A one-step mirror.
struct Run<'a> {
    resolver: &'a Resolver,
    images: &'a [Reference],
    sources: &'a Registries,
    request: &'a PushRequest,
    destinations: &'a Registries,
    progress: &'a Progress,
}

impl Run<'_> {
    /// Pushes the images that arrive: all at once, unless some of them take long to be resolved.
    async fn push_resolved(&self, mut resolved: mpsc::UnboundedReceiver<Resolved>) -> Result<PushReport> {
        let may_split = may_split(self.images, self.request);
        let mut reports: Vec<Option<ImageReport>> = self.images.iter().map(|_| None).collect();
        let mut lock: Option<Lock> = None;
        let mut warnings = Warnings::default();
        let mut there: Vec<PushItem> = Vec::new();
        loop {
            let (mut part, is_last) = next_part(&mut resolved, may_split).await;
            part.sort_by_key(|(number, _)| *number);
            let is_whole = part.len() == self.images.len();
            let (numbers, mut trees): (Vec<usize>, Vec<_>) = part.into_iter().unzip();
            let references: Vec<Reference> = numbers.iter().map(|number| self.images[*number].clone()).collect();
            self.resolver.check(&references, &mut trees, is_last).await;
            if !is_last {
                self.tell_missing(&reports, &numbers);
            }
            let is_first = reports.iter().all(Option::is_none);
            if is_first && !is_whole {
                destination::check_mappings(self.request, self.images.iter(), self.progress);
            }
            let errors: Vec<Option<Error>> = trees.iter().map(|tree| tree.as_ref().err().cloned()).collect();
            let trees = references.into_iter().zip(trees).collect();
            let known = (!is_whole).then_some(&mut there);
            let pushed = push(
                trees,
                known,
                self.sources,
                self.request,
                self.destinations,
                self.progress,
            );
            let pushed = Box::pin(pushed).await;
            if is_whole || (is_first && pushed.is_err()) {
                return pushed;
            }
            match pushed {
                Ok(report) => {
                    // The names of the images are different, so that each has one report.
                    for (number, report) in numbers.iter().zip(report.images) {
                        reports[*number] = Some(report);
                    }
                    warnings.append(report.warnings);
                    match (&mut lock, report.lock) {
                        (Some(lock), Some(more)) => lock.images.extend(more.images),
                        (lock, more) => *lock = lock.take().or(more),
                    }
                }
                // The images before these were pushed, and their reports must not be lost.
                Err(error) => {
                    for (number, own) in numbers.iter().zip(errors) {
                        let error = own.unwrap_or_else(|| error.clone());
                        reports[*number] = Some(ImageReport::unresolved(&self.images[*number], &error));
                    }
                }
            }
            let left = reports.iter().filter(|report| report.is_none()).count();
            if is_last {
                break;
            }
            self.progress.emit(Event::Phase {
                phase: Phase::Resolving,
                images: left as u64,
            });
        }
        if let Some(lock) = &mut lock {
            let numbered = self.images.iter().enumerate();
            let numbers: HashMap<&Reference, usize> = numbered.map(|(number, image)| (image, number)).collect();
            lock.images.sort_by_key(|image| numbers.get(&image.reference).copied());
        }
        Ok(PushReport {
            lock,
            warnings,
            ..PushReport::new(false, reports.into_iter().flatten().collect())
        })
    }

    /// Tells which registries are not waited for. `reports` has the images that were pushed, and `numbers` those that follow.
    fn tell_missing(&self, reports: &[Option<ImageReport>], numbers: &[usize]) {
        let numbers: HashSet<&usize> = numbers.iter().collect();
        let mut count = 0;
        let mut hosts = BTreeSet::new();
        for (number, image) in self.images.iter().enumerate() {
            if reports[number].is_none() && !numbers.contains(&number) {
                count += 1;
                hosts.insert(image.host());
            }
        }
        let images = counted(count, "image", "images");
        let hosts = few(hosts.into_iter().map(|host| format!("`{host}`")));
        self.progress.info(format!(
            "{images} of {hosts} cannot be resolved yet; the others are pushed meanwhile"
        ));
    }
}

/// Returns the images that are resolved by now, and whether they are the last ones. Without `may_split`, waits for all.
async fn next_part(resolved: &mut mpsc::UnboundedReceiver<Resolved>, may_split: bool) -> (Vec<Resolved>, bool) {
    let mut part = Vec::new();
    let mut is_any = false;
    loop {
        // Without a resolved image there is nothing to push yet.
        let next = match may_split && is_any {
            true => soon(resolved.recv()).await,
            false => Some(resolved.recv().await),
        };
        match next {
            Some(Some((number, tree))) => {
                is_any |= tree.is_ok();
                part.push((number, tree));
            }
            Some(None) => return (part, true),
            None => return (part, false),
        }
    }
}

/// Returns whether some images can be pushed before the others are resolved. They cannot if an image that is resolved later
/// may refuse or stop the whole run: by its name at the destination, or since it fails.
fn may_split(images: &[Reference], request: &PushRequest) -> bool {
    if request.dry_run || request.fail_fast || request.platform_tags {
        return false;
    }
    let mut names = HashSet::new();
    images.iter().all(|image| {
        let name = destination::name_of_reference(request, image);
        name.is_ok_and(|name| {
            let is_own = name.name() == image.name() && name.tag() == image.tag();
            !is_own && names.insert(name)
        })
    })
}

/// Pushes resolved images to the destination.
/// The blobs of an image are streamed from the registry at which the image was resolved. `trees` contains the tree or the
/// error of each requested reference; the errors go into the report.
///
/// # Errors
/// If nothing was sent at all: names collide, or the destination cannot be reached.
pub async fn mirror(
    trees: Vec<(Reference, Result<ImageTree>)>,
    sources: &Registries,
    request: PushRequest,
    destinations: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    push(trees, None, sources, &request, destinations, &progress).await
}

/// Pushes resolved images. For a part of the images of a run, `there` has those that are at the destination, and gets the
/// new ones.
async fn push(
    trees: Vec<(Reference, Result<ImageTree>)>,
    there: Option<&mut Vec<PushItem>>,
    sources: &Registries,
    request: &PushRequest,
    destinations: &Registries,
    progress: &Progress,
) -> Result<PushReport> {
    let mut slots = Vec::new();
    let mut found = Vec::new();
    let mut unusable = Vec::new();
    for (reference, tree) in trees {
        // If the client of a host cannot be set up, only the images of that host fail.
        match tree.and_then(|tree| Repository::new(&tree.source, sources).map(|_| tree)) {
            Err(error) => slots.push(AskedImage::Failed(Box::new(ImageReport::unresolved(
                &reference, &error,
            )))),
            Ok(tree) => {
                // The name at the destination is checked before any other work is done for the image.
                if let Err(error) = destination::name_of_tree(request, &tree) {
                    slots.push(AskedImage::Failed(Box::new(ImageReport::unresolved(
                        &reference, &error,
                    ))));
                    unusable.push(error);
                    continue;
                }
                slots.push(AskedImage::Item(tree.source.to_string()));
                found.push(tree);
            }
        }
    }
    if there.is_none() {
        destination::check_any_is_usable(slots.len(), unusable)?;
    }
    let blobs: Arc<dyn BlobOrigin> = Arc::new(RegistryBlobs::new(&found, sources)?);
    let items = found
        .into_iter()
        .map(|tree| destination::item(request, tree, blobs.clone(), false))
        .collect::<Result<Vec<_>>>()?;
    let Some(there) = there else {
        destination::check_mappings(request, items.iter().map(|item| &item.tree.source), progress);
        return push_all(items, &[], slots, request, destinations, progress).await;
    };
    let all = items.clone();
    let report = push_all(items, there, slots, request, destinations, progress).await?;
    let whole = report.images.iter().filter(|image| {
        matches!(image.outcome, Outcome::Pushed | Outcome::Unchanged) && image.error.is_none() && !image.referrers_lost
    });
    let whole: HashSet<&str> = whole.map(|image| image.source.as_str()).collect();
    there.extend(
        all.into_iter()
            .filter(|item| whole.contains(item.tree.source.to_string().as_str())),
    );
    Ok(report)
}

/// The blobs of images in registries, as a source for a push.
pub(crate) struct RegistryBlobs {
    sources: Arc<Sources>,
    /// Number of reads of each blob that returned bytes with a wrong digest.
    wrong_reads: Mutex<HashMap<Digest, usize>>,
}

impl RegistryBlobs {
    pub(crate) fn new(trees: &[ImageTree], registries: &Registries) -> Result<Self> {
        Ok(Self {
            sources: Arc::new(Sources::new(trees, registries)?),
            wrong_reads: Mutex::default(),
        })
    }

    /// Returns how often a blob was read with wrong bytes.
    fn wrong_reads(&self, digest: &Digest) -> usize {
        let wrong = self.wrong_reads.lock();
        wrong.get(digest).copied().unwrap_or(0)
    }
}

impl BlobSource for RegistryBlobs {
    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        Box::pin(async move {
            let wrong = self.wrong_reads(&descriptor.digest);
            let range = offset..descriptor.size;
            let reader = self.sources.open(descriptor, range, WithoutRange::Skip, wrong).await?;
            let pieces = stream::try_unfold(reader, |mut reader| async move {
                Ok(reader.chunk().await?.map(|piece| (piece, reader)))
            });
            Ok(pieces.boxed())
        })
    }
}

impl BlobOrigin for RegistryBlobs {
    fn describe(&self, digest: &Digest) -> String {
        match self.sources.first(digest, self.wrong_reads(digest)) {
            Some(source) => format!("`{source}`"),
            None => format!("blob {digest}"),
        }
    }

    fn hint(&self) -> &'static str {
        "the source registry sends other bytes than it promises: have the image pushed there again, or name another source"
    }

    fn fail_over(&self, digest: &Digest) -> bool {
        let mut wrong = self.wrong_reads.lock();
        let count = wrong.entry(digest.clone()).or_default();
        *count += 1;
        // Each candidate is tried once, and the first one a second time, since bytes can also be corrupted in transit.
        *count <= self.sources.count(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_pushed_in_parts_only_if_none_can_refuse_or_stop_the_others() {
        let parts = |images: &[&str], change: fn(&mut PushRequest)| {
            let mut request = PushRequest::new("r.example/mirror".parse().unwrap());
            change(&mut request);
            let images: Vec<Reference> = images.iter().map(|image| image.parse().unwrap()).collect();
            may_split(&images, &request)
        };
        let images = ["a.example/x:1", "b.example/y:1", "b.example/y:2"];
        assert!(parts(&images, |_| ()));
        assert!(!parts(&images, |request| request.dry_run = true));
        assert!(!parts(&images, |request| request.fail_fast = true));
        assert!(!parts(&images, |request| request.platform_tags = true));
        // Two sources of one name, and names that may state two digests for one tag.
        assert!(!parts(&["a.example/x:1", "b.example/x:1"], |_| ()));
        let pinned = format!("a.example/x:1@{}", Digest::sha256(b""));
        assert!(!parts(&["a.example/x:1", &pinned], |_| ()));
        // A mapping that leads two images to one name, and one that gives no name.
        let map: fn(&mut PushRequest) = |request| request.mappings = vec!["b.example/y=x".parse().unwrap()];
        assert!(!parts(&["a.example/x:1", "b.example/y:1"], map));
        assert!(parts(&images[..1], map) && parts(&images[1..], map));
        let all: fn(&mut PushRequest) = |request| request.mappings = vec!["b.example=".parse().unwrap()];
        assert!(parts(&images, all));
        // An image that would be pushed over its own source.
        assert!(!parts(&["r.example/mirror/x:1"], |request| {
            request.mappings = vec!["r.example/mirror=".parse().unwrap()];
        }));
    }
}
