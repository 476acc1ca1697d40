//! Compression, told by the first bytes and never by a name, and taken off with a limit on what comes out.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Kind, Result};

/// So many first bytes tell the compression.
pub(super) const MAGIC: usize = 6;

/// Up to this size nothing is taken for a bomb.
const ALWAYS: u64 = 256 << 20;

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// What the first bytes say.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for what is recognised and not read here.
    pub(super) fn of(head: &[u8], what: &str) -> Result<Self> {
        let unsupported = |format: &str, hint: &str| {
            Err(Error::new(
                Kind::Unsupported,
                format!("{what} is compressed with {format}, which is not read"),
            )
            .with_hint(hint))
        };
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz", "unpack it with `xz -d` first"),
            [b'B', b'Z', b'h', ..] => unsupported("bzip2", "unpack it with `bzip2 -d` first"),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4", "unpack it with `lz4 -d` first"),
            [b'P', b'K', 3, 4, ..] => unsupported("zip", "unpack it with `unzip` first"),
            [b'7', b'z', 0xbc, 0xaf, ..] => unsupported("7z", "unpack it with `7z x` first"),
            _ => Ok(Self::None),
        }
    }

    /// The content of `input`; reading fails once there is more than `ratio` times of what went in.
    pub(super) fn decode<'a, R: Read + Send + 'a>(
        self,
        input: R,
        what: &str,
        ratio: u64,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        let input = Counted { input, count: 0 };
        let what = what.to_owned();
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(Limited {
                inner: MultiGzDecoder::new(input),
                consumed: |decoder: &MultiGzDecoder<Counted<R>>| decoder.get_ref().count,
                produced: 0,
                ratio,
                what,
            }),
            Self::Zstd => Box::new(Limited {
                inner: zstd::stream::read::Decoder::new(input)?,
                consumed: |decoder: &zstd::stream::read::Decoder<'_, io::BufReader<Counted<R>>>| {
                    decoder.get_ref().get_ref().count
                },
                produced: 0,
                ratio,
                what,
            }),
        })
    }
}

struct Counted<R> {
    input: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.count += got as u64;
        Ok(got)
    }
}

/// A decoder whose output may not grow beyond measure.
struct Limited<D, F> {
    inner: D,
    consumed: F,
    produced: u64,
    ratio: u64,
    what: String,
}

impl<D: Read, F: Fn(&D) -> u64> Read for Limited<D, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.produced += got as u64;
        let most = (self.consumed)(&self.inner).saturating_mul(self.ratio).max(ALWAYS);
        if self.produced > most {
            return Err(io::Error::other(
                Error::new(
                    Kind::Malformed,
                    format!(
                        "{} grows to more than {} times its size when unpacked",
                        self.what, self.ratio
                    ),
                )
                .with_hint("it looks like a decompression bomb; if it is none, unpack it by hand first"),
            ));
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic() {
        assert_eq!(Compression::of(b"\x1f\x8b\x08\0\0\0", "x").unwrap(), Compression::Gzip);
        assert_eq!(
            Compression::of(b"\x28\xb5\x2f\xfd\0\0", "x").unwrap(),
            Compression::Zstd
        );
        assert_eq!(Compression::of(b"oci-la", "x").unwrap(), Compression::None);
        assert_eq!(Compression::of(b"", "x").unwrap(), Compression::None);
        for refused in [
            &b"\xfd7zXZ\0"[..],
            b"BZh91A",
            b"PK\x03\x04..",
            b"\x04\x22\x4d\x18..",
            b"7z\xbc\xaf..",
        ] {
            let error = Compression::of(refused, "x").unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn bombs_are_cut() {
        let bomb = zstd::encode_all(io::repeat(0).take(ALWAYS + (1 << 20)), 1).unwrap();
        let mut decoder = Compression::Zstd.decode(bomb.as_slice(), "x", 100).unwrap();
        let error = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("grows to more than 100 times"), "{error}");
    }
}
