//! `--platform-tags`: pushes each platform under a tag of its own (`1.27_arm_v7` beside `1.27`).
//!
//! Each platform becomes a push item of its own, with the platform's manifest as its root. So existing tags are found and kept as
//! any other tag, and names that collide are rejected before anything is sent. A platform gets its tag after its image.
//!
//! An existing tag with such a name may have another origin. It is replaced only if it is the tag of a platform of the image
//! that the destination has now.

use std::collections::HashMap;
use std::sync::Arc;

use super::asked_image::AskedImage;
use super::request::{PushItem, PushRequest};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{RawManifest, View};
use crate::image::reference::Reference;
use crate::image::tree::{ATTESTATION, ImageTree, PlatformRecord, UNKNOWN, Variant};
use crate::registry::Registry;
use crate::text::quote;

/// Maximum number of platform tags in a run. Each is an item of the push, and at least one request.
const MAX_TAGS: usize = 20_000;

/// Adds a push item for each platform after the item of its image, and a slot for each new item.
/// An image whose platforms cannot all get a tag fails alone.
///
/// # Errors
/// [`Kind::Usage`] if a tag would be the tag of another image.
pub(super) fn expand(
    items: Vec<PushItem>,
    slots: Vec<AskedImage>,
    request: &PushRequest,
) -> Result<(Vec<PushItem>, Vec<AskedImage>)> {
    if !request.platform_tags {
        return Ok((items, slots));
    }
    let mut items = items.into_iter();
    let (mut all_items, mut all_slots) = (Vec::new(), Vec::new());
    let mut left = MAX_TAGS;
    for slot in slots {
        let AskedImage::Item(source) = slot else {
            all_slots.push(slot);
            continue;
        };
        let Some(item) = items.next() else { continue };
        let tagged = match tagged(&item, left) {
            Ok(tagged) => tagged,
            Err(error) => {
                let error = error
                    .context(format!("`--platform-tags` for {source}"))
                    .with_hint("push this image in a run of its own, without `--platform-tags`");
                all_slots.push(AskedImage::failed(&source, &error));
                continue;
            }
        };
        left -= tagged.len();
        all_slots.extend((0..=tagged.len()).map(|_| AskedImage::Item(source.clone())));
        all_items.push(item);
        all_items.extend(tagged);
    }
    check(&all_items)?;
    Ok((all_items, all_slots))
}

/// Checks that a tag, which holds `held`, is the tag of a platform of the image that an earlier push left under `image`.
///
/// # Errors
/// [`Kind::Exists`] if it is not; errors of the registry.
pub(super) async fn check_replaced(
    registry: &Registry,
    image: &Reference,
    tag: &Reference,
    held: &Digest,
) -> Result<()> {
    let there = registry.manifest_and_etag(image.repository(), &image.target()).await?;
    let is_part = there.as_ref().is_some_and(|(there, _)| match there.view() {
        View::Index(index) => index.entries.iter().any(|entry| entry.descriptor.digest == *held),
        _ => there.has_digest(held),
    });
    if is_part {
        return Ok(());
    }
    let what = match there {
        Some(_) => format!("`{tag}` holds {held}, which is no platform of the image that `{image}` holds"),
        None => format!("`{tag}` holds {held}, though there is no `{image}`"),
    };
    Err(Error::new(
        Kind::Exists,
        format!("{what}: it may be another image, and is not overwritten"),
    )
    .with_hint("`--on-existing overwrite` moves the tag, `--on-existing skip` leaves it alone"))
}

fn is_platform(label: &str) -> bool {
    label != ATTESTATION && label != UNKNOWN
}

/// Returns the push items of all platforms whose manifests are carried; at most `left`.
///
/// # Errors
/// [`Kind::TooLarge`] if there are more; [`Kind::Unsupported`] if a platform gives no tag, or two platforms give the same.
fn tagged(item: &PushItem, left: usize) -> Result<Vec<PushItem>> {
    let manifests = item.tree.manifests().into_iter();
    let manifests: HashMap<&Digest, &Arc<RawManifest>> = manifests.map(|it| (it.digest(), it)).collect();
    let mut tagged = Vec::new();
    let mut tags = HashMap::new();
    for kept in item.tree.kept.iter().filter(|kept| is_platform(&kept.platform)) {
        let Some(manifest) = manifests.get(&kept.digest) else {
            continue;
        };
        if tagged.len() == left {
            let what = format!("too large to handle: a run makes at most {MAX_TAGS} tags of platforms");
            return Err(Error::new(Kind::TooLarge, what));
        }
        let one = tagged_item(item, kept, manifest)?;
        if *tags.entry(one.destination.clone()).or_insert(&kept.digest) != &kept.digest {
            let what = format!("two platforms would become `{}`", one.destination);
            return Err(Error::new(Kind::Unsupported, what));
        }
        tagged.push(one);
    }
    Ok(tagged)
}

