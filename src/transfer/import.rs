//! Import: from bundles into a registry. Nothing but the bundles and the destination is contacted.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use globset::GlobBuilder;

use super::push::arrivals::{Arrivals, Kept};
use super::push::flow::WINDOW;
use super::push::place;
use super::push::report::{ImageReport, PushReport};
use super::push::{Origin, PushRequest, Slot, push_arriving};
use super::refilter::refilter;
use super::resolve::warn_of_absent;
use crate::bundle::read::pipe::Incoming;
use crate::bundle::read::{Bundle, BundledImage};
use crate::bundle::record::Missing;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::image::tree::{ImageTree, LeftOut};
use crate::progress::Progress;
use crate::registry::{BlobSource, BlobStream, Registries};

/// How many bytes of a bundle are read at a time: larger pieces are no faster, and each blob in flight holds one.
const PIECE: usize = 256 << 10;

/// How many lines of a list an error message has at most.
const LISTED: usize = 10;

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
    for warning in bundle.warnings() {
        progress.warn(warning.clone());
    }
    // What one bundle lacks may be in another one.
    let there: HashSet<String> = bundle.images().iter().map(|image| image.name.to_string()).collect();
    let missing = bundle.missing().iter();
    let missing: Vec<Missing> = missing.filter(|m| !there.contains(&m.reference)).cloned().collect();
    for missing in &missing {
        progress.warn(format!(
            "`{}` is missing from the bundle: {}",
            missing.reference, missing.reason
        ));
    }
    let names: Vec<&Reference> = bundle.images().iter().map(|image| &image.name).collect();
    let chosen = choose(&names, &select.only)?;
    let images = bundle.images().iter().zip(chosen).filter(|(_, chosen)| *chosen);
    let images = images.map(|(image, _)| image.clone()).collect();
    let trees = read(bundle.clone(), images).await?;

    let mut slots = Vec::new();
    let mut items = Vec::new();
    for (image, tree) in trees {
        let mut tree = match tree {
            Ok(tree) => tree,
            Err(error) => {
                slots.push(Slot::Failed(Box::new(ImageReport::unresolved(&image.name, &error))));
                continue;
            }
        };
        if let Some(filter) = &select.platforms {
            tree = match refilter(tree, filter) {
                Ok(tree) => tree,
                Err(error) => {
                    slots.push(Slot::Failed(Box::new(ImageReport::unresolved(&image.name, &error))));
                    continue;
                }
            };
            warn_of_absent(&tree, filter, &progress);
        }
        name_referrers(&bundle, &mut tree);
        slots.push(Slot::Item(tree.source.to_string()));
        items.push(place::item(&request, tree, origin.clone(), image.rebuilt)?);
    }
    place::check_mappings(&request, items.iter().map(|item| &item.tree.source), &progress);
    let mut report = push_arriving(items, slots, &request, registries, &progress, arrivals).await?;
    report.missing = missing;
    report.warnings.splice(0..0, bundle.warnings().iter().cloned());
    Ok(report)
}

/// Puts down what refers to the image (a signature, say) and stays behind, so that nobody takes it for copied.
fn name_referrers(bundle: &Bundle, tree: &mut ImageTree) {
    let here: HashSet<Digest> = tree.manifests().iter().map(|m| m.digest().clone()).collect();
    let referrers = bundle.referrers().iter().filter(|r| here.contains(&r.subject));
    tree.left_out.extend(referrers.map(|referrer| LeftOut {
        digest: referrer.root.digest.clone(),
        media_type: referrer.root.media_type.clone(),
        reason: format!("it refers to {}, and referrers are not carried", referrer.subject),
    }));
}

/// Which of the images the patterns mean.
fn choose(names: &[&Reference], patterns: &[String]) -> Result<Vec<bool>> {
    if names.is_empty() {
        return Err(Error::new(Kind::NotFound, "the bundle holds no image"));
    }
    if patterns.is_empty() {
        return Ok(vec![true; names.len()]);
    }
    let forms: Vec<Vec<String>> = names.iter().map(|name| forms(name)).collect();
    let mut chosen = vec![false; names.len()];
    for pattern in patterns {
        let shown = pattern.escape_debug();
        let matcher = GlobBuilder::new(pattern)
            .build()
            .map_err(|e| Error::new(Kind::Usage, format!("invalid pattern `{shown}`")).with_source(e))?
            .compile_matcher();
        let fits: Vec<bool> = forms
            .iter()
            .map(|f| f.iter().any(|form| matcher.is_match(form)))
            .collect();
        if !fits.contains(&true) {
            let mut known: Vec<String> = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
            if names.len() > LISTED {
                known.push(format!("{} more", names.len() - LISTED));
            }
            return Err(
                Error::new(Kind::NotFound, format!("no image of the bundle fits `{shown}`"))
                    .with_hint(format!("it holds {}", known.join(", "))),
            );
        }
        chosen.iter_mut().zip(fits).for_each(|(chosen, fits)| *chosen |= fits);
    }
    Ok(chosen)
}

/// Everything that a user may type for a reference.
fn forms(name: &Reference) -> Vec<String> {
    let full = name.to_string();
    let bare = name.name();
    let tagged = name.tag().map(|tag| format!("{bare}:{tag}"));
    let mut forms = Vec::new();
    for form in [Some(full), tagged, Some(bare)].into_iter().flatten() {
        let short = form.strip_prefix("docker.io/").map(str::to_owned);
        let shorter = form.strip_prefix("docker.io/library/").map(str::to_owned);
        forms.extend([Some(form), short, shorter].into_iter().flatten());
    }
    forms
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_a_user_types() {
        let names: Vec<Reference> = ["hello-world", "golang:alpine", "quay.io/a/golang:1", "b/c"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        let names: Vec<&Reference> = names.iter().collect();
        let chosen = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            match choose(&names, &patterns) {
                Ok(chosen) => {
                    let chosen = names.iter().zip(chosen).filter(|(_, chosen)| *chosen);
                    chosen.map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(" ")
                }
                Err(error) => error.full(),
            }
        };
        assert_eq!(chosen(&["hello-world"]), "docker.io/library/hello-world:latest");
        assert_eq!(chosen(&["golang:*"]), "docker.io/library/golang:alpine");
        assert_eq!(
            chosen(&["*golang:*"]),
            "docker.io/library/golang:alpine quay.io/a/golang:1"
        );
        assert_eq!(chosen(&["quay.io/*", "b/c"]), "quay.io/a/golang:1 docker.io/b/c:latest");
        assert_eq!(chosen(&[]).split(' ').count(), 4);
        assert_eq!(chosen(&["b/c", "nothing"]), "no image of the bundle fits `nothing`");
        assert!(chosen(&["["]).starts_with("invalid pattern"));
    }
}
