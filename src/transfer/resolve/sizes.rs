//! Images that state wrong sizes, as far as that shows before blobs are fetched: they fail, and no other image suffers from
//! their error. A digest has one size, so that of images that contradict each other about it at most one is right.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use futures_util::future::join_all;

use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::tree::ImageTree;
use crate::registry::{BlobReader, Registries, WithoutRange};
use crate::transfer::sources::Repository;

/// Images that are larger than this many bytes are compared with their registries. Real ones are so rare that the additional
/// requests do not matter.
const ALWAYS_PLAUSIBLE: u64 = 64 << 30;

/// Fails the images that state a wrong size for a blob that another image names as well. The registries decide which size is
/// right: the length that they state for the blob, or else its bytes. Where that does not tell, all images that name the blob
/// fail. Very large sizes have to be those of the registry as well: no room is looked for that is not needed.
pub(super) async fn check(trees: &mut [Result<ImageTree>], registries: &Registries) {
    let wrong = join_all(trees.iter().map(|tree| implausible(tree, registries))).await;
    for (tree, error) in trees.iter_mut().zip(wrong) {
        if let Some(error) = error {
            *tree = Err(error);
        }
    }
    check_manifests(trees);
    for (digest, mut claims) in contested(trees) {
        // Images that have failed for another blob do not count any more.
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

/// Asks the registry for the largest blobs of a very large image, until the rest is of a plausible size. Returns the error of
/// the first blob that the registry does not have with the size that is stated.
async fn implausible(tree: &Result<ImageTree>, registries: &Registries) -> Option<Error> {
    let tree = tree.as_ref().ok()?;
    let mut left = tree.total().ok().filter(|total| *total > ALWAYS_PLAUSIBLE)?;
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

/// Fails the images that list a manifest of an image among their blobs with another size than it has.
fn check_manifests(trees: &mut [Result<ImageTree>]) {
    let manifests = trees.iter().flatten().flat_map(ImageTree::manifests);
    let sizes: HashMap<Digest, u64> = manifests
        .map(|manifest| (manifest.digest().clone(), manifest.descriptor().size))
        .collect();
    for tree in trees {
        let Ok(found) = tree else { continue };
        let blobs = found.blobs().into_iter().map(|blob| blob.descriptor);
        let wrong = blobs.filter_map(|blob| Some((*sizes.get(&blob.digest)?, blob)));
        if let Some((size, blob)) = wrong.into_iter().find(|(size, blob)| *size != blob.size) {
            *tree = Err(wrong_size(&blob, size).context(&found.source));
        }
    }
}

/// What images state about one blob, by the size that they state.
type Claims = BTreeMap<u64, Claim>;

/// A size that is stated for a blob, and the images that state it, by their numbers.
struct Claim {
    blob: Descriptor,
    trees: Vec<usize>,
}

/// Blobs for which several sizes are stated.
fn contested(trees: &[Result<ImageTree>]) -> BTreeMap<Digest, Claims> {
    let mut sizes: HashMap<Digest, u64> = HashMap::new();
    let mut contested: BTreeMap<Digest, Claims> = BTreeMap::new();
    for blob in trees.iter().flatten().flat_map(ImageTree::blobs) {
        let Descriptor { digest, size, .. } = blob.descriptor;
        if *sizes.entry(digest.clone()).or_insert(size) != size {
            contested.entry(digest).or_default();
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

/// The claims that are wrong, by size, with the error that says so.
async fn refute(claims: &Claims, trees: &[Result<ImageTree>], registries: &Registries) -> HashMap<u64, Error> {
    let mut refuted = HashMap::new();
    let mut readers = Vec::new();
    for (size, claim) in claims {
        let tree = claim.trees.first().and_then(|number| trees[*number].as_ref().ok());
        let Some(tree) = tree else { continue };
        match open(tree, &claim.blob, registries).await {
            Ok(reader) => readers.push((*size, &claim.blob, reader)),
            Err(error) if error.kind() == Kind::Integrity => drop(refuted.insert(*size, error)),
            // That a registry fails says nothing about the size.
            Err(_) => {}
        }
    }
    if claims.len() - refuted.len() < 2 {
        return refuted;
    }
    // The registries did not state lengths that differ from the claims. The smallest claim comes first, so that no reader waits
    // for bytes that do not exist.
    for (size, blob, reader) in readers {
        if has_digest(reader, &blob.digest).await {
            let others = claims.values().filter(|claim| claim.blob.size != size);
            return others
                .map(|claim| (claim.blob.size, wrong_size(&claim.blob, size)))
                .collect();
        }
    }
    refuted
}

async fn open(tree: &ImageTree, blob: &Descriptor, registries: &Registries) -> Result<BlobReader> {
    let repository = Repository::new(&tree.source, registries)?;
    let all = 0..blob.size;
    repository
        .registry
        .blob(&repository.name, blob, all, WithoutRange::Skip)
        .await
}

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
        "its manifest states {} bytes for blob {}, which has {size}",
        blob.size, blob.digest
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
