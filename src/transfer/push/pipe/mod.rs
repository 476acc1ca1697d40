//! Blobs that come out of a pipe while they are pushed.

pub(crate) mod blob_buffer;
pub(crate) mod feed;
pub(super) mod spool;
