//! `--platform-tags`: pushes each platform under a tag of its own (`1.27_arm_v7` beside `1.27`).
//!
//! Each platform becomes a push item of its own, with the platform's manifest as its root. So existing tags are found and kept as
//! any other tag, and names that collide are rejected before anything is sent. A platform gets its tag after its image.
//!
//! An existing tag with such a name may be somebody's own. It is replaced only if it is the tag of a platform of the image that
//! stands at the destination.

use std::sync::Arc;

use super::asked_image::AskedImage;
use super::request::{PushItem, PushRequest};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::View;
use crate::image::reference::Reference;
use crate::image::tree::{ATTESTATION, ImageTree, PlatformRecord, UNKNOWN, Variant};
use crate::registry::Registry;

/// Adds a push item for each platform after the item of its image, and a slot for each new item.
///
/// # Errors
/// [`Kind::Usage`] if a tag would be too long, or would be the tag of another image.
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
    for slot in slots {
        let AskedImage::Item(source) = slot else {
            all_slots.push(slot);
            continue;
        };
        let Some(item) = items.next() else { continue };
        let platforms = item.tree.kept.iter().filter(|kept| is_platform(&kept.platform));
        let tagged = platforms.map(|kept| tagged(&item, kept)).collect::<Result<Vec<_>>>()?;
        let tagged: Vec<PushItem> = tagged.into_iter().flatten().collect();
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

/// Returns the push item of one platform, or `None` if the platform's manifest is not carried.
fn tagged(item: &PushItem, kept: &PlatformRecord) -> Result<Option<PushItem>> {
    let tree = &item.tree;
    let mut manifests = tree.manifests().into_iter();
    let found = manifests.find(|manifest| *manifest.digest() == kept.digest);
    let Some(manifest) = found.cloned() else {
        return Ok(None);
    };
    let there = &item.destination;
    let tag = format!("{}_{}", there.tag().unwrap_or("latest"), suffix(&kept.platform));
    let destination = Reference::new(there.host(), there.repository(), Some(&tag), None).map_err(|e| {
        e.context(format!("`--platform-tags` for {}", tree.source))
            .with_hint("omit `--platform-tags`, or give the image a shorter tag")
    })?;
    let original = Variant {
        root: manifest,
        below: Arc::default(),
    };
    // The item has no attachments: they travel with the image itself.
    let one = ImageTree {
        kept: Arc::from([kept.clone()]),
        left_out: tree.left_out.clone(),
        ..ImageTree::new(tree.source.clone(), original)
    };
    Ok(Some(PushItem {
        tree: Arc::new(one),
        destination,
        blobs: item.blobs.clone(),
        rebuilt: item.rebuilt,
        platform_of: Some(there.clone()),
    }))
}

/// Returns the suffix of the tag:
/// `amd64`, `arm_v7`, `windows_amd64_10.0.17763`. The name `linux` is omitted.
fn suffix(label: &str) -> String {
    let label = label.strip_prefix("linux/").unwrap_or(label);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let text: String = label.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    let words = text.split('_').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_")
}

/// Rejects a tag that two images, or two platforms of one image, would get.
fn check(items: &[PushItem]) -> Result<()> {
    let mut taken = std::collections::BTreeMap::new();
    for item in items {
        let digest = item.tree.pushed().root.digest();
        let Some((other, source)) = taken.insert(&item.destination, (digest, &item.tree.source)) else {
            continue;
        };
        if other != digest {
            let what = match *source == item.tree.source {
                true => format!("two platforms of `{source}`"),
                false => format!("`{source}` and `{}`", item.tree.source),
            };
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
    use super::*;

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
            assert_eq!(suffix(label), expected, "{label}");
        }
    }
}
