//! Reading manifests and small blobs.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue};
use reqwest::{Method, StatusCode};

use super::Registry;
use super::answer::{Answer, other_json, web_page};
use super::blob::{BlobReader, WithoutRange};
use super::call::Call;
use super::candidate::Candidate;
use super::content_encoding;
use super::host::Host;
use super::refusal::Refusal;
use super::retry::Backoff;
use super::scope::Scope;
use super::types::{ManifestHead, Presence};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::{BROKEN, Descriptor};
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest, SAFE_MANIFEST, declared_type};
use crate::image::media_type::ACCEPT_MANIFESTS;
use crate::image::reference::Target;
use crate::text::byte_count;

/// Maximum size in bytes of a blob that is read into memory.
pub(super) const MAX_SMALL_BLOB: u64 = 16 << 20;

impl Registry {
    /// Sends a HEAD for a manifest. Free on registries that count pulls.
    pub async fn head_manifest(&self, repository: &str, target: &Target) -> Result<Presence<ManifestHead>> {
        self.origin(repository)?.head_manifest(repository, target).await
    }

    /// Reads a manifest. A manifest requested by digest is verified against the digest.
    ///
    /// With a manifest cache, a tag is first resolved with a HEAD, and a cached manifest with that digest is not fetched.
    /// Mirrors are asked before the origin.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthorized`], [`Kind::Denied`], [`Kind::RateLimited`] and [`Kind::Network`], as the
    /// registry answers; those of [`RawManifest::new`] for an invalid manifest.
    pub async fn manifest(&self, repository: &str, target: &Target) -> Result<RawManifest> {
        let cache = self.host.context.cache.as_ref();
        if let (Some(cache), Target::Digest(digest)) = (cache, target)
            && let Some(manifest) = cache.get(digest)
        {
            return Ok(manifest);
        }
        let mut places = self.places(repository, target)?;
        loop {
            let Some(place) = places.pop_front() else {
                return Err(Error::internal("no registry to read from"));
            };
            let error = match manifest_of(&place, target).await {
                Ok(manifest) => {
                    if let Some(cache) = cache {
                        cache.put(&manifest);
                    }
                    return Ok(manifest);
                }
                Err(error) => error,
            };
            let Some(next) = places.front() else {
                return Err(place.host.with_near_tags(error, &place.repository, target).await);
            };
            place.host.warn_about_fallback(&error, &next.host.name);
        }
    }

    /// Returns whether a manifest is in the cache, so that it needs no request.
    pub(crate) fn has_cached(&self, digest: &Digest) -> bool {
        let cache = self.host.context.cache.as_ref();
        cache.is_some_and(|cache| cache.get(digest).is_some())
    }

    /// Returns whether a manifest that was read in this run came from a registry. So the cache, if there is one, has nothing
    /// about it from an earlier run.
    pub(crate) fn was_fetched(&self, digest: &Digest) -> bool {
        let cache = self.host.context.cache.as_ref();
        cache.is_none_or(|cache| cache.is_new(digest))
    }

    /// Returns the sources of a blob: mirrors first, then the registry itself. Never empty.
    ///
    /// # Errors
    /// [`Kind::Denied`] if this machine's configuration blocks the repository.
    pub(crate) fn candidates(&self, repository: &str, digest: &Digest) -> Result<Vec<Candidate>> {
        Ok(self.places(repository, &Target::Digest(digest.clone()))?.into())
    }

