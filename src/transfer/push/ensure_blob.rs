//! One blob into one repository.

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

/// Tells that a blob is in place. Its bytes are `counted` if it was sent; if it was there, they count now.
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

/// How a blob gets into a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EnsureOptions<'a> {
    /// Another repository of the registry that has it.
    pub(crate) mount_from: Option<&'a str>,
    /// Whether the registry is asked first if it is there.
    pub(crate) ask: bool,
    /// Whether its bytes are not part of the plan, should they have to be sent.
    pub(crate) extra: bool,
}

/// How a blob would get into a repository. A mount is assumed to work, since it cannot be tried without doing it.
pub(crate) async fn foresee(
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
/// Those of the registry and of the origin. One of [`Side::Source`] names the place where the blob stands; no repository will
/// get it. After another one, another repository may take it.
pub(crate) async fn ensure_blob(
    registry: &Registry,
    repository: &str,
    descriptor: &Descriptor,
    origin: &Arc<dyn BlobOrigin>,
    way: EnsureOptions<'_>,
    progress: &Progress,
) -> Result<Placed> {
    let _in_flight = registry.in_flight(repository);
    // A HEAD costs less than an upload session that is opened for nothing.
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
                return Ok(Placed::Uploaded);
            }
            Err(error) => {
                metered.correct(0);
                if error.side() != Some(Side::Source) {
                    return Err(error);
                }
                let wrong = error.kind() == Kind::Integrity;
                // A copy of the blob on another disk may be sound.
                let may_be_elsewhere = wrong || error.kind() == Kind::Io;
                if may_be_elsewhere && origin.fail_over(&descriptor.digest) {
                    progress.note(format!("{}; reading it again", error.full()));
                    continue;
                }
                let mut error = error.context(origin.describe(&descriptor.digest));
                if wrong && error.hint().is_none() {
                    error = error.with_hint(origin.hint());
                }
                return Err(error);
            }
        }
    }
}

/// Tells how many bytes of a blob were read.
struct Metered {
    origin: Arc<dyn BlobOrigin>,
    meter: Arc<Meter>,
}

struct Meter {
    progress: Progress,
    /// Whether reading it has still to be told, since it is not part of the plan.
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

    /// Corrects what was told to this many bytes.
    fn correct(&self, position: u64) {
        self.meter.seek(position);
    }
}

impl Meter {
    fn seek(&self, position: u64) {
        let before = self.position.swap(position, Ordering::Relaxed);
        let moved = i64::try_from(position).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX);
        if moved != 0 {
            self.progress.emit(Event::Bytes(moved));
        }
    }

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
