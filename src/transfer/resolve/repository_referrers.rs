//! Requests for the referrers of one manifest, in three places, and the remembered answers of each repository.
//! The places are the referrers API, the tag that lists referrers at a registry without that API, and cosign tags (OCI
//! distribution-spec, "Listing Referrers").

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::{join, try_join, try_join_all};
use futures_util::stream::{self, StreamExt};
use tokio::sync::OnceCell;

use super::fetch::Fetcher;
use super::found_referrer::{
    DANGLING, Found, MAX_REFERRERS, MAX_TOGETHER, TagContent, as_list, beside, left_out, more_than_read,
    too_large_together,
};
use super::permits::Permits;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Held;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::MAX_MANIFEST;
use crate::image::reference::Target;
use crate::image::referrer::{SUFFIXES, check_listed_fields, subject, tag_beside};
use crate::image::tree::Lookup;
use crate::lock::Mutex;
use crate::registry::{Presence, TagLookup};
use crate::text::counted;
use crate::transfer::sources::Repository;

/// Memory in bytes that a tag takes beside its text.
const TAG: u64 = 64;

/// Memory in bytes that a referrer takes that is left out.
const LEFT_OUT: u64 = 512;

/// Images of a host whose first platform is a sample, as long as no list of tags of the host lacks a tag. Whether lists lack
/// tags depends on the kind of the registry, so that a few images show it; for all images it costs a third of the wall time of
/// an export of small images.
const SAMPLED_PLATFORMS: usize = 16;

/// Requests the referrers of manifests and remembers the answers of each repository.
#[derive(Debug)]
pub(super) struct RepositoryReferrers {
    /// Limits the requests for referrers of all images together, so that they do not wait behind those for the manifests of
    /// images, which have a limit of their own.
    permits: Permits,
    jobs: usize,
    repositories: Mutex<HashMap<RepositoryKey, Arc<KnownRepository>>>,
    hosts: Mutex<HashMap<String, Arc<TagLists>>>,
    /// Set while the images that did not fit into the memory budget are resolved once more, one by one.
    is_alone: AtomicBool,
}

/// A search for referrers, which all who ask for the same subject wait for.
type Search = Arc<OnceCell<FoundList>>;

/// What is known of the lists of tags of one host.
#[derive(Debug, Default)]
struct TagLists {
    /// Images whose first platform was a sample.
    sampled_platforms: AtomicUsize,
    /// Set when a tag exists that a list lacks.
    lack_tags: AtomicBool,
}

/// Cached answers of one repository.
#[derive(Debug, Default)]
struct KnownRepository {
    /// Tags that begin like a digest and the memory that they take, or `None` if a single request did not return all tags.
    tags: OnceCell<Option<(HashSet<String>, Held)>>,
    /// Set when a tag exists that the list of tags lacks, as with a pull-through cache that cannot read the list of its origin.
    lacks_tags: AtomicBool,
    /// Referrers by the digest of their subject, and whether it is a sample. Several tags may point at one subject.
    found: Mutex<HashMap<(Digest, bool), Search>>,
}

/// Host and repository.
type RepositoryKey = (String, Arc<str>);

/// Referrers of one manifest.
pub(super) type FoundList = Arc<[Found]>;

/// A manifest whose referrers are requested.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) digest: &'a Digest,
    /// Whether the tags of the manifest are requested one by one even if the list of tags lacks them, to find an incomplete
    /// list. The samples of an image are its root and its first platform; the latter for the first images of most hosts only.
    pub(super) is_sample: bool,
}

impl RepositoryReferrers {
    pub(super) fn new(jobs: usize) -> Self {
        Self {
            // One referrer request for each manifest request stays within two jobs.
            permits: Permits::new((jobs * 2).saturating_sub(3)),
            jobs: jobs.max(1),
            repositories: Mutex::default(),
            hosts: Mutex::default(),
            is_alone: AtomicBool::new(false),
        }
    }

    /// Sets whether images are resolved one by one: referrers that exceed the memory budget are lost instead of an error.
    pub(super) fn set_alone(&self, is_alone: bool) {
        self.is_alone.store(is_alone, Ordering::Relaxed);
    }

