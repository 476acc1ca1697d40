//! Reads a layer of Docker's own format: computes the digest of its stored bytes and of its uncompressed content.

use std::io::{self, Read};

use crate::bundle::read::compression::{Compression, Limit, MAGIC, count_window};
use crate::bundle::read::forward::stream_error;
use crate::bundle::read::source::Extent;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Budget;
use crate::image::descriptor::Descriptor;
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::image::media_type;

/// Maximum ratio of unpacked to stored bytes of ordinary content.
const RATIO: u64 = 100;

/// Maximum number of bytes that the layers of one archive may unpack to beyond the ratio, all
/// together. The content is only hashed, so the limit bounds time: a few minutes. Disk images full of zeros fit.
pub(in crate::bundle::read) const BEYOND: u64 = 64 << 30;

/// A layer that was read to its end.
#[derive(Debug, Clone)]
pub(in crate::bundle::read) struct Layer {
    /// Descriptor of the stored bytes.
    pub(in crate::bundle::read) descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub(in crate::bundle::read) diff_id: Digest,
}

/// Reads a layer and computes both digests.
///
/// `name` is the member's name in messages. `beyond` is the number of bytes that the layer may unpack to beyond the
/// ratio, and is reduced by the bytes used.
pub(in crate::bundle::read) fn examine(place: &Extent, name: &str, beyond: &mut u64, budget: &Budget) -> Result<Layer> {
    let what = place.describe(name);
    let limit = Limit {
        ratio: RATIO,
        beyond: *beyond,
    };
    let mut unpacked: u64 = 0;
    let mut head = [0; MAGIC];
    let count = place.read_at(0, &mut head)?;
    let compression = Compression::detect(&head[..count], &what)?;
    let window = compression.window(&head[..count]);
    let _held = count_window(window, budget).map_err(|error| error.context(&what))?;
    let media_type = match compression {
        Compression::None => media_type::OCI_LAYER,
        Compression::Gzip => media_type::OCI_LAYER_GZIP,
        Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        Compression::Xz | Compression::Bzip2 => {
            let why = format!("{what} is compressed with xz or bzip2, which no layer of an OCI image may be");
            return Err(Error::new(Kind::Unsupported, why)
                .with_hint("load the archive with `docker load` or `podman load`, and save the image again"));
        }
    };
    let mut input = Hashed {
        place,
        offset: 0,
        hasher: Hasher::new(Algorithm::Sha256),
    };
    let mut content = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    {
        let mut decoder = compression
            .decode(&mut input, &what, limit, window)
            .map_err(|e| stream_error(&what, e))?;
        loop {
            match decoder.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => {
                    content.update(&buffer[..got]);
                    unpacked += got as u64;
                    let excess = unpacked.saturating_sub(place.size.saturating_mul(RATIO));
                    *beyond = limit.beyond.saturating_sub(excess);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(stream_error(&what, e)),
            }
        }
    }
    // A decoder may stop before the end of its input; the digest covers all of the input.
    while input.read(&mut buffer).map_err(|e| stream_error(&what, e))? > 0 {}
    let digest = input.hasher.finish();
    Ok(Layer {
        descriptor: Descriptor {
            media_type: media_type.into(),
            digest,
            size: place.size,
        },
        diff_id: content.finish(),
    })
}

/// A reader that hashes all bytes that it reads.
struct Hashed<'a> {
    place: &'a Extent,
    offset: u64,
    hasher: Hasher,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.place.read_at(self.offset, buffer).map_err(io::Error::other)?;
        self.hasher.update(&buffer[..got]);
        self.offset += got as u64;
        Ok(got)
    }
}
