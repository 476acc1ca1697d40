//! The blobs of bundles, as sources for a push.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;

use super::push::pipe::blob_buffer::WINDOW;
use super::push::pipe::feed::{KeptBlobs, PipeFeed};
use super::push::request::BlobOrigin;
use crate::bundle::read::Store;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::registry::{BlobSource, BlobStream};

/// Maximum number of bytes of a bundle read at a time.
/// Larger reads are not faster, and each blob in flight holds a buffer of this size.
const PIECE: usize = 256 << 10;

/// The blobs of a bundle, as a source for a push.
pub(crate) struct BundleBlobs(pub(crate) Arc<Store>);

impl BlobSource for BundleBlobs {
    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        let (store, digest) = (self.0.clone(), descriptor.digest.clone());
        // A small blob gets a small buffer: there may be many in flight.
        let most = usize::try_from(descriptor.size).map_or(PIECE, |size| size.min(PIECE));
        let pieces = stream::try_unfold((offset, Bytes::new()), move |(at, former)| {
            let piece = read_piece(&store, &digest, at, former, most);
            async move { Ok(piece?.map(|(piece, length)| (piece.slice(..length), (at + length as u64, piece)))) }
        });
        Box::pin(async move { Ok(pieces.boxed()) })
    }
}

/// Reads the next bytes of a blob to the start of a buffer of `most` bytes.
/// The read blocks the current thread on purpose, since handing it to another thread costs more than the read itself. The
/// former buffer is reused once the connection has released it.
fn read_piece(store: &Store, digest: &Digest, at: u64, former: Bytes, most: usize) -> Result<Option<(Bytes, usize)>> {
    let mut buffer = match former.try_into_mut() {
        Ok(buffer) if buffer.len() == most => buffer,
        _ => BytesMut::zeroed(most),
    };
    let length = store.read_at(digest, at, &mut buffer)?.min(most);
    Ok((length > 0).then(|| (buffer.freeze(), length)))
}

impl BlobOrigin for BundleBlobs {
    fn describe(&self, digest: &Digest) -> String {
        self.0.describe(digest)
    }

    fn hint(&self) -> &'static str {
        "the bundle was modified or corrupted in transit: copy it again, and compare checksums"
    }

    fn fail_over(&self, digest: &Digest) -> bool {
        self.0.next_copy(digest)
    }
}

/// The blobs of a bundle in a pipe: the blobs of its front, and the blobs that come out of the pipe.
pub(crate) struct PipeBlobs {
    front: BundleBlobs,
    kept: Arc<KeptBlobs>,
}

impl PipeBlobs {
    pub(crate) fn new(front: Arc<Store>, feed: &PipeFeed) -> Self {
        Self {
            front: BundleBlobs(front),
            kept: feed.kept(),
        }
    }
}

impl BlobSource for PipeBlobs {
    fn can_replay(&self, descriptor: &Descriptor) -> bool {
        let flow = self.kept.get(&descriptor.digest);
        flow.map_or(descriptor.size <= WINDOW, |flow| flow.can_replay())
            || self.front.0.size_of(&descriptor.digest).is_some()
    }

    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        if let Some(flow) = self.kept.get(&descriptor.digest) {
            return Box::pin(async move { flow.stream(offset) });
        }
        if self.front.0.size_of(&descriptor.digest).is_some() {
            return self.front.open(descriptor, offset);
        }
        let gone = format!("blob {} is no longer available from the pipe", descriptor.digest);
        let error = Error::new(Kind::NotFound, gone)
            .with_hint("the registry needs it again: run the import again, or import the bundle as a file");
        Box::pin(async move { Err(error) })
    }
}

impl BlobOrigin for PipeBlobs {
    fn describe(&self, digest: &Digest) -> String {
        let flow = self.kept.get(digest);
        flow.map_or_else(|| self.front.describe(digest), |flow| flow.place().to_owned())
    }

    fn hint(&self) -> &'static str {
        self.front.hint()
    }

    fn fail_over(&self, _digest: &Digest) -> bool {
        false
    }
}
