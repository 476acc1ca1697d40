//! Compares the record of a bundle, `docker-mirror.json`, with the index of the bundle.
//!
//! The record is a claim of the bundle's author. It states the original of an image and which of two indexes is published
//! under the name, both of which are proved when the tree is built. No other field of the record is trusted.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::archive::Archive;
use super::broken::BrokenImage;
use super::contents::{BadDocument, BundledImage, Contents, LostReferrer};
use super::names::{CONTAINERD_NAME, REF_NAME};
use crate::bundle::layout::name_in_bundle;
use crate::bundle::record::{self, EDITED, FORMAT_VERSION, ImageRecord, MAX_SIZE, Recorded, RecordedImage};
use crate::error::{Error, Kind, Result};
use crate::image::annotations::Annotations;
use crate::image::budget::{Budget, Held};
use crate::image::digest::Digest;
use crate::image::manifest::Entry;
use crate::image::reference::Reference;
use crate::image::referrer::is_referrers_tag;
use crate::image::tree::Choice;
use crate::text::quote;

/// Maximum number of referrers missing from an index that are reported individually.
const MAX_LOST: usize = 1000;

/// Warns about images that only the record or only the index lists, and about a missing record.
pub(super) fn warn(archive: &mut Archive, contents: &Contents) {
    let label = quote(&archive.label).to_string();
    let member = record::MEMBER;
    if contents.lacks_record {
        archive.warnings.push(format!(
            "`{label}` has no `{member}`; if docker-mirror made it, it was damaged or edited, and what it says of platforms \
             that were dropped and of images that are missing is lost"
        ));
    }
    for name in &contents.unlisted {
        archive.warnings.push(format!(
            "`{label}`: `{member}` lists `{}`, and `index.json` does not; it is left out",
            quote(&name)
        ));
    }
    if !archive.files.contains_key(member) {
        return;
    }
    for image in contents
        .images
        .iter()
        .filter(|image| image.record.is_none() && image.attached_to.is_none())
    {
        archive.warnings.push(format!(
            "`{label}`: `{member}` does not list `{}`; it was added later, or the bundle was edited",
            image.name
        ));
    }
}

/// Returns the digest that the record publishes under the name of an image.
pub(super) fn stated_root(record: &ImageRecord) -> &Digest {
    match (&record.filtered, record.index) {
        (Some(filtered), Choice::Whole | Choice::Filtered) => filtered,
        _ => &record.original,
    }
}

/// Checks that the record and the index state the same digest for an image.
///
/// # Errors
/// [`Kind::Malformed`] with both digests.
pub(super) fn check_root(archive: &Archive, name: &Reference, record: &ImageRecord, root: &Digest) -> Result<()> {
    let stated = stated_root(record);
    if stated == root {
        return Ok(());
    }
    let what = format!(
        "`{}`: `index.json` says that `{name}` is {root}, `{}` that it is {stated}",
        quote(&archive.label),
        record::MEMBER
    );
    Err(Error::new(Kind::Malformed, what).with_hint("the bundle was edited; export it again"))
}

/// Checks that both annotations with the name of an image have the same name, as in every bundle of this program.
///
/// # Errors
/// [`Kind::Malformed`] with both names.
pub(super) fn check_names(archive: &Archive, name: &Reference, annotations: &Annotations) -> Result<()> {
    let names = (annotations.get(CONTAINERD_NAME), annotations.get(REF_NAME));
    let (Some(first), Some(second)) = names else {
        return Ok(());
    };
    if first == second {
        return Ok(());
    }
    let what = format!(
        "`{}`: `index.json` calls `{name}` `{}` in its annotation `{CONTAINERD_NAME}` and `{}` in `{REF_NAME}`",
        quote(&archive.label),
        quote(first),
        quote(second)
    );
    Err(Error::new(Kind::Malformed, what).with_hint(EDITED))
}

