//! Bundles that come out of a pipe and are not copied to a file first.

mod metadata_prefix;
pub(crate) mod pipe;
