//! Rewrites the bytes of an index to drop or replace entries.

use serde_json::value::RawValue;

use super::descriptor::Descriptor;
use super::json::Members;
use crate::error::{Error, Kind, Result};

/// The decision about an entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryAction {
    /// The entry stays unchanged.
    Keep,
    /// The entry is removed.
    Drop,
    /// The entry stays, but points to another document: the filtered form of a nested index.
    Replace(Descriptor),
}

/// Returns the bytes of an index with entries dropped or replaced according to `actions`.
///
/// Everything else is kept: order, unknown fields, annotations and the text of numbers. Kept entries keep their exact text;
/// white space between entries is dropped.
///
/// # Errors
/// [`Kind::Malformed`] if the bytes are not an index, or the numbers of entries and actions differ.
pub(crate) fn rewrite(index: &[u8], actions: &[EntryAction]) -> Result<Vec<u8>> {
    let malformed = |e: serde_json::Error| Error::new(Kind::Malformed, "the index cannot be edited").with_source(e);
    let members: Members<'_> = serde_json::from_slice(index).map_err(malformed)?;
    let mut out = Vec::with_capacity(index.len());
    out.push(b'{');
    for (i, (key, value)) in members.0.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, key).map_err(malformed)?;
        out.push(b':');
        // Some programs write an empty list as `null`, which is kept.
        if key == "manifests" && value.get() != "null" {
            let entries: Vec<&RawValue> = serde_json::from_str(value.get()).map_err(malformed)?;
            if entries.len() != actions.len() {
                return Err(Error::new(Kind::Malformed, "the index has another number of entries"));
            }
            out.push(b'[');
            let mut first = true;
            for (entry, fate) in entries.iter().zip(actions) {
                if *fate == EntryAction::Drop {
                    continue;
                }
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                match fate {
                    EntryAction::Replace(descriptor) => {
                        let mut entry: serde_json::Map<String, serde_json::Value> =
                            serde_json::from_str(entry.get()).map_err(malformed)?;
                        entry["digest"] = descriptor.digest.to_string().into();
                        entry["size"] = descriptor.size.into();
                        serde_json::to_writer(&mut out, &entry).map_err(malformed)?;
                    }
                    _ => out.extend_from_slice(entry.get().as_bytes()),
                }
            }
            out.push(b']');
        } else {
            out.extend_from_slice(value.get().as_bytes());
        }
    }
    out.push(b'}');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::digest::Digest;

    #[test]
    fn only_list_entries_change() {
        let index = r#"{ "schemaVersion": 2, "x-big": 123456789012345678901234567890, "x-float": 1.50e3,
            "manifests": [ {"digest":"a", "unknown": 1.0}, {"digest":"b"}, {"digest":"c","size":1,"z":[1, 2]} ],
            "annotations": {"k": "v", "a": "b"} }"#;
        let new = Descriptor {
            media_type: Default::default(),
            digest: Digest::sha256(b"x"),
            size: 77,
        };
        let out = rewrite(
            index.as_bytes(),
            &[EntryAction::Keep, EntryAction::Drop, EntryAction::Replace(new.clone())],
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                r#"{{"schemaVersion":2,"x-big":123456789012345678901234567890,"x-float":1.50e3,"manifests":[{{"digest":"a", "unknown": 1.0}},{{"digest":"{}","size":77,"z":[1,2]}}],"annotations":{{"k": "v", "a": "b"}}}}"#,
                new.digest
            )
        );
        assert!(rewrite(index.as_bytes(), &[EntryAction::Keep]).is_err());
        let empty = br#"{"manifests":null,"config":null}"#;
        assert_eq!(rewrite(empty, &[]).unwrap(), empty);
    }
}
