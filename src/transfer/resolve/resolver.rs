//! The resolver: the trees of all references, host by host, and checks of these trees against each other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join;
use futures_util::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};

use super::absent::{absent, nothing_wanted, warn_of_absent};
use super::fetch::Fetcher;
use super::quota;
use super::referrers::Discovery;
use super::sizes;
use super::wanted;
use super::wanted::Wanted;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::digest_tag;
use crate::image::manifest::RawManifest;
use crate::image::platform::{Platform, PlatformFilter};
use crate::image::reference::{Reference, Target};
use crate::image::select::{Graph, Need, SelectResult, Selection, select};
use crate::image::tree::{ImageTree, shared};
use crate::inventory::locked_image::LockedImage;
use crate::lock::Mutex;
use crate::progress::{Event, Phase, Progress};
use crate::registry::Registries;
use crate::transfer::referrers::check_pushed_referrers;
use crate::transfer::sources::Repository;
use crate::transfer::wait::within_five_seconds;

/// Maximum number of hosts whose images are resolved at the same time.
const HOSTS: usize = 32;

/// Takes the number and the result of a reference.
pub(crate) type Done<'a> = dyn Fn(usize, Result<ImageTree>) + Send + Sync + 'a;

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
    /// Returns a resolver that keeps up to `jobs` requests to each host in flight.
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
    /// # Errors
    /// Per reference: errors of the registry; [`Kind::NotFound`] if the image has none of the requested platforms;
    /// [`Kind::Malformed`] if its manifests or configs are invalid; [`Kind::TooLarge`] if the images together exceed the
    /// memory budget.
    pub async fn resolve_all(&self, references: &[Reference]) -> Vec<Result<ImageTree>> {
        let trees: Vec<Option<Result<ImageTree>>> = references.iter().map(|_| None).collect();
        let trees = Mutex::new(trees);
        let done = |number: usize, tree: Result<ImageTree>| trees.lock()[number] = Some(tree);
        // On the heap, as the work of each host: the nested futures would be a large part of the stack of a run.
        Box::pin(self.resolve_each(references, &done)).await;
        let mut trees: Vec<Result<ImageTree>> = trees.into_inner().into_iter().flatten().collect();
        Box::pin(self.check(references, &mut trees)).await;
        trees
    }

    /// Resolves all references concurrently, and calls `done` with the number and the result of each, in the order in which
    /// they are resolved. The hosts are independent of each other: up to `HOSTS - 1` that do not answer hold up no other.
    ///
    /// # Errors
    /// Those of [`resolve_all`](Self::resolve_all), except for what [`check`](Self::check) finds. [`check`](Self::check) resolves
    /// an image with [`Kind::TooLarge`] once more.
    pub(crate) async fn resolve_each(&self, references: &[Reference], done: &Done<'_>) {
        self.progress.emit(Event::Phase {
            phase: Phase::Resolving,
            images: references.len() as u64,
        });
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut hosts: Vec<Vec<usize>> = Vec::new();
        for (number, reference) in references.iter().enumerate() {
            let place = *places.entry(reference.host()).or_insert(hosts.len());
            match hosts.get_mut(place) {
                Some(host) => host.push(number),
                None => hosts.push(vec![number]),
            }
        }
        stream::iter(hosts)
            .for_each_concurrent(HOSTS, |numbers| Box::pin(self.resolve_host(references, numbers, done)))
            .await;
    }

    /// Resolves the images of one host, given by their numbers.
    ///
    /// All root manifests are fetched first, since they show how many manifests the run has to fetch in total. So the user
    /// is warned before a registry's limit of pulls is used up. Root manifests that do not arrive
    /// [within five seconds](within_five_seconds) are not waited for.
    async fn resolve_host(&self, references: &[Reference], numbers: Vec<usize>, done: &Done<'_>) {
        let most = self.jobs * 2;
        let mut left: HashMap<(&str, &str), usize> = HashMap::new();
        for number in &numbers {
            let reference = &references[*number];
            *left.entry((reference.host(), reference.repository())).or_default() += 1;
        }
        let left = Mutex::new(left);
        let mut roots = stream::iter(numbers)
            .map(|number| async move {
                let root = self.fetch_root(&references[number]).await;
                self.progress.emit(Event::Step(Phase::Resolving));
                let root = root.inspect_err(|error| self.unresolved(&references[number], error, references.len()));
                (number, root)
            })
            .buffer_unordered(most);
        let mut found: Vec<(usize, Result<Arc<RawManifest>>)> = Vec::new();
        loop {
            match within_five_seconds(roots.next()).await {
                Some(Some(root)) => found.push(root),
                None if found.is_empty() => {}
                Some(None) | None => break,
            }
        }
        found.sort_by_key(|(number, _)| *number);
        quota::warn(
            found
                .iter()
                .filter_map(|(number, root)| Some((&references[*number], root.as_ref().ok()?))),
            &self.registries,
            &self.wanted,
            &self.progress,
        );
        let mut found = VecDeque::from(found);
        let mut trees = FuturesUnordered::new();
        loop {
            while trees.len() < most
                && let Some((number, root)) = found.pop_front()
            {
                trees.push(self.resolve_found(references, number, root, &left));
            }
            tokio::select! {
                Some(root) = roots.next() => found.push_back(root),
                Some((number, tree)) = trees.next() => done(number, tree),
                else => return,
            }
        }
    }

    /// Resolves the image of this number, whose root manifest was requested.
    async fn resolve_found<'a>(
        &self,
        references: &'a [Reference],
        number: usize,
        root: Result<Arc<RawManifest>>,
        left: &Mutex<HashMap<(&'a str, &'a str), usize>>,
    ) -> (usize, Result<ImageTree>) {
        let (reference, has_root) = (&references[number], root.is_ok());
        let tree = self.resolve_one(reference, root).await;
        self.image_resolved(reference, left);
        let tree = tree.inspect_err(|error| {
            if has_root {
                self.unresolved(reference, error, references.len());
            }
        });
        (number, tree)
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
        self.progress.emit(Event::Step(Phase::Resolving));
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
        sizes::check_tree(&tree)?;
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

    /// Checks all resolved images of a run: resolves those again that exceeded the budget or whose referrers are in doubt, fails
    /// those that state a wrong size for a blob, and drops the manifests that no image uses.
    pub(crate) async fn check(&self, references: &[Reference], trees: &mut [Result<ImageTree>]) {
        self.resolve_again(references, trees).await;
        if trees.iter().any(Result::is_ok) {
            self.discovery.warn_of_unmatched();
        }
        sizes::check(trees, &self.registries, self.jobs).await;
        self.fetcher.shrink();
    }

    /// Returns for each result whether it is final before the other images are resolved: [`check`](Self::check) sends requests for
    /// no other one, and would change no other one.
    pub(crate) fn are_final(&self, trees: &[Result<ImageTree>]) -> Vec<bool> {
        let uncertain = sizes::uncertain(trees);
        let is_final = |(number, tree): (usize, &Result<ImageTree>)| match tree {
            Ok(tree) => {
                let root = tree.original.root.digest();
                !uncertain.contains(&number) && !self.doubts_referrers(&tree.source, root)
            }
            Err(error) => error.kind() != Kind::TooLarge,
        };
        trees.iter().enumerate().map(is_final).collect()
    }

    /// Returns whether an image that was resolved once may lack referrers, since its registry answered as if it had no referrers
    /// API and turned out to have it.
    pub(crate) fn doubts_referrers(&self, image: &Reference, root: &Digest) -> bool {
        self.doubt(image, root, 0).is_some()
    }

    fn doubt(&self, image: &Reference, root: &Digest, since: u64) -> Option<u64> {
        let repository = Repository::new(image, &self.registries).ok()?;
        let doubt = repository.registry.doubt_about_referrers(&repository.name, root, since);
        doubt.ok().flatten()
    }

    /// Resolves the images again that exceeded the budget, and those of which a registry answered as if it had no referrers API,
    /// before it turned out to have it.
    async fn resolve_again(&self, references: &[Reference], trees: &mut [Result<ImageTree>]) {
        let mut since: HashMap<usize, u64> = HashMap::new();
        // The second round asks a registry that seemed to have no API for all manifests of a repository. If it lists the referrers
        // of some of them, the third round requires a list of each. No image is in doubt after that.
        loop {
            self.resolve_too_large(references, trees).await;
            let mut doubted: HashMap<usize, u64> = HashMap::new();
            for (number, tree) in trees.iter().enumerate() {
                if let Ok(tree) = tree
                    && let last = since.get(&number).copied().unwrap_or_default()
                    && let Some(now) = self.doubt(&tree.source, tree.original.root.digest(), last)
                {
                    doubted.insert(number, now);
                    // The answers of which the doubt is must not answer again.
                    self.discovery.forget(tree.source.host(), tree.source.repository());
                }
            }
            if doubted.is_empty() {
                return;
            }
            let again = trees.iter_mut().enumerate().filter_map(|(number, tree)| {
                let is_doubted = doubted.contains_key(&number);
                let root = tree.as_ref().ok().filter(|_| is_doubted)?.original.root.clone();
                Some(async move { *tree = self.resolve_one(&references[number], Ok(root)).await })
            });
            stream::iter(again)
                .buffer_unordered(self.jobs * 2)
                .collect::<()>()
                .await;
            since.extend(doubted);
        }
    }

    /// Resolves the images that exceeded the budget once more, one after the other, since an image that is too large takes memory
    /// from the images resolved at the same time.
    async fn resolve_too_large(&self, references: &[Reference], trees: &mut [Result<ImageTree>]) {
        for (reference, tree) in references.iter().zip(trees) {
            if tree.as_ref().is_err_and(|error| error.kind() == Kind::TooLarge) {
                self.discovery.set_alone(true);
                self.fetcher.shrink();
                let root = self.fetch_root(reference).await;
                *tree = self.resolve_one(reference, root).await;
            }
        }
        self.discovery.set_alone(false);
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
