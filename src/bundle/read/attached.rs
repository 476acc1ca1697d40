//! Signatures, attestations and SBOMs beside an image in a layout, as `cosign save` and hauler write them.
//!
//! An annotation marks them; their name is that of the image, or absent. A registry keeps them in the image's repository,
//! under the tag `sha256-HEX.sig` (`.att`, `.sbom`), which is derived from the image's digest. Bundles of this program
//! list them under that name.

use std::collections::{HashMap, HashSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::archive::Archive;
use super::broken::BrokenImage;
use super::contents::{BundledImage, Contents, Referrer};
use super::identity;
use super::names;
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::image::budget::NAME;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::annotation::{CONTAINERD_SUBJECT, HAULER_SUBJECT, KIND};
use crate::image::manifest::{Entry, MAX_ENTRIES, View};
use crate::image::reference::Reference;
use crate::image::referrer::{self, is_referrers_tag, parse_tag_beside, tag_beside};
use crate::text::{Warnings, quote};

/// Programs that write the annotation.
const AUTHORITIES: [&str; 2] = ["dev.cosignproject.cosign", "dev.hauler"];

/// Media type of the layer of a signature (cosign, SIGNATURE_SPEC.md).
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Media type of the layer of an attestation.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";

/// Maximum size in bytes of a layer that is read to find the digest of the image. A signature has
/// about 250 bytes; a larger attestation is matched to its image by name.
const MAX_PAYLOAD: u64 = 1 << 20;

/// The role of an index entry, as its annotation states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// An attachment whose tag ends with this suffix.
    Attached(&'static str),
    /// A referrer, which states its subject in its manifest.
    Referrer,
}

/// Returns the role that the annotation of an entry states; `None` for an image.
pub(super) fn role(entry: &Entry) -> Option<Role> {
    match kind(entry)?.0 {
        "sigs" => Some(Role::Attached("sig")),
        "atts" => Some(Role::Attached("att")),
        "sboms" => Some(Role::Attached("sbom")),
        "referrers" => Some(Role::Referrer),
        _ => None,
    }
}

/// Returns the kind of an entry and what hauler adds to it, such as `sigs` and `HEX` of `dev.hauler/sigs/HEX`: the subject of
/// an attachment that belongs to a platform of the image, or the digest of a referrer.
fn kind(entry: &Entry) -> Option<(&str, Option<&str>)> {
    let (authority, kind) = entry.annotations.get(KIND)?.split_once('/')?;
    if !AUTHORITIES.contains(&authority) {
        return None;
    }
    Some(match kind.split_once('/') {
        Some((kind, detail)) => (kind, Some(detail)),
        None => (kind, None),
    })
}

/// Returns the subject that the annotations of an attached entry state.
fn annotated_subject(entry: &Entry) -> Option<Digest> {
    let stated = entry.annotations.get(HAULER_SUBJECT);
    let from_kind = || format!("sha256:{}", kind(entry)?.1?).parse().ok();
    stated.and_then(|stated| stated.parse().ok()).or_else(from_kind)
}

/// Names of image entries that pin a digest. hauler gives the signatures of an image the same names as the image.
pub(super) struct PinnedNames<'a>(HashSet<[Option<&'a str>; 2]>);

impl<'a> PinnedNames<'a> {
    pub(super) fn new(entries: &'a [(usize, Entry)]) -> Self {
        let images = entries
            .iter()
            .filter(|(_, entry)| role(entry).is_none() && identity::has_own_digest(entry))
            .map(|(_, entry)| Self::stated_by(entry));
        Self(
            images
                .filter(|names| names.iter().flatten().any(|name| name.contains('@')))
                .collect(),
        )
    }

    /// Returns whether an image entry has the names of this entry.
    pub(super) fn are_of(&self, entry: &Entry) -> bool {
        self.0.contains(&Self::stated_by(entry))
    }

    fn stated_by(entry: &Entry) -> [Option<&str>; 2] {
        [names::CONTAINERD_NAME, names::REF_NAME].map(|key| entry.annotations.get(key))
    }
}

/// An index entry that is attached to an image.
#[derive(Debug, Clone)]
pub(super) struct Attached<'a> {
    pub(super) place: usize,
    pub(super) entry: &'a Entry,
    pub(super) suffix: &'static str,
    /// Repository, and referrers tag of the subject, from the entry's own name, if that name has a tag such as
    /// `sha256-HEX.sig`. A name that is a tag alone has no repository.
    pub(super) by_tag: Option<(Option<Reference>, String)>,
}

