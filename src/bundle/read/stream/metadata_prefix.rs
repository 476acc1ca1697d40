//! Detects the end of a bundle's front in a pipe: the point after which only layers follow.
//!
//! A bundle of this program starts with its documents, then all manifests, then all configs. The search starts at the
//! roots in `index.json` and in the record, and continues with the manifests and configs that these name. The front is
//! complete when every manifest and config has arrived. Nothing is trusted here: the regular reader finds every fault of
//! the front, so a fault only ends this search.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::bundle::read::archive::blob_name;
use crate::bundle::read::scan::{Member, MemberKind};
use crate::bundle::record::{self, ImageRecord, Recorded};
use crate::error::Result;
use crate::files::encoding;
use crate::image::digest::Digest;
use crate::image::listing;
use crate::image::manifest::{MAX_MANIFEST, RawManifest, View};
use crate::image::media_type;

/// Documents at the start of a bundle; archives of other programs have no record.
const DOCUMENTS: [&str; 3] = ["oci-layout", "index.json", record::MEMBER];

/// Maximum size of a document in a front, in bytes: that of the record, the largest document.
const MAX_DOCUMENT: u64 = record::MAX_SIZE;

/// The documents and manifests of a front that have arrived so far.
#[derive(Debug, Default)]
pub(in crate::bundle::read) struct MetadataPrefix {
    documents: HashMap<String, (u64, u64)>,
    /// Blobs that have arrived, with offset and size in bytes.
    blobs: HashMap<Digest, (u64, u64)>,
    /// Manifests that were requested at any time.
    known: HashSet<Digest>,
    /// Manifests that have not arrived yet.
    manifests: HashSet<Digest>,
    /// Configs that have not arrived yet.
    configs: HashSet<Digest>,
    /// Manifests that the bundle does not hold, since their platform was dropped.
    absent: HashSet<Digest>,
}

impl MetadataPrefix {
    /// Returns whether the next member shows that the manifests of this archive do not come first.
    pub(in crate::bundle::read) fn is_foreign(&self, member: &Member) -> bool {
        match (&member.what, &member.name) {
            (MemberKind::Directory, _) => false,
            (MemberKind::Link(_), _) => true,
            (MemberKind::File, None) => member.size > MAX_DOCUMENT,
            (MemberKind::File, Some(name)) if blob_name(name).is_some() => !self.has_all_documents(),
            (MemberKind::File, Some(_)) => member.size > MAX_DOCUMENT,
        }
    }

    /// Records a member that has arrived. `read` returns bytes of the front from an offset.
    /// Returns whether the front is complete.
    pub(in crate::bundle::read) fn add(
        &mut self,
        member: &Member,
        read: impl Fn(u64, u64) -> Result<Vec<u8>>,
    ) -> Result<bool> {
        if let (MemberKind::File, Some(name)) = (&member.what, &member.name) {
            if let Some(digest) = blob_name(name) {
                self.blobs.insert(digest.clone(), (member.offset, member.size));
                self.configs.remove(&digest);
                if self.manifests.remove(&digest) {
                    self.follow(vec![digest], &read)?;
                }
            } else {
                let before = self.has_all_documents();
                self.documents.insert(name.clone(), (member.offset, member.size));
                if !before && self.has_all_documents() {
                    self.request_roots(&read)?;
                }
            }
        }
        Ok(self.has_all_documents() && self.manifests.is_empty() && self.configs.is_empty())
    }

    /// Returns whether all documents have arrived, so that the wanted manifests are known.
    pub(in crate::bundle::read) fn has_all_documents(&self) -> bool {
        DOCUMENTS.iter().all(|name| self.documents.contains_key(*name))
    }

    /// Reads the roots from the documents, and requests their manifests.
    fn request_roots(&mut self, read: &impl Fn(u64, u64) -> Result<Vec<u8>>) -> Result<()> {
        let document = |name: &str| -> Result<Vec<u8>> {
            match self.documents.get(name) {
                Some((offset, size)) if *size <= MAX_DOCUMENT => read(*offset, *size).map(encoding::utf8),
                _ => Ok(Vec::new()),
            }
        };
        let (index, record) = (document("index.json")?, document(record::MEMBER)?);
        let (Ok(entries), Ok(recorded)) = (listing::entries(&index), Recorded::parse(&record)) else {
            return Ok(());
        };
        let images = recorded.images.iter().filter_map(|i| i.record.as_ref().ok());
        let images: Vec<&ImageRecord> = images.map(|record| &**record).collect();
        self.absent = images
            .iter()
            .flat_map(|i| &i.dropped)
            .map(|p| p.digest.clone())
            .collect();
        // One image may keep a platform that another image drops.
        for kept in images.iter().flat_map(|image| &image.kept) {
            self.absent.remove(&kept.digest);
        }
        let recorded = images
            .iter()
            .flat_map(|i| std::iter::once(&i.original).chain(&i.filtered));
        let listed = entries.iter().filter_map(|entry| entry.as_ref().ok());
        let listed = listed.map(|entry| &entry.descriptor.digest);
        for root in recorded.chain(listed) {
            self.want_manifest(root);
        }
        Ok(())
    }

    /// Reads manifests that have arrived, and requests the manifests and configs that they name.
    fn follow(&mut self, mut found: Vec<Digest>, read: &impl Fn(u64, u64) -> Result<Vec<u8>>) -> Result<()> {
        while let Some(digest) = found.pop() {
            let Some((offset, size)) = self
                .blobs
                .get(&digest)
                .copied()
                .filter(|(_, size)| *size <= MAX_MANIFEST)
            else {
                continue;
            };
            let Ok(manifest) = RawManifest::new(Bytes::from(read(offset, size)?), None, Some(&digest)) else {
                continue;
            };
            match manifest.view() {
                View::Index(index) => {
                    let children = index.entries.iter().map(|entry| &entry.descriptor.digest);
                    found.extend(children.filter(|child| self.want_manifest(child)).cloned());
                }
                View::Image(image) if media_type::is_image_config(&image.config.media_type) => {
                    if !self.blobs.contains_key(&image.config.digest) {
                        self.configs.insert(image.config.digest.clone());
                    }
                }
                View::Image(_) | View::Other { .. } => {}
            }
        }
        Ok(())
    }

    /// Requests a manifest. Returns `true` if the manifest has already arrived and was not requested before.
    fn want_manifest(&mut self, digest: &Digest) -> bool {
        if self.absent.contains(digest) || !self.known.insert(digest.clone()) {
            return false;
        }
        let here = self.blobs.contains_key(digest);
        if !here {
            self.manifests.insert(digest.clone());
        }
        here
    }
}
