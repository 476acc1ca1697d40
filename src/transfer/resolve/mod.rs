//! From references to image trees: which manifests an image has, which of them are carried, and what they name.

mod fetch;
mod quota;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use self::fetch::Fetcher;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::filter::{self, Fate};
use crate::image::manifest::{Entry, Index, RawManifest, View};
use crate::image::media_type::{self, Shape};
use crate::image::platform::{Platform, PlatformFilter};
use crate::image::reference::{Reference, Target};
use crate::image::tree::{Choice, ImageTree, IndexMode, MAX_DEPTH, MAX_NODES, PlatformRecord, Variant, platform_label};
use crate::progress::{Event, Progress};
use crate::registry::Registries;
use crate::transfer::fetch::Repository;

/// What is asked of each image.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Which platforms are carried.
    pub platforms: PlatformFilter,
    /// What becomes of an index that loses some.
    pub index: IndexMode,
}

/// Turns references into trees.
#[derive(Debug)]
pub struct Resolver {
    registries: Registries,
    wanted: Wanted,
    progress: Progress,
    jobs: usize,
    fetcher: Fetcher,
    pins: HashMap<Reference, Digest>,
}

impl Resolver {
    /// A resolver that keeps `jobs` requests in flight.
    pub fn new(registries: Registries, wanted: Wanted, jobs: usize, progress: Progress) -> Self {
        Self {
            registries,
            wanted,
            progress,
            jobs: jobs.max(1),
            fetcher: Fetcher::new(jobs),
            pins: HashMap::new(),
        }
    }

    /// Pins references to the digests that an earlier run found, whatever their tags say now.
    #[must_use]
    pub fn with_pins(mut self, pins: HashMap<Reference, Digest>) -> Self {
        self.pins = pins;
        self
    }

    /// Puts in manifests that are at hand, so that they are not fetched.
    pub fn remember(&self, manifests: impl IntoIterator<Item = Arc<RawManifest>>) {
        self.fetcher.remember(manifests);
    }

    /// Resolves every reference, side by side; the results are in the order of the references.
    ///
    /// Roots come first: they say how many manifests are to be fetched altogether, and where a registry counts pulls and has
    /// fewer left, the user learns of it before they are used up.
    ///
    /// # Errors
    /// Per reference: those of the registry; [`Kind::NotFound`] if no platform of the image is wanted; [`Kind::Malformed`] if
    /// its documents break the rules.
    pub async fn resolve_all(&self, references: &[Reference]) -> Vec<Result<ImageTree>> {
        let roots: Vec<_> = stream::iter(references)
            .map(|reference| self.fetch_root(reference))
            .buffered(self.jobs * 2)
            .collect()
            .await;
        let found = references.iter().zip(&roots);
        quota::warn(
            found.filter_map(|(reference, root)| Some((reference, root.as_ref().ok()?))),
            &self.registries,
            &self.wanted.platforms,
            &self.progress,
        );
        stream::iter(references.iter().zip(roots))
            .map(|(reference, root)| async move {
                let tree = self.resolve(reference, root).await.map_err(|e| e.context(reference));
                if let Ok(tree) = &tree {
                    self.progress.emit(Event::Resolved {
                        reference: reference.to_string(),
                        digest: tree.pushed().root.digest().to_string(),
                    });
                }
                tree
            })
            .buffered(self.jobs * 2)
            .collect()
            .await
    }

    async fn fetch_root(&self, reference: &Reference) -> Result<Arc<RawManifest>> {
        let repository = Repository::of(reference, &self.registries)?;
        match self.pins.get(reference) {
            Some(digest) => self.fetcher.manifest(&repository, digest, None).await,
            None => match reference.target() {
                Target::Digest(digest) => self.fetcher.manifest(&repository, &digest, None).await,
                tag @ Target::Tag(_) => self.fetcher.tagged(&repository, &tag).await,
            },
        }
    }

    async fn resolve(&self, reference: &Reference, root: Result<Arc<RawManifest>>) -> Result<ImageTree> {
        let root = root?;
        let repository = Repository::of(reference, &self.registries)?;
        let mut state = State::default();
        let (original, filtered) = self.root(&repository, root, &mut state).await?;
        let mut tree = ImageTree {
            source: reference.clone(),
            original,
            filtered,
            choice: Choice::Whole,
            kept: state.kept,
            dropped: state.dropped,
            left_out: Vec::new(),
            configs: state.configs,
        };
        tree.choose(self.wanted.index);
        warn_of_absent(&tree, &self.wanted.platforms, &self.progress);
        tree.left_out = self.fetcher.left_out(&repository, &tree).await?;
        check_sizes(&tree)?;
        Ok(tree)
    }

