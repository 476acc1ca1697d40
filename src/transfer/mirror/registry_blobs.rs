//! The blobs of images in registries, as a source for a push.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;

use crate::error::Result;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::tree::ImageTree;
use crate::lock::Mutex;
use crate::registry::{BlobSource, BlobStream, Registries, WithoutRange};
use crate::transfer::push::request::BlobOrigin;
use crate::transfer::sources::Sources;

/// Reads each blob from the first of its candidates that sends the right bytes.
pub(crate) struct RegistryBlobs {
    sources: Arc<Sources>,
    /// Number of reads of each blob that returned bytes with a wrong digest.
    wrong_reads: Mutex<HashMap<Digest, usize>>,
}

impl RegistryBlobs {
    pub(crate) fn new(trees: &[ImageTree], registries: &Registries) -> Result<Self> {
        Ok(Self {
            sources: Arc::new(Sources::new(trees, registries)?),
            wrong_reads: Mutex::default(),
        })
    }

    /// Returns how often a blob was read with wrong bytes.
    fn wrong_reads(&self, digest: &Digest) -> usize {
        let wrong = self.wrong_reads.lock();
        wrong.get(digest).copied().unwrap_or(0)
    }
}

impl BlobSource for RegistryBlobs {
    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        Box::pin(async move {
            let wrong = self.wrong_reads(&descriptor.digest);
            let range = offset..descriptor.size;
            let reader = self.sources.open(descriptor, range, WithoutRange::Skip, wrong).await?;
            let pieces = stream::try_unfold(reader, |mut reader| async move {
                Ok(reader.chunk().await?.map(|piece| (piece, reader)))
            });
            Ok(pieces.boxed())
        })
    }
}

impl BlobOrigin for RegistryBlobs {
    fn describe(&self, digest: &Digest) -> String {
        match self.sources.first(digest, self.wrong_reads(digest)) {
            Some(source) => format!("`{source}`"),
            None => format!("blob {digest}"),
        }
    }

    fn hint(&self) -> &'static str {
        "the source registry sends other bytes than it promises: have the image pushed there again, or name another source"
    }

    fn fail_over(&self, digest: &Digest) -> bool {
        let mut wrong = self.wrong_reads.lock();
        let count = wrong.entry(digest.clone()).or_default();
        *count += 1;
        // Each candidate is tried once, and the first one a second time, since bytes can also be corrupted in transit.
        *count <= self.sources.count(digest)
    }
}
