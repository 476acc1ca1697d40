//! Descriptors (OCI image-spec, descriptor.md).

use super::digest::Digest;
use super::media_type;
use crate::error::{Error, Kind, Result};

/// A typed, sized pointer to content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// The type of the content, as its parent states it.
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes; never above `i64::MAX`, as the specification's int64.
    pub size: u64,
}

impl Descriptor {
    /// A descriptor of these bytes, by SHA-256.
    pub fn from_content(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::sha256(bytes),
            size: bytes.len() as u64,
        }
    }

    /// Checks a blob that is stated as empty: its digest has to be that of no bytes, which needs no reading.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the size is 0 and the digest is that of something else.
    pub(crate) fn check_empty(&self) -> Result<()> {
        if self.size == 0 && self.digest != self.digest.same_algorithm(b"") {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "blob {} is stated as empty, but an empty blob has another digest",
                    self.digest
                ),
            )
            .with_hint("the image is broken: have it built or pushed again"));
        }
        Ok(())
    }

    /// Whether the content may be absent from the registry that names it.
    pub(crate) fn is_nondistributable(&self) -> bool {
        media_type::is_nondistributable(&self.media_type)
    }
}
