//! The push half of the registry API (OCI distribution-spec, "Push", "Content Management").

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;

use super::fault::{Action, LocationForm};
use super::log::Ticket;
use super::options::Immutable;
use super::reply::Reply;
use super::serve::{Shared, fields, query_field};
use super::store::{Repository, digest_like};
use super::wire::End;

/// Maximum size of a manifest in bytes that every registry must accept (OCI distribution-spec, "Pushing Manifests").
const MAX_MANIFEST: usize = 4 << 20;

/// The result of reading a request body.
pub enum Received {
    /// The whole body arrived.
    Whole,
    /// The body was cut by the client or by a fault; the connection must end in this way.
    Broken(End),
}

/// Reads a request body, and calls `piece` with each received part.
pub async fn receive(body: Body, faults: &[Action], ticket: &Ticket, mut piece: impl FnMut(&[u8])) -> Received {
    let limit = faults.iter().find_map(|f| match f {
        Action::CutRequest(after, end) => Some((*after, *end)),
        _ => None,
    });
    let mut stream = body.into_data_stream();
    let mut total = 0;
    loop {
        if let Some((_, end)) = limit.filter(|(after, _)| total >= *after) {
            return Received::Broken(end);
        }
        match stream.next().await {
            None => return Received::Whole,
            Some(Err(_)) => return Received::Broken(End::Close),
            Some(Ok(mut bytes)) => {
                if let Some((after, _)) = limit {
                    bytes.truncate(usize::try_from(after - total).unwrap_or(usize::MAX));
                }
                total += bytes.len() as u64;
                ticket.update(|e| {
                    e.bytes_in += bytes.len() as u64;
                    let room = (64_usize << 10).saturating_sub(e.body.len());
                    e.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                });
                piece(&bytes);
            }
        }
    }
}

/// The answer, or the way in which the connection ends.
pub type Outcome = Result<Reply, End>;

/// A request to `/v2/NAME/blobs/uploads/[UPLOAD]`.
pub struct UploadRequest<'a> {
    pub shared: &'a Shared,
    pub method: &'a str,
    pub repository: &'a str,
    /// Name of the upload session; empty on `POST`.
    pub upload: &'a str,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub faults: &'a [Action],
    pub ticket: &'a Ticket,
}

