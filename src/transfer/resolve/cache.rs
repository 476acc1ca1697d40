//! Documents by their digests, and the requests for them.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::error::Result;
use crate::image::digest::Digest;
use crate::lock::Mutex;
use crate::transfer::sources::Repository;

/// Cache of documents. Images of one repository share the request for a document; images of different repositories share only
/// the result, since one of the repositories may be silent.
#[derive(Debug)]
pub(super) struct Cache<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    documents: HashMap<Digest, T>,
    /// Requests that have not succeeded. A cell takes much more memory than a document.
    requested: HashMap<Request, Arc<OnceCell<T>>>,
}

/// Host, repository, and digest of the document.
type Request = (String, Arc<str>, Digest);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(Mutex::new(State {
            documents: HashMap::new(),
            requested: HashMap::new(),
        }))
    }
}

impl<T: Clone> Cache<T> {
    /// Returns a document of the cache.
    pub(super) fn get(&self, digest: &Digest) -> Option<T> {
        self.0.lock().documents.get(digest).cloned()
    }

    /// Adds a document, or replaces one.
    pub(super) fn insert(&self, digest: Digest, document: T) {
        self.0.lock().documents.insert(digest, document);
    }

    /// Keeps the documents for which `is_used` returns true.
    pub(super) fn retain(&self, is_used: impl Fn(&T) -> bool) {
        self.0.lock().documents.retain(|_, document| is_used(document));
    }

    /// Returns a document, and requests it from the repository if the cache does not have it.
    ///
    /// # Errors
    /// Those of `request`. The next caller sends its own request.
    pub(super) async fn get_or_request<Fetch: Future<Output = Result<T>>>(
        &self,
        repository: &Repository,
        digest: &Digest,
        request: impl FnOnce() -> Fetch,
    ) -> Result<T> {
        let key = (
            repository.registry.host().to_owned(),
            repository.name.clone(),
            digest.clone(),
        );
        let cell = {
            let mut state = self.0.lock();
            if let Some(known) = state.documents.get(digest) {
                return Ok(known.clone());
            }
            state.requested.entry(key.clone()).or_default().clone()
        };
        // On the heap, and only if it is needed: callers hold a future of this function for each manifest of each image, and a
        // request takes some ten kilobytes.
        let document = cell.get_or_try_init(|| Box::pin(request())).await?.clone();
        let mut state = self.0.lock();
        state.requested.remove(&key);
        Ok(state.documents.entry(digest.clone()).or_insert(document).clone())
    }
}
