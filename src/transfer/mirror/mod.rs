//! The one-step mirror: copies images between registries without storing blobs on disk.

mod in_batches;
mod push_trees;
pub(crate) mod registry_blobs;

pub use in_batches::resolve_and_mirror;
pub use push_trees::mirror;
