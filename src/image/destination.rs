//! The destination of images (`REGISTRY[/PREFIX]`), and the name that each source image gets there.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::digest::Digest;
use super::reference::{Reference, canonical_host, check_repository};
use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// Prefixes that other programs expect before the name of a file or another local storage.
pub(super) const FILE_TRANSPORTS: [&str; 7] = [
    "oci:",
    "oci-archive:",
    "docker-archive:",
    "docker-daemon:",
    "containers-storage:",
    "dir:",
    "file:",
];

/// A registry, and an optional path on the registry below which images are stored.
///
/// The first component is always the registry, even if it does not look like a host (`registry/mirror` in a compose network).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    host: String,
    prefix: Option<String>,
    keep_host: bool,
}

impl Destination {
    /// Sets whether the path at the destination includes the host of the source (default: no).
    #[must_use]
    pub fn keep_host(mut self, yes: bool) -> Self {
        self.keep_host = yes;
        self
    }

    /// Returns the host of the registry.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the name of an image at the destination. `digest` is the digest of the image at the source.
    ///
    /// An image without a tag gets the tag `sha256-HEX-image`, so that a clean-up of untagged manifests does not delete the image.
    pub fn place(&self, source: &Reference, digest: &Digest) -> Result<Reference> {
        let mut path = String::new();
        if let Some(prefix) = &self.prefix {
            path.push_str(prefix);
            path.push('/');
        }
        if self.keep_host {
            // A path component cannot have `:` or brackets. [`refuse_collisions`] refuses two hosts that get the same name here.
            let host = source.host().replace(['[', ']'], "").replace(':', "-");
            path.push_str(host.trim_matches(['-', '_', '.']));
            path.push('/');
        }
        path.push_str(source.repository());
        let tag = source
            .tag()
            .map_or_else(|| source.digest().unwrap_or(digest).image_tag(), str::to_owned);
        Reference::new(&self.host, &path, Some(&tag), None).map_err(|e| e.context(format!("destination of {source}")))
    }
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |e: Error| {
            e.context(format!("destination `{}`", quote(&text)))
                .or_hint("write `REGISTRY` or `REGISTRY/PREFIX`, such as `docker.example.com/mirror`")
        };
        if text.contains('@') {
            // The message does not quote the text, since the part before an `@` may be a password.
            let hint = match text.contains("@sha256:") {
                true => "omit the digest: a destination is a registry and a path, and each image keeps its own digest",
                false => "credentials are given with `--username` or `docker login`, not in the destination",
            };
            return Err(Error::new(Kind::Usage, "invalid destination: it has an `@`").with_hint(hint));
        }
        let rest = text.trim();
        if rest.is_empty() {
            return Err(Error::new(Kind::Usage, "the destination is empty")
                .with_hint("write `REGISTRY` or `REGISTRY/PREFIX`; if it comes from a variable, is that one set?"));
        }
        if let Some(transport) = FILE_TRANSPORTS.iter().find(|transport| {
            rest.strip_prefix(**transport)
                .is_some_and(|behind| !behind.starts_with("//"))
        }) {
            return Err(
                invalid(Error::new(Kind::Usage, format!("it begins with `{transport}`")))
                    .with_hint("a destination is a registry; `docker-mirror export` writes images to a file"),
            );
        }
        let rest = rest
            .strip_prefix("docker://")
            .or_else(|| rest.strip_prefix("https://"))
            .unwrap_or(rest)
            .trim_end_matches('/');
        if rest.starts_with("http://") {
            return Err(invalid(Error::new(Kind::Usage, "it has `http://`"))
                .with_hint("omit `http://` and give `--plain-http`"));
        }
        if let Some((scheme, _)) = rest.split_once("://") {
            let scheme = format!("{}://", quote(&scheme));
            return Err(invalid(Error::new(Kind::Usage, format!("it has `{scheme}`"))).with_hint(format!(
                "omit `{scheme}`: a destination is `REGISTRY` or `REGISTRY/PREFIX`, such as `docker.example.com/mirror`"
            )));
        }
        let last = rest.rsplit('/').next().unwrap_or_default();
        if let (true, Some((_, tag))) = (rest.contains('/'), last.split_once(':')) {
            let tag = quote(&tag);
            return Err(invalid(Error::new(Kind::Usage, "it has a tag"))
                .with_hint(format!("omit `:{tag}`: each image keeps its own tag")));
        }
        let (host, prefix) = match rest.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix)),
            None => (rest, None),
        };
        let host = canonical_host(host).map_err(invalid)?;
        if let Some(prefix) = prefix {
            check_repository(prefix).map_err(invalid)?;
        }
        Ok(Self {
            host,
            prefix: prefix.map(str::to_owned),
            keep_host: false,
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        match &self.prefix {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

/// Checks that no two different images have the same destination.
///
/// # Errors
/// [`Kind::Usage`] with the destination and both sources, if two images have the same destination.
pub(crate) fn refuse_collisions<'a>(pairs: impl IntoIterator<Item = (&'a Reference, &'a Reference)>) -> Result<()> {
    let mut taken: BTreeMap<&Reference, &Reference> = BTreeMap::new();
    for (source, destination) in pairs {
        match taken.insert(destination, source) {
            Some(other) if other != source => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("two images would become `{destination}`: `{other}` and `{source}`"),
                )
                .with_hint(
                    "give `--keep-host` to put the source's host into the path, change what `--map` or the `=>` of a list \
                     says, or mirror each of them to a `-d` of its own",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(destination: &str, keep_host: bool, source: &str) -> String {
        let destination: Destination = destination.parse().unwrap();
        let source: Reference = source.parse().unwrap();
        destination
            .keep_host(keep_host)
            .place(&source, &Digest::sha256(b""))
            .unwrap()
            .to_string()
    }

    #[test]
    fn host_replaced_path_kept_prefix_before_it() {
        let d = "docker.example.com/mirror";
        assert_eq!(
            place(d, false, "hello-world"),
            "docker.example.com/mirror/library/hello-world:latest"
        );
        assert_eq!(
            place(d, false, "area51/jenkins"),
            "docker.example.com/mirror/area51/jenkins:latest"
        );
        assert_eq!(place("localhost:5000", false, "quay.io/a/b:1"), "localhost:5000/a/b:1");
        assert_eq!(
            place(d, true, "quay.io/a/b:1"),
            "docker.example.com/mirror/quay.io/a/b:1"
        );
        assert_eq!(
            place(d, true, "localhost:5000/x"),
            "docker.example.com/mirror/localhost-5000/x:latest"
        );
        assert_eq!(
            place(d, true, "[::1]:5000/x"),
            "docker.example.com/mirror/1-5000/x:latest"
        );
    }

    #[test]
    fn digest_only_gets_a_tag() {
        let hex = "b".repeat(64);
        assert_eq!(
            place("r.io", false, &format!("x@sha256:{hex}")),
            format!("r.io/library/x:sha256-{hex}-image")
        );
        assert_eq!(place("r.io", false, &format!("x:1@sha256:{hex}")), "r.io/library/x:1");
    }

    #[test]
    fn collisions_name_both() {
        let destination: Destination = "r.io".parse().unwrap();
        let sources: Vec<Reference> = ["quay.io/a/b:1", "ghcr.io/a/b:1"]
            .iter()
            .map(|s| s.parse().unwrap())
            .collect();
        let places: Vec<Reference> = sources
            .iter()
            .map(|s| destination.place(s, &Digest::sha256(b"")).unwrap())
            .collect();
        let error = refuse_collisions(sources.iter().zip(&places)).unwrap_err().to_string();
        assert!(error.contains("quay.io") && error.contains("ghcr.io"), "{error}");
        assert!(refuse_collisions([(&sources[0], &places[0]), (&sources[0], &places[0])]).is_ok());
    }

    #[test]
    fn an_upper_case_prefix_is_told_in_lower_case() {
        let error = "ghcr.io/Me".parse::<Destination>().unwrap_err();
        assert_eq!(error.hint(), Some("write `me`"));
    }

    #[test]
    fn refuses() {
        for bad in ["", "/x", "r.io/UP", "r.io//x", "http://r.io", "r.io:x/y", "r io"] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
