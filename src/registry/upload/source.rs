//! Sources of an upload's bytes.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::error::Result;
use crate::image::descriptor::Descriptor;

/// Bytes of a blob from some offset to its end.
pub type BlobStream = BoxStream<'static, Result<Bytes>>;

/// Something that can read a blob repeatedly, from any offset: a bundle, or another registry.
pub trait BlobSource: Send + Sync {
    /// Opens the blob at `offset`; the stream ends at the blob's end.
    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>>;

    /// Returns whether the blob can be read again from its start.
    /// If not, one failed upload fails the blob, so no attempt is wasted on a strategy that the registry may not support.
    fn can_replay(&self, _descriptor: &Descriptor) -> bool {
        true
    }
}
