//! Combines opened archives into one bundle: their images, and the contradictions between them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::archive::{self, Archive};
use super::broken::{self, BrokenArchive, BrokenImage};
use super::contents::{BadDocument, BundledImage, Contents, DockerList, LostReferrer, Referrer};
use super::layout;
use super::name_override::{GivenName, NameOverrides};
use super::source::Source;
use super::store::Store;
use super::tar_faults::TarFaults;
use crate::bundle::record::Missing;
use crate::error::{Error, Kind, Result};
use crate::image::budget::{Budget, NAME};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::text::{Warnings, quote};

/// Maximum number of unreadable archives that are reported individually.
const MAX_BROKEN: usize = 1000;

/// The combined content of all archives.
pub(super) struct Assembled {
    pub(super) images: Vec<BundledImage>,
    pub(super) broken: Vec<BrokenImage>,
    pub(super) broken_archives: Vec<BrokenArchive>,
    pub(super) referrers: Vec<Referrer>,
    pub(super) missing: Vec<Missing>,
    /// Readable entries of the indexes that are neither images nor referrers, as far as the memory budget allows.
    pub(super) listed: Vec<Descriptor>,
    pub(super) warnings: Warnings,
    /// Files that are read by offset.
    pub(super) sources: Vec<Arc<Source>>,
    /// Number of members that are not blobs.
    pub(super) documents: u64,
    /// Whether an archive has a `manifest.json`, which `docker load` reads.
    pub(super) docker_manifest: bool,
    /// Whether one of several archives is a supplement, which completes the others.
    pub(super) has_supplement: bool,
    /// Whether the only archive is a supplement, of which the blobs can be verified.
    pub(super) is_supplement: bool,
    /// Violations of the tar format that the scan skipped, by archive.
    pub(super) faults: Vec<(String, TarFaults)>,
    /// Referrers that records state and no index lists.
    pub(super) lost_referrers: Vec<LostReferrer>,
    /// Documents that cannot be read and that no image needs.
    pub(super) bad_documents: Vec<BadDocument>,
    /// The documents `manifest.json` of archives that also have an `index.json`.
    pub(super) docker_lists: Vec<DockerList>,
    /// Images that are verified and cannot be imported, since another archive calls another image by their name.
    pub(super) ambiguous: Vec<BundledImage>,
    more_broken: usize,
}

/// Rules for combining archives.
pub(super) struct Rules<'a> {
    /// Names from the user, for images without a name or in place of their names.
    pub(super) names: &'a [GivenName],
    /// Maximum number of bytes that the layers of one docker-archive unpack to,
    /// beyond the usual ratio.
    pub(super) max_unpacked: Option<u64>,
    /// Whether an archive with a skipped tar fault is accepted.
    pub(super) continue_after_faults: bool,
    /// Whether a bundle without a usable image is accepted.
    pub(super) allow_none: bool,
}

/// Combines these archives into one bundle, whose blobs are in the store.
pub(super) fn assemble(
    archives: Vec<Result<Archive, BrokenArchive>>,
    store: &mut Store,
    warnings: Warnings,
    rules: &Rules<'_>,
) -> Result<Assembled> {
    let mut bundle = Assembled::new(warnings);
    let count = archives.len();
    let mut given = NameOverrides::new(rules.names, count)?;
    let mut read = Vec::with_capacity(count);
    for archive in archives {
        read.push(match archive {
            Ok(archive) => bundle.read(archive, store, &mut given, rules),
            Err(broken) => (TarFaults::default(), Err(broken)),
        });
    }
    let completes = |(_, read): &(_, Result<(_, Contents), _>)| {
        read.as_ref()
            .is_ok_and(|(_, contents)| contents.holds_only_blobs.is_some())
    };
    // A supplement can replace the blobs lost at a fault, so tar faults are only warnings beside it.
    bundle.has_supplement = count > 1 && read.iter().any(completes);
    let continue_after_faults = rules.continue_after_faults || bundle.has_supplement;
    let mut supplements = Vec::new();
    for (mut faults, contents) in read {
        let first = match continue_after_faults || faults.first.is_empty() {
            true => None,
            false => Some(faults.first.swap_remove(0).error),
        };
        match (contents, first) {
            (Ok((label, contents)), None) => {
                let is_supplement = contents.is_supplement;
                let supplement = bundle.add(contents, store.budget());
                supplements.extend(supplement.map(|archive| (archive, is_supplement)));
                note_faults(&mut bundle, label, faults, rules.continue_after_faults);
            }
            (Ok((label, _)), Some(first)) => note_broken(&mut bundle, BrokenArchive::new(&label, first)),
            (Err(broken), Some(first)) => note_broken(&mut bundle, BrokenArchive::new(&broken.label, first)),
            (Err(broken), None) => {
                note_faults(&mut bundle, broken.label.clone(), faults, rules.continue_after_faults);
                note_broken(&mut bundle, broken);
            }
        }
    }
    // A supplement completes other bundles; on its own it holds no usable image.
    for (supplement, is_own) in supplements {
        match count {
            1 if rules.allow_none && is_own => bundle.is_supplement = true,
            1 => note_broken(&mut bundle, supplement),
            // A supplement of this program is meant to be given like this.
            _ if is_own => {}
            _ => bundle
                .warnings
                .push(format!("{}; its blobs complete the others", supplement.error)),
        }
    }
    if bundle.more_broken > 0 {
        bundle.broken_archives.push(BrokenArchive::more(bundle.more_broken));
    }
    note_irregularities(&mut bundle, rules.continue_after_faults);
    one_digest_per_name(&mut bundle, rules.continue_after_faults);
    whole_or_broken(&mut bundle);
    if bundle.broken_archives.is_empty() {
        given.check(&bundle.images, &bundle.broken)?;
    }
    if bundle.images.is_empty() && !rules.allow_none {
        return Err(broken::none_is_whole(&bundle.broken_archives, &bundle.broken));
    }
    Ok(bundle)
}

