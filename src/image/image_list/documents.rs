//! Documents that serve as lists of images: locks of this program, ImagesLock (Carvel), image lists of hauler, and
//! ImageSetConfiguration (oc-mirror).

use serde::Deserialize;
use serde_saphyr::{Options, Spanned};

use super::entry::{Entry, Names};

use crate::error::{Error, Kind, Result};
use crate::image::platform::PlatformFilter;
use crate::image::reference::{Reference, looks_like_host};
use crate::text::quote;

/// The images of a document, each with its line number.
#[derive(Default)]
pub(super) struct Document {
    pub(super) entries: Vec<(u64, Result<Entry>)>,
    /// Faults of the document as a whole.
    pub(super) faults: Vec<Error>,
    /// Warnings about parts of the document that are not read.
    pub(super) warnings: Vec<String>,
}

/// A document of a file, with the fields of all known kinds. Other fields are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    kind: Option<String>,
    /// Version of the lock, in a lock of this program.
    #[serde(default)]
    lock_version: Option<u32>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    images: Option<Vec<Named>>,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    mirror: Option<Mirror>,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, Option<String>>>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    images: Option<Vec<Named>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mirror {
    #[serde(default)]
    additional_images: Option<Vec<Named>>,
    #[serde(default)]
    blocked_images: Option<Vec<Named>>,
    #[serde(default)]
    platform: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    operators: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    helm: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    samples: Option<serde::de::IgnoredAny>,
}

/// An image of a document, named by `image` in an ImagesLock, by `reference` in a lock of this program, else by `name`.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    image: Option<Spanned<String>>,
    #[serde(default)]
    name: Option<Spanned<String>>,
    #[serde(default)]
    reference: Option<Spanned<String>>,
    /// Digest that a lock of this program pins the image to.
    #[serde(default)]
    original: Option<String>,
    #[serde(default)]
    platform: Option<String>,
}

/// Returns whether a text is a document and not a list of lines: it begins with `{`, or has a line that begins a document.
fn is_document(text: &str) -> bool {
    let first = text.trim_start().chars().next();
    let begins = |line: &str| line.starts_with("apiVersion:") || line.starts_with("kind: ") || line.starts_with("--- ");
    first == Some('{') || text.lines().any(|line| begins(line) || line.trim_end() == "---")
}

/// Reads a document. Returns `None` if the text is not a document.
pub(super) fn parse(text: &str) -> Option<Document> {
    if !is_document(text) {
        return None;
    }
    let mut document = Document::default();
    let mut options = Options::default();
    options.with_snippet = false;
    match serde_saphyr::from_multiple_with_options::<Wire>(text, options) {
        Ok(parts) => parts.into_iter().for_each(|part| document.add(part)),
        Err(error) => {
            let line = error
                .location()
                .map(|location| location.line())
                .filter(|line| *line > 0);
            let place = line.map_or_else(String::new, |line| format!("line {line}: "));
            let why = error.without_snippet().to_string();
            let fault = match text.trim_start().starts_with('{') {
                true => Error::new(Kind::Usage, "it is JSON, and none of the documents that name images").with_hint(
                    "write one name on each line, as `jq -r '.images[]' FILE` prints an array of names; a lock, or a report with \
                     one, is given with `--lock`",
                ),
                false => Error::new(
                    Kind::Usage,
                    format!("{place}it is not a YAML list of images: {}", quote(&why)),
                )
                .with_hint("a list of images without YAML has one image on each line"),
            };
            document.faults.push(fault);
        }
    }
    Some(document)
}

impl Document {
    fn add(&mut self, part: Wire) {
        if part.lock_version.is_some() {
            for image in part.images.unwrap_or_default() {
                self.image(image, None, None, false);
            }
            return;
        }
        match part.kind.as_deref() {
            Some("ImagesLock") => {
                let images = part.images.or(part.spec.and_then(|spec| spec.images));
                for image in images.unwrap_or_default() {
                    self.image(image, None, None, false);
                }
            }
            Some("Images") => {
                let annotations = part.metadata.and_then(|metadata| metadata.annotations).unwrap_or_default();
                let annotation = |name: &str| {
                    let found = annotations.iter().find(|(key, _)| key.rsplit_once('/').is_some_and(|(_, key)| key == name));
                    found.and_then(|(_, value)| value.as_deref())
                };
                let (registry, platform) = (annotation("registry"), annotation("platform"));
                for image in part.spec.and_then(|spec| spec.images).unwrap_or_default() {
                    self.image(image, registry, platform, false);
                }
            }
            Some("ImageSetConfiguration") => {
                let Some(mirror) = part.mirror else { return };
                for image in mirror.additional_images.unwrap_or_default() {
                    self.image(image, None, None, false);
                }
                for image in mirror.blocked_images.unwrap_or_default() {
                    self.image(image, None, None, true);
                }
                for (name, there) in [
                    ("platform", mirror.platform.is_some()),
                    ("operators", mirror.operators.is_some()),
                    ("helm", mirror.helm.is_some()),
                    ("samples", mirror.samples.is_some()),
                ] {
                    if there {
                        let what = format!("`mirror.{name}` is not read: only `additionalImages` and `blockedImages` are");
                        self.warnings.push(what);
                    }
                }
            }
            Some(other) => self.warnings.push(format!("a document of the kind `{}` names no images and is not read", quote(other))),
            None => self.faults.push(
                Error::new(Kind::Usage, "a document does not say of which kind it is")
                    .with_hint("`kind` is ImagesLock, Images or ImageSetConfiguration; a lock, or a report with one, is given with `--lock`; a \
                     list without YAML has one image on each line"),
            ),
        }
    }

    fn image(&mut self, named: Named, registry: Option<&str>, platform: Option<&str>, excluded: bool) {
        let Some(name) = named.image.or(named.name).or(named.reference) else {
            self.faults.push(Error::new(Kind::Usage, "an image has no name"));
            return;
        };
        // A lock pins each name by its digest, unless the name already has a digest.
        let pinned = named.original.filter(|_| !name.value.contains('@'));
        let pinned = pinned.map_or_else(|| name.value.clone(), |digest| format!("{}@{digest}", name.value));
        let entry = entry(&pinned, registry, named.platform.as_deref().or(platform), excluded);
        self.entries.push((name.referenced.line(), entry));
    }
}

fn entry(name: &str, registry: Option<&str>, platform: Option<&str>, excluded: bool) -> Result<Entry> {
    if excluded {
        // An excluded name without a tag stands for all tags of the repository.
        return Ok(Entry {
            excluded,
            ..super::line::named(name, excluded)?
        });
    }
    let mut reference: Reference = name.parse()?;
    // The default registry of a document applies to names without a host.
    if let Some(registry) = registry
        && !names_host(name)
    {
        reference = format!("{registry}/{}", name.trim()).parse()?;
    }
    let platforms = platform.filter(|platform| !platform.is_empty()).map(str::to_owned);
    let platforms = platforms
        .map(|platform| PlatformFilter::from_flags(&[platform]))
        .transpose()?;
    Ok(Entry {
        origin: None,
        text: name.to_owned(),
        names: Names::One(reference),
        excluded,
        platforms,
        destination: None,
    })
}

fn names_host(name: &str) -> bool {
    let first = name.split_once('/').map(|(first, _)| first);
    first.is_some_and(looks_like_host)
}
