//! What is asked of the images of a run.

use std::collections::BTreeMap;

use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::image::tree::IndexMode;
use crate::transfer::referrers::ReferrerChoice;

/// What is asked of each image.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Which platforms are carried.
    pub platforms: PlatformFilter,
    /// What becomes of an index that loses some.
    pub index: IndexMode,
    /// Images of which other platforms are carried.
    pub exceptions: BTreeMap<Reference, PlatformFilter>,
    /// Which of the manifests that refer to them are carried along.
    pub referrers: ReferrerChoice,
}

impl Wanted {
    /// Which platforms of an image are carried.
    pub(crate) fn platforms_of(&self, image: &Reference) -> &PlatformFilter {
        self.exceptions.get(image).unwrap_or(&self.platforms)
    }
}
