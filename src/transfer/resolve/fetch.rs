//! Fetches manifests and configs. Each digest is fetched once, however many images share it, unless images of different
//! repositories need it at the same time.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::cache::Cache;
use super::permits::Permits;
use crate::error::{Error, Kind, Result};
use crate::image::budget::{Budget, Held};
use crate::image::config::{Config, MAX_CONFIG};
use crate::image::descriptor::{BROKEN, Descriptor};
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::media_type::{self, Shape};
use crate::image::platform::Platform;
use crate::image::reference::Target;
use crate::image::tree::{ImageTree, LeftOut};
use crate::lock::Mutex;
use crate::registry::{Presence, TagLookup};
use crate::text::byte_count;
use crate::transfer::sources::Repository;

/// Cache of the fetched documents, with the limit of further requests.
#[derive(Debug)]
pub(super) struct Fetcher {
    /// Limits the requests of all images together, since each image fetches its children concurrently.
    permits: Permits,
    jobs: usize,
    /// Memory budget of the run; everything kept in this cache counts against it.
    budget: Budget,
    manifests: Cache<Arc<RawManifest>>,
    configs: Cache<Arc<KnownConfig>>,
    /// Hashes of the digests of the blobs of all resolved images, which take less memory than the digests.
    blobs: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

/// Estimated memory of one blob during a run, at its source and at its destination, in bytes.
const BLOB: u64 = 640;

/// Hint for a manifest that an index lists and the registry of the index does not have.
pub const LOST_MANIFEST: &str = "the registry does not have a manifest that its index lists: have the image pushed there again, or \
     choose other platforms with `--platform`";

/// Bytes of an image config, with the memory reserved for them.
#[derive(Debug)]
struct KnownConfig {
    bytes: Bytes,
    _held: Held,
}

impl Fetcher {
    /// Returns a fetcher that keeps up to `jobs` requests to each host in flight.
    pub(super) fn new(jobs: usize) -> Self {
        Self {
            permits: Permits::new(jobs),
            jobs: jobs.max(1),
            budget: Budget::default(),
            manifests: Cache::default(),
            configs: Cache::default(),
            blobs: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Counts the memory of a manifest against the budget for as long as the manifest is kept.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget has too little memory left.
    fn counted(&self, manifest: RawManifest) -> Result<Arc<RawManifest>> {
        let held = self.budget.hold(manifest.memory())?;
        Ok(Arc::new(manifest.holding(held)))
    }

    /// Counts the memory of an image without its manifests against the budget, until the run ends.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the budget has too little memory left.
    pub(super) fn count_tree(&self, tree: &ImageTree) -> Result<()> {
        let mut known = self.blobs.lock();
        let blobs = tree.named_blobs().into_iter();
        let blobs = blobs.map(|(blob, _)| self.hasher.hash_one(&blob.digest));
        let new: Vec<u64> = blobs.filter(|blob| !known.contains(blob)).collect();
        let held = self.budget.hold(tree.uncounted_memory() + new.len() as u64 * BLOB)?;
        self.budget.leave_room(tree.memory() + new.len() as u64 * BLOB)?;
        held.keep();
        known.extend(new);
        Ok(())
    }

    /// Drops the manifests and configs that no image uses.
    pub(super) fn shrink(&self) {
        self.manifests.retain(|manifest| Arc::strong_count(manifest) > 1);
        self.configs.retain(|config| !config.bytes.is_unique());
    }

    /// Adds manifests that are already in memory to the cache, so that they are not fetched.
    pub(super) fn remember(&self, manifests: impl IntoIterator<Item = Arc<RawManifest>>) {
        for manifest in manifests {
            // A manifest that exceeds the budget is not an error here: it is fetched again when it is needed.
            if let Some(Ok(manifest)) = Arc::into_inner(manifest).map(|manifest| self.counted(manifest)) {
                self.insert(manifest);
            }
        }
    }

    fn insert(&self, manifest: Arc<RawManifest>) {
        self.manifests.insert(manifest.digest().clone(), manifest);
    }

    /// Fetches the manifest that a tag currently points at.
    pub(super) async fn tagged(&self, repository: &Repository, tag: &Target) -> Result<Arc<RawManifest>> {
        let _permit = self.permits.acquire(repository).await;
        self.known(repository.registry.manifest(&repository.name, tag).await?)
    }

    /// Fetches the manifest that a tag currently points at, or returns `None` if the tag does not exist.
    pub(super) async fn find_tagged(
        &self,
        permits: &Permits,
        repository: &Repository,
        tag: &Target,
        lookup: TagLookup,
    ) -> Result<Option<Arc<RawManifest>>> {
        let _permit = permits.acquire(repository).await;
        let found = repository.registry.find_manifest(&repository.name, tag, lookup).await?;
        found.map(|manifest| self.known(manifest)).transpose()
    }

    /// Fetches the different manifests that the sources of a repository have under a tag, and returns the error of the last
    /// source, if it cannot be read.
    pub(super) async fn find_all_tagged(
        &self,
        permits: &Permits,
        repository: &Repository,
        tag: &Target,
    ) -> Result<(Vec<Arc<RawManifest>>, Option<Error>)> {
        let _permit = permits.acquire(repository).await;
        let (found, error) = repository.registry.find_manifests(&repository.name, tag).await?;
        let found: Result<Vec<_>> = found.into_iter().map(|manifest| self.known(manifest)).collect();
        Ok((found?, error))
    }

    /// Adds a fetched manifest to the cache, or returns the equal manifest there: several tags may point at one manifest,
    /// which then counts against the budget once.
    fn known(&self, manifest: RawManifest) -> Result<Arc<RawManifest>> {
        let known = self.manifests.get(manifest.digest());
        if let Some(known) = known.filter(|known| known.media_type() == manifest.media_type()) {
            return Ok(known);
        }
        let manifest = self.counted(manifest)?;
        self.insert(manifest.clone());
        Ok(manifest)
    }

    /// Fetches a manifest listed in an index.
    /// If the manifest does not state its media type, the media type in the index takes precedence over the registry's
    /// `Content-Type`.
    pub(super) async fn child(&self, repository: &Repository, entry: &Descriptor) -> Result<Arc<RawManifest>> {
        let found = self.manifest(repository, &entry.digest).await;
        let found = found.map_err(|error| match error.kind() {
            Kind::NotFound => error.with_hint(LOST_MANIFEST),
            _ => error,
        })?;
        let listed = media_type::shape(&entry.media_type);
        if found.media_type() == entry.media_type || listed == Shape::Other {
            return Ok(found);
        }
        let read = RawManifest::new(found.bytes().clone(), Some(&entry.media_type), Some(&entry.digest));
        read.map_or(Ok(found), |read| self.counted(read))
    }

    /// Fetches a manifest by its digest.
    pub(super) async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Arc<RawManifest>> {
        self.manifest_within(&self.permits, repository, digest).await
    }

    /// Fetches a manifest by its digest, limited by other permits than those of the manifests of images.
    pub(super) async fn manifest_within(
        &self,
        permits: &Permits,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Arc<RawManifest>> {
        let request = || async move {
            let _permit = permits.acquire(repository).await;
            let target = Target::Digest(digest.clone());
            self.counted(repository.registry.manifest(&repository.name, &target).await?)
        };
        self.manifests.get_or_request(repository, digest, request).await
    }

    /// Fetches an image config and returns its platform and bytes.
    /// Returns `None` for a config of another media type.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the config is larger than `MAX_CONFIG`, and [`Kind::Integrity`] if its size differs from
    /// `config`.
    pub(super) async fn platform_of(
        &self,
        repository: &Repository,
        config: &Descriptor,
    ) -> Result<Option<(Platform, Bytes)>> {
        if !media_type::is_image_config(&config.media_type) {
            return Ok(None);
        }
        if config.size > MAX_CONFIG {
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "the image config {} has {} bytes; at most {MAX_CONFIG} are accepted",
                    config.digest, config.size
                ),
            )
            .with_hint(BROKEN));
        }
        let request = || async move {
            let _permit = self.permits.acquire(repository).await;
            let held = self.budget.hold(config.size)?;
            let bytes = repository.registry.small_blob(&repository.name, config).await?;
            Ok(Arc::new(KnownConfig { bytes, _held: held }))
        };
        let known = self.configs.get_or_request(repository, &config.digest, request).await?;
        let bytes = &known.bytes;
        // The bytes may have been fetched for another manifest that states another size for this digest.
        if bytes.len() as u64 != config.size {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "config {} has {}, but its manifest states {}",
                    config.digest,
                    byte_count(bytes.len() as u64),
                    config.size
                ),
            )
            .with_hint("a manifest with a wrong size has to be made again: have the image built and pushed again"));
        }
        let parsed = Config::parse(bytes).map_err(|e| e.context(format!("config {}", config.digest)))?;
        // A config with an empty os states no platform, so the image is kept, like an index entry without a platform.
        Ok((!parsed.platform.os.is_empty()).then(|| (parsed.platform, bytes.clone())))
    }

    /// Returns the non-distributable layers of an image that the registry does not have.
    pub(super) async fn left_out(&self, repository: &Repository, tree: &ImageTree) -> Result<Vec<LeftOut>> {
        let candidates: Vec<Descriptor> = tree
            .blobs()
            .into_iter()
            .filter(|blob| !blob.is_config && blob.descriptor.is_nondistributable())
            .map(|blob| blob.descriptor)
            .collect();
        let futures: Vec<_> = candidates
            .into_iter()
            .map(|descriptor| self.absent(repository, descriptor))
            .collect();
        let found: Vec<_> = stream::iter(futures).buffered(self.jobs).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Returns a layer that the registry does not have, as a left-out blob.
    async fn absent(&self, repository: &Repository, descriptor: Descriptor) -> Result<Option<LeftOut>> {
        let _permit = self.permits.acquire(repository).await;
        Ok(
            match repository.registry.head_blob(&repository.name, &descriptor).await? {
                Presence::Missing => Some(LeftOut {
                    digest: descriptor.digest,
                    media_type: descriptor.media_type.into_owned(),
                    reason: "a non-distributable layer that the registry does not have".to_owned(),
                }),
                _ => None,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Options, Registries};

    #[tokio::test]
    async fn a_manifest_that_waits_takes_little_memory() {
        let registries = Registries::new(Options::default()).unwrap();
        let image = "r.example/a/b:1".parse().unwrap();
        let repository = Repository::new(&image, &registries).unwrap();
        let fetcher = Fetcher::new(64);
        let config = Descriptor {
            media_type: media_type::OCI_CONFIG.into(),
            digest: Digest::sha256(b"config"),
            size: 6,
        };
        let config_size = size_of_val(&fetcher.platform_of(&repository, &config));
        let manifest_size = size_of_val(&fetcher.manifest(&repository, &config.digest));
        // An image holds several of them for each of its manifests. A request takes some ten kilobytes.
        assert!(
            config_size < 1024 && manifest_size < 1024,
            "{config_size}, {manifest_size}"
        );
    }
}
