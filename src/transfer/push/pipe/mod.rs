//! Pushes blobs while they come out of a pipe.

pub(crate) mod blob_buffer;
pub(crate) mod feed;
pub(super) mod spool;
