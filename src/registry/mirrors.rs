//! Substitutes for a registry: pull-through caches and mirrors.
//!
//! Mirrors come from the command line and from `registries.conf` (version 2 of the format, containers-registries.conf(5)). A
//! rule applies to a prefix of `HOST/REPOSITORY` that ends at the end of a component; the longest matching prefix wins.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::files::encoding;
use crate::files::{self, Pipes};
use crate::image::reference::{Reference, Target};
use crate::text::quote;

/// Maximum size of a configuration file in bytes.
const MAX_FILE: u64 = 4 << 20;

/// One `--mirror` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    prefix: Prefix,
    place: Substitute,
}

/// Parses `docker.io=https://cache.example.com[/prefix]`.
///
/// The left side is a registry, optionally with leading components of repositories, which the mirror's prefix then replaces.
/// A mirror without a scheme is reached by https.
///
/// # Errors
/// [`Kind::Usage`] if the text is not of that form.
pub fn parse_mirror(text: &str) -> Result<Mirror> {
    // The text before an `@` or in a query may be a password, so the error does not quote the text.
    if text.contains(['@', '?']) {
        return Err(Error::new(
            Kind::Usage,
            "a mirror's address has no user name, no password and no query",
        )
        .with_hint("log in to the mirror; its credentials are looked up like those of any registry"));
    }
    let wrong = |why: &str| {
        Error::new(Kind::Usage, format!("invalid mirror `{}`: {why}", quote(&text)))
            .with_hint("write it as `docker.io=https://cache.example.com`")
    };
    let (prefix, url) = text.split_once('=').ok_or_else(|| wrong("no `=` in it"))?;
    let (https, location) = match url.split_once("://") {
        None => (true, url),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some(_) => return Err(wrong("only http and https are spoken")),
    };
    let (host, path) = split(location).map_err(|e| wrong("the address is wrong").with_source(e))?;
    Ok(Mirror {
        prefix: Prefix::parse(prefix).map_err(|e| wrong("the registry is wrong").with_source(e))?,
        place: Substitute {
            host,
            path,
            https,
            insecure: false,
            pull: Pull::All,
        },
    })
}

/// All configured mirrors.
#[derive(Debug, Clone, Default)]
pub struct Mirrors {
    /// Mirrors of the command line.
    flags: Vec<Mirror>,
    /// Registries of the configuration files.
    registries: Vec<Registry>,
}

/// One source for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port, as `HOST[:PORT]`.
    pub host: String,
    /// Whether the endpoint uses https.
    pub scheme_https: bool,
    /// Whether the endpoint's certificate is not checked.
    pub insecure: bool,
    /// Name of the repository at the endpoint.
    /// A prefix alone could not express the name, since the matched prefix may cover a part of the repository.
    pub repository: String,
    /// Whether the endpoint replaces the origin, which is then never contacted.
    /// This is the `location` of a `[[registry]]`.
    pub replaces_origin: bool,
    /// Requests that the endpoint may receive.
    pub pull: Pull,
}

/// Requests that a mirror may receive (`pull-from-mirror`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// Every request.
    #[default]
    All,
    /// Requests by digest only.
    DigestOnly,
    /// Requests by tag only.
    TagOnly,
}

impl Endpoint {
    /// Returns whether the endpoint may receive requests for `target`.
    pub fn serves(&self, target: &Target) -> bool {
        match self.pull {
            Pull::All => true,
            Pull::DigestOnly => matches!(target, Target::Digest(_)),
            Pull::TagOnly => matches!(target, Target::Tag(_)),
        }
    }
}

impl Mirrors {
    /// Creates the mirrors of the command line.
    pub fn new(flags: Vec<Mirror>) -> Self {
        Self {
            flags,
            registries: Vec::new(),
        }
    }

    /// Adds a `registries.conf`; an absent file adds nothing.
    /// A registry that an earlier file also has is replaced.
    ///
    /// # Errors
    /// The file cannot be read, or is not valid TOML of the known form; unknown fields are not an error.
    pub fn read_file(&mut self, path: &Path) -> Result<()> {
        self.read(path, Pipes::Refused)
    }

