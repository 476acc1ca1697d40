//! The lock: a small JSON document that pins the images of a bundle, down to the last blob, for another export.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::images::{Absent, Content, Inventory, InventoryImage, Sums};
use super::locked_image::LockedImage;
use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::image::json::Capped;
use crate::image::reference::Reference;
use crate::text::{escape_json, quote};

/// Version of the format that this program writes; a reader refuses any other version. Version 1 did not state the subjects of
/// referrers.
const VERSION: u32 = 2;

/// Maximum size of a lock in bytes. A large image takes about 20 KB.
pub const MAX_LOCK: u64 = 32 << 20;

/// Maximum number of images in a lock, and of missing images:
/// the maximum of all image lists of a run.
const MAX_IMAGES: usize = 20_000;

/// Minimum length in bytes of a line about a manifest, a blob or a platform.
const LINE: usize = 100;

/// Hint for a lock that was changed after it was written.
const WRITE_AGAIN: &str = "write the lock again: `docker-mirror inspect BUNDLE --lock FILE`";

/// The images of a bundle, pinned to their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Whether the bundle has a `manifest.json`, which `docker load` reads.
    pub docker_manifest: bool,
    /// The images, in the order of the bundle.
    pub images: Vec<LockedImage>,
    /// Images that were requested and are not in the bundle.
    pub missing: Vec<Absent>,
    /// Text of the file that held the lock.
    text: String,
    /// Range in bytes of the document in `text`.
    place: Range<usize>,
    /// Number of lines of the file before the document.
    first_line: usize,
    /// Indices into `images`.
    by_name: HashMap<Reference, usize>,
}

/// The document as it is parsed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(rename = "lockVersion")]
    _version: u32,
    docker_manifest: bool,
    #[serde(deserialize_with = "bounded")]
    images: Vec<LockedImage>,
    #[serde(default, deserialize_with = "bounded")]
    missing: Vec<Absent>,
    checksum: Digest,
}

impl Lock {
    /// Builds the lock of an inventory.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the lock would have more than [`MAX_LOCK`] bytes, and could not be read again.
    pub fn new(inventory: &Inventory) -> Result<Self> {
        let lines = inventory.images.iter().map(|image| {
            let content = &image.content;
            let pieces = content.manifests.len() + content.blobs.len();
            let left_out = content.left_out.len() + content.left_out_referrers.len();
            pieces + left_out + content.attached.len() + content.kept.len() + content.dropped.len()
        });
        // A lower bound on the size refuses a huge inventory before its lock is built in memory.
        let most = MAX_LOCK / LINE as u64;
        if lines.fold(0, |sum: u64, lines| sum.saturating_add(lines as u64)) > most
            || inventory.images.len().max(inventory.missing.len()) > MAX_IMAGES
        {
            return Err(too_large());
        }
        let images = inventory.images.iter().map(LockedImage::new).collect::<Result<_>>()?;
        let lock = Self::from_images(inventory.docker_manifest, images, inventory.missing.clone());
        match lock.write_body(&mut Limit(MAX_LOCK - LINE as u64)) {
            Ok(()) => Ok(lock),
            Err(fmt::Error) => Err(too_large()),
        }
    }

    /// Builds the lock of these images, in this order.
    pub(crate) fn from_images(docker_manifest: bool, images: Vec<LockedImage>, missing: Vec<Absent>) -> Self {
        Self {
            docker_manifest,
            images,
            missing,
            text: String::new(),
            place: 0..0,
            first_line: 0,
            by_name: HashMap::new(),
        }
    }

