//! What a push is asked to do: the request, the images, and the source of their blobs.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::image::budget::Budget;
use crate::image::destination::Destination;
use crate::image::digest::Digest;
use crate::image::image_list::Rename;
use crate::image::reference::{DOCKER_HUB, Reference, looks_like_host};
use crate::image::tree::{ImageTree, IndexMode};
use crate::registry::BlobSource;
use crate::text::quote;

/// What is done about a tag that holds another digest than the one that would be pushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnExisting {
    /// The tag is moved.
    #[default]
    Overwrite,
    /// The tag stays as it is, the image counts as done, and the report says so.
    Skip,
    /// The image fails.
    Error,
}

impl FromStr for OnExisting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "overwrite" => Ok(Self::Overwrite),
            "skip" => Ok(Self::Skip),
            "error" => Ok(Self::Error),
            _ => Err(Error::new(
                Kind::Usage,
                format!("invalid choice `{}` for tags that exist", quote(text)),
            )
            .with_hint("one of `overwrite`, `skip`, `error`")),
        }
    }
}

/// How images are pushed.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The registry, and the path on it.
    pub destination: Destination,
    /// Images that go to a place of their own, whatever the mappings say.
    pub destinations: HashMap<Reference, Rename>,
    /// Exceptions from the rule that a source's path is kept; the longest prefix that fits is taken.
    pub mappings: Vec<Mapping>,
    /// What is done about a tag that holds another digest.
    pub on_existing: OnExisting,
    /// Asks for every blob of an image whose tag is there already, and not for its manifests alone.
    pub verify_existing: bool,
    /// Overrides what was chosen for an index that lost platforms.
    pub index: Option<IndexMode>,
    /// Also tags each platform's manifest, such as `1.27_arm_v7` beside `1.27`.
    pub platform_tags: bool,
    /// Only asks what the registry has, and changes nothing.
    pub dry_run: bool,
    /// Stops at the first image that fails.
    pub fail_fast: bool,
    /// Whether the report is to have a lock.
    pub with_lock: bool,
    /// The first pause before the registry is asked again for what it has just accepted; each further one is twice as long.
    pub pause: Duration,
    /// Folder in which blobs out of a pipe are spooled that may have to be sent again. `None`: they are not spooled.
    pub temp_dir: Option<PathBuf>,
    /// Adds a signature to another one that is there under its tag; without it, the one that is there stays alone.
    pub merge_signatures: bool,
    /// Fails an image that would be without its signatures at the destination, or without some of them, before its tag appears.
    pub require_referrers: bool,
    /// How much of a bundle in a pipe is in memory at a time, in bytes; [`Self::LEAST_BUFFER`] at least.
    pub buffer: u64,
    /// What is left of the memory of this run, of which the plan takes some.
    pub budget: Budget,
}

impl PushRequest {
    /// How much of a bundle in a pipe is in memory at a time, in bytes, where a caller has no other wish.
    pub const BUFFER: u64 = 32 << 20;

    /// The least of it: the part of one blob that is in memory.
    pub const LEAST_BUFFER: u64 = 12 << 20;

    /// The defaults for this destination.
    pub fn new(destination: Destination) -> Self {
        Self {
            destination,
            destinations: HashMap::new(),
            mappings: Vec::new(),
            on_existing: OnExisting::default(),
            verify_existing: false,
            index: None,
            platform_tags: false,
            dry_run: false,
            fail_fast: false,
            with_lock: false,
            pause: Duration::from_millis(250),
            temp_dir: None,
            merge_signatures: false,
            require_referrers: false,
            buffer: Self::BUFFER,
            budget: Budget::default(),
        }
    }
}

/// `SRC=DST`: images below one source path go below another path at the destination.
///
/// `SRC` is a host, or a host and the first components of a path; without a host it is a name as it is typed for an
/// image (`nginx` is `docker.io/library/nginx`). It fits whole components only. `DST` is a path below the destination;
/// it may be empty where `SRC` is no whole image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub(super) host: String,
    pub(super) path: Vec<String>,
    to: String,
}

