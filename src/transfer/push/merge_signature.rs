//! Merges two signatures of one image under one cosign tag into one manifest.
//! The manifest has the layers of both, as cosign writes it when an image is signed a second time.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use serde_json::{Map, Value, json};

use super::put_manifest::ManifestPutter;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::manifest::{RawManifest, View};
use crate::image::media_type::is_layer;
use crate::image::reference::Target;
use crate::image::referrer::{has_all_layers, signature_identity};
use crate::registry::{BlobSource, BlobStream, Refusal};

/// Maximum number of rounds of reading, extending and writing a tag while other clients write to it.
const ROUNDS: u32 = 5;

/// Adds the layers of a signature to the signature that a tag holds.
/// The layers must already be in the repository.
///
/// # Errors
/// Errors of the registry; [`Kind::Malformed`] if a manifest is no signature; [`Kind::Exists`] if other clients changed the
/// tag in each round.
pub(super) async fn merge(putter: &ManifestPutter, tag: &str, ours: &RawManifest) -> Result<()> {
    let (registry, repository) = (&putter.registry, putter.repository());
    let target = Target::Tag(tag.to_owned());
    let mut refused = None;
    for _ in 0..ROUNDS {
        let Some((held, etag)) = registry.manifest_and_etag(repository, &target).await? else {
            return registry.put_manifest(repository, &target, ours).await.map(|_| ());
        };
        if has_all_layers(&held, ours) {
            return Ok(());
        }
        let config_of_held = config_of_signature(&held)?;
        let config = registry.small_blob(repository, config_of_held).await?;
        let (merged, config) = merged(&held, ours, &config)?;
        let descriptor = Descriptor::from_content(&config_of_held.media_type, &config);
        registry
            .push_blob(repository, &descriptor, &InMemory(config), None)
            .await?;
        // Another client may have written the tag during the push of the config, which takes several requests.
        let now = registry.manifest_and_etag(repository, &target).await?;
        if now.is_none_or(|(now, _)| now.digest() != held.digest()) {
            continue;
        }
        match registry
            .put_manifest_over(repository, &target, &merged, etag.as_deref())
            .await
        {
            // The next round reads the tag again, since another client may have replaced it.
            Ok(()) => refused = None,
            // Some registries answer the same for a tag that may not be moved.
            Err(error) if Refusal::in_error(&error).is_some_and(|refusal| refusal.status == 412) => {
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match registry.manifest_and_etag(repository, &target).await? {
        Some((held, _)) if has_all_layers(&held, ours) => Ok(()),
        _ => {
            let why = refused.map_or_else(String::new, |error| format!(": {}", error.full()));
            let what = format!("other programs changed the tag `{tag}` at the same time{why}");
            Err(Error::new(Kind::Exists, what))
        }
    }
}

/// Returns the config of a signature.
///
/// # Errors
/// [`Kind::Malformed`] if the manifest is no signature that layers can be added to.
pub(super) fn config_of_signature(held: &RawManifest) -> Result<&Descriptor> {
    match held.view() {
        View::Image(image) if !image.layers.iter().any(|layer| is_layer(&layer.media_type)) => Ok(&image.config),
        _ => Err(no_signature(held)),
    }
}

/// Returns a manifest with the layers of both signatures, and its config.
fn merged(held: &RawManifest, ours: &RawManifest, config: &[u8]) -> Result<(RawManifest, Bytes)> {
    let mut manifest = object(held.bytes()).ok_or_else(|| no_signature(held))?;
    let theirs = object(ours.bytes()).ok_or_else(|| no_signature(ours))?;
    let mut config = object(config).ok_or_else(|| no_signature(held))?;
    let layers = manifest.get_mut("layers").and_then(Value::as_array_mut);
    let layers = layers.ok_or_else(|| no_signature(held))?;
    let digest = |layer: &Value| layer.get("digest").cloned().unwrap_or_default();
    let there: HashSet<_> = layers.iter().map(signature_identity).collect();
    let new = theirs.get("layers").and_then(Value::as_array).into_iter().flatten();
    let new = new.filter(|layer| !there.contains(&signature_identity(layer)));
    let new: Vec<Value> = new.cloned().collect();
    // Layers of signatures are not compressed, so the digest of a layer is also its diff ID.
    let ids = config.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids"));
    if let Some(ids) = ids.and_then(Value::as_array_mut) {
        ids.extend(new.iter().map(digest));
    }
    if let Some(history) = config.get_mut("history").and_then(Value::as_array_mut) {
        history.extend(new.iter().map(|_| json!({"created": "0001-01-01T00:00:00Z"})));
    }
    layers.extend(new);
    let config: Bytes = write(&config)?.into();
    if let Some(descriptor) = manifest.get_mut("config").and_then(Value::as_object_mut) {
        let of = Descriptor::from_content("", &config);
        descriptor.insert("digest".to_owned(), of.digest.to_string().into());
        descriptor.insert("size".to_owned(), of.size.into());
        descriptor.remove("data");
    }
    let manifest = RawManifest::new(write(&manifest)?.into(), Some(held.media_type()), None)?;
    Ok((manifest, config))
}

fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(bytes).ok()
}

fn write(document: &Map<String, Value>) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|e| Error::new(Kind::Malformed, "cannot write JSON").with_source(e))
}

/// Returns the error for a manifest that is no signature.
fn no_signature(manifest: &RawManifest) -> Error {
    Error::new(
        Kind::Malformed,
        format!("{} is no signature that another one can be added to", manifest.digest()),
    )
}

/// A blob in memory, as a source for a push.
struct InMemory(Bytes);

impl BlobSource for InMemory {
    fn open<'a>(&'a self, _descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        let rest = self
            .0
            .slice(usize::try_from(offset).map_or(self.0.len(), |at| at.min(self.0.len()))..);
        Box::pin(async move { Ok(stream::iter((!rest.is_empty()).then_some(Ok(rest))).boxed()) })
    }
}
