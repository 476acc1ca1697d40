//! Discovery of referrers at the source, in three places.
//! The places are the referrers API, the tag that lists referrers at a registry without that API, and cosign tags (OCI
//! distribution-spec, "Listing Referrers").

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::{BoxFuture, try_join, try_join_all};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{OnceCell, Semaphore};

use super::fetch::Fetcher;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Held;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest, View};
use crate::image::reference::Target;
use crate::image::referrer::{SUFFIXES, artifact_type, subject, tag_beside};
use crate::image::tree::{Attachment, ImageTree, LeftOut, Lookup, MAX_DEPTH, MAX_TOTAL, Variant, is_attached};
use crate::lock::Mutex;
use crate::progress::Progress;
use crate::registry::Presence;
use crate::transfer::referrers::{ReferrerChoice, with_no_referrers_hint};
use crate::transfer::sources::Repository;

/// Maximum number of referrers that are read for one subject, and maximum number for one image.
pub(crate) const MAX_REFERRERS: usize = 1000;

/// Memory in bytes that a tag takes beside its text.
const TAG: u64 = 64;

/// Maximum length of a chain of referrers. A signature of an SBOM of an image is a chain of two.
pub(crate) const MAX_CHAIN: usize = 4;

/// Reason for leaving out a referrer that is listed and does not exist.
const DANGLING: &str = "it is listed and not there";

/// Finds the referrers of manifests and remembers the answers of each repository.
#[derive(Debug)]
pub(super) struct Discovery {
    choice: ReferrerChoice,
    progress: Progress,
    /// Limits the referrer requests of all images together. Manifest requests have a limit of their own.
    permits: Semaphore,
    jobs: usize,
    repositories: Mutex<HashMap<RepositoryKey, Arc<KnownRepository>>>,
}

/// Cached answers of one repository.
#[derive(Debug, Default)]
struct KnownRepository {
    /// Tags that begin like a digest and the memory that they take, or `None` if a single request did not return all tags.
    tags: OnceCell<Option<(HashSet<String>, Held)>>,
    /// Referrers by the digest of their subject. Several tags may point at one subject.
    found: Mutex<HashMap<Digest, Arc<OnceCell<FoundList>>>>,
}

/// Host and repository.
type RepositoryKey = (String, Arc<str>);

/// Referrers of one manifest.
type FoundList = Arc<[Found]>;

/// A referrer of a manifest, and whether it can be carried.
#[derive(Debug, Clone)]
enum Found {
    Carried(Arc<RawManifest>, Lookup),
    /// The referrer does not exist, or has another subject.
    LeftOut(LeftOut),
    /// The referrer exists and cannot be carried.
    Broken(LeftOut),
}

/// Referrers found for one image.
#[derive(Debug, Default)]
pub(super) struct DiscoveredReferrers {
    pub(super) attachments: Vec<Attachment>,
    pub(super) left_out: Vec<LeftOut>,
    /// Whether a referrer that was to be carried is left out.
    pub(super) is_loss: bool,
    /// Digests of the manifests that were already handled.
    seen: HashSet<Digest>,
    /// Size of each blob, as the manifests state it.
    sizes: HashMap<Digest, u64>,
    /// Referrers whose own referrers are searched next.
    next: Vec<Digest>,
}

impl DiscoveredReferrers {
    /// Checks that a referrer states the same size for each blob as the image and its other referrers.
    /// Otherwise the image would contradict itself.
    fn check_sizes(&self, variant: &Variant) -> Result<()> {
        let mut own: HashMap<&Digest, u64> = HashMap::new();
        for blob in variant.all().flat_map(|manifest| manifest.blobs()) {
            let known = self.sizes.get(&blob.digest).or(own.get(&blob.digest));
            if known.is_some_and(|known| *known != blob.size) {
                let what = format!(
                    "it gives blob {} another size than the image or another referrer",
                    blob.digest
                );
                return Err(Error::new(Kind::Malformed, what));
            }
            own.insert(&blob.digest, blob.size);
        }
        let sizes = self.sizes.iter().filter(|(digest, _)| !own.contains_key(digest));
        let sizes = sizes.map(|(_, size)| size).chain(own.values());
        match sizes.fold(0u64, |sum, size| sum.saturating_add(*size)) > MAX_TOTAL {
            true => Err(Error::new(Kind::Malformed, "it states an impossible size for a blob")),
            false => Ok(()),
        }
    }

    /// Checks that an image has a signature, and that it loses no referrer.
    fn complete(self) -> Result<Self> {
        let lost = self
            .left_out
            .iter()
            .find(|left| self.is_loss || left.reason == DANGLING);
        let what = match lost {
            Some(lost) => format!(
                "{}, which refers to it, cannot be carried: {}",
                lost.digest, lost.reason
            ),
            None if self.attachments.is_empty() => {
                "it has no signature or other referrer of the requested types".to_owned()
            }
            None => return Ok(self),
        };
        Err(Error::new(Kind::NotFound, what).with_hint("omit `--referrers require` to carry it without"))
    }

