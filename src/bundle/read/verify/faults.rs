//! Collects faults during a verification: each fault once, with all images that it affects.

use std::collections::{HashMap, HashSet};

use super::result::{Checked, Fault, FaultKind, Verification};
use super::wrong::AllWrong;
use crate::bundle::layout::blob_path;
use crate::bundle::read::summed::VerifiedFile;
use crate::bundle::read::tar_faults::TarFaults;
use crate::bundle::read::{BrokenImage, Bundle};
use crate::error::Kind;
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::inventory::want_list::{WantList, WantedBlob};
use crate::text::{LISTED, Warnings};

/// The faults found so far.
pub(super) struct Faults<'a> {
    bundle: &'a Bundle,
    budget: &'a Budget,
    faults: Vec<Fault>,
    more: u64,
    /// The faults of digests.
    known: HashMap<(FaultKind, Digest), Known>,
    replaced: Vec<Fault>,
    /// Damaged indexes that were made again from others.
    remade: HashSet<Digest>,
    /// Missing manifests.
    unread: HashSet<Digest>,
    wanted: WantList,
    /// Whether a wanted blob did not fit into the list.
    is_cut: bool,
}

/// The fault of a digest.
struct Known {
    /// Position of the fault; `None` beyond the maximum.
    place: Option<usize>,
    /// A bit for each image that was added, in the order of all images.
    images: Vec<u64>,
}

/// The user of a blob: an image, or an attachment of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct User<'a> {
    /// Number of the image, counted over all images.
    pub(super) number: usize,
    /// All names of the image.
    pub(super) names: &'a [String],
    /// Name under which a registry has the blobs; `None` for an image without a name.
    pub(super) source: Option<&'a Reference>,
}

/// Returns whether the only problem of an image is its missing name.
pub(super) fn lacks_a_name(image: &BrokenImage) -> bool {
    image.error.kind() == Kind::Usage
}

/// Memory in bytes of a fault of a blob, with its line in the want-list.
const FAULT: u64 = 512;

impl<'a> Faults<'a> {
    pub(super) fn new(bundle: &'a Bundle) -> Self {
        Self {
            bundle,
            budget: bundle.budget(),
            faults: Vec::new(),
            more: 0,
            known: HashMap::new(),
            replaced: Vec::new(),
            remade: HashSet::new(),
            unread: HashSet::new(),
            wanted: WantList::default(),
            is_cut: false,
        }
    }

    /// Adds the faults found when the bundles were opened.
    pub(super) fn add_unreadable(&mut self) {
        let bundle = self.bundle;
        for (label, faults) in &bundle.parts.faults {
            self.add_tar(label, faults);
        }
        for archive in &bundle.parts.broken_archives {
            self.add(Fault {
                file: Some(archive.label.as_str().into()),
                ..Fault::from_error(FaultKind::Archive, &archive.error)
            });
        }
        for image in bundle.parts.broken.iter().filter(|image| !lacks_a_name(image)) {
            self.add(Fault {
                file: Some(image.archive.as_str().into()),
                images: vec![image.label.as_str().into()],
                ..Fault::from_error(FaultKind::Image, &image.error)
            });
        }
        for lost in &bundle.parts.lost_referrers {
            self.add(Fault {
                file: Some(lost.archive.as_str().into()),
                digest: Some(lost.digest.clone()),
                images: vec![lost.image.as_str().into()],
                ..Fault::from_error(FaultKind::Image, &lost.error())
            });
        }
        for document in &bundle.parts.bad_documents {
            self.add(Fault {
                file: Some(document.archive.as_str().into()),
                member: Some(document.member.into()),
                offset: document.offset,
                ..Fault::from_error(FaultKind::Document, &document.error)
            });
        }
    }

    /// Adds the violations of the tar format in an archive.
    pub(super) fn add_tar(&mut self, label: &str, faults: &TarFaults) {
        for fault in &faults.first {
            self.add(Fault {
                file: Some(label.into()),
                offset: Some(fault.offset),
                ..Fault::from_error(FaultKind::Tar, &fault.error)
            });
        }
        self.more += faults.more;
    }