/// Parses a name that is the tag of an attachment alone, without a repository.
pub(super) fn bare_tag(entry: &Entry) -> Option<(String, &'static str)> {
    match own_name(entry) {
        Some(_) => None,
        None => {
            let (subject, suffix) = parse_tag_beside(entry.annotations.get(names::REF_NAME)?)?;
            Some((subject.to_owned(), suffix))
        }
    }
}

/// Parses the name of an entry with the tag of an attachment, such as `sha256-HEX.sig`; `None` for any other name.
/// A tag without a name belongs to the repository that the user gives for entries without a name.
pub(super) fn tagged(entry: &Entry, given: Option<&Reference>) -> Option<(Reference, String, &'static str)> {
    let name = match own_name(entry) {
        Some(name) => name,
        None => {
            let tag = entry.annotations.get(names::REF_NAME)?;
            Reference::new(given?.host(), given?.repository(), Some(tag), None).ok()?
        }
    };
    let (subject, suffix) = parse_tag_beside(name.tag()?)?;
    let subject = subject.to_owned();
    Some((name, subject, suffix))
}

/// Names each attached entry by a tag in the repository of its image. `images` are the image
/// entries, with their places; `given` is the user's name for entries without a name.
///
/// # Errors
/// [`Kind::TooLarge`] if the names take more memory than the budget has left.
pub(super) fn add(
    archive: &Archive,
    store: &Store,
    images: &[(usize, &Entry)],
    attached: &[Attached<'_>],
    given: Option<&Reference>,
    contents: &mut Contents,
) -> Result<()> {
    if attached.is_empty() {
        return Ok(());
    }
    // All images of a repository share the tag of an attachment, so one name of each repository is enough.
    let mut by_place: HashMap<usize, Vec<Reference>> = HashMap::new();
    let mut seen = HashSet::new();
    for image in &contents.images {
        if seen.insert((image.place, image.name.name())) {
            by_place.entry(image.place).or_default().push(image.name.clone());
        }
    }
    let mut subjects = Subjects::new(store, images, given);
    subjects.keep_one_of_each_repository(&by_place);
    for attached in attached {
        store.budget().take(NAME)?;
        let stated = match &attached.by_tag {
            Some((_, subject)) => Some(subject.clone()),
            None => annotated_subject(attached.entry)
                .or_else(|| stated_subject(store, &attached.entry.descriptor))
                .map(|subject| subject.referrers_tag()),
        };
        let found = match &attached.by_tag {
            Some((Some(name), _)) => subjects.in_repository(name),
            Some((None, subject)) => subjects.with_tag(subject).into_iter().collect(),
            None => subjects.find(attached.entry, stated.as_deref()).into_iter().collect(),
        };
        if found.is_empty() {
            contents
                .broken
                .push(without_image(archive, attached, stated.as_deref()));
            continue;
        }
        let mut names = HashSet::new();
        for (place, entry) in found {
            let tag = match &stated {
                Some(subject) => format!("{subject}.{}", attached.suffix),
                None => tag_beside(&entry.descriptor.digest, attached.suffix),
            };
            // A broken image, or an image without a name, is reported by its own error.
            for image in by_place.get(&place).into_iter().flatten() {
                let Ok(name) = Reference::new(image.host(), image.repository(), Some(&tag), None) else {
                    continue;
                };
                if !names.insert(name.clone()) {
                    continue;
                }
                store.budget().take(NAME)?;
                contents.images.push(BundledImage {
                    name,
                    root: attached.entry.descriptor.clone(),
                    record: None,
                    rebuilt: false,
                    archive: archive.label.clone(),
                    place: attached.place,
                    may_be_sparse: false,
                    attached_to: Some(image.clone()),
                });
            }
        }
    }
    Ok(())
}

/// Reads an entry that holds a list of referrers (referrers tag
/// schema) and collects the listed referrers.
///
/// Returns `false` if the entry is not such a list.
///
/// # Errors
/// [`Kind::TooLarge`] if the referrers take more memory than the budget has left.
pub(super) fn listed_referrers(
    store: &Store,
    archive: &Archive,
    entry: &Entry,
    into: &mut Vec<Referrer>,
    warnings: &mut Warnings,
) -> Result<bool> {
    let tag = entry
        .annotations
        .get(names::REF_NAME)
        .and_then(|name| name.rsplit(':').next());
    let Some(tag) = tag.filter(|tag| is_referrers_tag(tag)) else {
        return Ok(false);
    };
    let Some(manifest) = store
        .manifest(&entry.descriptor.digest, &entry.descriptor.media_type)
        .ok()
        .filter(|manifest| manifest.digest().referrers_tag() != tag)
    else {
        return Ok(false);
    };
    let View::Index(index) = manifest.view() else {
        return Ok(false);
    };
    let (there, absent): (Vec<_>, Vec<_>) = index
        .entries
        .iter()
        .partition(|entry| store.size_of(&entry.descriptor.digest).is_some());
    for entry in there {
        let listed = store.manifest(&entry.descriptor.digest, &entry.descriptor.media_type);
        let subject = listed.ok().and_then(|listed| referrer::subject(&listed));
        let Some(subject) = subject.filter(|subject| subject.referrers_tag() == tag) else {
            return Ok(false);
        };
        store.budget().take(NAME)?;
        into.push(Referrer {
            subject,
            root: entry.descriptor.clone(),
            archive: archive.label.clone(),
        });
    }
    if let Some(first) = absent.first() {
        let first = &first.descriptor.digest;
        let others = match absent.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        warnings.push(format!(
            "`{}`: {first}{others}, listed as referring to the subject of `{tag}`, cannot be carried: the archive does not contain it",
            quote(&archive.label)
        ));
    }
    Ok(true)
}

/// Returns the subject of a manifest without a name:
/// from its own field, else from containerd's annotation.
pub(super) fn subject(store: &Store, entry: &Entry) -> Option<Digest> {
    let root = &entry.descriptor;
    let manifest = store.manifest(&root.digest, &root.media_type).ok();
    let own = manifest.as_ref().and_then(|manifest| match manifest.view() {
        View::Index(index) => index.subject.as_deref(),
        View::Image(image) => image.subject.as_deref(),
        View::Other { .. } => None,
    });
    match own {
        Some(subject) => Some(subject.digest.clone()),
        None => entry.annotations.get(CONTAINERD_SUBJECT)?.parse().ok(),
    }
}

/// Returns a warning if an entry is annotated as a referrer of another manifest than its own manifest states.
pub(super) fn contradiction(archive: &Archive, place: usize, entry: &Entry, subject: &Digest) -> Option<String> {
    let annotated = entry.annotations.get(CONTAINERD_SUBJECT)?;
    (annotated.parse().ok() != Some(subject.clone())).then(|| {
        format!(
            "`{}`: entry @{place} ({}) is listed as referring to {}, and its manifest states {subject}",
            quote(&archive.label),
            entry.descriptor.digest,
            quote(annotated)
        )
    })
}

/// Lookup of image entries by the properties that attachments refer to.
struct Subjects<'a> {
    images: &'a [(usize, &'a Entry)],
    /// Indices into `images`, the first entry of each.
    by_name: HashMap<Reference, usize>,
    by_repository: HashMap<String, Vec<usize>>,
    /// By the referrers tag of the image.
    by_tag: HashMap<String, usize>,
    /// By the referrers tag of a child of the image.
    by_child: HashMap<String, usize>,
}

