//! Descriptors (OCI image-spec, descriptor.md).

use std::borrow::Cow;

use super::digest::Digest;
use super::media_type;
use crate::error::{Error, Kind, Result};

/// Hint for a document that breaks the rules of its format.
pub(crate) const BROKEN: &str = "the image is broken: have it built or pushed again";

/// A typed, sized pointer to content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Media type of the content, as its parent states it.
    pub media_type: Cow<'static, str>,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes; at most `i64::MAX`, since the specification uses int64.
    pub size: u64,
}

impl Descriptor {
    /// Creates a descriptor of `bytes` with their SHA-256 digest.
    pub fn from_content(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type::shared(media_type.to_owned()),
            digest: Digest::sha256(bytes),
            size: bytes.len() as u64,
        }
    }

    /// Checks that a blob with the stated size 0 has the digest of an empty blob. The check needs no content.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the size is 0 and the digest is not the digest of an empty blob.
    pub(crate) fn check_empty(&self) -> Result<()> {
        if self.size == 0 && self.digest != self.digest.same_algorithm(b"") {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "blob {} is stated as empty, but an empty blob has another digest",
                    self.digest
                ),
            )
            .with_hint(BROKEN));
        }
        Ok(())
    }

    /// Returns whether the content may be absent from the registry that names the content.
    pub(crate) fn is_nondistributable(&self) -> bool {
        media_type::is_nondistributable(&self.media_type)
    }
}