    pub(super) fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Relaxed)
    }

    /// Drops the referrers that were found in a repository.
    pub(super) fn release(&self, repository: &Repository) {
        self.known(repository).found.lock().clear();
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

    fn tag_lists(&self, host: &str) -> Arc<TagLists> {
        self.hosts.lock().entry(host.to_owned()).or_default().clone()
    }

    /// Returns whether the first platform of one more image of a host is a sample.
    pub(super) fn samples_platform(&self, host: &str) -> bool {
        let lists = self.tag_lists(host);
        lists.sampled_platforms.fetch_add(1, Ordering::Relaxed) < SAMPLED_PLATFORMS
            || lists.lack_tags.load(Ordering::Relaxed)
    }

    /// Finds the referrers of one manifest. Each repository is asked once for each subject.
    ///
    /// # Errors
    /// Errors of the registry, if a place cannot be read.
    pub(super) async fn find(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        subject: Subject<'_>,
    ) -> Result<FoundList> {
        let known = self.known(repository);
        let (cell, is_sample) = {
            let mut found = known.found.lock();
            let as_sample = (subject.digest.clone(), true);
            let is_sample = subject.is_sample || found.contains_key(&as_sample);
            (found.entry((as_sample.0, is_sample)).or_default().clone(), is_sample)
        };
        let subject = Subject { is_sample, ..subject };
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
        subject: Subject<'_>,
    ) -> Result<Vec<Found>> {
        let (registry, name, digest) = (&repository.registry, &*repository.name, subject.digest);
        let mut found = Vec::new();
        let mut listed: HashSet<Digest> = HashSet::new();
        let from_api = async {
            let _permit = self.permits.acquire(repository).await;
            registry.all_referrers(name, digest, MAX_REFERRERS).await
        };
        let did_lack = known.lacks_tags.load(Ordering::Relaxed);
        // The tag is read as well, since the registry may have introduced the referrers API after the tag was written.
        let of_tags = self.of_tags(fetcher, repository, known, subject);
        let (from_api, contents) = join(from_api, of_tags).await;
        let mut contents = contents?;
        let is_list =
            |content: &TagContent| matches!(content, TagContent::Manifest(found) if as_list(found, digest).is_some());
        let is_listed = contents.0.iter().any(is_list);
        let from_api = match from_api {
            // The registry keeps the list of this manifest under the tag.
            Err(error) if error.kind() == Kind::Unsupported && is_listed => None,
            other => other?,
        };
        if !did_lack && known.lacks_tags.load(Ordering::Relaxed) {
            // Tags that the list lacks were not requested.
            contents = self.of_tags(fetcher, repository, known, subject).await?;
        }
        if let Some(referrers) = from_api {
            found.extend(more_than_read(digest, referrers.more));
            if referrers.unusable > 0 {
                let count = counted(referrers.unusable as u64, "entry", "entries");
                found.push(Found::Missing(format!(
                    "{count} without a usable digest in the list of what refers to {digest}"
                )));
            }
            self.read(fetcher, repository, digest, referrers.list, &mut listed, &mut found)
                .await?;
        }
        let (lists, beside_it) = contents;
        for list in lists {
            self.read_list(fetcher, repository, digest, list, &mut listed, &mut found)
                .await?;
        }
        for (suffix, content) in SUFFIXES.into_iter().zip(beside_it) {
            found.extend(beside(&tag_beside(digest, suffix), suffix, content));
        }
        Ok(found)
    }

    /// Reads the tags of a subject: that of the list of referrers, and those of cosign.
    async fn of_tags(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        known: &KnownRepository,
        subject: Subject<'_>,
    ) -> Result<(Vec<TagContent>, Vec<TagContent>)> {
        let beside = SUFFIXES.map(|suffix| tag_beside(subject.digest, suffix));
        let beside = beside
            .iter()
            .map(|tag| self.tagged(fetcher, repository, known, subject, tag));
        let lists = self.lists(fetcher, repository, known, subject);
        try_join(lists, try_join_all(beside)).await
    }

    /// Reads the tag of the list of referrers. All sources are asked, since a mirror may have an older list.
    async fn lists(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        known: &KnownRepository,
        subject: Subject<'_>,
    ) -> Result<Vec<TagContent>> {
        let tag = subject.digest.referrers_tag();
        let target = Target::Tag(tag.clone());
        if !repository.registry.has_mirrors(&repository.name, &target)? {
            return Ok(vec![self.tagged(fetcher, repository, known, subject, &tag).await?]);
        }
        let (found, error) = fetcher.find_all_tagged(&self.permits, repository, &target).await?;
        let unreadable = match error {
            Some(error) if !self.is_lost(&error) => return Err(error),
            error => error.map(|error| TagContent::Unreadable(None, error)),
        };
        Ok(found.into_iter().map(TagContent::Manifest).chain(unreadable).collect())
    }

    /// Reads the referrers that the tag of a list names.
    async fn read_list(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        of: &Digest,
        content: TagContent,
        listed: &mut HashSet<Digest>,
        found: &mut Vec<Found>,
    ) -> Result<()> {
        let tag = of.referrers_tag();
        match content {
            TagContent::Manifest(list) => match as_list(&list, of) {
                Some(index) => {
                    let entries = index.entries.iter().map(|entry| entry.descriptor.clone());
                    let mut entries: Vec<Descriptor> = entries.collect();
                    found.extend(more_than_read(of, entries.len() > MAX_REFERRERS));
                    entries.truncate(MAX_REFERRERS);
                    self.read(fetcher, repository, of, entries, listed, found).await?;
                }
                None if list.digest() == of => {
                    found.push(Found::NoList(format!(
                        "tag `{tag}` holds the image itself, which is no list of referrers"
                    )));
                }
                None => found.push(Found::NoList(format!(
                    "tag `{tag}` holds an image, which is no list of referrers"
                ))),
            },
            TagContent::Unreadable(_, error) => match error.kind() {
                Kind::NotFound => found.push(Found::Missing(format!("tag `{tag}`: {DANGLING}"))),
                Kind::Unsupported => found.push(Found::NoList(format!(
                    "tag `{tag}` holds no list of referrers: {}",
                    error.full()
                ))),
                _ => return Err(error),
            },
            TagContent::Nothing => {}
        }
        Ok(())
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
        // The smallest come first, so that a few large referrers do not take the place of signatures.
        let mut by_size: Vec<&Descriptor> = new.iter().collect();
        by_size.sort_by_key(|entry| entry.size);
        let mut stated = 0;
        let fitting = by_size.into_iter().take_while(|entry| {
            stated += entry.size;
            stated <= MAX_TOGETHER
        });
        let fitting: HashSet<Digest> = fitting.map(|entry| entry.digest.clone()).collect();
        let (new, excess): (Vec<Descriptor>, Vec<_>) =
            new.into_iter().partition(|entry| fitting.contains(&entry.digest));
        found.extend(
            excess
                .iter()
                .map(|entry| Found::Broken(left_out(entry, &too_large_together()))),
        );
        let futures: Vec<_> = new
            .iter()
            .map(|entry| fetcher.manifest_within(&self.permits, repository, &entry.digest))
            .collect();
        let mut manifests = stream::iter(futures).buffered(self.jobs);
        let (mut lost, mut size) = (large.len() + excess.len(), 0);
        for entry in &new {
            let Some(manifest) = manifests.next().await else { break };
            let broken = |why: &str| Found::Broken(left_out(entry, why));
            let referrer = match manifest {
                Ok(manifest) if subject(&manifest).as_ref() != Some(of) => Found::LeftOut(left_out(
                    entry,
                    "it is listed for another subject than its manifest states",
                )),
                Ok(manifest) if size + manifest.descriptor().size > MAX_TOGETHER => {
                    drop(manifest);
                    fetcher.shrink();
                    broken(&too_large_together())
                }
                Ok(manifest) => match check_listed_fields(&manifest) {
                    Ok(()) => {
                        size += manifest.descriptor().size;
                        Found::Carried(manifest, Lookup::Subject)
                    }
                    Err(error) => broken(&error.full()),
                },
                Err(error) if error.kind() == Kind::NotFound => Found::LeftOut(left_out(entry, DANGLING)),
                Err(error) if self.is_lost(&error) => broken(&error.full()),
                Err(error) => return Err(error),
            };
            lost += usize::from(!matches!(referrer, Found::Carried(..)));
            found.push(referrer);
        }
        fetcher.budget().hold(lost as u64 * LEFT_OUT)?.keep();
        Ok(())
    }

    /// Returns whether an error concerns a referrer alone, which the image is carried without.
    pub(super) fn is_lost(&self, error: &Error) -> bool {
        is_referrer_error(error) || (error.kind() == Kind::TooLarge && self.is_alone())
    }

    /// Returns the content of a tag of a subject.
    /// A short list of all tags shows the missing tags; without such a list a HEAD request does, which registries do not
    /// count as a pull.
    async fn tagged(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        known: &KnownRepository,
        subject: Subject<'_>,
        tag: &str,
    ) -> Result<TagContent> {
        let (registry, name) = (&repository.registry, &*repository.name);
        let target = Target::Tag(tag.to_owned());
        let tags = self.tags(fetcher, repository, known, None).await?;
        let is_listed = tags.map(|tags| tags.contains(tag));
        // A pull-through cache that cannot read the list of its origin lists the tags that were pulled from it. If a tag of a
        // sample exists that the list lacks, the list is not used in the repository at all.
        if is_listed == Some(false) && !subject.is_sample {
            return Ok(TagContent::Nothing);
        }
        let dangling = || TagContent::Unreadable(None, Error::new(Kind::NotFound, DANGLING));
        // The cache has no manifest under a tag of a subject that it did not have itself, so a HEAD request first would
        // only be one more request.
        let direct = is_listed == Some(true) && registry.was_fetched(subject.digest);
        let mut digest = None;
        if !direct && !registry.has_mirrors(name, &target)? {
            let head = {
                let _permit = self.permits.acquire(repository).await;
                registry.head_manifest(name, &target).await?
            };
            match head {
                Presence::Missing if is_listed == Some(true) => return Ok(dangling()),
                Presence::Missing => return Ok(TagContent::Nothing),
                Presence::Present(head) => digest = head.digest,
                Presence::Unknown | Presence::OtherSize(_) => {}
            }
        }
        let read = match &digest {
            // A manifest requested by its digest may be in the cache.
            Some(digest) => match fetcher.manifest_within(&self.permits, repository, digest).await {
                // Some registries state a wrong digest in their answer to HEAD.
                Err(missing) if missing.kind() == Kind::NotFound => {
                    let read = fetcher.find_tagged(&self.permits, repository, &target, TagLookup::Direct);
                    read.await.and_then(|found| found.map(Some).ok_or(missing))
                }
                read => read.map(Some),
            },
            None => {
                let lookup = match direct {
                    true => TagLookup::Direct,
                    false => TagLookup::HeadFirst,
                };
                fetcher.find_tagged(&self.permits, repository, &target, lookup).await
            }
        };
        let content = match read {
            Ok(Some(manifest)) => TagContent::Manifest(manifest),
            Ok(None) if is_listed == Some(true) => dangling(),
            Ok(None) => TagContent::Nothing,
            Err(error) if self.is_lost(&error) => {
                if digest.is_none() {
                    let _permit = self.permits.acquire(repository).await;
                    digest = match registry.head_manifest(name, &target).await {
                        Ok(Presence::Present(head)) => head.digest,
                        _ => None,
                    };
                }
                TagContent::Unreadable(digest, error)
            }
            Err(error) => return Err(error),
        };
        if is_listed == Some(false) && !matches!(content, TagContent::Nothing) {
            known.lacks_tags.store(true, Ordering::Relaxed);
            self.tag_lists(registry.host()).lack_tags.store(true, Ordering::Relaxed);
        }
        Ok(content)
    }

    /// Requests the tags of a repository of which a tag exists, for later questions.
    pub(super) async fn read_tags(&self, fetcher: &Fetcher, repository: &Repository, existing: Option<&str>) {
        let known = self.known(repository);
        let _ = self.tags(fetcher, repository, &known, existing).await;
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
        if known.lacks_tags.load(Ordering::Relaxed) || registry.has_mirrors(name, &any_tag)? {
            return Ok(None);
        }
        let tags = known.tags.get_or_init(|| async {
            let _permit = self.permits.acquire(repository).await;
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
