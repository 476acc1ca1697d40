//! The lock: which images were moved, down to the last blob, as a small JSON document that pins them for another export.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::images::{Absent, Content, Inventory, InventoryImage};
use super::locked_image::LockedImage;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::text::quote;

/// The version of the format that is written; a reader refuses a higher one.
const VERSION: u32 = 1;

/// Maximum size of a lock in bytes. A large image takes some 20 KB.
pub const MAX_LOCK: u64 = 32 << 20;

/// What to do about a lock that is not as it was written.
const WRITE_AGAIN: &str = "write the lock again: `docker-mirror inspect BUNDLE --lock FILE`";

/// Which images were moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Whether the bundle has the list of images that `docker load` reads.
    pub docker_manifest: bool,
    /// The images, in the order of the bundle.
    pub images: Vec<LockedImage>,
    /// Images that were asked for and are not in the bundle.
    pub missing: Vec<Absent>,
    /// The document that it was read from.
    text: Arc<str>,
    /// How many lines of the file stand before it.
    first_line: usize,
    /// Places in the list of images.
    by_name: HashMap<Reference, usize>,
}

/// The document without its sum.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(rename = "lockVersion")]
    _version: u32,
    docker_manifest: bool,
    images: Vec<LockedImage>,
    #[serde(default)]
    missing: Vec<Absent>,
    checksum: Digest,
}

impl Lock {
    /// The lock of an inventory.
    pub fn new(inventory: &Inventory) -> Result<Self> {
        let images = inventory.images.iter().map(LockedImage::new).collect::<Result<_>>()?;
        Ok(Self::of_images(
            inventory.docker_manifest,
            images,
            inventory.missing.clone(),
        ))
    }

    /// The lock of these images, in this order.
    pub(crate) fn of_images(docker_manifest: bool, images: Vec<LockedImage>, missing: Vec<Absent>) -> Self {
        Self {
            docker_manifest,
            images,
            missing,
            text: "".into(),
            first_line: 0,
            by_name: HashMap::new(),
        }
    }

    /// The document: JSON with a line for each manifest and blob, and a check sum of all lines above at its end.
    pub fn to_text(&self) -> String {
        let mut body = self.body();
        let sum = Digest::sha256(body.as_bytes());
        let _ = write!(body, "  \"checksum\": \"{sum}\"\n}}\n");
        body
    }

    /// All but the check sum.
    fn body(&self) -> String {
        let mut out = format!(
            "{{\n  \"lockVersion\": {VERSION},\n  \"dockerManifest\": {},\n  \"images\": [",
            self.docker_manifest
        );
        for (number, image) in self.images.iter().enumerate() {
            out.push_str(if number == 0 { "\n    {\n" } else { ",\n    {\n" });
            let _ = writeln!(out, "      \"reference\": {},", json(&image.reference.to_string()));
            let _ = writeln!(out, "      \"index\": {},", json(&image.index));
            let _ = writeln!(out, "      \"original\": {},", json(&image.original));
            if let Some(filtered) = &image.filtered {
                let _ = writeln!(out, "      \"filtered\": {},", json(filtered));
            }
            list(&mut out, "kept", &image.kept, ",\n");
            if !image.dropped.is_empty() {
                list(&mut out, "dropped", &image.dropped, ",\n");
            }
            if !image.left_out.is_empty() {
                list(&mut out, "leftOut", &image.left_out, ",\n");
            }
            if !image.left_out_referrers.is_empty() {
                list(&mut out, "leftOutReferrers", &image.left_out_referrers, ",\n");
            }
            list(&mut out, "manifests", &image.manifests, ",\n");
            list(&mut out, "blobs", &image.blobs, "\n");
            out.push_str("    }");
        }
        out.push_str(if self.images.is_empty() { "],\n" } else { "\n  ],\n" });
        if !self.missing.is_empty() {
            let missing = self.missing.iter().map(json).collect::<Vec<_>>().join(",\n    ");
            let _ = writeln!(out, "  \"missing\": [\n    {missing}\n  ],");
        }
        out
    }

