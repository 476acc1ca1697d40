//! Resolves references to image trees: fetches manifests, selects platforms and finds referrers.

mod discovered;
mod fetch;
mod found_referrer;
mod quota;
pub(crate) mod referrers;
mod repository_referrers;
mod sizes;
mod wanted;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use self::fetch::Fetcher;
pub use self::fetch::LOST_MANIFEST;
use self::referrers::Discovery;
pub use self::wanted::Wanted;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::digest_tag;
use crate::image::manifest::RawManifest;
use crate::image::platform::{Platform, PlatformFilter};
use crate::image::reference::{Reference, Target};
use crate::image::select::{Graph, Need, SelectResult, Selection, select};
use crate::image::tree::{ATTESTATION, INDEX, ImageTree, PlatformRecord, shared};
use crate::inventory::locked_image::LockedImage;
use crate::lock::Mutex;
use crate::progress::{Event, Phase, Progress};
use crate::registry::Registries;
use crate::text::{few, quote};
use crate::transfer::referrers::check_pushed_referrers;
use crate::transfer::sources::Repository;

/// Resolves references to image trees.
#[derive(Debug)]
pub struct Resolver {
    registries: Registries,
    wanted: Wanted,
    progress: Progress,
    jobs: usize,
    fetcher: Fetcher,
    discovery: Discovery,
    pins: HashMap<Reference, Digest>,
}

impl Resolver {
    /// Returns a resolver that keeps up to `jobs` requests in flight.
    pub fn new(registries: Registries, wanted: Wanted, jobs: usize, progress: Progress) -> Self {
        Self {
            discovery: Discovery::new(wanted.referrers.clone(), jobs, progress.clone()),
            registries,
            wanted,
            progress,
            jobs: jobs.max(1),
            fetcher: Fetcher::new(jobs),
            pins: HashMap::new(),
        }
    }

    /// Pins references to the digests that an earlier run resolved, even if their tags have moved since.
    #[must_use]
    pub(crate) fn with_pins(mut self, pins: HashMap<Reference, Digest>) -> Self {
        self.pins = pins;
        self
    }