impl<'a> Subjects<'a> {
    fn new(store: &Store, images: &'a [(usize, &'a Entry)], given: Option<&Reference>) -> Self {
        let mut subjects = Self {
            images,
            by_name: HashMap::new(),
            by_repository: HashMap::new(),
            by_tag: HashMap::new(),
            by_child: HashMap::new(),
        };
        for (at, (_, entry)) in images.iter().enumerate() {
            let own = own_name(entry);
            if let Some(name) = own.as_ref().or(given) {
                subjects.by_repository.entry(name.name()).or_default().push(at);
            }
            if let Some(name) = own {
                subjects.by_name.entry(name).or_insert(at);
            }
            let root = &entry.descriptor;
            if subjects.by_tag.insert(root.digest.referrers_tag(), at).is_some() {
                continue;
            }
            let Ok(manifest) = store.manifest(&root.digest, &root.media_type) else {
                continue;
            };
            let View::Index(index) = manifest.view() else { continue };
            for child in index.entries.iter().map(|entry| &entry.descriptor.digest) {
                // The limit of entries of one index also bounds this table.
                if subjects.by_child.len() < MAX_ENTRIES {
                    subjects.by_child.entry(child.referrers_tag()).or_insert(at);
                }
            }
        }
        subjects
    }

    /// Removes the images of each repository whose names, by place, are all in repositories of earlier images.
    fn keep_one_of_each_repository(&mut self, names: &HashMap<usize, Vec<Reference>>) {
        let images = self.images;
        for places in self.by_repository.values_mut() {
            let mut seen = HashSet::new();
            let first = places.first().copied();
            places.retain(|at| {
                let names = images.get(*at).and_then(|(place, _)| names.get(place));
                let new = names.into_iter().flatten().filter(|name| seen.insert(name.name()));
                new.count() > 0
            });
            // An image without a usable name still shows that the repository is in the layout.
            if places.is_empty() {
                places.extend(first);
            }
        }
    }

    /// Returns images of a repository, one for each repository that they are named in.
    fn in_repository(&self, name: &Reference) -> Vec<(usize, &'a Entry)> {
        let places = self.by_repository.get(&name.name()).into_iter().flatten();
        places.filter_map(|at| self.images.get(*at).copied()).collect()
    }

    /// Finds the image of an attached entry: by name, else by the stated digest of the image or of
    /// a child of its index, given as referrers tag, else the only image.
    fn find(&self, attached: &Entry, stated: Option<&str>) -> Option<(usize, &'a Entry)> {
        let own = own_name(attached);
        let named = own.as_ref().and_then(|name| self.by_name.get(name));
        let named = named.and_then(|at| self.images.get(*at).copied());
        match (named.or_else(|| self.with_tag(stated?)), self.images) {
            (Some(found), _) => Some(found),
            (None, [only]) if own.is_none() => Some(*only),
            (None, _) => None,
        }
    }

    /// Finds an image by its referrers tag, or by that of a child of its index.
    fn with_tag(&self, tag: &str) -> Option<(usize, &'a Entry)> {
        let at = self.by_tag.get(tag).or_else(|| self.by_child.get(tag))?;
        self.images.get(*at).copied()
    }
}

