//! Handles a request from its arrival to its answer: log, faults, access, handler.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;

use super::auth::{Auth, Need};
use super::fault::{Action, Fault};
use super::log::{Entry, Log, Ticket};
use super::options::Options;
use super::push::{Received, UploadRequest, delete_blob, delete_manifest, put_manifest, receive};
use super::reply::{Reply, send};
use super::store::Store;
use super::wire::{Control, End};
use super::{pull, reply};

/// State that all requests of a server share.
#[derive(Debug)]
pub struct Shared {
    /// URL of the server, such as `http://127.0.0.1:PORT`.
    pub base: String,
    pub options: Options,
    pub store: Store,
    pub log: Log,
    pub faults: RwLock<Vec<Arc<Fault>>>,
    pub pulls: AtomicU64,
}

/// The state of the pull limit after a request.
pub struct PullState {
    pub exhausted: bool,
    pub headers: Vec<(String, String)>,
}

impl Shared {
    /// Counts a pull (a `GET` of a manifest), and returns the state of the pull limit.
    pub fn count_pull(&self, head: bool) -> PullState {
        let before = if head {
            self.pulls.load(Ordering::SeqCst)
        } else {
            self.pulls.fetch_add(1, Ordering::SeqCst)
        };
        let Some(limit) = self.options.pull_limit else {
            return PullState {
                exhausted: false,
                headers: Vec::new(),
            };
        };
        let used = before + u64::from(!head);
        let remaining = limit.remaining.saturating_sub(used);
        PullState {
            exhausted: used > limit.remaining,
            headers: vec![
                (
                    "ratelimit-limit".to_owned(),
                    format!("{};w={}", limit.limit, limit.window),
                ),
                (
                    "ratelimit-remaining".to_owned(),
                    format!("{remaining};w={}", limit.window),
                ),
                ("docker-ratelimit-source".to_owned(), "192.0.2.1".to_owned()),
            ],
        }
    }
}

/// Returns a field of a query, percent-decoded.
pub fn query_field(query: &str, name: &str) -> Option<String> {
    fields(query).into_iter().find(|(n, _)| n == name).map(|(_, v)| v)
}

/// Returns all fields of a query or a form, percent-decoded.
pub fn fields(text: &str) -> Vec<(String, String)> {
    let decode = |part: &str| {
        let bytes = part.as_bytes();
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let hex = (bytes[at] == b'%').then(|| part.get(at + 1..at + 3)).flatten();
            match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                (_, Some(byte)) => {
                    out.push(byte);
                    at += 2;
                }
                (b'+', None) => out.push(b' '),
                (byte, None) => out.push(byte),
            }
            at += 1;
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(n, v)| (decode(n), decode(v)))
        .collect()
}

/// A path of the registry API, with its parameters.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Ping,
    Catalog,
    Token,
    Manifest(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Upload(&'a str, &'a str),
    Tags(&'a str),
    Referrers(&'a str, &'a str),
    Unknown,
}

fn route(path: &str) -> Route<'_> {
    if path == "/token" {
        return Route::Token;
    }
    let Some(rest) = path.strip_prefix("/v2") else {
        return Route::Unknown;
    };
    let rest = match rest {
        "" | "/" => return Route::Ping,
        "/_catalog" => return Route::Catalog,
        rest => &rest[1..],
    };
    if let Some((name, upload)) = rest.rsplit_once("/blobs/uploads/") {
        return Route::Upload(name, upload);
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Route::Tags(name);
    }
    for (part, make) in [
        ("/blobs/", Route::Blob as fn(_, _) -> _),
        ("/manifests/", Route::Manifest),
        ("/referrers/", Route::Referrers),
    ] {
        if let Some((name, reference)) = rest.rsplit_once(part) {
            return make(name, reference);
        }
    }
    Route::Unknown
}

/// Returns the scopes that a request needs.
fn need(route: &Route<'_>, method: &str, query: &str) -> Need {
    let mut scopes = Vec::new();
    if let Route::Manifest(name, _)
    | Route::Blob(name, _)
    | Route::Upload(name, _)
    | Route::Tags(name)
    | Route::Referrers(name, _) = route
    {
        scopes.push(((*name).to_owned(), "pull"));
        if !matches!((method, route), ("GET" | "HEAD", r) if !matches!(r, Route::Upload(..))) {
            scopes.push(((*name).to_owned(), "push"));
        }
        if let Some(from) = query_field(query, "from") {
            scopes.push((from, "pull"));
        }
    }
    Need { scopes }
}

/// Handles every request of a server.
pub async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(control): ConnectInfo<Control>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let method = parts.method.as_str();
    let path = parts.uri.path();
    let query = parts.uri.query().unwrap_or_default();
    let target = parts.uri.path_and_query().map_or(path, |p| p.as_str());
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
    };
    let rules = shared.faults.read().unwrap().clone();
    let struck: Vec<usize> = (0..rules.len())
        .filter(|i| rules[*i].strikes(method, target, header))
        .collect();
    let faults: Vec<Action> = struck.iter().map(|i| rules[*i].action.clone()).collect();
    let (ticket, in_flight) = shared.log.open(Entry {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: parts.headers.clone(),
        connection: control.number,
        body: Vec::new(),
        bytes_in: 0,
        status: 0,
        bytes_out: 0,
        faults: struck,
        begun: std::time::Instant::now(),
        ended: None,
    });
    let head = method == "HEAD";
    let is_refused = shared.options.refuse_above.is_some_and(|most| in_flight > most);
    if is_refused {
        // It takes no place from what comes after it.
        ticket.end();
    }
    let outcome = match early(&shared, &faults, target, &parts.headers).await {
        _ if is_refused => {
            let _ = receive(body, &[], &ticket, |_| ()).await;
            Ok(Reply::error(429, "TOOMANYREQUESTS", "too many requests at a time"))
        }
        Some(reply) => Ok(reply),
        None => answer(&shared, &parts, body, &faults, target, &ticket, &control).await,
    };
    match outcome {
        Ok(reply) => send(reply, &faults, head, shared.options.bandwidth, &control, ticket),
        Err(end) => {
            control.write_instead(Vec::new(), end);
            Response::new(Body::empty())
        }
    }
}

