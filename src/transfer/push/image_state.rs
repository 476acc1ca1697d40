//! State and report of each image of a push.

use super::compare::Comparison;
use super::left_referrers::{LeftReferrers, LostBlobs};
use super::publish::Published;
use super::report::{Counts, ImageReport, Outcome};
use super::request::{PushItem, PushRequest};
use super::scheduler::Placed;
use super::tag::TagAction;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::progress::{Event, Progress};

/// An image of a push.
pub(super) struct Image {
    /// What is pushed, until it is at the destination: the report takes the memory of its manifests.
    item: Option<PushItem>,
    /// Number of the image's repository.
    pub(super) repository: usize,
    /// Digest that the tag held before the push.
    pub(super) before: Option<Digest>,
    /// Whether the image is still to be pushed: it is neither done nor failed.
    pub(super) alive: bool,
    /// Whether another tag of the image's repository gets the same digest.
    pub(super) shares_digest: bool,
    /// Blobs of attachments that the image's repository did not get.
    pub(super) lost: LostBlobs,
    /// Signatures that a dry run found to stay away.
    pub(super) kept_away: LeftReferrers,
    /// The report, created with the first result. It repeats what the item says, and the plan needs the memory before that.
    report: Option<Box<ImageReport>>,
}

impl Image {
    pub(super) fn new(item: PushItem, repository: usize) -> Self {
        Self {
            item: Some(item),
            repository,
            before: None,
            alive: true,
            shares_digest: false,
            lost: LostBlobs::default(),
            kept_away: LeftReferrers::default(),
            report: None,
        }
    }

    /// Returns what is pushed.
    ///
    /// # Panics
    /// If the image is at the destination.
    pub(super) fn item(&self) -> &PushItem {
        present(&self.item)
    }

    /// Returns the report of the image, to add a result.
    pub(super) fn report(&mut self) -> &mut ImageReport {
        let Self { item, report, .. } = self;
        report.get_or_insert_with(|| Box::new(ImageReport::new(present(item))))
    }

    /// Returns the report of the image when the push has ended.
    pub(super) fn into_report(self) -> Box<ImageReport> {
        let item = &self.item;
        self.report.unwrap_or_else(|| Box::new(ImageReport::new(present(item))))
    }

    /// Returns the reason why the image failed, if it failed.
    pub(super) fn error(&self) -> Option<&Error> {
        self.report.as_ref()?.error.as_ref()
    }

