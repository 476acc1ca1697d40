//! Collects faults during a verification: each fault once, with all images that it affects.

use std::collections::HashMap;

use super::result::{Checked, Fault, FaultKind, Verification};
use super::wrong::AllWrong;
use crate::bundle::read::scan::TarFaults;
use crate::bundle::read::summed::VerifiedFile;
use crate::bundle::read::{BrokenImage, Bundle};
use crate::error::Kind;
use crate::image::budget::Budget;
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::inventory::want_list::{WantList, WantedBlob};
use crate::text::{LISTED, Warnings};

/// The faults found so far.
#[derive(Debug)]
pub(super) struct Faults {
    budget: Budget,
    faults: Vec<Fault>,
    more: u64,
    /// Indices of the faults of digests; `None` for faults beyond the maximum.
    known: HashMap<(FaultKind, Digest), Option<usize>>,
    replaced: Vec<Fault>,
    wanted: WantList,
    /// Whether a wanted blob did not fit into the list.
    is_cut: bool,
}

/// Returns whether the only problem of an image is its missing name.
pub(super) fn lacks_a_name(image: &BrokenImage) -> bool {
    image.error.kind() == Kind::Usage
}

/// Memory in bytes of a fault of a blob, with its line in the want-list.
const FAULT: u64 = 512;

impl Faults {
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            budget: budget.clone(),
            faults: Vec::new(),
            more: 0,
            known: HashMap::new(),
            replaced: Vec::new(),
            wanted: WantList::default(),
            is_cut: false,
        }
    }

    /// Adds the faults found when the bundles were opened.
    pub(super) fn add_unreadable(&mut self, bundle: &Bundle) {
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

    /// Excuses violations of the tar format if there is no other fault. Called beside a supplement, which replaces the blobs
    /// that such a fault hides: an import accepts the same files.
    pub(super) fn excuse_tar(&mut self) {
        if self.more == 0 && self.faults.iter().all(|fault| fault.kind == FaultKind::Tar) {
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
        self.known.insert(key, place);
        self.add(Fault {
            digest: Some(digest.clone()),
            ..fault
        });
    }

    /// Adds these images to the fault of a blob.
    pub(super) fn suffer(&mut self, kind: FaultKind, digest: &Digest, names: &[String]) {
        let Some(Some(place)) = self.known.get(&(kind, digest.clone())) else {
            return;
        };
        let fault = &mut self.faults[*place];
        for name in names {
            match fault.images.len() < LISTED {
                true => fault.images.push(name.as_str().into()),
                false => fault.more_images += 1,
            }
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
        self,
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
        Verification {
            files,
            checked,
            faults: self.faults,
            more_faults: self.more,
            replaced: self.replaced,
            warnings,
            wanted: self.wanted,
        }
    }
}
