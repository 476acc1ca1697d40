//! Import: from bundles into a registry. Nothing but the bundles and the destination is contacted.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;

use super::choose::{Candidate, choose};
use super::push::arrivals::{Arrivals, Kept};
use super::push::flow::WINDOW;
use super::push::place;
use super::push::push_all::{Slot, push_arriving};
use super::push::report::{ImageReport, PushReport};
use super::push::request::{Origin, PushRequest};
use super::resolve::warn_of_absent;
use super::runs;
use crate::bundle::read::pipe::Incoming;
use crate::bundle::read::{Bundle, BundledImage};
use crate::bundle::record::Missing;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::narrow::narrow as narrow_tree;
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::image::tree::{ImageTree, LeftOut};
use crate::progress::Progress;
use crate::registry::{BlobSource, BlobStream, Registries};
use crate::text::quote;

/// How many bytes of a bundle are read at a time: larger pieces are no faster, and each blob in flight holds one.
const PIECE: usize = 256 << 10;

/// Which images of a bundle are imported, and how much of them.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns (`*`, `?`, `[…]`, `{a,b}`) on references; an image is taken if one of them fits. None means all images.
    /// A pattern is held against the whole reference, and against the forms that a user may type for it: without
    /// `docker.io/` and `library/`, without tag and digest.
    pub only: Vec<String>,
    /// Platforms, of those that are in the bundle.
    pub platforms: Option<PlatformFilter>,
}

/// Pushes the images of a bundle to a registry.
///
/// # Errors
/// If nothing was sent at all: the selection fits nothing, names collide, the registry cannot be reached. What is wrong with
/// one image of the bundle, or goes wrong with it, stands in the report; nothing is sent for an image that is not whole.
pub async fn import(
    bundle: Arc<Bundle>,
    select: Selection,
    request: PushRequest,
    registries: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    let origin: Arc<dyn Origin> = Arc::new(BundleBlobs(bundle.clone()));
    push(bundle, origin, None, select, request, registries, progress).await
}

/// The same with a bundle of which only the front was read ([`Bundle::from_pipe`]): its blobs are taken as they come out of
/// the pipe, in a single pass.
///
/// A few dozen MiB of memory hold what was read ahead. A blob that fits into a part of them can be sent again; of a larger one
/// only the last bytes can, so that an upload which has to begin again fails its images, with a hint. Nothing is written down
/// but large blobs that several repositories need, for as long as the registry has not shown that it mounts blobs, and only
/// where [`PushRequest::temp_dir`] says where. That every blob is there is not known before the end of the pipe: an image of which a blob does not come fails, and
/// gets no tag.
///
/// # Errors
/// As [`import`].
pub async fn import_pipe(
    bundle: Arc<Bundle>,
    rest: Incoming,
    select: Selection,
    request: PushRequest,
    registries: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    let arrivals = Arrivals::new(bundle.clone(), rest);
    let origin: Arc<dyn Origin> = Arc::new(PipeBlobs {
        front: BundleBlobs(bundle.clone()),
        kept: arrivals.kept(),
    });
    push(bundle, origin, Some(arrivals), select, request, registries, progress).await
}

async fn push(
    bundle: Arc<Bundle>,
    origin: Arc<dyn Origin>,
    arrivals: Option<Arrivals>,
    select: Selection,
    request: PushRequest,
    registries: &Registries,
    progress: Progress,
) -> Result<PushReport> {
    for warning in bundle.warnings().iter() {
        progress.warn(warning.clone());
    }
    // What one bundle lacks may be in another one. Nothing proves that an image was ever asked for.
    let there: HashSet<&Reference> = bundle.images().iter().map(|image| &image.name).collect();
    let is_there = |missing: &Missing| {
        missing
            .reference
            .parse()
            .is_ok_and(|name: Reference| there.contains(&name))
    };
    let missing = bundle.missing().iter();
    let missing: Vec<Missing> = missing.filter(|m| !is_there(m)).cloned().collect();
    for missing in &missing {
        progress.warn(format!(
            "the bundle says that `{}` is missing from it: {}",
            quote(&missing.reference),
            quote(&missing.reason)
        ));
    }
    let named = bundle.images().iter().map(|image| Candidate::named(&image.name));
    let broken = bundle.broken().iter().map(|image| match &image.name {
        Some(name) => Candidate::named(name),
        None => Candidate::nameless(&image.label),
    });
    let candidates: Vec<Candidate> = named.chain(broken).collect();
    let chosen = choose(&candidates, &select.only)?;
    let (chosen, chosen_broken) = chosen.split_at(bundle.images().len());
    let images = bundle.images().iter().zip(chosen).filter(|(_, chosen)| **chosen);
    let images = images.map(|(image, _)| image.clone()).collect();
    let trees = read(bundle.clone(), images).await?;

    let mut slots = Vec::new();
    let mut items = Vec::new();
    for (image, tree) in trees {
        let mut tree = match tree.and_then(|tree| narrow(tree, &image, select.platforms.as_ref())) {
            Ok(tree) => tree,
            Err(error) => {
                slots.push(Slot::Failed(Box::new(ImageReport::unresolved(&image.name, &error))));
                continue;
            }
        };
        if let Some(filter) = &select.platforms {
            warn_of_absent(&tree, filter, &progress);
        }
        name_referrers(&bundle, &mut tree);
        slots.push(Slot::Item(tree.source.to_string()));
        items.push(place::item(&request, tree, origin.clone(), image.rebuilt)?);
    }
    for (image, _) in bundle.broken().iter().zip(chosen_broken).filter(|(_, chosen)| **chosen) {
        let report = ImageReport::unresolved(&image.label, &image.error);
        slots.push(Slot::Failed(Box::new(report)));
    }
    place::check_mappings(&request, items.iter().map(|item| &item.tree.source), &progress);
    let mut report = push_arriving(items, slots, &request, registries, &progress, arrivals).await?;
    report.missing = missing;
    let mut warnings = bundle.warnings().clone();
    warnings.append(report.warnings);
    report.warnings = warnings;
    Ok(report)
}

