//! Values without I/O: names, digests, platforms, manifests as they were fetched, and the tree that they make.

pub mod budget;
pub mod config;
pub mod descriptor;
pub mod destination;
pub mod digest;
pub(crate) mod fields;
pub mod filter;
mod head;
pub(crate) mod json;
pub mod listing;
pub mod manifest;
pub mod media_type;
pub mod narrow;
pub mod platform;
pub mod reference;
pub mod select;
#[cfg(test)]
mod test_graph;
pub mod tree;
