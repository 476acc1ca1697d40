//! Discovery of the referrers of an image: of its manifests, and of the referrers found.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::discovered::DiscoveredReferrers;
use super::fetch::Fetcher;
pub(crate) use super::found_referrer::MAX_REFERRERS;
use super::found_referrer::{Found, left_out};
use super::repository_referrers::{FoundList, RepositoryReferrers, Subject};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::lost_attachments::leave_out_all;
use crate::image::manifest::{RawManifest, View};
use crate::image::reference::Reference;
use crate::image::referrer::artifact_type;
use crate::image::tree::{ATTESTATION, Attachment, ImageTree, Lookup, MAX_DEPTH, Variant, is_attached};
use crate::inventory::locked_image::LockedImage;
use crate::lock::Mutex;
use crate::progress::Progress;
use crate::text::{counted, quote};
use crate::transfer::referrers::{ReferrerChoice, about_referrers, with_no_referrers_hint};
use crate::transfer::sources::Repository;

/// Maximum number of entries of lists of referrers, and of manifests below referrers, that are read for one image.
const MAX_READ: usize = 10_000;

/// Maximum length of a chain of referrers. A signature of an SBOM of an image is a chain of two.
pub(crate) const MAX_CHAIN: usize = 4;

/// Reasons for leaving out referrers beyond the limits of an image.
pub(crate) const TOO_MANY: &str = "more than 1000 manifests refer to the image";
pub(crate) const TOO_LONG: &str = "the chain of what refers to it is longer than 4";

/// Finds the referrers of images.
#[derive(Debug)]
pub(super) struct Discovery {
    choice: ReferrerChoice,
    progress: Progress,
    jobs: usize,
    referrers: RepositoryReferrers,
    /// Patterns of the choice that matched a referrer.
    matched: Mutex<HashSet<String>>,
}