    /// Opens the bytes `start..end` of a blob (`end` = `descriptor.size` for the whole blob).
    ///
    /// The reader reconnects by itself as long as it makes progress, and yields exactly `end - start` bytes or an error. The
    /// bytes are NOT hashed here: the caller hashes them.
    ///
    /// A reader holds a permit of the host's concurrency limit until it is read to its end or dropped.
    pub async fn blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        range: std::ops::Range<u64>,
        without_range: WithoutRange,
    ) -> Result<BlobReader> {
        let candidates = self.candidates(repository, &descriptor.digest)?;
        BlobReader::open(candidates, descriptor, range, without_range).await
    }

    /// Reads a whole small blob (an image's config), and verifies its size and digest.
    /// After wrong bytes, the next candidate is asked: a mirror may be damaged.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if all candidates, and the first one twice, send bytes with another digest; [`Kind::Malformed`] if
    /// the blob is too large for memory.
    pub async fn small_blob(&self, repository: &str, descriptor: &Descriptor) -> Result<Bytes> {
        if descriptor.size > MAX_SMALL_BLOB {
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "blob {} has {} bytes, which is too large for what it is",
                    descriptor.digest, descriptor.size
                ),
            )
            .with_hint(BROKEN));
        }
        let mut wrong = 0;
        loop {
            let mut candidates = self.candidates(repository, &descriptor.digest)?;
            let count = candidates.len();
            candidates.rotate_left(wrong % count);
            let (asked, all) = (candidates[0].clone(), 0..descriptor.size);
            let mut reader = BlobReader::open(candidates, descriptor, all, WithoutRange::Skip).await?;
            let mut all = BytesMut::new();
            while let Some(bytes) = reader.chunk().await? {
                all.extend_from_slice(&bytes);
            }
            let actual = descriptor.digest.same_algorithm(&all);
            if actual == descriptor.digest {
                return Ok(all.freeze());
            }
            wrong += 1;
            // The first candidate is asked once more at the end: its bytes may have been corrupted in transit.
            if wrong > count {
                let what = format!(
                    "blob {} of `{asked}` has other bytes: they hash to {actual}",
                    descriptor.digest
                );
                let cause = format!(
                    "`{}` sends blobs with other bytes than their digests promise",
                    asked.host.name
                );
                return Err(Error::new(Kind::Integrity, what).with_cause(&cause));
            }
        }
    }

    /// Returns whether a repository has a manifest, by its digest.
    ///
    /// # Errors
    /// Those of [`head_manifest`](Self::head_manifest).
    pub(crate) async fn has_manifest(&self, repository: &str, manifest: &RawManifest) -> Result<Presence<()>> {
        self.origin(repository)?.has_manifest(repository, manifest).await
    }

    /// Returns whether a repository has a blob. Other repositories of the registry do not count.
    pub async fn head_blob(&self, repository: &str, descriptor: &Descriptor) -> Result<Presence<()>> {
        self.origin(repository)?
            .head_blob(repository, descriptor, Scope::pull(repository))
            .await
    }
}

/// Reads a manifest from one candidate. A tag's manifest that is in the cache is not fetched.
pub(super) async fn manifest_of(candidate: &Candidate, target: &Target) -> Result<RawManifest> {
    let (host, repository) = (&candidate.host, candidate.repository.as_str());
    if let (Some(cache), Target::Tag(_)) = (&host.context.cache, target)
        && let Presence::Present(ManifestHead {
            digest: Some(digest), ..
        }) = host.head_manifest(repository, target).await?
        && let Some(manifest) = cache.get(&digest)
    {
        return Ok(manifest);
    }
    host.manifest(repository, target).await
}

/// Parses a manifest that came with a `Content-Type`.
/// With `is_proven`, the bytes have the digest that was known or stated, and a contradicting `Content-Type` is ignored.
fn parse_with_content_type(
    bytes: &Bytes,
    label: Option<&str>,
    expected: Option<&Digest>,
    is_proven: bool,
) -> Result<RawManifest> {
    match RawManifest::new(bytes.clone(), label, expected) {
        Err(error) if error.kind() == Kind::Malformed && is_proven && label.is_some() => {
            RawManifest::new(bytes.clone(), None, expected).map_err(|_| error)
        }
        result => result,
    }
}

/// Returns the digest of a body that may have been corrupted in transit, and what is wrong with the body; `None` for a body that
/// has the promised digest, or that is not cut off if no digest is known.
fn doubt(bytes: &Bytes, promised: Option<&Digest>) -> Option<(Digest, String)> {
    let Some(promised) = promised else {
        return is_cut(bytes).then(|| (Digest::sha256(bytes), "it is cut off".to_owned()));
    };
    let actual = promised.same_algorithm(bytes);
    let why = format!("it hashes to {actual} instead of {promised}");
    (actual != *promised).then_some((actual, why))
}

/// Returns whether a body is the start of a JSON object.
fn is_cut(bytes: &Bytes) -> bool {
    bytes.starts_with(b"{") && !bytes.trim_ascii_end().ends_with(b"}")
}

/// Returns the error for a body that is not the manifest. The cause has no digest and no size, so that it is the same for all images.
fn unusable(host: &str, action: &str, bytes: &Bytes, error: Error) -> Error {
    const CUT: &str = "the registry, or a proxy or cache in front of it, cuts its answers: run again, or check these proxies and caches";
    const OTHER: &str = "the registry, or a proxy or cache in front of it, sends something else than was pushed: have the image \
         pushed again, or check these proxies and caches";
    if is_cut(bytes) {
        let cause = format!("`{host}` sends manifests that are cut off");
        let message = format!("{action}: {cause}, here after {}", byte_count(bytes.len() as u64));
        return Error::new(error.kind(), message).with_cause(&cause).with_hint(CUT);
    }
    let cause = match error.kind() {
        Kind::Integrity => format!("`{host}` sends manifests with other bytes than their digests promise"),
        Kind::Malformed => {
            let text = error.full();
            let why = text.split_once(": ").map_or(text.as_str(), |(_, why)| why);
            format!("a manifest of `{host}` cannot be used: {why}")
        }
        _ => return error.context(action),
    };
    error.context(action).with_cause(&cause).or_hint(OTHER)
}