/// Returns the push item of one platform.
fn tagged_item(item: &PushItem, kept: &PlatformRecord, manifest: &Arc<RawManifest>) -> Result<PushItem> {
    let tree = &item.tree;
    let there = &item.destination;
    let Some(suffix) = suffix(&kept.platform) else {
        let what = format!("platform `{}` gives no tag", quote(&kept.platform));
        return Err(Error::new(Kind::Unsupported, what));
    };
    let tag = format!("{}_{suffix}", there.tag().unwrap_or("latest"));
    let destination = Reference::new(there.host(), there.repository(), Some(&tag), None)
        .map_err(|e| e.with_kind(Kind::Unsupported))?;
    let original = Variant {
        root: manifest.clone(),
        below: Arc::default(),
    };
    // The item has no attachments: they travel with the image itself.
    let one = ImageTree {
        kept: Arc::from([kept.clone()]),
        left_out: tree.left_out.clone(),
        ..ImageTree::new(tree.source.clone(), original)
    };
    Ok(PushItem {
        tree: Arc::new(one),
        destination,
        blobs: item.blobs.clone(),
        rebuilt: item.rebuilt,
        platform_of: Some(there.clone()),
    })
}

/// Returns the suffix of the tag:
/// `amd64`, `arm_v7`, `windows_amd64_10.0.17763`. The name `linux` is omitted.
/// Returns `None` if a part of the platform has no character that a tag may have.
fn suffix(label: &str) -> Option<String> {
    let label = label.strip_prefix("linux/").unwrap_or(label);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    if !label.split('/').all(|part| part.contains(fits)) {
        return None;
    }
    let text: String = label.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    let words = text.split('_').filter(|word| !word.is_empty());
    Some(words.collect::<Vec<_>>().join("_"))
}

/// Rejects a tag that two images would get.
fn check(items: &[PushItem]) -> Result<()> {
    let mut taken = std::collections::BTreeMap::new();
    for item in items {
        let digest = item.tree.pushed().root.digest();
        let Some((other, source)) = taken.insert(&item.destination, (digest, &item.tree.source)) else {
            continue;
        };
        if other != digest {
            let what = format!("`{source}` and `{}`", item.tree.source);
            return Err(Error::new(
                Kind::Usage,
                format!("with `--platform-tags`, {what} would become `{}`", item.destination),
            )
            .with_hint("omit `--platform-tags`, or mirror each of these images to a `-d` of its own"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::image::descriptor::Descriptor;
    use crate::registry::{BlobSource, BlobStream};
    use crate::transfer::push::request::BlobOrigin;

    struct NoBlobs;

    impl BlobSource for NoBlobs {
        fn open<'a>(&'a self, _: &'a Descriptor, _: u64) -> BoxFuture<'a, Result<BlobStream>> {
            Box::pin(async { Err(Error::new(Kind::NotFound, "there are no blobs")) })
        }
    }

    impl BlobOrigin for NoBlobs {
        fn describe(&self, digest: &Digest) -> String {
            digest.to_string()
        }

        fn hint(&self) -> &'static str {
            ""
        }

        fn fail_over(&self, _: &Digest) -> bool {
            false
        }
    }

    /// An image with this number of platforms, which share one manifest.
    fn image(platforms: usize) -> PushItem {
        const TEXT: &[u8] =
            br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let root = Arc::new(RawManifest::new(TEXT.into(), None, None).unwrap());
        let record = |number| PlatformRecord {
            platform: format!("linux/a{number}"),
            digest: root.digest().clone(),
        };
        let below = Arc::default();
        let name: Reference = "r.example/a:1".parse().unwrap();
        let tree = ImageTree {
            kept: (0..platforms).map(record).collect(),
            ..ImageTree::new(
                name.clone(),
                Variant {
                    root: root.clone(),
                    below,
                },
            )
        };
        PushItem {
            tree: Arc::new(tree),
            destination: name,
            blobs: Arc::new(NoBlobs),
            rebuilt: false,
            platform_of: None,
        }
    }

    #[test]
    fn tags_beyond_the_limit_of_a_run_fail_their_image_alone() {
        let mut request = PushRequest::new("r.example".parse().unwrap());
        request.platform_tags = true;
        let sizes = [MAX_TAGS - 1, 2, 1, 1];
        let items: Vec<PushItem> = sizes.iter().map(|size| image(*size)).collect();
        let slots = sizes.iter().map(|size| AskedImage::Item(size.to_string())).collect();
        let (items, slots) = expand(items, slots, &request).unwrap();
        // The first and the third image with their tags; the others have no room.
        assert_eq!(items.len(), 1 + sizes[0] + 1 + sizes[2]);
        let failed: Vec<String> = slots
            .iter()
            .filter_map(|slot| match slot {
                AskedImage::Failed(report) => report.error.as_ref().map(Error::full),
                AskedImage::Item(_) => None,
            })
            .collect();
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(
            failed.iter().all(|why| why.contains("too large to handle")),
            "{failed:?}"
        );
    }

    #[test]
    fn a_platform_becomes_a_part_of_a_tag() {
        for (label, expected) in [
            ("linux/amd64", "amd64"),
            ("linux/arm/v7", "arm_v7"),
            ("linux/arm64/v8", "arm64_v8"),
            ("windows/amd64 (10.0.17763.5329)", "windows_amd64_10.0.17763.5329"),
            ("freebsd/riscv64", "freebsd_riscv64"),
            ("linux/x+y", "x_y"),
        ] {
            assert_eq!(suffix(label).as_deref(), Some(expected), "{label}");
        }
        for label in ["linux/Ä", "windows/Ä", "linux/arm/_", "linux/", "Ä/amd64"] {
            assert_eq!(suffix(label), None, "{label}");
        }
    }
}
