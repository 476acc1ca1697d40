//! Reads the index of an archive (`index.json`) entry by entry, so that a faulty entry affects only its own image.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::annotations::Annotations;
use super::descriptor::BROKEN;
use super::fields::Object;
use super::head::{check_fields, head};
use super::json::Capped;
use super::manifest::{Entry, MAX_ENTRIES, WireDescriptor};
use super::media_type::Shape;
use crate::error::{Error, Kind, Result};

/// An entry that cannot be used: its digest is missing, misspelt or of an unknown algorithm, or its fields contradict each
/// other.
#[derive(Debug)]
pub(crate) struct FaultyEntry {
    /// Annotations of the entry, if readable, for the name of the image.
    pub annotations: Annotations,
    /// Error of the entry.
    pub error: Error,
}

/// Reads the entries of an index, in order. Each entry has its own result.
///
/// # Errors
/// [`Kind::Malformed`] if the document is not an index, or has more than [`MAX_ENTRIES`] entries.
pub(crate) fn entries(bytes: &[u8]) -> Result<Vec<Result<Entry, FaultyEntry>>> {
    let head = head(bytes, None, Object::Listing)?;
    // docker 25.0.0 writes an empty list of manifests as `null`.
    let is_null = |(key, value): &(String, &RawValue)| key == "manifests" && value.get() == "null";
    let lists_nothing = head.shape == Shape::Other && head.members.0.iter().any(is_null);
    if head.shape != Shape::Index && !lists_nothing {
        return Err(Error::new(Kind::Malformed, "it lists no manifests"));
    }
    let listed: Capped<&RawValue, MAX_ENTRIES> = head.members.field("manifests")?.unwrap_or_default();
    Ok(listed.0.into_iter().map(entry).collect())
}

fn entry(raw: &RawValue) -> Result<Entry, FaultyEntry> {
    let parse = || {
        let read = serde_json::from_str::<WireDescriptor>(raw.get());
        let read =
            read.map_err(|e| Error::new(Kind::Malformed, "it is not a descriptor of a manifest").with_source(e))?;
        check_fields(raw.get().as_bytes(), Object::Descriptor)?;
        read.check()
    };
    parse().map_err(|error| FaultyEntry {
        annotations: annotations(raw),
        error: error.or_hint(BROKEN),
    })
}

/// Returns the annotations of an entry, even of a faulty entry.
fn annotations(raw: &RawValue) -> Annotations {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: Option<Annotations>,
    }
    let read = serde_json::from_str::<Annotated>(raw.get());
    read.ok().and_then(|entry| entry.annotations).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::digest::Digest;
    use crate::image::manifest::annotation::REF_NAME;

    #[test]
    fn a_faulty_entry_does_not_keep_the_others_back() {
        let good = Digest::sha256(b"x").to_string();
        let named =
            |digest: &str| format!(r#"{{"digest":"{digest}","size":1,"annotations":{{"{REF_NAME}":"{digest}"}}}}"#);
        let upper = good.to_uppercase().replace("SHA256", "sha256");
        let text = [
            named(&good),
            named(&upper),
            named("md5:d41d8cd98f00b204e9800998ecf8427e"),
            r#"{"size":1}"#.to_owned(),
            format!(r#"{{"digest":"{good}","Digest":"{good}","size":1}}"#),
            format!(r#"{{"digest":"{good}","digest":"{good}","size":1}}"#),
            format!(r#"{{"digest":"{good}","size":-1}}"#),
            "7".to_owned(),
            named(&good),
        ];
        let index = format!(r#"{{"manifests":[{}]}}"#, text.join(","));
        let entries = entries(index.as_bytes()).unwrap();
        let good: Vec<bool> = entries.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, false, false, false, false, false, false, true]);
        assert_eq!(
            entries[1].as_ref().unwrap_err().annotations.get(REF_NAME),
            Some(&*upper)
        );
    }

    #[test]
    fn null_is_an_empty_list() {
        for text in [
            r#"{"manifests":null}"#,
            r#"{"schemaVersion":2,"manifests":null,"layers":null}"#,
        ] {
            assert!(entries(text.as_bytes()).unwrap().is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_no_index_is_refused_as_a_whole() {
        for bad in [
            r#"{"layers":[]}"#,
            r#"{"manifests":[],"layers":[]}"#,
            r#"{"manifests":[],"manifests":[]}"#,
            r#"{"manifests":7}"#,
            "[]",
        ] {
            assert!(entries(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
