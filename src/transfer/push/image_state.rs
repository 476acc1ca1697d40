//! The images of a push: what each of them waits for, and what is written down about it.

use super::left_referrers::{LeftReferrers, LostBlobs};
use super::publish::Published;
use super::report::{Counts, ImageReport, Outcome};
use super::request::{PushItem, PushRequest};
use super::scheduler::Placed;
use super::tag::TagAction;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::progress::{Event, Progress};

/// An image on its way.
pub(super) struct Image {
    pub(super) item: PushItem,
    /// Its repository, by its number.
    pub(super) repository: usize,
    /// What the tag held before.
    pub(super) before: Option<Digest>,
    /// Whether something may still be done for it.
    pub(super) alive: bool,
    /// Blobs of attachments that its repository did not get.
    pub(super) lost: LostBlobs,
    pub(super) report: ImageReport,
}

impl Image {
    pub(super) fn new(item: PushItem, repository: usize) -> Self {
        Self {
            report: ImageReport::new(&item),
            item,
            repository,
            before: None,
            alive: true,
            lost: LostBlobs::default(),
        }
    }

    /// Takes note of what is to be done. Returns whether its blobs are known to be in place.
    pub(super) fn apply(&mut self, verdict: Result<TagAction>) -> bool {
        match verdict {
            Ok(TagAction::Done) => {
                self.alive = false;
                self.report.outcome = Outcome::Unchanged;
                return true;
            }
            Ok(TagAction::LeaveAlone(other)) => {
                self.alive = false;
                self.report.outcome = Outcome::LeftAlone;
                self.report.pushed = Some(other);
            }
            Ok(TagAction::Push(before)) => self.before = before,
            Ok(TagAction::PushManifests(before)) => {
                self.before = Some(before);
                return true;
            }
            Err(error) => self.fail(&error),
        }
        false
    }

    /// Fails the image; the report no longer says what it would have been.
    fn fail(&mut self, error: &Error) {
        self.alive = false;
        self.report.fail(error.clone());
    }
}

/// Images of one repository that have the same blobs: one image under several names, say. They wait as one.
#[derive(Default)]
pub(super) struct Group {
    /// Its repository, by its number.
    pub(super) repository: usize,
    /// The images that need its blobs, by their numbers.
    pub(super) members: Vec<usize>,
    /// Whether its blobs are known to be in place, thanks to one of its images that is.
    pub(super) in_place: bool,
    /// Blobs that are not known to be in place yet.
    pub(super) waiting: usize,
    /// Whether something may still be done for it.
    pub(super) alive: bool,
    /// Blobs of attachments that its repository does not get.
    pub(super) lost: LostBlobs,
    /// Counts of its blobs.
    pub(super) counts: Counts,
}

impl Group {
    /// Takes note of a blob of this size that is in place; `moved` tells whether that was done for this group. Returns whether
    /// it was the last one.
    pub(super) fn placed(&mut self, placed: Placed, moved: bool, size: u64) -> bool {
        match placed {
            Placed::Uploaded if moved => self.counts.uploaded.one(size),
            Placed::Mounted if moved => self.counts.mounted.one(size),
            _ => self.counts.skipped.one(size),
        }
        self.waiting -= 1;
        self.waiting == 0 && self.alive
    }
}

/// All images of a push.
pub(super) struct Images<'a> {
    pub(super) list: Vec<Image>,
    pub(super) groups: Vec<Group>,
    /// How many images something may still be done for.
    pub(super) alive: usize,
    /// Whether an image has failed.
    pub(super) failed: bool,
    pub(super) request: &'a PushRequest,
    pub(super) progress: &'a Progress,
    /// Whether nothing new is to be begun, since an image failed and that is to be the end.
    pub(super) stop: bool,
}

impl Images<'_> {
    /// Whether no image can succeed any more, and not all have.
    pub(super) fn lost(&self) -> bool {
        self.alive == 0 && self.failed
    }

    /// How many manifests are put.
    pub(super) fn manifests(&self) -> u64 {
        let alive = self.list.iter().filter(|image| image.alive && !self.request.dry_run);
        alive.map(|image| image.item.tree.pushed().below.len() as u64 + 1).sum()
    }

    /// Gives the images of a group their share of its counts: what was moved counts for the first one, and was there already for
    /// the others. Nothing is counted for a group after that.
    pub(super) fn share_counts(&mut self, group: usize) {
        let group = &mut self.groups[group];
        let mut counts = std::mem::take(&mut group.counts);
        for &number in &group.members {
            self.list[number].report.counts.add(&counts);
            counts = counts.all_skipped();
        }
    }

    /// All blobs of an image are in place, and nothing is to be done about it.
    pub(super) fn planned(&mut self, number: usize) {
        let image = &mut self.list[number];
        image.alive = false;
        self.alive -= 1;
        image.report.outcome = Outcome::Planned;
        let before = image.before.take();
        image.report.replaced = before.filter(|before| image.report.pushed.as_ref() != Some(before));
        let left = LeftReferrers::from_lost_blobs(&image.item.tree, &image.lost);
        image.report.add_left_out_referrers(left);
    }

    pub(super) fn published(&mut self, number: usize, outcome: Result<Published>) {
        let image = &mut self.list[number];
        match outcome {
            Err(error) => self.fail(number, &error),
            Ok(published) => {
                image.alive = false;
                self.alive -= 1;
                let report = &mut image.report;
                report.outcome = Outcome::Pushed;
                report.pinned_digest_missing = published.pinned_digest_missing;
                report.index = Some(published.form);
                let is_other =
                    |before: &Digest| *before != published.digest && !image.item.tree.pushed().root.has_digest(before);
                report.replaced = image.before.take().filter(is_other);
                report.pushed = Some(published.digest);
                report.counts.add(&published.effects.repaired);
                report.warnings.append(published.warnings);
                report.add_left_out_referrers(published.left);
                self.tell(number);
            }
        }
    }

    pub(super) fn fail(&mut self, number: usize, error: &Error) {
        let image = &mut self.list[number];
        if image.alive {
            image.fail(error);
            self.alive -= 1;
            self.failed = true;
            self.stop |= self.request.fail_fast;
        }
    }

    /// None of the images of a group gets its blobs.
    pub(super) fn fail_group(&mut self, group: usize, error: &Error) {
        if std::mem::take(&mut self.groups[group].alive) {
            for number in self.groups[group].members.clone() {
                self.fail(number, error);
            }
        }
    }

    /// Gives up what is left when nothing more is done.
    pub(super) fn give_up(&mut self) {
        for group in 0..self.groups.len() {
            self.share_counts(group);
        }
        for number in 0..self.list.len() {
            self.fail(number, &not_tried());
        }
    }

    /// Reports that an image is at the destination; its warnings are in the report.
    pub(super) fn tell(&mut self, number: usize) {
        let report = &self.list[number].report;
        if self.request.dry_run || report.outcome == Outcome::LeftAlone {
            return;
        }
        if let (Some(reference), Some(digest), None) = (&report.destination, &report.pushed, &report.error) {
            self.progress.emit(Event::ImageDone {
                reference: reference.into(),
                digest: digest.to_string(),
                unchanged: report.outcome == Outcome::Unchanged,
            });
        }
    }
}

/// Why an image is not pushed when another one failed and that is to be the end.
fn not_tried() -> Error {
    Error::new(Kind::Cancelled, "not pushed, since another image failed before it").with_shared_cause()
}

/// The report of an image that was not tried.
pub(super) fn untried(item: &PushItem) -> ImageReport {
    let mut report = ImageReport::new(item);
    report.fail(not_tried());
    report
}