    /// Formats the document: JSON with a line for each manifest and blob, and at its end a
    /// checksum of all lines above.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let _ = self.write_body(&mut text);
        let sum = Digest::sha256(text.as_bytes());
        let _ = write!(text, "  \"checksum\": \"{sum}\"\n}}\n");
        text
    }

    /// Writes the document up to the checksum. The only errors are those of `out`.
    fn write_body(&self, out: &mut impl Write) -> fmt::Result {
        write!(
            out,
            "{{\n  \"lockVersion\": {VERSION},\n  \"dockerManifest\": {},\n  \"images\": [",
            self.docker_manifest
        )?;
        for (number, image) in self.images.iter().enumerate() {
            out.write_str(if number == 0 { "\n    {\n" } else { ",\n    {\n" })?;
            writeln!(out, "      \"reference\": {},", json(&image.reference.to_string()))?;
            writeln!(out, "      \"index\": {},", json(&image.index))?;
            writeln!(out, "      \"original\": {},", json(&image.original))?;
            if let Some(filtered) = &image.filtered {
                writeln!(out, "      \"filtered\": {},", json(filtered))?;
            }
            list(out, "kept", &image.kept, ",\n")?;
            if !image.dropped.is_empty() {
                list(out, "dropped", &image.dropped, ",\n")?;
            }
            if !image.left_out.is_empty() {
                list(out, "leftOut", &image.left_out, ",\n")?;
            }
            if !image.referrers.is_empty() {
                list(out, "referrers", &image.referrers, ",\n")?;
            }
            if !image.left_out_referrers.is_empty() {
                list(out, "leftOutReferrers", &image.left_out_referrers, ",\n")?;
            }
            list(out, "manifests", &image.manifests, ",\n")?;
            list(out, "blobs", &image.blobs, "\n")?;
            out.write_str("    }")?;
        }
        out.write_str(if self.images.is_empty() { "],\n" } else { "\n  ],\n" })?;
        if !self.missing.is_empty() {
            let missing = self.missing.iter().map(json).collect::<Vec<_>>().join(",\n    ");
            writeln!(out, "  \"missing\": [\n    {missing}\n  ],")?;
        }
        Ok(())
    }

    /// Computes the checksum of the text from [`write_body`](Self::write_body).
    fn checksum(&self) -> Digest {
        let mut sum = Sum(Hasher::new(Algorithm::Sha256));
        let _ = self.write_body(&mut sum);
        sum.0.finish()
    }

    /// Parses a lock, or a report that contains a lock.
    ///
    /// # Errors
    /// [`Kind::Malformed`], with the line, if the lock is cut off, was edited, or contradicts itself;
    /// [`Kind::Unsupported`] if its version is unknown.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        let whole = text.into();
        let (place_in_file, first) = inner(&whole)?;
        let text = &whole[place_in_file.clone()];
        let version: Version = serde_json::from_str(text).map_err(|e| not_json(&e, first))?;
        if version.version != VERSION {
            let what = format!(
                "{}: the lock has version {}; only {VERSION} is known",
                place(text, "\"lockVersion\"", first),
                version.version
            );
            let hint = match version.version < VERSION {
                true => WRITE_AGAIN,
                false => "use the version of docker-mirror that wrote it",
            };
            return Err(Error::new(Kind::Unsupported, what).with_hint(hint));
        }
        let document: Document = serde_json::from_str(text).map_err(|e| not_json(&e, first))?;
        let mut lock = Self {
            docker_manifest: document.docker_manifest,
            images: document.images,
            missing: document.missing,
            text: whole,
            place: place_in_file,
            first_line: first,
            by_name: HashMap::new(),
        };
        // The checksum is computed from the parsed values, so that changed white space does not matter.
        if lock.checksum() != document.checksum {
            let what = format!(
                "{}: the check sum is that of another content: the lock was edited or damaged",
                place(lock.document(), "\"checksum\"", first)
            );
            return Err(Error::new(Kind::Malformed, what).with_hint(WRITE_AGAIN));
        }
        lock.check(first)?;
        let names = lock.images.iter().enumerate();
        lock.by_name = names.map(|(place, image)| (image.reference.clone(), place)).collect();
        Ok(lock)
    }

    fn document(&self) -> &str {
        self.text.get(self.place.clone()).unwrap_or_default()
    }

    /// Refuses documents that this program never writes:
    /// they would lead to confusing errors later.
    fn check(&self, first: usize) -> Result<()> {
        let mut names = HashSet::new();
        for image in &self.images {
            let name = image.reference.to_string();
            let why = if !names.insert(name.clone()) {
                "it is listed twice"
            } else if !image.manifests.iter().any(|manifest| manifest.digest == image.original) {
                "its own manifest is not among its manifests"
            } else if !image.has_the_digest_of_its_name() {
                "the digest in its name is that of another image"
            } else if !image.includes_its_referrers() {
                "a referrer or its subject is not among its manifests, or has the tag of another subject"
            } else {
                continue;
            };
            let line = place(self.document(), &json(&name), first);
            let what = format!("{line}: image `{}`: {why}", quote(&name));
            return Err(Error::new(Kind::Malformed, what).with_hint(WRITE_AGAIN));
        }
        Ok(())
    }

    /// Returns the number of the first line with this digest, counted from 1, for messages.
    pub fn line_of(&self, digest: &Digest) -> Option<usize> {
        let at = self.document().find(&digest.to_string())?;
        Some(self.first_line + line_at(self.document(), at))
    }

    /// Returns the pinned image of this name. Works only on a parsed lock.
    pub fn find(&self, image: &Reference) -> Option<&LockedImage> {
        self.images.get(*self.by_name.get(image)?)
    }

    /// Returns the digest of the document, which distinguishes different locks.
    pub fn digest(&self) -> Digest {
        self.checksum()
    }

    /// Converts the lock to an inventory, for a comparison with bundles.
    pub fn into_inventory(self) -> Inventory {
        let image = |image: LockedImage| InventoryImage {
            reference: image.reference.to_string(),
            archive: "".into(),
            index: image.index,
            belongs_to: None,
            content: Arc::new(Content {
                original: image.original,
                filtered: image.filtered,
                rebuilt: false,
                kept: image.kept.into(),
                dropped: image.dropped.into(),
                left_out: image.left_out.into(),
                left_out_referrers: image.left_out_referrers.into(),
                referrers: Vec::new(),
                attached: image.referrers,
                manifests: image.manifests,
                blobs: image.blobs,
                parts: Vec::new(),
                sums: Sums::default(),
            }),
        };
        // Drops the text, which takes memory and is not needed by an inventory.
        let Self {
            images,
            missing,
            docker_manifest,
            ..
        } = self;
        Inventory {
            images: images.into_iter().map(image).collect(),
            missing,
            docker_manifest,
            ..Inventory::default()
        }
    }
}

