//! Image references, with every default made explicit.
//!
//! Repositories and tags follow the grammar of the OCI distribution-spec, "Pulling manifests". The rule that distinguishes a
//! host from a path component, and the `library/` of Docker Hub, follow the Docker command line.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::digest::Digest;
use crate::error::{Error, Kind};
use crate::text::quote;

/// Host of Docker Hub in references.
pub const DOCKER_HUB: &str = "docker.io";

/// Maximum length of `host/repository` that common clients accept, in bytes.
const MAX_NAME: usize = 255;

/// A canonical image reference.
///
/// Invariants, guaranteed by parsing:
/// - the host is explicit and lower-case; all three names of Docker Hub become `docker.io`;
/// - the repository matches the specification's grammar, and on Docker Hub has at least two components;
/// - there is a tag, a digest or both; a name with neither gets the tag `latest`;
/// - `parse(display(x)) == x`, except for a host from a destination that does not look like a host (`registry/mirror`).
///
/// ```
/// use docker_mirror::Reference;
/// let parse = |text: &str| text.parse::<Reference>().unwrap().to_string();
/// assert_eq!(parse("hello-world"), "docker.io/library/hello-world:latest");
/// assert_eq!(parse("area51/jenkins"), "docker.io/area51/jenkins:latest");
/// assert_eq!(parse("localhost:5000/x"), "localhost:5000/x:latest");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(Arc<Parts>);

/// Parts of a reference, which its clones share: a run keeps each reference in several lists. The texts have one allocation,
/// since a run has very many references.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Parts {
    /// `HOST/REPOSITORY`, or `HOST/REPOSITORY:TAG`.
    text: Box<str>,
    /// Length of the host in bytes.
    host: u16,
    /// Length of `HOST/REPOSITORY` in bytes.
    name: u16,
    digest: Option<Digest>,
}

impl Ord for Reference {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.host(), self.repository(), self.tag(), self.digest()).cmp(&(
            other.host(),
            other.repository(),
            other.tag(),
            other.digest(),
        ))
    }
}

impl PartialOrd for Reference {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Reference {
    /// Creates a reference from its parts, and checks each part.
    pub fn new(host: &str, repository: &str, tag: Option<&str>, digest: Option<Digest>) -> Result<Self, Error> {
        let host = canonical_host(host)?;
        check_repository(repository)?;
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let name = host.len() + 1 + repository.len();
        if name > MAX_NAME {
            return Err(invalid(
                &format!("{host}/{repository}"),
                "host and repository have more than 255 characters",
            ));
        }
        let tag = tag.or(digest.is_none().then_some("latest"));
        let text = match tag {
            Some(tag) => format!("{host}/{repository}:{tag}"),
            None => format!("{host}/{repository}"),
        };
        Ok(Self(Arc::new(Parts {
            text: text.into(),
            host: host.len() as u16,
            name: name as u16,
            digest,
        })))
    }

    /// Returns the host as `HOST[:PORT]`; `docker.io` for Docker Hub.
    pub fn host(&self) -> &str {
        &self.0.text[..usize::from(self.0.host)]
    }

    /// Returns the repository on the host, such as `library/hello-world`.
    pub fn repository(&self) -> &str {
        &self.0.text[usize::from(self.0.host) + 1..usize::from(self.0.name)]
    }

    /// Returns the tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.0.text[usize::from(self.0.name)..].strip_prefix(':')
    }

    /// Returns the digest that the reference is pinned to, if there is one.
    pub fn digest(&self) -> Option<&Digest> {
        self.0.digest.as_ref()
    }

    /// Returns what to request from a registry: the digest if there is one, else the tag.
    pub fn target(&self) -> Target {
        match self.digest() {
            Some(digest) => Target::Digest(digest.clone()),
            None => Target::Tag(self.tag().unwrap_or("latest").to_owned()),
        }
    }

    /// Returns `HOST/REPOSITORY`, without tag and digest.
    pub fn name(&self) -> String {
        self.0.text[..usize::from(self.0.name)].to_owned()
    }

