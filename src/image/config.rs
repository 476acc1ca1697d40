//! Image configurations (OCI image-spec, config.md), as far as a mirror has to know them.

use serde::Deserialize;

use super::digest::Digest;
use super::json::or_default;
use super::platform::Platform;
use crate::error::{Error, Kind, Result};

/// What matters of an image configuration (OCI image-spec, config.md).
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// The platform that the image was built for.
    #[serde(flatten)]
    pub platform: Platform,
    /// The uncompressed layers.
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootFs,
}

/// The layers of an image configuration.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    /// Digests of the uncompressed layers, in order.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

/// No image configuration above this size is read.
pub const MAX_CONFIG: u64 = 4 << 20;

impl Config {
    /// Reads the configuration of a container image.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if it is larger than [`MAX_CONFIG`] or no such document.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "the image config has {} bytes; at most {MAX_CONFIG} are accepted",
                    bytes.len()
                ),
            ));
        }
        serde_json::from_slice(bytes)
            .map_err(|e| Error::new(Kind::Malformed, "the image config is no such JSON document").with_source(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_an_empty_list() {
        for rootfs in [r#"{"type":"layers","diff_ids":null}"#, "null"] {
            let config = format!(r#"{{"os":"linux","architecture":null,"rootfs":{rootfs}}}"#);
            let config = Config::parse(config.as_bytes()).unwrap();
            assert_eq!(
                (config.platform.os.as_str(), config.rootfs.diff_ids.len()),
                ("linux", 0)
            );
        }
        assert!(Config::parse(br#"{"rootfs":{"diff_ids":{}}}"#).is_err());
    }
}
