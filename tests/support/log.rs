//! The requests and answers of a server, for tests to count and read.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::http::HeaderMap;

/// A request and its answer so far.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Method in upper case.
    pub method: String,
    /// Path as received.
    pub path: String,
    /// Query after the `?`, as received; empty if there is none.
    pub query: String,
    /// All request headers.
    pub headers: HeaderMap,
    /// Number of the connection that the request came on.
    pub connection: u64,
    /// First 64 KiB of the request body, if the server read the body.
    pub body: Vec<u8>,
    /// Number of received bytes of the request body.
    pub bytes_in: u64,
    /// Status of the answer; 0 before the answer, or if the connection was ended instead.
    pub status: u16,
    /// Number of bytes of the answer body that were written to the connection.
    pub bytes_out: u64,
    /// Indexes of the fault rules that took effect.
    pub faults: Vec<usize>,
    /// Time at which the request arrived.
    pub begun: Instant,
    /// Time at which the last byte of the answer was written to the connection. A client cannot have the whole answer
    /// earlier, so sequential requests of a client never overlap here, even on a busy machine.
    pub ended: Option<Instant>,
}

impl Entry {
    /// Returns a request header as text; empty if the header is missing.
    pub fn header(&self, name: &str) -> String {
        self.headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Returns path and query.
    pub fn target(&self) -> String {
        if self.query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, self.query)
        }
    }

    /// Returns whether the request looks for referrers (signatures, attestations): in the list of referrers, under a tag made
    /// of a digest, or in a short list of tags.
    pub fn is_discovery(&self) -> bool {
        let asks = self.method == "GET" || self.method == "HEAD";
        let tag = self.path.rsplit('/').next().unwrap_or_default();
        let hex = tag.strip_prefix("sha256-").and_then(|rest| rest.get(..64));
        let is_made_of_digest = self.path.contains("/manifests/") && hex.is_some() && !tag.ends_with("-image");
        let is_short_list = self.path.ends_with("/tags/list") && self.query == "n=500";
        asks && (self.path.contains("/referrers/") || is_made_of_digest || is_short_list)
    }

    /// Returns whether both requests were being answered at the same time.
    pub fn overlaps(&self, other: &Self) -> bool {
        let before = |a: &Self, b: &Self| a.ended.is_some_and(|ended| ended <= b.begun);
        !before(self, other) && !before(other, self)
    }

    /// Returns everything that the client sent with this request as one text, to check for secrets.
    pub fn everything(&self) -> String {
        let mut text = format!("{} {}\n", self.method, self.target());
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        text.push_str(&String::from_utf8_lossy(&self.body));
        text
    }
}

#[derive(Debug, Default)]
struct Entries {
    /// Number of forgotten entries; a ticket's index counts these too.
    forgotten: usize,
    list: Vec<Entry>,
}

/// All requests of a server, in order of arrival.
#[derive(Debug, Clone, Default)]
pub struct Log {
    entries: Arc<Mutex<Entries>>,
    in_flight: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}

impl Log {
    /// Adds a new request. Also returns the number of requests that are being answered now, with this one: of requests that
    /// arrive together, each gets another number.
    pub fn open(&self, entry: Entry) -> (Ticket, usize) {
        let running = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(running, Ordering::SeqCst);
        let mut entries = self.entries.lock().unwrap();
        entries.list.push(entry);
        let ticket = Ticket(Arc::new(Open {
            log: self.clone(),
            index: entries.forgotten + entries.list.len() - 1,
            ended: AtomicBool::new(false),
        }));
        (ticket, running)
    }

    /// Returns a copy of all entries.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().list.clone()
    }

    /// Returns the maximum number of requests that were answered at the same time.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    /// Forgets all entries so far.
    pub fn clear(&self) {
        let mut entries = self.entries.lock().unwrap();
        entries.forgotten += entries.list.len();
        entries.list.clear();
        self.peak.store(self.in_flight.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Open {
    log: Log,
    index: usize,
    ended: AtomicBool,
}

impl Open {
    fn end(&self) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut entries = self.log.entries.lock().unwrap();
        let place = self.index.checked_sub(entries.forgotten);
        if let Some(entry) = place.and_then(|place| entries.list.get_mut(place)) {
            entry.ended = Some(Instant::now());
        }
        drop(entries);
        self.log.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end();
    }
}

/// A handle to update an entry. The request counts as in flight until [`Ticket::end`] or until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Ticket(Arc<Open>);

impl Ticket {
    /// Marks the answer as complete.
    pub fn end(&self) {
        self.0.end();
    }

    pub fn update(&self, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.0.log.entries.lock().unwrap();
        let place = self.0.index.checked_sub(entries.forgotten);
        if let Some(entry) = place.and_then(|place| entries.list.get_mut(place)) {
            change(entry);
        }
    }
}