    async fn root(
        &self,
        repository: &Repository,
        root: Arc<RawManifest>,
        state: &mut State,
    ) -> Result<(Variant, Option<Variant>)> {
        match root.view() {
            View::Index(index) => {
                let node = self.index(repository, &root, index, state, 0).await?;
                if !state.kept.iter().any(|k| k.platform != "attestation") {
                    return Err(nothing_wanted(&self.wanted.platforms, &state.dropped));
                }
                let filtered = node.filtered.map(|root| Variant::new(root, node.filtered_below));
                Ok((Variant::new(root, node.original_below), filtered))
            }
            View::Image(image) => {
                let platform = match self.fetcher.platform_of(repository, &image.config).await? {
                    Some((platform, bytes)) => {
                        state.configs.insert(image.config.digest.clone(), bytes);
                        Some(platform)
                    }
                    None => None,
                };
                let record = PlatformRecord {
                    platform: platform_label(platform.as_ref(), false),
                    digest: root.digest().clone(),
                };
                if platform.is_some_and(|p| !self.wanted.platforms.matches(&p)) {
                    return Err(nothing_wanted(&self.wanted.platforms, &[record]));
                }
                state.kept.push(record);
                Ok((
                    Variant {
                        root,
                        below: Vec::new(),
                    },
                    None,
                ))
            }
            View::Other { .. } => {
                state.kept.push(PlatformRecord {
                    platform: platform_label(None, false),
                    digest: root.digest().clone(),
                });
                Ok((
                    Variant {
                        root,
                        below: Vec::new(),
                    },
                    None,
                ))
            }
        }
    }

    /// Walks one index. Boxed, since indexes may nest.
    fn index<'a>(
        &'a self,
        repository: &'a Repository,
        raw: &'a RawManifest,
        index: &'a Index,
        state: &'a mut State,
        depth: usize,
    ) -> BoxFuture<'a, Result<Node>> {
        Box::pin(async move {
            if depth >= MAX_DEPTH {
                return Err(Error::new(
                    Kind::Malformed,
                    format!("its indexes nest deeper than {MAX_DEPTH} levels"),
                ));
            }
            if index.entries.is_empty() && depth == 0 {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("index {} lists nothing", raw.digest()),
                ));
            }
            state.count(index.entries.len())?;
            let platforms = self.platforms(repository, index, state).await?;
            let keep = filter::decide(&index.entries, &platforms, &self.wanted.platforms);
            let children = self.children(repository, &index.entries, &keep).await?;

            let all = self.wanted.platforms == PlatformFilter::All;
            let first = state.kept.len();
            let mut gone = HashSet::new();
            let mut node = Node::default();
            let mut fates = Vec::with_capacity(keep.len());
            for ((entry, platform), child) in index.entries.iter().zip(&platforms).zip(children) {
                let record = PlatformRecord {
                    platform: platform_label(platform.as_ref(), entry.attests().is_some()),
                    digest: entry.descriptor.digest.clone(),
                };
                let Some(child) = child else {
                    fates.push(Fate::Drop);
                    state.dropped.push(record);
                    continue;
                };
                if let View::Index(nested) = child.view() {
                    let before = state.kept.len();
                    let nested = self.index(repository, &child, nested, state, depth + 1).await?;
                    if !all && !state.kept[before..].iter().any(|k| k.platform != "attestation") {
                        // Nothing in it is wanted: it goes as a whole.
                        let lost = state.kept.split_off(before);
                        state.dropped.extend(lost);
                        // The index itself is absent as well: a reader of the bundle must not look for it.
                        gone.insert(record.digest.to_string());
                        state.dropped.push(record);
                        fates.push(Fate::Drop);
                        continue;
                    }
                    node.original_below.extend(nested.original_below);
                    node.original_below.push(child.clone());
                    node.filtered_below.extend(nested.filtered_below);
                    match nested.filtered {
                        Some(smaller) => {
                            fates.push(Fate::Replace(smaller.descriptor().clone()));
                            node.filtered_below.push(smaller);
                        }
                        None => {
                            fates.push(Fate::Keep);
                            node.filtered_below.push(child);
                        }
                    }
                    continue;
                }
                fates.push(Fate::Keep);
                state.kept.push(record);
                node.original_below.push(child.clone());
                node.filtered_below.push(child);
            }
            for (entry, fate) in index.entries.iter().zip(&mut fates) {
                // What describes a nested index goes with it. Whether that stays is known only now.
                if *fate == Fate::Keep && entry.attests().is_some_and(|subject| gone.contains(subject)) {
                    *fate = Fate::Drop;
                    let digest = &entry.descriptor.digest;
                    node.forget(digest);
                    if let Some(at) = state.kept[first..].iter().position(|k| k.digest == *digest) {
                        let record = state.kept.remove(first + at);
                        state.dropped.push(record);
                    }
                }
            }
            if fates.iter().any(|fate| *fate != Fate::Keep) {
                let bytes = filter::rewrite(raw.bytes(), &fates)?;
                node.filtered = Some(Arc::new(RawManifest::new(bytes.into(), Some(raw.media_type()), None)?));
            }
            Ok(node)
        })
    }

    /// What each entry runs on: what it says itself, else what the image config behind it says, else unknown.
    async fn platforms(
        &self,
        repository: &Repository,
        index: &Index,
        state: &mut State,
    ) -> Result<Vec<Option<Platform>>> {
        // The futures are made before the stream: a closure inside it would tie the boxed walk to one lifetime.
        let futures: Vec<_> = index
            .entries
            .iter()
            .map(|entry| self.entry_platform(repository, entry))
            .collect();
        let found: Vec<_> = stream::iter(futures).buffered(self.jobs).try_collect().await?;
        Ok(found
            .into_iter()
            .map(|(platform, config)| {
                state.configs.extend(config);
                platform
            })
            .collect())
    }

    async fn entry_platform(
        &self,
        repository: &Repository,
        entry: &Entry,
    ) -> Result<(Option<Platform>, Option<(Digest, Bytes)>)> {
        if let Some(platform) = &entry.platform
            && !platform.os.is_empty()
        {
            return Ok((Some(platform.clone()), None));
        }
        if entry.attests().is_some() || media_type::shape(&entry.descriptor.media_type) == Shape::Index {
            return Ok((None, None));
        }
        let child = self
            .fetcher
            .manifest(repository, &entry.descriptor.digest, Some(&entry.descriptor))
            .await?;
        let View::Image(image) = child.view() else {
            return Ok((None, None));
        };
        Ok(match self.fetcher.platform_of(repository, &image.config).await? {
            Some((platform, bytes)) => (Some(platform), Some((image.config.digest.clone(), bytes))),
            None => (None, None),
        })
    }

    async fn children(
        &self,
        repository: &Repository,
        entries: &[Entry],
        keep: &[bool],
    ) -> Result<Vec<Option<Arc<RawManifest>>>> {
        let futures: Vec<_> = entries
            .iter()
            .zip(keep)
            .map(|(entry, keep)| self.child(repository, entry, *keep))
            .collect();
        stream::iter(futures).buffered(self.jobs).try_collect().await
    }

    async fn child(&self, repository: &Repository, entry: &Entry, keep: bool) -> Result<Option<Arc<RawManifest>>> {
        if !keep {
            return Ok(None);
        }
        self.fetcher
            .manifest(repository, &entry.descriptor.digest, Some(&entry.descriptor))
            .await
            .map(Some)
    }
}

