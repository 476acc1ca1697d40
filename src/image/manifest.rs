//! Manifests as the bytes that they are, and a parsed view of them.
//!
//! Bytes are never rebuilt from a view: unknown fields, order and white space are part of what the digest covers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use super::budget::Held;
use super::descriptor::Descriptor;
use super::digest::Digest;
use super::fields::Object;
pub(crate) use super::head::MAX_MANIFEST;
pub(crate) use super::head::declared_type;
use super::head::{Head, check_media_type, head};
use super::json::{Capped, Key, Members};
use super::media_type::{self, Shape};
use super::platform::Platform;
use crate::error::{Error, Kind, Result};

/// Above this size a registry is free to refuse a manifest (OCI distribution-spec, "Pushing Manifests").
pub(crate) const SAFE_MANIFEST: u64 = 4 << 20;

/// Maximum number of entries of an index, and of names in the `index.json` of a bundle. No registry states a limit; real
/// indexes have a few dozen entries, and the 4 MiB that registries accept hold some 16,000.
pub(crate) const MAX_ENTRIES: usize = 10_000;

/// Maximum number of layers of a manifest. Docker mounts 125 and overlayfs 500, but programs that put other things than
/// images into registries have some thousand of them; the 4 MiB that registries accept hold some 16,000.
pub(crate) const MAX_LAYERS: usize = 10_000;

/// The annotations of entries that this program reads. All others are dropped, since there may be very many.
pub(crate) mod annotation {
    /// containerd's annotation with the full name of an image.
    pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";
    /// containerd's annotation on a manifest that refers to another.
    pub(crate) const CONTAINERD_SUBJECT: &str = "io.containerd.manifest.subject";
    /// OCI's annotation, which holds a full name or only a tag (OCI image-spec, annotations.md).
    pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// OCI's annotation for the image that this one was built on, which some programs misuse for the name.
    pub(crate) const BASE_NAME: &str = "org.opencontainers.image.base.name";
    /// What BuildKit's entry is, where it is no image.
    pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
    /// The digest of the image that BuildKit's entry describes.
    pub(crate) const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

    /// What an entry is in a layout that cosign or hauler wrote: an image, or what belongs to one.
    pub(crate) const KIND: &str = "kind";

    /// Those that name an image in a layout.
    pub(crate) const NAMES: [&str; 3] = [CONTAINERD_NAME, REF_NAME, KIND];

    /// All of them.
    pub(super) const READ: [&str; 7] = [
        CONTAINERD_NAME,
        CONTAINERD_SUBJECT,
        REF_NAME,
        BASE_NAME,
        REFERENCE_TYPE,
        REFERENCE_DIGEST,
        KIND,
    ];
}

/// A manifest or index: the exact bytes, proved to have their digest, with a view that is known to parse.
#[derive(Clone)]
pub struct RawManifest {
    descriptor: Descriptor,
    bytes: Bytes,
    view: View,
    /// The memory that it takes, where that is counted.
    held: Option<Arc<Held>>,
}

/// What a manifest says.
#[derive(Debug, Clone)]
pub enum View {
    /// An OCI index or a Docker manifest list.
    Index(Index),
    /// An OCI or Docker manifest with a config and layers: a container image or another artifact in that form.
    Image(Image),
    /// Another JSON document of a type that is not known here; `blobs` where it is an OCI artifact manifest.
    Other {
        /// The blobs that it names.
        blobs: Vec<Descriptor>,
    },
}

/// An index.
#[derive(Debug, Clone)]
pub struct Index {
    /// What it lists, in order.
    pub entries: Vec<Entry>,
    /// The manifest that it refers to, for referrers.
    pub subject: Option<Descriptor>,
}

/// One line of an index.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What the line points at.
    pub descriptor: Descriptor,
    /// The platform that the line states.
    pub platform: Option<Platform>,
    /// Those annotations of the line that this program reads, in the order of their keys.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest with a config and layers.
#[derive(Debug, Clone)]
pub struct Image {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, in order; a blob may be named more than once.
    pub layers: Vec<Descriptor>,
    /// The manifest that it refers to, for referrers.
    pub subject: Option<Descriptor>,
}

impl Entry {
    /// The digest of the subject, if this entry describes another one of its index: an attestation of BuildKit, or
    /// another entry for the platform `unknown/unknown` that names its subject the way BuildKit does.
    pub(crate) fn attests(&self) -> Option<&str> {
        let of_entry = |key| self.annotations.get(key).map(String::as_str);
        let runs_nowhere = |platform: &Platform| platform.os == "unknown" && platform.architecture == "unknown";
        let describes = of_entry(annotation::REFERENCE_TYPE) == Some("attestation-manifest")
            || self.platform.as_ref().is_some_and(runs_nowhere);
        of_entry(annotation::REFERENCE_DIGEST).filter(|_| describes)
    }
}

