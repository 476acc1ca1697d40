//! The front of a bundle in a pipe: how it is known that everything but layers was read.
//!
//! A bundle of this program begins with its documents, then all manifests, then all configs. What is looked for is found
//! from the documents on: the roots that `index.json` and the record name, what these name, and so on. When nothing is
//! wanted any more the front is complete. Nothing is trusted here: what is wrong in the front is found when it is read in
//! earnest, so that a fault in it only ends the search.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::bundle::read::archive::blob_name;
use crate::bundle::read::scan::{Member, What};
use crate::bundle::record::{self, ImageRecord, Recorded};
use crate::error::Result;
use crate::files::encoding;
use crate::image::digest::Digest;
use crate::image::listing;
use crate::image::manifest::{MAX_MANIFEST, RawManifest, View};
use crate::image::media_type;

/// What the front of a bundle has, apart from manifests and configs; another program's archive lacks the record.
const DOCUMENTS: [&str; 3] = ["oci-layout", "index.json", record::MEMBER];

/// The largest document that a front has, in bytes; no other document may be as large as the record.
const MAX_DOCUMENT: u64 = record::MAX_SIZE;

/// The documents and manifests of a front, as far as they were read.
#[derive(Debug, Default)]
pub(in crate::bundle::read) struct MetadataPrefix {
    documents: HashMap<String, (u64, u64)>,
    /// Blobs that went by: where they start, and how long they are.
    blobs: HashMap<Digest, (u64, u64)>,
    /// Manifests that were looked for or are.
    known: HashSet<Digest>,
    /// Manifests and configs that have not come yet.
    manifests: HashSet<Digest>,
    configs: HashSet<Digest>,
    /// Manifests that are not in the bundle, since their platform was dropped.
    absent: HashSet<Digest>,
}

impl MetadataPrefix {
    /// Whether this member, which comes next, shows that the archive is no bundle whose manifests come first.
    pub(in crate::bundle::read) fn is_foreign(&self, member: &Member) -> bool {
        match (&member.what, &member.name) {
            (What::Directory, _) => false,
            (What::Link(_), _) => true,
            (What::File, None) => member.size > MAX_DOCUMENT,
            (What::File, Some(name)) if blob_name(name).is_some() => !self.is_followed(),
            (What::File, Some(_)) => member.size > MAX_DOCUMENT,
        }
    }

    /// Takes note of a member that went by; `read` reads what went by, at an offset. Says whether everything but layers has
    /// gone by now.
    pub(in crate::bundle::read) fn take(
        &mut self,
        member: &Member,
        read: impl Fn(u64, u64) -> Result<Vec<u8>>,
    ) -> Result<bool> {
        if let (What::File, Some(name)) = (&member.what, &member.name) {
            if let Some(digest) = blob_name(name) {
                self.blobs.insert(digest.clone(), (member.offset, member.size));
                self.configs.remove(&digest);
                if self.manifests.remove(&digest) {
                    self.follow(vec![digest], &read)?;
                }
            } else {
                let before = self.is_followed();
                self.documents.insert(name.clone(), (member.offset, member.size));
                if !before && self.is_followed() {
                    self.begin(&read)?;
                }
            }
        }
        Ok(self.is_followed() && self.manifests.is_empty() && self.configs.is_empty())
    }

    /// Whether the documents are there, so that it is known what to look for.
    pub(in crate::bundle::read) fn is_followed(&self) -> bool {
        DOCUMENTS.iter().all(|name| self.documents.contains_key(*name))
    }

    /// Learns from the documents what to look for.
    fn begin(&mut self, read: &impl Fn(u64, u64) -> Result<Vec<u8>>) -> Result<()> {
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

    /// Reads manifests that are there, and wants what they name.
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

    /// Wants a manifest; `true` if it went by already and was not followed yet.
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