impl Discovery {
    pub(super) fn new(choice: ReferrerChoice, jobs: usize, progress: Progress) -> Self {
        Self {
            choice,
            progress,
            jobs: jobs.max(1),
            referrers: RepositoryReferrers::new(jobs),
            matched: Mutex::default(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.choice.is_any()
    }

    /// Searches the referrers of the root while other manifests of the image are fetched.
    ///
    /// # Errors
    /// Errors of the registry, if its list of referrers cannot be read.
    pub(super) async fn search_root(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        image: &Reference,
        root: &Digest,
    ) -> Result<()> {
        if !self.is_wanted() {
            return Ok(());
        }
        let tags = self.referrers.read_tags(fetcher, repository, image.tag());
        let (_, found) = join(tags, self.referrers_of(fetcher, repository, root, true)).await;
        found.map(drop).map_err(unreadable)
    }

    /// Sets whether images are resolved one by one, and carried without the referrers that exceed the memory budget.
    pub(super) fn set_alone(&self, is_alone: bool) {
        self.referrers.set_alone(is_alone);
    }

    /// Counts the memory of an image. An image that is resolved alone and exceeds the budget with its referrers loses all of
    /// them.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget has too little memory left.
    pub(super) fn count_tree(&self, fetcher: &Fetcher, repository: &Repository, tree: &mut ImageTree) -> Result<()> {
        let error = match fetcher.count_tree(tree) {
            Err(error) if error.kind() == Kind::TooLarge => error,
            other => return other,
        };
        let may_lose = self.referrers.is_alone() && !self.choice.is_required();
        if !may_lose || !leave_out_all(tree, &error.full()) {
            return Err(error);
        }
        self.referrers.release(repository);
        fetcher.shrink();
        fetcher.count_tree(tree)
    }

    /// Warns about patterns that matched no referrer of any image.
    pub(super) fn warn_of_unmatched(&self) {
        let matched = self.matched.lock();
        for pattern in self.choice.patterns().filter(|pattern| !matched.contains(*pattern)) {
            self.progress.warn(format!(
                "`--referrers {}` chose nothing: nothing of such a type refers to the images",
                quote(&pattern)
            ));
        }
    }

    /// Finds the referrers of one manifest.
    async fn referrers_of(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        digest: &Digest,
        is_sample: bool,
    ) -> Result<FoundList> {
        self.referrers
            .find(fetcher, repository, Subject { digest, is_sample })
            .await
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
        // The root was searched first, alone: its answers show which requests the repository supports for the other manifests.
        // The first platform comes next: a registry may have signatures of platforms alone.
        let root = tree.original.root.digest();
        let first = tree.kept.iter().find(|kept| kept.platform != ATTESTATION);
        if let Some(first) = first
            && self.referrers.samples_platform(repository.registry.host())
        {
            let found = self.referrers_of(fetcher, repository, &first.digest, true).await;
            found.map_err(unreadable)?;
        }
        let mut subjects: Vec<Digest> = own.into_iter().rev().collect();
        for depth in 0..=MAX_CHAIN {
            let futures: Vec<BoxFuture<'_, Result<FoundList>>> = subjects
                .iter()
                .map(|subject| -> BoxFuture<'_, Result<FoundList>> {
                    Box::pin(self.referrers_of(fetcher, repository, subject, subject == root))
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
                    self.add_found(fetcher, repository, subject, found, depth, &mut belongings)
                        .await?;
                }
            }
            subjects = std::mem::take(&mut belongings.next);
            if belongings.read > MAX_READ {
                let what = format!("more than {MAX_READ} manifests refer to it; the others are not searched");
                belongings.note_missing(&what);
                break;
            }
            if subjects.is_empty() {
                break;
            }
        }
        belongings.keep_chosen();
        // A referrer that one list names wrongly may be listed correctly in another place.
        let carried: HashSet<&Digest> = belongings.attachments.iter().map(|a| a.variant.root.digest()).collect();
        belongings
            .left_out
            .retain(|left_out| !carried.contains(&left_out.digest));
        self.warn_of(&tree.source, &belongings);
        match self.choice.is_required() {
            true => belongings.complete(),
            false => Ok(belongings),
        }
    }

    /// Fetches the referrers that a lock lists for an image, by their digests. No list and no tag is requested.
    ///
    /// # Errors
    /// Errors of the registry for any referrer: a lock is exported whole or not at all.
    pub(super) async fn attach_locked(
        &self,
        fetcher: &Fetcher,
        repository: &Repository,
        locked: &LockedImage,
    ) -> Result<Vec<Attachment>> {
        let attachments = locked.referrers.iter().map(|referrer| async {
            let root = fetcher.manifest(repository, &referrer.digest).await?;
            Ok(Attachment {
                variant: self.below(fetcher, repository, &root).await?,
                subject: referrer.subject.clone(),
                lookup: referrer.lookup(),
            })
        });
        let attachments: Vec<BoxFuture<'_, Result<Attachment>>> = attachments
            .map(|attachment| -> BoxFuture<'_, _> { Box::pin(attachment) })
            .collect();
        let attachments = stream::iter(attachments).buffered(self.jobs).try_collect().await;
        attachments.map_err(|error| about_referrers(error, UNREADABLE))
    }

    /// Warns about referrers that are left out and not named one by one.
    fn warn_of(&self, image: &Reference, belongings: &DiscoveredReferrers) {
        let warn = |what: &str| self.progress.warn(format!("`{image}`: {what}"));
        belongings.missing.iter().for_each(|what| warn(what));
        for (count, limit) in belongings.beyond.into_iter().zip([TOO_MANY, TOO_LONG]) {
            if count > 0 {
                let count = counted(count as u64, "manifest that refers", "manifests that refer");
                warn(&format!("{count} to it left out: {limit}"));
            }
        }
        if !belongings.unnamed.is_empty() {
            let count = belongings.unnamed.len() as u64;
            let one = "more manifest that refers to it is left out and not named";
            let many = "more manifests that refer to it are left out and not named";
            warn(&counted(count, one, many));
        }
    }

    /// Adds a found referrer to the attachments of the image, or to the left-out referrers.
    async fn add_found(
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
            Found::Missing(what) | Found::Lost(what) => {
                belongings.is_loss |= matches!(found, Found::Lost(_));
                belongings.note_missing(what);
                return Ok(());
            }
            Found::NoList(what) => {
                self.progress
                    .warn(format!("`{}/{}`: {what}", repository.registry.host(), repository.name));
                return Ok(());
            }
        };
        // A referrer of another type is searched and kept for now, since a chosen referrer may refer to it.
        let is_chosen = self.is_chosen(&artifact_type(manifest, lookup != Lookup::Subject));
        // A referrer that states its subject and also has a cosign tag is carried in both ways, so that registries find it
        // in both ways.
        let (digest, attachments) = (manifest.digest(), &belongings.attachments);
        let is_known = belongings.seen.contains(digest);
        let is_twin = lookup != Lookup::Subject || attachments.iter().any(|it| it.variant.root.digest() == digest);
        if is_attached(attachments, digest, subject, lookup) || (is_known && !is_twin) {
            return Ok(());
        }
        let too_many = belongings.chosen.iter().filter(|is_chosen| **is_chosen).count() == MAX_REFERRERS;
        if too_many || depth == MAX_CHAIN {
            belongings.seen.insert(manifest.digest().clone());
            if is_chosen {
                belongings.beyond[usize::from(!too_many)] += 1;
                let why = if too_many { TOO_MANY } else { TOO_LONG };
                belongings.leave_out(&left_out(manifest.descriptor(), why));
            }
            return Ok(());
        }
        let variant = self.below(fetcher, repository, manifest).await;
        let variant = variant.and_then(|variant| {
            belongings.check_sizes(&variant)?;
            belongings.check_total(&variant)?;
            Ok(variant)
        });
        match variant {
            Ok(variant) => {
                belongings.chosen.push(is_chosen);
                belongings.note_sizes(variant.all());
                belongings.search_below(&variant);
                belongings.attachments.push(Attachment {
                    variant,
                    subject: subject.clone(),
                    lookup,
                });
                Ok(())
            }
            Err(error) if self.referrers.is_lost(&error) => {
                belongings.seen.insert(manifest.digest().clone());
                if is_chosen {
                    belongings.is_loss = true;
                    belongings.leave_out(&left_out(manifest.descriptor(), &error.full()));
                }
                Ok(())
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Returns whether referrers of this type are carried, and notes the patterns that match.
    fn is_chosen(&self, artifact_type: &str) -> bool {
        let mut matched = self.matched.lock();
        for pattern in self.choice.patterns_of(artifact_type) {
            if !matched.contains(pattern) {
                matched.insert(pattern.to_owned());
            }
        }
        self.choice.takes(artifact_type)
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
        self.referrers.forget(host, repository);
    }
}

/// Context of the error for referrers that could not be read.
const UNREADABLE: &str = "what refers to it (signatures, attestations) could not be read";

/// Returns the error for referrers that could not be read.
fn unreadable(error: Error) -> Error {
    with_no_referrers_hint(about_referrers(error, UNREADABLE))
}
