//! Circuit breakers of the servers to which a host redirects, such as the stores of its blobs.

use std::collections::HashMap;
use std::sync::Arc;

use super::breaker::Breaker;
use crate::error::Result;
use crate::lock::Mutex;

/// Maximum number of failing servers that are remembered for one host.
const MAX_STORES: usize = 100;

/// Circuit breakers by the authority of the server, which exist only for servers that have failed.
#[derive(Debug, Default)]
pub(super) struct Stores(Mutex<HashMap<String, Arc<Breaker>>>);

impl Stores {
    /// Returns the breaker of a server that fails.
    pub(super) fn breaker(&self, server: &str) -> Arc<Breaker> {
        let mut breakers = self.0.lock();
        if breakers.len() == MAX_STORES && !breakers.contains_key(server) {
            breakers.clear();
        }
        breakers.entry(server.to_owned()).or_default().clone()
    }

    /// Lets a request to a server through, unless its breaker is open.
    ///
    /// # Errors
    /// The failure for which the breaker is open.
    pub(super) fn check(&self, server: &str) -> Result<()> {
        let breaker = self.0.lock().get(server).cloned();
        breaker.map_or(Ok(()), |breaker| breaker.check().map(drop))
    }

    /// Closes the breaker of a server that answered.
    pub(super) fn answered(&self, server: &str) {
        let breaker = self.0.lock().get(server).cloned();
        if let Some(breaker) = breaker {
            breaker.answered();
        }
    }
}
