//! Helpers to read JSON: the top-level fields of a document as raw text, and lists of bounded length.

use std::fmt;

use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::de::StrRead;
use serde_json::value::RawValue;

use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// Deserializes a field so that `null` counts as absent: Go programs write `null` for an empty list or pointer.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A list of at most `MAX` elements. Parsing fails at the first further element, so that a long list takes no memory.
#[derive(Debug, Clone)]
pub(crate) struct Capped<T, const MAX: usize>(pub(crate) Vec<T>);

impl<T, const MAX: usize> Default for Capped<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Capped<T, MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_each(deserializer, Some)
    }
}

impl<T, const MAX: usize> Capped<T, MAX> {
    /// Deserializes a list, and keeps the value that `keep` returns for each element.
    pub(crate) fn from_each<'de, W, D>(deserializer: D, keep: impl FnMut(W) -> Option<T>) -> Result<Self, D::Error>
    where
        W: Deserialize<'de>,
        D: serde::Deserializer<'de>,
    {
        struct Collect<T, W, K, const MAX: usize>(K, PhantomData<(T, W)>);
        impl<'de, T, W, K, const MAX: usize> Visitor<'de> for Collect<T, W, K, MAX>
        where
            W: Deserialize<'de>,
            K: FnMut(W) -> Option<T>,
        {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                let mut count = 0;
                while let Some(element) = list.next_element()? {
                    if count == MAX {
                        return Err(A::Error::custom(format_args!(
                            "too large to handle: at most {MAX} entries are accepted"
                        )));
                    }
                    count += 1;
                    elements.extend((self.0)(element));
                }
                elements.shrink_to_fit();
                Ok(elements)
            }
        }
        let collect: Collect<T, W, _, MAX> = Collect(keep, PhantomData);
        deserializer.deserialize_seq(collect).map(Self)
    }
}

/// A key of a JSON object. An unpaired surrogate escape in the key becomes U+FFFD, as in some other programs.
#[derive(PartialEq, Eq)]
pub(super) struct Key(pub(super) String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_bytes<E>(self, text: &[u8]) -> Result<Key, E> {
                Ok(Key(String::from_utf8_lossy(text).into_owned()))
            }
        }
        deserializer.deserialize_bytes(Text)
    }
}

/// The fields of a JSON object with their values as raw text. A key that appears twice is an error.
pub(super) struct Members<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    if members.iter().any(|(seen, _)| *seen == key) {
                        return Err(serde::de::Error::custom(format_args!(
                            "the field `{}` appears twice",
                            quote(&key)
                        )));
                    }
                    if members.len() == 256 {
                        return Err(serde::de::Error::custom("more than 256 fields"));
                    }
                    members.push((key, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Collect).map(Self)
    }
}

impl<'a> Members<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a RawValue> {
        // As in `or_default`, `null` counts as absent.
        self.0
            .iter()
            .find(|(name, value)| name == key && value.get() != "null")
            .map(|(_, value)| *value)
    }

    pub(super) fn field<T: Deserialize<'a>>(&self, key: &str) -> Result<Option<T>> {
        self.seeded(key, |deserializer| T::deserialize(deserializer))
    }

    /// Reads a field with the function `read`.
    pub(super) fn seeded<T>(
        &self,
        key: &str,
        read: impl FnOnce(&mut serde_json::Deserializer<StrRead<'a>>) -> Result<T, serde_json::Error>,
    ) -> Result<Option<T>> {
        let Some(raw) = self.get(key) else { return Ok(None) };
        // The raw text is exactly one value, so no check for trailing text is needed.
        read(&mut serde_json::Deserializer::from_str(raw.get()))
            .map(Some)
            .map_err(|e| Error::new(Kind::Malformed, format!("its field `{key}` is wrong")).with_source(e))
    }
}
