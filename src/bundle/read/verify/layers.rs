//! Decompresses each layer, as a container engine does, and compares its content with the digest in the config.
//!
//! The decompressed content is not written anywhere, and its size has a limit.

use std::io::{self, Read};

use super::faults::{Faults, User};
use super::images::{Contents, ExpectedContent, LayerContent};
use super::options::VerifyOptions;
use super::result::{Fault, FaultKind};
use crate::bundle::read::Bundle;
use crate::bundle::read::compression::{Compression, Limit, MAGIC};
use crate::bundle::read::forward::stream_error;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::lock::Mutex;
use crate::progress::{Event, Progress};

/// Number of bytes read or decompressed at a time.
const PIECE: usize = 256 << 10;

/// Maximum number of threads: each may hold the window of a zstd frame.
const MAX_THREADS: usize = 4;

/// Maximum ratio of unpacked to stored bytes, beyond which [`BEYOND`] counts: what gzip reaches with zeros.
const RATIO: u64 = 1100;

/// Maximum number of bytes that a layer unpacks to beyond the ratio. Only zstd and xz pack long runs of zeros tighter.
const BEYOND: u64 = 4 << 30;

/// Digest and length of an unpacked layer.
type Unpacked = Result<(Digest, u64)>;

/// The layers that were decompressed, and those that cannot be.
#[derive(Debug, Default)]
pub(super) struct Unpacking {
    /// Number of layers that were decompressed.
    pub(super) layers: u64,
    /// Total size of their content in bytes.
    pub(super) bytes: u64,
    /// Number of layers of a compression or window that is not supported, and the first reason.
    pub(super) unsupported: (u64, Option<Error>),
}

/// Decompresses the layers.
pub(super) fn check(
    bundle: &Bundle,
    contents: Contents,
    options: &VerifyOptions,
    faults: &mut Faults<'_>,
) -> Unpacking {
    let progress = &options.progress;
    let limit = Limit {
        ratio: RATIO,
        beyond: options.max_unpacked.unwrap_or(BEYOND),
    };
    let mut jobs: Vec<(LayerContent, ExpectedContent)> = contents.into_iter().collect();
    // Sorted, so that every run reports the same faults in the same order.
    jobs.sort_by(|(a, _), (b, _)| (&a.layer, &a.diff_id).cmp(&(&b.layer, &b.diff_id)));
    let bytes = jobs.iter().filter_map(|(job, _)| bundle.size_of(&job.layer));
    progress.emit(Event::Grown {
        blobs: jobs.len() as u64,
        bytes: bytes.fold(0, u64::saturating_add),
    });
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let results: Mutex<Vec<Option<Unpacked>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    let waiting = Mutex::new(jobs.iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(MAX_THREADS).min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().next();
                    let Some((number, (job, _))) = next else { return };
                    let result = unpack(bundle, job, limit, progress);
                    results.lock()[number] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner();
    let mut unpacking = Unpacking::default();
    for ((job, promise), result) in jobs.iter().zip(results) {
        let why = match result {
            Some(Ok((found, bytes))) => {
                unpacking.layers += 1;
                unpacking.bytes = unpacking.bytes.saturating_add(bytes);
                if found == job.diff_id {
                    continue;
                }
                let config = promise
                    .config
                    .iter()
                    .map(|config| format!(" {config}"))
                    .collect::<String>();
                let promised = format!("its config{config} promises {}", job.diff_id);
                format!("layer {}: its content hashes to {found}, and {promised}", job.layer)
            }
            // The bytes were compared with their digest; whether they unpack is not known.
            Some(Err(error)) if error.kind() == Kind::Unsupported && is_packed(bundle, job) => {
                unpacking.unsupported.0 += 1;
                unpacking.unsupported.1.get_or_insert(error);
                continue;
            }
            Some(Err(error)) => format!("layer {}: {}", job.layer, error.full()),
            None => continue,
        };
        faults.about(&job.layer, Fault::new(FaultKind::LayerContent, why));
        for (number, name) in &promise.images {
            let names = std::slice::from_ref(name);
            faults.add_user(
                FaultKind::LayerContent,
                &job.layer,
                User {
                    number: *number,
                    names,
                    source: None,
                },
            );
        }
    }
    unpacking
}

/// Returns whether a layer is compressed with zstd or xz, of which a frame may need more memory than a decoder gets here.
fn is_packed(bundle: &Bundle, job: &LayerContent) -> bool {
    let mut head = [0; 4];
    bundle.read_at(&job.layer, 0, &mut head).is_ok()
        && matches!(head, [0x28, 0xb5, 0x2f, 0xfd] | [0xfd, b'7', b'z', b'X'])
}

/// Decompresses a layer; returns the digest and the length of its content.
fn unpack(bundle: &Bundle, job: &LayerContent, limit: Limit, progress: &Progress) -> Result<(Digest, u64)> {
    let what = bundle.describe(&job.layer);
    let mut head = [0; MAGIC];
    let count = bundle.read_at(&job.layer, 0, &mut head)?;
    let compression = Compression::detect(&head[..count], &what)?;
    let input = Blob {
        bundle,
        digest: &job.layer,
        offset: 0,
        progress,
    };
    let mut content = compression
        .decode(input, &what, limit, compression.window(&head[..count]))
        .map_err(|e| stream_error(&what, e))?;
    let mut hasher = job.diff_id.hasher();
    let mut buffer = vec![0; PIECE];
    let mut length = 0;
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), length)),
            Ok(got) => {
                hasher.update(&buffer[..got]);
                length += got as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(stream_error(&what, e)),
        }
    }
}

/// A reader of a blob that reports its progress.
struct Blob<'a> {
    bundle: &'a Bundle,
    digest: &'a Digest,
    offset: u64,
    progress: &'a Progress,
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self
            .bundle
            .read_at(self.digest, self.offset, buffer)
            .map_err(io::Error::other)?;
        self.offset += got as u64;
        self.progress.emit(Event::Bytes(i64::try_from(got).unwrap_or(0)));
        Ok(got)
    }
}
