//! The annotations of an index entry that this program reads (OCI image-spec, annotations.md). Other annotations are dropped,
//! since there may be very many.

use std::fmt;

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use super::json::Key;

/// containerd's annotation with the full name of an image.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// containerd's annotation on a manifest that refers to another.
pub(crate) const CONTAINERD_SUBJECT: &str = "io.containerd.manifest.subject";
/// OCI's annotation, which holds a full name or only a tag (OCI image-spec, annotations.md).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// OCI's annotation for the image that this one was built on, which some programs misuse for the name.
pub(crate) const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// BuildKit's annotation with the kind of an entry that is not an image, such as `attestation-manifest`.
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// BuildKit's annotation with the digest of the image that an attestation describes.
pub(crate) const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// Annotation of cosign and hauler with the kind of an entry in a layout: an image, or an attachment of an image.
pub(crate) const KIND: &str = "kind";
/// hauler's annotation with the digest of the manifest that an attachment or referrer belongs to.
pub(crate) const HAULER_SUBJECT: &str = "hauler.dev/subject-digest";

/// Annotations that identify an image in a layout.
pub(crate) const NAMES: [&str; 3] = [CONTAINERD_NAME, REF_NAME, KIND];

/// All annotations that this program reads.
const READ: [&str; 8] = [
    CONTAINERD_NAME,
    CONTAINERD_SUBJECT,
    REF_NAME,
    BASE_NAME,
    REFERENCE_TYPE,
    REFERENCE_DIGEST,
    KIND,
    HAULER_SUBJECT,
];

/// The annotations of one entry that this program reads, without empty ones.
///
/// An index may have very many entries: this takes one allocation for the list and one for each value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations(Box<[(&'static str, Box<str>)]>);

impl Annotations {
    /// Returns the value of an annotation, if the entry has the annotation.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| &**value)
    }

    /// Returns whether the entry has an annotation.
    pub(crate) fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Returns the memory of the annotations in bytes, with this overhead of each allocation.
    pub(super) fn memory(&self, allocation: usize) -> usize {
        let values = self.0.iter().map(|(_, value)| value.len() + allocation);
        size_of_val(&*self.0) + values.sum::<usize>()
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(&'static str, Box<str>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut kept: Self::Value = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    let Some(key) = READ.into_iter().find(|known| *known == key) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    // Go programs read `null` as an empty text.
                    let value = map.next_value::<Option<Box<str>>>()?.unwrap_or_default();
                    match kept.iter().find(|(known, _)| *known == key) {
                        Some((_, first)) if *first != value => {
                            let what = format_args!("the field `{key}` appears twice, with different values");
                            return Err(A::Error::custom(what));
                        }
                        Some(_) => {}
                        None => kept.push((key, value)),
                    }
                }
                kept.retain(|(_, value)| !value.is_empty());
                Ok(kept)
            }
        }
        deserializer
            .deserialize_map(Collect)
            .map(|kept| Self(kept.into_boxed_slice()))
    }
}