    /// Adds a file that the user names for this run.
    /// The file may be a pipe; otherwise like [`read_file`](Self::read_file).
    ///
    /// # Errors
    /// Those of [`read_file`](Self::read_file).
    pub fn read_named_file(&mut self, path: &Path) -> Result<()> {
        self.read(path, Pipes::Allowed)
    }

    fn read(&mut self, path: &Path, pipes: Pipes) -> Result<()> {
        let bytes = match files::read(path, MAX_FILE, pipes) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        let in_file = |e: Error| e.context(format!("`{}`", quote(&path)));
        if bytes.len() as u64 > MAX_FILE {
            return Err(in_file(malformed(format!("more than {MAX_FILE} bytes"))));
        }
        let text = String::from_utf8(encoding::utf8(bytes)).map_err(|_| in_file(malformed("not UTF-8".to_owned())))?;
        let new = parse_conf(&text).map_err(in_file)?;
        self.registries
            .retain(|known| !new.iter().any(|other| other.prefix == known.prefix));
        self.registries.extend(new);
        Ok(())
    }

    /// Adds all `*.conf` of a `registries.conf.d` in the order of their names.
    /// An absent folder adds nothing.
    ///
    /// # Errors
    /// Those of [`read_file`](Self::read_file).
    pub fn read_directory(&mut self, path: &Path) -> Result<()> {
        let listed = std::fs::read_dir(path).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<Vec<PathBuf>>>()
        });
        let mut files = match listed {
            Ok(files) => files,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(e) => return Err(Error::io("list", path, e)),
        };
        files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
        files.sort();
        files.iter().try_for_each(|file| self.read_file(file))
    }

    /// Returns the endpoints to try before the origin, in order; the origin itself is not among them.
    ///
    /// The mirrors of the command line come first, then those of the files, then the replacement of the origin.
    pub fn endpoints(&self, host: &str, repository: &str) -> Vec<Endpoint> {
        let longest = self
            .flags
            .iter()
            .filter_map(|m| m.prefix.matches(host, repository))
            .max();
        let flags = self.flags.iter().filter_map(|mirror| {
            let length = mirror.prefix.matches(host, repository)?;
            (Some(length) == longest).then(|| mirror.place.endpoint(&mirror.prefix, repository))
        });
        let registry = self.registry(host, repository);
        let mirrors = registry.into_iter().flat_map(|registry| {
            registry
                .mirrors
                .iter()
                .map(|place| place.endpoint(&registry.prefix, repository))
        });
        let replacement = registry.into_iter().filter_map(|registry| {
            let endpoint = registry.location.as_ref()?.endpoint(&registry.prefix, repository);
            (endpoint.host != host || endpoint.repository != repository).then_some(Endpoint {
                replaces_origin: true,
                ..endpoint
            })
        });
        flags.chain(mirrors).chain(replacement).collect()
    }

    /// Returns whether the configuration blocks this repository.
    pub(crate) fn is_blocked(&self, host: &str, repository: &str) -> bool {
        self.registry(host, repository).is_some_and(|registry| registry.blocked)
    }

    /// Returns whether the configuration disables the check of the origin's certificate.
    pub(crate) fn origin_is_insecure(&self, host: &str, repository: &str) -> bool {
        self.registry(host, repository)
            .is_some_and(|registry| registry.insecure)
    }

    fn registry(&self, host: &str, repository: &str) -> Option<&Registry> {
        // Of several prefixes with the same length the first wins; `max_by_key` returns the last, so the order is reversed.
        self.registries
            .iter()
            .rev()
            .filter_map(|registry| Some((registry.prefix.matches(host, repository)?, registry)))
            .max_by_key(|(length, _)| *length)
            .map(|(_, registry)| registry)
    }
}

/// A `[[registry]]` of a file.
#[derive(Debug, Clone)]
struct Registry {
    prefix: Prefix,
    /// Replacement of the origin, if any.
    location: Option<Substitute>,
    mirrors: Vec<Substitute>,
    insecure: bool,
    blocked: bool,
}

/// Prefix of `HOST/REPOSITORY` that a rule applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Prefix {
    /// Host as `HOST[:PORT]`, or `.example.com` for all its subdomains.
    host: String,
    /// Whether the rule applies to the subdomains of the host instead of the host itself.
    below: bool,
    /// Leading components of the repository; may be empty.
    path: String,
}

