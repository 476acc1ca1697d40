//! Slots for the reports of the requested images, in the order of the request.

use super::report::ImageReport;

/// A requested image in the list of reports.
pub(crate) enum AskedImage {
    /// Report of an image that failed before the push.
    Failed(Box<ImageReport>),
    /// Source of an image that is pushed.
    Item(String),
}
