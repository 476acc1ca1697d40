//! Slots for the reports of the requested images, in the order of the request.

use super::report::ImageReport;
use crate::error::Error;

/// A requested image in the list of reports.
pub(crate) enum AskedImage {
    /// Report of an image that failed before the push.
    Failed(Box<ImageReport>),
    /// Source of an image that is pushed.
    Item(String),
}

impl AskedImage {
    /// The slot of an image that failed with `error` before the push. `source` is its name as the report shows it.
    pub(crate) fn failed(source: &impl ToString, error: &Error) -> Self {
        Self::Failed(Box::new(ImageReport::unresolved(source, error)))
    }

    /// Returns whether this is the slot of the item with this source.
    pub(crate) fn is_item(&self, source: &str) -> bool {
        matches!(self, Self::Item(own) if own == source)
    }
}
