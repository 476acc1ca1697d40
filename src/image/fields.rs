//! Checks for JSON fields that programs read differently: a field that appears twice, or with another spelling.
//!
//! Go programs (encoding/json) ignore the case of field names and use the last of several fields: they read `Layers` as
//! `layers`. Most other programs know only `layers`. A document with such fields could show different images to different
//! programs under one digest, so the document is refused.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::Key;
use crate::text::quote;

/// Maximum number of fields of one object, and of annotations of one descriptor. The specifications state no limit; real
/// images have a few dozen.
const MAX_FIELDS: usize = 1000;

/// A JSON object whose fields are checked. A list of objects is checked like the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    /// A manifest or an index.
    Manifest,
    /// An index whose entries are checked one by one, elsewhere.
    Listing,
    /// An entry of an index, or a config, layer, blob or subject.
    Descriptor,
    /// The platform of an index entry.
    Platform,
    /// Annotations, whose keys Go compares exactly. Repeated keys are allowed here: the reader of annotations refuses a key
    /// that this program uses and that appears twice with different values.
    Annotations,
    /// An image config.
    Config,
    /// The `rootfs` object of an image config, with its list of layers.
    RootFs,
    /// Any other value, which is not checked.
    Unknown,
}

impl Object {
    /// Returns the fields that the specifications define (OCI image-spec; Docker Image Manifest V2, Schema 2), and their objects.
    fn fields(self) -> &'static [(&'static str, Self)] {
        match self {
            Self::Manifest => &[
                ("schemaVersion", Self::Unknown),
                ("mediaType", Self::Unknown),
                ("artifactType", Self::Unknown),
                ("config", Self::Descriptor),
                ("layers", Self::Descriptor),
                ("manifests", Self::Descriptor),
                ("blobs", Self::Descriptor),
                ("subject", Self::Descriptor),
                ("annotations", Self::Annotations),
                ("fsLayers", Self::Unknown),
            ],
            Self::Listing => &[
                ("schemaVersion", Self::Unknown),
                ("mediaType", Self::Unknown),
                ("artifactType", Self::Unknown),
                ("config", Self::Unknown),
                ("layers", Self::Unknown),
                ("manifests", Self::Unknown),
                ("subject", Self::Descriptor),
                ("annotations", Self::Annotations),
                ("fsLayers", Self::Unknown),
            ],
            Self::Descriptor => &[
                ("mediaType", Self::Unknown),
                ("digest", Self::Unknown),
                ("size", Self::Unknown),
                ("urls", Self::Unknown),
                ("annotations", Self::Annotations),
                ("data", Self::Unknown),
                ("artifactType", Self::Unknown),
                ("platform", Self::Platform),
            ],
            Self::Platform => &[
                ("architecture", Self::Unknown),
                ("os", Self::Unknown),
                ("os.version", Self::Unknown),
                ("os.features", Self::Unknown),
                ("variant", Self::Unknown),
                ("features", Self::Unknown),
            ],
            Self::Config => &[
                ("created", Self::Unknown),
                ("author", Self::Unknown),
                ("architecture", Self::Unknown),
                ("os", Self::Unknown),
                ("os.version", Self::Unknown),
                ("os.features", Self::Unknown),
                ("variant", Self::Unknown),
                ("config", Self::Unknown),
                ("rootfs", Self::RootFs),
                ("history", Self::Unknown),
            ],
            Self::RootFs => &[("type", Self::Unknown), ("diff_ids", Self::Unknown)],
            Self::Annotations | Self::Unknown => &[],
        }
    }

    /// Returns whether the fields of this object must have their exact names.
    ///
    /// In an image config, another spelling is accepted unless the field appears twice, since no fetch or check depends on it.
    fn is_exact(self) -> bool {
        matches!(self, Self::Manifest | Self::Listing | Self::Descriptor | Self::Platform)
    }
}

/// Refuses a document with fields that programs read differently.
pub(super) fn check(text: &[u8], object: Object) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    object.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Returns a field name as Go's encoding/json compares it: in lower case, with U+017F as `s` and U+212A as `k`.
pub(crate) fn fold(name: &str) -> String {
    name.chars().map(fold_char).collect()
}

