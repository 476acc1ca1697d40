//! The manifests of one image, once its blobs are in place: children, then the root under its tag, then the proof that
//! the registry really has them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, try_join};

use super::ensure_blob::{self, Way};
use super::report::{Counts, Form};
use super::request::PushItem;
use super::scheduler::Placed;
use super::tag::{TagState, tag_state};
use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest};
use crate::image::manifest::{RawManifest, View};
use crate::image::reference::Target;
use crate::image::tree::{Choice, Variant};
use crate::lock::Mutex;
use crate::progress::{Event, Progress};
use crate::registry::{Presence, Refusal, Registry};
use crate::text::Warnings;

/// How often a manifest is offered again after the registry missed something below it, and how often it is asked for what
/// it has just accepted: some registries need a moment to see their own uploads.
const ATTEMPTS: u32 = 5;

/// No pause is longer than this many times the first one.
const LONGEST: u32 = 16;

/// The manifests that this run has put into one repository.
pub(crate) type Written = Arc<Mutex<HashSet<Digest>>>;

/// An image that is ready for its manifests.
pub(crate) struct Publisher {
    pub(crate) registry: Registry,
    pub(crate) item: PushItem,
    /// What the tag held before.
    pub(crate) before: Option<Digest>,
    pub(crate) written: Written,
    pub(crate) pause: Duration,
    pub(crate) progress: Progress,
}

/// What was published, and in which form.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) digest: Digest,
    pub(crate) form: Form,
    pub(crate) warnings: Warnings,
    /// Blobs that had to be sent once more.
    pub(crate) repaired: Counts,
    /// Whether the registry does not know the manifest by the digest that the image is pinned to.
    pub(crate) pinned_digest_missing: bool,
}

/// What goes wrong with one manifest.
struct Refused<'a> {
    manifest: &'a RawManifest,
    error: &'a Error,
    attempt: u32,
}

impl Publisher {
    /// Puts the manifests, and under the tag the variant that was chosen; for a sparse index that the registry refuses,
    /// the filtered one.
    ///
    /// # Errors
    /// Those of the registry, with the tag's digest where it would not let it be moved.
    pub(crate) async fn publish(&self) -> Result<Published> {
        let _in_flight = self.registry.in_flight(self.repository());
        let tree = self.item.tree.clone();
        let mut published = Published {
            digest: tree.pushed().root.digest().clone(),
            form: tree.choice.into(),
            warnings: Warnings::default(),
            repaired: Counts::default(),
            pinned_digest_missing: false,
        };
        match (tree.choice, &tree.filtered) {
            (Choice::Sparse, Some(filtered)) => match self.variant(&tree.original, true, &mut published).await {
                Err(error) if refuses_sparse(&error) => {
                    self.progress.note(format!(
                        "{}: sparse index refused: {}",
                        self.item.destination,
                        error.full()
                    ));
                    self.variant(filtered, false, &mut published).await?;
                    published.digest = filtered.root.digest().clone();
                    published.form = Form::Fallback;
                    published.pinned_digest_missing = true;
                    // A digest that was asked for by name is missed by users who deploy by it.
                    let what = match tree.source.digest() {
                        Some(_) => "pinned",
                        None => "original",
                    };
                    published.warnings.push(format!(
                        "`{}` rejects an index with missing platforms: the {what} digest does not exist there, and the tag \
                         has the smaller index",
                        self.item.destination.host(),
                    ));
                }
                other => other?,
            },
            _ => self.variant(tree.pushed(), false, &mut published).await?,
        }
        Ok(published)
    }

    fn repository(&self) -> &str {
        self.item.destination.repository()
    }

    fn tag(&self) -> &str {
        self.item.destination.tag().unwrap_or("latest")
    }

    fn was_written(&self, digest: &Digest) -> bool {
        self.written.lock().contains(digest)
    }

    async fn variant(&self, variant: &Variant, sparse: bool, published: &mut Published) -> Result<()> {
        for child in variant.below.iter() {
            // A PUT without asking first: a manifest is no larger than the answer to a GET of it, a PUT of what is there
            // changes nothing, and asking would make two requests of one wherever the manifest is new.
            if !self.was_written(child.digest()) {
                self.put(Target::Digest(child.digest().clone()), child, variant, false, published)
                    .await?;
            }
            self.progress.emit(Event::ManifestDone);
        }
        if variant.root.digest().algorithm() != Algorithm::Sha256 {
            // Under a tag a registry keeps it by SHA-256. Those that know other algorithms learn of this digest by it.
            let target = Target::Digest(variant.root.digest().clone());
            if let Err(error) = self.put(target, &variant.root, variant, sparse, published).await {
                self.progress
                    .note(format!("{}: {}", self.item.destination, error.full()));
            }
        }
        let target = Target::Tag(self.tag().to_owned());
        if let Err(error) = self.put(target, &variant.root, variant, sparse, published).await {
            self.contested(error, &variant.root).await?;
        }
        self.progress.emit(Event::ManifestDone);
        Ok(())
    }

