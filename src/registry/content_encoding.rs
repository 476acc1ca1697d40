//! Decoding of content encodings (RFC 9110, section 8.4).
//! Some proxies encode a body although only `identity` was accepted.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

/// Maximum zstd window, as a power of two in bytes: the limit that RFC 9659 sets for servers.
const MAX_WINDOW_LOG: u32 = 23;

/// An encoding that can be decoded here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
    Zstd,
}

impl Encoding {
    /// Returns the encoding stated in the headers, if it can be decoded here.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        match headers.get(CONTENT_ENCODING)?.to_str().ok()?.trim() {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => Some(Self::Gzip),
            name if name.eq_ignore_ascii_case("deflate") => Some(Self::Deflate),
            name if name.eq_ignore_ascii_case("zstd") => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Returns whether content in this encoding may start with these bytes.
    fn may_begin(self, bytes: &[u8]) -> bool {
        match self {
            Self::Gzip => bytes.starts_with(&[0x1f, 0x8b]),
            Self::Deflate => bytes.first().is_some_and(|first| first & 0x0f == 8),
            Self::Zstd => bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
        }
    }
}

/// Returns the JSON text, of at most `cap` bytes, of a body that a proxy may have encoded.
///
/// Some proxies encode without stating it, so the first bytes are checked as well. A body that is not encoded, or cannot be
/// decoded, is returned unchanged: the parser reports what is wrong with it. Returns `None` if the text is longer than `cap`.
pub(super) fn json(body: Bytes, stated: Option<Encoding>, cap: u64) -> Option<Bytes> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if matches!(first, None | Some(b'{' | b'[')) {
        return Some(body);
    }
    let all = [Encoding::Gzip, Encoding::Zstd].into_iter();
    let found = stated.into_iter().chain(all).find(|encoding| encoding.may_begin(&body));
    match found.map(|encoding| decode(&body, encoding, cap)) {
        Some(Ok(text)) => text.map(Bytes::from),
        Some(Err(_)) | None => Some(body),
    }
}

/// Returns the decoded body; `None` if it is longer than `cap` bytes.
fn decode(body: &Bytes, encoding: Encoding, cap: u64) -> io::Result<Option<Vec<u8>>> {
    let mut decoding = Decoding::new(encoding)?;
    decoding.input = body.clone();
    let mut all = Vec::new();
    loop {
        let piece = match decoding.next()? {
            Some(piece) => piece,
            None => match decoding.end()? {
                Some(piece) => piece,
                None => return Ok(Some(all)),
            },
        };
        if (all.len() + piece.len()) as u64 > cap {
            return Ok(None);
        }
        all.extend_from_slice(&piece);
    }
}

/// Decoder of a body as it arrives.
/// Its memory does not grow with the output: each step returns one small piece.
pub(super) struct Decoding {
    decoder: Decoder,
    /// Bytes that have arrived and are not decoded yet.
    pub(super) input: Bytes,
    /// Whether the decoder was told that the input has ended.
    ended: bool,
}

enum Decoder {
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

impl Decoding {
    pub(super) fn new(encoding: Encoding) -> io::Result<Self> {
        let decoder = match encoding {
            Encoding::Gzip => Decoder::Gzip(MultiGzDecoder::new(Vec::new())),
            Encoding::Deflate => Decoder::Deflate(ZlibDecoder::new(Vec::new())),
            Encoding::Zstd => {
                let mut decoder = zstd::stream::write::Decoder::new(Vec::new())?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Self {
            decoder,
            input: Bytes::new(),
            ended: false,
        })
    }

    /// Creates a decoder for content with these first bytes; `None` if they do not fit the encoding.
    pub(super) fn for_content(encoding: Encoding, first: &[u8]) -> Option<Self> {
        let decoding = encoding.may_begin(first).then(|| Self::new(encoding));
        decoding.and_then(Result::ok)
    }

    /// Returns the next decoded piece; `None` once more input is needed.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.input.is_empty() {
            // One call consumes a part of the input, and outputs no more than the decoder's buffer holds.
            let taken = match &mut self.decoder {
                Decoder::Gzip(decoder) => decoder.write(&self.input)?,
                Decoder::Deflate(decoder) => decoder.write(&self.input)?,
                Decoder::Zstd(decoder) => decoder.write(&self.input)?,
            };
            let _ = self.input.split_to(taken);
            let out = self.take_output();
            if !out.is_empty() {
                return Ok(Some(out));
            }
            if taken == 0 {
                return Err(io::Error::other("bytes follow the end of the encoded content"));
            }
        }
        Ok(None)
    }

    /// Returns the last decoded bytes after the end of the input; `None` when all were returned.
    pub(super) fn end(&mut self) -> io::Result<Option<Bytes>> {
        if !std::mem::replace(&mut self.ended, true) {
            match &mut self.decoder {
                Decoder::Gzip(decoder) => decoder.try_finish()?,
                Decoder::Deflate(decoder) => decoder.try_finish()?,
                Decoder::Zstd(decoder) => decoder.flush()?,
            }
        }
        Ok(Some(self.take_output()).filter(|out| !out.is_empty()))
    }

    fn take_output(&mut self) -> Bytes {
        let out = match &mut self.decoder {
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Deflate(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => decoder.get_mut(),
        };
        std::mem::take(out).into()
    }
}

impl std::fmt::Debug for Decoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoding")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(encoding: Encoding, bytes: &[u8]) -> Bytes {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        let out = match encoding {
            Encoding::Gzip => gzip.write_all(bytes).and_then(|()| gzip.finish()),
            Encoding::Deflate => zlib.write_all(bytes).and_then(|()| zlib.finish()),
            Encoding::Zstd => zstd::encode_all(bytes, 3),
        };
        out.unwrap().into()
    }

    const ALL: [Encoding; 3] = [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd];

    #[test]
    fn json_is_decoded_whatever_the_encoding() {
        let text = format!(r#"{{"x":"{}"}}"#, "y".repeat(300_000));
        for encoding in ALL {
            let body = encoded(encoding, text.as_bytes());
            assert_eq!(json(body.clone(), Some(encoding), 1 << 20).unwrap(), text);
            // A proxy that encodes without stating it.
            if encoding != Encoding::Deflate {
                assert_eq!(json(body.clone(), None, 1 << 20).unwrap(), text);
            }
            assert_eq!(json(body.clone(), Some(encoding), 1000), None, "more than the limit");
            let cut = body.slice(..body.len() / 2);
            let _ = json(cut, Some(encoding), 1 << 20);
            assert_eq!(
                json(text.clone().into(), Some(encoding), 1 << 20).unwrap(),
                text,
                "only stated"
            );
        }
        assert_eq!(json(Bytes::new(), Some(Encoding::Gzip), 10).unwrap(), "");
        assert_eq!(json("<html>".into(), None, 10).unwrap(), "<html>");
    }

    #[test]
    fn a_piece_is_small_however_much_comes_out() {
        for encoding in ALL {
            let mut decoding = Decoding::new(encoding).unwrap();
            decoding.input = encoded(encoding, &vec![0; 64 << 20]);
            let mut all = 0;
            while let Some(piece) = decoding.next().unwrap() {
                assert!(piece.len() <= 1 << 20, "{encoding:?}: {}", piece.len());
                all += piece.len();
            }
            while let Some(piece) = decoding.end().unwrap() {
                all += piece.len();
            }
            assert_eq!(all, 64 << 20, "{encoding:?}");
        }
    }
}
