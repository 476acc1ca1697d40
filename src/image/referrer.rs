//! Referrers of a manifest, recognised by their subject field (OCI distribution-spec, "Referrers") or by cosign's tags.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::digest::Digest;
use super::head::check_media_type;
use super::manifest::annotation::CONTAINERD_SUBJECT;
use super::manifest::{RawManifest, View};
use crate::error::{Error, Kind, Result};

/// Maximum size in bytes of the annotations of a referrer that are copied to a list of referrers, and maximum number of them.
/// Larger annotations are in the manifest alone: those of many referrers would make a list too large for its readers.
const MAX_COPIED: (usize, usize) = (16 << 10, 999);

/// Annotation of a layer with its signature (cosign, SIGNATURE_SPEC.md).
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// Suffixes of the tags under which cosign stores the signatures, attestations and SBOMs of an image.
pub(crate) const SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// Returns cosign's tag for an image, such as `sha256-HEX.sig`.
pub(crate) fn tag_beside(subject: &Digest, suffix: &str) -> String {
    format!("{}.{suffix}", subject.referrers_tag())
}

/// Parses a tag of cosign into the referrers tag of its subject and the suffix of the tag.
///
/// The tag does not tell the whole digest of the subject: a tag is too short for a SHA-512 digest, which is truncated.
pub(crate) fn parse_tag_beside(tag: &str) -> Option<(&str, &'static str)> {
    let (subject, end) = tag.split_once('.')?;
    let suffix = SUFFIXES.into_iter().find(|suffix| *suffix == end)?;
    is_referrers_tag(subject).then_some((subject, suffix))
}

/// Returns whether a tag has the form of a list of referrers: `sha256-HEX`.
pub(crate) fn is_referrers_tag(tag: &str) -> bool {
    let hex = tag.strip_prefix("sha256-").or_else(|| tag.strip_prefix("sha512-"));
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// Returns the digest of the subject that a manifest states.
pub(crate) fn subject(manifest: &RawManifest) -> Option<Digest> {
    let stated = match manifest.view() {
        View::Index(index) => index.subject.as_deref(),
        View::Image(image) => image.subject.as_deref(),
        View::Other { .. } => {
            let document = document(manifest);
            return document.get("subject")?.get("digest")?.as_str()?.parse().ok();
        }
    };
    stated.map(|subject| subject.digest.clone())
}

/// Checks the fields of a referrer that are copied to lists of referrers: one entry of a wrong type would make the whole list
/// unreadable for other programs.
///
/// # Errors
/// [`Kind::Malformed`] if the annotations are not texts, or the artifact type is no text or too long.
pub(crate) fn check_listed_fields(manifest: &RawManifest) -> Result<()> {
    let document = document(manifest);
    let is_text = |value: &Value| matches!(value, Value::Null | Value::String(_));
    let what = match (document.get("annotations"), document.get("artifactType")) {
        (_, Some(artifact_type)) if !is_text(artifact_type) => "its artifact type is no text",
        (Some(Value::Object(annotations)), _) if annotations.values().all(is_text) => "",
        (None | Some(Value::Null), _) => "",
        (Some(Value::Object(_)), _) => "its annotations are not all texts",
        (Some(_), _) => "its annotations are no object",
    };
    if !what.is_empty() {
        return Err(Error::new(Kind::Malformed, what));
    }
    check_media_type(Some(&artifact_type(manifest, false)))
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
            Some(layer) => layer.media_type.to_string(),
            None => image.config.media_type.to_string(),
        },
        _ => manifest.media_type().to_owned(),
    }
}