/// What an index came to.
#[derive(Default)]
struct Node {
    original_below: Vec<Arc<RawManifest>>,
    filtered_below: Vec<Arc<RawManifest>>,
    filtered: Option<Arc<RawManifest>>,
}

impl Node {
    fn forget(&mut self, digest: &Digest) {
        self.original_below.retain(|manifest| manifest.digest() != digest);
        self.filtered_below.retain(|manifest| manifest.digest() != digest);
    }
}

/// What is gathered while an image is walked.
#[derive(Default)]
struct State {
    kept: Vec<PlatformRecord>,
    dropped: Vec<PlatformRecord>,
    configs: BTreeMap<Digest, Bytes>,
    nodes: usize,
}

impl State {
    fn count(&mut self, more: usize) -> Result<()> {
        self.nodes += more;
        if self.nodes > MAX_NODES {
            return Err(Error::new(
                Kind::Malformed,
                format!("it has more than {MAX_NODES} manifests"),
            ));
        }
        Ok(())
    }
}

/// One digest has one size, whoever names it.
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

/// Says which of the platforms that were asked for an image does not have.
pub(super) fn warn_of_absent(tree: &ImageTree, filter: &PlatformFilter, progress: &Progress) {
    let absent: Vec<String> = tree.absent(filter).iter().map(|p| format!("`{p}`")).collect();
    if !absent.is_empty() {
        progress.warn(format!("`{}` has no platform {}", tree.source, absent.join(", ")));
    }
}

fn nothing_wanted(filter: &PlatformFilter, dropped: &[PlatformRecord]) -> Error {
    let mut has: Vec<&str> = dropped
        .iter()
        .map(|d| d.platform.as_str())
        .filter(|p| *p != "attestation")
        .collect();
    has.dedup();
    let has = if has.is_empty() {
        "none".to_owned()
    } else {
        has.join(", ")
    };
    let wanted = match filter {
        PlatformFilter::Linux => "no linux platform".to_owned(),
        other => format!("no platform that matches `{other}`"),
    };
    Error::new(Kind::NotFound, format!("it has {wanted}; its platforms: {has}"))
        .with_hint("choose with `--platform OS/ARCH`, or carry everything with `--platform all`")
}
