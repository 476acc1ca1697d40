//! Copies blobs from earlier bundles, so that they are not fetched again.
//!
//! Earlier bundles are not trusted: each copied blob is hashed in the output, like the bytes that an interrupted run left
//! there.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::bundle::finished::Finished;
use crate::bundle::partial::Partial;
use crate::bundle::read::{Bundle, OpenOptions};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::text::quote;
use crate::transfer::blocking::blocking;

/// Maximum number of bytes read at a time.
const READ: usize = 1 << 20;

/// Opened earlier bundles.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    bundles: Vec<Bundle>,
}

/// Error of copying a blob.
pub(super) enum CopyError {
    /// The earlier bundle cannot be read.
    Read(Error),
    /// The output cannot be written.
    Write(Error),
}

impl Earlier {
    /// Opens earlier bundles one by one, since several bundles may use the same name for different images.
    /// The file that the export replaces is opened as an earlier bundle as well, if it is a bundle.
    ///
    /// # Errors
    /// Errors of [`Bundle::open`], and [`Kind::Usage`] for a pipe or a device.
    pub(super) async fn open(paths: &[PathBuf], replaced: Option<&Path>) -> Result<Arc<Self>> {
        if paths.is_empty() && replaced.is_none() {
            return Ok(Arc::default());
        }
        let paths = paths.to_vec();
        let replaced = replaced.map(Path::to_owned);
        let open = move || {
            let open = |path: PathBuf| {
                let shown = quote(&path).to_string();
                if path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
                    let what =
                        format!("`--reuse {shown}`: this is a pipe or a device, which cannot be read at any place");
                    return Err(Error::new(Kind::Usage, what).with_hint("save what comes from it to a file first"));
                }
                let is_unfinished = path.extension().is_some_and(|extension| extension == "partial");
                let opened = Bundle::open(&[path], &OpenOptions::default()).map_err(|e| match e.kind() {
                    _ if is_unfinished => e.with_hint(format!(
                        "`{shown}` is an unfinished export: run that export again, which completes the file; an export to the \
                         same `-o` takes over its blobs without `--reuse`"
                    )),
                    // The bundle has no image with a name; the original hint is meant for an import.
                    Kind::Usage => e.with_hint(format!("`--reuse` needs images with names: omit `{shown}`")),
                    Kind::Integrity => e.with_hint(format!("`--reuse` needs at least one image that is whole: omit `{shown}`")),
                    Kind::Unsupported => e.with_hint(format!(
                        "`--reuse` reads a plain tar only: unpack it with `gzip -dk` or `zstd -dk`, and name the result in \
                         place of `{shown}`"
                    )),
                    _ => e,
                });
                // A file that the command line names is wrong; one that cannot be read is not known to be.
                opened.map_err(|e| match e.kind() {
                    Kind::NotFound | Kind::Integrity | Kind::Malformed | Kind::Unsupported => e.with_kind(Kind::Usage),
                    _ => e,
                })
            };
            let mut bundles = paths.into_iter().map(open).collect::<Result<Vec<_>>>()?;
            let replaced = replaced.filter(|path| Finished::open(path).is_ok());
            let replaced = replaced.map(|path| Bundle::open(&[path], &OpenOptions::default()));
            bundles.extend(replaced.and_then(Result::ok));
            Ok::<_, Error>(bundles)
        };
        let bundles = blocking(open).await??;
        Ok(Arc::new(Self { bundles }))
    }

    /// Returns the position of the first earlier bundle that contains a blob with this digest and size.
    pub(super) fn find(&self, blob: &Descriptor) -> Option<usize> {
        let has = |bundle: &Bundle| bundle.size_of(&blob.digest) == Some(blob.size);
        self.bundles.iter().position(has)
    }

    /// Returns the size of a blob in the first earlier bundle that contains it.
    pub(super) fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.bundles.iter().find_map(|bundle| bundle.size_of(digest))
    }

    /// Reads a whole blob on a thread for blocking work and checks its digest.
    pub(super) async fn verify(self: &Arc<Self>, bundle: usize, digest: &Digest) -> Result<()> {
        let (this, digest) = (self.clone(), digest.clone());
        blocking(move || this.bundles[bundle].verify_blob(&digest)).await?
    }

    /// Reads up to `most` bytes of a blob, starting at offset `at`.
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

    /// Copies `range` of a blob to offset `target` of the output.
    /// The kernel copies the bytes if it can, and then shares blocks on file systems that support it.
    pub(super) fn copy(
        &self,
        bundle: usize,
        digest: &Digest,
        range: Range<u64>,
        partial: &Partial,
        target: u64,
    ) -> Result<(), CopyError> {
        let bundle = &self.bundles[bundle];
        let mut at = range.start;
        if let Some((file, offset)) = bundle.file_of(digest) {
            let (mut from, mut to) = (offset + at, target);
            while at < range.end {
                let step = usize::try_from(range.end - at).unwrap_or(READ);
                match rustix::fs::copy_file_range(file, Some(&mut from), partial.file(), Some(&mut to), step) {
                    Ok(copied @ 1..) => at += copied as u64,
                    // The kernel cannot copy between these file systems, or it failed: the loop below copies the rest or
                    // returns the error.
                    Ok(0) | Err(_) => break,
                }
            }
        }
        let mut buffer = vec![0; if at < range.end { READ } else { 0 }];
        while at < range.end {
            let want = usize::try_from(range.end - at).unwrap_or(READ).min(READ);
            let got = bundle
                .read_at(digest, at, &mut buffer[..want])
                .map_err(CopyError::Read)?;
            if got == 0 {
                let short = format!("{} ends too early", bundle.describe(digest));
                return Err(CopyError::Read(Error::new(Kind::Integrity, short)));
            }
            let to = target + (at - range.start);
            partial.write_at(&buffer[..got], to).map_err(CopyError::Write)?;
            at += got as u64;
        }
        Ok(())
    }
}
