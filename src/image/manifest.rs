//! Manifests: their exact bytes, and a parsed view of the bytes.
//!
//! The bytes are never rebuilt from a view, since the digest covers unknown fields, order and white space too.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;

pub(crate) use super::annotations as annotation;
use super::annotations::Annotations;
use super::budget::Held;
use super::descriptor::{BROKEN, Descriptor};
use super::digest::Digest;
use super::fields::Object;
pub(crate) use super::head::MAX_MANIFEST;
pub(crate) use super::head::declared_type;
use super::head::{Head, check_media_type, head};
use super::json::{Capped, Members};
use super::media_type::{self, Shape};
use super::platform::Platform;
use crate::error::{Error, Kind, Result};
use crate::text::byte_count;

/// Size of a manifest, in bytes, that every registry accepts (OCI distribution-spec, "Pushing Manifests").
pub(crate) const SAFE_MANIFEST: u64 = 4 << 20;

/// Maximum number of entries of an index, and of names in the `index.json` of a bundle. No registry states a limit; real
/// indexes have a few dozen entries, and the 4 MiB that registries accept hold some 16,000.
pub(crate) const MAX_ENTRIES: usize = 10_000;

/// Maximum number of layers of a manifest. Docker mounts 125 and overlayfs 500, but programs that put other things than
/// images into registries have some thousand of them; the 4 MiB that registries accept hold some 16,000.
pub(crate) const MAX_LAYERS: usize = 10_000;

/// A manifest or index: its exact bytes, verified against their digest, and the parsed view.
pub struct RawManifest {
    descriptor: Descriptor,
    bytes: Bytes,
    view: View,
    /// Memory taken from the budget for this manifest, if counted.
    held: Option<Held>,
}

/// The parsed content of a manifest.
#[derive(Debug, Clone)]
pub enum View {
    /// An OCI index or a Docker manifest list.
    Index(Index),
    /// An OCI or Docker manifest with a config and layers: a container image or another artifact in that form.
    Image(Image),
    /// Another JSON document. Only an OCI artifact manifest has `blobs`.
    Other {
        /// Blobs that the document names.
        blobs: Vec<Descriptor>,
    },
}

/// The content of an index.
#[derive(Debug, Clone)]
pub struct Index {
    /// Entries of the index, in order.
    pub entries: Vec<Entry>,
    /// Subject of the index, if the index is a referrer.
    pub subject: Option<Box<Descriptor>>,
}

/// An entry of an index.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Descriptor of the listed manifest.
    pub descriptor: Descriptor,
    /// Platform that the entry states.
    pub platform: Option<Platform>,
    /// Annotations of the entry that this program reads.
    pub annotations: Annotations,
}

/// The content of a manifest with a config and layers.
#[derive(Debug, Clone)]
pub struct Image {
    /// Descriptor of the config.
    pub config: Descriptor,
    /// Descriptors of the layers, in order; a blob may appear more than once.
    pub layers: Vec<Descriptor>,
    /// Subject of the manifest, if the manifest is a referrer.
    pub subject: Option<Box<Descriptor>>,
}

impl Entry {
    /// Returns the digest of the described entry, if this entry is an attestation.
    ///
    /// Attestations are entries with BuildKit's type `attestation-manifest`, and other entries for the platform
    /// `unknown/unknown` that name their subject in BuildKit's annotation.
    pub(crate) fn attested(&self) -> Option<&str> {
        let of_entry = |key| self.annotations.get(key);
        let runs_nowhere = |platform: &Platform| platform.os == "unknown" && platform.architecture == "unknown";
        let describes = of_entry(annotation::REFERENCE_TYPE) == Some("attestation-manifest")
            || self.platform.as_ref().is_some_and(runs_nowhere);
        of_entry(annotation::REFERENCE_DIGEST).filter(|_| describes)
    }
}

