//! Maintains the list of referrers of a manifest at registries without the referrers API.
//!
//! Format: OCI distribution-spec, "Referrers Tag Schema".

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::media_type::OCI_INDEX;
use crate::image::referrer;

/// Entries that the destination's list of referrers must contain, by subject.
pub(super) type Unlisted = BTreeMap<Digest, Vec<Map<String, Value>>>;

/// Records a manifest with a subject, if the registry did not confirm to list it as a referrer.
pub(super) fn note_unlisted(unlisted: &mut Unlisted, manifest: &RawManifest) {
    if let Some(subject) = referrer::subject(manifest) {
        let (entries, entry) = (unlisted.entry(subject).or_default(), referrer::list_entry(manifest));
        // A manifest with a tag is put twice, and listed once.
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
}

/// Returns the entries that a list does not contain.
pub(super) fn lacking<'a>(
    entries: &'a [Map<String, Value>],
    has: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = &'a Map<String, Value>> {
    let digest = |entry: &Map<String, Value>| {
        entry
            .get("digest")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    entries.iter().filter(move |entry| !has(&digest(entry)))
}

/// Returns a list with the given entries added, or `None` if it already contains all of them.
/// The rest of the list is unchanged.
pub(super) fn merged(held: Option<&RawManifest>, entries: &[Map<String, Value>]) -> Result<Option<RawManifest>> {
    let broken =
        |e: serde_json::Error| Error::new(Kind::Malformed, "the list of referrers is no JSON object").with_source(e);
    let mut list: Map<String, Value> = match held {
        Some(held) => serde_json::from_slice(held.bytes()).map_err(broken)?,
        None => Map::from_iter([
            ("schemaVersion".to_owned(), Value::from(2)),
            ("mediaType".to_owned(), Value::from(OCI_INDEX)),
        ]),
    };
    let manifests = list.entry("manifests").or_insert_with(|| Value::Array(Vec::new()));
    if manifests.is_null() {
        *manifests = Value::Array(Vec::new());
    }
    let Some(manifests) = manifests.as_array_mut() else {
        return Err(Error::new(Kind::Malformed, "the list of referrers has no `manifests`"));
    };
    let there: HashSet<String> = manifests
        .iter()
        .filter_map(|entry| Some(entry.get("digest")?.as_str()?.to_owned()))
        .collect();
    let new: Vec<Value> = lacking(entries, |digest| there.contains(digest))
        .map(|entry| Value::Object(entry.clone()))
        .collect();
    if new.is_empty() {
        return Ok(None);
    }
    manifests.extend(new);
    let bytes = serde_json::to_vec(&list).map_err(broken)?;
    let media_type = held.map_or(OCI_INDEX, RawManifest::media_type);
    RawManifest::new(bytes.into(), Some(media_type), None).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::View;

    fn entry(text: &str) -> Map<String, Value> {
        Map::from_iter([
            (
                "mediaType".to_owned(),
                Value::from("application/vnd.oci.image.manifest.v1+json"),
            ),
            (
                "digest".to_owned(),
                Value::from(Digest::sha256(text.as_bytes()).to_string()),
            ),
            ("size".to_owned(), Value::from(text.len())),
        ])
    }

    #[test]
    fn a_list_of_referrers_is_added_to_and_nothing_in_it_is_lost() {
        let first = merged(None, &[entry("a")]).unwrap().unwrap();
        let text = String::from_utf8(first.bytes().to_vec()).unwrap();
        let text = text.replace(
            "\"schemaVersion\":2",
            "\"schemaVersion\":2,\"annotations\":{\"own\":\"x\"}",
        );
        let first = RawManifest::new(text.into_bytes().into(), None, None).unwrap();
        let both = merged(Some(&first), &[entry("a"), entry("b")]).unwrap().unwrap();
        let View::Index(index) = both.view() else {
            panic!("no index")
        };
        let digests: Vec<Digest> = index
            .entries
            .iter()
            .map(|entry| entry.descriptor.digest.clone())
            .collect();
        assert_eq!(digests, [Digest::sha256(b"a"), Digest::sha256(b"b")]);
        assert!(String::from_utf8_lossy(both.bytes()).contains("\"own\":\"x\""));
        assert!(merged(Some(&both), &[entry("b"), entry("a")]).unwrap().is_none());
    }
}
