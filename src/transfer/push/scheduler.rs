//! Which blob goes where next: a pure state machine, without requests.
//!
//! A *work* is one digest, a *need* is one repository that must have it. The first need of a work leads: it asks the
//! registry and uploads if it must. The others follow when a repository is known that has the blob, and mount it from
//! there. Needs of one work follow one another until the first mount has worked, so that a registry that refuses mounts
//! is never sent the same bytes twice at a time; after that they go side by side.
//!
//! What waits are *groups*: images of one repository with the same blobs, which an image under many names is. So nothing here
//! grows with the number of names; what grows with repositories times blobs takes some bytes each, and is counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::ready::{Ready, cost};
use super::report::Amount;
use crate::error::Error;
use crate::image::budget::{Budget, Held};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::text::LISTED;

/// Blobs, and who needs all of them.
pub(crate) struct Demand {
    /// The blobs, each once.
    pub(crate) blobs: Vec<Descriptor>,
    /// Who needs them.
    pub(crate) groups: Vec<Taker>,
}

/// A group of images of one repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taker {
    /// The group, by its number.
    pub(crate) group: u32,
    /// The repository that it goes to, by its number.
    pub(crate) repository: u32,
    /// Whether all of its blobs are known to be in place.
    pub(crate) in_place: bool,
}

/// What a group waits for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Awaited {
    /// How many needs name it.
    pub(crate) needs: usize,
    /// Blobs that are in place thanks to another image that was found in its repository.
    pub(crate) known: Amount,
}

/// One repository's need of one blob.
#[derive(Debug)]
pub(crate) struct Need {
    /// The repository, by its number.
    pub(crate) repository: usize,
    /// The groups that wait for it, by their numbers; the first one has the blob in its report.
    pub(crate) groups: Vec<usize>,
}

/// Memory in bytes that a blob takes which some repository needs, in this scheduler and in its source.
pub(super) const WORK: u64 = 640;

/// Memory in bytes that is taken for each repository that needs a blob, in a list that has grown.
pub(super) const PAIR: u64 = 2 * size_of::<(u32, u32)>() as u64;

#[derive(Debug)]
struct Work {
    descriptor: Descriptor,
    /// Repositories that need it, and the groups there; each repository in one piece.
    pending: Vec<(u32, u32)>,
    /// How many of them are no longer pending.
    begun: usize,
    /// A repository that is known to have the blob.
    holder: Option<usize>,
    /// Whether a mount of this blob has worked.
    mounts: bool,
    in_flight: usize,
    /// Whether its bytes can be read yet.
    available: bool,
    /// The first demand for it, by the order in which demands are met.
    demand: Rank,
}

/// Where a demand stands: the one with the fewest bytes first; of equal ones the one that was given first.
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

    /// The next need, of groups that are `alive`.
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

    /// The groups that wait, which get nothing any more.
    fn give_up(&mut self) -> impl Iterator<Item = usize> {
        let pending = std::mem::take(&mut self.pending).into_iter();
        pending
            .skip(std::mem::take(&mut self.begun))
            .map(|(_, group)| group as usize)
    }

    /// How many repositories wait.
    fn repositories(&self) -> usize {
        let rest = &self.pending[self.begun..];
        rest.chunk_by(|(a, _), (b, _)| a == b).count()
    }
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) struct Job {
    work: usize,
    /// The blob.
    pub(crate) descriptor: Descriptor,
    /// Where it is needed.
    pub(crate) need: Need,
    /// A repository that has it.
    pub(crate) mount_from: Option<usize>,
    /// Whether the registry is asked first if it is there already.
    pub(crate) ask: bool,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It was there.
    Present,
    /// The registry took it from another repository.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// All blobs of a push.
#[derive(Debug)]
pub(crate) struct Scheduler {
    /// Those of one image together, so that images become complete one after the other; the smallest image first. Within an
    /// image largest first; equal sizes by digest, so that a run that is repeated goes the same way.
    works: Vec<Work>,
    ready: Ready,
    /// Whether the registry has refused a mount. From then on it is asked first, since a refused mount becomes an upload.
    refused: bool,
    /// Whether a mount has worked.
    worked: bool,
    /// Works whose blobs are not available yet.
    deferred: HashMap<Digest, Vec<usize>>,
    /// Blobs finished since the last call of [`drain_finished`](Self::drain_finished).
    finished: Vec<Digest>,
    _held: Vec<Held>,
}

/// Blobs that a group lacks.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    /// How many there are.
    pub(crate) count: usize,
    /// The first ones of them, as many as a message lists.
    pub(crate) first: Vec<Digest>,
    /// Blobs that only attachments of its images need, which are not counted.
    pub(crate) of_attachments: Vec<Digest>,
}

