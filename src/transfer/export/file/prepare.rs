//! Prepares the unfinished file: before blobs are fetched, and again after images failed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::journaled::frame;
use super::relocate::relocate_blobs;
use super::unfinished::Unfinished;
use crate::bundle::journal::{Header, Journal, OldSlot};
use crate::bundle::partial::Partial;
use crate::bundle::plan::Plan;
use crate::bundle::ranges::Ranges;
use crate::error::Result;
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::tree::ImageTree;
use crate::transfer::export::resolved::Failures;

/// The journal's headers: for the places that an earlier run left, and for those of the plan.
#[derive(Clone)]
pub(super) struct Headers {
    old: Header,
    pub(super) new: Header,
}

impl Headers {
    pub(super) fn new(
        (request, summary): &(Digest, String),
        left: &Unfinished,
        plan: &Plan,
        trees: &[ImageTree],
    ) -> Self {
        // An image that fails this time keeps its pin for the next.
        let kept = left
            .pins
            .iter()
            .map(|(name, digest)| (name.to_string(), digest.clone()));
        let mut pins: BTreeMap<String, Digest> = kept.collect();
        let found = trees
            .iter()
            .map(|tree| (tree.source.to_string(), tree.original.root.digest().clone()));
        pins.extend(found);
        let header = |front, types| {
            let mut header = Header::new(request.clone(), summary.clone(), front, pins.clone());
            header.types = types;
            header
        };
        Self {
            old: header(left.front, left.types.clone()),
            new: header(plan.front_len(), untold_types(trees)),
        }
    }

    pub(super) fn for_plan(&self, plan: &Plan) -> Header {
        let mut header = self.new.clone();
        header.front = plan.front_len();
        header
    }
}

/// The media types of manifests whose bytes alone would be taken for another type.
fn untold_types(trees: &[ImageTree]) -> BTreeMap<Digest, String> {
    let manifests = trees.iter().flat_map(ImageTree::manifests);
    manifests
        .filter(|manifest| {
            let told = RawManifest::new(manifest.bytes().clone(), None, Some(manifest.digest()));
            !told.is_ok_and(|told| told.media_type() == manifest.media_type())
        })
        .map(|manifest| (manifest.digest().clone(), manifest.media_type().to_owned()))
        .collect()
}

/// The slots of a plan as the journal has them, with these bytes in each.
fn slots(plan: &Plan, written: impl Fn(usize, u64) -> Ranges) -> Vec<OldSlot> {
    let slots = plan.blobs().iter().enumerate();
    slots
        .map(|(number, slot)| OldSlot {
            digest: slot.blob.digest.clone(),
            size: slot.blob.size,
            offset: slot.offset,
            written: written(number, slot.blob.size),
        })
        .collect()
}

fn whole(size: u64) -> Ranges {
    let mut all = Ranges::default();
    all.insert(0..size);
    all
}

/// The slots of a plan after filling: all are there but those that failed.
pub(super) fn slots_after(plan: &Plan, failures: &Failures) -> Vec<OldSlot> {
    slots(plan, |number, size| {
        match failures.contains_key(&plan.blobs()[number].blob.digest) {
            true => Ranges::default(),
            false => whole(size),
        }
    })
}

/// Prepares the file before blobs are fetched.
pub(super) struct Prepare {
    pub(super) partial: Arc<Partial>,
    pub(super) plan: Arc<Plan>,
    pub(super) old: Vec<OldSlot>,
    pub(super) headers: Headers,
    pub(super) configs: BTreeMap<Digest, Bytes>,
}

impl Prepare {
    pub(super) fn run(self) -> Result<(Arc<Journal>, HashMap<usize, Ranges>)> {
        let Self { partial, plan, .. } = &self;
        let mut written = relocate_blobs(partial, &self.headers.old, plan, &self.old)?;
        let carried = !written.is_empty();
        if carried {
            // Once here, so that another power cut does not cost what this one left.
            partial.sync()?;
        }
        let there = slots(plan, |number, _| written.get(&number).cloned().unwrap_or_default());
        // Before the first byte of the bundle: a file with something in it and no journal could not be continued.
        let journal = Journal::create(&partial.journal(), &self.headers.new, &there, carried)?;
        write_front(partial, plan)?;
        for (number, slot) in plan.blobs().iter().enumerate() {
            if let Some(bytes) = self.configs.get(&slot.blob.digest)
                && bytes.len() as u64 == slot.blob.size
            {
                partial.write_at(bytes, slot.offset)?;
                journal.written(number, 0..slot.blob.size)?;
                written.entry(number).or_default().insert(0..slot.blob.size);
            }
        }
        Ok((Arc::new(journal), written))
    }
}

fn write_front(partial: &Partial, plan: &Plan) -> Result<()> {
    let mut at = 0;
    for piece in plan.front() {
        let piece = piece?;
        partial.write_at(&piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Prepares the file again when blobs of some images could not be fetched.
pub(super) struct Replan {
    pub(super) partial: Arc<Partial>,
    /// The plan without them.
    pub(super) plan: Plan,
    /// The slots of the plan so far, with the bytes that are written.
    pub(super) old: Vec<OldSlot>,
    pub(super) header: Header,
    pub(super) new: Header,
}

impl Replan {
    /// Moves the written bytes to their places in the plan without these images.
    pub(super) fn run(self) -> Result<Plan> {
        let Self { partial, plan, .. } = &self;
        relocate_blobs(partial, &self.header, plan, &self.old)?;
        partial.sync()?;
        let there = slots(plan, |_, size| whole(size));
        Journal::create(&partial.journal(), &self.new, &there, true)?;
        for slot in plan.blobs() {
            frame(partial, slot)?;
        }
        write_front(partial, plan)?;
        Ok(self.plan)
    }
}
