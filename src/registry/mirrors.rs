//! Other places that have the content of a registry: pull-through caches and mirrors.

use std::path::Path;

use crate::error::Result;
use crate::image::reference::Target;

/// One `--mirror` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {}

/// Reads `docker.io=https://cache.example.com[/prefix]`.
pub fn parse_flag(text: &str) -> Result<Mirror> {
    let _ = text;
    Ok(Mirror {})
}

/// All mirrors that are known.
#[derive(Debug, Clone, Default)]
pub struct Mirrors {}

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// Everything.
    #[default]
    All,
    /// What is asked for by digest.
    DigestOnly,
    /// What is asked for by tag.
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
        let _ = flags;
        Self {}
    }

    /// Adds a `registries.conf`; one that is not there adds nothing.
    pub fn read_file(&mut self, path: &Path) -> Result<()> {
        let _ = path;
        Ok(())
    }

    /// Adds all `*.conf` of a `registries.conf.d` in the order of their names; one that is not there adds nothing.
    pub fn read_directory(&mut self, path: &Path) -> Result<()> {
        let _ = path;
        Ok(())
    }

    /// Where to try before the origin, in order; the origin itself is not among them.
    pub fn of(&self, host: &str, repository: &str) -> Vec<Endpoint> {
        let _ = (host, repository);
        Vec::new()
    }

    /// Whether the configuration forbids this repository.
    pub fn is_blocked(&self, host: &str, repository: &str) -> bool {
        let _ = (host, repository);
        false
    }

    /// Whether the configuration says that the origin's certificate is not checked.
    pub fn origin_is_insecure(&self, host: &str, repository: &str) -> bool {
        let _ = (host, repository);
        false
    }
}
