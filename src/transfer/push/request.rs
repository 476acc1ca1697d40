//! Request for a push: its options, the images, and the source of their blobs.

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

/// Treatment of a tag that holds another digest than the image to push.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnExisting {
    /// Moves the tag.
    #[default]
    Overwrite,
    /// Leaves the tag alone; the image counts as done, and the report says so.
    Skip,
    /// Fails the image.
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

/// Options of a push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// Registry of the destination, and path prefix at that registry.
    pub destination: Destination,
    /// Destinations of single images, which take precedence over the mappings.
    pub destinations: HashMap<Reference, Rename>,
    /// Exceptions from the rule that the path of a source is kept.
    /// The mapping with the longest matching prefix applies.
    pub mappings: Vec<Mapping>,
    /// Treatment of a tag that holds another digest.
    pub on_existing: OnExisting,
    /// Whether all blobs of an image with an existing tag are checked, and not only its manifests.
    pub verify_existing: bool,
    /// Overrides the chosen form of an index that lost platforms.
    pub index: Option<IndexMode>,
    /// Whether each platform's manifest also gets a tag, such as `1.27_arm_v7` beside `1.27`.
    pub platform_tags: bool,
    /// Whether the tag of a platform may replace a tag that is not of an earlier push of the same image.
    pub replaces_foreign_tags: bool,
    /// Whether the push only queries the registry and changes nothing.
    pub dry_run: bool,
    /// Whether the push stops at the first failed image.
    pub fail_fast: bool,
    /// Whether the report includes a lock.
    pub with_lock: bool,
    /// First pause before the registry is asked again for content that it has just accepted.
    /// Each further pause is twice as long.
    pub pause: Duration,
    /// Folder for spooling blobs from a pipe that may have to be sent again. `None` disables spooling.
    pub temp_dir: Option<PathBuf>,
    /// Whether a signature is merged into an existing signature under its tag.
    /// Otherwise the existing signature stays unchanged.
    pub merge_signatures: bool,
    /// Whether an image that would lose a signature at the destination fails before its tag appears.
    pub require_referrers: bool,
    /// Maximum number of bytes of a bundle in a pipe in memory; at least [`Self::LEAST_BUFFER`].
    pub buffer: u64,
    /// Memory budget of the run; the plan of the push counts against it.
    pub budget: Budget,
}

impl PushRequest {
    /// Default of [`Self::buffer`], in bytes.
    pub const BUFFER: u64 = 32 << 20;

    /// Minimum of [`Self::buffer`], in bytes: the size of the part of one blob that is in memory.
    pub const LEAST_BUFFER: u64 = 12 << 20;

    /// Returns a request with the default options for this destination.
    pub fn new(destination: Destination) -> Self {
        Self {
            destination,
            destinations: HashMap::new(),
            mappings: Vec::new(),
            on_existing: OnExisting::default(),
            verify_existing: false,
            index: None,
            platform_tags: false,
            replaces_foreign_tags: false,
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

/// A mapping `SRC=DST`: images below a source path go below another path at the destination.
///
/// `SRC` is a host, or a host and the first components of a path. Without a host, `SRC` is an image name as users type it
/// (`nginx` is `docker.io/library/nginx`). `SRC` matches whole components only. `DST` is a path below the destination; it
/// may be empty if `SRC` is no whole image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub(super) host: String,
    pub(super) path: Vec<String>,
    to: String,
}

impl Mapping {
    /// Returns the path of a source below the destination, or `None` if the mapping does not match.
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
            // A host without a path is checked and normalized with a placeholder repository.
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

/// Source of the blobs of a push.
pub(crate) trait BlobOrigin: BlobSource {
    /// Returns the place of a blob, for error messages.
    fn describe(&self, digest: &Digest) -> String;

    /// Returns the next step for the user after a blob had a wrong digest.
    fn hint(&self) -> &'static str;

    /// Switches to another source after a blob had a wrong digest.
    /// The last source may be read once more if bytes can be corrupted in transit. Returns `false` if no further attempt
    /// makes sense.
    fn fail_over(&self, digest: &Digest) -> bool;
}

/// An image to push.
#[derive(Clone)]
pub(crate) struct PushItem {
    /// Tree of the image; [`ImageTree::choice`] is final.
    pub(crate) tree: Arc<ImageTree>,
    /// Name of the image at the destination; always with a tag.
    pub(crate) destination: Reference,
    /// Source of the image's blobs.
    pub(crate) blobs: Arc<dyn BlobOrigin>,
    /// Whether the manifest was built by this program, so that its digest is new.
    pub(crate) rebuilt: bool,
    /// For a platform with a tag of its own: the name of its image at the destination.
    pub(crate) platform_of: Option<Reference>,
}