    /// Looks at a tag that could not be put: another client may have put the same there in the meantime, which is as
    /// good; else the error says what stands in the way.
    async fn contested(&self, error: Error, root: &RawManifest) -> Result<()> {
        if !matches!(error.kind(), Kind::Exists | Kind::Denied) {
            return Err(error);
        }
        let target = Target::Tag(self.tag().to_owned());
        match tag_state(&self.registry, self.repository(), &target).await {
            Ok(TagState::Digest(digest)) if root.has_digest(&digest) => Ok(()),
            Ok(TagState::Digest(digest)) => {
                let message = format!(
                    "`{}` does not let the tag `{}` be moved, which holds {digest}",
                    self.item.destination.name(),
                    self.tag()
                );
                Err(Error::new(Kind::Exists, message).with_source(error).with_hint(
                    "the tag seems to be immutable: delete it there, or leave it alone by `--on-existing skip`",
                ))
            }
            _ => Err(error),
        }
    }

    fn put<'a>(
        &'a self,
        target: Target,
        manifest: &'a RawManifest,
        variant: &'a Variant,
        sparse: bool,
        published: &'a mut Published,
    ) -> BoxFuture<'a, Result<()>> {
        // Boxed, since the repair of an index puts manifests too.
        Box::pin(async move {
            let mut attempt = 0;
            loop {
                let error = match self.registry.put_manifest(self.repository(), &target, manifest).await {
                    Ok(()) => {
                        let mut written = self.written.lock();
                        written.insert(manifest.digest().clone());
                        return Ok(());
                    }
                    Err(error) => error,
                };
                if attempt == ATTEMPTS || !misses_something(&error) || (sparse && !self.misses_ours(variant, &error)) {
                    return Err(error);
                }
                self.progress.note(format!(
                    "{}: {}; looking after what is below it",
                    self.item.destination,
                    error.full()
                ));
                self.wait(attempt).await;
                let refused = Refused {
                    manifest,
                    error: &error,
                    attempt,
                };
                if !self.repair(refused, variant, published).await? && attempt > 0 {
                    return Err(error);
                }
                attempt += 1;
            }
        })
    }

    /// Puts in place again what a registry says is missing below a manifest: what it admits to be missing at once, and
    /// from the second time on also what it claims to have. `false` if there was nothing to do.
    async fn repair(&self, refused: Refused<'_>, variant: &Variant, published: &mut Published) -> Result<bool> {
        let named = |digest: &Digest| names(refused.error, digest);
        let mut done = false;
        match refused.manifest.view() {
            View::Index(index) => {
                for entry in &index.entries {
                    let digest = &entry.descriptor.digest;
                    let Some(child) = variant.below.iter().find(|m| m.digest() == digest) else {
                        continue;
                    };
                    let target = Target::Digest(digest.clone());
                    let missing = matches!(
                        self.registry.head_manifest(self.repository(), &target).await?,
                        Presence::Missing
                    );
                    if missing || named(digest) || refused.attempt > 0 {
                        self.put(target, child, variant, false, published).await?;
                        done = true;
                    }
                }
            }
            View::Image(_) | View::Other { .. } => {
                let carried: HashSet<Digest> = self
                    .item
                    .tree
                    .blobs()
                    .into_iter()
                    .map(|b| b.descriptor.digest)
                    .collect();
                let mut seen = HashSet::new();
                for descriptor in refused.manifest.blobs() {
                    if !carried.contains(&descriptor.digest) || !seen.insert(&descriptor.digest) {
                        continue;
                    }
                    let force = named(&descriptor.digest) || refused.attempt > 0;
                    let placed = ensure_blob::ensure_blob(
                        &self.registry,
                        self.repository(),
                        descriptor,
                        &self.item.blobs,
                        Way {
                            mount_from: None,
                            ask: !force,
                            extra: true,
                        },
                        &self.progress,
                    )
                    .await?;
                    if placed != Placed::Present {
                        published.repaired.uploaded.one(descriptor.size);
                        ensure_blob::report_done(&self.progress, descriptor, true);
                        done = true;
                    }
                }
            }
        }
        Ok(done)
    }

    /// Whether the registry names something as missing that was pushed, so that the index is not refused for being sparse.
    fn misses_ours(&self, variant: &Variant, error: &Error) -> bool {
        variant.below.iter().any(|m| names(error, m.digest()))
    }

    /// Asks by tag and by digest until both answers are the manifest that was put. Some registries need a moment; a web
    /// server that says yes to everything is found out here.
    ///
    /// # Errors
    /// [`Kind::Server`] if an answer is none, or another manifest.
    pub(crate) async fn read_back(&self, mut published: Published) -> Result<Published> {
        let root = self.root_of(&published)?;
        let by_tag = Target::Tag(self.tag().to_owned());
        let by_digest = Target::Digest(published.digest.clone());
        if root.digest().algorithm() != Algorithm::Sha256
            && matches!(
                tag_state(&self.registry, self.repository(), &by_digest).await?,
                TagState::Nothing
            )
        {
            published.warnings.extend(self.confirm(&by_tag, &root).await?);
            published.warnings.push(format!(
                "`{}` keeps the manifest by SHA-256 alone: {} does not exist there",
                self.item.destination.name(),
                published.digest
            ));
            published.pinned_digest_missing |= self.item.tree.source.digest() == Some(&published.digest);
            published.digest = Digest::sha256(root.bytes());
            return Ok(published);
        }
        let (by_tag, by_digest) = try_join(self.confirm(&by_tag, &root), self.confirm(&by_digest, &root)).await?;
        published.warnings.extend(by_tag.or(by_digest));
        Ok(published)
    }

    /// The manifest that was put under the tag.
    fn root_of(&self, published: &Published) -> Result<Arc<RawManifest>> {
        let tree = &self.item.tree;
        let roots = std::iter::once(&tree.original)
            .chain(&tree.filtered)
            .map(|variant| &variant.root);
        let root = roots.into_iter().find(|root| *root.digest() == published.digest);
        root.cloned().ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("the image has no manifest {}", published.digest),
            )
        })
    }

    /// Waits until a target is this manifest. Returns a warning where the registry does not let it be read.
    async fn confirm(&self, target: &Target, root: &RawManifest) -> Result<Option<String>> {
        let pushed = root.digest();
        let what = match target {
            Target::Tag(tag) => format!("the tag `{tag}` of `{}`", self.item.destination.name()),
            Target::Digest(digest) => format!("{digest} in `{}`", self.item.destination.name()),
        };
        let mut attempt = 0;
        loop {
            let lag = match tag_state(&self.registry, self.repository(), target).await? {
                TagState::Digest(digest) if root.has_digest(&digest) => return Ok(None),
                // A replica that has not heard yet.
                TagState::Digest(digest) if self.before.as_ref() == Some(&digest) => format!("still holds {digest}"),
                TagState::Digest(digest) => {
                    return Err(
                        Error::new(Kind::Server, format!("{what} holds {digest} after {pushed} was pushed"))
                            .with_hint("the registry altered the manifest, or another client pushed at the same time"),
                    );
                }
                TagState::Nothing => "is not there".to_owned(),
                TagState::Unsaid(error) if may_not_be_read(&error) => {
                    return Ok(Some(format!(
                        "{what} cannot be read back to check it: {}",
                        error.full()
                    )));
                }
                TagState::Unsaid(error) => {
                    return Err(
                        Error::new(Kind::Server, format!("{what} was accepted, but cannot be read back"))
                            .with_source(error)
                            .with_hint("is this address really that of a registry?"),
                    );
                }
            };
            if attempt == ATTEMPTS {
                return Err(Error::new(
                    Kind::Server,
                    format!("the registry accepted {pushed}, but {what} {lag}"),
                ));
            }
            self.wait(attempt).await;
            attempt += 1;
        }
    }

    async fn wait(&self, attempt: u32) {
        tokio::time::sleep(self.pause * (1 << attempt.min(16)).min(LONGEST)).await;
    }
}