/// Names that the record states for the referrers that a registry finds by a tag, such as `REPOSITORY:sha256-HEX.sig`.
#[derive(Debug)]
pub(super) struct TaggedReferrers<'a> {
    names: HashMap<&'a Digest, HashSet<String>>,
    /// The memory of the names.
    _held: Held,
}

impl<'a> TaggedReferrers<'a> {
    /// # Errors
    /// [`Kind::TooLarge`] if the names take more memory than the budget has left.
    pub(super) fn from_record(recorded: &'a Recorded, budget: &Budget) -> Result<Self> {
        let mut held = budget.hold(0)?;
        let (mut names, mut memory) = (HashMap::<&Digest, HashSet<String>>::new(), 0);
        for record in recorded.images.iter().filter_map(|image| image.record.as_ref().ok()) {
            let Ok(image) = record.reference.parse::<Reference>() else {
                continue;
            };
            for referrer in &record.referrers {
                if let Some(tag) = &referrer.tag {
                    let name = format!("{}:{tag}", image.name());
                    memory += (name.len() + 2 * size_of::<String>()) as u64;
                    if names.entry(&referrer.digest).or_default().insert(name) {
                        held.resize(memory)?;
                    }
                }
            }
        }
        Ok(Self { names, _held: held })
    }

    /// Checks that an entry of the index has one of these names, so that a signature does not become an image of its own under
    /// a wrong tag. A name that the record lists as that of an image is also accepted.
    ///
    /// # Errors
    /// [`Kind::Malformed`] with both names.
    pub(super) fn check(&self, archive: &Archive, recorded: &Recorded, entry: &Entry) -> Result<()> {
        let digest = &entry.descriptor.digest;
        let (Some(stated), Some(name)) = (self.names.get(digest), entry.annotations.get(REF_NAME)) else {
            return Ok(());
        };
        let is_listed = |name: Reference| recorded.find(&name).is_some();
        if stated.contains(name) || name.parse().is_ok_and(is_listed) {
            return Ok(());
        }
        let what = format!(
            "`{}`: {digest} is called `{}` in `index.json` and `{}` in `{}`",
            quote(&archive.label),
            quote(name),
            quote(stated.iter().min().map_or(name, String::as_str)),
            record::MEMBER
        );
        Err(Error::new(Kind::Malformed, what).with_hint(EDITED))
    }
}

/// Returns the referrers that the record states and the index does not list. `listed` are the digests of its entries.
pub(super) fn lost_referrers(archive: &Archive, recorded: &Recorded, listed: &HashSet<&Digest>) -> Vec<LostReferrer> {
    let records = recorded.images.iter().filter_map(|image| image.record.as_ref().ok());
    let stated = records.flat_map(|record| record.referrers.iter().map(move |referrer| (record, referrer)));
    let lost = stated.filter(|(_, referrer)| !listed.contains(&referrer.digest));
    let lost = lost.take(MAX_LOST).map(|(record, referrer)| LostReferrer {
        image: record.reference.clone(),
        digest: referrer.digest.clone(),
        subject: referrer.subject.clone(),
        artifact_type: referrer.artifact_type.clone(),
        archive: archive.label.clone(),
    });
    lost.collect()
}