    /// Returns `HOST/REPOSITORY@DIGEST` with this digest and without the tag.
    pub fn pinned(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)?;
        if let Some(digest) = &self.0.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut rest = text.trim();
        for scheme in ["docker://", "https://", "oci://"] {
            rest = rest.strip_prefix(scheme).unwrap_or(rest);
        }
        if rest.starts_with("http://") {
            return Err(
                invalid(text, "a reference has no `http://`").with_hint("leave the scheme out and give `--plain-http`")
            );
        }
        rest = rest.trim_end_matches('/');
        if rest.is_empty() {
            return Err(invalid(text, "it is empty"));
        }
        if rest
            .split_once('@')
            .is_some_and(|(_, digest)| !digest.starts_with("sha"))
        {
            let (name, behind) = rest.rsplit_once('@').unwrap_or_default();
            let is_hex = behind.len() >= 32 && behind.bytes().all(|byte| byte.is_ascii_hexdigit());
            let hint = match () {
                () if name.is_empty() => "a list in a file is given with `--images FILE`",
                () if is_hex => "write `@sha256:` before the digits of a digest",
                () if behind.starts_with("SHA") => "write `sha256:` in lower case",
                () => {
                    "a tag follows a `:`, and `@` precedes the digest `sha256:…`; credentials are given with `--username` or \
                     `docker login`, not in the reference"
                }
            };
            // The message does not quote the text before the last `@`, which may be a password.
            let what = format!(
                "invalid reference `…@{}`: what follows its `@` is not a digest",
                quote(&behind)
            );
            return Err(Error::new(Kind::Usage, what).with_hint(hint));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((name, digest)) => (
                name,
                Some(digest.parse::<Digest>().map_err(|e| {
                    e.with_kind(Kind::Usage)
                        .context(format!("reference `{}`", quote(&text)))
                        .with_hint("a digest is `sha256:` and 64 lower-case hex digits, or `sha512:` and 128")
                })?),
            ),
            None => (rest, None),
        };
        let (host, path) = match rest.split_once('/') {
            Some((first, path)) if looks_like_host(first) => (first, path),
            _ => (DOCKER_HUB, rest),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        let host = canonical_host(host).map_err(|e| e.context(format!("reference `{}`", quote(&text))))?;
        let repository = if host == DOCKER_HUB && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        let is_pattern = text.contains(['*', '?', '[', ']', '{']) && !text.contains("://") && !host.starts_with('[');
        Self::new(&host, &repository, tag, digest).map_err(|e| {
            let error = e.context(format!("reference `{}`", quote(&text)));
            match is_pattern {
                true => error.with_hint("a pattern may stand for the tag alone, such as `acme/app:1.*`"),
                false => error,
            }
        })
    }
}

/// A tag or a digest in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A tag, which may point to another manifest later.
    Tag(String),
    /// A digest, which always identifies the same document.
    Digest(Digest),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

fn invalid(text: &str, why: &str) -> Error {
    Error::new(Kind::Usage, format!("invalid name `{}`: {why}", quote(&text)))
}

/// Returns whether the first component of a name is a host: it is `localhost` or has a dot or a port, as no component of a
/// Docker Hub name has.
pub(crate) fn looks_like_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

/// Checks `HOST[:PORT]`, and returns it in lower case, with `docker.io` for every name of Docker Hub.
pub(super) fn canonical_host(text: &str) -> Result<String, Error> {
    let host = text.to_ascii_lowercase();
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest
            .split_once(']')
            .ok_or_else(|| invalid(text, "an IPv6 address needs a closing `]`"))?;
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(invalid(text, "not an IPv6 address"));
        }
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port),
            None if port.is_empty() => None,
            None => return Err(invalid(text, "unexpected text behind `]`")),
        };
        ("ipv6", port)
    } else {
        match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host.as_str(), None),
        }
    };
    if let Some(port) = port
        && (port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return Err(invalid(text, "the port is not a number from 0 to 65535"));
    }
    let good_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !name.split('.').all(good_label) {
        return Err(invalid(text, "not a host name"));
    }
    Ok(match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => DOCKER_HUB.to_owned(),
        _ => host,
    })
}