fn fold_char(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

/// Whether Go takes two names for the same one.
fn same(one: &str, other: &str) -> bool {
    one.chars().map(fold_char).eq(other.chars().map(fold_char))
}

impl<'de> DeserializeSeed<'de> for Object {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self {
            // `IgnoredAny` skips the value without recursion, so that deep nesting cannot overflow the stack.
            Self::Unknown => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Object {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: HashSet<String> = HashSet::new();
        let mut known: Vec<&str> = Vec::new();
        let mut count = 0;
        while let Some(Key(name)) = map.next_key()? {
            count += 1;
            if count > MAX_FIELDS {
                return Err(A::Error::custom(format_args!(
                    "an object has more than {MAX_FIELDS} fields"
                )));
            }
            if self == Self::Annotations {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let fields = self.fields().iter();
            let exact = fields.clone().find(|(field, _)| *field == name);
            let field = exact.or_else(|| fields.clone().find(|(field, _)| same(field, &name)));
            if let Some((field, _)) = field {
                if self.is_exact() && *field != name {
                    return Err(A::Error::custom(format_args!(
                        "the field `{}` is `{field}` to some programs and unknown to others",
                        quote(&name)
                    )));
                }
                if known.contains(field) {
                    return Err(A::Error::custom(format_args!("the field `{field}` appears twice")));
                }
                known.push(field);
            } else if let Some(name) = seen.replace(name) {
                return Err(A::Error::custom(format_args!(
                    "the field `{}` appears twice",
                    quote(&name)
                )));
            }
            map.next_value_seed(field.map_or(Self::Unknown, |(_, object)| *object))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    // Scalars of any type are accepted here: the later parser of the document checks the types.
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, object: Object) -> String {
        check(text.as_bytes(), object).map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn names_are_compared_as_go_does() {
        for (name, folded) in [
            ("Layers", "layers"),
            ("LAYER\u{17f}", "layers"),
            ("\u{212a}ind", "kind"),
            ("É", "É"),
        ] {
            assert_eq!(fold(name), folded);
        }
    }

    #[test]
    fn a_field_that_some_programs_read_and_others_do_not_is_refused() {
        for text in [
            r#"{"layers":[],"layers":[]}"#,
            r#"{"layers":[],"l\u0061yers":[]}"#,
            r#"{"layers":[],"Layers":[]}"#,
            r#"{"Layers":[]}"#,
            r#"{"layer\u017f":[]}"#,
            "{\"blob\u{17f}\":[]}",
            r#"{"manifests":[],"Config":{}}"#,
            r#"{"x":1,"x":1}"#,
            r#"{"config":{"digest":1,"digest":1}}"#,
            r#"{"config":{"Digest":1}}"#,
            r#"{"subject":{"SIZE":1}}"#,
            r#"{"layers":[{},{"MediaType":1}]}"#,
            r#"{"layers":[{"url\u017f":1}]}"#,
            r#"{"manifests":[{"platform":{"os":1,"OS":1}}]}"#,
        ] {
            assert_ne!(said(text, Object::Manifest), "", "{text}");
        }
        for text in [
            r#"{"os":"linux","OS":"linux"}"#,
            r#"{"OS":"linux","Os":"linux"}"#,
            r#"{"rootfs":{"diff_ids":[],"Diff_ids":[]}}"#,
            r#"{"rootf\u017f":{},"rootfs":{}}"#,
            r#"{"x":1,"x":2}"#,
        ] {
            assert_ne!(said(text, Object::Config), "", "{text}");
        }
    }

    #[test]
    fn other_fields_are_free() {
        let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for text in [
            r#"{"x":1,"X":2,"Other":{"a":1,"a":2}}"#,
            r#"{"manifests":[{"annotations":{"a":"x","a":null,"b":"\ud800","\udfff":"c"}}]}"#,
            r#"{"annotations":{"a":"x","a":"y","b":null,"\ud800":"\udc00\ud800"}}"#,
            r#"{"annotations":null,"layers":[{"annotations":null}]}"#,
            r#"{"annotations":{"a":1,"A":2},"layers":[{"urls":["a","a"]}],"config":null,"manifests":7}"#,
            &deep,
        ] {
            assert_eq!(said(text, Object::Manifest), "");
        }
        assert_eq!(
            said(r#"{"OS":"linux","config":{"Labels":{},"labels":{}}}"#, Object::Config),
            ""
        );
    }

    #[test]
    fn annotations_are_counted() {
        let many = |count: usize| {
            let list: Vec<String> = (0..count).map(|n| format!(r#""{n}":"""#)).collect();
            format!(r#"{{"manifests":[{{"annotations":{{{}}}}}]}}"#, list.join(","))
        };
        assert_eq!(said(&many(MAX_FIELDS), Object::Manifest), "");
        assert!(said(&many(MAX_FIELDS + 1), Object::Manifest).contains("more than 1000 fields"));
    }
}
