//! The plan of a bundle: the offset of every member, known before the first byte of a layer arrives.
//!
//! A plan is a pure value: the same trees give the same plan, and the same plan gives the same bytes. No clock, no host
//! name and no order of arrival affects the plan.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::document::Document;
use super::front::Front;
use super::ranges::Ranges;
use super::record::{self, FORMAT_VERSION, ImageRecord, Missing, Record, ReferrerRecord};
use super::{layout, tar_header};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::reference::Reference;
use crate::image::tree::{Attachment, ImageTree};
use crate::progress::Event;
use crate::text::byte_count;

/// Size in bytes of the two zero blocks that end a tar archive (POSIX ustar).
pub(crate) const TRAILER: u64 = 1024;

/// The layout of one bundle.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Members before the first blob.
    front: Front,
    front_len: u64,
    blobs: Vec<BlobSlot>,
    total: u64,
    warnings: Vec<String>,
}

/// The slot of one blob: its header blocks, its bytes, and zeros up to the next block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSlot {
    /// Descriptor of the blob. Its media type is that of the first manifest that names the blob.
    pub blob: Descriptor,
    /// Offset of the header from the start of the file, in bytes.
    pub header_offset: u64,
    /// Offset of the blob from the start of the file, in bytes.
    pub offset: u64,
}

impl BlobSlot {
    /// Builds the header blocks of this member.
    pub fn header(&self) -> Result<Vec<u8>> {
        tar_header::member(&layout::blob_path(&self.blob.digest), self.blob.size)
    }

    /// Returns the number of zero bytes after the blob.
    pub fn padding(&self) -> u64 {
        tar_header::padding(self.blob.size)
    }

    /// Returns the offset of the end of the blob, before its padding.
    pub fn end(&self) -> u64 {
        self.offset + self.blob.size
    }
}

/// Content of a bundle in addition to the images.
#[derive(Debug, Clone)]
pub struct Extras {
    /// Images that were requested and are not in the bundle.
    pub missing: Vec<Missing>,
    /// Whether `manifest.json` is written, for `docker load` and `podman load`.
    pub docker_manifest: bool,
}

impl Plan {
    /// Plans a bundle of these images. Their order does not matter: the plan sorts them by name.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if two manifests state different sizes for one blob, or the sizes overflow;
    /// [`Kind::Unsupported`] if two images have the same name and different digests; [`Kind::TooLarge`] if the record
    /// would be too large to read again.
    pub fn new(trees: &[ImageTree], extras: &Extras) -> Result<Self> {
        let trees = sorted(trees)?;
        let index = layout::index_json(&trees)?;
        let index_checksum = index.digest.clone();
        let mut front = begin_front(index)?;
        let mut warnings = Vec::new();
        if extras.docker_manifest {
            match layout::manifest_json(&trees)? {
                Some(Ok(document)) => front.add(document),
                Some(Err(why)) => warnings.push(why),
                None => {}
            }
        }
        let mut missing = extras.missing.clone();
        // Sorted, since the order of failures must not change the bytes of a bundle.
        missing.sort_by(|a, b| a.reference.cmp(&b.reference));
        let record = Record {
            format_version: FORMAT_VERSION,
            images: layout::Streamed::new(trees.iter().map(|tree| image_record(tree))),
            missing,
            index_checksum,
        };
        let record = record::document(&record)?;
        // A larger record would make a bundle that no reader of this program accepts.
        if record.size > record::MAX_SIZE {
            return Err(Error::new(
                Kind::TooLarge,
                format!(
                    "the bundle's `{}` would have {} bytes; at most {} are read again",
                    record::MEMBER,
                    record.size,
                    record::MAX_SIZE
                ),
            )
            .with_hint("export the images into several bundles, or fewer platforms of them (`--platform`)"));
        }
        front.add(record);

        let mut manifests: Vec<&Arc<RawManifest>> = trees.iter().flat_map(|tree| tree.manifests()).collect();
        manifests.sort_by(|a, b| a.digest().cmp(b.digest()));
        manifests.dedup_by(|a, b| a.digest() == b.digest());

        // A manifest that another manifest names as a layer is already in the front.
        let is_manifest = |digest: &Digest| {
            manifests
                .binary_search_by(|manifest| manifest.digest().cmp(digest))
                .is_ok()
        };
        let mut blobs = blobs_in_order(&trees)?;
        blobs.retain(|blob| !is_manifest(&blob.digest));
        front.add_manifests(manifests.into_iter());
        Self::lay_out(front, blobs.into_iter().cloned(), warnings)
    }

