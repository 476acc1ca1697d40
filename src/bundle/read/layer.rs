//! What a layer in Docker's own format is: its digest as it stands there, and that of its content.

use std::io::{self, Read};

use super::compression::{Compression, MAGIC};
use super::forward::stream_error;
use super::source::Place;
use crate::error::Result;
use crate::image::descriptor::Descriptor;
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::image::media_type;

/// gzip cannot do better than this; nothing is written, so only time is at stake.
const RATIO: u64 = 1100;

/// A layer, read through once.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// The bytes as they stand there.
    pub(super) descriptor: Descriptor,
    /// The digest of the uncompressed tar.
    pub(super) diff_id: Digest,
}

/// Reads a layer through and computes both digests.
pub(super) fn examine(place: &Place) -> Result<Layer> {
    let what = place.describe("");
    let mut head = [0; MAGIC];
    let count = place.read_at(0, &mut head)?;
    let compression = Compression::of(&head[..count], &what)?;
    let mut input = Hashed {
        place,
        offset: 0,
        hasher: Hasher::new(Algorithm::Sha256),
    };
    let mut content = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    {
        let mut decoder = compression
            .decode(&mut input, &what, RATIO)
            .map_err(|e| stream_error(&what, e))?;
        loop {
            match decoder.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => content.update(&buffer[..got]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(stream_error(&what, e)),
            }
        }
    }
    // A decoder may stop before the end of what it was given; the digest covers all of it.
    while input.read(&mut buffer).map_err(|e| stream_error(&what, e))? > 0 {}
    let digest = input.hasher.finish();
    Ok(Layer {
        descriptor: Descriptor {
            media_type: match compression {
                Compression::None => media_type::OCI_LAYER,
                Compression::Gzip => media_type::OCI_LAYER_GZIP,
                Compression::Zstd => media_type::OCI_LAYER_ZSTD,
            }
            .to_owned(),
            digest,
            size: place.size,
        },
        diff_id: content.finish(),
    })
}

/// Hashes what is read through it.
struct Hashed<'a> {
    place: &'a Place,
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
