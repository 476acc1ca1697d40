//! Prepares the unfinished file before blobs are fetched.
//! A smaller plan is prepared after images failed.

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

/// Headers of the journal, for the slots of an earlier run and for the slots of the current plan.
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
        // An image that fails in this run keeps its pin for the next run.
        let kept = left
            .pins
            .iter()
            .map(|(name, digest)| (name.to_string(), digest.clone()));
        let found = trees
            .iter()
            .map(|tree| (tree.source.to_string(), tree.original.root.digest().clone()));
        // Collected at once, which fills the nodes of the map.
        let pins: Arc<BTreeMap<String, Digest>> = Arc::new(kept.chain(found).collect());
        let header = |front, types| {
            let mut header = Header::new(request.clone(), summary.clone(), front, pins.clone());
            header.types = types;
            header
        };
        Self {
            old: header(left.front, left.types.clone()),
            new: header(plan.front_len(), declared_types(trees)),
        }
    }

    /// Returns the new header for another plan of the same request.
    pub(super) fn for_plan(&self, plan: &Plan) -> Header {
        let mut header = self.new.clone();
        header.front = plan.front_len();
        header
    }
}

/// Returns the media types of manifests whose bytes alone would be parsed as another media type.
fn declared_types(trees: &[ImageTree]) -> BTreeMap<Digest, String> {
    let manifests = trees.iter().flat_map(ImageTree::manifests);
    manifests
        .filter(|manifest| {
            let parsed = RawManifest::new(manifest.bytes().clone(), None, Some(manifest.digest()));
            !parsed.is_ok_and(|parsed| parsed.media_type() == manifest.media_type())
        })
        .map(|manifest| (manifest.digest().clone(), manifest.media_type().to_owned()))
        .collect()
}

/// Returns the slots of a plan in the journal's form.
/// `written` returns the written ranges of a slot, by number and size.
fn slots(plan: &Plan, written: impl Fn(usize, u64) -> Ranges + Clone) -> impl Iterator<Item = OldSlot> + Clone {
    let slots = plan.blobs().iter().enumerate();
    slots.map(move |(number, slot)| OldSlot {
        digest: slot.blob.digest.clone(),
        size: slot.blob.size,
        offset: slot.offset,
        written: written(number, slot.blob.size),
    })
}

/// Returns the ranges of a whole blob.
fn whole(size: u64) -> Ranges {
    let mut all = Ranges::default();
    all.insert(0..size);
    all
}

/// Returns the slots of a plan after all workers finished.
/// Each slot is whole, except the slots of failed blobs.
pub(super) fn slots_after(plan: &Plan, failures: &Failures) -> Vec<OldSlot> {
    slots(plan, |number, size| {
        match failures.contains_key(&plan.blobs()[number].blob.digest) {
            true => Ranges::default(),
            false => whole(size),
        }
    })
    .collect()
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
    /// Moves old bytes, creates the journal, and writes the front and the known configs.
    /// Returns the journal and the written ranges of each slot.
    pub(super) fn run(self) -> Result<(Arc<Journal>, HashMap<usize, Ranges>)> {
        let Self { partial, plan, .. } = &self;
        let mut written = relocate_blobs(partial, &self.headers.old, plan, &self.old)?;
        let carried = !written.is_empty();
        if carried {
            // The moved bytes are synced once, so that another power cut does not lose what the previous run saved.
            partial.sync()?;
        }
        let there = |number: usize, _: u64| written.get(&number).cloned().unwrap_or_default();
        // The journal is created before the first byte of the bundle is written: a file with content and no journal cannot
        // be resumed.
        let journal = Journal::create(&partial.journal(), &self.headers.new, slots(plan, there), carried)?;
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

/// Writes everything before the first blob.
fn write_front(partial: &Partial, plan: &Plan) -> Result<()> {
    let mut at = 0;
    for piece in plan.front() {
        let piece = piece?;
        partial.write_at(&piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Prepares the file again after blobs of some images could not be fetched.
pub(super) struct Replan {
    pub(super) partial: Arc<Partial>,
    /// The plan without the failed images.
    pub(super) plan: Plan,
    /// The slots of the previous plan, with their written ranges.
    pub(super) old: Vec<OldSlot>,
    pub(super) header: Header,
    pub(super) new: Header,
}

impl Replan {
    /// Moves the written bytes to their offsets in the plan without the failed images.
    pub(super) fn run(self) -> Result<Plan> {
        let Self { partial, plan, .. } = &self;
        relocate_blobs(partial, &self.header, plan, &self.old)?;
        partial.sync()?;
        let there = slots(plan, |_, size| whole(size));
        Journal::create(&partial.journal(), &self.new, there, true)?;
        for slot in plan.blobs() {
            frame(partial, slot)?;
        }
        write_front(partial, plan)?;
        Ok(self.plan)
    }
}
