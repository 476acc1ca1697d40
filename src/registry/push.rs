//! Pushing blobs and manifests: the requests of callers. `upload/` sends a blob's bytes.

use std::time::SystemTime;

use reqwest::header::{CONTENT_TYPE, HeaderValue, IF_MATCH};
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::Registry;
use super::answer::{Answer, FULL, web_page};
use super::breaker::FailureMode;
use super::call::Call;
use super::host::Host;
use super::outage::{Content, without_object};
use super::proof::{Accepted, Fate};
use super::refusal::Refusal;
use super::retry::{Backoff, is_passing, retry_after};
use super::scope::Scope;
use super::tags_at_once::confirmed;
use super::types::{AcceptedManifest, Presence, Pushed};
use super::upload::blob_upload::Upload;
use super::upload::session::Session;
use super::upload::source::BlobSource;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Algorithm;
use crate::image::manifest::{RawManifest, View};
use crate::image::reference::Target;
use crate::image::referrer;

impl Registry {
    /// Pushes a blob into a repository: mounts it from `mount_from`, or uploads it.
    ///
    /// `mount_from` is a repository of the same registry that has the blob; if the registry refuses the mount, the blob is
    /// uploaded. The digest is verified while sending; an upload with a wrong digest is never completed.
    ///
    /// Does not check first whether the repository has the blob: use [`head_blob`](Self::head_blob).
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the source's bytes have another digest; the source's errors; the registry's refusal.
    pub async fn push_blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        mount_from: Option<&str>,
    ) -> Result<Pushed> {
        // An empty blob is never read, so no hash would reveal a wrong digest.
        descriptor.check_empty()?;
        let mut session = None;
        if let Some(from) = mount_from.filter(|from| *from != repository && !self.host.proof.is_doubted()) {
            match self.host.mount(repository, descriptor, from).await {
                Some(Mount::Done) if self.host.keeps_mount(repository, descriptor, from).await == Fate::Kept => {
                    return Ok(Pushed::Mounted);
                }
                Some(Mount::Upload(opened)) => session = Some(opened),
                Some(Mount::Done) | None => {}
            }
        }
        let mut sent_before = false;
        loop {
            let upload = Upload::new(&self.host, repository, descriptor, source);
            upload.run(session.take()).await?;
            let fate = self.host.keeps_upload(repository, descriptor).await;
            if fate == Fate::Kept {
                return Ok(Pushed::Uploaded);
            }
            let kept = source.can_replay(descriptor);
            if sent_before || !kept {
                return Err(self.host.lost(repository, descriptor, fate, kept));
            }
            sent_before = true;
        }
    }

    /// Pushes a manifest under a tag or its digest, byte for byte.
    ///
    /// # Errors
    /// [`Kind::Exists`] if the tag is immutable; [`Kind::Unsupported`] if the registry refuses the manifest's type, or an
    /// index with missing children; [`Kind::Integrity`] if the registry states another digest. The
    /// [`Refusal`](super::Refusal) behind an error has the registry's codes and the missing digests.
    pub async fn put_manifest(
        &self,
        repository: &str,
        target: &Target,
        manifest: &RawManifest,
    ) -> Result<AcceptedManifest> {
        let accepted = self.host.put_manifest(repository, target, manifest, None).await?;
        // Some registries store manifests only by SHA-256, so a check with another algorithm would prove nothing.
        let Target::Digest(digest) = target else {
            return Ok(accepted);
        };
        if digest.algorithm() != Algorithm::Sha256 || self.host.keeps_manifest(repository, manifest).await {
            return Ok(accepted);
        }
        let accepted = self.host.put_manifest(repository, target, manifest, None).await?;
        if self.host.keeps_manifest(repository, manifest).await {
            return Ok(accepted);
        }
        let message = format!(
            "cannot push manifest `{target}` to `{}/{repository}`: the registry accepted it twice and does not have it",
            self.host.name
        );
        let cause = format!("`{}` loses manifests that it accepts", self.host.name);
        Err(Error::new(Kind::Server, message).with_cause(&cause).with_hint(LOSES))
    }

    /// Pushes a manifest under a tag in place of the manifest that had this `ETag`.
    /// If the tag was changed in between, a registry that supports `If-Match` refuses with 412.
    ///
    /// # Errors
    /// Those of [`put_manifest`](Self::put_manifest).
    pub(crate) async fn put_manifest_over(
        &self,
        repository: &str,
        target: &Target,
        manifest: &RawManifest,
        etag: Option<&str>,
    ) -> Result<()> {
        let put = self.host.put_manifest(repository, target, manifest, etag).await;
        put.map(|_| ())
    }

    /// Pushes a manifest by its digest and under several tags, in one request.
    ///
    /// The answer's `tags` are the tags that the registry confirms: none if the registry does not support such requests,
    /// which is remembered for its host. Returns `None` if nothing was sent for that reason, or if the registry refused.
    ///
    /// # Errors
    /// Those of [`put_manifest`](Self::put_manifest), except a refusal by the registry: a request with one tag may still
    /// succeed.
    pub(crate) async fn put_manifest_with_tags(
        &self,
        repository: &str,
        manifest: &RawManifest,
        tags: &[&str],
    ) -> Result<Option<AcceptedManifest>> {
        let known = &self.host.tags_at_once;
        if !known.may_try(tags.len()) {
            return Ok(None);
        }
        let target = Target::Digest(manifest.digest().clone());
        let put = self
            .host
            .put_manifest_and_tags(repository, &target, manifest, tags)
            .await;
        match put {
            Ok(accepted) => {
                known.learn(Some(!accepted.tags.is_empty()));
                Ok(Some(accepted))
            }
            Err(error) => {
                // Errors of these kinds would hit any other request, too, and say nothing about several tags at once.
                let refused = !matches!(
                    error.kind(),
                    Kind::Network | Kind::RateLimited | Kind::Unauthorized | Kind::Integrity | Kind::Cancelled
                );
                known.learn(refused.then_some(false));
                if refused { Ok(None) } else { Err(error) }
            }
        }
    }
}

