//! Selects the next blob and its repository: a pure state machine, without requests.
//!
//! A *work* is one digest, and a *need* is one repository that must have the blob.
//! The first need of a work runs alone: its job asks the registry and uploads the blob if necessary. The other needs of the
//! work follow once a repository with the blob is known, and mount the blob from there. Until the first mount has
//! succeeded, the needs of a work run one at a time, so that a registry that refuses mounts never receives the same bytes
//! twice concurrently. After that they run concurrently.
//!
//! *Groups* wait for blobs: images of one repository with the same blobs, such as one image under many names. So no memory
//! here grows with the number of names. The memory for each pair of repository and blob is a few bytes, and counts against
//! the budget.

use std::collections::{BTreeMap, HashMap};

use super::ready::Ready;
use super::work::{Demand, Need, Sorted, Sorting, Work};
use crate::image::budget::{Budget, Held};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::registry::Lines;
use crate::text::LISTED;

/// The next step of a push: one blob for one repository.
#[derive(Debug)]
pub(crate) struct Job {
    work: usize,
    /// Descriptor of the blob.
    pub(crate) descriptor: Descriptor,
    /// Repository and groups that need the blob.
    pub(crate) need: Need,
    /// Repository that has the blob, as a mount source.
    pub(crate) mount_from: Option<usize>,
    /// Whether the registry is asked first whether the blob is present.
    pub(crate) ask: bool,
}

/// Result of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// The blob was already present.
    Present,
    /// The registry mounted the blob from another repository.
    Mounted,
    /// The bytes of the blob were sent.
    Uploaded,
}

/// State of all blobs of a push.
#[derive(Debug)]
pub(crate) struct Scheduler {
    /// Blobs of one image are adjacent, so that images become complete one after the other.
    /// The smallest image comes first. Within an image, the largest blob comes first; equal sizes are ordered by digest, so
    /// that a repeated run has the same order.
    works: Vec<Work>,
    ready: Ready,
    /// Whether the registry has refused a mount.
    /// From then on the registry is asked before each mount, since a refused mount becomes an upload.
    refused: bool,
    /// Whether any mount has succeeded.
    worked: bool,
    /// Works whose blobs are not available yet.
    deferred: HashMap<Digest, Vec<usize>>,
    /// Blobs finished since the last call of [`drain_finished`](Self::drain_finished).
    finished: Vec<Digest>,
    _held: Vec<Held>,
}

/// Missing blobs of a group.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    /// Number of missing blobs.
    pub(crate) count: usize,
    /// The first missing blobs, as many as a message lists.
    pub(crate) first: Vec<Digest>,
    /// Missing blobs that only attachments of the group's images need. Such blobs are not included in `count`.
    pub(crate) attachment_blobs: Vec<Digest>,
}

impl Lacking {
    fn add(&mut self, digest: &Digest) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(digest.clone());
        }
    }
}

impl Scheduler {
    /// Sorts the demands into works, to be sent over one line. Also returns the needs of each group.
    pub(crate) fn new(demands: impl IntoIterator<Item = Demand>, budget: &Budget) -> (Self, Sorted) {
        let mut sorting = Sorting::new(budget);
        for (number, demand) in demands.into_iter().enumerate() {
            sorting.add(number, demand);
        }
        let (works, held, sorted) = sorting.finish();
        let mut ready = Ready::new();
        for (number, work) in works.iter().enumerate() {
            ready.insert(number, work.descriptor.size, work.holder.is_none());
        }
        let queue = Self {
            works,
            ready,
            refused: false,
            worked: false,
            deferred: HashMap::new(),
            finished: Vec::new(),
            _held: held,
        };
        (queue, sorted)
    }