    /// Applies the comparison with the destination. Returns whether the image's blobs are known to be in place.
    pub(super) fn apply(&mut self, comparison: Result<Comparison>) -> bool {
        let action = comparison.map(|comparison| {
            self.kept_away = comparison.kept_away;
            comparison.action
        });
        match action {
            Ok(TagAction::Done) => {
                self.alive = false;
                let kept_away = std::mem::take(&mut self.kept_away);
                let report = self.report();
                report.outcome = Outcome::Unchanged;
                report.add_left_out_referrers(kept_away);
                return true;
            }
            Ok(TagAction::LeaveAlone(other)) => {
                self.alive = false;
                let report = self.report();
                report.outcome = Outcome::LeftAlone;
                report.referrers.clear();
                report.pushed = Some(other);
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

    /// Fails the image and removes the expected result from its report.
    fn fail(&mut self, error: &Error) {
        self.alive = false;
        self.report().fail(error.clone());
    }
}

fn present(item: &Option<PushItem>) -> &PushItem {
    item.as_ref()
        .expect("the item of an image is dropped with its last result")
}

/// Images of one repository with the same blobs, such as one image under several names.
/// The images of a group wait for their blobs together.
#[derive(Default)]
pub(super) struct Group {
    /// Number of the image's repository.
    pub(super) repository: usize,
    /// Numbers of the images that need the group's blobs.
    pub(super) members: Vec<usize>,
    /// Whether the blobs are in place, because an image of the group was found at the destination.
    pub(super) in_place: bool,
    /// Number of blobs that are not known to be in place yet.
    pub(super) waiting: usize,
    /// Whether the image is still to be pushed: it is neither done nor failed.
    pub(super) alive: bool,
    /// Blobs of attachments that the group's repository does not get.
    pub(super) lost: LostBlobs,
    /// Counts of the group's blobs.
    pub(super) counts: Counts,
}

impl Group {
    /// Records that a blob of `size` bytes is in place.
    /// `moved` states whether it was uploaded or mounted for this group. Returns whether the group waits for no more blobs
    /// and is alive.
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
    /// Number of images that are still to be pushed.
    pub(super) alive: usize,
    /// Whether an image has failed.
    pub(super) failed: bool,
    pub(super) request: &'a PushRequest,
    pub(super) progress: &'a Progress,
    /// Whether no new work is started, because an image failed and the request has `fail_fast`.
    pub(super) stop: bool,
}

impl Images<'_> {
    /// Returns whether no image can succeed any more, and at least one failed.
    pub(super) fn lost(&self) -> bool {
        self.alive == 0 && self.failed
    }

    /// Returns the number of manifests to put.
    pub(super) fn manifests(&self) -> u64 {
        let alive = self.list.iter().filter(|image| image.alive && !self.request.dry_run);
        alive
            .map(|image| image.item().tree.pushed().below.len() as u64 + 1)
            .sum()
    }

    /// Adds the counts of a group to the reports of its images.
    /// Moved blobs count for the first image, and as skipped for the other images. The counts of the group are zero after
    /// that.
    pub(super) fn share_counts(&mut self, group: usize) {
        let group = &mut self.groups[group];
        let mut counts = std::mem::take(&mut group.counts);
        for &number in &group.members {
            self.list[number].report().counts.add(&counts);
            counts = counts.all_skipped();
        }
    }

    /// Records an image of a dry run whose blobs are all in place or planned.
    pub(super) fn planned(&mut self, number: usize) {
        let image = &mut self.list[number];
        let mut left = std::mem::take(&mut image.kept_away);
        left.leave_lost_blobs(&image.item().tree, &image.lost);
        image.alive = false;
        self.alive -= 1;
        let before = image.before.take();
        let report = image.report();
        report.outcome = Outcome::Planned;
        report.replaced = before.filter(|before| report.pushed.as_ref() != Some(before));
        report.add_left_out_referrers(left);
        image.item = None;
    }

    /// Records the result of publishing an image.
    pub(super) fn published(&mut self, number: usize, outcome: Result<Published>) {
        let image = &mut self.list[number];
        match outcome {
            Err(error) => self.fail(number, &error),
            Ok(published) => {
                image.alive = false;
                self.alive -= 1;
                let root = image.item().tree.pushed().root.clone();
                let before = image.before.take();
                let is_other = |before: &Digest| *before != published.digest && !root.has_digest(before);
                let report = image.report();
                report.outcome = Outcome::Pushed;
                report.pinned_digest_missing = published.pinned_digest_missing;
                report.index = Some(published.form);
                report.pushed_again = before.as_ref().is_some_and(|before| !is_other(before));
                report.replaced = before.filter(is_other);
                report.pushed = Some(published.digest);
                report.counts.add(&published.effects.repaired);
                report.warnings.append(published.warnings);
                report.add_left_out_referrers(published.left);
                image.item = None;
                self.emit_done(number);
            }
        }
    }

    /// Fails an image that is still to be pushed. With `fail_fast`, the push stops.
    pub(super) fn fail(&mut self, number: usize, error: &Error) {
        let image = &mut self.list[number];
        if image.alive {
            image.fail(error);
            self.alive -= 1;
            self.failed = true;
            self.stop |= self.request.fail_fast;
        }
    }

    /// Fails all images of a group.
    pub(super) fn fail_group(&mut self, group: usize, error: &Error) {
        if std::mem::take(&mut self.groups[group].alive) {
            for number in self.groups[group].members.clone() {
                self.fail(number, error);
            }
        }
    }

    /// Fails all images that are left when the push ends.
    pub(super) fn give_up(&mut self) {
        for group in 0..self.groups.len() {
            self.share_counts(group);
        }
        for number in 0..self.list.len() {
            self.fail(number, &not_tried());
        }
    }

    /// Emits the event for an image at the destination. The report has the image's warnings.
    pub(super) fn emit_done(&mut self, number: usize) {
        let report = self.list[number].report();
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

/// Returns the error of an image that was not pushed after another image failed with `fail_fast`.
fn not_tried() -> Error {
    Error::new(Kind::Cancelled, "not pushed, since another image failed before it").with_shared_cause()
}

/// Returns the report of an image that was not tried.
pub(super) fn untried(item: &PushItem) -> ImageReport {
    let mut report = ImageReport::new(item);
    report.fail(not_tried());
    report
}
