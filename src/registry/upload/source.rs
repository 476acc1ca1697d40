//! Where the bytes of an upload come from.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::error::Result;
use crate::image::descriptor::Descriptor;

/// Bytes of a blob from some offset to its end.
pub type BlobStream = BoxStream<'static, Result<Bytes>>;

/// Something that can read a blob again and again, from any offset: a bundle, or another registry.
pub trait BlobSource: Send + Sync {
    /// Opens the blob at `offset`; the stream ends at the blob's end.
    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>>;

    /// Whether the blob can be read from its start again. Where it cannot, a failed upload fails the blob, so that no attempt is wasted
    /// on a strategy that the registry may not know.
    fn can_replay(&self, _descriptor: &Descriptor) -> bool {
        true
    }
}
