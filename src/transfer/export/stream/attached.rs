//! Checks the blobs of referrers before the first byte of an ordered bundle is written.
//!
//! The front of the bundle lists the referrers, and bytes in a pipe cannot be taken back. Small blobs, such as signatures,
//! are read into memory; for large blobs the registry is asked whether it has them.

use std::collections::{BTreeMap, HashSet};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};

use crate::error::{Error, Kind, Result, Side};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::lost_attachments::is_own_blob;
use crate::progress::Progress;
use crate::registry::{Presence, Registries, WithoutRange};
use crate::transfer::export::request::Request;
use crate::transfer::export::resolved::{Failures, Resolved};
use crate::transfer::export::reuse::Earlier;
use crate::transfer::sources::Sources;

/// Maximum size in bytes of a blob that is read into memory.
const MAX_SMALL: u64 = 1 << 20;
const MAX_SMALL_ALL: u64 = 8 << 20;

/// Reads the small blobs that only referrers need, and returns them. Referrers with missing or wrong blobs are left out of
/// the images.
pub(super) async fn fetch(
    resolved: &mut Resolved,
    request: &Request,
    earlier: &Earlier,
    registries: &Registries,
    progress: &Progress,
) -> Result<BTreeMap<Digest, Bytes>> {
    let mut seen = HashSet::new();
    let mut blobs = Vec::new();
    for tree in resolved.trees.iter().filter(|tree| !tree.attachments.is_empty()) {
        let attached = tree.attachments.iter().flat_map(|it| it.variant.all());
        for blob in attached.flat_map(|manifest| manifest.blobs()) {
            let is_new = blob.size > 0 && seen.insert(blob.digest.clone());
            if is_new && earlier.find(blob).is_none() && !is_own_blob(tree, &blob.digest) {
                blobs.push(blob.clone());
            }
        }
    }
    let sources = Sources::new(&resolved.trees, registries)?;
    let mut room = MAX_SMALL_ALL;
    let reads = blobs.iter().map(|blob| {
        let left = room.checked_sub(blob.size).filter(|_| blob.size <= MAX_SMALL);
        room = left.unwrap_or(room);
        one(&sources, blob, left.is_some())
    });
    let reads: Vec<_> = reads.collect();
    let results: Vec<Result<Option<Bytes>>> = stream::iter(reads).buffered(request.jobs.max(1)).collect().await;
    let (mut known, mut failures) = (BTreeMap::new(), Failures::new());
    for (blob, result) in blobs.into_iter().zip(results) {
        match result {
            Ok(bytes) => known.extend(bytes.map(|bytes| (blob.digest, bytes))),
            Err(error) => {
                failures.insert(blob.digest, error);
            }
        }
    }
    resolved.drop_referrers(&request.wanted, &failures, progress);
    resolved.drop_failed(&failures);
    Ok(known)
}

/// Reads a small blob into memory, or checks that the registry has a large blob.
async fn one(sources: &Sources, blob: &Descriptor, is_small: bool) -> Result<Option<Bytes>> {
    if !is_small {
        return match sources.head(blob).await? {
            Presence::Missing => Err(Error::new(
                Kind::NotFound,
                format!("the registry does not have blob {}", blob.digest),
            )
            .with_side(Side::Source)),
            Presence::Present(()) | Presence::OtherSize(_) | Presence::Unknown => Ok(None),
        };
    }
    let mut wrong = 0;
    loop {
        let mut bytes = BytesMut::new();
        let mut reader = sources.open(blob, 0..blob.size, WithoutRange::Skip, wrong).await?;
        while let Some(chunk) = reader.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        let mut hasher = blob.digest.hasher();
        hasher.update(&bytes);
        let found = hasher.finish();
        if found == blob.digest {
            return Ok(Some(bytes.freeze()));
        }
        wrong += 1;
        // Each candidate is tried once, and the first one a second time, since bytes can also be corrupted in transit.
        if wrong > sources.count(&blob.digest) {
            let what = format!("blob {} has other bytes: they hash to {found}", blob.digest);
            return Err(Error::new(Kind::Integrity, what).with_side(Side::Source));
        }
    }
}
