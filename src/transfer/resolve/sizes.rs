//! Detects wrong blob sizes in manifests before blobs are fetched.
//! Images with wrong sizes fail, and the remaining images are not affected. A digest has one size, so at most one of
//! several contradicting images is right.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::stream::{self, StreamExt};

use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::tree::ImageTree;
use crate::registry::{BlobReader, Registries, WithoutRange};
use crate::text::byte_count;
use crate::transfer::sources::Repository;

/// Maximum size in bytes of an image whose stated sizes are accepted without asking its registry.
/// Real images above this size are so rare that the additional requests do not matter.
const ALWAYS_PLAUSIBLE: u64 = 64 << 30;

/// Fails the images that state a wrong size for a blob.
/// If images state different sizes for one blob, the registries decide: by the length that they state for the blob, or else
/// by the blob's bytes. If the registries cannot decide, all images that refer to the blob fail.
///
/// Sizes of very large images are compared with the registry as well, so that no disk space is reserved for wrong sizes.
///
/// Up to `jobs` images are compared at the same time.
pub(super) async fn check(trees: &mut [Result<ImageTree>], registries: &Registries, jobs: usize) {
    // Only the futures of large images are created: one future for each image would take most of the memory of a run of
    // thousands of images.
    let large: Vec<_> = trees
        .iter()
        .enumerate()
        .filter(|(_, tree)| tree.as_ref().is_ok_and(is_large))
        .map(|(number, tree)| async move { (number, implausible(tree, registries).await) })
        .collect();
    let wrong: Vec<(usize, Option<Error>)> = stream::iter(large).buffered(jobs.max(1)).collect().await;
    for (number, error) in wrong {
        if let Some(error) = error {
            trees[number] = Err(error);
        }
    }
    for (number, error) in wrong_manifests(trees) {
        trees[number] = Err(error);
    }
    for (digest, mut claims) in contested(trees) {
        // Images that failed because of another blob no longer count.
        for claim in claims.values_mut() {
            claim.trees.retain(|number| trees[*number].is_ok());
        }
        claims.retain(|_, claim| !claim.trees.is_empty());
        if claims.len() < 2 {
            continue;
        }
        let refuted = refute(&claims, trees, registries).await;
        let undecided = claims.len() - refuted.len() > 1;
        for (size, claim) in &claims {
            let error = match refuted.get(size) {
                Some(error) => error.clone(),
                None if undecided => contradiction(&digest, &claims),
                None => continue,
            };
            for number in &claim.trees {
                if let Ok(tree) = &trees[*number] {
                    trees[*number] = Err(error.clone().context(&tree.source));
                }
            }
        }
    }
}

/// Returns the images that [`check`] asks registries about, or fails without asking.
pub(super) fn uncertain(trees: &[Result<ImageTree>]) -> HashSet<usize> {
    let is_large = |number: &usize| trees[*number].as_ref().is_ok_and(is_large);
    let large = (0..trees.len()).filter(is_large);
    let wrong = wrong_manifests(trees).into_iter().map(|(number, _)| number);
    let claims = contested(trees).into_values().flat_map(Claims::into_values);
    large.chain(wrong).chain(claims.flat_map(|claim| claim.trees)).collect()
}

/// Checks that all manifests of an image state the same size for the same blob.
pub(super) fn check_tree(tree: &ImageTree) -> Result<()> {
    let mut sizes: HashMap<&Digest, u64> = HashMap::new();
    for manifest in tree.manifests() {
        for blob in manifest.blobs() {
            if *sizes.entry(&blob.digest).or_insert(blob.size) != blob.size {
                return Err(Error::new(
                    Kind::Malformed,
                    format!("its manifests give blob {} two sizes", blob.digest),
                ));
            }
        }
    }
    Ok(())
}

/// Returns whether an image is larger than [`ALWAYS_PLAUSIBLE`].
fn is_large(tree: &ImageTree) -> bool {
    tree.total().is_ok_and(|total| total > ALWAYS_PLAUSIBLE)
}

/// Compares the largest blobs of a very large image with the registry.
/// The check ends once the remaining blobs have a plausible size. Returns the error of the first blob whose stated size the
/// registry does not confirm.
async fn implausible(tree: &Result<ImageTree>, registries: &Registries) -> Option<Error> {
    let tree = tree.as_ref().ok()?;
    let mut left = tree.total().ok()?;
    let mut blobs = tree.blobs();
    blobs.sort_by_key(|blob| Reverse(blob.descriptor.size));
    for blob in blobs {
        if let Err(error) = open(tree, &blob.descriptor, registries).await {
            return Some(error.context(&tree.source));
        }
        left -= blob.descriptor.size;
        if left <= ALWAYS_PLAUSIBLE {
            break;
        }
    }
    None
}

