//! Names of archive members with a defined meaning.

use crate::bundle::record;
use crate::image::digest::Digest;

/// Names of the documents that list the content of an archive.
pub(super) const DOCUMENTS: [&str; 4] = ["oci-layout", "index.json", ITEMS, record::MEMBER];

/// Name of the document that lists the images of a docker-archive.
pub(super) const ITEMS: &str = "manifest.json";

/// Returns the digest of a regular blob from its member name, `blobs/ALGORITHM/HEX`;
/// `None` for any other name.
pub(super) fn blob_name(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}