enum Mount {
    Done,
    Upload(Session),
}

impl Host {
    /// Returns whether the registry kept an uploaded blob; asks the registry only if in doubt.
    async fn keeps_upload(&self, repository: &str, descriptor: &Descriptor) -> Fate {
        self.keeps(Accepted::Upload, repository, descriptor, &Scope::push(repository))
            .await
    }

    /// Returns whether the registry kept a mounted blob.
    /// Asks with the scope of the mount, so that no other token is needed.
    async fn keeps_mount(&self, repository: &str, descriptor: &Descriptor, from: &str) -> Fate {
        self.keeps(Accepted::Mount, repository, descriptor, &Scope::mount(repository, from))
            .await
    }

    async fn keeps(&self, accepted: Accepted, repository: &str, descriptor: &Descriptor, scope: &Scope) -> Fate {
        let pause = self.context.options.retry_pause();
        let ask = || self.head_blob(repository, descriptor, scope.clone());
        let fate = self.proof.check(accepted, pause, ask).await;
        if let Fate::FirstLost(_) = fate {
            self.context.options.progress.warn(format!(
                "`{}/{repository}` accepted blob {} and {}: every further blob is looked for, and none is mounted",
                self.name,
                descriptor.digest,
                fate.in_words(descriptor.size)
            ));
        }
        fate
    }

    /// Returns whether the registry has a manifest pushed by digest; asks the registry only if in doubt.
    async fn keeps_manifest(&self, repository: &str, manifest: &RawManifest) -> bool {
        let pause = self.context.options.retry_pause();
        let ask = || self.has_manifest(repository, manifest);
        let fate = self.manifest_proof.check(Accepted::Upload, pause, ask).await;
        if let Fate::FirstLost(_) = fate {
            self.context.options.progress.warn(format!(
                "`{}/{repository}` accepted manifest {} and does not have it: every further manifest below an index \
                 is looked for",
                self.name,
                manifest.digest()
            ));
        }
        fate == Fate::Kept
    }

    /// Returns the error for a blob that the registry accepted and lost.
    /// `kept` says whether the blob was sent twice.
    fn lost(&self, repository: &str, descriptor: &Descriptor, fate: Fate, kept: bool) -> Error {
        let often = if kept { "accepted it twice" } else { "accepted it" };
        let message = format!(
            "cannot upload blob {} to `{}/{repository}`: the registry {often} and {}",
            descriptor.digest,
            self.name,
            fate.in_words(descriptor.size)
        );
        let cause = format!("`{}` loses blobs that it accepts", self.name);
        Error::new(Kind::Server, message).with_cause(&cause).with_hint(if kept {
            LOSES
        } else {
            "the registry loses what it accepts, and data from a pipe cannot be sent again: import from a file"
        })
    }

    /// Requests a mount of another repository's blob. `None` if refused: a refusal costs only the request.
    async fn mount(&self, repository: &str, descriptor: &Descriptor, from: &str) -> Option<Mount> {
        let mut url = self.url(repository, "blobs/uploads/");
        url.set_query(Some(&format!(
            "mount={}&from={}",
            descriptor.digest,
            from.replace('/', "%2F")
        )));
        let action = format!(
            "cannot mount blob {} into `{}/{repository}`",
            descriptor.digest, self.name
        );
        let call = Call::new(Method::POST, url, repository, Scope::mount(repository, from), action).once();
        let answer = self.exchange(&call).await.ok()?;
        match answer.status() {
            StatusCode::CREATED => {
                answer.finish().await;
                Some(Mount::Done)
            }
            StatusCode::ACCEPTED => {
                let session = Session::from_answer(self, &answer).ok()?;
                answer.finish().await;
                Some(Mount::Upload(session))
            }
            _ => {
                answer.finish().await;
                None
            }
        }
    }