    /// Counts the memory of manifests and configs against this budget.
    #[must_use]
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.fetcher.set_budget(budget);
        self
    }

    /// Returns the memory budget of the run; the resolved images count against it.
    pub fn budget(&self) -> &Budget {
        self.fetcher.budget()
    }

    /// Adds manifests that are already in memory to the cache, so that they are not fetched.
    pub(crate) fn remember(&self, manifests: impl IntoIterator<Item = Arc<RawManifest>>) {
        self.fetcher.remember(manifests);
    }

    /// Resolves all references concurrently and returns the results in the order of the references.
    ///
    /// All root manifests are fetched first, since they show how many manifests the run has to fetch in total. So the user
    /// is warned before a registry's limit of pulls is used up.
    ///
    /// # Errors
    /// Per reference: errors of the registry; [`Kind::NotFound`] if the image has none of the requested platforms;
    /// [`Kind::Malformed`] if its manifests or configs are invalid; [`Kind::TooLarge`] if the images together exceed the
    /// memory budget.
    pub async fn resolve_all(&self, references: &[Reference]) -> Vec<Result<ImageTree>> {
        self.progress.emit(Event::Phase {
            phase: Phase::Resolving,
            images: references.len() as u64,
        });
        let roots: Vec<_> = stream::iter(references)
            .map(|reference| async {
                let root = self.fetch_root(reference).await;
                self.progress.emit(Event::Step);
                root.inspect_err(|error| self.unresolved(reference, error, references.len()))
            })
            .buffered(self.jobs * 2)
            .collect()
            .await;
        let found = references.iter().zip(&roots);
        quota::warn(
            found.filter_map(|(reference, root)| Some((reference, root.as_ref().ok()?))),
            &self.registries,
            &self.wanted,
            &self.progress,
        );
        let mut left: HashMap<(&str, &str), usize> = HashMap::new();
        for reference in references {
            *left.entry((reference.host(), reference.repository())).or_default() += 1;
        }
        let left = Mutex::new(left);
        let mut trees: Vec<Result<ImageTree>> = stream::iter(references.iter().zip(roots))
            .map(|(reference, root)| async {
                let has_root = root.is_ok();
                let tree = self.resolve_one(reference, root).await;
                self.image_resolved(reference, &left);
                tree.inspect_err(|error| {
                    if has_root {
                        self.unresolved(reference, error, references.len());
                    }
                })
            })
            .buffered(self.jobs * 2)
            .collect()
            .await;
        // An image that is too large takes memory from the images resolved at the same time. So each image that exceeded
        // the budget is resolved once more, alone.
        for (reference, tree) in references.iter().zip(&mut trees) {
            if tree.as_ref().is_err_and(|error| error.kind() == Kind::TooLarge) {
                self.discovery.resolve_alone();
                self.fetcher.shrink();
                let root = self.fetch_root(reference).await;
                *tree = self.resolve_one(reference, root).await;
            }
        }
        self.resolve_doubted(references, &mut trees).await;
        if trees.iter().any(Result::is_ok) {
            self.discovery.warn_of_unmatched();
        }
        sizes::check(&mut trees, &self.registries, self.jobs).await;
        self.fetcher.shrink();
        trees
    }

    /// Resolves the images again of which a registry answered as if it had no referrers API, before it turned out to have it.
    async fn resolve_doubted(&self, references: &[Reference], trees: &mut [Result<ImageTree>]) {
        // The second round asks a registry that seemed to have no API for all manifests of a repository. If it lists the referrers
        // of some of them, the third round requires a list of each.
        for _ in 0..2 {
            let mut doubted: HashSet<(&str, &str)> = HashSet::new();
            for (reference, tree) in references.iter().zip(trees.iter()) {
                if let (Ok(tree), Ok(repository)) = (tree, Repository::new(reference, &self.registries))
                    && let root = tree.original.root.digest()
                    && let Ok(true) = repository.registry.take_doubt_about_referrers(&repository.name, root)
                {
                    doubted.insert((reference.host(), reference.repository()));
                }
            }
            if doubted.is_empty() {
                break;
            }
            let again = references.iter().zip(trees.iter_mut()).filter_map(|(reference, tree)| {
                let is_doubted = doubted.contains(&(reference.host(), reference.repository()));
                let root = tree.as_ref().ok().filter(|_| is_doubted)?.original.root.clone();
                Some(async move { *tree = self.resolve_one(reference, Ok(root)).await })
            });
            stream::iter(again)
                .buffer_unordered(self.jobs * 2)
                .collect::<()>()
                .await;
            doubted
                .iter()
                .for_each(|(host, name)| self.discovery.forget(host, name));
        }
    }

    /// Drops the answers of a repository after the last of its images. `left` has the number of images of each repository.
    fn image_resolved<'a>(&self, image: &'a Reference, left: &Mutex<HashMap<(&'a str, &'a str), usize>>) {
        let repository = (image.host(), image.repository());
        let mut left = left.lock();
        if let Some(images) = left.get_mut(&repository) {
            *images -= 1;
            if *images == 0 {
                left.remove(&repository);
                self.discovery.forget(repository.0, repository.1);
            }
        }
    }

    /// Reports immediately that an image cannot be resolved.
    /// Does nothing for a single image, since the end of the run reports its error at the same moment, and nothing for
    /// [`Kind::TooLarge`], since that image is resolved once more.
    fn unresolved(&self, reference: &Reference, error: &Error, images: usize) {
        if images > 1 && error.kind() != Kind::TooLarge {
            let error = match error.names_image() {
                true => error.clone(),
                false => error.clone().for_image(reference),
            };
            self.progress.emit(Event::Unresolved {
                reference: reference.to_string().into(),
                error,
            });
        }
    }

    /// Resolves one image and reports the progress.
    async fn resolve_one(&self, reference: &Reference, root: Result<Arc<RawManifest>>) -> Result<ImageTree> {
        let in_flight = self.progress.in_flight(reference);
        // On the heap, so that the stack of a run does not grow with what is asked for an image.
        let tree = Box::pin(self.resolve(reference, root)).await;
        drop(in_flight);
        self.progress.emit(Event::Step);
        let tree = tree.map_err(|e| e.for_image(reference))?;
        self.progress.emit(Event::Resolved {
            reference: reference.to_string().into(),
            digest: tree.pushed().root.digest().to_string(),
        });
        Ok(tree)
    }

    /// Fetches the root manifest of an image: locked, pinned, by digest, or by tag.
    async fn fetch_root(&self, reference: &Reference) -> Result<Arc<RawManifest>> {
        let repository = Repository::new(reference, &self.registries)?;
        let _in_flight = repository.registry.in_flight(&repository.name);
        let locked = self.wanted.locked(reference).map(|locked| &locked.original);
        match locked.or_else(|| self.pins.get(reference)) {
            Some(digest) => self.fetcher.manifest(&repository, digest).await,
            None => match reference.target() {
                Target::Digest(digest) => self.fetcher.manifest(&repository, &digest).await,
                tag @ Target::Tag(_) => self.fetcher.tagged(&repository, &tag).await,
            },
        }
    }

    /// Builds the tree of an image from its root manifest.
    async fn resolve(&self, reference: &Reference, root: Result<Arc<RawManifest>>) -> Result<ImageTree> {
        let root = root?;
        digest_tag::check_requested(reference, &root)?;
        let platforms = self.wanted.platforms_of(reference);
        let repository = Repository::new(reference, &self.registries)?;
        let locked = self.wanted.locked(reference);
        let begin = async {
            match locked {
                // The lock lists the referrers, whatever the registry lists now.
                Some(_) => Ok(()),
                None => {
                    self.discovery
                        .search_root(&self.fetcher, &repository, reference, root.digest())
                        .await
                }
            }
        };
        let (selected, begun) = join(self.select(&repository, &root, platforms, locked), begin).await;
        let (selection, configs) = selected?;
        if root.lists_nothing() {
            self.progress.warn(format!(
                "`{reference}`: its index lists nothing; it is carried as it is"
            ));
        } else if selection.is_empty() {
            let dropped = selection.dropped.iter().chain(&selection.dropped_below);
            return Err(nothing_wanted(platforms, dropped));
        }
        let mut tree = ImageTree {
            filtered: selection.filtered,
            kept: shared(selection.kept),
            dropped: shared(selection.dropped),
            configs,
            ..ImageTree::new(reference.clone(), selection.original)
        };
        if locked.is_none() {
            tree.choose(self.wanted.index);
            warn_of_absent(reference, &absent(&tree, platforms), &self.progress);
        }
        begun?;
        match locked {
            Some(locked) => {
                let attachments = self.discovery.attach_locked(&self.fetcher, &repository, locked).await?;
                tree.attachments = shared(attachments);
                wanted::pin(&mut tree, locked)?;
            }
            None => {
                let found = self.discovery.discover(&self.fetcher, &repository, &tree).await?;
                tree.attachments = shared(found.attachments);
                tree.left_out_referrers = shared(found.left_out);
                tree.lacks_referrers = found.is_loss;
                tree.left_out = shared(self.fetcher.left_out(&repository, &tree).await?);
                if self.wanted.referrers.is_required() {
                    check_pushed_referrers(&tree)?;
                }
            }
        }
        digest_tag::check_tree(reference, &tree)?;
        check_sizes(&tree)?;
        tree.total()?;
        match locked {
            Some(_) => self.fetcher.count_tree(&tree)?,
            None => self.discovery.count_tree(&self.fetcher, &repository, &mut tree)?,
        }
        Ok(tree)
    }

    /// Fetches manifests and configs below the root until the platforms are selected.
    /// Also returns the configs.
    async fn select(
        &self,
        repository: &Repository,
        root: &Arc<RawManifest>,
        platforms: &PlatformFilter,
        locked: Option<&LockedImage>,
    ) -> Result<(Selection, BTreeMap<Digest, Bytes>)> {
        let mut graph = Graph::default();
        let leave_out = |graph: &mut Graph, manifest: &RawManifest| {
            if let Some(locked) = locked {
                wanted::dropped(locked, manifest).for_each(|entry| graph.leave_out(entry));
            }
        };
        leave_out(&mut graph, root);
        let mut configs = BTreeMap::new();
        loop {
            let needs = match select(&graph, root, platforms)? {
                SelectResult::Selected(selection) => return Ok((selection, configs)),
                SelectResult::Needs(needs) => needs,
            };
            // The futures are collected before the stream is built: a closure inside the stream would tie them to one
            // lifetime.
            let fetches: Vec<_> = needs.into_iter().map(|need| self.fetch(repository, need)).collect();
            let mut found = stream::iter(fetches).buffered(self.jobs);
            while let Some(fetched) = found.try_next().await? {
                match fetched {
                    Fetched::Manifest(manifest) => {
                        leave_out(&mut graph, &manifest);
                        graph.add(manifest);
                    }
                    Fetched::Platform { manifest, config: None } => graph.set_platform(manifest, None),
                    Fetched::Platform {
                        manifest,
                        config: Some((digest, platform, bytes)),
                    } => {
                        graph.set_platform(manifest, Some(platform));
                        configs.insert(digest, bytes);
                    }
                }
            }
        }
    }

    /// Fetches a manifest or config that the platform selection needs.
    async fn fetch(&self, repository: &Repository, need: Need) -> Result<Fetched> {
        Ok(match need {
            Need::Manifest(descriptor) => Fetched::Manifest(self.fetcher.child(repository, &descriptor).await?),
            Need::Platform { manifest, config } => {
                let found = self.fetcher.platform_of(repository, &config).await?;
                let config = found.map(|(platform, bytes)| (config.digest, platform, bytes));
                Fetched::Platform { manifest, config }
            }
        })
    }
}