impl UploadRequest<'_> {
    pub async fn answer(&self, body: Body) -> Outcome {
        if self.upload.is_empty() {
            return match self.method {
                "POST" => self.start(body).await,
                _ => Ok(Reply::error(405, "UNSUPPORTED", "method not allowed")),
            };
        }
        let known = self.shared.store.received(self.repository, self.upload);
        let Some(received) = known.filter(|_| !self.has(|f| matches!(f, Action::ForgetUpload))) else {
            return Ok(Reply::error(
                404,
                "BLOB_UPLOAD_UNKNOWN",
                "blob upload unknown to registry",
            ));
        };
        match self.method {
            "GET" => Ok(self.progress(204)),
            "DELETE" => {
                self.shared.store.drop_upload(self.upload);
                Ok(Reply::status(204))
            }
            "PATCH" => self.patch(received, body).await,
            "PUT" => self.put(received, body).await,
            _ => Ok(Reply::error(405, "UNSUPPORTED", "method not allowed")),
        }
    }

    fn has(&self, wanted: fn(&Action) -> bool) -> bool {
        self.faults.iter().any(wanted)
    }

    async fn start(&self, body: Body) -> Outcome {
        let store = &self.shared.store;
        if let Some(digest) =
            query_field(self.query, "mount").filter(|_| !self.has(|f| matches!(f, Action::IgnoreMount)))
        {
            let there = match query_field(self.query, "from") {
                Some(from) => store.blob(&from, &digest).is_some(),
                None => false,
            };
            if there && self.has(|f| matches!(f, Action::Lose)) {
                return Ok(self.created(&digest));
            }
            if there {
                store.change(self.repository, |r| r.blobs.insert(digest.clone()));
                return Ok(self.created(&digest));
            }
        }
        let upload = store.start_upload(self.repository);
        if let Some(digest) = query_field(self.query, "digest").filter(|_| self.shared.options.single_post) {
            return match receive(body, self.faults, self.ticket, |bytes| store.append(&upload, bytes)).await {
                Received::Broken(end) => Err(end),
                Received::Whole => Ok(self.finish(&upload, &digest)),
            };
        }
        if let Received::Broken(end) = receive(body, self.faults, self.ticket, |_| ()).await {
            return Err(end);
        }
        Ok(self.session(202, &upload))
    }

    async fn patch(&self, received: u64, body: Body) -> Outcome {
        let length = self
            .headers
            .get("content-length")
            .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let too_large = self
            .shared
            .options
            .max_chunk
            .is_some_and(|max| length.is_some_and(|length| length > max));
        if too_large || !self.fits(received) {
            return Ok(self.progress(416));
        }
        let store = &self.shared.store;
        match receive(body, self.faults, self.ticket, |bytes| store.append(self.upload, bytes)).await {
            Received::Broken(end) => Err(end),
            Received::Whole => Ok(self.progress(202)),
        }
    }

    async fn put(&self, received: u64, body: Body) -> Outcome {
        let Some(digest) = query_field(self.query, "digest") else {
            return Ok(Reply::error(400, "DIGEST_INVALID", "digest missing"));
        };
        if !self.fits(received) {
            return Ok(self.progress(416));
        }
        let store = &self.shared.store;
        match receive(body, self.faults, self.ticket, |bytes| store.append(self.upload, bytes)).await {
            Received::Broken(end) => Err(end),
            Received::Whole => Ok(self.finish(self.upload, &digest)),
        }
    }

    /// Returns whether bytes may be added to the session: `Content-Range` and the state in the URL must match the offset of
    /// the session.
    fn fits(&self, received: u64) -> bool {
        let range = self.headers.get("content-range").and_then(|v| v.to_str().ok());
        let start = range.map(|r| r.split('-').next().and_then(|s| s.parse::<u64>().ok()));
        let state = query_field(self.query, "_state").and_then(|s| s.parse::<u64>().ok());
        start.is_none_or(|start| start == Some(received)) && state == Some(received)
    }

    fn finish(&self, upload: &str, digest: &str) -> Reply {
        if self.has(|f| matches!(f, Action::Lose)) {
            self.shared.store.drop_upload(upload);
            return self.created(digest);
        }
        match self.shared.store.finish_upload(upload, digest) {
            Ok(()) => {
                for fault in self.faults {
                    if let Action::KeepOnly(bytes) = fault {
                        let whole = self.shared.store.content(digest).expect("the upload is finished");
                        self.shared.store.keep(digest, whole.read(0, whole.len().min(*bytes)));
                    }
                }
                self.created(digest)
            }
            Err(why) => Reply::error(
                400,
                "DIGEST_INVALID",
                &format!("provided digest did not match uploaded content: {why}"),
            ),
        }
    }

    fn created(&self, digest: &str) -> Reply {
        let location = format!("{}/v2/{}/blobs/{digest}", self.shared.base, self.repository);
        Reply::status(201)
            .with("location", location)
            .with("docker-content-digest", digest)
    }

    fn progress(&self, status: u16) -> Reply {
        self.session(status, self.upload)
    }

    fn session(&self, status: u16, upload: &str) -> Reply {
        let received = self.shared.store.received(self.repository, upload).unwrap_or(0);
        let path = format!("/v2/{}/blobs/uploads/{upload}", self.repository);
        let query = format!("_state={received}&signature=secret%2Bsignature%3D");
        let form = self.faults.iter().find_map(|f| match f {
            Action::Location(form) => Some(form.clone()),
            _ => None,
        });
        let base = &self.shared.base;
        let location = match form.unwrap_or(LocationForm::Absolute) {
            LocationForm::Path => Some(format!("{path}?{query}")),
            LocationForm::Absolute => Some(format!("{base}{path}?{query}")),
            LocationForm::NoScheme => Some(format!("{}{path}?{query}", base.split_once("://").unwrap().1)),
            // The name alone is relative to both `POST .../uploads/` and `.../uploads/UPLOAD`.
            LocationForm::Relative => Some(format!("{upload}?{query}")),
            LocationForm::Elsewhere(host) => Some(format!("{host}{path}?{query}")),
            LocationForm::Absent => None,
        };
        let told = if self.has(|f| matches!(f, Action::ZeroStatus)) {
            0
        } else {
            received.saturating_sub(1)
        };
        let mut reply = if status == 416 {
            Reply::error(416, "RANGE_INVALID", "invalid content range")
        } else {
            Reply::status(status)
        }
        .with("docker-upload-uuid", upload)
        .with("range", format!("0-{told}"));
        reply.set("location", location);
        reply.set(
            "oci-chunk-min-length",
            self.shared.options.min_chunk.map(|n| n.to_string()),
        );
        reply
    }
}