    /// Records the size of each blob, as the manifests state it.
    fn note_sizes<'a>(&mut self, manifests: impl Iterator<Item = &'a Arc<RawManifest>>) {
        let blobs = manifests.flat_map(|manifest| manifest.blobs());
        self.sizes.extend(blobs.map(|blob| (blob.digest.clone(), blob.size)));
    }
}

impl Discovery {
    pub(super) fn new(choice: ReferrerChoice, jobs: usize, progress: Progress) -> Self {
        Self {
            choice,
            progress,
            // One referrer request for each manifest request stays within two jobs.
            permits: Semaphore::new((jobs * 2).saturating_sub(3).max(1)),
            jobs: jobs.max(1),
            repositories: Mutex::default(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.choice.is_any()
    }

    /// Searches the referrers of the root while other manifests of the image are fetched.
    /// Errors are ignored here, since [`discover`](Self::discover) repeats a failed request.
    pub(super) async fn begin(&self, fetcher: &Fetcher, repository: &Repository, root: &Digest) {
        if self.is_wanted() {
            let _ = self.referrers_of(fetcher, repository, root).await;
        }
    }

    /// Finds all referrers of the manifests of an image, and the referrers of these referrers.
    ///
    /// # Errors
    /// Errors of the registry, if its list of referrers cannot be read; [`Kind::NotFound`] if a referrer is required and
    /// the image has none or loses one.
    pub(super) async fn discover(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        tree: &ImageTree,
    ) -> Result<DiscoveredReferrers> {
        let mut belongings = DiscoveredReferrers::default();
        if !self.is_wanted() {
            return Ok(belongings);
        }
        let own: Vec<Digest> = tree.original.all().map(|manifest| manifest.digest().clone()).collect();
        belongings.seen.extend(own.iter().cloned());
        belongings.note_sizes(tree.own_manifests());
        // The root comes first: its answers show which requests the repository supports for the other manifests.
        let mut subjects: Vec<Digest> = own.into_iter().rev().collect();
        for depth in 0..=MAX_CHAIN {
            let futures: Vec<BoxFuture<'_, Result<FoundList>>> = subjects
                .iter()
                .map(|subject| -> BoxFuture<'_, Result<FoundList>> {
                    Box::pin(self.referrers_of(fetcher, repository, subject))
                })
                .collect();
            let found: Vec<FoundList> = stream::iter(futures)
                .buffered(self.jobs)
                .try_collect()
                .await
                .map_err(unreadable)?;
            for (subject, found) in subjects.iter().zip(found) {
                for found in found.iter() {
                    self.take(fetcher, repository, subject, found, depth, &mut belongings)
                        .await?;
                }
            }
            subjects = std::mem::take(&mut belongings.next);
            if subjects.is_empty() {
                break;
            }
        }
        // A referrer that one list names wrongly may be listed correctly in another place.
        let carried: HashSet<&Digest> = belongings.attachments.iter().map(|a| a.variant.root.digest()).collect();
        belongings
            .left_out
            .retain(|left_out| !carried.contains(&left_out.digest));
        match self.choice.is_required() {
            true => belongings.complete(),
            false => Ok(belongings),
        }
    }

    /// Adds a found referrer to the attachments of the image, or to the left-out referrers.
    async fn take(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        subject: &Digest,
        found: &Found,
        depth: usize,
        belongings: &mut DiscoveredReferrers,
    ) -> Result<()> {
        let (manifest, lookup) = match found {
            Found::Carried(manifest, lookup) => (manifest, *lookup),
            Found::LeftOut(left_out) | Found::Broken(left_out) => {
                belongings.is_loss |= matches!(found, Found::Broken(_));
                if !belongings.left_out.contains(left_out) {
                    belongings.left_out.push(left_out.clone());
                }
                return Ok(());
            }
        };
        if !self.choice.takes(&artifact_type(manifest, lookup != Lookup::Subject)) {
            return Ok(());
        }
        // A referrer that states its subject and also has a cosign tag is carried in both ways, so that registries find it
        // in both ways.
        let (digest, attachments) = (manifest.digest(), &belongings.attachments);
        let is_known = belongings.seen.contains(digest);
        let is_twin = lookup != Lookup::Subject || attachments.iter().any(|it| it.variant.root.digest() == digest);
        if is_attached(attachments, digest, subject, lookup) || (is_known && !is_twin) {
            return Ok(());
        }
        let too_many = belongings.attachments.len() == MAX_REFERRERS;
        if too_many || depth == MAX_CHAIN {
            let why = match too_many {
                true => format!("more than {MAX_REFERRERS} manifests refer to the image"),
                false => format!("the chain of what refers to it is longer than {MAX_CHAIN}"),
            };
            belongings.seen.insert(manifest.digest().clone());
            belongings.left_out.push(left_out(manifest.descriptor(), &why));
            return Ok(());
        }
        let variant = self.below(fetcher, repository, manifest).await;
        match variant.and_then(|variant| belongings.check_sizes(&variant).map(|()| variant)) {
            Ok(variant) => {
                belongings.note_sizes(variant.all());
                belongings
                    .seen
                    .extend(variant.all().map(|manifest| manifest.digest().clone()));
                if !is_known {
                    belongings.next.push(manifest.digest().clone());
                }
                belongings.attachments.push(Attachment {
                    variant,
                    subject: subject.clone(),
                    lookup,
                });
                Ok(())
            }
            Err(error) if is_referrer_error(&error) => {
                belongings.seen.insert(manifest.digest().clone());
                belongings.is_loss = true;
                belongings.left_out.push(left_out(manifest.descriptor(), &error.full()));
                Ok(())
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Fetches all manifests below a referrer.
    async fn below(&self, fetcher: &Fetcher, repository: &Repository, root: &Arc<RawManifest>) -> Result<Variant> {
        let mut levels = vec![vec![root.clone()]];
        let mut seen = HashSet::from([root.digest().clone()]);
        while let Some(level) = levels.last().filter(|level| !level.is_empty()) {
            let mut children = Vec::new();
            for manifest in level {
                let View::Index(index) = manifest.view() else { continue };
                for entry in &index.entries {
                    if seen.len() > MAX_REFERRERS || levels.len() > MAX_DEPTH {
                        return Err(Error::new(Kind::Malformed, "too many manifests are below it"));
                    }
                    if seen.insert(entry.descriptor.digest.clone()) {
                        children.push(fetcher.child(repository, &entry.descriptor).await?);
                    }
                }
            }
            levels.push(children);
        }
        let below = levels.into_iter().skip(1).rev().flatten().collect();
        Ok(Variant::new(root.clone(), below))
    }

    fn known(&self, repository: &Repository) -> Arc<KnownRepository> {
        let key = (repository.registry.host().to_owned(), repository.name.clone());
        let mut repositories = self.repositories.lock();
        repositories.entry(key).or_default().clone()
    }

    /// Finds the referrers of one manifest. Each repository is asked once for each subject.
    async fn referrers_of(&self, fetcher: &Fetcher, repository: &Repository, subject: &Digest) -> Result<FoundList> {
        let known = self.known(repository);
        let cell = {
            let mut found = known.found.lock();
            found.entry(subject.clone()).or_default().clone()
        };
        let found = cell
            .get_or_try_init(|| async {
                let found = self.ask(fetcher, repository, &known, subject).await?;
                Ok::<_, Error>(found.into())
            })
            .await?;
        Ok(found.clone())
    }

    /// Requests the referrers of a subject from all three places.
    async fn ask(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        known: &KnownRepository,
        subject: &Digest,
    ) -> Result<Vec<Found>> {
        let (registry, name) = (&repository.registry, &*repository.name);
        let mut found = Vec::new();
        let mut listed: HashSet<Digest> = HashSet::new();
        let from_api = async {
            let _permit = self.permits.acquire().await;
            registry.referrers(name, subject, MAX_REFERRERS).await
        };
        let list_tag = subject.referrers_tag();
        let of_tags = async {
            // The tag is read as well, since the registry may have introduced the referrers API after the tag was written.
            let list = self.tagged(fetcher, repository, known, &list_tag);
            let tags = SUFFIXES.map(|suffix| tag_beside(subject, suffix));
            let beside = tags.iter().map(|tag| self.tagged(fetcher, repository, known, tag));
            try_join(list, try_join_all(beside)).await
        };
        let (from_api, (list, beside)) = try_join(from_api, of_tags).await?;
        if let Some(referrers) = from_api {
            self.warn_of_more(repository, subject, referrers.more);
            self.read(fetcher, repository, subject, referrers.list, &mut listed, &mut found)
                .await?;
        }
        if let Some(list) = list
            && let View::Index(index) = list.view()
            // Earlier versions of this program pushed images without a tag to this tag; such an image is no list of
            // referrers.
            && list.digest() != subject
        {
            let entries = index.entries.iter().map(|entry| entry.descriptor.clone());
            let mut entries: Vec<Descriptor> = entries.collect();
            self.warn_of_more(repository, subject, entries.len() > MAX_REFERRERS);
            entries.truncate(MAX_REFERRERS);
            self.read(fetcher, repository, subject, entries, &mut listed, &mut found)
                .await?;
        }
        for (suffix, manifest) in SUFFIXES.into_iter().zip(beside) {
            found.extend(manifest.map(|manifest| Found::Carried(manifest, Lookup::Tag(suffix))));
        }
        Ok(found)
    }

    /// Reads the manifests of a list of referrers and checks that their subject is `of`.
    async fn read(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        of: &Digest,
        list: Vec<Descriptor>,
        listed: &mut HashSet<Digest>,
        found: &mut Vec<Found>,
    ) -> Result<()> {
        let new = list.into_iter().filter(|entry| listed.insert(entry.digest.clone()));
        let (new, large): (Vec<Descriptor>, Vec<_>) = new.partition(|entry| entry.size <= MAX_MANIFEST);
        found.extend(large.iter().map(|entry| {
            let why = format!(
                "its manifest has {} bytes; at most {MAX_MANIFEST} are accepted",
                entry.size
            );
            Found::Broken(left_out(entry, &why))
        }));
        let futures: Vec<_> = new
            .iter()
            .map(|entry| fetcher.manifest(repository, &entry.digest))
            .collect();
        let manifests: Vec<_> = stream::iter(futures).buffered(self.jobs).collect().await;
        for (entry, manifest) in new.iter().zip(manifests) {
            found.push(match manifest {
                Ok(manifest) if subject(&manifest).as_ref() == Some(of) => Found::Carried(manifest, Lookup::Subject),
                Ok(_) => Found::LeftOut(left_out(
                    entry,
                    "it is listed for another subject than its manifest states",
                )),
                Err(error) if error.kind() == Kind::NotFound => Found::LeftOut(left_out(entry, DANGLING)),
                Err(error) if is_referrer_error(&error) => Found::Broken(left_out(entry, &error.full())),
                Err(error) => return Err(error),
            });
        }
        Ok(())
    }

    fn warn_of_more(&self, repository: &Repository, subject: &Digest, more: bool) {
        if more {
            self.progress.warn(format!(
                "`{}/{}` lists more than {MAX_REFERRERS} manifests that refer to {subject}; the first {MAX_REFERRERS} are read",
                repository.registry.host(),
                repository.name
            ));
        }
    }

    /// Returns the manifest that a tag points at, or `None` if the tag does not exist.
    /// A short list of all tags shows the missing tags; without such a list a HEAD request does, which registries do not
    /// count as a pull.
    async fn tagged(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        known: &KnownRepository,
        tag: &str,
    ) -> Result<Option<Arc<RawManifest>>> {
        let (registry, name) = (&repository.registry, &*repository.name);
        let target = Target::Tag(tag.to_owned());
        let tags = known.tags.get_or_init(|| async {
            let _permit = self.permits.acquire().await;
            match registry.has_mirrors(name, &target) {
                Ok(false) => {
                    let tags = registry.digest_tags(name).await?;
                    let memory = tags.iter().map(|tag| TAG + tag.len() as u64).sum();
                    let held = fetcher.budget().hold(memory).ok()?;
                    Some((tags, held))
                }
                _ => None,
            }
        });
        if tags.await.as_ref().is_some_and(|(tags, _)| !tags.contains(tag)) {
            return Ok(None);
        }
        if !registry.has_mirrors(name, &target)? {
            let head = {
                let _permit = self.permits.acquire().await;
                registry.head_manifest(name, &target).await?
            };
            match head {
                Presence::Missing => return Ok(None),
                // A manifest requested by its digest may be in the cache.
                Presence::Present(head) if head.digest.is_some() => {
                    if let Some(digest) = head.digest {
                        return match fetcher.manifest(repository, &digest).await {
                            Err(error) if error.kind() == Kind::NotFound => Ok(None),
                            other => other.map(Some),
                        };
                    }
                }
                Presence::Present(_) | Presence::Unknown => {}
            }
        }
        fetcher.find_tagged(repository, &target).await
    }
}

/// Returns whether the referrer itself is at fault and can be left out.
/// Other errors mean that it could not be read.
fn is_referrer_error(error: &Error) -> bool {
    let kind = error.kind();
    matches!(
        kind,
        Kind::Malformed | Kind::Integrity | Kind::Unsupported | Kind::NotFound
    )
}

fn left_out(entry: &Descriptor, why: &str) -> LeftOut {
    LeftOut {
        digest: entry.digest.clone(),
        media_type: entry.media_type.clone(),
        reason: why.to_owned(),
    }
}

/// Returns the error for referrers that could not be read.
fn unreadable(error: Error) -> Error {
    with_no_referrers_hint(error.context("what refers to it (signatures, attestations) could not be read"))
}