impl Serialize for Lock {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            lock_version: u32,
            docker_manifest: bool,
            images: &'a [LockedImage],
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            missing: &'a [Absent],
            checksum: Digest,
        }
        let document = Document {
            lock_version: VERSION,
            docker_manifest: self.docker_manifest,
            images: &self.images,
            missing: &self.missing,
            checksum: self.checksum(),
        };
        document.serialize(serializer)
    }
}

fn too_large() -> Error {
    let what = format!(
        "too large to handle: a lock of these images would have more than {} MiB or {MAX_IMAGES} images",
        MAX_LOCK >> 20
    );
    Error::new(Kind::TooLarge, what).with_hint("write several locks, each of some of the images, with `--only`")
}

/// Accepts up to this many bytes of text, and fails beyond that limit.
struct Limit(u64);

impl Write for Limit {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.checked_sub(text.len() as u64).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// Hashes text as it is written.
struct Sum(Hasher);

impl Write for Sum {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// Deserializes a list of at most [`MAX_IMAGES`] elements.
fn bounded<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Capped::<T, MAX_IMAGES>::deserialize(deserializer)?.0)
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "lockVersion")]
    version: u32,
}

/// Returns the byte range of the lock in a lock or report,
/// and the number of lines before the range.
fn inner(text: &str) -> Result<(Range<usize>, usize)> {
    #[derive(Deserialize)]
    struct Report<'a> {
        #[serde(borrow, default)]
        lock: Option<&'a RawValue>,
    }
    if text.len() as u64 > MAX_LOCK {
        let what = format!(
            "{} bytes are more than a lock has, which are {MAX_LOCK} at most",
            text.len()
        );
        return Err(Error::new(Kind::Malformed, what).with_hint("name a file that `inspect --lock` or a report wrote"));
    }
    let report: Report<'_> = serde_json::from_str(text).map_err(|e| not_json(&e, 0))?;
    Ok(match report.lock {
        Some(lock) => {
            let lock = lock.get();
            let at = text.find(lock).unwrap_or(0);
            (at..at + lock.len(), line_at(text, at) - 1)
        }
        None => (0..text.len(), 0),
    })
}

fn not_json(error: &serde_json::Error, first: usize) -> Error {
    let (line, why) = (first + error.line().max(1), error.to_string());
    let why = why.rsplit_once(" at line").map_or(why.as_str(), |(why, _)| why);
    let what = match error.is_eof() {
        true => "the lock is cut off".to_owned(),
        // The rest names types of this program.
        false => format!(
            "this is no lock: {}",
            quote(why.split(", expected struct").next().unwrap_or(why))
        ),
    };
    Error::new(Kind::Malformed, format!("line {line}: {what}")).with_hint(WRITE_AGAIN)
}

fn line_at(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Returns `line N` for the first occurrence of a word.
fn place(text: &str, word: &str, first: usize) -> String {
    let line = text.find(word).map_or(1, |at| line_at(text, at));
    format!("line {}", first + line)
}

/// Serializes a value as JSON on one line.
fn json<T: Serialize + ?Sized>(value: &T) -> String {
    // The values written here have no content that JSON cannot express.
    escape_json(serde_json::to_string(value).unwrap_or_default())
}

/// Writes a field with a list, one element per line.
fn list<T: Serialize>(out: &mut impl Write, name: &str, elements: &[T], end: &str) -> fmt::Result {
    write!(out, "      \"{name}\": [")?;
    for (number, element) in elements.iter().enumerate() {
        out.write_str(if number == 0 { "\n        " } else { ",\n        " })?;
        out.write_str(&json(element))?;
    }
    out.write_str(if elements.is_empty() { "]" } else { "\n      ]" })?;
    out.write_str(end)
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