    /// Reads a lock, or a report that has one in it.
    ///
    /// # Errors
    /// [`Kind::Malformed`], with the line, if it is cut, was edited, or contradicts itself; [`Kind::Unsupported`] if its version
    /// is not known here.
    pub fn parse(text: &str) -> Result<Self> {
        let (text, first) = inner(text)?;
        let version: Version = serde_json::from_str(text).map_err(|e| not_json(&e, first))?;
        if version.version != VERSION {
            let what = format!(
                "{}: the lock has version {}; only {VERSION} is known",
                place(text, "\"lockVersion\"", first),
                version.version
            );
            return Err(Error::new(Kind::Unsupported, what).with_hint("use the version of docker-mirror that wrote it"));
        }
        let document: Document = serde_json::from_str(text).map_err(|e| not_json(&e, first))?;
        let lock = Self {
            docker_manifest: document.docker_manifest,
            images: document.images,
            missing: document.missing,
            text: text.into(),
            first_line: first,
            by_name: HashMap::new(),
        };
        let sum = lock.checksum();
        if sum != document.checksum {
            let what = format!(
                "{}: the check sum is that of another content: the lock was edited or damaged",
                place(text, "\"checksum\"", first)
            );
            return Err(Error::new(Kind::Malformed, what).with_hint(WRITE_AGAIN));
        }
        lock.check(first)?;
        let names = lock.images.iter().enumerate();
        let by_name = names.map(|(place, image)| (image.reference.clone(), place)).collect();
        Ok(Self { by_name, ..lock })
    }

    /// Refuses what no program of this name writes: it would lead to faults that nobody understands.
    fn check(&self, first: usize) -> Result<()> {
        let mut names = HashSet::new();
        for image in &self.images {
            let name = image.reference.to_string();
            let why = if !names.insert(name.clone()) {
                "it is listed twice"
            } else if !image.manifests.iter().any(|manifest| manifest.digest == image.original) {
                "its own manifest is not among its manifests"
            } else {
                continue;
            };
            let line = place(&self.text, &json(&name), first);
            let what = format!("{line}: image `{}`: {why}", quote(&name));
            return Err(Error::new(Kind::Malformed, what).with_hint(WRITE_AGAIN));
        }
        Ok(())
    }

    /// The sum that the document states.
    fn checksum(&self) -> Digest {
        Digest::sha256(self.body().as_bytes())
    }

    /// The number of the line that has this digest first, counted from 1; for messages.
    pub fn line_of(&self, digest: &Digest) -> Option<usize> {
        let at = self.text.find(&digest.to_string())?;
        Some(self.first_line + line_at(&self.text, at))
    }

    /// What an image of this name is pinned to, in a lock that was read.
    pub fn find(&self, image: &Reference) -> Option<&LockedImage> {
        self.images.get(*self.by_name.get(image)?)
    }

    /// The digest of the document, which tells two locks apart.
    pub fn digest(&self) -> Digest {
        self.checksum()
    }

    /// What it pins, in the form in which bundles are compared.
    pub fn inventory(&self) -> Inventory {
        let image = |image: &LockedImage| InventoryImage {
            reference: image.reference.to_string(),
            archive: "".into(),
            index: image.index,
            belongs_to: None,
            content: Arc::new(Content {
                original: image.original.clone(),
                filtered: image.filtered.clone(),
                rebuilt: false,
                kept: image.kept.clone().into(),
                dropped: image.dropped.clone().into(),
                left_out: image.left_out.clone().into(),
                left_out_referrers: image.left_out_referrers.clone().into(),
                referrers: Vec::new(),
                manifests: image.manifests.clone(),
                blobs: image.blobs.clone(),
                parts: Vec::new(),
            }),
        };
        Inventory {
            images: self.images.iter().map(image).collect(),
            missing: self.missing.clone(),
            docker_manifest: self.docker_manifest,
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

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "lockVersion")]
    version: u32,
}

/// The lock itself where the text is a report that has one, and the number of lines before it.
fn inner(text: &str) -> Result<(&str, usize)> {
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
            (lock, line_at(text, at) - 1)
        }
        None => (text, 0),
    })
}

fn not_json(error: &serde_json::Error, first: usize) -> Error {
    let (line, why) = (first + error.line().max(1), error.to_string());
    let why = why.rsplit_once(" at line").map_or(why.as_str(), |(why, _)| why);
    let what = match error.is_eof() {
        true => "the lock is cut off".to_owned(),
        false => format!("this is no lock: {}", quote(why)),
    };
    Error::new(Kind::Malformed, format!("line {line}: {what}")).with_hint(WRITE_AGAIN)
}

