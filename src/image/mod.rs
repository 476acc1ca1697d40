//! Values without I/O: references, digests, platforms, manifests as they were fetched, and trees of manifests.

pub(crate) mod annotations;
pub(crate) mod budget;
pub(crate) mod config;
pub(crate) mod descriptor;
pub(crate) mod destination;
pub(crate) mod digest;
pub(crate) mod digest_tag;
pub(crate) mod fields;
pub(crate) mod filter;
pub(crate) mod head;
pub(crate) mod image_list;
pub(crate) mod json;
pub(crate) mod listing;
pub(crate) mod lost_attachments;
pub(crate) mod manifest;
pub mod media_type;
pub(crate) mod narrow;
pub(crate) mod platform;
pub(crate) mod reference;
pub(crate) mod referrer;
pub(crate) mod select;
#[cfg(test)]
mod test_graph;
pub(crate) mod tree;