impl RawManifest {
    /// Verifies and parses the bytes of a manifest.
    ///
    /// `declared` is the type from a `Content-Type` header or a parent descriptor; `expected` is the requested digest. The
    /// type of the manifest is its `mediaType` field, else the declared type, else the type that its fields suggest (OCI
    /// distribution-spec, "Pulling manifests").
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the bytes do not have the expected digest, or if a blob of size 0 does not have the digest of
    /// an empty blob; [`Kind::Malformed`] if the bytes are not a manifest, contradict themselves or the declared type, or
    /// are larger than [`MAX_MANIFEST`]; [`Kind::Unsupported`] for Docker schema 1.
    pub fn new(bytes: Bytes, declared: Option<&str>, expected: Option<&Digest>) -> Result<Self> {
        let digest = match expected {
            Some(expected) => {
                let actual = expected.same_algorithm(&bytes);
                if actual != *expected {
                    return Err(Error::new(
                        Kind::Integrity,
                        format!(
                            "manifest {expected} has other bytes: they hash to {actual} ({})",
                            byte_count(bytes.len() as u64)
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

    /// Attaches the memory that was taken from the budget for this manifest; dropping the manifest gives the memory back.
    pub(crate) fn holding(mut self, held: Held) -> Self {
        self.held = Some(held);
        self
    }

    /// Returns the memory of this manifest in bytes, or 0 if the budget has already counted it.
    pub(crate) fn uncounted_memory(&self) -> u64 {
        if self.held.is_some() { 0 } else { self.memory() }
    }

    /// Returns the number of descriptors that this manifest lists.
    pub(crate) fn descriptors(&self) -> usize {
        match &self.view {
            View::Index(index) => index.entries.len(),
            View::Image(image) => 1 + image.layers.len(),
            View::Other { blobs } => blobs.len(),
        }
    }

    /// Returns the memory of this manifest in bytes: its bytes and the parsed view.
    pub(crate) fn memory(&self) -> u64 {
        /// Overhead of one heap allocation for bookkeeping and rounding, in bytes.
        const ALLOCATION: usize = 32;
        let blob = |blob: &Descriptor| size_of::<Descriptor>() + blob.media_type.len() + ALLOCATION;
        let platform = |platform: &Platform| {
            let version = platform.variant.iter().chain(&platform.os_version);
            let texts = [&platform.os, &platform.architecture].into_iter().chain(version);
            texts.map(|text| text.len() + ALLOCATION).sum()
        };
        let entry = |entry: &Entry| -> usize {
            size_of::<Entry>() - size_of::<Descriptor>()
                + blob(&entry.descriptor)
                + entry.platform.as_ref().map_or(0, platform)
                + entry.annotations.memory(ALLOCATION)
        };
        let view: usize = match &self.view {
            View::Index(index) => index.entries.iter().map(entry).sum(),
            View::Image(_) | View::Other { .. } => self.blobs().into_iter().map(blob).sum(),
        };
        let all = size_of::<Self>() + self.bytes.len() + self.descriptor.media_type.len() + view;
        // One quarter is added for fragmentation: a manifest is kept, while the memory used to parse it is freed around it.
        (all + all / 4) as u64
    }

    /// Returns the media type, digest and size of the bytes.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Returns the digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }

    /// Returns whether `digest`, of any algorithm, is a digest of the bytes.
    ///
    /// A registry may store a manifest under another algorithm than the client used.
    pub(crate) fn has_digest(&self, digest: &Digest) -> bool {
        digest == self.digest()
            || (digest.algorithm() != self.digest().algorithm() && digest.same_algorithm(&self.bytes) == *digest)
    }

    /// Returns the media type under which the manifest is pushed.
    pub fn media_type(&self) -> &str {
        &self.descriptor.media_type
    }

    /// Returns the exact bytes of the manifest.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the parsed content of the manifest.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Returns whether this manifest has the fields or states the type of a manifest. Any other JSON object may be anything.
    pub(crate) fn says_what_it_is(&self) -> bool {
        !matches!(self.view, View::Other { .. }) || declared_type(self.media_type()).is_some()
    }

    /// Returns whether this manifest is an index without entries.
    pub(crate) fn lists_nothing(&self) -> bool {
        matches!(&self.view, View::Index(index) if index.entries.is_empty())
    }

    /// Returns the blobs that this manifest names, config first, without the blobs of child manifests.
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

/// A descriptor as in JSON. [`WireDescriptor::check`] validates its fields and turns it into an [`Entry`].
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
                media_type: media_type::shared(self.media_type.unwrap_or_default()),
                digest: self.digest,
                size: self.size,
            },
            platform: self.platform,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

fn descriptors<const MAX: usize>(members: &Members<'_>, key: &str) -> Result<Vec<Entry>> {
    list::<Entry, MAX>(members, key, Ok)
}

/// Reads a list of blob descriptors, and checks the digests of empty blobs, which are never fetched and hashed later.
fn blobs(members: &Members<'_>, key: &str) -> Result<Vec<Descriptor>> {
    list::<Descriptor, MAX_LAYERS>(members, key, blob)
}

/// Reads a list, and checks and converts each element before the next element is read: unconverted elements take several
/// times the memory.
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

fn parse(bytes: &[u8], declared: Option<&str>) -> Result<(Cow<'static, str>, View)> {
    let Head {
        members,
        media_type,
        shape,
    } = head(bytes, declared, Object::Manifest)?;
    let view = view(&members, &media_type, shape).map_err(|error| error.or_hint(BROKEN))?;
    Ok((media_type, view))
}

fn view(members: &Members<'_>, media_type: &str, shape: Shape) -> Result<View> {
    let malformed = |why: &str| Error::new(Kind::Malformed, why);
    Ok(match shape {
        Shape::Index => View::Index(Index {
            entries: descriptors::<MAX_ENTRIES>(members, "manifests")?,
            subject: subject(members)?,
        }),
        Shape::Image => {
            let config: WireDescriptor = members.field("config")?.ok_or_else(|| malformed("it has no config"))?;
            View::Image(Image {
                config: blob(config.check()?)?,
                layers: blobs(members, "layers")?,
                subject: subject(members)?,
            })
        }
        _ => View::Other {
            blobs: if media_type == media_type::OCI_ARTIFACT {
                blobs(members, "blobs")?
            } else {
                Vec::new()
            },
        },
    })
}

fn subject(members: &Members<'_>) -> Result<Option<Box<Descriptor>>> {
    members
        .field::<WireDescriptor>("subject")?
        .map(|wire| wire.check().map(|e| Box::new(e.descriptor)))
        .transpose()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
