//! Cache of the manifests and image configs of all opened bundles: each is parsed once for all names and parents.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::image::budget::{Budget, Held};
use crate::image::config::Config;
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::media_type;
use crate::lock::Mutex;

/// Maximum number of times that one document is read. When memory is short, unused documents are
/// dropped and read again for the next image. A document that is read more often belongs to many images that are too
/// large.
const MAX_READS: u32 = 8;

/// Number of configs that are kept although they were read only once. Hardly any config belongs to several images, and one
/// that is read again is kept.
const KEPT_CONFIGS: usize = 256;

/// Number of descriptors that all images of a run together may always visit.
///
/// Beyond that, the images may visit [`VISITS_EACH`] times as many descriptors as their documents list. Images that
/// differ only in their names count once. An index may share its manifests with several other indexes, but not with very
/// many, so that the time of a run grows with the bytes of its bundles.
const FREE_VISITS: u64 = 1 << 18;
/// Maximum number of visits for each listed descriptor; see [`FREE_VISITS`].
const VISITS_EACH: u64 = 16;

/// Memory in bytes of the error of a broken document.
const ERROR: u64 = 2 << 10;

/// An image config with its bytes.
#[derive(Debug)]
pub(super) struct KnownConfig {
    pub(super) config: Config,
    pub(super) bytes: Bytes,
    _held: Held,
}

/// Cached documents and their memory budget.
#[derive(Debug, Default)]
pub(super) struct Documents {
    budget: Budget,
    known: Mutex<Known>,
}