    async fn put_manifest(
        &self,
        repository: &str,
        target: &Target,
        manifest: &RawManifest,
        etag: Option<&str>,
    ) -> Result<AcceptedManifest> {
        let mut call = self.put_call(repository, target, manifest)?;
        // A weak tag never matches in `If-Match` (RFC 9110, section 13.1.1), so the registry would refuse every write.
        let etag = etag.filter(|etag| !etag.starts_with("W/"));
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            call = call.header(IF_MATCH, etag);
        }
        self.send_manifest(&call, target, manifest, &[]).await
    }

    /// Pushes a manifest by its digest and, if the registry supports that, under several tags.
    pub(super) async fn put_manifest_and_tags(
        &self,
        repository: &str,
        target: &Target,
        manifest: &RawManifest,
        tags: &[&str],
    ) -> Result<AcceptedManifest> {
        let mut call = self.put_call(repository, target, manifest)?;
        let named = tags.iter().map(|tag| ("tag", *tag));
        call.url.query_pairs_mut().extend_pairs(named);
        self.send_manifest(&call, target, manifest, tags).await
    }

    fn put_call<'a>(&self, repository: &'a str, target: &Target, manifest: &RawManifest) -> Result<Call<'a>> {
        let action = format!("cannot push manifest `{target}` to `{}/{repository}`", self.name);
        let content_type = HeaderValue::try_from(manifest.media_type()).map_err(|e| {
            Error::new(Kind::Malformed, format!("{action}: its media type fits no HTTP header")).with_source(e)
        })?;
        let url = self.url(repository, &format!("manifests/{target}"));
        let mut call = Call::new(Method::PUT, url, repository, Scope::push(repository), action)
            .header(CONTENT_TYPE, content_type)
            // Not repeated blindly: `send_manifest` checks first whether an attempt without an answer took effect.
            .once();
        call.body = Some(manifest.bytes().clone());
        Ok(call)
    }

    async fn send_manifest(
        &self,
        call: &Call<'_>,
        target: &Target,
        manifest: &RawManifest,
        tags: &[&str],
    ) -> Result<AcceptedManifest> {
        let writer = self.writer(call.repository);
        let _alone = writer.lock().await;
        let check = self.breaker_of_writes(Content::Manifest).check();
        check.map_err(|error| error.context(&call.action))?;
        let sent = self.try_manifest(call, target, manifest, tags).await;
        self.count_write(Content::Manifest, call.repository, &sent);
        sent
    }

    async fn try_manifest(
        &self,
        call: &Call<'_>,
        target: &Target,
        manifest: &RawManifest,
        tags: &[&str],
    ) -> Result<AcceptedManifest> {
        let mut backoff = Backoff::new(&self.context.options);
        // The bytes were verified before sending: if the registry got other bytes, they were corrupted in transit. They are
        // sent once more, so that the corrupted bytes do not stay under the tag.
        let mut resent_after_corruption = false;
        let mut attempts = 0;
        loop {
            let begun = Instant::now();
            attempts += 1;
            let mut way = None;
            let (error, asked) = match self.exchange(call).await {
                Ok(answer) if answer.status().is_success() => {
                    match self.accepted(answer, &call.action, manifest, tags).await {
                        Err(error) if error.kind() == Kind::Integrity && !resent_after_corruption => {
                            resent_after_corruption = true;
                            (error, None)
                        }
                        other => return other,
                    }
                }
                Ok(mut answer) if is_passing(answer.status()) => {
                    if let Some(error) = answer.long_pause().await {
                        return Err(error.context(&call.action));
                    }
                    let asked = retry_after(answer.headers(), SystemTime::now());
                    self.throttled(answer.status(), asked, begun);
                    way = Some(FailureMode::Status(answer.status()));
                    (answer.into_error(&call.action).await, asked)
                }
                Ok(answer) => {
                    let status = answer.status();
                    let error = answer.into_error(&call.action).await;
                    let other = Refusal::in_error(&error).is_some_and(|refusal| refusal.has("DIGEST_INVALID"));
                    if !other || resent_after_corruption {
                        return Err(manifest_refused(error, status, manifest));
                    }
                    resent_after_corruption = true;
                    (error, None)
                }
                Err(error) if error.kind() == Kind::Network => {
                    way = Some(FailureMode::Broken);
                    (error, None)
                }
                Err(error) => return Err(error),
            };
            let pause = self.pause(&mut backoff, way.map(Into::into), attempts, asked, || error.full());
            if !self.breaker_of_writes(Content::Manifest).wait(pause).await {
                if let Some(mode) = way {
                    self.gave_up(mode.into(), call.repository, without_object(&error), false)
                        .await;
                }
                return Err(error);
            }
            // The first attempt may have succeeded and only its answer was lost; immutable tags would refuse a second PUT.
            if self.holds(call.repository, target, manifest, &mut backoff).await {
                return Ok(AcceptedManifest::default());
            }
        }
    }

    async fn holds(&self, repository: &str, target: &Target, manifest: &RawManifest, backoff: &mut Backoff) -> bool {
        let head = self.head_manifest_within(repository, target, backoff).await;
        matches!(head, Ok(Presence::Present(head)) if head.digest.as_ref().is_some_and(|held| manifest.has_digest(held)))
    }

    async fn accepted(
        &self,
        answer: Answer,
        action: &str,
        manifest: &RawManifest,
        tags: &[&str],
    ) -> Result<AcceptedManifest> {
        if answer.is_web_page() {
            return Err(web_page(&self.name, action));
        }
        let stated = answer.digest();
        let listed = answer
            .named("oci-subject")
            .and_then(|subject| subject.trim().parse().ok());
        let accepted = AcceptedManifest {
            lists_referrer: listed.is_some() && listed == referrer::subject(manifest),
            tags: confirmed(&answer, tags),
        };
        answer.finish().await;
        match stated {
            Some(stated) if !manifest.has_digest(&stated) => Err(Error::new(
                Kind::Integrity,
                format!(
                    "{action}: the registry altered the manifest: {} was sent, it states {stated}",
                    manifest.digest()
                ),
            )),
            _ => Ok(accepted),
        }
    }
}