impl Mapping {
    /// The path of this source below the destination, if the mapping fits it.
    pub(super) fn apply(&self, source: &Reference) -> Option<String> {
        if source.host() != self.host {
            return None;
        }
        let components: Vec<&str> = source.repository().split('/').collect();
        let rest = components.get(self.path.len()..)?;
        if components.iter().zip(&self.path).any(|(a, b)| a != b) {
            return None;
        }
        let to = (!self.to.is_empty()).then_some(self.to.as_str());
        Some(to.into_iter().chain(rest.iter().copied()).collect::<Vec<_>>().join("/"))
    }
}

impl FromStr for Mapping {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            Error::new(Kind::Usage, format!("invalid mapping `{}`: {why}", quote(text)))
                .with_hint("write `SRC=DST`, such as `quay.io/prometheus=monitoring` or `nginx=web/nginx`")
        };
        let (from, to) = text.split_once('=').ok_or_else(|| invalid("there is no `=`"))?;
        let (from, to) = (from.trim().trim_end_matches('/'), to.trim().trim_matches('/'));
        if from.is_empty() {
            return Err(invalid("there is nothing before the `=`"));
        }
        let last = from.rsplit('/').next().unwrap_or(from);
        if from.contains('@') || (from.contains('/') && last.contains(':')) {
            return Err(invalid("a tag or digest cannot be mapped; leave it out"));
        }
        let (host, path) = match from.split_once('/') {
            None if looks_like_host(from) => (from.to_owned(), Vec::new()),
            // The repository behind the host is a placeholder, so that the host is checked and folded like that of an image.
            Some((first, path)) if looks_like_host(first) => {
                (first.to_owned(), path.split('/').map(str::to_owned).collect())
            }
            None => (DOCKER_HUB.to_owned(), vec!["library".to_owned(), from.to_owned()]),
            Some(_) => (DOCKER_HUB.to_owned(), from.split('/').map(str::to_owned).collect()),
        };
        let probe = |path: &str| {
            Reference::new(&host, path, None, None)
                .map_err(|e| invalid("it breaks the grammar of names").with_source(e))
        };
        let host = match path.is_empty() {
            true => probe("any")?,
            false => probe(&path.join("/"))?,
        }
        .host()
        .to_owned();
        if !to.is_empty() {
            Reference::new(DOCKER_HUB, to, None, None)
                .map_err(|e| invalid("the path behind the `=` breaks the grammar of names").with_source(e))?;
        }
        Ok(Self {
            host,
            path,
            to: to.to_owned(),
        })
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        for component in &self.path {
            write!(f, "/{component}")?;
        }
        write!(f, "={}", self.to)
    }
}

/// Where the blobs of a push come from.
pub(crate) trait BlobOrigin: BlobSource {
    /// The place of a blob, for error messages.
    fn describe(&self, digest: &Digest) -> String;

    /// What a user can do about a blob that has other bytes than its digest promises.
    fn hint(&self) -> &'static str;

    /// After a blob turned out to have other bytes than its digest promises: turns to another place that has it, or lets
    /// the only one send it once more where bytes can be hurt on the way. `false` where neither is worth a try.
    fn fail_over(&self, digest: &Digest) -> bool;
}

/// An image on its way to a registry.
#[derive(Clone)]
pub(crate) struct PushItem {
    /// The image; [`ImageTree::choice`] is final.
    pub(crate) tree: Arc<ImageTree>,
    /// Its name there; always with a tag.
    pub(crate) destination: Reference,
    /// The source of its blobs.
    pub(crate) blobs: Arc<dyn BlobOrigin>,
    /// Whether its manifest was built here, so that its digest is new.
    pub(crate) rebuilt: bool,
}