fn own_name(entry: &Entry) -> Option<Reference> {
    names::entry_names(&entry.annotations, &[], None, 0)
        .ok()?
        .into_iter()
        .next()
}

/// Returns the digest of the image that a signature or attestation states as its subject.
fn stated_subject(store: &Store, root: &Descriptor) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Signature {
        critical: Critical,
    }
    #[derive(Deserialize)]
    struct Critical {
        image: Image,
    }
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "docker-manifest-digest")]
        digest: Digest,
    }
    #[derive(Deserialize)]
    struct Envelope {
        payload: String,
    }
    #[derive(Deserialize)]
    struct Statement {
        subject: Vec<Subject>,
    }
    #[derive(Deserialize)]
    struct Subject {
        digest: HashMap<String, String>,
    }
    let manifest = store.manifest(&root.digest, &root.media_type).ok()?;
    let View::Image(image) = manifest.view() else {
        return None;
    };
    let layer = image.layers.first()?;
    let size = store.size_of(&layer.digest).filter(|size| *size <= MAX_PAYLOAD)?;
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    store.read_at(&layer.digest, 0, &mut bytes).ok()?;
    match &*layer.media_type {
        SIMPLE_SIGNING => {
            let signature: Signature = serde_json::from_slice(&bytes).ok()?;
            Some(signature.critical.image.digest)
        }
        ENVELOPE => {
            let envelope: Envelope = serde_json::from_slice(&bytes).ok()?;
            let statement: Statement = serde_json::from_slice(&STANDARD.decode(envelope.payload).ok()?).ok()?;
            let hex = statement.subject.first()?.digest.get("sha256")?;
            format!("sha256:{hex}").parse().ok()
        }
        _ => None,
    }
}

fn without_image(archive: &Archive, attached: &Attached<'_>, stated: Option<&str>) -> BrokenImage {
    let place = attached.place;
    let subject = stated.map_or_else(|| "an image".to_owned(), |tag| tag.replacen('-', ":", 1));
    let what = format!(
        "`{}`: entry @{place} ({}) belongs to {subject} (`.{}`), and the archive does not tell which image that is",
        quote(&archive.label),
        attached.entry.descriptor.digest,
        attached.suffix
    );
    let hint = format!(
        "name it as it is called at a registry: `--name @{place}=REPOSITORY:sha256-HEX.{}`",
        attached.suffix
    );
    let error = Error::new(Kind::Usage, what).with_hint(hint);
    BrokenImage::nameless(archive, place, error).with_root(&attached.entry.descriptor)
}
