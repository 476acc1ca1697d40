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

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::ready::{Ready, cost};
use super::report::Amount;
use crate::error::Error;
use crate::image::budget::{Budget, Held};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::registry::Lines;
use crate::text::LISTED;

/// Blobs, and the groups that need all of them.
pub(crate) struct Demand {
    /// Blobs, without duplicates.
    pub(crate) blobs: Vec<Descriptor>,
    /// Groups that need the blobs.
    pub(crate) groups: Vec<Taker>,
}

/// A group of images of one repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taker {
    /// Number of the group.
    pub(crate) group: u32,
    /// Number of the group's repository.
    pub(crate) repository: u32,
    /// Whether all blobs of the group are known to be in place.
    pub(crate) in_place: bool,
}

/// Needs that a group waits for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Awaited {
    /// Number of needs that include the group.
    pub(crate) needs: usize,
    /// Blobs in place because another image was found in the group's repository.
    pub(crate) known: Amount,
}

/// The need of one repository for one blob.
#[derive(Debug)]
pub(crate) struct Need {
    /// Number of the repository.
    pub(crate) repository: usize,
    /// Numbers of the groups that wait for the blob; the first group has the blob in its report.
    pub(crate) groups: Vec<usize>,
}

/// Estimated memory of a needed blob, in this scheduler and in its source, in bytes.
pub(super) const WORK: u64 = 640;

/// Memory of each repository that needs a blob, in bytes, with the spare capacity of a grown list.
pub(super) const PAIR: u64 = 2 * size_of::<(u32, u32)>() as u64;

/// One digest, with the repositories that need the blob.
#[derive(Debug)]
struct Work {
    descriptor: Descriptor,
    /// Pairs of repository and group that need the blob, sorted by repository.
    pending: Vec<(u32, u32)>,
    /// Number of pairs at the start of `pending` that are already handled.
    begun: usize,
    /// A repository that is known to have the blob.
    holder: Option<usize>,
    /// Whether a mount of this blob has succeeded.
    mounts: bool,
    in_flight: usize,
    /// Whether the blob's bytes can be read yet.
    available: bool,
    /// Rank of the first demand that includes the blob.
    demand: Rank,
}

/// Rank of a demand: its cost, then its position in the input. The smallest rank is met first.
type Rank = (u64, usize);

impl Work {
    fn new(descriptor: &Descriptor, demand: Rank) -> Self {
        Self {
            demand,
            descriptor: descriptor.clone(),
            pending: Vec::new(),
            begun: 0,
            holder: None,
            mounts: false,
            in_flight: 0,
            available: true,
        }
    }

    fn is_pending(&self) -> bool {
        self.begun < self.pending.len()
    }

    /// Takes the next need, with only the groups that are `alive`.
    fn next_need(&mut self, alive: &impl Fn(usize) -> bool) -> Option<Need> {
        while let Some(&(repository, _)) = self.pending.get(self.begun) {
            let rest = &self.pending[self.begun..];
            let piece = rest.iter().take_while(|(other, _)| *other == repository);
            let groups: Vec<usize> = piece.map(|(_, group)| *group as usize).collect();
            self.begun += groups.len();
            let groups: Vec<usize> = groups.into_iter().filter(|group| alive(*group)).collect();
            if !groups.is_empty() {
                let repository = repository as usize;
                return Some(Need { repository, groups });
            }
        }
        self.pending = Vec::new();
        self.begun = 0;
        None
    }

    /// Removes the pending needs and returns their groups, which will not get the blob.
    fn give_up(&mut self) -> impl Iterator<Item = usize> {
        let pending = std::mem::take(&mut self.pending).into_iter();
        pending
            .skip(std::mem::take(&mut self.begun))
            .map(|(_, group)| group as usize)
    }

    /// Returns the number of repositories that wait.
    fn repositories(&self) -> usize {
        let rest = &self.pending[self.begun..];
        rest.chunk_by(|(a, _), (b, _)| a == b).count()
    }
}

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

