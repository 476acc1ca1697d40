//! What refers to images: signatures, attestations and SBOMs as cosign and oras put them into a registry.

use serde_json::{Value, json};

use super::double::Double;
use super::image::Document;
use super::store::sha256;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The artifact type of what cosign 3 writes.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
pub const SBOM: &str = "application/spdx+json";
/// The layer of a signature of cosign 2.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Puts a manifest that refers to `subject` into a repository, and into the list under the tag of the subject where the registry
/// lists none itself. Its content is `text`.
pub fn refer(registry: &Double, repository: &str, subject: &Document, artifact_type: &str, text: &str) -> Document {
    let store = registry.store();
    let config = store.put_blob(repository, "{}");
    let layer = store.put_blob(repository, text.to_owned());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2,
            "artifactType": "text/odd"},
        "layers": [{"mediaType": artifact_type, "digest": layer, "size": text.len()}],
        "subject": subject.descriptor(), "annotations": {"text": text},
    });
    let manifest = Document::new(OCI_MANIFEST, manifest.to_string());
    store.put_manifest(repository, None, OCI_MANIFEST, manifest.bytes.clone());
    if registry.has_no_referrers() {
        list(registry, repository, subject, &manifest);
    }
    manifest
}

/// Adds a manifest to the list under the tag of its subject.
pub fn list(registry: &Double, repository: &str, subject: &Document, manifest: &Document) {
    let tag = subject.digest.replacen(':', "-", 1);
    let mut listed = listed(registry, repository, subject);
    listed.push(Value::Object(manifest.descriptor()));
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed});
    registry
        .store()
        .put_manifest(repository, Some(&tag), OCI_INDEX, index.to_string().into());
}

/// The entries under the tag of a subject.
pub fn listed(registry: &Double, repository: &str, subject: &Document) -> Vec<Value> {
    let tag = subject.digest.replacen(':', "-", 1);
    let there = registry.manifest(repository, &tag);
    let there: Option<Value> = there.map(|bytes| serde_json::from_slice(&bytes).unwrap());
    there.map_or_else(Vec::new, |index| index["manifests"].as_array().unwrap().clone())
}

/// Puts a signature of cosign 2 (`sig`), or what is like it (`att`, `sbom`), beside an image.
pub fn beside(registry: &Double, repository: &str, subject: &Document, suffix: &str, text: &str) -> Document {
    let store = registry.store();
    let payload =
        json!({"critical": {"image": {"docker-manifest-digest": subject.digest}}, "optional": text}).to_string();
    let layer = store.put_blob(repository, payload.clone());
    let config =
        json!({"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": [sha256(payload.as_bytes())]}});
    let config = config.to_string();
    let config_digest = store.put_blob(repository, config.clone());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": SIMPLE_SIGNING, "digest": layer, "size": payload.len(),
            "annotations": {"dev.cosignproject.cosign/signature": text}}],
    });
    let manifest = Document::new(OCI_MANIFEST, manifest.to_string());
    let tag = format!("{}.{suffix}", subject.digest.replacen(':', "-", 1));
    store.put_manifest(repository, Some(&tag), OCI_MANIFEST, manifest.bytes.clone());
    manifest
}