impl Assembled {
    fn new(warnings: Warnings) -> Self {
        Self {
            images: Vec::new(),
            broken: Vec::new(),
            broken_archives: Vec::new(),
            more_broken: 0,
            referrers: Vec::new(),
            missing: Vec::new(),
            listed: Vec::new(),
            warnings,
            sources: Vec::new(),
            documents: 0,
            docker_manifest: false,
            has_supplement: false,
            is_supplement: false,
            faults: Vec::new(),
            lost_referrers: Vec::new(),
            bad_documents: Vec::new(),
            docker_lists: Vec::new(),
            ambiguous: Vec::new(),
        }
    }

    /// Reads the documents of an archive. Also returns the tar faults that its scan skipped.
    fn read(
        &mut self,
        mut archive: Archive,
        store: &mut Store,
        given: &mut NameOverrides<'_>,
        rules: &Rules<'_>,
    ) -> (TarFaults, Result<(String, Contents), BrokenArchive>) {
        archive.max_unpacked = rules.max_unpacked.unwrap_or(archive.max_unpacked);
        archive.is_verified = rules.continue_after_faults;
        self.sources.extend(archive.source.clone());
        self.documents += (archive.files.len() + archive.links.len()) as u64;
        self.docker_manifest |= archive.files.contains_key(archive::ITEMS);
        let contents = layout::read(&mut archive, store, given);
        self.warnings.append(std::mem::take(&mut archive.warnings));
        let contents = contents.map_err(|error| BrokenArchive::new(&archive.label, error));
        (archive.faults, contents.map(|contents| (archive.label, contents)))
    }

    /// Adds the content of an archive. Returns why the archive cannot be used on its own, if it has only blobs.
    fn add(&mut self, mut contents: Contents, budget: &Budget) -> Option<BrokenArchive> {
        // Images and referrers hold their own descriptors, so only those of other entries take more memory.
        let referrers = contents.referrers.iter().map(|referrer| &referrer.root.digest);
        let known = contents.images.iter().map(|image| &image.root.digest).chain(referrers);
        let known: HashSet<&Digest> = known.collect();
        contents.listed.retain(|entry| !known.contains(&entry.digest));
        self.images.extend(contents.images);
        self.broken.extend(contents.broken);
        self.referrers.extend(contents.referrers);
        self.missing.extend(contents.missing);
        self.warnings.append(contents.warnings);
        if budget.take(contents.listed.len() as u64 * NAME).is_ok() {
            self.listed.extend(contents.listed);
        }
        self.lost_referrers.extend(contents.lost_referrers);
        self.docker_lists.extend(contents.docker_list);
        self.bad_documents.extend(contents.bad_documents);
        contents.holds_only_blobs
    }
}

/// Removes lost referrers that another bundle lists, and turns unreadable documents into warnings unless they are kept for a
/// verification.
fn note_irregularities(bundle: &mut Assembled, keep: bool) {
    let images = bundle.images.iter().map(|image| &image.root.digest);
    let referrers = bundle.referrers.iter().map(|referrer| &referrer.root.digest);
    let listed: HashSet<&Digest> = images.chain(referrers).collect();
    bundle.lost_referrers.retain(|lost| !listed.contains(&lost.digest));
    if keep {
        return;
    }
    for document in std::mem::take(&mut bundle.bad_documents) {
        let why = document.error.full();
        bundle.warnings.push(match document.error.kind() {
            // Every image is proved by its digests.
            Kind::Integrity => why,
            _ => format!("{why}; no image needs it, and it is ignored"),
        });
    }
}