/// Returns the images that list the manifest of an image as a blob with a wrong size, each with its error.
fn wrong_manifests(trees: &[Result<ImageTree>]) -> Vec<(usize, Error)> {
    let manifests = trees.iter().flatten().flat_map(ImageTree::manifests);
    let sizes: HashMap<&Digest, u64> = manifests
        .map(|manifest| (manifest.digest(), manifest.descriptor().size))
        .collect();
    let fault = |tree: &ImageTree| {
        let blobs = tree.named_blobs().into_iter();
        let mut found = blobs.filter_map(|(blob, _)| Some((*sizes.get(&blob.digest)?, blob)));
        let (size, blob) = found.find(|(size, blob)| *size != blob.size)?;
        Some(wrong_size(blob, size).context(&tree.source))
    };
    let wrong = trees.iter().enumerate();
    let wrong = wrong.filter_map(|(number, tree)| Some((number, fault(tree.as_ref().ok()?)?)));
    wrong.collect()
}

/// Stated sizes of one blob, each with the images that state it.
type Claims = BTreeMap<u64, Claim>;

/// A stated size of a blob, and the positions of the images that state it.
struct Claim {
    blob: Descriptor,
    trees: Vec<usize>,
}

/// Returns the blobs for which images state different sizes.
fn contested(trees: &[Result<ImageTree>]) -> BTreeMap<Digest, Claims> {
    let mut sizes: HashMap<&Digest, u64> = HashMap::new();
    let mut contested: BTreeMap<Digest, Claims> = BTreeMap::new();
    for (blob, _) in trees.iter().flatten().flat_map(ImageTree::named_blobs) {
        if *sizes.entry(&blob.digest).or_insert(blob.size) != blob.size {
            contested.entry(blob.digest.clone()).or_default();
        }
    }
    if contested.is_empty() {
        return contested;
    }
    for (number, tree) in trees.iter().enumerate() {
        for blob in tree.iter().flat_map(ImageTree::blobs).map(|blob| blob.descriptor) {
            let Some(claims) = contested.get_mut(&blob.digest) else {
                continue;
            };
            let trees = Vec::new();
            let claim = claims.entry(blob.size).or_insert(Claim { blob, trees });
            claim.trees.push(number);
        }
    }
    contested
}

/// Returns the refuted sizes of a blob, each with the error for its images.
async fn refute(claims: &Claims, trees: &[Result<ImageTree>], registries: &Registries) -> HashMap<u64, Error> {
    let mut refuted = HashMap::new();
    let mut possible = Vec::new();
    for (size, claim) in claims {
        let tree = claim.trees.first().and_then(|number| trees[*number].as_ref().ok());
        let Some(tree) = tree else { continue };
        match open(tree, &claim.blob, registries).await {
            // Read later: an open reader holds a place of its host, and there may be more sizes than places.
            Ok(_) => possible.push((*size, &claim.blob, tree)),
            Err(error) if error.kind() == Kind::Integrity => drop(refuted.insert(*size, error)),
            // An error of the registry says nothing about the size.
            Err(_) => {}
        }
    }
    if claims.len() - refuted.len() < 2 {
        return refuted;
    }
    // These sizes contradict no stated length, so the bytes decide. The smallest claim is read first, so that no reader waits
    // for bytes that do not exist.
    for (size, blob, tree) in possible {
        if let Ok(reader) = open(tree, blob, registries).await
            && has_digest(reader, &blob.digest).await
        {
            let others = claims.values().filter(|claim| claim.blob.size != size);
            return others
                .map(|claim| (claim.blob.size, wrong_size(&claim.blob, size)))
                .collect();
        }
    }
    refuted
}

/// Opens a blob of an image. Fails with [`Kind::Integrity`] if the registry states another length.
async fn open(tree: &ImageTree, blob: &Descriptor, registries: &Registries) -> Result<BlobReader> {
    let repository = Repository::new(&tree.source, registries)?;
    let all = 0..blob.size;
    repository
        .registry
        .blob(&repository.name, blob, all, WithoutRange::Skip)
        .await
}

/// Returns whether the remaining bytes of a reader have this digest.
async fn has_digest(mut reader: BlobReader, digest: &Digest) -> bool {
    let mut hasher = digest.hasher();
    loop {
        match reader.chunk().await {
            Ok(Some(bytes)) => hasher.update(&bytes),
            Ok(None) => return hasher.finish() == *digest,
            Err(_) => return false,
        }
    }
}

fn wrong_size(blob: &Descriptor, size: u64) -> Error {
    let message = format!(
        "its manifest states {} for blob {}, which has {size}",
        byte_count(blob.size),
        blob.digest
    );
    Error::new(Kind::Integrity, message).with_hint(HINT)
}

fn contradiction(digest: &Digest, claims: &Claims) -> Error {
    let sizes: Vec<String> = claims.keys().map(u64::to_string).collect();
    let message = format!(
        "the images that name blob {digest} state different sizes for it ({} bytes), and no registry tells which one is right",
        sizes.join(" and ")
    );
    Error::new(Kind::Malformed, message).with_hint(HINT)
}

const HINT: &str = "a manifest with a wrong size has to be made again: have the image built and pushed again";