/// Answers `PUT /v2/NAME/manifests/REFERENCE`; a `PUT` by digest may have tags in the query.
pub fn put_manifest(
    shared: &Shared,
    repository: &str,
    reference: &str,
    query: &str,
    headers: &HeaderMap,
    bytes: Bytes,
) -> Reply {
    if bytes.len() > MAX_MANIFEST {
        return Reply::error(413, "SIZE_INVALID", "manifest too large");
    }
    let content_type = headers
        .get("content-type")
        .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let content_type = content_type.unwrap_or_default();
    let invalid = |why: &str| Reply::error(400, "MANIFEST_INVALID", why);
    let Ok(document) = serde_json::from_slice::<Value>(&bytes) else {
        return invalid("manifest invalid: no JSON");
    };
    if document["mediaType"]
        .as_str()
        .is_some_and(|stated| stated != content_type)
    {
        return invalid("manifest invalid: mediaType differs from Content-Type");
    }
    if shared.options.refused_types.contains(&content_type) {
        return invalid("manifest invalid: media type not supported");
    }
    if shared.options.refuses.is_some_and(|refuses| refuses(&document)) {
        return invalid("manifest invalid: not supported");
    }
    let (digest, tag) = if reference.contains(':') {
        (digest_like(reference, &bytes), None)
    } else {
        (digest_like("sha256:", &bytes), Some(reference))
    };
    if tag.is_none() && digest != reference {
        return Reply::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
    }
    let found = shared.store.repository(repository).unwrap_or_default();
    let missing = missing_of(&document, &found, shared.options.accept_sparse);
    if !missing.is_empty() && !shared.options.unchecked {
        let errors: Vec<Value> = missing
            .iter()
            .map(|d| serde_json::json!({"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry", "detail": d}))
            .collect();
        return Reply::new(400, serde_json::json!({"errors": errors}).to_string())
            .with("content-type", "application/json");
    }
    if let Some(held) = tag.and_then(|tag| found.tags.get(tag)) {
        match shared.options.immutable_tags {
            Some(Immutable::Any) => return Reply::error(400, "TAG_INVALID", "the tag is immutable"),
            Some(Immutable::Other) if *held != digest => return Reply::error(409, "DENIED", "the tag is immutable"),
            _ => {}
        }
    }
    shared
        .store
        .put_manifest_as(repository, &digest, tag, &content_type, bytes);
    let more = fields(query)
        .into_iter()
        .filter(|(name, _)| name == "tag" && tag.is_none());
    let more: Vec<String> = more.map(|(_, tag)| tag).take(shared.options.tags_at_once).collect();
    shared.store.change(repository, |repository| {
        let tagged = more.iter().map(|tag| (tag.clone(), digest.clone()));
        repository.tags.extend(tagged);
    });
    let mut reply = Reply::status(201)
        .with(
            "location",
            format!("{}/v2/{repository}/manifests/{digest}", shared.base),
        )
        .with("docker-content-digest", digest);
    // All tags but the last are in one header, and the last tag is in a header of its own.
    if let Some((last, first)) = more.split_last() {
        let first = first.join(", ");
        let lines = [first.as_str(), last].into_iter().filter(|line| !line.is_empty());
        reply
            .headers
            .extend(lines.map(|line| ("oci-tag".to_owned(), line.to_owned())));
    }
    if !shared.options.no_referrers {
        reply.set("oci-subject", document["subject"]["digest"].as_str().map(str::to_owned));
    }
    reply
}

/// Returns the digests that a manifest names and the repository does not have.
fn missing_of(document: &Value, found: &Repository, accept_sparse: bool) -> Vec<String> {
    let mut missing = Vec::new();
    let digest_of = |descriptor: &Value| descriptor["digest"].as_str().unwrap_or("no digest").to_owned();
    for child in document["manifests"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|_| !accept_sparse)
    {
        let digest = digest_of(child);
        if !found.manifests.contains_key(&digest) {
            missing.push(digest);
        }
    }
    let layers = document["layers"].as_array().or(document["blobs"].as_array());
    for blob in document.get("config").into_iter().chain(layers.into_iter().flatten()) {
        let digest = digest_of(blob);
        let foreign = blob["urls"].as_array().is_some_and(|urls| !urls.is_empty());
        if !foreign && !found.blobs.contains(&digest) {
            missing.push(digest);
        }
    }
    missing
}

/// Answers `DELETE /v2/NAME/manifests/REFERENCE`.
pub fn delete_manifest(shared: &Shared, repository: &str, reference: &str) -> Reply {
    let gone = shared.store.change(repository, |r| {
        if reference.contains(':') {
            r.tags.retain(|_, digest| digest != reference);
            r.manifests.remove(reference).is_some()
        } else {
            r.tags.remove(reference).is_some()
        }
    });
    match gone {
        true => Reply::status(202),
        false => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    }
}

/// Answers `DELETE /v2/NAME/blobs/DIGEST`.
pub fn delete_blob(shared: &Shared, repository: &str, digest: &str) -> Reply {
    match shared.store.change(repository, |r| r.blobs.remove(digest)) {
        true => Reply::status(202),
        false => Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
    }
}