/// Keeps the tar faults of an archive, or turns them into warnings.
fn note_faults(bundle: &mut Assembled, label: String, faults: TarFaults, keep: bool) {
    if faults.first.is_empty() {
        return;
    }
    if keep {
        bundle.faults.push((label, faults));
        return;
    }
    for fault in &faults.first {
        let error = fault.error.full();
        bundle
            .warnings
            .push(format!("{error}; the rest of the archive is read anyway"));
    }
}

fn note_broken(bundle: &mut Assembled, archive: BrokenArchive) {
    match bundle.broken_archives.len() {
        0..MAX_BROKEN => bundle.broken_archives.push(archive),
        _ => bundle.more_broken += 1,
    }
}

/// Removes broken images that have a whole image of the same name in another archive.
///
/// Within one archive, a name of both a broken and a whole image is ambiguous: the whole image is removed too, unless its
/// digest or the record confirms its name.
fn whole_or_broken(bundle: &mut Assembled) {
    let broken: HashSet<(&str, Option<&Reference>)> = bundle
        .broken
        .iter()
        .map(|broken| (broken.archive.as_str(), broken.name.as_ref()))
        .collect();
    let is_doubtful = |image: &BundledImage| broken.contains(&(image.archive.as_str(), Some(&image.name)));
    let is_vouched_for = |image: &BundledImage| image.name.digest().is_some() || image.record.is_some();
    bundle
        .images
        .retain(|image| is_vouched_for(image) || !is_doubtful(image));
    let whole: HashSet<&Reference> = bundle.images.iter().map(|image| &image.name).collect();
    let is_whole = |broken: &BrokenImage| broken.name.as_ref().is_some_and(|name| whole.contains(name));
    bundle.broken.retain(|broken| broken.is_misnamed || !is_whole(broken));
}

/// Merges images of the same name and digest,
/// and removes all images of a name that has several digests.
///
/// A name with several digests is ambiguous, so the images become one broken image. Signatures under one tag of cosign are not:
/// an image that was signed again between two bundles has one of each time, and the push treats them as it treats a signature
/// that the registry has.
fn one_digest_per_name(bundle: &mut Assembled, is_verified: bool) {
    let mut seen: BTreeMap<(Reference, Option<Digest>), usize> = BTreeMap::new();
    let mut two: BTreeMap<Reference, (BrokenImage, bool)> = BTreeMap::new();
    let mut kept: Vec<BundledImage> = Vec::with_capacity(bundle.images.len());
    for image in std::mem::take(&mut bundle.images) {
        let attached = image.attached_to.as_ref().map(|_| image.root.digest.clone());
        let key = (image.name.clone(), attached);
        let Some(first) = seen.get(&key).and_then(|first| kept.get(*first)) else {
            seen.insert(key, kept.len());
            kept.push(image);
            continue;
        };
        if first.root.digest != image.root.digest && !two.contains_key(&image.name) {
            let error = two_of_one_name(first, &image);
            let broken = BrokenImage::misleading(&image.name, &first.archive, error);
            // Two files may each be right: together they cannot be imported, and that is no damage.
            let are_apart = is_verified && first.archive != image.archive;
            two.insert(image.name.clone(), (broken, are_apart));
        }
        if is_verified && first.root.digest != image.root.digest {
            bundle.ambiguous.push(image);
        }
    }
    let is_ambiguous = |image: &mut BundledImage| two.contains_key(&image.name);
    bundle
        .ambiguous
        .extend(kept.extract_if(.., is_ambiguous).filter(|_| is_verified));
    bundle.images = kept;
    for (broken, are_apart) in two.into_values() {
        match are_apart {
            true => bundle.warnings.push(broken.error.full()),
            false => bundle.broken.push(broken),
        }
    }
}

/// Returns the error for two images with the same name.
fn two_of_one_name(first: &BundledImage, second: &BundledImage) -> Error {
    let place = |image: &BundledImage| {
        let (digest, archive) = (&image.root.digest, quote(&image.archive));
        format!("{digest} in `{archive}` (@{})", image.place)
    };
    let what = format!(
        "two images are called `{}`: {} and {}",
        first.name,
        place(first),
        place(second)
    );
    if first.archive == second.archive {
        let hint = format!(
            "give each a name of its own, such as `--name @{}=REPOSITORY:TAG`",
            second.place
        );
        return Error::new(Kind::Malformed, what).with_hint(hint);
    }
    let digest = &second.root.digest;
    let hint =
        format!("import the bundles one after the other, or give one another name: `--name {digest}=REPOSITORY:TAG`");
    // Each bundle may be right: they were only named together.
    Error::new(Kind::Usage, what).with_hint(hint)
}