/// Moves images with different names in index and record to the broken images, so that no image is
/// pushed under a wrong name, and notes the images that only the record lists. `entries` are the digests in the index.
pub(super) fn compare(archive: &Archive, recorded: &Recorded, entries: &HashSet<&Digest>, contents: &mut Contents) {
    let key = |reference: &str| reference.parse().map(|name: Reference| name_in_bundle(&name)).ok();
    let with_record = contents.images.iter().filter_map(|image| image.record.as_ref());
    let broken = contents.broken.iter().filter_map(|broken| broken.name.as_ref());
    let listed: HashSet<String> = with_record
        .filter_map(|record| key(&record.reference))
        .chain(broken.map(name_in_bundle))
        .collect();
    let is_listed = |image: &&RecordedImage| image.name.as_ref().is_some_and(|name| listed.contains(name));
    let unlisted = recorded.images.iter().filter(|image| !is_listed(image));
    let unlisted: Vec<&RecordedImage> = unlisted.collect();
    let roots: HashMap<&Digest, &str> = unlisted
        .iter()
        .filter_map(|image| Some((stated_root(image.record.as_ref().ok()?), image.reference.as_str())))
        .collect();
    let is_other = |image: &mut BundledImage| image.record.is_none() && roots.contains_key(&image.root.digest);
    for image in contents.images.extract_if(.., is_other) {
        let other = roots[&image.root.digest];
        let what = format!(
            "`{}`: {} is called `{}` in `index.json` and `{}` in `{}`",
            quote(&archive.label),
            image.root.digest,
            image.name,
            quote(&other),
            record::MEMBER
        );
        let error = Error::new(Kind::Malformed, what).with_hint(EDITED);
        contents
            .broken
            .extend(BrokenImage::misnamed(archive, image.place, vec![image.name], error));
    }
    for image in unlisted {
        // An image without a name cannot be imported, and is reported as a warning.
        let Ok(name) = image.reference.parse::<Reference>() else {
            contents.unlisted.push(image.reference.clone());
            continue;
        };
        // Earlier versions exported a list of referrers that was requested by its name. The index was read as such a list.
        let root = image.record.as_ref().ok().map(|record| stated_root(record));
        if name.tag().is_some_and(is_referrers_tag) && root.is_some_and(|root| entries.contains(root)) {
            continue;
        }
        let what = format!(
            "`{}`: `{}` lists `{name}`, and `index.json` does not",
            quote(&archive.label),
            record::MEMBER
        );
        let error = Error::new(Kind::Malformed, what).with_hint(EDITED);
        let broken = BrokenImage::named(archive, 0, vec![name], error);
        contents.broken.extend(broken);
    }
}

/// Returns the record and `index.json` if their bytes are not those of their checksums.
pub(super) fn changed_documents(archive: &Archive, recorded: &Recorded, index: &[u8]) -> Vec<BadDocument> {
    let changed = |member| {
        let what = format!(
            "{}: it has other bytes than when the bundle was written",
            archive.describe(member)
        );
        BadDocument::new(archive, member, Error::new(Kind::Integrity, what))
    };
    if !recorded.is_intact {
        return vec![changed(record::MEMBER)];
    }
    let stated = recorded.index_checksum.as_ref();
    match stated.is_none_or(|stated| *stated == Digest::sha256(index).to_string()) {
        true => Vec::new(),
        false => vec![changed("index.json")],
    }
}

/// The version field, which every version of the document has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    format_version: u32,
}

pub(super) fn read(archive: &Archive, budget: &Budget) -> Result<Option<Recorded>> {
    let Some(bytes) = archive.read(record::MEMBER, MAX_SIZE)? else {
        return Ok(None);
    };
    let wrong = |e: serde_json::Error| {
        Error::new(
            Kind::Malformed,
            format!("{}: it is not valid JSON of its kind", archive.describe(record::MEMBER)),
        )
        .with_source(e)
        .with_hint(EDITED)
    };
    // An entry takes at most one and a half times as much memory as text.
    budget
        .take(bytes.len() as u64 / 2 * 3)
        .map_err(|e| e.context(archive.describe(record::MEMBER)))?;
    let version: Version = serde_json::from_slice(&bytes).map_err(wrong)?;
    if version.format_version > FORMAT_VERSION {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "{}: written by a newer version (format {}, known is {FORMAT_VERSION})",
                archive.describe(record::MEMBER),
                version.format_version
            ),
        )
        .with_hint("update docker-mirror on this side"));
    }
    Recorded::parse(&bytes).map(Some).map_err(wrong)
}