fn line_at(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// `line N` for the first place of a word.
fn place(text: &str, word: &str, first: usize) -> String {
    let line = text.find(word).map_or(1, |at| line_at(text, at));
    format!("line {}", first + line)
}

/// A value as JSON on one line.
fn json<T: Serialize + ?Sized>(value: &T) -> String {
    // What is written here has nothing that JSON cannot express.
    serde_json::to_string(value).unwrap_or_default()
}

/// A field with a list, an element on each line.
fn list<T: Serialize>(out: &mut String, name: &str, elements: &[T], end: &str) {
    let _ = write!(out, "      \"{name}\": [");
    for (number, element) in elements.iter().enumerate() {
        out.push_str(if number == 0 { "\n        " } else { ",\n        " });
        out.push_str(&json(element));
    }
    out.push_str(if elements.is_empty() { "]" } else { "\n      ]" });
    out.push_str(end);
}

#[cfg(test)]
mod tests {
    use super::super::images::Piece;
    use super::*;
    use crate::image::tree::{Choice, PlatformRecord};

    fn lock() -> Lock {
        let piece = |bytes: &[u8], media_type: &str| Piece {
            digest: Digest::sha256(bytes),
            size: bytes.len() as u64,
            media_type: media_type.into(),
        };
        let platform = |bytes: &[u8], platform: &str| PlatformRecord {
            platform: platform.to_owned(),
            digest: Digest::sha256(bytes),
        };
        let image = LockedImage {
            reference: "quay.io/a/b:1".parse().unwrap(),
            index: Choice::Filtered,
            original: Digest::sha256(b"index"),
            filtered: Some(Digest::sha256(b"smaller")),
            kept: vec![platform(b"amd", "linux/amd64")],
            dropped: vec![platform(b"win", "windows/amd64 (\"10\")")],
            left_out: Vec::new(),
            left_out_referrers: Vec::new(),
            manifests: vec![piece(b"amd", "m"), piece(b"index", "i"), piece(b"smaller", "i")],
            blobs: vec![piece(b"layer", "l")],
        };
        Lock {
            docker_manifest: true,
            images: vec![image],
            missing: vec![Absent {
                reference: "docker.io/library/nope:latest".to_owned(),
                reason: "notfound".to_owned(),
            }],
            text: "".into(),
            first_line: 0,
            by_name: HashMap::new(),
        }
    }

    #[test]
    fn a_lock_that_was_written_is_read_back() {
        let text = lock().to_text();
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        let read = Lock::parse(&text).unwrap();
        assert_eq!(read.images, lock().images);
        assert_eq!(read.to_text(), text);
        assert_eq!(read.line_of(&Digest::sha256(b"layer")), Some(22));
        let empty = Lock {
            images: Vec::new(),
            missing: Vec::new(),
            ..lock()
        };
        assert_eq!(Lock::parse(&empty.to_text()).unwrap().to_text(), empty.to_text());
        // A report may hold it.
        let report = format!("{{\n\"reportVersion\": 1,\n\"lock\": {text}}}");
        assert_eq!(Lock::parse(&report).unwrap().images, lock().images);
    }

    #[test]
    fn a_lock_that_is_not_as_it_was_written_is_refused_with_the_line() {
        let text = lock().to_text();
        let says = |text: &str| Lock::parse(text).unwrap_err().full();
        assert_eq!(says(""), "line 1: the lock is cut off");
        let half = &text[..text.len() / 2];
        let lines = half.lines().count();
        assert_eq!(says(half), format!("line {lines}: the lock is cut off"));
        let sum = text.lines().count() - 1;
        let edited = format!("line {sum}: the check sum is that of another content: the lock was edited or damaged");
        assert_eq!(says(&text.replace("windows/amd64", "windows/arm64")), edited);
        assert_eq!(says(&text.replace("\"size\":5", "\"size\":6")), edited);
        let newer = says(&text.replace("\"lockVersion\": 1", "\"lockVersion\": 2"));
        assert_eq!(newer, "line 2: the lock has version 2; only 1 is known");
        assert!(says("{\"images\": []}").starts_with("line 1: this is no lock: missing field `lockVersion`"));
        assert!(
            says(&text.replace("\"index\"", "\"indx\"")).starts_with("line 7: this is no lock: unknown field `indx`")
        );
        let report = format!("{{\n\"lock\": {}\n}}", text.replace("quay.io", "quay,io"));
        assert!(
            says(&report).starts_with("line 7: this is no lock"),
            "{}",
            says(&report)
        );
        let unproved = Lock {
            images: vec![LockedImage {
                manifests: Vec::new(),
                ..lock().images[0].clone()
            }],
            ..lock()
        };
        let why = "line 6: image `quay.io/a/b:1`: its own manifest is not among its manifests";
        assert_eq!(says(&unproved.to_text()), why);
    }
}
