//! Holds back the tags of single platforms (`--platform-tags`) until their image is at the destination.
//! So the tag of a platform does not appear before the signatures of its image, and not at all if the image fails.

use std::collections::{HashMap, HashSet};

use super::image_state::{Image, Images};
use crate::error::Error;
use crate::image::reference::Reference;

/// Platforms that wait for their image.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    /// Numbers of the images that have platforms with tags of their own, by their names at the destination.
    images: HashMap<Reference, usize>,
    /// Numbers of the platforms that wait, by the number of their image.
    waiting: HashMap<usize, Vec<usize>>,
}

impl HeldBack {
    pub(super) fn new(images: &[Image]) -> Self {
        let needed = images.iter().filter_map(|image| image.item().platform_of.as_ref());
        let needed: HashSet<&Reference> = needed.collect();
        let numbered = images.iter().map(|image| &image.item().destination).enumerate();
        let numbered = numbered.filter(|(_, name)| needed.contains(name));
        Self {
            images: numbered.map(|(number, name)| (name.clone(), number)).collect(),
            waiting: HashMap::new(),
        }
    }

    /// Returns whether a platform may get its tag now. If its image has failed, the platform fails as well.
    pub(super) fn may_go(&mut self, images: &mut Images<'_>, number: usize) -> bool {
        let name = images.list[number].item().platform_of.as_ref();
        let Some(&image) = name.and_then(|name| self.images.get(name)) else {
            return true;
        };
        if images.list[image].alive {
            self.waiting.entry(image).or_default().push(number);
            return false;
        }
        match without_image(&images.list[image]) {
            None => true,
            Some(error) => {
                images.fail(number, &error);
                false
            }
        }
    }

    /// Returns the platforms that waited for an image.
    pub(super) fn release(&mut self, image: usize) -> Vec<usize> {
        self.waiting.remove(&image).unwrap_or_default()
    }

    /// Fails the platforms that are left when the push ends.
    pub(super) fn give_up(&mut self, images: &mut Images<'_>) {
        for (image, platforms) in std::mem::take(&mut self.waiting) {
            if let Some(error) = without_image(&images.list[image]) {
                platforms.into_iter().for_each(|number| images.fail(number, &error));
            }
        }
    }
}

/// Returns the error of the platforms of an image that failed.
fn without_image(image: &Image) -> Option<Error> {
    let cause = image.error()?;
    let what = format!("not pushed, since its image `{}` failed", image.item().destination);
    let error = Error::new(cause.kind(), what);
    Some(match cause.side() {
        Some(side) => error.or_side(side),
        None => error,
    })
}
