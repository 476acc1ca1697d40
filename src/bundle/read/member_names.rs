//! The names of members that have a meaning.

use crate::bundle::record;
use crate::image::digest::Digest;

/// The documents that list the content of an archive.
pub(super) const DOCUMENTS: [&str; 4] = ["oci-layout", "index.json", ITEMS, record::MEMBER];

/// The document that lists the images of a docker-archive.
pub(super) const ITEMS: &str = "manifest.json";

/// The digest that a member's name states, where it is a regular blob: `blobs/ALGORITHM/HEX`.
pub(super) fn blob_name(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}
