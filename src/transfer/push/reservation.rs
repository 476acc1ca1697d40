//! Reserves memory for the plan of a push while images are read.
//! Otherwise manifests could take the whole budget, and no image, however small, could be planned.

use std::collections::HashSet;

use super::work::{PAIR, WORK};
use crate::error::Result;
use crate::image::budget::{Budget, Held};
use crate::image::digest::Digest;
use crate::image::tree::ImageTree;

/// Memory reserved for the images read so far.
/// Dropping the value releases the memory, just before the plan takes it.
pub(crate) struct Reservation {
    budget: Budget,
    /// Digests of the blobs that are counted.
    blobs: HashSet<Digest>,
    held: Vec<Held>,
}

impl Reservation {
    pub(crate) fn new(budget: &Budget) -> Self {
        Self {
            budget: budget.clone(),
            blobs: HashSet::new(),
            held: Vec::new(),
        }
    }

    /// Reserves memory for one more image.
    ///
    /// # Errors
    /// [`Kind::TooLarge`](crate::error::Kind::TooLarge) if the budget has too little memory left, or if the image is large
    /// and would leave too little for ordinary images. Nothing is reserved then.
    pub(crate) fn add(&mut self, tree: &ImageTree) -> Result<()> {
        let blobs: Vec<Digest> = tree.blobs().into_iter().map(|blob| blob.descriptor.digest).collect();
        let new = blobs.iter().filter(|digest| !self.blobs.contains(digest)).count();
        let bytes = new as u64 * WORK + blobs.len() as u64 * PAIR;
        let held = self.budget.hold(bytes)?;
        self.budget.leave_room(tree.memory() + bytes)?;
        self.held.push(held);
        self.blobs.extend(blobs);
        Ok(())
    }
}