impl RawManifest {
    /// Takes bytes from outside.
    ///
    /// `declared` is the type that a `Content-Type` header or a parent descriptor stated; `expected` the digest by which
    /// it was asked for. The type is that of the body's `mediaType`, else the declared one, else what the structure says
    /// (OCI distribution-spec, "Pulling manifests").
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the digest is another, or if an empty blob is listed under the digest of something else;
    /// [`Kind::Malformed`] if it is no manifest, contradicts itself or the
    /// declared type, or is larger than [`MAX_MANIFEST`]; [`Kind::Unsupported`] for Docker schema 1.
    pub fn new(bytes: Bytes, declared: Option<&str>, expected: Option<&Digest>) -> Result<Self> {
        let digest = match expected {
            Some(expected) => {
                let actual = expected.same_algorithm(&bytes);
                if actual != *expected {
                    return Err(Error::new(
                        Kind::Integrity,
                        format!(
                            "manifest {expected} has other bytes: they hash to {actual} ({} bytes)",
                            bytes.len()
                        ),
                    ));
                }
                actual
            }
            None => Digest::sha256(&bytes),
        };
        let (media_type, view) = parse(&bytes, declared).map_err(|e| e.context(format!("manifest {digest}")))?;
        Ok(Self {
            descriptor: Descriptor {
                media_type,
                size: bytes.len() as u64,
                digest,
            },
            bytes,
            view,
            held: None,
        })
    }

    /// Keeps the memory that was taken for it, until it is dropped.
    pub(crate) fn holding(mut self, held: Held) -> Self {
        self.held = Some(Arc::new(held));
        self
    }

    /// Memory in bytes that it takes and that is not counted yet.
    pub(crate) fn uncounted_memory(&self) -> u64 {
        if self.held.is_some() { 0 } else { self.memory() }
    }

    /// Number of descriptors that it lists.
    pub(crate) fn descriptors(&self) -> usize {
        match &self.view {
            View::Index(index) => index.entries.len(),
            View::Image(image) => 1 + image.layers.len(),
            View::Other { blobs } => blobs.len(),
        }
    }

    /// Memory in bytes that it takes: its bytes, and what they say.
    pub(crate) fn memory(&self) -> u64 {
        /// What an allocator takes beside the bytes that are asked for, and rounds them up by.
        const ALLOCATION: usize = 32;
        let blob = |blob: &Descriptor| size_of::<Descriptor>() + blob.media_type.len() + ALLOCATION;
        let platform = |platform: &Platform| {
            let version = platform.variant.iter().chain(&platform.os_version);
            let texts = [&platform.os, &platform.architecture].into_iter().chain(version);
            texts.map(|text| text.len() + ALLOCATION).sum()
        };
        let entry = |entry: &Entry| -> usize {
            let annotations = entry.annotations.iter();
            // A tree of a few annotations takes a node with room for eleven.
            let node = if entry.annotations.is_empty() { 0 } else { 600 };
            size_of::<Entry>() - size_of::<Descriptor>()
                + blob(&entry.descriptor)
                + entry.platform.as_ref().map_or(0, platform)
                + node
                + annotations
                    .map(|(key, value)| key.len() + value.len() + 2 * ALLOCATION)
                    .sum::<usize>()
        };
        let view: usize = match &self.view {
            View::Index(index) => index.entries.iter().map(entry).sum(),
            View::Image(_) | View::Other { .. } => self.blobs().into_iter().map(blob).sum(),
        };
        let all = size_of::<Self>() + self.bytes.len() + self.descriptor.media_type.len() + view;
        // An allocator loses some of its memory to holes, since each manifest is kept and what was used to read it is not.
        (all + all / 4) as u64
    }

    /// Type, digest and size of these bytes.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The digest of these bytes.
    pub fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    /// Whether a digest, of whichever algorithm, is that of these bytes: a registry may keep a manifest by another algorithm
    /// than the one that it was sent by.
    pub(crate) fn has_digest(&self, digest: &Digest) -> bool {
        digest == self.digest()
            || (digest.algorithm() != self.digest().algorithm() && digest.same_algorithm(&self.bytes) == *digest)
    }

