//! What refers to the manifests of an image at its source: by the referrers API, by the tag that lists referrers at a registry
//! without it, and by the tags of cosign (OCI distribution-spec, "Listing Referrers").

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::{BoxFuture, try_join, try_join_all};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{OnceCell, Semaphore};

use super::fetch::Fetcher;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest, View};
use crate::image::reference::Target;
use crate::image::referrer::{SUFFIXES, artifact_type, subject, tag_beside};
use crate::image::tree::{Attachment, ImageTree, LeftOut, Lookup, MAX_DEPTH, MAX_TOTAL, Variant, is_attached};
use crate::lock::Mutex;
use crate::progress::Progress;
use crate::registry::Presence;
use crate::transfer::referrers::{ReferrerChoice, with_way_without};
use crate::transfer::sources::Repository;

/// Maximum number of referrers that are read of one subject, and of one image.
pub(crate) const MAX_REFERRERS: usize = 1000;

/// Maximum length of a chain of referrers of referrers. A signature of an SBOM is two.
pub(crate) const MAX_CHAIN: usize = 4;

/// Why a referrer is left out that a list names in vain.
const DANGLING: &str = "it is listed and not there";

/// Looks for what refers to manifests; what a repository cannot tell is asked once.
#[derive(Debug)]
pub(super) struct Discovery {
    choice: ReferrerChoice,
    progress: Progress,
    /// Bounds requests of all images together, beside those for manifests.
    permits: Semaphore,
    jobs: usize,
    repositories: Mutex<HashMap<RepositoryKey, Arc<KnownRepository>>>,
}

/// What is known of a repository.
#[derive(Debug, Default)]
struct KnownRepository {
    /// Its tags, where it has few.
    tags: OnceCell<Option<HashSet<String>>>,
    /// What refers to a manifest in it. Several tags may have one.
    found: Mutex<HashMap<Digest, Arc<OnceCell<FoundList>>>>,
}

/// A host and a repository of it.
type RepositoryKey = (String, Arc<str>);

/// What refers to one manifest.
type FoundList = Arc<[Found]>;

/// Something that refers to a manifest.
#[derive(Debug, Clone)]
enum Found {
    Carried(Arc<RawManifest>, Lookup),
    /// It is not there, or refers to something else.
    LeftOut(LeftOut),
    /// It is there and cannot be carried.
    Broken(LeftOut),
}

/// What was found for an image.
#[derive(Debug, Default)]
pub(super) struct Belongings {
    pub(super) attachments: Vec<Attachment>,
    pub(super) left_out: Vec<LeftOut>,
    /// Whether some of what is left out should be carried.
    pub(super) is_loss: bool,
    /// Manifests that are carried, or will not be.
    seen: HashSet<Digest>,
    /// The size that the manifests give to each blob.
    sizes: HashMap<Digest, u64>,
    /// Referrers whose own referrers are to be looked for.
    next: Vec<Digest>,
}

impl Belongings {
    /// Whether a referrer gives each blob the size that the image and its other referrers give it. One that does not would make
    /// the image contradict itself.
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

    /// Refuses an image without signatures, and one that would lose some.
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
                "nothing that is wanted refers to it: it has no signature".to_owned()
            }
            None => return Ok(self),
        };
        Err(Error::new(Kind::NotFound, what).with_hint("omit `--referrers require` to carry it without"))
    }

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
            // One search beside one fetch stays within two jobs.
            permits: Semaphore::new((jobs * 2).saturating_sub(3).max(1)),
            jobs: jobs.max(1),
            repositories: Mutex::default(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.choice.is_any()
    }

    /// Begins with the root of an image, while its other manifests are fetched. What goes wrong is found again by
    /// [`discover`](Self::discover).
    pub(super) async fn begin(&self, fetcher: &Fetcher, repository: &Repository, root: &Digest) {
        if self.is_wanted() {
            let _ = self.found_for(fetcher, repository, root).await;
        }
    }

    /// Everything that refers to the manifests of an image, and to what refers to them.
    ///
    /// # Errors
    /// Those of the registry where it does not tell; [`Kind::NotFound`] if there is nothing and something is required.
    pub(super) async fn discover(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        tree: &ImageTree,
    ) -> Result<Belongings> {
        let mut belongings = Belongings::default();
        if !self.is_wanted() {
            return Ok(belongings);
        }
        let own: Vec<Digest> = tree.original.all().map(|manifest| manifest.digest().clone()).collect();
        belongings.seen.extend(own.iter().cloned());
        belongings.note_sizes(tree.own_manifests());
        // The root comes first: its answers tell what the repository can be asked for the others.
        let mut subjects: Vec<Digest> = own.into_iter().rev().collect();
        for depth in 0..=MAX_CHAIN {
            let futures: Vec<BoxFuture<'_, Result<FoundList>>> = subjects
                .iter()
                .map(|subject| -> BoxFuture<'_, Result<FoundList>> {
                    Box::pin(self.found_for(fetcher, repository, subject))
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
        // One that is listed wrongly in one place may be right in another.
        let carried: HashSet<&Digest> = belongings.attachments.iter().map(|a| a.variant.root.digest()).collect();
        belongings
            .left_out
            .retain(|left_out| !carried.contains(&left_out.digest));
        match self.choice.is_required() {
            true => belongings.complete(),
            false => Ok(belongings),
        }
    }

    async fn take(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        subject: &Digest,
        found: &Found,
        depth: usize,
        belongings: &mut Belongings,
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
        // One that states its subject and has a tag beside it is carried by both, so that a registry finds it by both.
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
            Err(error) if is_its_own_fault(&error) => {
                belongings.seen.insert(manifest.digest().clone());
                belongings.is_loss = true;
                belongings.left_out.push(left_out(manifest.descriptor(), &error.full()));
                Ok(())
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    /// A referrer and all manifests below it.
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

    /// What refers to one manifest, asked once for each repository.
    async fn found_for(&self, fetcher: &Fetcher, repository: &Repository, subject: &Digest) -> Result<FoundList> {
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
            // A registry may have got its list after the tag was written.
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
            // An earlier version of this program put an image there that was asked for by its digest.
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

    /// Reads what a list names and checks that it refers to the subject.
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
                Ok(_) => Found::LeftOut(left_out(entry, "it does not refer to what it is listed for")),
                Err(error) if error.kind() == Kind::NotFound => Found::LeftOut(left_out(entry, DANGLING)),
                Err(error) if is_its_own_fault(&error) => Found::Broken(left_out(entry, &error.full())),
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

    /// What a tag points at, where it is there. A short list of all tags answers for those that are not, else a HEAD, which
    /// registries do not count as a pull.
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
                Ok(false) => registry.short_tag_list(name).await.filter(|tags| !tags.is_empty()),
                _ => None,
            }
        });
        if tags.await.as_ref().is_some_and(|tags| !tags.contains(tag)) {
            return Ok(None);
        }
        if !registry.has_mirrors(name, &target)? {
            let head = {
                let _permit = self.permits.acquire().await;
                registry.head_manifest(name, &target).await?
            };
            match head {
                Presence::Missing => return Ok(None),
                // By its digest it may be in the cache.
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

/// Whether an error is about a referrer alone, which can be left out, and not about reading it.
fn is_its_own_fault(error: &Error) -> bool {
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

fn unreadable(error: Error) -> Error {
    with_way_without(error.context("what refers to it (signatures, attestations) could not be read"))
}
