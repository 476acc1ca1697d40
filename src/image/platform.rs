//! Platforms (OCI image-spec, image-index.md, "platform"), and the user's choice of platforms.
//!
//! Platforms are normalised only for comparison; the text of a manifest is never rewritten.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::json::or_default;
use crate::error::{Error, Kind};
use crate::text::quote;

/// The platform that an index entry or an image config states, in its original spelling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system; empty when the document leaves it out.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// Processor architecture; empty when the document leaves it out.
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// Variant of the architecture, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Version of the operating system (windows builds).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl Platform {
    /// Returns the parts of a platform for comparison: lower case, aliases resolved, default variants dropped.
    fn normalised(&self) -> (String, String, Option<String>) {
        let os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = self
            .variant
            .as_deref()
            .map(str::to_ascii_lowercase)
            .filter(|v| !v.is_empty());
        let architecture = self.architecture.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", v) => ("amd64", v.map(str::to_owned)),
            ("i386" | "i486" | "i686", v) => ("386", v.map(str::to_owned)),
            ("aarch64" | "arm64", None | Some("8" | "v8" | "v8.0")) => ("arm64", None),
            ("aarch64" | "arm64", Some("9" | "v9" | "v9.0")) => ("arm64", Some("v9".to_owned())),
            ("aarch64", v) => ("arm64", v.map(str::to_owned)),
            ("armhf", _) => ("arm", Some("v7".to_owned())),
            ("armel", _) => ("arm", Some("v6".to_owned())),
            ("arm", Some(v @ ("5" | "6" | "7" | "8"))) => ("arm", Some(format!("v{v}"))),
            (other, v) => (other, v.map(str::to_owned)),
        };
        (os, architecture.to_owned(), variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |text: &str| {
            if text.is_empty() {
                "unknown".to_owned()
            } else {
                // This form must not change, since the records of bundles contain it.
                text.escape_debug().to_string()
            }
        };
        write!(f, "{}/{}", part(&self.os), part(&self.architecture))?;
        if let Some(variant) = self.variant.as_deref().filter(|v| !v.is_empty()) {
            write!(f, "/{}", part(variant))?;
        }
        if let Some(version) = self.os_version.as_deref().filter(|v| !v.is_empty()) {
            write!(f, " ({})", part(version))?;
        }
        Ok(())
    }
}

/// A platform that the user asked for: `OS/ARCH[/VARIANT]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlatformPattern(Platform);

impl PlatformPattern {
    /// Returns the platform of the pattern, in its original spelling.
    pub fn platform(&self) -> &Platform {
        &self.0
    }

    /// Returns whether the pattern matches a platform.
    ///
    /// A pattern without a variant matches every variant. `arm/v7` also matches `arm` without a variant, since `v7` is the
    /// default variant of `arm`.
    pub fn matches(&self, platform: &Platform) -> bool {
        let (os, architecture, variant) = self.0.normalised();
        let (entry_os, entry_architecture, entry_variant) = platform.normalised();
        if os != entry_os || architecture != entry_architecture {
            return false;
        }
        match (variant, entry_variant) {
            (None, _) => true,
            (Some(asked), Some(has)) => asked == has,
            (Some(asked), None) => architecture == "arm" && asked == "v7",
        }
    }
}

impl FromStr for PlatformPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            Error::new(Kind::Usage, format!("invalid platform `{}`", quote(&text)))
                .with_hint("write `OS/ARCH` or `OS/ARCH/VARIANT`, such as `linux/arm64` or `linux/arm/v7`, or `all`")
        };
        let good = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.trim().split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return Err(invalid()),
        };
        if !good(os) || !good(architecture) || !variant.is_none_or(good) {
            return Err(invalid());
        }
        Ok(Self(Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
            os_version: None,
        }))
    }
}

impl fmt::Display for PlatformPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The platforms of an image that are carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum PlatformFilter {
    /// Every linux platform.
    #[default]
    Linux,
    /// Everything that the index lists.
    All,
    /// Platforms that match one of these patterns.
    Only(Vec<PlatformPattern>),
}

impl PlatformFilter {
    /// Returns the filter for the values of `--platform`: [`Linux`](Self::Linux) without values, [`All`](Self::All) if one
    /// value is `all`.
    pub fn from_flags<S: AsRef<str>>(flags: &[S]) -> Result<Self, Error> {
        if flags.is_empty() {
            return Ok(Self::Linux);
        }
        if flags.iter().any(|flag| flag.as_ref().trim() == "all") {
            return Ok(Self::All);
        }
        let mut patterns = Vec::new();
        for flag in flags {
            for part in flag.as_ref().split(',') {
                patterns.push(part.parse()?);
            }
        }
        Ok(Self::Only(patterns))
    }

    /// Returns whether an entry or image of this platform is carried.
    pub fn matches(&self, platform: &Platform) -> bool {
        match self {
            Self::All => true,
            Self::Linux => platform.os.eq_ignore_ascii_case("linux"),
            Self::Only(patterns) => patterns.iter().any(|p| p.matches(platform)),
        }
    }
}

impl fmt::Display for PlatformFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linux => f.write_str("linux"),
            Self::All => f.write_str("all"),
            Self::Only(patterns) => {
                for (i, pattern) in patterns.iter().enumerate() {
                    write!(f, "{}{pattern}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse::<PlatformPattern>().unwrap().0
    }

    #[test]
    fn patterns() {
        for (pattern, entry, expected) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "LINUX/x86_64", true),
            ("linux/amd64", "linux/amd64/v3", true),
            ("linux/amd64/v3", "linux/amd64", false),
            ("linux/arm", "linux/arm/v6", true),
            ("linux/arm/v7", "linux/arm", true),
            ("linux/arm/v6", "linux/arm", false),
            ("linux/arm/v7", "linux/armhf", true),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64/v8", "linux/aarch64", true),
            ("linux/386", "linux/i386", true),
            ("windows/amd64", "linux/amd64", false),
        ] {
            let pattern: PlatformPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&platform(entry)), expected, "{pattern} {entry}");
        }
    }

    #[test]
    fn filter_flags() {
        let none: [&str; 0] = [];
        assert_eq!(PlatformFilter::from_flags(&none).unwrap(), PlatformFilter::Linux);
        assert_eq!(
            PlatformFilter::from_flags(&["linux/amd64", "all"]).unwrap(),
            PlatformFilter::All
        );
        let two = PlatformFilter::from_flags(&["linux/amd64,linux/arm/v7"]).unwrap();
        assert_eq!(two.to_string(), "linux/amd64,linux/arm/v7");
        assert!(PlatformFilter::from_flags(&["linux"]).is_err());
        assert!(PlatformFilter::from_flags(&["linux/"]).is_err());
    }
}
