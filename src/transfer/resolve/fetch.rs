//! Fetches manifests and configs, each digest once however many images share it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{OnceCell, Semaphore};

use crate::error::{Error, Kind, Result};
use crate::image::budget::{Budget, Held};
use crate::image::config::{Config, MAX_CONFIG};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::media_type::{self, Shape};
use crate::image::platform::Platform;
use crate::image::reference::Target;
use crate::image::tree::{ImageTree, LeftOut};
use crate::lock::Mutex;
use crate::registry::Presence;
use crate::transfer::sources::Repository;

/// The documents that were fetched, and the permits to fetch more.
#[derive(Debug)]
pub(super) struct Fetcher {
    /// Bounds requests of all images together, since each image also fetches its children side by side.
    permits: Semaphore,
    jobs: usize,
    /// The memory of the run, of which all that is kept takes some.
    budget: Budget,
    manifests: Mutex<HashMap<Digest, Arc<OnceCell<Arc<RawManifest>>>>>,
    configs: Mutex<HashMap<Digest, Arc<OnceCell<KnownConfig>>>>,
    /// Blobs of the images that were resolved.
    blobs: Mutex<HashSet<Digest>>,
}

/// Memory in bytes that a blob takes from the plan of a run to its end, where it comes from and where it goes.
const BLOB: u64 = 640;

/// An image config, and the memory that it takes.
#[derive(Debug)]
struct KnownConfig {
    bytes: Bytes,
    _held: Held,
}

impl Fetcher {
    /// A fetcher that keeps `jobs` requests in flight.
    pub(super) fn new(jobs: usize) -> Self {
        Self {
            permits: Semaphore::new(jobs.max(1)),
            jobs: jobs.max(1),
            budget: Budget::default(),
            manifests: Mutex::default(),
            configs: Mutex::default(),
            blobs: Mutex::default(),
        }
    }

    pub(super) fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Counts the memory of a manifest for as long as it is kept.
    fn counted(&self, manifest: RawManifest) -> Result<Arc<RawManifest>> {
        let held = self.budget.hold(manifest.memory())?;
        Ok(Arc::new(manifest.holding(held)))
    }

    /// Counts the memory that an image takes beside its manifests, until the end of the run.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if less is left.
    pub(super) fn count_tree(&self, tree: &ImageTree) -> Result<()> {
        let mut known = self.blobs.lock();
        let blobs = tree.blobs().into_iter().map(|blob| blob.descriptor.digest);
        let new: Vec<Digest> = blobs.filter(|digest| !known.contains(digest)).collect();
        let held = self.budget.hold(tree.uncounted_memory() + new.len() as u64 * BLOB)?;
        self.budget.leave_room(tree.memory() + new.len() as u64 * BLOB)?;
        held.keep();
        known.extend(new);
        Ok(())
    }

    /// Drops what no image uses.
    pub(super) fn shrink(&self) {
        self.manifests
            .lock()
            .retain(|_, cell| cell.get().is_none_or(|known| Arc::strong_count(known) > 1));
        self.configs
            .lock()
            .retain(|_, cell| cell.get().is_none_or(|known| !known.bytes.is_unique()));
    }

    /// Puts in manifests that are at hand, so that they are not fetched.
    pub(super) fn remember(&self, manifests: impl IntoIterator<Item = Arc<RawManifest>>) {
        for manifest in manifests {
            // A manifest for which there is no room is fetched again where it is needed.
            if let Some(Ok(manifest)) = Arc::into_inner(manifest).map(|manifest| self.counted(manifest)) {
                self.insert(manifest);
            }
        }
    }

    fn insert(&self, manifest: Arc<RawManifest>) {
        let cell = Arc::new(OnceCell::new_with(Some(manifest.clone())));
        self.manifests.lock().insert(manifest.digest().clone(), cell);
    }

    /// What a tag points at now.
    pub(super) async fn tagged(&self, repository: &Repository, tag: &Target) -> Result<Arc<RawManifest>> {
        let _permit = self.permits.acquire().await;
        let root = repository.registry.manifest(&repository.name, tag).await?;
        // Several tags may have one manifest.
        let known = self
            .manifests
            .lock()
            .get(root.digest())
            .and_then(|cell| cell.get().cloned());
        if let Some(known) = known.filter(|known| known.media_type() == root.media_type()) {
            return Ok(known);
        }
        let root = self.counted(root)?;
        self.insert(root.clone());
        Ok(root)
    }

    /// What a tag points at now, where it is there.
    pub(super) async fn find_tagged(&self, repository: &Repository, tag: &Target) -> Result<Option<Arc<RawManifest>>> {
        let _permit = self.permits.acquire().await;
        match repository.registry.find_manifest(&repository.name, tag).await? {
            Some(manifest) => self.counted(manifest).map(Some),
            None => Ok(None),
        }
    }

    /// A manifest that an index lists. Where it states no type itself, that of the index counts, and not what the registry
    /// calls it.
    pub(super) async fn child(&self, repository: &Repository, entry: &Descriptor) -> Result<Arc<RawManifest>> {
        let found = self.manifest(repository, &entry.digest).await?;
        let listed = media_type::shape(&entry.media_type);
        if found.media_type() == entry.media_type || listed == Shape::Other {
            return Ok(found);
        }
        let read = RawManifest::new(found.bytes().clone(), Some(&entry.media_type), Some(&entry.digest));
        read.map_or(Ok(found), |read| self.counted(read))
    }

    /// A manifest by its digest.
    pub(super) async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Arc<RawManifest>> {
        let cell = self.manifests.lock().entry(digest.clone()).or_default().clone();
        let manifest = cell
            .get_or_try_init(|| async {
                let _permit = self.permits.acquire().await;
                let target = Target::Digest(digest.clone());
                self.counted(repository.registry.manifest(&repository.name, &target).await?)
            })
            .await?;
        Ok(manifest.clone())
    }

    /// The platform that an image config states, with the config's bytes; `None` for a config of another kind.
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
            ));
        }
        let cell = self.configs.lock().entry(config.digest.clone()).or_default().clone();
        let known = cell
            .get_or_try_init(|| async {
                let _permit = self.permits.acquire().await;
                let held = self.budget.hold(config.size)?;
                let bytes = repository.registry.small_blob(&repository.name, config).await?;
                Ok::<_, Error>(KnownConfig { bytes, _held: held })
            })
            .await?;
        let bytes = &known.bytes;
        // The bytes may have been fetched for another manifest, which states another size for them.
        if bytes.len() as u64 != config.size {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "config {} has {} bytes, but its manifest states {}",
                    config.digest,
                    bytes.len(),
                    config.size
                ),
            )
            .with_hint("a manifest with a wrong size has to be made again: have the image built and pushed again"));
        }
        let parsed = Config::parse(bytes).map_err(|e| e.context(format!("config {}", config.digest)))?;
        // An empty os keeps the image: the same rule as for an index entry of which nothing is known.
        Ok((!parsed.platform.os.is_empty()).then(|| (parsed.platform, bytes.clone())))
    }

    /// Layers that need not be in a registry and are not in this one.
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

    async fn absent(&self, repository: &Repository, descriptor: Descriptor) -> Result<Option<LeftOut>> {
        let _permit = self.permits.acquire().await;
        Ok(
            match repository.registry.head_blob(&repository.name, &descriptor).await? {
                Presence::Missing => Some(LeftOut {
                    digest: descriptor.digest,
                    media_type: descriptor.media_type,
                    reason: "a non-distributable layer that the registry does not have".to_owned(),
                }),
                _ => None,
            },
        )
    }
}
