//! Blobs that an earlier bundle has need not be fetched.
//!
//! Nothing in an earlier bundle is trusted: what is copied from it is hashed where it then stands, like what an earlier run
//! left there.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::fill::{Engine, Trouble};
use super::slot::Slot;
use crate::bundle::partial::Partial;
use crate::bundle::read::{Bundle, OpenOptions};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::progress::Event;
use crate::text::quote;

/// How much is read at a time.
const READ: usize = 1 << 20;

/// How much is copied before the journal learns of it.
const STEP: u64 = 64 << 20;

/// Earlier bundles.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    bundles: Vec<Bundle>,
}

/// Why a copy did not come about.
enum Failed {
    /// The earlier bundle cannot be read.
    Reading(Error),
    /// The output cannot be written.
    Writing(Error),
}

impl Earlier {
    /// Opens them, each by itself: they may have one name for different images.
    ///
    /// # Errors
    /// Those of [`Bundle::open`].
    pub(super) async fn open(paths: &[PathBuf]) -> Result<Arc<Self>> {
        if paths.is_empty() {
            return Ok(Arc::default());
        }
        let paths = paths.to_vec();
        let open = move || {
            let open = |path: PathBuf| {
                let shown = quote(&path).to_string();
                Bundle::open(&[path], &OpenOptions::default()).map_err(|e| match e.kind() {
                    // That no image has a name: the only usage error that has a hint, which is one for an import.
                    Kind::Usage if e.hint().is_some() => {
                        e.with_hint(format!("`--reuse` needs images with names: omit `{shown}`"))
                    }
                    Kind::Integrity => e.with_hint(format!("`--reuse` needs at least one image that is whole: omit `{shown}`")),
                    Kind::Unsupported | Kind::Usage => e.with_hint(format!(
                        "`--reuse` reads a plain tar only: unpack it with `gzip -dk` or `zstd -dk`, and name the result in \
                         place of `{shown}`"
                    )),
                    _ => e,
                })
            };
            paths.into_iter().map(open).collect::<Result<Vec<_>>>()
        };
        let bundles = blocking(open).await??;
        Ok(Arc::new(Self { bundles }))
    }

    /// The earlier bundle that has a blob of this digest and size.
    pub(super) fn find(&self, blob: &Descriptor) -> Option<usize> {
        let has = |bundle: &Bundle| bundle.size_of(&blob.digest) == Some(blob.size);
        self.bundles.iter().position(has)
    }

    /// Reads a blob through, off the threads that serve connections, and compares its digest.
    pub(super) async fn verify(self: &Arc<Self>, bundle: usize, digest: &Digest) -> Result<()> {
        let (this, digest) = (self.clone(), digest.clone());
        blocking(move || this.bundles[bundle].verify_blob(&digest)).await?
    }

    /// Some bytes of a blob from `at` on.
    pub(super) async fn read(self: &Arc<Self>, bundle: usize, digest: &Digest, at: u64, most: usize) -> Result<Bytes> {
        let (this, digest) = (self.clone(), digest.clone());
        blocking(move || {
            let mut buffer = vec![0; READ.min(most)];
            let got = this.bundles[bundle].read_at(&digest, at, &mut buffer)?;
            buffer.truncate(got);
            Ok(buffer.into())
        })
        .await?
    }

    /// Copies `range` of a blob to `target` in the output: by the kernel where it can, which shares blocks where the file
    /// system can.
    fn copy(
        &self,
        bundle: usize,
        digest: &Digest,
        range: Range<u64>,
        partial: &Partial,
        target: u64,
    ) -> Result<(), Failed> {
        let bundle = &self.bundles[bundle];
        let mut at = range.start;
        if let Some((file, offset)) = bundle.file_of(digest) {
            let (mut from, mut to) = (offset + at, target);
            while at < range.end {
                let step = usize::try_from(range.end - at).unwrap_or(READ);
                match rustix::fs::copy_file_range(file, Some(&mut from), partial.file(), Some(&mut to), step) {
                    Ok(copied @ 1..) => at += copied as u64,
                    // Not between these file systems, or a failure: what follows does it, or says what is wrong.
                    Ok(0) | Err(_) => break,
                }
            }
        }
        let mut buffer = vec![0; if at < range.end { READ } else { 0 }];
        while at < range.end {
            let want = usize::try_from(range.end - at).unwrap_or(READ).min(READ);
            let got = bundle
                .read_at(digest, at, &mut buffer[..want])
                .map_err(Failed::Reading)?;
            if got == 0 {
                let short = format!("{} ends too early", bundle.describe(digest));
                return Err(Failed::Reading(Error::new(Kind::Integrity, short)));
            }
            let to = target + (at - range.start);
            partial.write_at(&buffer[..got], to).map_err(Failed::Writing)?;
            at += got as u64;
        }
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(Kind::Io, "reading an earlier bundle was cut off").with_source(e))
}

impl Engine {
    /// Copies what is absent of a blob from an earlier bundle. What cannot be read there is fetched.
    pub(super) async fn take_over(&self, slot: &Slot, id: u64, earlier: usize) -> Result<(), Trouble> {
        let gaps = slot.lock().written.gaps(slot.size());
        for gap in gaps {
            let mut at = gap.start;
            while at < gap.end {
                let step = at..gap.end.min(at + STEP);
                let (bundles, partial) = (self.filling.earlier.clone(), self.filling.partial.clone());
                let (digest, range) = (slot.place.blob.digest.clone(), step.clone());
                let target = slot.place.offset + at;
                let copied = blocking(move || bundles.copy(earlier, &digest, range, &partial, target))
                    .await
                    .map_err(Trouble::Output)?;
                match copied {
                    Ok(()) => {}
                    Err(Failed::Writing(error)) => return Err(Trouble::Output(error)),
                    Err(Failed::Reading(error)) => {
                        let progress = &self.filling.progress;
                        progress.warn(format!("{}; fetching it instead", error.full()));
                        let mut state = slot.lock();
                        state.abandon(id);
                        state.cut();
                        return Ok(());
                    }
                }
                let length = step.end - step.start;
                self.filling.progress.emit(Event::Bytes(length as i64));
                at = step.end;
                {
                    let mut state = slot.lock();
                    state.advance(id, at);
                    state.reused += length;
                }
                self.note(slot, step)?;
            }
        }
        slot.lock().advance(id, slot.size());
        Ok(())
    }
}
