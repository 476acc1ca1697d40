//! One record of the cache of manifests: the line before the bytes, and the bytes, which are compressed.
//!
//! Each record is compressed by itself, so that it can be read alone and a torn one costs no other. Most of a manifest is
//! the same in every manifest: the texts of [`DICTIONARY`], with which compression starts. What remains are digests.

use std::io;
use std::num::NonZeroU32;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::image::digest::Digest;
use crate::image::manifest::MAX_MANIFEST;

/// Maximum length in bytes of the line before a manifest.
pub(super) const MAX_LINE: u64 = 160;

/// Texts that are frequent in manifests, the most frequent ones last. It is a part of the format: with another dictionary the
/// records of the file cannot be restored, and each costs a pull.
const DICTIONARY: &[u8] = br#""org.opencontainers.image.base.name": "org.opencontainers.image.base.digest": "org.opencontainers.image.created": "org.opencontainers.image.revision": "org.opencontainers.image.source": "https://github.com/"org.opencontainers.image.url": "https://hub.docker.com/_/"org.opencontainers.image.version": "com.docker.official-images.bashbrew.arch": "application/vnd.in-toto+json",
      "annotations": {
        "in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"https://spdx.dev/Document"
      "annotations": {
        "vnd.docker.reference.digest": "sha256:",
        "vnd.docker.reference.type": "attestation-manifest"
      },
      "platform": {
        "architecture": "unknown",
        "os": "unknown"
      }
    }
  ]
}{
   "schemaVersion": 2,
   "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
   "manifests": [
      {
         "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
         "digest": "sha256:",
         "size": 
   "config": {
      "mediaType": "application/vnd.docker.container.image.v1+json",
   "layers": [
      {
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [
    {
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "digest": "sha256:",
      "size": 
      "platform": {
        "architecture": "s390x",ppc64le",riscv64",386",arm64",amd64",
        "os": "linux",
        "variant": "v6"v8"
  "config": {
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": "sha256:",
    "size": 
  },
  "layers": [
    {
      "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
      "digest": "sha256:",
      "size": 
    },
    {{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:","size":"annotations":{","platform":{"architecture":"s390x","ppc64le","386","amd64","os":"linux"}},"arm64","os":"linux","variant":"v8"}},"arm","os":"linux","variant":"v7"}}]}{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:","size":},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:","size":},{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:","size":}]}"#;

/// What the line before a manifest states about its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// Number of bytes in the file.
    stored: u32,
    /// Number of bytes of the manifest; `None` if they are not compressed.
    size: Option<NonZeroU32>,
}

/// Returns the first eight bytes of a digest, by which a record is found.
pub(super) fn key(digest: &Digest) -> u64 {
    u64::from_str_radix(&digest.hex()[..16], 16).unwrap_or_default()
}

/// Makes records. The state of a compressor takes some hundred kilobytes: if each manifest had its own, the values that last would
/// split what it leaves free, and the next one would need new memory.
#[derive(Debug)]
pub(super) struct Encoder(Compress);

impl Encoder {
    pub(super) fn new() -> Self {
        Self(Compress::new(Compression::best(), false))
    }

    /// Returns the record of a manifest, and what its line states.
    pub(super) fn encode(&mut self, key: u64, manifest: &[u8]) -> io::Result<(Line, Vec<u8>)> {
        self.0.reset();
        self.0.set_dictionary(DICTIONARY)?;
        // Deflate adds at most five bytes for each block that it cannot compress.
        let mut bytes = Vec::with_capacity(manifest.len() + manifest.len() / 1000 + 64);
        self.0.compress_vec(manifest, &mut bytes, FlushCompress::Finish)?;
        let (Ok(stored), Ok(size)) = (bytes.len().try_into(), NonZeroU32::try_from(manifest.len() as u32)) else {
            return Err(io::Error::other("it is empty"));
        };
        let line = format!("{key:016x} {stored} {size}\n");
        let size = Some(size);
        Ok((Line { stored, size }, [line.as_bytes(), &bytes, b"\n"].concat()))
    }
}

impl Line {
    /// Parses a line into the key of its record and what it states.
    pub(super) fn parse(line: &[u8]) -> Option<(u64, Self)> {
        let mut words = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split(' ');
        let (digest, stored, size) = (words.next()?, words.next()?.parse().ok()?, words.next());
        let (key, size) = match size {
            Some(size) if digest.len() == 16 => (u64::from_str_radix(digest, 16).ok()?, Some(size.parse().ok()?)),
            None => (key(&digest.parse().ok()?), None),
            _ => return None,
        };
        let is_allowed = u64::from(stored).max(size.map_or(0, |size: NonZeroU32| size.get().into())) <= MAX_MANIFEST;
        (is_allowed && words.next().is_none()).then_some((key, Self { stored, size }))
    }

    /// Number of bytes of the manifest in the file.
    pub(super) fn stored(self) -> usize {
        self.stored as usize
    }
}

/// Reads records. As with the [`Encoder`], one for all of them takes less memory than one for each.
#[derive(Debug)]
pub(super) struct Decoder(Decompress);

impl Decoder {
    pub(super) fn new() -> Self {
        Self(Decompress::new(false))
    }

    /// Returns the bytes of the manifest, from those in the file. They may be wrong ones if the file is damaged.
    pub(super) fn decode(&mut self, line: Line, stored: Vec<u8>) -> Option<Vec<u8>> {
        let Some(size) = line.size else { return Some(stored) };
        self.0.reset(false);
        self.0.set_dictionary(DICTIONARY).ok()?;
        let mut bytes = Vec::with_capacity(size.get() as usize);
        self.0
            .decompress_vec(&stored, &mut bytes, FlushDecompress::Finish)
            .ok()?;
        Some(bytes)
    }
}
