//! Limits of the requests to each host while images are resolved.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock::Mutex;
use crate::transfer::sources::Repository;

/// Limits the requests to each host, so that the requests to a host that does not answer hold up no other host.
#[derive(Debug)]
pub(super) struct Permits {
    /// Maximum number of requests to one host at a time.
    most: usize,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Permits {
    /// Returns permits for up to `most` requests to each host at a time.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            hosts: Mutex::default(),
        }
    }

    /// Waits for a permit for a request to the host of a repository.
    pub(super) async fn acquire(&self, repository: &Repository) -> Option<OwnedSemaphorePermit> {
        let host = repository.registry.host();
        let permits = {
            let mut hosts = self.hosts.lock();
            let known = hosts.get(host).cloned();
            known.unwrap_or_else(|| {
                let new = Arc::new(Semaphore::new(self.most));
                hosts.insert(host.to_owned(), new.clone());
                new
            })
        };
        // `None` stands for a closed semaphore, and this one is never closed.
        permits.acquire_owned().await.ok()
    }
}
