//! The places of the images that were asked for, in their order.

use super::report::ImageReport;

/// What stands at one place of the list of images that were asked for.
pub(crate) enum AskedImage {
    /// An image that failed before there was anything to push.
    Failed(Box<ImageReport>),
    /// The source of an image that is pushed.
    Item(String),
}
