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
}
