//! The body of an answer with a blob, or with a part of it, decoded from the encoding that a proxy may have applied.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;

use super::answer;
use super::content_encoding::{Decoding, Encoding};
use super::failure::Failure;

/// A body whose head was read, with the bytes to skip before the requested ones.
pub(super) struct Body {
    pub(super) response: Response,
    /// Decoder of an encoding that a proxy applied.
    pub(super) decoding: Option<Decoding>,
    /// Encoding claimed by the answer, until the first bytes show whether the claim is true.
    pub(super) claimed: Option<Encoding>,
    /// Number of leading bytes that were not requested.
    pub(super) skip: u64,
    /// Whether the head stated the body's length.
    pub(super) measured: bool,
    pub(super) host: String,
}

impl Body {
    /// Returns the next bytes, decoded.
    pub(super) async fn chunk(&mut self, stall: Duration) -> Result<Option<Bytes>, Failure> {
        let wrong = |host: &str, error: std::io::Error| {
            Failure::broken(format!(
                "`{host}` sent a body that is not encoded as it claims: {error}"
            ))
        };
        loop {
            if let Some(decoding) = &mut self.decoding
                && let Some(piece) = decoding.next().map_err(|e| wrong(&self.host, e))?
            {
                return Ok(Some(piece));
            }
            let arrived = answer::chunk(&mut self.response, stall, &self.host).await?;
            if let (Some(encoding), Some(bytes)) = (self.claimed.take(), &arrived) {
                self.decoding = Decoding::for_content(encoding, bytes);
            }
            match (&mut self.decoding, arrived) {
                (None, arrived) => return Ok(arrived),
                (Some(decoding), Some(bytes)) => decoding.input = bytes,
                (Some(decoding), None) => return decoding.end().map_err(|e| wrong(&self.host, e)),
            }
        }
    }
}
