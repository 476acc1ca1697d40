//! What a server was asked and what it did: tests count and read it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::http::HeaderMap;

/// One request, as far as it got by now.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The method, upper-case.
    pub method: String,
    /// The path, as it came.
    pub path: String,
    /// What stands behind `?`, as it came; empty if nothing.
    pub query: String,
    /// All request headers.
    pub headers: HeaderMap,
    /// The connection that it came on.
    pub connection: u64,
    /// The first bytes of the request body (up to 64 KiB), where the server read it.
    pub body: Vec<u8>,
    /// Bytes of request body that arrived.
    pub bytes_in: u64,
    /// The status of the answer; 0 while there is none, or if the connection was ended instead.
    pub status: u16,
    /// Bytes of answer body that were handed to the connection.
    pub bytes_out: u64,
    /// Which fault rules took effect, by their place in the list.
    pub faults: Vec<usize>,
    /// When it came.
    pub begun: Instant,
    /// When the last byte of the answer was handed to the connection. The client cannot have had the whole answer before,
    /// so that requests that a client sends one after the other never overlap here, however busy the machine is.
    pub ended: Option<Instant>,
}

impl Entry {
    /// A request header as text; empty if it is not there.
    pub fn header(&self, name: &str) -> String {
        self.headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Path and query together.
    pub fn target(&self) -> String {
        if self.query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, self.query)
        }
    }

    /// Whether it looks for what refers to a manifest (signatures, attestations): in the list of referrers, under the tags that
    /// are made of a digest, or in a short list of tags.
    pub fn is_discovery(&self) -> bool {
        let asks = self.method == "GET" || self.method == "HEAD";
        let tag = self.path.rsplit('/').next().unwrap_or_default();
        let hex = tag.strip_prefix("sha256-").and_then(|rest| rest.get(..64));
        let is_made_of_digest = self.path.contains("/manifests/") && hex.is_some() && !tag.ends_with("-image");
        let is_short_list = self.path.ends_with("/tags/list") && self.query == "n=500";
        asks && (self.path.contains("/referrers/") || is_made_of_digest || is_short_list)
    }

    /// Whether both were being answered at some moment.
    pub fn overlaps(&self, other: &Self) -> bool {
        let before = |a: &Self, b: &Self| a.ended.is_some_and(|ended| ended <= b.begun);
        !before(self, other) && !before(other, self)
    }

    /// Everything that the client sent with this request, in one text: to look for what must not be there.
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
    /// How many were forgotten: what a ticket counts from.
    forgotten: usize,
    list: Vec<Entry>,
}

/// All requests of one server, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Log {
    entries: Arc<Mutex<Entries>>,
    in_flight: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}

impl Log {
    /// Takes down a new request.
    pub fn open(&self, entry: Entry) -> Ticket {
        let running = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(running, Ordering::SeqCst);
        let mut entries = self.entries.lock().unwrap();
        entries.list.push(entry);
        Ticket(Arc::new(Open {
            log: self.clone(),
            index: entries.forgotten + entries.list.len() - 1,
            ended: AtomicBool::new(false),
        }))
    }

    /// A copy of all entries.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().list.clone()
    }

    /// How many answers were being made at the same time, at most.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    /// Forgets what was so far.
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

/// The right to add to one entry; the request counts as in flight until [`Ticket::end`] or until the last copy is gone.
#[derive(Debug, Clone)]
pub struct Ticket(Arc<Open>);

impl Ticket {
    /// The answer is complete.
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