/// The platforms that are wanted, of which there must be one.
fn narrow(tree: ImageTree, image: &BundledImage, platforms: Option<&PlatformFilter>) -> Result<ImageTree> {
    // What a bundle of this program carries was chosen when it was made.
    runs::check(&tree, platforms.is_some() || image.record.is_some())?;
    match platforms {
        Some(filter) => narrow_tree(tree, filter),
        None => Ok(tree),
    }
}

/// Puts down what refers to the image (a signature, say) and stays behind, so that nobody takes it for copied.
fn name_referrers(bundle: &Bundle, tree: &mut ImageTree) {
    let here: HashSet<Digest> = tree.manifests().iter().map(|m| m.digest().clone()).collect();
    let referrers = bundle.referrers().iter().filter(|r| here.contains(&r.subject));
    let referrers = referrers.map(|referrer| LeftOut {
        digest: referrer.root.digest.clone(),
        media_type: referrer.root.media_type.clone(),
        reason: format!("it refers to {}, and referrers are not carried", referrer.subject),
    });
    tree.left_out = tree.left_out.iter().cloned().chain(referrers).collect();
}

/// Reads the manifests of the images and checks that all that they name is there.
async fn read(bundle: Arc<Bundle>, images: Vec<BundledImage>) -> Result<Vec<(BundledImage, Result<ImageTree>)>> {
    let work = move || {
        let read = |image: BundledImage| {
            let tree = bundle.tree(&image);
            (image, tree)
        };
        images.into_iter().map(read).collect()
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(Kind::Io, "reading the bundle ended early").with_source(e))
}

/// The blobs of a bundle.
struct BundleBlobs(Arc<Bundle>);

impl BlobSource for BundleBlobs {
    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        let (bundle, digest) = (self.0.clone(), descriptor.digest.clone());
        let pieces = stream::try_unfold((offset, Bytes::new()), move |(at, former)| {
            let piece = read_piece(&bundle, &digest, at, former);
            async move { Ok(piece?.map(|(piece, length)| (piece.slice(..length), (at + length as u64, piece)))) }
        });
        Box::pin(async move { Ok(pieces.boxed()) })
    }
}

/// The next bytes of a blob, at the start of a buffer. They are read where they are asked for: a hand-over to another thread
/// costs more than the read. The former buffer is used again where the connection is through with it.
fn read_piece(bundle: &Bundle, digest: &Digest, at: u64, former: Bytes) -> Result<Option<(Bytes, usize)>> {
    let mut buffer = match former.try_into_mut() {
        Ok(buffer) if buffer.len() == PIECE => buffer,
        _ => BytesMut::zeroed(PIECE),
    };
    let length = bundle.read_at(digest, at, &mut buffer)?.min(PIECE);
    Ok((length > 0).then(|| (buffer.freeze(), length)))
}

impl Origin for BundleBlobs {
    fn describe(&self, digest: &Digest) -> String {
        self.0.describe(digest)
    }

    fn remedy(&self) -> &'static str {
        "the bundle was changed or damaged on its way: copy it again, and compare check sums"
    }

    fn elsewhere(&self, digest: &Digest) -> bool {
        self.0.turn(digest)
    }
}

/// The blobs of a bundle in a pipe: those of its front, and those that are on their way.
struct PipeBlobs {
    front: BundleBlobs,
    kept: Arc<Kept>,
}

impl BlobSource for PipeBlobs {
    fn is_kept(&self, descriptor: &Descriptor) -> bool {
        let flow = self.kept.get(&descriptor.digest);
        flow.map_or(descriptor.size <= WINDOW, |flow| flow.is_kept())
            || self.front.0.size_of(&descriptor.digest).is_some()
    }

    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        if let Some(flow) = self.kept.get(&descriptor.digest) {
            return Box::pin(async move { flow.stream(offset) });
        }
        if self.front.0.size_of(&descriptor.digest).is_some() {
            return self.front.open(descriptor, offset);
        }
        let gone = format!("blob {} has gone by in the pipe", descriptor.digest);
        let error = Error::new(Kind::NotFound, gone)
            .with_hint("the registry wants it once more: run the import again, or import the bundle as a file");
        Box::pin(async move { Err(error) })
    }
}

impl Origin for PipeBlobs {
    fn describe(&self, digest: &Digest) -> String {
        let flow = self.kept.get(digest);
        flow.map_or_else(|| self.front.describe(digest), |flow| flow.place().to_owned())
    }

    fn remedy(&self) -> &'static str {
        self.front.remedy()
    }

    fn elsewhere(&self, _digest: &Digest) -> bool {
        false
    }
}