/// Result of sorting demands into works.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// Needs that each group waits for.
    pub(crate) awaited: HashMap<usize, Awaited>,
    /// Groups whose demands exceed the memory budget, with the error.
    pub(crate) too_large: Vec<(usize, Error)>,
}

impl Scheduler {
    /// Sorts the demands into works, to be sent over one line. Also returns the needs of each group.
    pub(crate) fn new(demands: impl IntoIterator<Item = Demand>, budget: &Budget) -> (Self, Sorted) {
        // The size belongs to the key: if two manifests state different sizes, only one can be right, and the wrong one must
        // not make the images of the right one fail.
        // A B-tree grows node by node; a hash table would hold all entries twice while it grows.
        let mut numbers: BTreeMap<(Digest, u64), u32> = BTreeMap::new();
        let mut works: Vec<Work> = Vec::new();
        let mut sorted = Sorted::default();
        let mut held = Vec::new();
        // Pairs of work and repository whose blob is in place.
        let mut has: Vec<(u32, u32)> = Vec::new();
        let mut has_held = budget.hold(0).ok();
        for (number, Demand { blobs, groups }) in demands.into_iter().enumerate() {
            let costs = blobs.iter().map(|blob| cost(blob.size));
            let demand = (costs.fold(0, u64::saturating_add), number);
            // The memory is counted before anything is kept, so that refused demands take no memory.
            let is_new = |blob: &&Descriptor| !numbers.contains_key(&(blob.digest.clone(), blob.size));
            let new = blobs.iter().filter(is_new).count() as u64;
            match budget.hold(new * WORK) {
                Ok(taken) => held.push(taken),
                Err(error) => {
                    let refused = groups.iter().filter(|taker| !taker.in_place);
                    let refused = refused.map(|taker| (taker.group as usize, error.clone()));
                    sorted.too_large.extend(refused);
                    continue;
                }
            }
            let ids: Vec<u32> = blobs
                .iter()
                .map(|blob| {
                    let number = *numbers.entry((blob.digest.clone(), blob.size)).or_insert_with(|| {
                        works.push(Work::new(blob, demand));
                        works.len() as u32 - 1
                    });
                    let work = &mut works[number as usize];
                    work.demand = work.demand.min(demand);
                    number
                })
                .collect();
            let pairs = ids.len() as u64 * PAIR;
            for taker in groups {
                if taker.in_place {
                    for id in &ids {
                        works[*id as usize].holder = Some(taker.repository as usize);
                    }
                    // If there is no memory for these pairs, the registry is asked, with the same result.
                    let taken = has.len() as u64 * PAIR + pairs;
                    if has_held.as_mut().is_some_and(|held| held.resize(taken).is_ok()) {
                        has.extend(ids.iter().map(|id| (*id, taker.repository)));
                    }
                    continue;
                }
                match budget.hold(pairs) {
                    Ok(taken) => held.push(taken),
                    Err(error) => {
                        sorted.too_large.push((taker.group as usize, error));
                        continue;
                    }
                }
                for id in &ids {
                    works[*id as usize].pending.push((taker.repository, taker.group));
                }
            }
        }
        drop(numbers);
        has.sort_unstable();
        for (id, work) in works.iter_mut().enumerate() {
            work.pending.sort_by_key(|(repository, _)| *repository);
            let size = work.descriptor.size;
            work.pending.retain(|(repository, group)| {
                let awaited = sorted.awaited.entry(*group as usize).or_default();
                if has.binary_search(&(id as u32, *repository)).is_ok() {
                    awaited.known.one(size);
                    return false;
                }
                awaited.needs += 1;
                true
            });
        }
        works.retain(Work::is_pending);
        works.sort_by(|a, b| {
            let of = |work: &Work| (work.demand, Reverse(work.descriptor.size));
            of(a)
                .cmp(&of(b))
                .then_with(|| a.descriptor.digest.cmp(&b.descriptor.digest))
        });
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
