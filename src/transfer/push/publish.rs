//! Publishes an image after its blobs: puts the children, then the root under its tag.
//! Both are read back to verify that the registry has them.

use std::sync::Arc;

use futures_util::future::try_join;

use super::attachments;
use super::left_referrers::LeftReferrers;
use super::put_manifest::{ATTEMPTS, Effects, ManifestPutter};
use super::report::Form;
use super::tag::{TagState, tag_state};
use super::together::Together;
use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest};
use crate::image::manifest::RawManifest;
use crate::image::reference::Target;
use crate::image::tree::{Choice, Variant, attachments_of_manifests};
use crate::progress::Event;
use crate::registry::Refusal;
use crate::text::Warnings;

/// Publishes the manifests of one image.
pub(crate) struct Publisher {
    pub(crate) putter: ManifestPutter,
    /// Digest that the tag held before.
    pub(crate) before: Option<Digest>,
    pub(crate) together: Together,
}

/// Result of publishing an image.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) digest: Digest,
    pub(crate) form: Form,
    pub(crate) warnings: Warnings,
    /// Side effects of putting the manifests.
    pub(crate) effects: Effects,
    /// Whether the registry does not have the manifest under the digest that the image is pinned to.
    pub(crate) pinned_digest_missing: bool,
    /// Attachments of the image that are not at the destination.
    pub(crate) left: LeftReferrers,
}

impl Publisher {
    /// Puts the manifests of the image, and its tag for the chosen variant.
    /// If the registry refuses a sparse index, the filtered variant is put instead.
    ///
    /// # Errors
    /// Errors of the registry. If the registry does not let the tag be moved, the error names the digest that the tag
    /// holds.
    pub(crate) async fn publish(&self) -> Result<Published> {
        let tree = self.putter.item.tree.clone();
        let mut published = Published {
            digest: tree.pushed().root.digest().clone(),
            form: tree.choice.into(),
            warnings: Warnings::default(),
            effects: Effects::default(),
            pinned_digest_missing: false,
            left: LeftReferrers::default(),
        };
        match (tree.choice, &tree.filtered) {
            (Choice::Sparse, Some(filtered)) => match self.variant(&tree.original, true, &mut published).await {
                Err(error) if refuses_sparse(&error) => {
                    self.putter.progress.note(format!(
                        "{}: sparse index refused: {}",
                        self.putter.item.destination,
                        error.full()
                    ));
                    let tree_loses = !tree.attachments.is_empty();
                    let is_bare = tree_loses && attachments_of_manifests(&tree.attachments, filtered.all()).is_empty();
                    if is_bare && self.putter.require_referrers {
                        published.left.leave_unused(&tree, filtered);
                        return Err(published.left.required());
                    }
                    self.variant(filtered, false, &mut published).await?;
                    published.digest = filtered.root.digest().clone();
                    published.form = Form::Fallback;
                    published.pinned_digest_missing = true;
                    published.left.leave_unused(&tree, filtered);
                    // Users may deploy by a digest that they requested, so the warning calls it pinned.
                    let what = match tree.source.digest() {
                        Some(_) => "pinned",
                        None => "original",
                    };
                    published.warnings.push(format!(
                        "`{}` rejects an index with missing platforms: the tag has the smaller index, and the {what} digest \
                         {} does not exist there",
                        self.putter.item.destination.host(),
                        tree.original.root.digest(),
                    ));
                }
                other => other?,
            },
            _ => self.variant(tree.pushed(), false, &mut published).await?,
        }
        let Published { effects, left, .. } = &mut published;
        attachments::list_referrers(&self.putter, effects, left).await?;
        Ok(published)
    }

    fn tag(&self) -> &str {
        self.putter.item.destination.tag().unwrap_or("latest")
    }

    /// Puts the manifests of a variant, its attachments, and its tag.
    async fn variant(&self, variant: &Variant, sparse: bool, published: &mut Published) -> Result<()> {
        for child in variant.below.iter() {
            // The manifest is put without a HEAD request before: a manifest is small, a PUT of an existing manifest changes
            // nothing, and the HEAD request would be an additional request for each new manifest.
            if !self.putter.was_written(child.digest()) {
                self.putter
                    .put(
                        Target::Digest(child.digest().clone()),
                        child,
                        variant,
                        false,
                        &mut published.effects,
                    )
                    .await?;
            }
            self.putter.progress.emit(Event::ManifestDone);
        }
        if variant.root.digest().algorithm() != Algorithm::Sha256 {
            // Registries store a tagged manifest under its SHA-256 digest. This PUT makes registries with other algorithms
            // store the manifest under its own digest as well.
            let target = Target::Digest(variant.root.digest().clone());
            if let Err(error) = self
                .putter
                .put(target, &variant.root, variant, sparse, &mut published.effects)
                .await
            {
                self.putter
                    .progress
                    .note(format!("{}: {}", self.putter.item.destination, error.full()));
            }
        }
        let tree = &self.putter.item.tree;
        if !attachments_of_manifests(&tree.attachments, variant.all()).is_empty() {
            // Signatures are put before the tag, so that clients that verify a new tag find them. The subject of the
            // signatures, the image by digest, comes first.
            let is_known = self.putter.was_written(variant.root.digest());
            if variant.root.digest().algorithm() == Algorithm::Sha256 && !is_known {
                let target = Target::Digest(variant.root.digest().clone());
                self.putter
                    .put(target, &variant.root, variant, sparse, &mut published.effects)
                    .await?;
            }
            let Published { effects, left, .. } = published;
            attachments::attach(&self.putter, variant, effects, left).await?;
        }
        // The registry may refuse a sparse index for its content, so a refusal would not show whether the registry supports
        // several tags in one request. So a sparse index is put alone.
        if sparse || !self.together.put(&self.putter, self.tag(), &variant.root).await? {
            let target = Target::Tag(self.tag().to_owned());
            let put = self
                .putter
                .put(target, &variant.root, variant, sparse, &mut published.effects);
            if let Err(error) = put.await {
                self.contested(error, &variant.root).await?;
            }
        }
        self.putter.progress.emit(Event::ManifestDone);
        let Published { effects, left, .. } = published;
        attachments::restore_dropped(&self.putter, variant, effects, left).await
    }