/// Checks a repository name (OCI distribution-spec, "Pulling manifests").
pub(super) fn check_repository(text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Err(invalid(text, "the repository is empty"));
    }
    for component in text.split('/') {
        if component.is_empty() {
            return Err(invalid(text, "a path component is empty"));
        }
        if component.bytes().any(|b| b.is_ascii_uppercase()) {
            let hint = format!("write `{}`", quote(&text.to_ascii_lowercase()));
            return Err(invalid(text, "a repository is lower-case").with_hint(hint));
        }
        // A component is runs of letters and digits, separated by one `.`, one or two `_`, or any number of `-`.
        let bytes = component.as_bytes();
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let mut i = 0;
        let mut good = alphanumeric(bytes[0]) && alphanumeric(bytes[bytes.len() - 1]);
        while good && i < bytes.len() {
            if alphanumeric(bytes[i]) {
                i += 1;
                continue;
            }
            let separator = bytes[i];
            let run = bytes[i..].iter().take_while(|&&b| b == separator).count();
            good = match separator {
                b'.' => run == 1,
                b'_' => run <= 2,
                b'-' => true,
                _ => false,
            } && alphanumeric(bytes[i + run]);
            i += run;
        }
        if !good {
            return Err(invalid(
                text,
                "a path component has letters, digits, and between them `.`, `_`, `__` or `-`",
            ));
        }
    }
    Ok(())
}

/// Returns whether a text is a valid tag (OCI distribution-spec, "Pulling manifests").
pub(crate) fn is_tag(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !text.starts_with(['.', '-'])
}

/// Checks a tag (OCI distribution-spec, "Pulling manifests").
pub(super) fn check_tag(text: &str) -> Result<(), Error> {
    if is_tag(text) {
        Ok(())
    } else {
        Err(invalid(
            text,
            "a tag has 1 to 128 letters, digits, `_`, `.` or `-`, and starts with none of the last two",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        text.parse::<Reference>()
            .map_or_else(|e| format!("{e:?}"), |r| r.to_string())
    }

    #[test]
    fn defaults_are_made_explicit() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, expected) in [
            ("hello-world", "docker.io/library/hello-world:latest".to_owned()),
            ("golang:alpine", "docker.io/library/golang:alpine".to_owned()),
            ("area51/jenkins", "docker.io/area51/jenkins:latest".to_owned()),
            ("quay.io/a/b:1", "quay.io/a/b:1".to_owned()),
            ("localhost:5000/x", "localhost:5000/x:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".to_owned()),
            ("index.docker.io/x", "docker.io/library/x:latest".to_owned()),
            (
                "registry-1.docker.io/library/x",
                "docker.io/library/x:latest".to_owned(),
            ),
            ("docker://quay.io/a/b", "quay.io/a/b:latest".to_owned()),
            ("  x/  ", "docker.io/library/x:latest".to_owned()),
            ("a__b/c-----d/e.f", "docker.io/a__b/c-----d/e.f:latest".to_owned()),
            (&format!("n@{digest}"), format!("docker.io/library/n@{digest}")),
            (&format!("n:t@{digest}"), format!("docker.io/library/n:t@{digest}")),
        ] {
            assert_eq!(parse(text), expected, "{text}");
            assert_eq!(parse(&expected), expected, "{text} again");
        }
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            "/",
            ":",
            "@",
            "x:",
            "x@",
            "UPPER/x",
            "Hello",
            "a//b",
            "a/../b",
            "..",
            "a/.b",
            "a-",
            "-a",
            "a___b",
            "a..b",
            "x:.t",
            "x:-t",
            "x@sha256:1",
            "x@md5:d41d8cd98f00b204e9800998ecf8427e",
            "é",
            "a b",
            "a\nb",
            "a%2fb",
            "http://x/y",
            "[::1/x",
            "[zz]:1/x",
            "h.x:99999/x",
            "h.x:/x",
            "a/b:c:d",
            "\u{1b}[31mx",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} parsed as {}", parse(bad));
        }
        assert!(format!("a.io/{}", "x".repeat(251)).parse::<Reference>().is_err());
        assert!(format!("x:{}", "t".repeat(129)).parse::<Reference>().is_err());
    }
}
