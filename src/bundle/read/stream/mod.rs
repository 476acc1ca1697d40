//! Bundles from a pipe that are not copied to a file first.

mod metadata_prefix;
pub(crate) mod pipe;
