//! Image configurations (OCI image-spec, config.md), reduced to the fields that a mirror needs.

use serde::Deserialize;

use super::descriptor::BROKEN;
use super::digest::Digest;
use super::fields::{self, Object};
use super::json::{Capped, Members, or_default};
use super::manifest::MAX_LAYERS;
use super::platform::Platform;
use crate::error::{Error, Kind, Result};

/// The fields of an image configuration that a mirror needs (OCI image-spec, config.md).
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Platform that the image was built for.
    pub platform: Platform,
    /// Digests of the uncompressed layers, in order.
    pub diff_ids: Vec<Digest>,
}

/// The layers of an image configuration.
#[derive(Default, Deserialize)]
struct RootFs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Capped<Digest, MAX_LAYERS>,
}

/// Maximum size of an image config in bytes. containers/image has the same limit; real configs have some thousand bytes.
pub(crate) const MAX_CONFIG: u64 = 4 << 20;

impl Config {
    /// Reads the configuration of a container image.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the document is larger than [`MAX_CONFIG`], is not an image config, or has a field twice.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "the image config has {} bytes; at most {MAX_CONFIG} are accepted",
                    bytes.len()
                ),
            )
            .with_hint(BROKEN));
        }
        let wrong = |e| {
            Error::new(Kind::Malformed, "the image config is not valid JSON of its kind")
                .with_hint(BROKEN)
                .with_source(e)
        };
        fields::check(bytes, Object::Config).map_err(wrong)?;
        // The fields are read one by one, since serde's `flatten` would hold the whole document in memory.
        let members: Members<'_> = serde_json::from_slice(bytes).map_err(wrong)?;
        let text = |key| members.field::<String>(key);
        let read = || {
            Ok(Self {
                platform: Platform {
                    os: text("os")?.unwrap_or_default(),
                    architecture: text("architecture")?.unwrap_or_default(),
                    variant: text("variant")?,
                    os_version: text("os.version")?,
                },
                diff_ids: members.field::<RootFs>("rootfs")?.unwrap_or_default().diff_ids.0,
            })
        };
        read().map_err(|e: Error| {
            e.context("the image config is not valid JSON of its kind")
                .or_hint(BROKEN)
        })
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
            assert_eq!((config.platform.os.as_str(), config.diff_ids.len()), ("linux", 0));
        }
        for bad in [
            r#"{"rootfs":{"diff_ids":{}}}"#,
            r#"{"os":1}"#,
            r#"{"os":"linux","OS":"windows"}"#,
            r#"{"rootfs":{"diff_ids":[]},"RootFS":{}}"#,
            "[]",
        ] {
            assert!(Config::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
