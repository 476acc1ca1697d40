//! Referrers of a manifest, recognised by their subject field (OCI distribution-spec, "Referrers") or by cosign's tags.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::digest::Digest;
use super::manifest::annotation::CONTAINERD_SUBJECT;
use super::manifest::{RawManifest, View};

/// Annotation of a layer with its signature (cosign, SIGNATURE_SPEC.md).
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// Suffixes of the tags under which cosign stores the signatures, attestations and SBOMs of an image.
pub(crate) const SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// Returns cosign's tag for an image, such as `sha256-HEX.sig`.
pub(crate) fn tag_beside(subject: &Digest, suffix: &str) -> String {
    format!("{}.{suffix}", subject.referrers_tag())
}

/// Parses a tag of cosign into the digest of its subject and the suffix of the tag.
pub(crate) fn parse_tag_beside(tag: &str) -> Option<(Digest, &'static str)> {
    let (subject, end) = tag.split_once('.')?;
    let suffix = SUFFIXES.into_iter().find(|suffix| *suffix == end)?;
    let subject = subject.replacen('-', ":", 1).parse().ok()?;
    Some((subject, suffix))
}

/// Returns whether a tag has the form of a list of referrers: `sha256-HEX`.
pub(crate) fn is_referrers_tag(tag: &str) -> bool {
    let hex = tag.strip_prefix("sha256-").or_else(|| tag.strip_prefix("sha512-"));
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// Returns the digest of the subject that a manifest states.
pub(crate) fn subject(manifest: &RawManifest) -> Option<Digest> {
    let stated = match manifest.view() {
        View::Index(index) => index.subject.as_ref(),
        View::Image(image) => image.subject.as_ref(),
        View::Other { .. } => {
            let document = document(manifest);
            return document.get("subject")?.get("digest")?.as_str()?.parse().ok();
        }
    };
    stated.map(|subject| subject.digest.clone())
}

/// Returns the artifact type of a referrer, else the type of its config (OCI distribution-spec, "Listing Referrers").
///
/// With `is_tagged`, the type of the first layer replaces the type of the config: manifests under a tag of cosign have the
/// config of an image.
pub(crate) fn artifact_type(manifest: &RawManifest, is_tagged: bool) -> String {
    let stated = document(manifest);
    let stated = stated.get("artifactType").and_then(Value::as_str);
    if let Some(stated) = stated.filter(|stated| !stated.is_empty()) {
        return stated.to_owned();
    }
    match manifest.view() {
        View::Image(image) => match image.layers.first().filter(|_| is_tagged) {
            Some(layer) => layer.media_type.clone(),
            None => image.config.media_type.clone(),
        },
        _ => manifest.media_type().to_owned(),
    }
}

/// Returns the entry of a referrer in a list of referrers: its descriptor with artifact type and annotations.
pub(crate) fn list_entry(manifest: &RawManifest) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("mediaType".into(), manifest.media_type().into());
    entry.insert("digest".into(), manifest.digest().to_string().into());
    entry.insert("size".into(), manifest.descriptor().size.into());
    let is_index = matches!(manifest.view(), View::Index(_));
    let document = document(manifest);
    if !is_index || document.contains_key("artifactType") {
        entry.insert("artifactType".into(), artifact_type(manifest, false).into());
    }
    if let Some(annotations) = document.get("annotations").filter(|found| found.is_object()) {
        entry.insert("annotations".into(), annotations.clone());
    }
    entry
}

/// Returns the entry of a referrer in the index of a layout, with containerd's annotation for the subject.
///
/// Annotations that would name an image of the layout are removed from the entry.
pub(crate) fn layout_entry(manifest: &RawManifest, subject: &Digest) -> Map<String, Value> {
    let mut entry = list_entry(manifest);
    let mut annotations = match entry.remove("annotations") {
        Some(Value::Object(annotations)) => annotations,
        _ => Map::new(),
    };
    annotations.retain(|key, _| !super::manifest::annotation::NAMES.contains(&key.as_str()));
    annotations.insert(CONTAINERD_SUBJECT.into(), subject.to_string().into());
    entry.insert("annotations".into(), Value::Object(annotations));
    entry
}

