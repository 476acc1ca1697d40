//! Referrers of images: signatures, attestations and SBOMs as cosign and oras store them in a registry.

use serde_json::{Value, json};

use super::double::Double;
use super::image::Document;
use super::store::sha256;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Artifact type of referrers that cosign 3 writes.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
pub const SBOM: &str = "application/spdx+json";
/// Media type of the layer of a cosign 2 signature.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Stores a referrer of `subject` with the content `text` in a repository. If the registry has no referrers API, also adds
/// the referrer to the list under the referrers tag.
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

/// Returns the tag that lists the referrers of a manifest, in which a long digest is cut (OCI distribution-spec, "Referrers Tag
/// Schema").
pub fn referrers_tag(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').unwrap();
    format!("{algorithm}-{}", &hex[..64])
}

/// Adds a manifest to the list under the referrers tag of its subject.
pub fn list(registry: &Double, repository: &str, subject: &Document, manifest: &Document) {
    let tag = referrers_tag(&subject.digest);
    let mut listed = listed(registry, repository, subject);
    listed.push(Value::Object(manifest.descriptor()));
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed});
    registry
        .store()
        .put_manifest(repository, Some(&tag), OCI_INDEX, index.to_string().into());
}

/// Returns the entries of the list under the referrers tag of a subject.
pub fn listed(registry: &Double, repository: &str, subject: &Document) -> Vec<Value> {
    let tag = referrers_tag(&subject.digest);
    let there = registry.manifest(repository, &tag);
    let there: Option<Value> = there.map(|bytes| serde_json::from_slice(&bytes).unwrap());
    there.map_or_else(Vec::new, |index| index["manifests"].as_array().unwrap().clone())
}

/// Stores a cosign 2 signature (`sig`), attestation (`att`) or SBOM (`sbom`) under cosign's tag for an image.
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
    let tag = format!("{}.{suffix}", referrers_tag(&subject.digest));
    store.put_manifest(repository, Some(&tag), OCI_MANIFEST, manifest.bytes.clone());
    manifest
}
