//! The pull half of the registry API (OCI distribution-spec, "Pull", "Content Discovery").

use axum::http::HeaderMap;
use serde_json::json;

use super::fault::Action;
use super::reply::Reply;
use super::serve::{Shared, query_field};
use super::store::{Content, Stored};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Answers `GET` and `HEAD` of `/v2/NAME/manifests/REFERENCE`.
pub fn manifest(shared: &Shared, repository: &str, reference: &str, head: bool, headers: &HeaderMap) -> Reply {
    let limits = shared.count_pull(head);
    if limits.exhausted {
        let mut reply = Reply::error(
            429,
            "TOOMANYREQUESTS",
            "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
        );
        reply.headers.extend(limits.headers);
        return reply;
    }
    let Some(found) = shared.store.repository(repository) else {
        return Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let digest = if reference.contains(':') {
        Some(reference.to_owned())
    } else {
        found.tags.get(reference).cloned()
    };
    let Some(stored) = digest.and_then(|digest| found.manifests.get(&digest).cloned()) else {
        return Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    if !accepts(headers, &stored) {
        let message = format!("{} found, but accept header does not support it", stored.media_type);
        return Reply::error(404, "MANIFEST_UNKNOWN", &message);
    }
    let mut reply = Reply::new(200, stored.bytes)
        .with("content-type", stored.media_type)
        .with("docker-content-digest", stored.digest);
    reply.headers.extend(limits.headers);
    reply
}

/// Returns whether the `Accept` headers allow the manifest's type. Like distribution 2.8, the double answers 404 otherwise.
fn accepts(headers: &HeaderMap, stored: &Stored) -> bool {
    let mut any = false;
    for value in headers.get_all("accept") {
        any = true;
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut types = text.split(',').map(|t| t.split(';').next().unwrap_or_default().trim());
        if types.any(|t| t == "*/*" || t == "application/*" || t == stored.media_type) {
            return true;
        }
    }
    // Without an `Accept` header, only manifests of types older than OCI are sent.
    !any && !stored.media_type.contains(".oci.")
}

/// Answers `GET` and `HEAD` of `/v2/NAME/blobs/DIGEST`.
pub fn blob(
    shared: &Shared,
    repository: &str,
    digest: &str,
    head: bool,
    headers: &HeaderMap,
    faults: &[Action],
) -> Reply {
    let content = shared.store.blob(repository, digest);
    let has = |wanted: fn(&Action) -> bool| faults.iter().any(wanted);
    let content = match content {
        Some(content) => content,
        None if head && has(|f| matches!(f, Action::PretendPresent)) => shared
            .store
            .content(digest)
            .unwrap_or(Content::Memory(bytes::Bytes::new())),
        None => return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
    };
    let total = content.len();
    let mut reply = Reply {
        status: 200,
        headers: Vec::new(),
        start: 0,
        end: total,
        body: content,
    }
    .with("content-type", "application/octet-stream")
    .with("docker-content-digest", digest)
    .with("accept-ranges", "bytes")
    .with("etag", format!("\"{digest}\""));
    let range = headers.get("range").and_then(|v| v.to_str().ok());
    let Some(range) = range.filter(|_| !head && !has(|f| matches!(f, Action::IgnoreRange))) else {
        return reply;
    };
    let wrong = faults.iter().find_map(|f| match f {
        Action::WrongStart(delta) => Some(*delta),
        _ => None,
    });
    match parse_range(range, total).filter(|_| !has(|f| matches!(f, Action::NoRange))) {
        None => Reply::error(416, "RANGE_INVALID", "invalid content range")
            .with("content-range", format!("bytes */{total}")),
        Some((start, end)) => {
            let start = start.saturating_add_signed(wrong.unwrap_or(0)).min(end);
            reply.status = 206;
            (reply.start, reply.end) = (start, end);
            reply.with(
                "content-range",
                format!("bytes {start}-{}/{total}", end.saturating_sub(1)),
            )
        }
    }
}

/// Parses a single range into start and end. Returns `None` for several ranges and for an unsatisfiable range.
fn parse_range(text: &str, total: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first, last) {
        ("", n) => (total.checked_sub(n.parse().ok()?)?, total),
        (start, "") => (start.parse().ok()?, total),
        (start, last) => (
            start.parse().ok()?,
            last.parse::<u64>().ok()?.checked_add(1)?.min(total),
        ),
    };
    (start < end && start < total).then_some((start, end))
}

/// Answers `GET /v2/NAME/tags/list`.
pub fn tags(shared: &Shared, repository: &str, query: &str) -> Reply {
    let Some(found) = shared.store.repository(repository) else {
        return Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let last = query_field(query, "last");
    let mut tags: Vec<String> = found
        .tags
        .into_keys()
        .filter(|tag| last.as_ref().is_none_or(|last| tag > last))
        .collect();
    let n = query_field(query, "n")
        .and_then(|n| n.parse().ok())
        .unwrap_or(usize::MAX);
    let more = tags.len() > n;
    tags.truncate(n);
    let next = tags.last().cloned().filter(|_| more);
    let reply = Reply::new(200, json!({"name": repository, "tags": tags}).to_string());
    let reply = reply.with("content-type", "application/json");
    match next {
        Some(last) => reply.with(
            "link",
            format!("</v2/{repository}/tags/list?n={n}&last={last}>; rel=\"next\""),
        ),
        None => reply,
    }
}

/// Answers `GET /v2/NAME/referrers/DIGEST`.
pub fn referrers(shared: &Shared, repository: &str, digest: &str, query: &str) -> Reply {
    if shared.options.no_referrers {
        return Reply::new(404, "404 page not found\n").with("content-type", "text/plain");
    }
    let wanted = query_field(query, "artifactType");
    let mut list = Vec::new();
    for stored in shared.store.referrers(repository, digest) {
        let document: serde_json::Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
        let kind = document["artifactType"]
            .as_str()
            .or(document["config"]["mediaType"].as_str());
        if wanted.as_deref().is_none_or(|wanted| kind == Some(wanted)) {
            list.push(json!({
                "mediaType": stored.media_type, "digest": stored.digest, "size": stored.bytes.len(),
                "artifactType": kind, "annotations": document["annotations"],
            }));
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list});
    let reply = Reply::new(200, index.to_string()).with("content-type", OCI_INDEX);
    match wanted {
        Some(_) => reply.with("oci-filters-applied", "artifactType"),
        None => reply,
    }
}
