//! The registry double: a server with its own runtime, and the functions with which a test inspects the server.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock, mpsc};

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::fault::{Action, Fault, When};
use super::log::{Entry, Log};
use super::options::Options;
use super::serve::{Shared, handle};
use super::store::Store;
use super::wire::{Control, WireListener};

/// A registry in this process, on 127.0.0.1 and a free port. Dropping this value ends the registry.
///
/// The registry runs on its own threads, so that tests with and without a runtime can use it.
pub struct Double {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Double {
    /// Starts an open, correct HTTP registry in memory.
    pub fn new() -> Self {
        Self::start(Options::default())
    }

    pub fn start(options: Options) -> Self {
        Self::start_on("127.0.0.1:0", options)
    }

    /// Starts a registry at this address, such as `127.0.0.1:5000` or `[::1]:0`.
    pub fn start_on(address: &str, mut options: Options) -> Self {
        let store = match &options.folder {
            None => Store::default(),
            Some(folder) => Store::open(folder).expect("cannot open the folder of a registry double"),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("registry-double")
            .enable_all()
            .build()
            .expect("cannot start a runtime for a registry double");
        let acceptor = options.tls.as_ref().map(|tls| tls.acceptor());
        let faults = std::mem::take(&mut options.faults).into_iter().map(Arc::new).collect();
        let (ready, started) = mpsc::channel();
        let wanted = address.to_owned();
        runtime.spawn(async move {
            let listener = TcpListener::bind(&wanted).await.expect("cannot listen");
            let address = listener.local_addr().expect("a listener has an address");
            let scheme = if options.tls.is_some() { "https" } else { "http" };
            let shared = Arc::new(Shared {
                base: format!("{scheme}://{address}"),
                options,
                store,
                log: Log::default(),
                faults: RwLock::new(faults),
                pulls: AtomicU64::new(0),
            });
            let listener = WireListener::new(listener, acceptor).expect("cannot listen");
            let app = Router::new().fallback(handle).with_state(shared.clone());
            let _ = ready.send((shared, address));
            let _ = axum::serve(listener, app.into_make_service_with_connect_info::<Control>()).await;
        });
        let (shared, address) = started.recv().expect("a registry double did not start");
        Self {
            shared,
            address,
            runtime: Some(runtime),
        }
    }

    /// Returns `127.0.0.1:PORT`, as used in image references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns `http://127.0.0.1:PORT`, or `https://...`.
    pub fn url(&self) -> &str {
        &self.shared.base
    }

    /// Returns whether the registry has no referrers API.
    pub fn has_no_referrers(&self) -> bool {
        self.shared.options.no_referrers
    }

    /// Returns the content of the registry.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Returns all requests so far, except requests for referrers, which [`discovery`](Self::discovery) returns.
    pub fn requests(&self) -> Vec<Entry> {
        let mut all = self.shared.log.entries();
        all.retain(|entry| !entry.is_discovery());
        all
    }

    /// Returns all requests for signatures and other referrers so far.
    pub fn discovery(&self) -> Vec<Entry> {
        let mut all = self.shared.log.entries();
        all.retain(Entry::is_discovery);
        all
    }

    /// Forgets all requests so far.
    pub fn forget_requests(&self) {
        self.shared.log.clear();
    }

    /// Returns the requests of this method (`*` for any) whose path and query contain this text.
    pub fn requests_of(&self, method: &str, target: &str) -> Vec<Entry> {
        let meant = |e: &Entry| (method == "*" || e.method == method) && e.target().contains(target);
        self.requests().into_iter().filter(meant).collect()
    }

    /// Returns the number of requests of this method whose path and query contain this text.
    pub fn count(&self, method: &str, target: &str) -> usize {
        self.requests_of(method, target).len()
    }

    /// Waits until a condition holds. Fails with all requests after a minute, which is far longer than any condition takes.
    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !condition() {
            let waited = start.elapsed().as_secs();
            assert!(waited < 60, "waited in vain: {what}\n{}", self.transcript());
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// Returns the maximum number of requests that were answered at the same time.
    pub fn peak(&self) -> usize {
        self.shared.log.peak()
    }

    /// Returns a line for each request, for messages of failed assertions.
    pub fn transcript(&self) -> String {
        let line = |e: &Entry| {
            format!(
                "{} {} -> {} (in {}, out {})\n",
                e.method,
                e.target(),
                e.status,
                e.bytes_in,
                e.bytes_out
            )
        };
        self.shared.log.entries().iter().map(line).collect()
    }

    /// Adds a fault while the server runs. The returned fault counts the requests that it matches.
    pub fn add_fault(&self, when: When, action: Action) -> Arc<Fault> {
        let fault = Arc::new(Fault::new(when, action));
        self.shared.faults.write().unwrap().push(fault.clone());
        fault
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.faults.write().unwrap().clear();
    }

    /// Returns the bytes of the manifest with a tag or digest, if there is one.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<bytes::Bytes> {
        let found = self.store().repository(repository)?;
        let digest = found.tags.get(reference).map_or(reference, String::as_str);
        found.manifests.get(digest).map(|stored| stored.bytes.clone())
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