    /// Returns whether no fault was found so far.
    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty() && self.more == 0
    }

    /// Excuses violations of the tar format, and wrong blobs that no image uses, if there is no other fault. Called beside a
    /// supplement, which replaces the blobs that such a fault hides: an import accepts the same files.
    pub(super) fn excuse_harmless(&mut self) {
        let is_harmless = |fault: &Fault| match fault.kind {
            FaultKind::Tar => true,
            FaultKind::Damaged | FaultKind::Unreadable => fault.images.is_empty(),
            _ => false,
        };
        if self.more == 0 && self.faults.iter().all(is_harmless) {
            self.replaced.append(&mut self.faults);
        }
    }

    /// Adds the faults of blobs whose bytes are wrong.
    pub(super) fn add_wrong(&mut self, wrong: &AllWrong) {
        for wrong_place in &wrong.first {
            let fault = wrong_place.fault();
            match wrong.sound_elsewhere.contains(&wrong_place.digest) {
                true => self.replaced.push(fault),
                false => self.about(&wrong_place.digest, fault),
            }
        }
        self.more += wrong.more;
    }

    pub(super) fn add(&mut self, fault: Fault) {
        // An image that is listed at several places gives the same fault several times in a row.
        if self.faults.last() == Some(&fault) {
            return;
        }
        match self.faults.len() < Verification::MAX_FAULTS {
            true => self.faults.push(fault),
            false => self.more += 1,
        }
    }

    /// Adds a fault of a blob, unless the fault is known.
    pub(super) fn about(&mut self, digest: &Digest, fault: Fault) {
        let key = (fault.kind, digest.clone());
        if self.known.contains_key(&key) {
            return;
        }
        if self.budget.take(FAULT).is_err() {
            self.more += 1;
            return;
        }
        let place = (self.faults.len() < Verification::MAX_FAULTS).then_some(self.faults.len());
        self.known.insert(
            key,
            Known {
                place,
                images: Vec::new(),
            },
        );
        let mut fault = Fault {
            digest: Some(digest.clone()),
            ..fault
        };
        if fault.file.is_none()
            && let Some(place) = self.bundle.store.blob(digest)
        {
            fault.file = Some(place.source.label().into());
            if place.source.is_archive() {
                let path = || blob_path(digest);
                fault.member = Some(place.member.as_deref().map_or_else(path, str::to_owned).into());
                fault.offset = Some(place.offset);
            }
        }
        self.add(fault);
    }

    /// Adds an image, under all its names, to the fault of a blob.
    pub(super) fn add_user(&mut self, kind: FaultKind, digest: &Digest, user: User<'_>) {
        let Some(known) = self.known.get_mut(&(kind, digest.clone())) else {
            return;
        };
        let Some(place) = known.place else { return };
        // Several manifests of an image, and what refers to them, may need the same blob.
        let (word, bit) = (user.number / 64, 1 << (user.number % 64));
        known.images.resize(known.images.len().max(word + 1), 0);
        if known.images[word] & bit != 0 {
            return;
        }
        known.images[word] |= bit;
        let fault = &mut self.faults[place];
        for name in user.names {
            match fault.images.len() < LISTED {
                true => fault.images.push(name.as_str().into()),
                false => fault.more_images += 1,
            }
        }
    }

    /// Excuses the fault of an index that was made again from the original index.
    pub(super) fn remade(&mut self, digest: &Digest) {
        // The fault of the blob counted the memory of the entry.
        self.remade.insert(digest.clone());
    }

    /// Counts a damaged or missing manifest: what it lists is unknown.
    pub(super) fn unread(&mut self, digest: &Digest) {
        if self.unread.contains(digest) || self.budget.take(FAULT).is_ok() {
            self.unread.insert(digest.clone());
        }
    }

    /// Records in the fault of a blob why the want-list does not have the blob.
    pub(super) fn cannot_want(&mut self, kind: FaultKind, digest: &Digest, why: &'static str) {
        let known = self.known.get(&(kind, digest.clone()));
        if let Some(place) = known.and_then(|known| known.place)
            && !self.wanted.contains(digest)
        {
            self.faults[place].hint.get_or_insert_with(|| why.into());
        }
    }

    /// Adds a blob to the want-list.
    pub(super) fn want(&mut self, digest: &Digest, size: Option<u64>, reference: &Reference) {
        if self.wanted.contains(digest) {
            return;
        }
        let blob = WantedBlob {
            digest: digest.clone(),
            size,
            reference: reference.clone(),
        };
        if self.budget.take(FAULT).is_err() || !self.wanted.add(blob) {
            self.is_cut = true;
        }
    }

    pub(super) fn into_verification(
        mut self,
        files: Vec<VerifiedFile>,
        checked: Checked,
        mut warnings: Warnings,
    ) -> Verification {
        if self.is_cut {
            warnings.push(
                "more blobs are wanted than a want-list can hold: verify again when those of the list are there"
                    .to_owned(),
            );
        }
        let is_remade = |fault: &Fault| fault.digest.as_ref().is_some_and(|digest| self.remade.contains(digest));
        let (remade, faults): (Vec<_>, Vec<_>) = self.faults.into_iter().partition(is_remade);
        self.replaced.extend(remade.into_iter().map(|fault| Fault {
            hint: Some(Fault::REMADE.into()),
            ..fault
        }));
        Verification {
            files,
            checked,
            faults,
            more_faults: self.more,
            replaced: self.replaced,
            warnings,
            wanted: self.wanted,
            unread_manifests: self.unread.len() as u64,
            ..Verification::default()
        }
    }
}
