//! Checks of resolved images against each other, and against what their registries answered for later images.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt};

use super::{Resolver, sizes};
use crate::error::{Kind, Result};
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::ImageTree;
use crate::transfer::sources::Repository;

impl Resolver {
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
