//! The push engine that import and the one-step mirror share: from image trees to tags in one registry.
//!
//! A push has four steps, and nothing later starts before what it stands on is known to be in place:
//!
//! 1. every image gets its name at the destination, and names that collide are refused ([`place`]);
//! 2. one HEAD per tag finds the images that are there already ([`tag`]);
//! 3. the blobs of all other images go into one queue, largest first, each digest uploaded once ([`queue`], [`blob`]);
//! 4. when the last blob of an image is in place, its manifests follow, children first, the tag last ([`landing`]).
//!
//! Nothing is spawned: a push that is dropped at any moment leaves blobs and manifests that no tag reaches, and a
//! second run finds them.

pub(crate) mod arrivals;
pub(crate) mod blob;
pub(crate) mod engine;
pub(crate) mod flow;
mod images;
pub(crate) mod landing;
pub mod place;
pub(crate) mod queue;
pub mod report;
mod spool;
pub(crate) mod tag;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::image::destination::Destination;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::image::tree::{ImageTree, IndexMode};
use crate::progress::Progress;
use crate::registry::{BlobSource, Registries};
use crate::transfer::push::arrivals::Arrivals;
use crate::transfer::push::engine::Ended;
use crate::transfer::push::place::Mapping;
use crate::transfer::push::report::{ImageReport, PushReport};

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
                format!("invalid choice `{}` for tags that exist", text.escape_debug()),
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
    /// Exceptions from the rule that a source's path is kept; the longest prefix that fits is taken.
    pub mappings: Vec<Mapping>,
    /// What is done about a tag that holds another digest.
    pub on_existing: OnExisting,
    /// Overrides what was chosen for an index that lost platforms.
    pub index: Option<IndexMode>,
    /// Only asks what is there already, and changes nothing.
    pub dry_run: bool,
    /// Stops at the first image that fails instead of trying the others.
    pub fail_fast: bool,
    /// The first pause before the registry is asked again for what it has just accepted; each further one is twice as long.
    pub pause: Duration,
    /// Where a blob that comes out of a pipe is put away when it may have to be sent again; without it, it is not.
    pub temp_dir: Option<PathBuf>,
}

impl PushRequest {
    /// The defaults for this destination.
    pub fn new(destination: Destination) -> Self {
        Self {
            destination,
            mappings: Vec::new(),
            on_existing: OnExisting::default(),
            index: None,
            dry_run: false,
            fail_fast: false,
            pause: Duration::from_millis(250),
            temp_dir: None,
        }
    }
}

/// Where the blobs of a push come from.
pub(crate) trait Origin: BlobSource {
    /// Where a blob stands, for error messages.
    fn describe(&self, digest: &Digest) -> String;

    /// What a user can do about a blob that has other bytes than its digest promises.
    fn remedy(&self) -> &'static str;

    /// After a blob turned out to have other bytes than its digest promises: turns to another place that has it, or lets
    /// the only one send it once more where bytes can be hurt on the way. `false` where neither is worth a try.
    fn elsewhere(&self, digest: &Digest) -> bool;
}

/// An image on its way to a registry.
#[derive(Clone)]
pub(crate) struct PushItem {
    /// The image; [`ImageTree::choice`] is final.
    pub(crate) tree: Arc<ImageTree>,
    /// Its name there; always with a tag.
    pub(crate) destination: Reference,
    /// Whoever has its blobs.
    pub(crate) blobs: Arc<dyn Origin>,
    /// Whether its manifest was built here, so that its digest is new.
    pub(crate) rebuilt: bool,
}

/// What stands at one place of the list of images that were asked for.
pub(crate) enum Slot {
    /// An image that failed before there was anything to push.
    Failed(Box<ImageReport>),
    /// The source of an image that is pushed.
    Item(String),
}

/// Pushes, and puts the reports of images that could not be pushed between those of the others, in the order of the slots.
pub(crate) async fn push_all(
    items: Vec<PushItem>,
    slots: Vec<Slot>,
    request: &PushRequest,
    registries: &Registries,
    progress: &Progress,
) -> Result<PushReport> {
    push_arriving(items, slots, request, registries, progress, None).await
}

/// The same with blobs that come out of a pipe.
pub(crate) async fn push_arriving(
    items: Vec<PushItem>,
    slots: Vec<Slot>,
    request: &PushRequest,
    registries: &Registries,
    progress: &Progress,
    arrivals: Option<Arrivals>,
) -> Result<PushReport> {
    let items = place::settle(items)?;
    let stopped = request.fail_fast && slots.iter().any(|slot| matches!(slot, Slot::Failed(_)));
    let ended = if stopped || items.is_empty() {
        Ended {
            images: items.iter().map(images::untried).collect(),
            warnings: Vec::new(),
            bundle_error: None,
        }
    } else {
        let registry = registries.host(request.destination.host())?;
        engine::push(items, request, &registry, progress, arrivals).await?
    };
    let mut pushed = ended.images.into_iter().peekable();
    let mut reports = Vec::with_capacity(slots.len());
    for slot in slots {
        match slot {
            Slot::Failed(report) => reports.push(*report),
            // An image that stood there twice has one report.
            Slot::Item(source) => reports.extend(pushed.next_if(|report| report.source == source)),
        }
    }
    Ok(PushReport {
        warnings: ended.warnings,
        bundle_error: ended.bundle_error,
        ..PushReport::new(request.dry_run, reports)
    })
}
