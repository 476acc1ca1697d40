//! The text output of `inspect`: some lines for each image, and the totals.

use docker_mirror::{
    Choice, Inventory, InventoryImage, LISTED, Part, Piece, Sharing, few, human_bytes, missing_in_words, platform_list,
    quote,
};

use crate::cli::output::{counted, result, say};

/// Maximum number of manifests listed for an image with `--layers`, and of layers listed for each manifest.
const MAX_LISTED: usize = 200;

/// Maximum number of lines about manifests and layers for all images together.
const MAX_LINES: usize = 50_000;

/// Prints the inventory; with `layers`, also the manifests and layers of each image.
pub(super) fn show(inventory: &Inventory, sharing: &Sharing, layers: bool) {
    let mut lines_left = MAX_LINES;
    for image in &inventory.images {
        print_image(image, sharing);
        if layers {
            let mut shown = 0;
            for part in image.content.parts.iter().take(MAX_LISTED) {
                let lines = 2 + part.layers.len().min(MAX_LISTED);
                if lines > lines_left {
                    break;
                }
                lines_left -= lines;
                shown += 1;
                print_part(image, part, sharing);
            }
            let more = image.content.parts.len() - shown;
            if more > 0 {
                let more = counted(more as u64, "more manifest", "more manifests");
                result(format!("  {more}; `--json` lists all"));
            }
        }
        result("");
    }
    totals(inventory, sharing);
    if inventory.is_supplement {
        for piece in inventory.unreferenced.iter().take(MAX_LISTED) {
            result(format!("  blob {} {:>12}", piece.digest, human_bytes(piece.size)));
        }
        result("a supplement: it has no image, and completes a damaged bundle when both are imported together");
    }
    for missing in &inventory.missing {
        let words = missing_in_words(&missing.reference, &missing.reason);
        say(format!("warning: {words}"));
    }
    for warning in inventory.warnings.iter() {
        say(format!("warning: {warning}"));
    }
}

fn field(name: &str, value: impl std::fmt::Display) {
    result(format!("  {name:<10} {value}"));
}

fn print_image(image: &InventoryImage, sharing: &Sharing) {
    let content = &image.content;
    result(image.reference.as_str());
    field("digest", image.digest());
    match (image.index, &content.filtered) {
        (Choice::Filtered, Some(_)) => field("original", format!("{} (the index is filtered)", content.original)),
        (Choice::Sparse, Some(filtered)) => {
            field(
                "index",
                format!("sparse: it lists platforms that are not in the bundle (filtered: {filtered})"),
            );
        }
        _ => {}
    }
    if content.rebuilt {
        field("manifest", "built from an archive that has none; its digest is new");
    }
    if let Some(subject) = &image.belongs_to {
        field("belongs to", quote(subject));
    }
    let (attestations, kept): (Vec<_>, Vec<_>) = content.platform_names().partition(|name| name == "attestation");
    field("platforms", few(kept.iter().map(|name| quote(&**name).to_string())));
    if !attestations.is_empty() {
        let count = counted(attestations.len() as u64, "attestation", "attestations");
        field("with", format!("{count} (provenance or SBOM)"));
    }
    if !content.dropped.is_empty() {
        field("dropped", platform_list(&content.dropped));
    }
    for left in content
        .left_out
        .iter()
        .chain(content.left_out_referrers.iter())
        .take(LISTED)
    {
        field("left out", format!("{} ({})", left.digest, quote(&left.reason)));
    }
    for referrer in content.referrers.iter().take(LISTED) {
        let (digest, media_type) = (&referrer.digest, quote(&referrer.media_type));
        field(
            "referrer",
            format!("{digest} ({media_type}; {})", quote(&referrer.reason)),
        );
    }
    let more = content.left_out.len().saturating_sub(LISTED) + content.referrers.len().saturating_sub(LISTED);
    if more > 0 {
        field("", format!("and {more} more; `--json` lists them"));
    }
    field("size", size(image, sharing));
}

/// Returns the size of an image as text, such as `5 layers, 98.1 MiB, 33.2 MiB of it shared with other images`.
fn size(image: &InventoryImage, sharing: &Sharing) -> String {
    let layers = counted(image.content.layers() as u64, "layer", "layers");
    let shared = match sharing.shared_bytes(image) {
        0 => String::new(),
        shared => format!(", {} of it shared with other images", human_bytes(shared)),
    };
    format!("{layers}, {}{shared}", human_bytes(image.content.bytes()))
}

fn print_part(image: &InventoryImage, part: &Part, sharing: &Sharing) {
    let content = &image.content;
    let Some(manifest) = content.manifests.get(part.manifest) else {
        return;
    };
    result(format!("  {} {}", quote(content.label_of(part)), manifest.digest));
    let line = |kind: &str, piece: &Piece| {
        let shared = if sharing.is_shared(&piece.digest) {
            "  shared"
        } else {
            ""
        };
        result(format!(
            "    {kind:<6} {} {:>12}{shared}",
            piece.digest,
            human_bytes(piece.size)
        ));
    };
    if let Some(config) = part.config.and_then(|config| content.blobs.get(config)) {
        line("config", config);
    }
    for layer in part.layers.iter().take(MAX_LISTED) {
        if let Some(layer) = content.blobs.get(*layer) {
            line("layer", layer);
        }
    }
    let more = part.layers.len().saturating_sub(MAX_LISTED);
    if more > 0 {
        let more = counted(more as u64, "more layer", "more layers");
        result(format!("    {more}; `--json` lists all"));
    }
}

fn totals(inventory: &Inventory, sharing: &Sharing) {
    let totals = sharing.totals();
    result(format!(
        "{}, {}, {}, {}: {}",
        counted(totals.images as u64, "image", "images"),
        counted(totals.platforms as u64, "platform", "platforms"),
        counted(totals.manifests as u64, "manifest", "manifests"),
        counted(totals.blobs as u64, "blob", "blobs"),
        human_bytes(totals.bytes)
    ));
    if totals.saved_bytes > 0 {
        result(format!(
            "{} if each image were stored by itself; storing each blob once saves {}",
            human_bytes(totals.separate_bytes),
            human_bytes(totals.saved_bytes)
        ));
    }
    if totals.unreferenced_blobs > 0 {
        let count = counted(totals.unreferenced_blobs as u64, "blob", "blobs");
        let bytes = human_bytes(totals.unreferenced_bytes);
        let few = few(inventory.unreferenced.iter().map(|piece| &piece.digest));
        // With unusable images, the blobs may belong to those images, so the digests are not listed.
        result(match inventory.broken.is_empty() {
            true if inventory.is_supplement => format!("{count} ({bytes}):"),
            true => format!("{count} ({bytes}) that no image names: {few}"),
            false => format!("{count} ({bytes}) that no usable image names"),
        });
    }
}
