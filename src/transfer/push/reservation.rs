//! Memory for the plan of a push, which is set aside while images are read: else manifests could take all of it, and no image,
//! however small, could be planned.

use std::collections::HashSet;

use super::scheduler::{PAIR, WORK};
use crate::error::Result;
use crate::image::budget::{Budget, Held};
use crate::image::digest::Digest;
use crate::image::tree::ImageTree;

/// Memory that is set aside for the images that were read so far. It is given back when this is dropped, just before the plan
/// takes it.
pub(crate) struct Reservation {
    budget: Budget,
    /// Blobs that are counted.
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

    /// Sets memory aside for one more image.
    ///
    /// # Errors
    /// [`Kind::TooLarge`](crate::error::Kind::TooLarge) if less is left, or if the image is large and would leave too little for
    /// ordinary ones; nothing is set aside then.
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
