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

    /// Whether the blob's first bytes can still be had when others have been read. Where they cannot, an upload is not begun
    /// lightly.
    fn is_kept(&self, _descriptor: &Descriptor) -> bool {
        true
    }
}
