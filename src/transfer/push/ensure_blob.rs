//! Puts one blob into one repository.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::request::BlobOrigin;
use super::scheduler::Placed;
use crate::error::{Kind, Result, Side};
use crate::image::descriptor::Descriptor;
use crate::progress::{Event, Progress};
use crate::registry::{BlobSource, BlobStream, Presence, Pushed, Registry};

/// Reports that a blob is in place.
/// The bytes of a sent blob are already `counted`; the bytes of any other blob are counted now.
pub(crate) fn report_done(progress: &Progress, descriptor: &Descriptor, counted: bool) {
    if !counted {
        let size = i64::try_from(descriptor.size).unwrap_or(i64::MAX);
        progress.emit(Event::Bytes(size));
    }
    progress.emit(Event::BlobDone {
        digest: descriptor.digest.to_string(),
        size: descriptor.size,
    });
}

/// Ways to put a blob into a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EnsureOptions<'a> {
    /// Another repository of the registry that has the blob, as a mount source.
    pub(crate) mount_from: Option<&'a str>,
    /// Whether a HEAD request checks first whether the blob is present.
    pub(crate) ask: bool,
    /// Whether the blob's bytes are not part of the plan, in case they have to be sent.
    pub(crate) extra: bool,
}

/// Predicts how a blob would get into a repository.
/// A mount is assumed to succeed, since it cannot be tried without doing it.
pub(crate) async fn predict_placement(
    registry: &Registry,
    repository: &str,
    descriptor: &Descriptor,
    is_mounted: bool,
) -> Result<Placed> {
    if is_mounted {
        return Ok(Placed::Mounted);
    }
    match registry.head_blob(repository, descriptor).await? {
        Presence::Present(()) => Ok(Placed::Present),
        _ => Ok(Placed::Uploaded),
    }
}

/// Puts a blob into a repository.
///
/// # Errors
/// Errors of the registry and of the origin. An error of [`Side::Source`] names the place of the blob, and affects all
/// repositories. After any other error, another repository may still get the blob.
pub(crate) async fn ensure_blob(
    registry: &Registry,
    repository: &str,
    descriptor: &Descriptor,
    origin: &Arc<dyn BlobOrigin>,
    way: EnsureOptions<'_>,
    progress: &Progress,
) -> Result<Placed> {
    let _in_flight = registry.in_flight(repository);
    // A HEAD request costs less than an upload session that turns out to be unnecessary.
    if way.ask && registry.head_blob(repository, descriptor).await? == Presence::Present(()) {
        return Ok(Placed::Present);
    }
    let metered = Metered::new(origin.clone(), progress.clone(), way.extra);
    loop {
        match registry
            .push_blob(repository, descriptor, &metered, way.mount_from)
            .await
        {
            Ok(Pushed::Mounted) => {
                metered.correct(0);
                return Ok(Placed::Mounted);
            }
            Ok(Pushed::Uploaded) => {
                metered.correct(descriptor.size);
                progress.emit(Event::Uploaded { size: descriptor.size });
                return Ok(Placed::Uploaded);
            }
            Err(error) => {
                metered.correct(0);
                if error.side() != Some(Side::Source) {
                    return Err(error);
                }
                let wrong = error.kind() == Kind::Integrity;
                // A copy of the blob on another disk may be intact.
                let may_be_elsewhere = wrong || error.kind() == Kind::Io;
                if may_be_elsewhere && origin.fail_over(&descriptor.digest) {
                    progress.note(format!("{}; reading it again", error.full()));
                    continue;
                }
                // The error of a registry names the blob and the place by itself.
                let names_blob = !wrong && error.to_string().contains(&descriptor.digest.to_string());
                let mut error = match names_blob {
                    true => error,
                    false => error.context(origin.describe(&descriptor.digest)),
                };
                if wrong && error.hint().is_none() {
                    error = error.with_hint(origin.hint());
                }
                return Err(error);
            }
        }
    }
}

/// A source that reports the number of bytes read from a blob.
struct Metered {
    origin: Arc<dyn BlobOrigin>,
    meter: Arc<Meter>,
}

/// Counter of the bytes read from a blob, shared with the streams of the blob.
struct Meter {
    progress: Progress,
    /// Whether the first read must add the blob to the planned total, which does not include the blob.
    unexpected: AtomicBool,
    position: AtomicU64,
}

impl Metered {
    fn new(origin: Arc<dyn BlobOrigin>, progress: Progress, extra: bool) -> Self {
        let meter = Meter {
            progress,
            unexpected: AtomicBool::new(extra),
            position: AtomicU64::new(0),
        };
        Self {
            origin,
            meter: Arc::new(meter),
        }
    }

    /// Corrects the reported number of bytes to `position`.
    fn correct(&self, position: u64) {
        self.meter.seek(position);
    }
}

impl Meter {
    /// Moves the counter to `position`, and reports the difference.
    fn seek(&self, position: u64) {
        let before = self.position.swap(position, Ordering::Relaxed);
        let moved = i64::try_from(position).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX);
        if moved != 0 {
            self.progress.emit(Event::Bytes(moved));
        }
    }

    /// Counts and reports the bytes of one item of a stream.
    fn pass(&self, item: Result<Bytes>) -> Result<Bytes> {
        if let Ok(bytes) = &item {
            self.position.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.progress.emit(Event::Bytes(bytes.len() as i64));
        }
        item
    }
}

impl BlobSource for Metered {
    fn can_replay(&self, descriptor: &Descriptor) -> bool {
        self.origin.can_replay(descriptor)
    }

    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        Box::pin(async move {
            if self.meter.unexpected.swap(false, Ordering::Relaxed) {
                self.meter.progress.emit(Event::Grown {
                    blobs: 1,
                    bytes: descriptor.size,
                });
            }
            self.meter.seek(offset);
            let stream = self.origin.open(descriptor, offset).await?;
            let meter = self.meter.clone();
            Ok(stream.map(move |item| meter.pass(item)).boxed())
        })
    }
}
