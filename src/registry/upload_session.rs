//! An upload session: where the bytes of an upload go, and how far the registry is.

use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

use super::context::Provenance;

/// A session that has waited so long for its turn is not relied on: registries forget those that nothing comes for.
const STALE: Duration = Duration::from_secs(600);

/// An upload that the registry has opened.
pub(super) struct Session {
    pub(super) url: Url,
    /// Bytes that it has.
    pub(super) offset: u64,
    /// Who named its address.
    pub(super) provenance: Provenance,
    /// When the registry last spoke of it.
    heard: Instant,
}

impl Session {
    /// A session that the registry has just spoken of.
    pub(super) fn new(url: Url, offset: u64, provenance: Provenance) -> Self {
        Self {
            url,
            offset,
            provenance,
            heard: Instant::now(),
        }
    }

    /// Whether a new one is better. One that holds bytes is worth a try at any age.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.offset == 0 && now.duration_since(self.heard) >= STALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_bytes_gets_stale() {
        let url: Url = "https://r.example/v2/a/blobs/uploads/1".parse().unwrap();
        let mut session = Session::new(url, 0, Provenance::OWN);
        assert!(!session.is_stale(session.heard + STALE / 2));
        assert!(session.is_stale(session.heard + STALE));
        session.offset = 1;
        assert!(!session.is_stale(session.heard + STALE * 10));
    }
}