impl Prefix {
    fn parse(text: &str) -> Result<Self> {
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (host, path) = split(rest)?;
        Ok(Self {
            host: if below { format!(".{host}") } else { host },
            below,
            path,
        })
    }

    /// Returns the length of the match in bytes of the name; `None` if the prefix does not match.
    fn matches(&self, host: &str, repository: &str) -> Option<usize> {
        let host_matches = if self.below {
            host.ends_with(&self.host)
        } else {
            host == self.host
        };
        let host_length = if self.below { self.host.len() } else { host.len() + 1 };
        (host_matches && remainder(&self.path, repository).is_some()).then_some(host_length + self.path.len())
    }
}

/// Returns the rest of a repository after leading components; `None` if they do not match.
/// The rest has no leading slash.
fn remainder<'a>(path: &str, repository: &'a str) -> Option<&'a str> {
    if path.is_empty() {
        return Some(repository);
    }
    let rest = repository.strip_prefix(path)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix('/')
    }
}

/// A mirror, or the replacement of an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Substitute {
    host: String,
    path: String,
    https: bool,
    insecure: bool,
    pull: Pull,
}

impl Substitute {
    fn endpoint(&self, prefix: &Prefix, repository: &str) -> Endpoint {
        let rest = remainder(&prefix.path, repository).unwrap_or(repository);
        let parts = [self.path.as_str(), rest];
        Endpoint {
            host: self.host.clone(),
            scheme_https: self.https,
            insecure: self.insecure,
            repository: parts
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("/"),
            replaces_origin: false,
            pull: self.pull,
        }
    }
}

/// Splits `HOST[:PORT][/path]` by the rules of references, which also unify the names of Docker Hub.
fn split(text: &str) -> Result<(String, String)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    let checked = Reference::new(host, if path.is_empty() { "x" } else { path }, None, None)?;
    Ok((checked.host().to_owned(), path.to_owned()))
}

#[derive(Deserialize)]
struct WireFile {
    #[serde(default)]
    registry: Vec<toml::Spanned<WireRegistry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireRegistry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<toml::Spanned<WireMirror>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: Option<Pull>,
}

fn malformed(why: String) -> Error {
    Error::new(Kind::Malformed, why)
}

fn parse_conf(text: &str) -> Result<Vec<Registry>> {
    let line = |offset: usize| 1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
    let file: WireFile = toml::from_str(text).map_err(|e| {
        let place = e
            .span()
            .map_or(String::new(), |span| format!("line {}: ", line(span.start)));
        malformed(format!("{place}{}", e.message().trim_end()))
    })?;
    let mut registries: Vec<Registry> = Vec::new();
    for entry in file.registry {
        let at = |e: Error| malformed(format!("line {}", line(entry.span().start))).with_source(e);
        let wire = entry.get_ref();
        // Either field may be missing: the prefix defaults to the location, and the location to the requested registry.
        let prefix = if wire.prefix.is_empty() {
            &wire.location
        } else {
            &wire.prefix
        };
        if prefix.is_empty() {
            return Err(at(malformed(
                "a registry has neither `prefix` nor `location`".to_owned(),
            )));
        }
        let prefix = Prefix::parse(prefix).map_err(at)?;
        let place = |location: &str, insecure, pull| {
            let (host, path) = split(location)?;
            Ok(Substitute {
                host,
                path,
                https: true,
                insecure,
                pull,
            })
        };
        let location = match wire.location.as_str() {
            "" => None,
            location => Some(place(location, wire.insecure, Pull::All).map_err(at)?),
        };
        let default_pull = if wire.mirror_by_digest_only {
            Pull::DigestOnly
        } else {
            Pull::All
        };
        let mirrors = wire
            .mirror
            .iter()
            .map(|mirror| {
                let wire = mirror.get_ref();
                place(
                    &wire.location,
                    wire.insecure,
                    wire.pull_from_mirror.unwrap_or(default_pull),
                )
                .map_err(|e| malformed(format!("line {}", line(mirror.span().start))).with_source(e))
            })
            .collect::<Result<Vec<Substitute>>>()?;
        registries.push(Registry {
            prefix,
            location,
            mirrors,
            insecure: wire.insecure,
            blocked: wire.blocked,
        });
    }
    Ok(registries)
}

#[cfg(test)]
#[path = "mirrors_tests.rs"]
mod tests;
