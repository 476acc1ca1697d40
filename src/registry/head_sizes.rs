//! What a run has learned about the sizes in a host's answers to HEAD of blobs.

use std::sync::atomic::{AtomicBool, Ordering};

use super::types::Presence;

/// Maximum number of GETs that confirm the size in an answer to HEAD; after that, the sizes of the host are believed.
pub(super) const MAX_CONFIRMED: u32 = 3;

/// What GETs showed about the sizes in a host's answers to HEAD of blobs.
#[derive(Debug, Default)]
pub(super) struct HeadSizes {
    /// Set when a blob had its right size although HEAD stated another one.
    pub(super) are_wrong: AtomicBool,
    /// Set when a GET found no blob although HEAD had found it.
    pub(super) are_invented: AtomicBool,
    /// Number of GETs that did not refute HEAD; the task that sends a GET holds the lock.
    pub(super) confirmed: tokio::sync::Mutex<u32>,
}

impl HeadSizes {
    /// Returns what a HEAD with another size means, if earlier GETs have shown it.
    pub(super) fn known(&self) -> Option<Presence<()>> {
        match self.are_wrong.load(Ordering::Relaxed) {
            false => None,
            true if self.are_invented.load(Ordering::Relaxed) => Some(Presence::Unknown),
            true => Some(Presence::Present(())),
        }
    }
}