/// Digest and declared media type of a manifest: a manifest that does not state its type is parsed as its parent declares.
type ManifestKey = (Digest, Option<Cow<'static, str>>);

/// Documents that were read. B-trees grow node by node; hash tables would hold all entries twice while they grow.
#[derive(Debug, Default)]
struct Known {
    manifests: BTreeMap<ManifestKey, Result<Arc<RawManifest>, Broken>>,
    configs: BTreeMap<Digest, Result<Arc<KnownConfig>, Broken>>,
    /// Number of configs at which those that were read only once are dropped.
    most_configs: usize,
    reads: BTreeMap<Digest, u32>,
    /// Number of descriptors that all documents list.
    descriptors: u64,
    /// Number of descriptors visited.
    visits: u64,
}

/// A cached error of a document, which is returned to each caller.
#[derive(Debug)]
struct Broken {
    error: Error,
    _held: Held,
}

impl Known {
    /// Drops every document that no image uses.
    fn shrink(&mut self) {
        self.manifests
            .retain(|_, m| m.as_ref().is_ok_and(|m| Arc::strong_count(m) > 1));
        self.configs
            .retain(|_, c| c.as_ref().is_ok_and(|c| Arc::strong_count(c) > 1));
    }

    /// Drops the configs that were read only once, if there are many.
    fn drop_configs(&mut self) {
        if self.configs.len() >= self.most_configs {
            let reads = &self.reads;
            self.configs
                .retain(|digest, config| config.is_err() || reads.get(digest).is_some_and(|reads| *reads > 1));
            self.most_configs = KEPT_CONFIGS.max(2 * self.configs.len());
        }
    }

    fn count_read(&mut self, digest: &Digest) -> Result<()> {
        let reads = self.reads.entry(digest.clone()).or_default();
        *reads += 1;
        match *reads > MAX_READS {
            true => Err(Error::new(
                Kind::TooLarge,
                format!("too large to handle: document {digest} belongs to many images that do not fit into memory"),
            )),
            false => Ok(()),
        }
    }
}

impl Known {
    fn visit(&mut self, manifest: &RawManifest) -> Result<()> {
        self.visits += 1 + manifest.descriptors() as u64;
        match self.visits > FREE_VISITS + VISITS_EACH * self.descriptors {
            true => Err(Error::new(
                Kind::TooLarge,
                "too large to handle: too many images are made of the same manifests in different ways",
            )
            .with_hint("import fewer images in one run, with `--only`")),
            false => Ok(()),
        }
    }
}

impl Documents {
    pub(super) fn new(budget: Budget) -> Self {
        let known = Mutex::default();
        Self { budget, known }
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Frees this many bytes of the budget by dropping unused documents.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if that is not enough.
    pub(super) fn make_room(&self, bytes: u64) -> Result<()> {
        let mut known = self.known.lock();
        Self::in_budget(&mut known, || self.budget.hold(bytes)).map(drop)
    }

    /// Runs an action that takes memory from the budget. If the budget is exhausted, drops unused
    /// documents and retries once.
    fn in_budget<T>(known: &mut Known, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        match work() {
            Err(error) if error.kind() == Kind::TooLarge => {
                known.shrink();
                work()
            }
            other => other,
        }
    }

    /// Drops all documents, which are read again if they are needed.
    pub(super) fn clear(&self) {
        *self.known.lock() = Known::default();
    }

    /// Removes a cached error of a document, because the document was found at another place.
    pub(super) fn forget(&self, digest: &Digest) {
        let mut known = self.known.lock();
        known.manifests.retain(|(of, _), found| of != digest || found.is_ok());
        if known.configs.get(digest).is_some_and(Result::is_err) {
            known.configs.remove(digest);
        }
    }

    /// Returns a manifest of this size.
    /// `read` returns its bytes; `declared` is the media type that its parent states.
    pub(super) fn manifest(
        &self,
        digest: &Digest,
        size: u64,
        declared: Option<String>,
        read: impl FnOnce() -> Result<Bytes>,
    ) -> Result<Arc<RawManifest>> {
        let mut known = self.known.lock();
        let key = (digest.clone(), declared.map(media_type::shared));
        match known.manifests.get(&key) {
            Some(Ok(manifest)) => {
                let manifest = manifest.clone();
                known.visit(&manifest)?;
                return Ok(manifest);
            }
            Some(Err(broken)) => return Err(broken.error.clone()),
            None => {}
        }
        known.count_read(digest)?;
        let room = Self::in_budget(&mut known, || self.budget.hold(size))?;
        let parsed = RawManifest::new(read()?, key.1.as_deref(), Some(digest));
        drop(room);
        let counted = match parsed {
            Ok(manifest) => {
                let held = Self::in_budget(&mut known, || self.budget.hold(manifest.memory()))?;
                // Counted on the first read alone: reading a document again must not raise the limit on visits.
                if known.reads.get(digest) == Some(&1) {
                    known.descriptors += 1 + manifest.descriptors() as u64;
                }
                known.visit(&manifest)?;
                Ok(Arc::new(manifest.holding(held)))
            }
            Err(error) => Err(error),
        };
        self.remember(&mut known, counted, |known| &mut known.manifests, key)
    }

    /// Returns an image config of this size.
    pub(super) fn config(
        &self,
        digest: &Digest,
        size: u64,
        read: impl FnOnce() -> Result<Bytes>,
    ) -> Result<Arc<KnownConfig>> {
        let mut known = self.known.lock();
        match known.configs.get(digest) {
            Some(Ok(config)) => return Ok(config.clone()),
            Some(Err(broken)) => return Err(broken.error.clone()),
            None => {}
        }
        known.drop_configs();
        known.count_read(digest)?;
        // The parsed layer digests take less memory than their text, so twice the size is enough.
        let held = Self::in_budget(&mut known, || self.budget.hold(size.saturating_mul(2)))?;
        let bytes = read()?;
        let actual = digest.same_algorithm(&bytes);
        let config = if actual == *digest {
            Config::parse(&bytes)
        } else {
            let why = format!("config {digest} has other bytes: they hash to {actual}");
            Err(Error::new(Kind::Integrity, why)
                .with_hint("the bundle was modified or corrupted in transit: copy it again, and compare checksums"))
        };
        let known_config = config.map(|config| {
            Arc::new(KnownConfig {
                config,
                bytes,
                _held: held,
            })
        });
        self.remember(&mut known, known_config, |known| &mut known.configs, digest.clone())
    }

    /// Caches the result of reading a document. An error is not cached when memory is short.
    fn remember<K: Ord, T>(
        &self,
        known: &mut Known,
        outcome: Result<Arc<T>>,
        map: impl Fn(&mut Known) -> &mut BTreeMap<K, Result<Arc<T>, Broken>>,
        key: K,
    ) -> Result<Arc<T>> {
        match outcome {
            Ok(found) => {
                map(known).insert(key, Ok(found.clone()));
                Ok(found)
            }
            Err(error) => {
                let told = error.clone();
                if let Ok(held) = self.budget.hold(ERROR) {
                    map(known).insert(key, Err(Broken { error, _held: held }));
                }
                Err(told)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A manifest that takes a little more than this much memory.
    fn text(number: u64, size: usize) -> Bytes {
        let padding = "x".repeat(size);
        Bytes::from(format!(
            r#"{{"schemaVersion":2,"number":{number},"padding":"{padding}"}}"#
        ))
    }

    fn documents(limit: u64) -> Documents {
        Documents {
            budget: Budget::new(limit),
            known: Mutex::default(),
        }
    }

    fn get(documents: &Documents, bytes: &Bytes, reads: &Cell<u32>) -> Result<Arc<RawManifest>> {
        documents.manifest(&Digest::sha256(bytes), bytes.len() as u64, None, || {
            reads.set(reads.get() + 1);
            Ok(bytes.clone())
        })
    }

    #[test]
    fn a_document_is_read_once() {
        let (documents, reads) = (documents(1 << 20), Cell::new(0));
        let good = text(1, 10);
        for _ in 0..100 {
            get(&documents, &good, &reads).unwrap();
            let bad = documents.manifest(&Digest::sha256(b"["), 1, None, || {
                reads.set(reads.get() + 1);
                Ok(Bytes::from_static(b"["))
            });
            assert_eq!(bad.unwrap_err().kind(), Kind::Malformed);
        }
        assert_eq!(reads.get(), 2);
    }

    #[test]
    fn unused_documents_make_room() {
        let (documents, reads) = (documents(12_000), Cell::new(0));
        let first = get(&documents, &text(1, 4000), &reads).unwrap();
        drop(get(&documents, &text(2, 4000), &reads).unwrap());
        let third = get(&documents, &text(3, 4000), &reads).unwrap();
        assert_eq!(
            get(&documents, &text(2, 4000), &reads).unwrap_err().kind(),
            Kind::TooLarge
        );
        assert_eq!(reads.get(), 3, "what does not fit is not read");
        drop((first, third));
        get(&documents, &text(2, 4000), &reads).unwrap();
    }

    #[test]
    fn many_configs_are_kept_only_if_they_are_read_again() {
        let (documents, reads) = (documents(16 << 20), Cell::new(0));
        let get = |number: usize| {
            let bytes = Bytes::from(format!(r#"{{"os":"linux","architecture":"amd64","number":{number}}}"#));
            let read = || {
                reads.set(reads.get() + 1);
                Ok(bytes.clone())
            };
            documents
                .config(&Digest::sha256(&bytes), bytes.len() as u64, read)
                .unwrap();
        };
        for number in 1..=2 * KEPT_CONFIGS {
            get(0);
            get(number);
        }
        assert_eq!(reads.get(), 2 * KEPT_CONFIGS + 2);
        assert!(documents.known.lock().configs.len() <= KEPT_CONFIGS);
    }

    #[test]
    fn a_document_is_not_read_again_and_again() {
        let (documents, reads) = (documents(10_000), Cell::new(0));
        let mut refused = 0;
        for round in 0..100 {
            refused += u32::from(get(&documents, &text(0, 6000), &reads).is_err());
            get(&documents, &text(1 + round, 6000), &reads).unwrap();
        }
        assert_eq!((reads.get(), refused), (100 + MAX_READS, 100 - MAX_READS));
    }
}
