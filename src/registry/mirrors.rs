//! Other places that have the content of a registry: pull-through caches and mirrors.
//!
//! They come from the command line and from `registries.conf` (version 2 of the format, containers-registries.conf(5)).
//! A rule is for a prefix of `HOST/REPOSITORY` that ends where a component ends, and the longest one counts.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::files::encoding;
use crate::files::{self, Pipes};
use crate::image::reference::{Reference, Target};
use crate::text::quote;

/// No configuration file above this size is read.
const MAX_FILE: u64 = 4 << 20;

/// One `--mirror` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    prefix: Prefix,
    place: Substitute,
}

/// Reads `docker.io=https://cache.example.com[/prefix]`.
///
/// On the left stands a registry, or a registry with the first components of repositories, which the mirror's prefix then
/// takes the place of. Without a scheme the mirror talks https.
///
/// # Errors
/// [`Kind::Usage`] if it is not of that form.
pub fn parse_mirror(text: &str) -> Result<Mirror> {
    // What stands before an `@` or in a query could be a password, so that the text is not quoted.
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

/// All mirrors that are known.
#[derive(Debug, Clone, Default)]
pub struct Mirrors {
    flags: Vec<Mirror>,
    registries: Vec<Registry>,
}

/// One place to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `HOST[:PORT]`.
    pub host: String,
    /// Whether it talks https.
    pub scheme_https: bool,
    /// Whether its certificate is not checked.
    pub insecure: bool,
    /// The name that the repository has there: what remains of it behind the matched prefix may be less than all of it,
    /// so a prefix alone could not say.
    pub repository: String,
    /// Whether it stands for the origin, which is then not contacted at all (`location` of a `[[registry]]`).
    pub replaces_origin: bool,
    /// What it may be asked for.
    pub pull: Pull,
}

/// What a mirror may be asked for (`pull-from-mirror`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// Everything.
    #[default]
    All,
    /// Requests by digest.
    DigestOnly,
    /// Requests by tag.
    TagOnly,
}

impl Endpoint {
    /// Whether it may be asked for this.
    pub fn serves(&self, target: &Target) -> bool {
        match self.pull {
            Pull::All => true,
            Pull::DigestOnly => matches!(target, Target::Digest(_)),
            Pull::TagOnly => matches!(target, Target::Tag(_)),
        }
    }
}

impl Mirrors {
    /// The mirrors of the command line.
    pub fn new(flags: Vec<Mirror>) -> Self {
        Self {
            flags,
            registries: Vec::new(),
        }
    }

    /// Adds a `registries.conf`; one that is not there adds nothing. A registry that an earlier file had too is replaced.
    ///
    /// # Errors
    /// It cannot be read, or is no TOML of the known form; fields that are not known are no error.
    pub fn read_file(&mut self, path: &Path) -> Result<()> {
        self.read(path, Pipes::Refused)
    }

    /// The same with a file that a user names for this run, which may be a pipe.
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

    /// Adds all `*.conf` of a `registries.conf.d` in the order of their names; one that is not there adds nothing.
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

    /// Where to try before the origin, in order; the origin itself is not among them.
    ///
    /// First the mirrors of the command line, then those of the files, then what takes the origin's place.
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

    /// Whether the configuration forbids this repository.
    pub(crate) fn is_blocked(&self, host: &str, repository: &str) -> bool {
        self.registry(host, repository).is_some_and(|registry| registry.blocked)
    }

    /// Whether the configuration says that the origin's certificate is not checked.
    pub(crate) fn origin_is_insecure(&self, host: &str, repository: &str) -> bool {
        self.registry(host, repository)
            .is_some_and(|registry| registry.insecure)
    }

    fn registry(&self, host: &str, repository: &str) -> Option<&Registry> {
        // Of several with the same length the first counts, and `max_by_key` takes the last.
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
    location: Option<Substitute>,
    mirrors: Vec<Substitute>,
    insecure: bool,
    blocked: bool,
}

/// What a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Prefix {
    /// `HOST[:PORT]`, or `.example.com` for all hosts below it.
    host: String,
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

    /// How long the match is, in bytes of the name; `None` if the rule is for something else.
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

/// What remains of a repository behind leading components, without a slash at its start.
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

/// A mirror, or what takes an origin's place.
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

/// Checks `HOST[:PORT][/path]` by the rules of references, which also fold the names of Docker Hub.
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
        // Either may be missing: a prefix is then the location, and a location then what was asked for.
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