const LOSES: &str = "the registry loses what it accepts: check its storage, and the proxies in front of it";
const UNKNOWN_TYPE: &str = "the registry does not take this kind of manifest";
const TOO_LARGE: &str = "the manifest is larger than the registry, or a proxy in front of it, allows";

/// Converts the refusal of a manifest into an error with a hint for the user.
fn manifest_refused(error: Error, status: StatusCode, manifest: &RawManifest) -> Error {
    let refusal = Refusal::in_error(&error).filter(|refusal| !refusal.is_silent());
    let Some(refusal) = refusal else {
        return status_alone(error, status, manifest);
    };
    let again = |kind, hint: &str| error.clone().with_kind(kind).with_hint(hint);
    let text = refusal.to_string().to_ascii_lowercase();
    if refusal.has("TAG_INVALID") || text.contains("immutable") {
        // Without a shared cause: the answer depends on the tag.
        return Error::new(Kind::Exists, error.to_string())
            .with_source(refusal.clone())
            .with_hint("the registry does not let this tag be changed; choose another tag, or have the rule lifted");
    }
    if refusal.is_full() {
        return again(Kind::Denied, FULL);
    }
    if refusal.has("NAME_UNKNOWN") {
        return again(
            Kind::NotFound,
            "this registry wants repositories or projects to be created first",
        );
    }
    let index = matches!(manifest.view(), View::Index(_));
    match refusal.status {
        400 | 404
            if index
                && (refusal.status == 404
                    || refusal.has("MANIFEST_BLOB_UNKNOWN")
                    || refusal.has("MANIFEST_INVALID")
                    || refusal.has("MANIFEST_UNKNOWN")) =>
        {
            again(
                Kind::Unsupported,
                "the registry wants every manifest that an index lists; choose `--index filtered`, or carry all platforms",
            )
        }
        400 | 404 if refusal.has("MANIFEST_BLOB_UNKNOWN") || refusal.has("BLOB_UNKNOWN") => again(
            Kind::NotFound,
            "the registry lost a blob that it had accepted; run again",
        ),
        400 | 415 if refusal.has("MANIFEST_INVALID") || refusal.status == 415 => again(Kind::Unsupported, UNKNOWN_TYPE),
        413 => again(Kind::Unsupported, TOO_LARGE),
        _ => error,
    }
}

/// Converts the refusal of a manifest without a reason into an error with a hint.
fn status_alone(error: Error, status: StatusCode, manifest: &RawManifest) -> Error {
    let index = matches!(manifest.view(), View::Index(_));
    match status {
        StatusCode::NOT_FOUND if index => Error::new(Kind::Unsupported, error.to_string())
            .with_hint("the registry may want every manifest that an index lists"),
        StatusCode::PAYLOAD_TOO_LARGE => error.with_hint(TOO_LARGE),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => error.with_hint(UNKNOWN_TYPE),
        _ => error,
    }
}
