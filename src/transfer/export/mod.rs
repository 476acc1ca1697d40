//! Export: from registries into one file.
//!
//! Manifests first; they give the plan, and the plan gives every byte of the bundle its place. Then blobs side by side into
//! their places, and the final name last.

mod ahead;
mod file;
mod fill;
mod gate;
mod moves;
mod ordered;
mod reuse;
mod settle;
mod slot;
mod unfinished;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use crate::bundle::file_system::FileSystem;
use crate::bundle::plan::{Extras, Plan};
use crate::bundle::record::Missing;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::reference::{Reference, Target};
use crate::image::tree::{Choice, ImageTree, LeftOut, PlatformRecord};
use crate::progress::{Event, Progress};
use crate::registry::{Presence, Registries};
use crate::transfer::resolve::Wanted;

pub use ordered::Compression;
pub use reuse::Reused;

/// Where a bundle goes.
pub enum Output {
    /// A file, which gets its name when it is complete.
    File {
        /// The final name.
        path: PathBuf,
        /// Whether a file of that name is replaced.
        force: bool,
        /// Whether an unfinished earlier run is thrown away.
        fresh: bool,
    },
    /// A pipe: the same bytes in order. They cannot be taken back, so whoever reads them must heed the exit code.
    Pipe(Box<dyn Write + Send>),
}

/// What to export, and how.
pub struct Request {
    /// The images.
    pub images: Vec<Reference>,
    /// Which of their platforms, and what becomes of their indexes.
    pub wanted: Wanted,
    /// Where the bundle goes.
    pub output: Output,
    /// Compression of the whole bundle.
    pub compression: Compression,
    /// Blobs in flight.
    pub jobs: usize,
    /// Whether images that fail are left out; otherwise any failure keeps the bundle from getting its name.
    pub allow_partial: bool,
    /// Whether `manifest.json` is written, for `docker load` and `podman load`.
    pub docker_manifest: bool,
    /// Earlier bundles whose blobs need not be fetched.
    pub reuse: Vec<PathBuf>,
    /// How much is read ahead of a pipe, in bytes.
    pub read_ahead: u64,
    /// What the file system of the output can do, where the caller knows better than the system that is asked otherwise.
    pub file_system: Option<FileSystem>,
}

/// What became of an export.
#[derive(Debug, Default)]
pub struct Report {
    /// The images in the bundle, in the order in which they were asked for.
    pub images: Vec<Exported>,
    /// The images that failed, in that order.
    pub failed: Vec<(Reference, Error)>,
    /// Tags that have moved since the first run, which the bundle keeps to: reference, digest in the bundle, digest now.
    pub moved: Vec<(Reference, Digest, Digest)>,
    /// Whether the bundle is complete under its name.
    pub committed: bool,
    /// The size of the bundle, in bytes; uncompressed.
    pub size: u64,
    /// What came from earlier bundles.
    pub reused: Reused,
}

/// One image in a bundle.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The name that it was asked for by.
    pub source: Reference,
    /// The digest that goes under the name.
    pub digest: Digest,
    /// The digest that the source has.
    pub original: Digest,
    /// Which of both goes under the name, and why it may differ.
    pub choice: Choice,
    /// Platforms in the bundle.
    pub kept: Vec<PlatformRecord>,
    /// Platforms that are not.
    pub dropped: Vec<PlatformRecord>,
    /// Blobs that are not.
    pub left_out: Vec<LeftOut>,
}

impl Exported {
    fn new(tree: &ImageTree) -> Self {
        Self {
            source: tree.source.clone(),
            digest: tree.pushed().root.digest().clone(),
            original: tree.original.root.digest().clone(),
            choice: tree.choice,
            kept: tree.kept.clone(),
            dropped: tree.dropped.clone(),
            left_out: tree.left_out.clone(),
        }
    }
}

/// Exports images into one bundle.
///
/// Images that fail do not keep the others from being tried; they are in the report. Without
/// [`allow_partial`](Request::allow_partial) the bundle then stays unfinished, and the same call goes on from there.
///
/// # Errors
/// What ends everything: the output cannot be written, is there already, or belongs to another run.
pub async fn export(request: Request, registries: &Registries, progress: &Progress) -> Result<Report> {
    let report = match request.output {
        Output::File { .. } if request.compression == Compression::None => {
            file::export(request, registries, progress).await
        }
        _ => ordered::export(request, registries, progress).await,
    }?;
    // An image is done when its bundle has its final name, and not before.
    for image in report.images.iter().filter(|_| report.committed) {
        progress.emit(Event::ImageDone {
            reference: image.source.to_string(),
            digest: image.digest.to_string(),
        });
    }
    Ok(report)
}