/// Result of fetching a [`Need`].
enum Fetched {
    Manifest(Arc<RawManifest>),
    Platform {
        manifest: Digest,
        /// Digest of the config, its platform, and its bytes; `None` if the config states no platform.
        config: Option<(Digest, Platform, Bytes)>,
    },
}

/// Checks that all manifests of an image state the same size for the same blob.
fn check_sizes(tree: &ImageTree) -> Result<()> {
    let mut sizes: HashMap<&Digest, u64> = HashMap::new();
    for manifest in tree.manifests() {
        for blob in manifest.blobs() {
            if *sizes.entry(&blob.digest).or_insert(blob.size) != blob.size {
                return Err(Error::new(
                    Kind::Malformed,
                    format!("its manifests give blob {} two sizes", blob.digest),
                ));
            }
        }
    }
    Ok(())
}

/// Returns the requested platforms that an image lacks, as text; empty if the image has all of them.
pub(super) fn absent(tree: &ImageTree, filter: &PlatformFilter) -> String {
    few(tree.absent(filter).iter().map(|platform| format!("`{platform}`")))
}

/// Warns about the requested platforms that an image does not have.
pub(super) fn warn_of_absent(image: &Reference, absent: &str, progress: &Progress) {
    if !absent.is_empty() {
        progress.warn(format!("`{image}` has no platform {absent}"));
    }
}

/// Returns the error for an image with none of the requested platforms.
fn nothing_wanted<'a>(filter: &PlatformFilter, dropped: impl Iterator<Item = &'a PlatformRecord>) -> Error {
    let mut has: Vec<&str> = dropped
        .map(|d| d.platform.as_str())
        .filter(|p| ![ATTESTATION, INDEX].contains(p))
        .collect();
    has.dedup();
    let has = if has.is_empty() {
        "none".to_owned()
    } else {
        few(has.iter().map(quote))
    };
    let wanted = match filter {
        PlatformFilter::Linux => "no linux platform".to_owned(),
        other => format!("no platform that matches `{other}`"),
    };
    Error::new(Kind::NotFound, format!("it has {wanted}; its platforms: {has}"))
        .with_hint("choose with `--platform OS/ARCH`, or carry everything with `--platform all`")
}