    /// The media type under which a registry is given it.
    pub fn media_type(&self) -> &str {
        &self.descriptor.media_type
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What they say.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether it is an index without entries.
    pub(crate) fn lists_nothing(&self) -> bool {
        matches!(&self.view, View::Index(index) if index.entries.is_empty())
    }

    /// The blobs that this manifest names itself, config first; not those of its children.
    pub fn blobs(&self) -> Vec<&Descriptor> {
        match &self.view {
            View::Index(_) => Vec::new(),
            View::Image(image) => std::iter::once(&image.config).chain(&image.layers).collect(),
            View::Other { blobs } => blobs.iter().collect(),
        }
    }
}

impl fmt::Debug for RawManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawManifest").field(&self.descriptor).finish()
    }
}

/// A descriptor as JSON writes it; whether its parts make sense is checked on the way to [`Descriptor`] and [`Entry`].
#[derive(Deserialize)]
pub(super) struct WireDescriptor {
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
    digest: Digest,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

/// Annotations without those that this program does not read.
#[derive(Default)]
pub(super) struct Annotations(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = BTreeMap<String, String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut kept = BTreeMap::new();
                while let Some(Key(key)) = map.next_key()? {
                    if !annotation::READ.contains(&&*key) {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    // `null` is no text, and to programs in Go the same as none.
                    let value = map.next_value::<Option<String>>()?.unwrap_or_default();
                    if kept.get(&key).is_some_and(|first| *first != value) {
                        let what = format_args!("the field `{key}` appears twice, with different values");
                        return Err(A::Error::custom(what));
                    }
                    kept.insert(key, value);
                }
                kept.retain(|_, value: &mut String| !value.is_empty());
                Ok(kept)
            }
        }
        deserializer.deserialize_map(Collect).map(Self)
    }
}

impl WireDescriptor {
    pub(super) fn check(self) -> Result<Entry> {
        if i64::try_from(self.size).is_err() {
            return Err(Error::new(
                Kind::Malformed,
                format!("descriptor of {} has an impossible size ({})", self.digest, self.size),
            ));
        }
        check_media_type(self.media_type.as_deref())?;
        Ok(Entry {
            descriptor: Descriptor {
                media_type: self.media_type.unwrap_or_default(),
                digest: self.digest,
                size: self.size,
            },
            platform: self.platform,
            annotations: self.annotations.unwrap_or_default().0,
        })
    }
}

fn descriptors<const MAX: usize>(members: &Members<'_>, key: &str) -> Result<Vec<Entry>> {
    list::<Entry, MAX>(members, key, Ok)
}

/// Descriptors of blobs. The digest of an empty blob is checked here, since no reader opens it later.
fn blobs(members: &Members<'_>, key: &str) -> Result<Vec<Descriptor>> {
    list::<Descriptor, MAX_LAYERS>(members, key, blob)
}

/// A list of which each element is checked, and becomes what is kept of it, before the next one is read: as they are read
/// they take several times the memory.
fn list<T, const MAX: usize>(members: &Members<'_>, key: &str, keep: fn(Entry) -> Result<T>) -> Result<Vec<T>> {
    let mut fault = None;
    let kept = members.seeded(key, |deserializer| {
        let each = |wire: WireDescriptor| match wire.check().and_then(keep) {
            Ok(kept) => Some(kept),
            Err(error) => {
                fault.get_or_insert(error);
                None
            }
        };
        Capped::<T, MAX>::from_each(deserializer, each)
    })?;
    match fault {
        Some(error) => Err(error),
        None => Ok(kept.map_or_else(Vec::new, |kept| kept.0)),
    }
}

fn blob(entry: Entry) -> Result<Descriptor> {
    entry.descriptor.check_empty()?;
    Ok(entry.descriptor)
}

fn parse(bytes: &[u8], declared: Option<&str>) -> Result<(String, View)> {
    let Head {
        members,
        media_type,
        shape,
    } = head(bytes, declared, Object::Manifest)?;
    let malformed = |why: &str| Error::new(Kind::Malformed, why);
    let view = match shape {
        Shape::Index => View::Index(Index {
            entries: descriptors::<MAX_ENTRIES>(&members, "manifests")?,
            subject: subject(&members)?,
        }),
        Shape::Image => {
            let config: WireDescriptor = members.field("config")?.ok_or_else(|| malformed("it has no config"))?;
            View::Image(Image {
                config: blob(config.check()?)?,
                layers: blobs(&members, "layers")?,
                subject: subject(&members)?,
            })
        }
        _ => View::Other {
            blobs: if media_type == media_type::OCI_ARTIFACT {
                blobs(&members, "blobs")?
            } else {
                Vec::new()
            },
        },
    };
    Ok((media_type, view))
}

fn subject(members: &Members<'_>) -> Result<Option<Descriptor>> {
    members
        .field::<WireDescriptor>("subject")?
        .map(|wire| wire.check().map(|e| e.descriptor))
        .transpose()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
