//! Circuit breakers of the servers to which a host redirects, such as the stores of its blobs.

use std::collections::HashMap;
use std::sync::Arc;

use reqwest::StatusCode;

use super::breaker::Breaker;
use super::retry::is_passing;
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
            // Servers that may be asked anyway make room first.
            let closed = breakers.iter().find(|(_, breaker)| breaker.error().is_none());
            let dropped = closed.or_else(|| breakers.iter().next()).map(|(name, _)| name.clone());
            if let Some(name) = dropped {
                breakers.remove(&name);
            }
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

    /// Closes the breaker of a server that answered with this status, unless the status is a transient failure.
    pub(super) fn answered(&self, server: &str, status: StatusCode) {
        let breaker = self.0.lock().get(server).cloned();
        if let Some(breaker) = breaker.filter(|_| !is_passing(status)) {
            breaker.answered_with(status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::breaker::{FailureMode, PAUSE};
    use super::*;
    use crate::error::{Error, Kind};

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_one_request_is_used_again() {
        let stores = Stores::default();
        let down = Error::new(Kind::Network, "down");
        stores.breaker("s").open(FailureMode::Unreachable, false, down);
        tokio::time::advance(PAUSE).await;
        assert!(stores.check("s").is_ok() && stores.check("s").is_err());
        stores.answered("s", StatusCode::SERVICE_UNAVAILABLE);
        assert!(stores.check("s").is_err());
        stores.answered("s", StatusCode::NOT_FOUND);
        assert!(stores.check("s").is_ok() && stores.check("s").is_ok());
    }

    #[test]
    fn one_more_server_that_fails_makes_no_others_usable() {
        let stores = Stores::default();
        let down = Error::new(Kind::Network, "down");
        let names: Vec<String> = (0..=MAX_STORES).map(|number| format!("s{number}")).collect();
        for name in &names[1..] {
            let breaker = stores.breaker(name);
            breaker.open(FailureMode::Unreachable, false, down.clone());
        }
        let open = || names.iter().filter(|name| stores.check(name).is_err()).count();
        assert_eq!(open(), MAX_STORES);
        // An open breaker makes room only if there is no closed one.
        stores.breaker(&names[0]);
        assert_eq!(open(), MAX_STORES - 1);
        stores.breaker("another");
        assert_eq!(open(), MAX_STORES - 1);
    }
}