/// Returns whether the signature `there` has every layer of the signature `wanted`, as after a second signing.
pub(crate) fn has_all_layers(there: &RawManifest, wanted: &RawManifest) -> bool {
    let (View::Image(_), View::Image(_)) = (there.view(), wanted.view()) else {
        return false;
    };
    let (there, wanted) = (document(there), document(wanted));
    let there: HashSet<_> = layers(&there).map(signature_identity).collect();
    let mut wanted = layers(&wanted).map(signature_identity).peekable();
    wanted.peek().is_some() && wanted.all(|layer| there.contains(&layer))
}

fn layers(manifest: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    manifest.get("layers").and_then(Value::as_array).into_iter().flatten()
}

/// Returns the digest and the signature of a layer, which together identify a cosign signature.
///
/// Signatures by two keys may have layers with the same content, which differ only in the annotation with the signature.
pub(crate) fn signature_identity(layer: &Value) -> (&str, &str) {
    let signature = layer.get("annotations").and_then(|it| it.get(SIGNATURE));
    let digest = layer.get("digest").and_then(Value::as_str).unwrap_or_default();
    (digest, signature.and_then(Value::as_str).unwrap_or_default())
}

/// Returns the fields of a manifest. The bytes are known to be JSON, since they were parsed before.
fn document(manifest: &RawManifest) -> Map<String, Value> {
    serde_json::from_slice(manifest.bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_beside_an_image_tell_which_one() {
        let digest = Digest::sha256(b"image");
        for suffix in SUFFIXES {
            assert_eq!(
                parse_tag_beside(&tag_beside(&digest, suffix)),
                Some((digest.clone(), suffix))
            );
        }
        let hex = digest.hex();
        for other in [
            "latest".to_owned(),
            format!("sha256-{hex}"),
            format!("sha256-{hex}.sign"),
            format!("sha256-{}.sig", &hex[1..]),
            digest.image_tag(),
        ] {
            assert_eq!(parse_tag_beside(&other), None, "{other}");
        }
    }

    #[test]
    fn signatures_of_two_keys_with_one_content_are_two() {
        let (config, layer) = (Digest::sha256(b"{}"), Digest::sha256(b"payload"));
        let signed = |signatures: &[&str]| {
            let layers = signatures.iter().map(|signature| {
                format!(
                    r#"{{"mediaType":"a/b","digest":"{layer}","size":7,"annotations":{{"{SIGNATURE}":"{signature}"}}}}"#
                )
            });
            let layers = layers.collect::<Vec<_>>().join(",");
            let text = format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"c/d","digest":"{config}","size":2}},"layers":[{layers}]}}"#
            );
            RawManifest::new(text.into_bytes().into(), None, None).unwrap()
        };
        let (ours, theirs, both) = (signed(&["one"]), signed(&["two"]), signed(&["two", "one"]));
        assert!(!has_all_layers(&theirs, &ours));
        assert!(has_all_layers(&both, &ours) && has_all_layers(&both, &theirs) && !has_all_layers(&ours, &both));
        assert!(!has_all_layers(&both, &signed(&[])));
    }

    #[test]
    fn only_a_bare_digest_is_a_tag_that_lists_referrers() {
        let digest = Digest::sha256(b"image");
        assert!(is_referrers_tag(&digest.referrers_tag()));
        for other in [digest.image_tag(), tag_beside(&digest, "sig"), "sha256-1".to_owned()] {
            assert!(!is_referrers_tag(&other), "{other}");
        }
    }

    #[test]
    fn the_entry_of_a_referrer_has_its_type_and_annotations() {
        let subject = Digest::sha256(b"image");
        let config = Digest::sha256(b"{}");
        for (own, expected) in [
            (r#""artifactType":"a/b","#, "a/b"),
            (r#""artifactType":"","#, "c/d"),
            ("", "c/d"),
        ] {
            let text = format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",{own}"config":{{"mediaType":"c/d","digest":"{config}","size":2}},"layers":[],"subject":{{"mediaType":"x/y","digest":"{subject}","size":5}},"annotations":{{"k":"v","org.opencontainers.image.ref.name":"evil"}}}}"#
            );
            let manifest = RawManifest::new(text.into_bytes().into(), None, None).unwrap();
            assert_eq!(super::subject(&manifest), Some(subject.clone()));
            let entry = list_entry(&manifest);
            assert_eq!(entry["artifactType"], expected);
            assert_eq!(entry["annotations"]["k"], "v");
            let entry = layout_entry(&manifest, &subject);
            assert_eq!(entry["annotations"][CONTAINERD_SUBJECT], subject.to_string());
            assert!(entry["annotations"].get("org.opencontainers.image.ref.name").is_none());
        }
    }
}
