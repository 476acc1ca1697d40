//! Detects compression by magic bytes, never by file name, and decompresses with a limit on the output.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;

use super::streams::{Stream, Streams};
use crate::error::{Error, Kind, Result};
use crate::image::budget::{Budget, Held};
use crate::progress::human_bytes;

/// Number of bytes at the start of a file that identify the
/// compression and the size of its window.
pub(super) const MAGIC: usize = 18;

/// Maximum window of zstd, and dictionary of xz, in bytes. The decoder holds all of it in memory.
/// `zstd -d` has the same limit, and `xz -9` uses half of that.
pub(super) const MAX_WINDOW: u64 = 1 << 27;

/// Memory in bytes that a decoder may take without counting against the budget,
/// which reserves this much.
pub(super) const UNCOUNTED_WINDOW: u64 = 32 << 20;

/// Dictionary of `xz -9` in bytes. The first bytes of a file do not state the actual size.
const XZ_DICTIONARY: u64 = 64 << 20;

/// Memory in bytes that the decoder of xz takes in addition to its dictionary.
const BESIDE_XZ_DICTIONARY: u64 = 1 << 20;

/// Limit on decompressed bytes: a ratio to the compressed bytes, plus a constant.
///
/// A ratio alone is not enough:
/// gzip compresses zeros to a thousandth, zstd to much less, and a short run of zeros is no bomb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) ratio: u64,
    pub(super) beyond: u64,
}

impl Limit {
    /// Returns the maximum output in bytes for this many bytes of input.
    fn for_input(self, consumed: u64) -> u64 {
        consumed.saturating_mul(self.ratio).saturating_add(self.beyond)
    }
}

/// Counts the window of a decoder against the budget as long as the decoder lives.
///
/// The count matters when parsed documents and the window are in memory at the same time.
///
/// # Errors
/// [`Kind::TooLarge`] if the budget has less left.
pub(super) fn count_window(window: u64, budget: &Budget) -> Result<Held> {
    budget.hold(window.saturating_sub(UNCOUNTED_WINDOW))
}

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// Detects the compression from the first bytes of a file.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a known format that is not supported, and for a zstd window over [`MAX_WINDOW`].
    pub(super) fn detect(head: &[u8], what: &str) -> Result<Self> {
        let unsupported = |format: &str, hint: &str| {
            Err(Error::new(
                Kind::Unsupported,
                format!("{what} is compressed with {format}, which is not supported"),
            )
            .with_hint(hint))
        };
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, frame @ ..] => match zstd_window(frame) {
                Some(window) if window > MAX_WINDOW => Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "{what} takes {} of memory to unpack; at most {} are used",
                        human_bytes(window),
                        human_bytes(MAX_WINDOW)
                    ),
                )
                .with_hint(unpack("zstd -dc --long=31"))),
                _ => Ok(Self::Zstd),
            },
            // A skippable frame (RFC 8878, section 3.1.2), which some programs write first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Self::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Ok(Self::Bzip2),
            [0x5d, 0, 0, ..] => unsupported("lzma", &unpack("xz -dc --format=lzma")),
            [b'L', b'Z', b'I', b'P', ..] => unsupported("lzip", &unpack("lzip -dc")),
            [0x1f, 0x9d, ..] => unsupported("compress", &unpack("gzip -dc")),
            [0x89, b'L', b'Z', b'O', ..] => unsupported("lzop", &unpack("lzop -dc")),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4", &unpack("lz4 -dc")),
            [b'P', b'K', 3, 4, ..] => unsupported("zip", "unpack it with `unzip` first"),
            [b'7', b'z', 0xbc, 0xaf, ..] => unsupported("7z", "unpack it with `7z x` first"),
            _ => Ok(Self::None),
        }
    }

    /// Returns the window in bytes that a decoder needs for input with this `head`, or the usual
    /// window if `head` does not state one; at least [`UNCOUNTED_WINDOW`].
    pub(super) fn window(self, head: &[u8]) -> u64 {
        let window = match (self, head) {
            (Self::Zstd, [0x28, 0xb5, 0x2f, 0xfd, frame @ ..]) => zstd_window(frame).unwrap_or(MAX_WINDOW),
            (Self::Xz, _) => XZ_DICTIONARY,
            _ => 0,
        };
        window.clamp(UNCOUNTED_WINDOW, MAX_WINDOW)
    }

    /// Returns a reader of the decompressed `input`. Reading fails when the output exceeds
    /// `limit`, or if the input needs a window of more than `window` bytes.
    pub(super) fn decode<'a, R: Read + Send + 'a>(
        self,
        input: R,
        what: &str,
        limit: Limit,
        window: u64,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        let consumed = Arc::new(AtomicU64::new(0));
        let input = Counted {
            input,
            count: consumed.clone(),
        };
        let inner: Box<dyn Read + Send + 'a> = match self {
            Self::None => return Ok(Box::new(input)),
            Self::Gzip => Box::new(Streams::new(input, window, |input, _| {
                Ok(Stream::Gzip(Box::new(GzDecoder::new(input))))
            })?),
            Self::Zstd => Box::new(Streams::new(input, window, |input, window| {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
                decoder.window_log_max(window.next_power_of_two().ilog2())?;
                Ok(Stream::Zstd(decoder))
            })?),
            Self::Xz => Box::new(Xz {
                inner: Streams::new(input, window, |input, window| {
                    let memory = u32::try_from((window + BESIDE_XZ_DICTIONARY) >> 10).unwrap_or(u32::MAX);
                    Ok(Stream::Xz(Box::new(XzReader::new_mem_limit(input, false, memory))))
                })?,
                what: what.to_owned(),
                window,
            }),
            Self::Bzip2 => Box::new(Streams::new(input, window, |input, _| {
                Ok(Stream::Bzip2(BzDecoder::new(input)))
            })?),
        };
        Ok(Box::new(Limited {
            inner,
            consumed,
            produced: 0,
            limit,
            what: what.to_owned(),
        }))
    }
}

