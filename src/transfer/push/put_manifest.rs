//! Puts one manifest of an image, with retries if the registry misses content below the manifest.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::ensure_blob::{self, EnsureOptions};
use super::left_referrers::LostBlobs;
use super::referrer_list::{Unlisted, note_unlisted};
use super::report::Counts;
use super::request::PushItem;
use super::scheduler::Placed;
use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{RawManifest, View};
use crate::image::reference::Target;
use crate::image::tree::Variant;
use crate::lock::Mutex;
use crate::progress::Progress;
use crate::registry::{Presence, Refusal, Registry};

/// Maximum number of retries for content that the registry does not see yet.
/// The constant limits puts of a manifest with missing content, and reads of accepted content: some registries need a
/// moment to see their own uploads.
pub(super) const ATTEMPTS: u32 = 5;

/// Maximum pause between two attempts, as a multiple of the first pause.
const LONGEST: u32 = 16;

/// Digests of the manifests that this run has put into one repository.
pub(crate) type Written = Arc<Mutex<HashSet<Digest>>>;

/// Puts the manifests of one image.
pub(crate) struct ManifestPutter {
    pub(crate) registry: Registry,
    pub(crate) item: PushItem,
    pub(crate) written: Written,
    pub(crate) pause: Duration,
    /// Whether a signature is merged into an existing signature under its tag.
    pub(crate) merge_signatures: bool,
    /// Whether an image fails if it would lose an attachment.
    pub(crate) require_referrers: bool,
    /// Blobs of attachments that the repository did not get.
    pub(crate) lost: LostBlobs,
    pub(crate) progress: Progress,
}

/// Side effects of putting manifests.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Counts of blobs that had to be sent again.
    pub(crate) repaired: Counts,
    /// Manifests with a subject, accepted by a registry that did not confirm to list them as referrers.
    pub(super) unlisted: Unlisted,
    /// Entries that were added to lists of referrers under tags.
    pub(super) written_lists: Unlisted,
    /// Tags of cosign that were written.
    pub(super) written_tags: HashSet<String>,
}

/// A refused manifest, with the error and the number of the attempt.
struct Refused<'a> {
    manifest: &'a RawManifest,
    error: &'a Error,
    attempt: u32,
}

impl ManifestPutter {
    /// Puts a manifest of a variant.
    /// If the registry misses content that the manifest refers to, that content is put again.
    ///
    /// # Errors
    /// Errors of the registry.
    pub(super) fn put<'a>(
        &'a self,
        target: Target,
        manifest: &'a RawManifest,
        variant: &'a Variant,
        sparse: bool,
        effects: &'a mut Effects,
    ) -> BoxFuture<'a, Result<()>> {
        // The future is boxed, since `repair` calls `put` recursively for the children of an index.
        Box::pin(async move {
            let mut attempt = 0;
            loop {
                let error = match self.registry.put_manifest(self.repository(), &target, manifest).await {
                    Ok(accepted) => {
                        if !accepted.lists_referrer {
                            note_unlisted(&mut effects.unlisted, manifest);
                        }
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
                if !self.repair(refused, variant, effects).await? && attempt > 0 {
                    return Err(error);
                }
                attempt += 1;
            }
        })
    }

    /// Puts the content that a registry misses below a manifest again.
    /// The first attempt repairs what the registry confirms as missing; later attempts also send content that the registry
    /// claims to have. Returns `false` if there was nothing to repair.
    async fn repair(&self, refused: Refused<'_>, variant: &Variant, effects: &mut Effects) -> Result<bool> {
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
                        self.put(target, child, variant, false, effects).await?;
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
                        EnsureOptions {
                            mount_from: None,
                            ask: !force,
                            extra: true,
                        },
                        &self.progress,
                    )
                    .await?;
                    if placed != Placed::Present {
                        effects.repaired.uploaded.one(descriptor.size);
                        ensure_blob::report_done(&self.progress, descriptor, true);
                        done = true;
                    }
                }
            }
        }
        Ok(done)
    }

    /// Returns whether the registry names a pushed manifest as missing.
    /// Otherwise the index may be refused for being sparse.
    fn misses_ours(&self, variant: &Variant, error: &Error) -> bool {
        variant.below.iter().any(|m| names(error, m.digest()))
    }

    pub(super) fn repository(&self) -> &str {
        self.item.destination.repository()
    }

    /// Returns whether this run has put the manifest into the repository.
    pub(super) fn was_written(&self, digest: &Digest) -> bool {
        self.written.lock().contains(digest)
    }

    /// Waits before the next attempt. The pause doubles with each attempt, up to `LONGEST` times the first pause.
    pub(super) async fn wait(&self, attempt: u32) {
        tokio::time::sleep(self.pause * (1 << attempt.min(16)).min(LONGEST)).await;
    }
}

/// Returns whether a registry refuses a manifest because it does not see content below it.
/// Some registries report that for an index only with `MANIFEST_INVALID`.
fn misses_something(error: &Error) -> bool {
    Refusal::in_error(error).is_some_and(|refusal| {
        ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"]
            .iter()
            .any(|code| refusal.has(code))
            || (refusal.has("MANIFEST_INVALID") && !refusal.digests.is_empty())
    })
}

/// Returns whether a registry's error names this digest as missing.
fn names(error: &Error, digest: &Digest) -> bool {
    Refusal::in_error(error).is_some_and(|refusal| refusal.digests.contains(digest))
}
