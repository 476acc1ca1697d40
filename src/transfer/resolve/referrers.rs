//! Discovery of referrers at the source, in three places.
//! The places are the referrers API, the tag that lists referrers at a registry without that API, and cosign tags (OCI
//! distribution-spec, "Listing Referrers").

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::{BoxFuture, join, try_join, try_join_all};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{OnceCell, Semaphore};

use super::discovered::{DANGLING, DiscoveredReferrers};
use super::fetch::Fetcher;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Held;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest, View};
use crate::image::reference::{Reference, Target};
use crate::image::referrer::{SUFFIXES, artifact_type, subject, tag_beside};
use crate::image::tree::{Attachment, ImageTree, LeftOut, Lookup, MAX_DEPTH, Variant, is_attached};
use crate::lock::Mutex;
use crate::progress::Progress;
use crate::registry::{Presence, TagLookup};
use crate::transfer::referrers::{ReferrerChoice, about_referrers};
use crate::transfer::sources::Repository;

/// Maximum number of referrers that are read for one subject, and maximum number for one image.
pub(crate) const MAX_REFERRERS: usize = 1000;

/// Maximum number of entries of lists of referrers that are read for one image.
const MAX_READ: usize = 10_000;

/// Memory in bytes that a tag takes beside its text.
const TAG: u64 = 64;

/// Memory in bytes that a referrer takes that is left out.
const LEFT_OUT: u64 = 512;

/// Maximum length of a chain of referrers. A signature of an SBOM of an image is a chain of two.
pub(crate) const MAX_CHAIN: usize = 4;

/// Finds the referrers of manifests and remembers the answers of each repository.
#[derive(Debug)]
pub(super) struct Discovery {
    choice: ReferrerChoice,
    progress: Progress,
    /// Limits the requests for referrers of all images together, so that they do not wait behind those for the manifests of
    /// images, which have a limit of their own.
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
    pub(super) async fn begin(&self, fetcher: &Fetcher, repository: &Repository, image: &Reference, root: &Digest) {
        if self.is_wanted() {
            let known = self.known(repository);
            let tags = self.tags(fetcher, repository, &known, image.tag());
            let _ = join(tags, self.referrers_of(fetcher, repository, root)).await;
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
            let mut lists = stream::iter(futures).buffered(self.jobs);
            let mut found: Vec<FoundList> = Vec::new();
            while belongings.read <= MAX_READ
                && let Some(list) = lists.try_next().await.map_err(unreadable)?
            {
                belongings.read += list.len();
                found.push(list);
            }
            drop(lists);
            for (subject, found) in subjects.iter().zip(found) {
                for found in found.iter() {
                    self.take(fetcher, repository, subject, found, depth, &mut belongings)
                        .await?;
                }
            }
            subjects = std::mem::take(&mut belongings.next);
            if belongings.read > MAX_READ {
                self.progress.warn(format!(
                    "`{}`: more than {MAX_READ} manifests refer to it; the others are not searched",
                    tree.source
                ));
                break;
            }
            if subjects.is_empty() {
                break;
            }
        }
        // A referrer that one list names wrongly may be listed correctly in another place.
        let carried: HashSet<&Digest> = belongings.attachments.iter().map(|a| a.variant.root.digest()).collect();
        belongings
            .left_out
            .retain(|left_out| !carried.contains(&left_out.digest));
        if !belongings.unnamed.is_empty() {
            self.progress.warn(format!(
                "`{}`: {} more manifests that refer to it are left out and not named",
                tree.source,
                belongings.unnamed.len()
            ));
        }
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
                belongings.leave_out(left_out);
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
            belongings.leave_out(&left_out(manifest.descriptor(), &why));
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
                belongings.leave_out(&left_out(manifest.descriptor(), &error.full()));
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

    /// Drops the answers of a repository of which no more images are resolved.
    pub(super) fn forget(&self, host: &str, repository: &str) {
        self.repositories.lock().remove(&(host.to_owned(), repository.into()));
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
                // On the heap, since the requests of all places are a large part of the stack of a run.
                let found = Box::pin(self.ask(fetcher, repository, &known, subject)).await?;
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
            let list = self.tagged(fetcher, repository, known, subject, &list_tag);
            let tags = SUFFIXES.map(|suffix| tag_beside(subject, suffix));
            let beside = tags
                .iter()
                .map(|tag| self.tagged(fetcher, repository, known, subject, tag));
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
            .map(|entry| fetcher.manifest_within(&self.permits, repository, &entry.digest))
            .collect();
        let manifests: Vec<_> = stream::iter(futures).buffered(self.jobs).collect().await;
        let lost = manifests.iter().filter(|manifest| manifest.is_err()).count() + large.len();
        fetcher.budget().hold(lost as u64 * LEFT_OUT)?.keep();
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

    /// Returns the manifest that a tag of a subject points at, or `None` if the tag does not exist.
    /// A short list of all tags shows the missing tags; without such a list a HEAD request does, which registries do not
    /// count as a pull.
    async fn tagged(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        known: &KnownRepository,
        subject: &Digest,
        tag: &str,
    ) -> Result<Option<Arc<RawManifest>>> {
        let (registry, name) = (&repository.registry, &*repository.name);
        let target = Target::Tag(tag.to_owned());
        let tags = self.tags(fetcher, repository, known, None).await?;
        let is_listed = tags.map(|tags| tags.contains(tag));
        if is_listed == Some(false) {
            return Ok(None);
        }
        // The cache has no manifest under a tag of a subject that it did not have itself, so a HEAD request first would
        // only be one more request.
        if is_listed == Some(true) && registry.was_fetched(subject) {
            return fetcher
                .find_tagged(&self.permits, repository, &target, TagLookup::Direct)
                .await;
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
                        return match fetcher.manifest_within(&self.permits, repository, &digest).await {
                            Err(error) if error.kind() == Kind::NotFound => Ok(None),
                            other => other.map(Some),
                        };
                    }
                }
                Presence::Present(_) | Presence::Unknown => {}
            }
        }
        fetcher
            .find_tagged(&self.permits, repository, &target, TagLookup::HeadFirst)
            .await
    }

    /// Returns the tags of a repository that begin like a digest, or `None` if a single request does not return all tags,
    /// or a mirror may have other tags. `existing` is a tag of the repository, if one is known.
    async fn tags<'a>(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        known: &'a KnownRepository,
        existing: Option<&str>,
    ) -> Result<Option<&'a HashSet<String>>> {
        let (registry, name) = (&repository.registry, &*repository.name);
        let any_tag = Target::Tag(existing.unwrap_or("latest").to_owned());
        if registry.has_mirrors(name, &any_tag)? {
            return Ok(None);
        }
        let tags = known.tags.get_or_init(|| async {
            let _permit = self.permits.acquire().await;
            let tags = registry.digest_tags(name, existing).await?;
            let memory = tags.iter().map(|tag| TAG + tag.len() as u64).sum();
            let held = fetcher.budget().hold(memory).ok()?;
            Some((tags, held))
        });
        Ok(tags.await.as_ref().map(|(tags, _)| tags))
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
    about_referrers(error, "what refers to it (signatures, attestations) could not be read")
}