    /// Plans a bundle of blobs alone, whose index lists no image; the largest blobs come first.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the sizes overflow.
    pub(crate) fn from_blobs(mut blobs: Vec<Descriptor>) -> Result<Self> {
        blobs.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.digest.cmp(&b.digest)));
        let front = begin_front(layout::index_json(&[])?)?;
        Self::lay_out(front, blobs.into_iter(), Vec::new())
    }

    /// Assigns a slot after the front to each blob.
    fn lay_out(front: Front, all: impl ExactSizeIterator<Item = Descriptor>, warnings: Vec<String>) -> Result<Self> {
        let front_len = front.len()?;
        let mut offset = front_len;
        let too_large = || {
            Error::new(
                Kind::Malformed,
                "the sizes of the blobs add up to more than a file can hold",
            )
        };
        let mut blobs = Vec::with_capacity(all.len());
        // Offsets are known before the first byte is fetched, so that blobs can be written in any order.
        for blob in all {
            let prefix = tar_header::member(&layout::blob_path(&blob.digest), blob.size)?.len() as u64;
            let slot = BlobSlot {
                header_offset: offset,
                offset: offset.checked_add(prefix).ok_or_else(too_large)?,
                blob,
            };
            offset = slot
                .offset
                .checked_add(slot.blob.size)
                .and_then(|end| end.checked_add(slot.padding()))
                // The kernel counts file offsets in signed 64-bit numbers.
                .filter(|end| i64::try_from(*end).is_ok())
                .ok_or_else(too_large)?;
            blobs.push(slot);
        }
        let total = offset.checked_add(TRAILER).ok_or_else(too_large)?;
        Ok(Self {
            front,
            front_len,
            blobs,
            total,
            warnings,
        })
    }

    /// Warnings for the user about the bundle.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Everything before the first blob:
    /// the documents of the layout and all manifests, with their headers.
    ///
    /// Returns an iterator that builds one piece of some 256 KiB at a time: together the pieces may have many megabytes.
    pub fn front(&self) -> impl Iterator<Item = Result<Bytes>> + '_ {
        self.front.pieces()
    }

    /// Frees the memory of the front once it is written: [`front`](Self::front) is empty from then on.
    pub(crate) fn drop_front(&mut self) {
        self.front = Front::default();
    }

    /// Size of the front in bytes.
    pub fn front_len(&self) -> u64 {
        self.front_len
    }

    /// Slots of the blobs, by offset: configs first, then layers, the largest first.
    pub fn blobs(&self) -> &[BlobSlot] {
        &self.blobs
    }

    /// Size of the bundle in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Total size of all blobs in bytes.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|slot| slot.blob.size).sum()
    }

    /// Builds the event that announces the work.
    /// `written` holds the ranges already in place, by slot number.
    pub(crate) fn planned(&self, images: usize, written: &HashMap<usize, Ranges>) -> Event {
        let present = written
            .iter()
            .map(|(slot, ranges)| ranges.len(self.blobs[*slot].blob.size));
        Event::Planned {
            images: images as u64,
            // The front holds the manifests and is written before the first blob.
            manifests: 0,
            blobs: self.blobs.len() as u64,
            bytes: self.blob_bytes(),
            present: present.sum(),
        }
    }
}

/// Returns a front with the first documents of each bundle.
fn begin_front(index: Document) -> Result<Front> {
    let mut front = Front::default();
    front.add(Document::new(layout::FIRST_MEMBER, |text| {
        text.add(layout::FIRST_CONTENT)
    })?);
    front.add(index);
    Ok(front)
}

/// Sorts the images by their names in the bundle; an image that was requested twice appears once.
fn sorted(trees: &[ImageTree]) -> Result<Vec<&ImageTree>> {
    let mut by_name: BTreeMap<String, &ImageTree> = BTreeMap::new();
    for tree in trees {
        let name = layout::name_in_bundle(&tree.source);
        if let Some(other) = by_name.get(&name)
            && other.pushed().root.digest() != tree.pushed().root.digest()
        {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "two images would be `{name}` in the bundle: `{}` and `{}`",
                    other.source, tree.source
                ),
            )
            .with_hint("omit one of them, or export them into two bundles"));
        }
        // If an image was requested by tag and by tag with digest, the fuller name is kept, in any order of the requests.
        if by_name.get(&name).is_none_or(|other| other.source <= tree.source) {
            by_name.insert(name, tree);
        }
    }
    Ok(by_name.into_values().collect())
}

fn image_record(tree: &ImageTree) -> ImageRecord {
    // Registries and locks list referrers in different orders, and the bundle has the same bytes for all of them.
    let mut referrers: Vec<ReferrerRecord> = tree.attachments.iter().map(referrer_record).collect();
    referrers.sort_by(|a, b| (&a.digest, &a.subject, &a.tag).cmp(&(&b.digest, &b.subject, &b.tag)));
    ImageRecord {
        reference: tree.source.to_string(),
        index: tree.choice,
        original: tree.original.root.digest().clone(),
        filtered: tree.filtered.as_ref().map(|v| v.root.digest().clone()),
        kept: tree.kept.to_vec(),
        dropped: tree.dropped.to_vec(),
        left_out: tree.left_out.to_vec(),
        referrers,
        left_out_referrers: tree.left_out_referrers.to_vec(),
    }
}

fn referrer_record(attachment: &Attachment) -> ReferrerRecord {
    ReferrerRecord {
        digest: attachment.variant.root.digest().clone(),
        subject: attachment.subject.clone(),
        artifact_type: attachment.artifact_type(),
        tag: attachment.tag(),
    }
}

/// Sorts configs by digest, then layers, the largest first, so that long transfers start first.
fn blobs_in_order<'a>(trees: &[&'a ImageTree]) -> Result<Vec<&'a Descriptor>> {
    let mut blobs: HashMap<&Digest, (&Descriptor, bool, &Reference)> = HashMap::new();
    for &tree in trees {
        for (blob, as_config) in tree.named_blobs() {
            let (known, is_config, other) = blobs.entry(&blob.digest).or_insert((blob, as_config, &tree.source));
            if known.size != blob.size {
                return Err(Error::new(
                    Kind::Malformed,
                    format!(
                        "blob {} has {} by `{other}` and {} by `{}`",
                        known.digest,
                        byte_count(known.size),
                        blob.size,
                        tree.source
                    ),
                ));
            }
            *is_config |= as_config;
        }
    }
    let mut blobs: Vec<_> = blobs.into_values().collect();
    blobs.sort_by(|(a, a_config, _), (b, b_config, _)| {
        b_config
            .cmp(a_config)
            .then_with(|| {
                if *a_config {
                    std::cmp::Ordering::Equal
                } else {
                    b.size.cmp(&a.size)
                }
            })
            .then_with(|| a.digest.cmp(&b.digest))
    });
    Ok(blobs.into_iter().map(|(descriptor, _, _)| descriptor).collect())
}
