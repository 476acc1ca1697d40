//! A source of blobs and manifests, and a place for a request to it.

use std::fmt;
use std::sync::Arc;

use super::host::Host;
use super::limiter::{Permit, Use};

/// A repository on a host that may have a blob or manifest.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub(super) host: Arc<Host>,
    pub(super) repository: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host.name, self.repository)
    }
}

/// A place for one request in the concurrency limit of a candidate's host.
#[derive(Debug)]
pub(crate) struct ReadPlace(pub(super) Permit);

impl Candidate {
    /// Waits for a place to read from the candidate.
    pub(crate) async fn place(&self) -> ReadPlace {
        ReadPlace(self.host.limiter.permit(Use::Download).await)
    }

    /// Returns whether the number of places grows fast at the moment.
    pub(crate) fn is_growing(&self) -> bool {
        let lines = self.host.limiter.lines();
        lines.most > lines.count
    }
}
