//! The JSON document of `inspect`, which `docs/inspect.md` describes.

use std::cell::Cell;
use std::collections::HashSet;

use docker_mirror::{
    Absent, Choice, Content, Digest, Inventory, InventoryImage, LeftOut, Part, Piece, PlatformRecord, Result, Sharing,
    Totals,
};
use serde::{Serialize, Serializer};

use crate::cli::report::{Reporting, Tool};

/// Version of the document's schema. A higher version may lack fields of this version, or give them other meanings.
const VERSION: u32 = 1;

/// Maximum number of manifests, blobs and platforms in the document: a bundle may have thousands of each for thousands of names.
const MAX_LISTED: usize = 200_000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    inspect_version: u32,
    tool: Tool,
    #[serde(serialize_with = "images")]
    images: (&'a Inventory, &'a Sharing),
    broken: Vec<Broken<'a>>,
    missing: &'a [Absent],
    unreferenced: Vec<Unreferenced<'a>>,
    supplement: bool,
    warnings: &'a [docker_mirror::Line],
    total: Totals,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Image<'a> {
    reference: &'a str,
    archive: &'a str,
    digest: &'a Digest,
    original: &'a Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    filtered: Option<&'a Digest>,
    index: Choice,
    rebuilt: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    belongs_to: Option<&'a str>,
    platforms: Vec<Platform<'a>>,
    dropped: &'a [PlatformRecord],
    left_out: &'a [LeftOut],
    referrers: &'a [LeftOut],
    left_out_referrers: &'a [LeftOut],
    indexes: Vec<&'a Piece>,
    layers: usize,
    bytes: u64,
    shared_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    unlisted: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct Platform<'a> {
    platform: &'a str,
    manifest: &'a Piece,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<&'a Piece>,
    layers: Vec<&'a Piece>,
}

#[derive(Serialize)]
struct Broken<'a> {
    image: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

#[derive(Serialize)]
struct Unreferenced<'a> {
    digest: &'a Digest,
    size: u64,
}

/// Writes the document, if `--json` or `--report` asks for it.
pub(super) fn write(reporting: &Reporting, inventory: &Inventory, sharing: &Sharing) -> Result<()> {
    let broken = inventory.broken.iter().map(|broken| Broken {
        image: &broken.label,
        message: broken.error.full(),
        hint: broken.error.hint(),
    });
    let unreferenced = inventory.unreferenced.iter().map(|piece| Unreferenced {
        digest: &piece.digest,
        size: piece.size,
    });
    reporting.write_result(&Document {
        inspect_version: VERSION,
        tool: Tool::THIS,
        images: (inventory, sharing),
        broken: broken.collect(),
        missing: &inventory.missing,
        unreferenced: unreferenced.collect(),
        supplement: inventory.is_supplement,
        warnings: &inventory.warnings,
        total: sharing.totals(),
    })
}

/// Serializes the images one after the other, since all of them together may take much memory.
fn images<S: Serializer>(all: &(&Inventory, &Sharing), serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let (inventory, sharing) = all;
    let left = Cell::new(MAX_LISTED);
    serializer.collect_seq(inventory.images.iter().map(|image| {
        let count = listed(&image.content);
        let fits = count <= left.get();
        left.set(if fits { left.get() - count } else { left.get() });
        image_document(image, sharing, if fits { 0 } else { count })
    }))
}

/// Returns the number of entries in the lists of an image.
fn listed(content: &Content) -> usize {
    let layers = content.parts.iter().map(|part| part.layers.len() + 2);
    content.manifests.len()
        + layers.sum::<usize>()
        + content.dropped.len()
        + content.left_out.len()
        + content.referrers.len()
        + content.left_out_referrers.len()
}

/// Returns the document of an image. If `unlisted` is not 0, the lists of the image, with `unlisted` entries, are left out.
fn image_document<'a>(image: &'a InventoryImage, sharing: &Sharing, unlisted: usize) -> Image<'a> {
    let content = &*image.content;
    let mut document = Image {
        reference: &image.reference,
        archive: &image.archive,
        digest: image.digest(),
        original: &content.original,
        filtered: content.filtered.as_ref(),
        index: image.index,
        rebuilt: content.rebuilt,
        belongs_to: image.belongs_to.as_deref(),
        platforms: Vec::new(),
        dropped: &[],
        left_out: &[],
        referrers: &[],
        left_out_referrers: &[],
        indexes: Vec::new(),
        layers: content.layers(),
        bytes: content.bytes(),
        shared_bytes: sharing.shared_bytes(image),
        unlisted,
    };
    if unlisted == 0 {
        let is_part: HashSet<usize> = content.parts.iter().map(|part| part.manifest).collect();
        let manifests = content.manifests.iter().enumerate();
        let indexes = manifests.filter(|(place, _)| !is_part.contains(place));
        document.indexes = indexes.map(|(_, index)| index).collect();
        let own = content.parts.iter().filter(|part| !part.is_referrer);
        document.platforms = own.filter_map(|part| platform(image, part)).collect();
        document.dropped = &content.dropped;
        document.left_out = &content.left_out;
        document.referrers = &content.referrers;
        document.left_out_referrers = &content.left_out_referrers;
    }
    document
}

fn platform<'a>(image: &'a InventoryImage, part: &Part) -> Option<Platform<'a>> {
    let content = &image.content;
    Some(Platform {
        platform: content.platform_of(part),
        manifest: content.manifests.get(part.manifest)?,
        config: part.config.and_then(|config| content.blobs.get(config)),
        layers: part
            .layers
            .iter()
            .filter_map(|layer| content.blobs.get(*layer))
            .collect(),
    })
}