    /// Reads a tag that could not be put.
    /// Succeeds if another client has put the same manifest there meanwhile; otherwise returns an error with the digest
    /// that the tag holds.
    async fn contested(&self, error: Error, root: &RawManifest) -> Result<()> {
        if !matches!(error.kind(), Kind::Exists | Kind::Denied) {
            return Err(error);
        }
        let target = Target::Tag(self.tag().to_owned());
        match tag_state(&self.putter.registry, self.putter.repository(), &target).await {
            Ok(TagState::Digest(digest)) if root.has_digest(&digest) => Ok(()),
            Ok(TagState::Digest(digest)) => {
                let message = format!(
                    "`{}` does not let the tag `{}` be moved, which holds {digest}",
                    self.putter.item.destination.name(),
                    self.tag()
                );
                Err(Error::new(Kind::Exists, message).with_source(error).with_hint(
                    "the tag seems to be immutable: delete it there, or leave it alone by `--on-existing skip`",
                ))
            }
            _ => Err(error),
        }
    }

    /// Reads the image by tag and by digest until both return the manifest that was put.
    /// Some registries need a moment, and a web server that accepts every request is detected here.
    ///
    /// # Errors
    /// [`Kind::Server`] if a response is no manifest, or another manifest.
    pub(crate) async fn read_back(&self, mut published: Published) -> Result<Published> {
        let root = self.root_of(&published)?;
        let by_tag = Target::Tag(self.tag().to_owned());
        let by_digest = Target::Digest(published.digest.clone());
        if root.digest().algorithm() != Algorithm::Sha256
            && matches!(
                tag_state(&self.putter.registry, self.putter.repository(), &by_digest).await?,
                TagState::Nothing
            )
        {
            published.warnings.extend(self.confirm(&by_tag, &root).await?);
            published.warnings.push(format!(
                "`{}` keeps the manifest by SHA-256 alone: {} does not exist there",
                self.putter.item.destination.name(),
                published.digest
            ));
            published.pinned_digest_missing |= self.putter.item.tree.source.digest() == Some(&published.digest);
            published.digest = Digest::sha256(root.bytes());
            return Ok(published);
        }
        let (by_tag, by_digest) = try_join(self.confirm(&by_tag, &root), self.confirm(&by_digest, &root)).await?;
        published.warnings.extend(by_tag.or(by_digest));
        Ok(published)
    }

    /// Returns the manifest that was put under the tag.
    fn root_of(&self, published: &Published) -> Result<Arc<RawManifest>> {
        let tree = &self.putter.item.tree;
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

    /// Waits until a target holds this manifest.
    /// Returns a warning if the registry does not let the target be read.
    async fn confirm(&self, target: &Target, root: &RawManifest) -> Result<Option<String>> {
        let pushed = root.digest();
        let what = match target {
            Target::Tag(tag) => format!("the tag `{tag}` of `{}`", self.putter.item.destination.name()),
            Target::Digest(digest) => format!("{digest} in `{}`", self.putter.item.destination.name()),
        };
        let mut attempt = 0;
        loop {
            let lag = match tag_state(&self.putter.registry, self.putter.repository(), target).await? {
                TagState::Digest(digest) if root.has_digest(&digest) => return Ok(None),
                // The response may come from a replica that does not have the new manifest yet.
                TagState::Digest(digest) if self.before.as_ref() == Some(&digest) => format!("still holds {digest}"),
                TagState::Digest(digest) => {
                    return Err(
                        Error::new(Kind::Server, format!("{what} holds {digest} after {pushed} was pushed"))
                            .with_hint("the registry altered the manifest, or another client pushed at the same time"),
                    );
                }
                TagState::Nothing => "is not there".to_owned(),
                TagState::Unknown(error) if may_not_be_read(&error) => {
                    return Ok(Some(format!(
                        "{what} cannot be read back to check it: {}",
                        error.full()
                    )));
                }
                TagState::Unknown(error) => {
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
            self.putter.wait(attempt).await;
            attempt += 1;
        }
    }
}

/// Returns whether a registry refuses a sparse index for its content.
/// Missing permissions and rate limits do not count.
fn refuses_sparse(error: &Error) -> bool {
    match Refusal::in_error(error) {
        Some(refusal) => (400..500).contains(&refusal.status) && !matches!(refusal.status, 401 | 403 | 429),
        None => matches!(error.kind(), Kind::NotFound | Kind::Unsupported),
    }
}

/// Returns whether a registry has a manifest and does not let it be read.
/// The reasons are missing permissions or (412) a vulnerability policy.
fn may_not_be_read(error: &Error) -> bool {
    matches!(error.kind(), Kind::Denied | Kind::Unauthorized)
        || Refusal::in_error(error).is_some_and(|refusal| refusal.status == 412)
}
