//! Decoders for files of one compression, in which several streams may follow one another.
//! The zeros behind a stream, with which tapes and block devices pad a file, are skipped alike for every compression.

use std::io::{self, BufRead, BufReader, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;

/// Size in bytes of the input buffer; the decoder of zstd takes blocks of this size.
const BUFFER: usize = 128 << 10;

/// Maximum number of zeros behind a stream. The blocks of a tape are smaller, and a pipe may send zeros without end.
const MAX_PADDING: u64 = 64 << 20;

/// The decoder of one stream. It reads no byte behind the stream's end.
pub(super) enum Stream<R: BufRead> {
    Gzip(Box<GzDecoder<R>>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
    Xz(Box<XzReader<R>>),
    Bzip2(BzDecoder<R>),
}

impl<R: BufRead> Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Xz(decoder) => decoder.read(buffer),
            Self::Bzip2(decoder) => decoder.read(buffer),
        }
    }

    fn into_inner(self) -> R {
        match self {
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
            Self::Xz(decoder) => decoder.into_inner(),
            Self::Bzip2(decoder) => decoder.into_inner(),
        }
    }
}

/// Creates the decoder of a stream, with a maximum window in bytes.
type Start<R> = fn(BufReader<R>, u64) -> io::Result<Stream<BufReader<R>>>;

/// A reader of all streams of a file, one after the other.
/// Bytes behind a stream that are neither zeros nor another stream are an error.
pub(super) struct Streams<R: Read> {
    /// The current stream; `None` behind the last one.
    stream: Option<Stream<BufReader<R>>>,
    start: Start<R>,
    window: u64,
}

impl<R: Read> Streams<R> {
    pub(super) fn new(input: R, window: u64, start: Start<R>) -> io::Result<Self> {
        let stream = Some(start(BufReader::with_capacity(BUFFER, input), window)?);
        Ok(Self { stream, start, window })
    }
}

impl<R: Read> Read for Streams<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(stream) = &mut self.stream {
            let count = stream.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if let Some(ended) = self.stream.take() {
                let mut input = ended.into_inner();
                if skip_padding(&mut input)? {
                    self.stream = Some((self.start)(input, self.window)?);
                }
            }
        }
        Ok(0)
    }
}

/// Skips zeros, and returns whether other bytes follow.
fn skip_padding(input: &mut impl BufRead) -> io::Result<bool> {
    let mut skipped = 0;
    loop {
        let bytes = match input.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        if bytes.is_empty() {
            return Ok(false);
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let is_more = zeros < bytes.len();
        input.consume(zeros);
        if is_more {
            return Ok(true);
        }
        skipped += zeros as u64;
        if skipped > MAX_PADDING {
            let what = format!("more than {MAX_PADDING} zeros follow its end");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
    }
}