/// Whether a registry refuses an index for what it is, rather than for who sends it.
fn refuses_sparse(error: &Error) -> bool {
    match Refusal::of(error) {
        Some(refusal) => (400..500).contains(&refusal.status) && !matches!(refusal.status, 401 | 403 | 429),
        None => matches!(error.kind(), Kind::NotFound | Kind::Unsupported),
    }
}

/// Whether a registry refuses a manifest since it does not see something below it. Some say so of an index by
/// `MANIFEST_INVALID` alone.
fn misses_something(error: &Error) -> bool {
    Refusal::of(error).is_some_and(|refusal| {
        ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"]
            .iter()
            .any(|code| refusal.has(code))
            || (refusal.has("MANIFEST_INVALID") && !refusal.digests.is_empty())
    })
}

/// Whether a registry has something and does not let it be read: for want of rights, or (412) by a policy about
/// vulnerabilities.
fn may_not_be_read(error: &Error) -> bool {
    matches!(error.kind(), Kind::Denied | Kind::Unauthorized)
        || Refusal::of(error).is_some_and(|refusal| refusal.status == 412)
}

/// Whether a registry names this as what it misses.
fn names(error: &Error, digest: &Digest) -> bool {
    Refusal::of(error).is_some_and(|refusal| refusal.digests.contains(digest))
}