impl Lacking {
    fn add(&mut self, digest: &Digest) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(digest.clone());
        }
    }
}

/// The result of sorting demands into works.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// What each group waits for.
    pub(crate) awaited: HashMap<usize, Awaited>,
    /// Groups for which there is no memory.
    pub(crate) too_large: Vec<(usize, Error)>,
}

impl Scheduler {
    /// Sorts the demands into works, for a run that sends `jobs` bodies at a time. Also returns what each group waits for.
    pub(crate) fn new(demands: impl IntoIterator<Item = Demand>, budget: &Budget, jobs: usize) -> (Self, Sorted) {
        // The size belongs to the key: of two manifests that disagree about it, only one can be right, and that one
        // must not suffer.
        let mut numbers: HashMap<(Digest, u64), u32> = HashMap::new();
        let mut works: Vec<Work> = Vec::new();
        let mut sorted = Sorted::default();
        let mut held = Vec::new();
        // Works, and repositories that have their blob.
        let mut has: Vec<(u32, u32)> = Vec::new();
        let mut has_held = budget.hold(0).ok();
        for (number, Demand { blobs, groups }) in demands.into_iter().enumerate() {
            let costs = blobs.iter().map(|blob| cost(blob.size));
            let demand = (costs.fold(0, u64::saturating_add), number);
            // Counted before anything is kept: demands that are refused must not take memory either.
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
                    // Without the memory for it the registry is asked, which says the same.
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
        let mut ready = Ready::new(jobs);
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

    /// How many blobs are to be placed somewhere, and their bytes, each counted once.
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

    /// The deferred blobs, and in how many repositories each is needed.
    pub(crate) fn deferred(&self) -> impl Iterator<Item = (&Descriptor, usize)> {
        let deferred = self.works.iter().filter(|work| !work.available);
        deferred.map(|work| (&work.descriptor, work.repositories()))
    }

    /// Whether a blob that is in one repository will be mounted into the others, as far as that can be known: it has worked,
    /// and never been refused.
    pub(crate) fn mounts_work(&self) -> bool {
        self.worked && !self.refused
    }

    /// A deferred blob can be read now. Returns the groups that state another size, and that size.
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

    /// The deferred blobs will not arrive. Returns what each group lacks; `is_own` tells whether its images need a blob themselves.
    pub(crate) fn missing_blobs(&mut self, is_own: impl Fn(usize, &Digest) -> bool) -> BTreeMap<usize, Lacking> {
        let mut lacking: BTreeMap<usize, Lacking> = BTreeMap::new();
        let deferred: BTreeMap<Digest, Vec<usize>> = self.deferred.drain().collect();
        for (digest, numbers) in deferred {
            for number in numbers {
                for group in self.works[number].give_up() {
                    let lacking = lacking.entry(group).or_default();
                    match is_own(group, &digest) {
                        true => lacking.add(&digest),
                        false => lacking.of_attachments.push(digest.clone()),
                    }
                }
            }
        }
        lacking
    }

    /// The blobs finished since the last call.
    pub(crate) fn drain_finished(&mut self) -> Vec<Digest> {
        std::mem::take(&mut self.finished)
    }

    /// The next job, if one can be started now. Groups that are not `alive` any more get nothing.
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
            if !work.mounts || !work.is_pending() {
                self.ready.remove(number, size);
            }
            if work.holder.is_none() {
                self.ready.begin(number, size);
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

    /// Takes note of a job that ended well.
    pub(crate) fn placed(&mut self, job: &Job, placed: Placed) {
        self.ready.end(job.work, job.descriptor.size);
        let work = &mut self.works[job.work];
        work.in_flight -= 1;
        work.holder.get_or_insert(job.need.repository);
        match placed {
            Placed::Mounted => {
                work.mounts = true;
                self.worked = true;
            }
            Placed::Uploaded if job.mount_from.is_some() => {
                work.mounts = false;
                self.refused = true;
            }
            _ => {}
        }
        self.wake(job.work);
        self.end(job.work);
    }

    /// Takes note of a job that failed. With `at_source` no repository will get the blob: returns the groups that wait for it
    /// elsewhere. Else another repository may take it.
    pub(crate) fn failed(&mut self, job: &Job, at_source: bool) -> Vec<usize> {
        self.ready.end(job.work, job.descriptor.size);
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

    fn end(&mut self, number: usize) {
        let work = &self.works[number];
        if !work.is_pending() && work.in_flight == 0 {
            self.finished.push(work.descriptor.digest.clone());
        }
    }

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
