//! An HTTP message on the wire: its head, and its body in parts.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Maximum length of the head of a message, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Maximum number of bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// The start line and the headers of a message.
pub(super) struct Head {
    lines: Vec<String>,
}

impl Head {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let lines = text
            .split("\r\n")
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect();
        Self { lines }
    }

    pub(super) fn word(&self, n: usize) -> &str {
        self.lines[0].split(' ').nth(n).unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.lines[1..].iter().find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.lines
            .retain(|line| line.split_once(':').is_none_or(|(n, _)| !n.eq_ignore_ascii_case(name)));
        self
    }

    pub(super) fn bytes(&self, more: &str) -> Vec<u8> {
        format!("{}\r\n{more}\r\n", self.lines.join("\r\n")).into_bytes()
    }
}

/// A connection to one side, with bytes that were read but not used yet.
pub(super) struct Half {
    pub(super) stream: TcpStream,
    pub(super) rest: BytesMut,
}

impl Half {
    pub(super) fn new(stream: TcpStream) -> Self {
        let rest = BytesMut::new();
        Self { stream, rest }
    }

    /// Reads the next head. Returns `None` if the other side closed the connection.
    pub(super) async fn head(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.rest.windows(4).position(|w| w == b"\r\n\r\n") {
                return Ok(Some(self.rest.split_to(end + 4).freeze()));
            }
            if self.rest.len() > MAX_HEAD || self.stream.read_buf(&mut self.rest).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads some bytes of a body, at most `limit`. Returns no bytes at the end of the connection.
    pub(super) async fn some(&mut self, limit: u64) -> io::Result<Bytes> {
        if self.rest.is_empty() && limit > 0 {
            self.rest.reserve(PIECE);
            let most = limit.min(PIECE as u64);
            (&mut self.stream).take(most).read_buf(&mut self.rest).await?;
        }
        let length = self.rest.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(self.rest.split_to(length).freeze())
    }
}

pub(super) fn broken() -> io::Error {
    io::Error::other("broken on purpose")
}

/// Reads a whole body of this length.
pub(super) async fn read(server: &mut Half, length: u64) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    while (body.len() as u64) < length {
        let bytes = server.some(length - body.len() as u64).await?;
        if bytes.is_empty() {
            return Err(broken());
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// Returns the bytes with one bit flipped at offset `flip`, if the bytes contain that offset. `at` is the offset of the
/// first byte.
pub(super) fn flipped(bytes: Bytes, at: u64, flip: u64) -> Bytes {
    match flip.checked_sub(at) {
        Some(inside) if inside < bytes.len() as u64 => {
            let mut bytes = bytes.to_vec();
            bytes[inside as usize] ^= 1 << (flip % 8);
            bytes.into()
        }
        _ => bytes,
    }
}
