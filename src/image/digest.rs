//! Content digests (OCI image-spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::{Error, Kind};
use crate::text::quote;

/// The digest algorithms that this program can verify. A digest of another algorithm does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`, 64 hexadecimal digits.
    Sha256,
    /// `sha512`, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// Returns the name of the algorithm, as used before the colon of a digest and in blob paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns the number of hexadecimal digits of a digest of this algorithm.
    pub(crate) fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A digest that this program can verify.
///
/// Invariants, guaranteed by the only ways to create a digest ([`FromStr`] and [`Hasher::finish`]):
/// - the algorithm is `sha256` or `sha512`;
/// - the digest has as many bytes as the algorithm produces, and is displayed in lower-case hexadecimal digits.
///
/// A run holds very many digests, so a SHA-256 digest needs no heap allocation.
///
/// ```
/// use docker_mirror::Digest;
/// let empty = Digest::sha256(b"");
/// assert_eq!(empty.to_string().parse::<Digest>().unwrap(), empty);
/// assert!("sha256:ABC".parse::<Digest>().is_err());
/// assert!("md5:d41d8cd98f00b204e9800998ecf8427e".parse::<Digest>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Raw);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Raw {
    Sha256([u8; 32]),
    Sha512(Box<[u8; 64]>),
}

impl Digest {
    /// Returns the SHA-256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the digest of `bytes` by the algorithm of this digest.
    pub fn same_algorithm(&self, bytes: &[u8]) -> Self {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the algorithm of the digest.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Raw::Sha256(_) => Algorithm::Sha256,
            Raw::Sha512(_) => Algorithm::Sha512,
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Raw::Sha256(bytes) => bytes,
            Raw::Sha512(bytes) => &bytes[..],
        }
    }

    /// Returns the hexadecimal digits after the colon.
    pub fn hex(&self) -> String {
        self.digits(&mut [0; 128]).to_owned()
    }

    /// Writes the hexadecimal digits into `buffer`, and returns the part of it that was written.
    ///
    /// A run displays digests very often, so this allocates nothing.
    fn digits<'a>(&self, buffer: &'a mut [u8; 128]) -> &'a str {
        let bytes = self.bytes();
        for (byte, digits) in bytes.iter().zip(buffer.chunks_exact_mut(2)) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 15)];
        }
        std::str::from_utf8(&buffer[..2 * bytes.len()]).expect("hexadecimal digits are ASCII")
    }

    /// Returns a new hasher for the algorithm of this digest.
    pub fn hasher(&self) -> Hasher {
        Hasher::new(self.algorithm())
    }

    /// Returns the tag that lists a manifest's referrers at a registry without the referrers API: `sha256-HEX`.
    ///
    /// OCI distribution-spec, "Referrers Tag Schema". No image is ever pushed to this tag.
    pub fn referrers_tag(&self) -> String {
        // The schema cuts digests after 64 digits, which shortens sha512.
        format!("{}-{}", self.algorithm().as_str(), &self.hex()[..64])
    }

    /// Returns the tag for an image without its own tag: `sha256-HEX-image`.
    pub fn image_tag(&self) -> String {
        format!("{}-image", self.referrers_tag())
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| Error::new(Kind::Malformed, format!("invalid digest `{}`: {why}", quote(&text)));
        let (name, hex) = text
            .split_once(':')
            .ok_or_else(|| invalid("no `algorithm:` before it"))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(invalid("only sha256 and sha512 can be verified")),
        };
        if hex.len() != algorithm.hex_len() {
            return Err(invalid("wrong length"));
        }
        let mut bytes = [0; 64];
        for (i, digit) in hex.bytes().enumerate() {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(invalid("not lower-case hexadecimal")),
            };
            bytes[i / 2] = bytes[i / 2] << 4 | value;
        }
        Ok(Self(match algorithm {
            Algorithm::Sha256 => {
                let mut short = [0; 32];
                short.copy_from_slice(&bytes[..32]);
                Raw::Sha256(short)
            }
            Algorithm::Sha512 => Raw::Sha512(Box::new(bytes)),
        }))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().as_str())?;
        f.write_str(":")?;
        f.write_str(self.digits(&mut [0; 128]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] from bytes that arrive in parts. A clone continues from the same state.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// Creates a hasher that has seen no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// Returns the digest of all added bytes.
    pub fn finish(self) -> Digest {
        Digest(match self.0 {
            State::Sha256(state) => Raw::Sha256(state.finalize().into()),
            State::Sha512(state) => Raw::Sha512(Box::new(state.finalize().into())),
        })
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(
            Digest::sha256(b"abc").to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"a");
        hasher.update(b"bc");
        assert!(hasher.finish().hex().starts_with("ddaf35a193617abacc417349ae204131"));
    }

    #[test]
    fn refuses_what_cannot_be_verified() {
        let hex = "a".repeat(64);
        for bad in [
            String::new(),
            hex.clone(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{}A", &hex[1..]),
            format!("sha512:{hex}"),
            format!("SHA256:{hex}"),
            format!("blake3:{hex}"),
            format!("sha256+b64u:{hex}"),
            "sha256:../../x".to_owned(),
            format!("sha256:{}é", &hex[2..]),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