impl Host {
    fn manifest_call<'a>(&self, method: Method, repository: &'a str, target: &Target) -> Call<'a> {
        let action = format!("cannot read manifest `{target}` of `{}/{repository}`", self.name);
        let url = self.url(repository, &format!("manifests/{target}"));
        Call::new(method, url, repository, Scope::pull(repository), action)
            .header(ACCEPT, HeaderValue::from_static(ACCEPT_MANIFESTS))
    }

    pub(super) async fn head_manifest(&self, repository: &str, target: &Target) -> Result<Presence<ManifestHead>> {
        let mut backoff = Backoff::new(&self.context.options);
        self.head_manifest_within(repository, target, &mut backoff).await
    }

    /// Sends a HEAD for a manifest within a retry budget that is already in use.
    pub(super) async fn head_manifest_within(
        &self,
        repository: &str,
        target: &Target,
        backoff: &mut Backoff,
    ) -> Result<Presence<ManifestHead>> {
        let call = self.manifest_call(Method::HEAD, repository, target);
        self.head(&call, backoff).await
    }

    /// Returns whether a repository has this manifest.
    /// The request also accepts the manifest's own type, since a registry does not show manifests of types that are not
    /// accepted.
    pub(super) async fn has_manifest(&self, repository: &str, manifest: &RawManifest) -> Result<Presence<()>> {
        let target = Target::Digest(manifest.digest().clone());
        let mut call = self.manifest_call(Method::HEAD, repository, &target);
        if let Ok(accepted) = HeaderValue::try_from(format!("{ACCEPT_MANIFESTS}, {}", manifest.media_type())) {
            call = call.header(ACCEPT, accepted);
        }
        let mut backoff = Backoff::new(&self.context.options);
        Ok(match self.head(&call, &mut backoff).await? {
            Presence::Present(_) => Presence::Present(()),
            Presence::Missing => Presence::Missing,
            Presence::Unknown | Presence::OtherSize(_) => Presence::Unknown,
        })
    }

    async fn head(&self, call: &Call<'_>, backoff: &mut Backoff) -> Result<Presence<ManifestHead>> {
        if self.no_head.load(Ordering::Relaxed) {
            return Ok(Presence::Unknown);
        }
        let answer = self.exchange_within(call, backoff).await?;
        match answer.status() {
            StatusCode::OK if answer.is_web_page() => Ok(Presence::Unknown),
            StatusCode::OK => Ok(Presence::Present(ManifestHead {
                digest: answer.digest(),
                media_type: answer.header(&CONTENT_TYPE).map(crate::image::media_type::essence),
                size: answer.length(),
            })),
            StatusCode::NOT_FOUND => Ok(Presence::Missing),
            StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => Err(answer.into_error(&call.action).await),
            status => {
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    self.no_head.store(true, Ordering::Relaxed);
                }
                Ok(Presence::Unknown)
            }
        }
    }

    pub(super) async fn manifest(&self, repository: &str, target: &Target) -> Result<RawManifest> {
        Ok(self.manifest_and_etag(repository, target).await?.0)
    }

    /// Reads a manifest with its `ETag`.
    pub(super) async fn manifest_and_etag(
        &self,
        repository: &str,
        target: &Target,
    ) -> Result<(RawManifest, Option<String>)> {
        let call = self.manifest_call(Method::GET, repository, target);
        let mut backoff = Backoff::new(&self.context.options);
        let mut doubted = None;
        let too_large = |how: &str| {
            let what = format!(
                "{}: {how}it has more than the {MAX_MANIFEST} bytes that are accepted",
                call.action
            );
            Error::new(Kind::Malformed, what)
        };
        loop {
            let answer = self.exchange_within(&call, &mut backoff).await?;
            if answer.status() != StatusCode::OK {
                return Err(self.no_manifest(answer, &call, target).await);
            }
            let is_web_page = answer.is_web_page();
            let media_type = answer.header(&CONTENT_TYPE).map(str::to_owned);
            let media_type = media_type.filter(|_| !is_web_page);
            let encoding = answer.encoding();
            let stated = answer.digest();
            let etag = answer.header(&ETAG).map(str::to_owned);
            let room = self.context.room_for(answer.length()).await;
            let bytes = answer.bytes(MAX_MANIFEST).await;
            drop(room);
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(None) => return Err(too_large("")),
                Err(Some(failure)) => {
                    let options = &self.context.options;
                    if backoff.pause(options, None, || failure.error.full()).await {
                        continue;
                    }
                    return Err(failure.error.with_shared_cause().context(&call.action));
                }
            };
            let expected = match target {
                Target::Digest(digest) => Some(digest),
                Target::Tag(_) => None,
            };
            let trusted = stated
                .as_ref()
                .filter(|_| !self.states_wrong_digests.load(Ordering::Relaxed));
            let promised = expected.or(trusted);
            let bytes = match promised {
                Some(promised) if promised.same_algorithm(&bytes) == *promised => bytes,
                _ => content_encoding::json(bytes, encoding, MAX_MANIFEST).ok_or_else(|| too_large("decoded, "))?,
            };
            // The bytes may be corrupted in transit. By tag, only the registry's header states a digest, which is wrong too
            // often to fail on it: if a second request brings the same bytes, the registry has these bytes.
            let doubt = doubt(&bytes, promised);
            if let Some((actual, why)) = &doubt
                && doubted.as_ref() != Some(actual)
            {
                let options = &self.context.options;
                if !backoff.pause(options, None, || format!("{}: {why}", call.action)).await {
                    let error = Error::new(Kind::Integrity, why.as_str());
                    return Err(unusable(&self.name, &call.action, &bytes, error));
                }
                doubted = Some(actual.clone());
                continue;
            }
            let is_proven = promised.is_some() && doubt.is_none();
            return match parse_with_content_type(&bytes, media_type.as_deref(), expected, is_proven) {
                // Some proxies send everything as a web page: what is in it counts.
                Err(_) if is_web_page => Err(web_page(&self.name, &call.action)),
                Ok(manifest) if expected.is_none() && !manifest.says_what_it_is() => {
                    Err(other_json(&self.name, &call.action, manifest.bytes()))
                }
                Ok(manifest) => {
                    self.compare_type(&manifest, media_type.as_deref());
                    self.compare(&manifest, stated.as_ref(), repository, target);
                    Ok((manifest, etag))
                }
                Err(error) => Err(unusable(&self.name, &call.action, &bytes, error)),
            };
        }
    }

    /// Returns the error for a manifest that the registry does not serve.
    /// The error names the missing repository or tag, if known.
    async fn no_manifest(&self, mut answer: Answer, call: &Call<'_>, target: &Target) -> Error {
        let (error, is_absent) = (answer.refusal().await, answer.status() == StatusCode::NOT_FOUND);
        let has = |code: &str| is_absent && Refusal::in_error(&error).is_some_and(|refusal| refusal.has(code));
        let (host, repository) = (&self.name, call.repository);
        let what = match target {
            _ if has("NAME_UNKNOWN") => format!("there is no repository `{repository}` on `{host}`"),
            Target::Tag(tag) if has("MANIFEST_UNKNOWN") => format!("there is no tag `{tag}` in `{host}/{repository}`"),
            Target::Digest(digest) if has("MANIFEST_UNKNOWN") => {
                format!("there is no manifest `{digest}` in `{host}/{repository}`")
            }
            _ => call.action.clone(),
        };
        match target {
            Target::Digest(_) if has("MANIFEST_UNKNOWN") => {
                error.context(what).with_hint("check the name and the digest")
            }
            _ => error.context(what),
        }
    }

    /// Warns, once per host, of a wrong `Content-Type`.
    /// Some registries and caches send manifests with a wrong one.
    fn compare_type(&self, manifest: &RawManifest, label: Option<&str>) {
        let label = label.and_then(declared_type);
        if label.is_some_and(|label| label != manifest.media_type()) {
            self.context.warn_once(format!(
                "`{}` sends manifests under a `Content-Type` that is not theirs; what is in them counts",
                self.name
            ));
        }
    }

    /// Warns of a digest header that differs from the computed digest.
    /// Also warns of manifests that many registries refuse for their size.
    fn compare(&self, manifest: &RawManifest, stated: Option<&Digest>, repository: &str, target: &Target) {
        let progress = &self.context.options.progress;
        let name = format!("`{}/{repository}` `{target}`", self.name);
        if let Some(stated) = stated
            && stated.algorithm() == manifest.digest().algorithm()
            && stated != manifest.digest()
            && !self.states_wrong_digests.swap(true, Ordering::Relaxed)
        {
            progress.warn(format!(
                "{name}: the registry states digest {stated}, its bytes hash to {}; from now on the bytes alone count there",
                manifest.digest()
            ));
        }
        if manifest.descriptor().size > SAFE_MANIFEST {
            progress.warn(format!(
                "{name}: a manifest of {} bytes is more than many registries accept",
                manifest.descriptor().size
            ));
        }
    }
}