/// Applies delays and gates, and returns the answer if a fault or limit answers before the request body is read.
async fn early(shared: &Shared, faults: &[Action], target: &str, headers: &axum::http::HeaderMap) -> Option<Reply> {
    let mut pause = shared.options.latency;
    for fault in faults {
        match fault {
            Action::Delay(more) => pause += *more,
            Action::Hold(gate) => gate.pass().await,
            Action::Open(gate) => gate.open(),
            Action::Early(canned) => return Some(filled(canned.clone().into(), target)),
            _ => {}
        }
    }
    if pause > Duration::ZERO {
        tokio::time::sleep(pause).await;
    }
    let length = headers
        .get("content-length")
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let too_large = shared
        .options
        .max_body
        .is_some_and(|max| length.is_some_and(|length| length > max));
    too_large.then(|| {
        Reply::new(
            413,
            "<html><head><title>413 Request Entity Too Large</title></head></html>",
        )
        .with("content-type", "text/html")
    })
}

fn filled(mut reply: Reply, target: &str) -> Reply {
    for (_, value) in &mut reply.headers {
        *value = value.replace("{target}", target);
    }
    reply
}

async fn answer(
    shared: &Shared,
    parts: &axum::http::request::Parts,
    body: Body,
    faults: &[Action],
    target: &str,
    ticket: &Ticket,
    control: &Control,
) -> Result<Reply, End> {
    let instead = faults
        .iter()
        .find(|f| matches!(f, Action::Answer(_) | Action::End(_) | Action::Raw(..)));
    if let Some(action) = instead {
        let _ = receive(body, &[], ticket, |_| ()).await;
        return match action {
            Action::Answer(canned) => Ok(filled(canned.clone().into(), target)),
            Action::Raw(bytes, end) => {
                control.write_instead(bytes.clone(), *end);
                Ok(Reply::status(200))
            }
            Action::End(end) => Err(*end),
            _ => unreachable!("only these three are looked for"),
        };
    }
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    let query = parts.uri.query().unwrap_or_default();
    let authorization = parts.headers.get("authorization").and_then(|v| v.to_str().ok());
    let route = route(path);
    if route == Route::Token {
        return token(shared, method, query, body, authorization, ticket).await;
    }
    if route == Route::Unknown {
        return Ok(Reply::new(404, "404 page not found\n").with("content-type", "text/plain"));
    }
    if let Err(refusal) = shared
        .options
        .auth
        .check(&shared.base, &need(&route, method, query), authorization)
    {
        let _ = receive(body, &[], ticket, |_| ()).await;
        return Ok(refusal.into());
    }
    if let Route::Upload(repository, upload) = route {
        let request = UploadRequest {
            shared,
            method,
            repository,
            upload,
            query,
            headers: &parts.headers,
            faults,
            ticket,
        };
        return request.answer(body).await;
    }
    let mut bytes = Vec::new();
    if let Received::Broken(end) = receive(body, faults, ticket, |piece| bytes.extend_from_slice(piece)).await {
        return Err(end);
    }
    let head = method == "HEAD";
    Ok(match (method, route) {
        (_, Route::Ping) => Reply::new(200, "{}")
            .with("content-type", "application/json")
            .with("docker-distribution-api-version", "registry/2.0"),
        ("GET", Route::Catalog) => {
            let list = serde_json::json!({"repositories": shared.store.repositories()});
            Reply::new(200, list.to_string()).with("content-type", "application/json")
        }
        ("GET" | "HEAD", Route::Manifest(name, reference)) => {
            pull::manifest(shared, name, reference, head, &parts.headers)
        }
        ("GET" | "HEAD", Route::Blob(name, digest)) => pull::blob(shared, name, digest, head, &parts.headers, faults),
        ("GET", Route::Tags(name)) => pull::tags(shared, name, query),
        ("GET", Route::Referrers(name, digest)) => pull::referrers(shared, name, digest, query),
        ("PUT", Route::Manifest(name, reference)) => {
            put_manifest(shared, name, reference, query, &parts.headers, bytes.into())
        }
        ("DELETE", Route::Manifest(name, reference)) => delete_manifest(shared, name, reference),
        ("DELETE", Route::Blob(name, digest)) => delete_blob(shared, name, digest),
        _ => Reply::error(405, "UNSUPPORTED", "method not allowed"),
    })
}

async fn token(
    shared: &Shared,
    method: &str,
    query: &str,
    body: Body,
    authorization: Option<&str>,
    ticket: &Ticket,
) -> Result<Reply, End> {
    let mut form = Vec::new();
    if let Received::Broken(end) = receive(body, &[], ticket, |piece| form.extend_from_slice(piece)).await {
        return Err(end);
    }
    let Auth::Bearer(service) = &shared.options.auth else {
        return Ok(Reply::new(404, "404 page not found\n"));
    };
    let post = method == "POST";
    let form = String::from_utf8_lossy(&form).into_owned();
    let fields = fields(if post { &form } else { query });
    Ok(reply::Reply::from(service.answer(post, &fields, authorization)))
}