/// The images with their trees, and those that have none.
struct Resolved {
    trees: Vec<ImageTree>,
    failed: Vec<(Reference, Error)>,
}

impl Resolved {
    fn new(references: &[Reference], results: Vec<Result<ImageTree>>) -> Self {
        let mut resolved = Self {
            trees: Vec::new(),
            failed: Vec::new(),
        };
        for (reference, result) in references.iter().zip(results) {
            match result {
                Ok(tree) => resolved.trees.push(tree),
                Err(error) => resolved.failed.push((reference.clone(), error)),
            }
        }
        resolved
    }

    /// Takes out the images that need a blob that could not be fetched, and says whether there are any.
    fn drop_failed(&mut self, failures: &mut fill::Failures) -> bool {
        let before = self.trees.len();
        let trees = std::mem::take(&mut self.trees);
        for tree in trees {
            let culprit = tree
                .blobs()
                .into_iter()
                .find(|b| failures.contains_key(&b.descriptor.digest));
            match culprit {
                None => self.trees.push(tree),
                Some(blob) => {
                    let digest = &blob.descriptor.digest;
                    let error = failures
                        .remove(digest)
                        .unwrap_or_else(|| Error::new(Kind::Incomplete, format!("blob {digest} could not be fetched")));
                    // The next image that needs it gets the same message.
                    failures.insert(digest.clone(), Error::new(error.kind(), error.full()));
                    self.failed.push((tree.source.clone(), error.context(&tree.source)));
                }
            }
        }
        self.trees.len() < before
    }

    fn extras(&self, docker_manifest: bool) -> Extras {
        Extras {
            missing: self
                .failed
                .iter()
                .map(|(reference, error)| Missing {
                    reference: reference.to_string(),
                    // The kind of failure, not its words: those name addresses and times, and two runs would differ.
                    reason: format!("{:?}", error.kind()).to_ascii_lowercase(),
                })
                .collect(),
            docker_manifest,
        }
    }
}

/// Tells what a user should know about a plan.
fn warn(plan: &Plan, progress: &Progress) {
    for warning in plan.warnings() {
        progress.warn(warning.as_str());
    }
}

/// The image configs that were read on the way: they need not be fetched again.
fn configs(trees: &[ImageTree]) -> BTreeMap<Digest, Bytes> {
    let configs = trees.iter().flat_map(|tree| &tree.configs);
    configs.map(|(digest, bytes)| (digest.clone(), bytes.clone())).collect()
}

fn unique(images: &[Reference]) -> Vec<Reference> {
    let mut seen = std::collections::HashSet::new();
    images.iter().filter(|image| seen.insert(*image)).cloned().collect()
}

/// A digest of what was asked for, and the same for people.
fn request_identity(images: &[Reference], wanted: &Wanted, docker_manifest: bool) -> (Digest, String) {
    let mut names: Vec<String> = images.iter().map(Reference::to_string).collect();
    names.sort();
    let text = format!("{names:?} {} {:?} {docker_manifest}", wanted.platforms, wanted.index);
    let mut summary = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        summary.push_str(&format!(" and {} more", names.len() - 3));
    }
    summary.push_str(&format!("; platforms: {}", wanted.platforms));
    (Digest::sha256(text.as_bytes()), summary)
}

/// Tags that point elsewhere by now. A registry that does not answer says nothing about it.
async fn moved(
    pins: &HashMap<Reference, Digest>,
    trees: &[ImageTree],
    registries: &Registries,
    jobs: usize,
) -> Vec<(Reference, Digest, Digest)> {
    let pinned: Vec<(Reference, Digest)> = trees
        .iter()
        .filter_map(|tree| Some((tree.source.clone(), pins.get(&tree.source)?.clone())))
        .collect();
    stream::iter(pinned)
        .map(|(reference, pin)| async move {
            let target @ Target::Tag(_) = reference.target() else {
                return None;
            };
            let registry = registries.host(reference.host()).ok()?;
            match registry.head_manifest(reference.repository(), &target).await.ok()? {
                Presence::Present(head) => {
                    let now = head.digest?;
                    (now != pin).then_some((reference, pin, now))
                }
                _ => None,
            }
        })
        .buffered(jobs.max(1))
        .filter_map(|found| async move { found })
        .collect()
        .await
}