    /// Returns the number of distinct blobs to put into repositories, and their total size in bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        let bytes = self
            .works
            .iter()
            .fold(0u64, |sum, work| sum.saturating_add(work.descriptor.size));
        (self.works.len() as u64, bytes)
    }

    /// Defers all blobs whose bytes are not `available` yet, until they arrive.
    pub(crate) fn defer_unless(&mut self, available: impl Fn(&Descriptor) -> bool) {
        for (number, work) in self.works.iter_mut().enumerate() {
            work.available = available(&work.descriptor);
            if !work.available {
                self.ready.remove(number, work.descriptor.size);
                self.deferred
                    .entry(work.descriptor.digest.clone())
                    .or_default()
                    .push(number);
            }
        }
    }

    /// Returns the deferred blobs, each with the number of repositories that need it.
    pub(crate) fn deferred(&self) -> impl Iterator<Item = (&Descriptor, usize)> {
        let deferred = self.works.iter().filter(|work| !work.available);
        deferred.map(|work| (&work.descriptor, work.repositories()))
    }

    /// Predicts whether a blob in one repository can be mounted into other repositories.
    /// The prediction requires a successful mount and no refused mount.
    pub(crate) fn mounts_work(&self) -> bool {
        self.worked && !self.refused
    }

    /// Makes a deferred blob available.
    /// Returns the groups whose manifests state another size, each with that size.
    pub(crate) fn arrived(&mut self, digest: &Digest, size: u64) -> Vec<(usize, u64)> {
        let mut lost = Vec::new();
        let mut of_use = false;
        for number in self.deferred.remove(digest).unwrap_or_default() {
            let work = &mut self.works[number];
            work.available = true;
            if work.descriptor.size == size {
                of_use = true;
                self.ready.insert(number, size, work.holder.is_none());
            } else {
                let size = work.descriptor.size;
                lost.extend(work.give_up().map(|group| (group, size)));
            }
        }
        if !of_use {
            self.finished.push(digest.clone());
        }
        lost
    }

    /// Gives up the deferred blobs, which will not arrive. Returns the missing blobs of each group; `is_own` states whether
    /// the group's images need a blob themselves.
    pub(crate) fn missing_blobs(&mut self, is_own: impl Fn(usize, &Digest) -> bool) -> BTreeMap<usize, Lacking> {
        let mut lacking: BTreeMap<usize, Lacking> = BTreeMap::new();
        let deferred: BTreeMap<Digest, Vec<usize>> = self.deferred.drain().collect();
        for (digest, numbers) in deferred {
            for number in numbers {
                for group in self.works[number].give_up() {
                    let lacking = lacking.entry(group).or_default();
                    match is_own(group, &digest) {
                        true => lacking.add(&digest),
                        false => lacking.attachment_blobs.push(digest.clone()),
                    }
                }
            }
        }
        lacking
    }

    /// Returns the blobs finished since the last call.
    pub(crate) fn drain_finished(&mut self) -> Vec<Digest> {
        std::mem::take(&mut self.finished)
    }

    /// Sets the number of bodies that can be sent concurrently from now on.
    pub(crate) fn set_lines(&mut self, lines: Lines) {
        self.ready.set_lines(lines);
    }

    /// Returns the next job that can be started now, if any. Groups that are not `alive` are skipped.
    pub(crate) fn next(&mut self, alive: impl Fn(usize) -> bool) -> Option<Job> {
        while let Some(number) = self.ready.first() {
            let work = &mut self.works[number];
            let size = work.descriptor.size;
            let Some(need) = work.next_need(&alive) else {
                self.ready.remove(number, size);
                self.end(number);
                continue;
            };
            work.in_flight += 1;
            // Until a mount has succeeded, a work runs one need at a time: `wake` adds the work again after each job.
            if !work.mounts || !work.is_pending() {
                self.ready.remove(number, size);
            }
            if work.holder.is_none() {
                self.ready.start(number, size);
            }
            return Some(Job {
                work: number,
                descriptor: work.descriptor.clone(),
                mount_from: work.holder,
                ask: work.holder.is_none() || self.refused,
                need,
            });
        }
        None
    }

    /// Records a job that succeeded.
    pub(crate) fn placed(&mut self, job: &Job, placed: Placed) {
        self.ready.end(job.work, placed == Placed::Uploaded);
        let work = &mut self.works[job.work];
        work.in_flight -= 1;
        work.holder.get_or_insert(job.need.repository);
        match placed {
            Placed::Mounted => {
                work.mounts = true;
                self.worked = true;
            }
            // The registry refused the mount, and the job uploaded the blob instead.
            Placed::Uploaded if job.mount_from.is_some() => {
                work.mounts = false;
                self.refused = true;
            }
            _ => {}
        }
        self.wake(job.work);
        self.end(job.work);
    }

    /// Records a job that failed.
    /// With `at_source`, no repository can get the blob: the groups that wait for it elsewhere are returned. Otherwise
    /// another repository may get it.
    pub(crate) fn failed(&mut self, job: &Job, at_source: bool) -> Vec<usize> {
        self.ready.end(job.work, false);
        let work = &mut self.works[job.work];
        work.in_flight -= 1;
        let lost = match at_source {
            true => work.give_up().collect(),
            false => Vec::new(),
        };
        self.wake(job.work);
        self.end(job.work);
        lost
    }

    /// Adds the blob to the finished blobs, if no need of its work is pending or in flight.
    fn end(&mut self, number: usize) {
        let work = &self.works[number];
        if !work.is_pending() && work.in_flight == 0 {
            self.finished.push(work.descriptor.digest.clone());
        }
    }

    /// Makes a work ready again, if another of its needs can be started.
    fn wake(&mut self, number: usize) {
        let work = &self.works[number];
        if work.is_pending() && (work.in_flight == 0 || work.mounts) {
            self.ready.insert(number, work.descriptor.size, work.holder.is_none());
        }
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