/// Returns the entry of a referrer in a list of referrers: its descriptor with artifact type and annotations, unless these are
/// large.
pub(crate) fn list_entry(manifest: &RawManifest) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("mediaType".into(), manifest.media_type().into());
    entry.insert("digest".into(), manifest.digest().to_string().into());
    entry.insert("size".into(), manifest.descriptor().size.into());
    let is_index = matches!(manifest.view(), View::Index(_));
    let mut document = document(manifest);
    let kind = artifact_type(manifest, false);
    let has_kind = !is_index || document.contains_key("artifactType");
    if has_kind && !kind.is_empty() && check_media_type(Some(&kind)).is_ok() {
        entry.insert("artifactType".into(), kind.into());
    }
    if let Some(Value::Object(mut annotations)) = document.remove("annotations") {
        // Programs with fixed types cannot read a list with any other value.
        annotations.retain(|_, value| value.is_string());
        let texts = annotations
            .iter()
            .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
        if texts.sum::<usize>() <= MAX_COPIED.0 && annotations.len() <= MAX_COPIED.1 {
            entry.insert("annotations".into(), Value::Object(annotations));
        }
    }
    entry
}

/// Returns the entry of a referrer in the index of a layout, with containerd's annotation for the subject.
///
/// Annotations that would name an image of the layout are removed from the entry, and so are all of them if `with_annotations`
/// is not set.
pub(crate) fn layout_entry(manifest: &RawManifest, subject: &Digest, with_annotations: bool) -> Map<String, Value> {
    let mut entry = list_entry(manifest);
    let mut annotations = match entry.remove("annotations") {
        Some(Value::Object(annotations)) if with_annotations => annotations,
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
        let long: Digest = format!("sha512:{}", "0a".repeat(64)).parse().unwrap();
        for (digest, suffix) in [&digest, &long]
            .into_iter()
            .flat_map(|digest| SUFFIXES.map(|it| (digest, it)))
        {
            assert_eq!(
                parse_tag_beside(&tag_beside(digest, suffix)),
                Some((&*digest.referrers_tag(), suffix))
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
    fn fields_that_no_list_of_referrers_may_have_are_found_and_never_copied() {
        let (config, long) = (Digest::sha256(b"{}"), "x".repeat(20_000));
        let many: Vec<String> = (0..1000).map(|number| format!(r#""{number}":"""#)).collect();
        for (fields, is_right, copied) in [
            (String::new(), true, 0),
            (r#","annotations":null"#.to_owned(), true, 0),
            (r#","annotations":{"a":"b","c":null}"#.to_owned(), true, 1),
            (r#","annotations":{"a":5,"c":"d"}"#.to_owned(), false, 1),
            (r#","annotations":{"a":{"b":"c"}}"#.to_owned(), false, 0),
            (r#","annotations":[1]"#.to_owned(), false, 0),
            (r#","annotations":"x""#.to_owned(), false, 0),
            (r#","artifactType":5"#.to_owned(), false, 0),
            (format!(r#","artifactType":"{long}""#), false, 0),
            // Annotations that would fill the index of a layout stay in the manifest.
            (format!(r#","annotations":{{"a":"{long}"}}"#), true, 0),
            (format!(r#","annotations":{{{}}}"#, many.join(",")), true, 0),
        ] {
            let text = format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"digest":"{config}","size":2}},"layers":[]{fields}}}"#
            );
            let about = &fields[..fields.len().min(60)];
            let manifest = RawManifest::new(text.into_bytes().into(), None, None).unwrap();
            assert_eq!(check_listed_fields(&manifest).is_ok(), is_right, "{about}");
            let entry = layout_entry(&manifest, &config, true);
            let annotations = entry["annotations"].as_object().unwrap();
            assert!(annotations.values().all(Value::is_string), "{about}");
            assert_eq!(annotations.len(), copied + 1, "{about}");
            let in_list = list_entry(&manifest).remove("annotations");
            assert_eq!(in_list.map_or(0, |it| it.as_object().unwrap().len()), copied, "{about}");
            assert_eq!(
                layout_entry(&manifest, &config, false)["annotations"]
                    .as_object()
                    .unwrap()
                    .len(),
                1
            );
            // The config has no type, and neither has the entry.
            assert!(!entry.contains_key("artifactType"), "{about}");
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
            let entry = layout_entry(&manifest, &subject, true);
            assert_eq!(entry["annotations"][CONTAINERD_SUBJECT], subject.to_string());
            assert!(entry["annotations"].get("org.opencontainers.image.ref.name").is_none());
        }
    }
}