/// Returns a hint that decompresses a file with a program and pipes the output into an import.
pub(super) fn unpack(program: &str) -> String {
    format!("unpack it on its way: `{program} FILE | docker-mirror import - -d REGISTRY`")
}

/// A decoder of xz that reports when the dictionary needs more memory than allowed.
struct Xz<R> {
    inner: R,
    what: String,
    /// Maximum dictionary in bytes.
    window: u64,
}

impl<R: Read> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::OutOfMemory => {
                let (what, most) = (&self.what, human_bytes(self.window));
                let what = format!("{what} takes more than {most} of memory to unpack");
                io::Error::other(Error::new(Kind::Unsupported, what).with_hint(unpack("xz -dc")))
            }
            _ => e,
        })
    }
}

/// Returns the window in bytes of a zstd frame;
/// `frame` starts after the magic number (RFC 8878, section 3.1.1.1).
fn zstd_window(frame: &[u8]) -> Option<u64> {
    let (descriptor, rest) = frame.split_first()?;
    if descriptor & 0x20 == 0 {
        let window = rest.first()?;
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // Single-segment frame: the window is the whole content, whose size follows the dictionary ID.
    let at = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut size = [0; 8];
    size[..length].copy_from_slice(rest.get(at..at + length)?);
    Some(u64::from_le_bytes(size))
}

struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.count.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// Marks an error of a decoder as invalid data. Some decoders give no kind to their errors; errors of the input have a code of
/// the system, or are errors of this crate.
fn damaged(error: io::Error) -> io::Error {
    let is_ours = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    match error.kind() == io::ErrorKind::Other && error.raw_os_error().is_none() && !is_ours {
        true => io::Error::new(io::ErrorKind::InvalidData, error),
        false => error,
    }
}

/// A decoder with a limit on its output.
struct Limited<'a> {
    inner: Box<dyn Read + Send + 'a>,
    consumed: Arc<AtomicU64>,
    produced: u64,
    limit: Limit,
    what: String,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer).map_err(damaged)?;
        self.produced += got as u64;
        if self.produced > self.limit.for_input(self.consumed.load(Ordering::Relaxed)) {
            return Err(io::Error::other(
                Error::new(
                    Kind::Malformed,
                    format!(
                        "{} grows when unpacked to more than {} times its size and {} bytes",
                        self.what, self.limit.ratio, self.limit.beyond
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
        assert_eq!(
            Compression::detect(b"\x1f\x8b\x08\0\0\0", "x").unwrap(),
            Compression::Gzip
        );
        assert_eq!(
            Compression::detect(b"\x28\xb5\x2f\xfd\0\0", "x").unwrap(),
            Compression::Zstd
        );
        assert_eq!(Compression::detect(b"\xfd7zXZ\0", "x").unwrap(), Compression::Xz);
        assert_eq!(Compression::detect(b"BZh91A", "x").unwrap(), Compression::Bzip2);
        assert_eq!(Compression::detect(b"BZh.json", "x").unwrap(), Compression::None);
        assert_eq!(Compression::detect(b"oci-la", "x").unwrap(), Compression::None);
        assert_eq!(Compression::detect(b"", "x").unwrap(), Compression::None);
        for refused in [
            &b"\x5d\0\0\x80"[..],
            b"LZIP\x01",
            b"PK\x03\x04..",
            b"\x04\x22\x4d\x18..",
            b"7z\xbc\xaf..",
        ] {
            let error = Compression::detect(refused, "x").unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn a_window_that_takes_too_much_memory_is_refused_with_a_way_out() {
        let packed = |log: u32| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            std::io::Write::write_all(&mut encoder, b"content").unwrap();
            encoder.finish().unwrap()
        };
        let of = |bytes: &[u8]| Compression::detect(&bytes[..bytes.len().min(MAGIC)], "`x`");
        assert_eq!(of(&packed(27)).unwrap(), Compression::Zstd);
        let error = of(&packed(31)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`x` takes 2.0 GiB of memory to unpack; at most 128.0 MiB are used"
        );
        assert!(error.hint().unwrap().contains("zstd -dc --long=31"));
        // The whole content in one segment of 256 MiB.
        let single = b"\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x10";
        assert_eq!(of(single).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(of(b"\x28\xb5\x2f\xfd\x20\x07").unwrap(), Compression::Zstd);
        assert_eq!(of(b"\x28\xb5\x2f\xfd").unwrap(), Compression::Zstd);
    }

    #[test]
    fn a_window_beyond_what_was_counted_is_not_unpacked() {
        let packed = |log: u32| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            std::io::Write::write_all(&mut encoder, b"content").unwrap();
            encoder.finish().unwrap()
        };
        let window = |head: &[u8]| Compression::Zstd.window(&head[..head.len().min(MAGIC)]);
        assert_eq!(window(&packed(27)), MAX_WINDOW);
        assert_eq!(window(&packed(26)), MAX_WINDOW / 2);
        assert_eq!(window(&packed(20)), UNCOUNTED_WINDOW);
        assert_eq!(Compression::Gzip.window(b"\x1f\x8b"), UNCOUNTED_WINDOW);
        // The window of the first frame counts as the limit; a later frame may not use a larger window.
        for (second, is_read) in [(25, true), (26, false)] {
            let all = [packed(20), packed(second)].concat();
            let limit = Limit { ratio: 1, beyond: 100 };
            let decoder = Compression::Zstd.decode(all.as_slice(), "x", limit, window(&all));
            let read = io::copy(&mut decoder.unwrap(), &mut io::sink());
            assert_eq!(read.is_ok(), is_read, "{read:?}");
        }
    }

    #[test]
    fn a_frame_to_be_skipped_comes_first() {
        let mut packed = vec![0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b'a', b'b', b'c'];
        packed.extend(zstd::encode_all(&b"content"[..], 1).unwrap());
        let compression = Compression::detect(&packed[..MAGIC], "x").unwrap();
        let limit = Limit { ratio: 1, beyond: 1 };
        let mut decoder = compression.decode(packed.as_slice(), "x", limit, MAX_WINDOW).unwrap();
        let mut content = String::new();
        decoder.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
    }

    #[test]
    fn bombs_are_cut_and_zeros_are_none() {
        const SIZE: u64 = 8 << 20;
        let zeros = || io::repeat(0).take(SIZE);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::copy(&mut zeros(), &mut gzip).unwrap();
        for (compression, bomb) in [
            (Compression::Zstd, zstd::encode_all(zeros(), 1).unwrap()),
            (Compression::Gzip, gzip.finish().unwrap()),
        ] {
            let unpack = |beyond| {
                let limit = Limit { ratio: 100, beyond };
                let mut decoder = compression.decode(bomb.as_slice(), "x", limit, MAX_WINDOW).unwrap();
                io::copy(&mut decoder, &mut io::sink())
            };
            let error = unpack(SIZE / 2).unwrap_err().to_string();
            assert!(
                error.contains("to more than 100 times its size and 4194304 bytes"),
                "{error}"
            );
            assert_eq!(unpack(SIZE).unwrap(), SIZE);
        }
    }
}
