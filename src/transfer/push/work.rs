//! The blobs of a push, each with the repositories that need it. They are sorted from the demands of groups of images.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::ready::cost;
use super::report::Amount;
use crate::error::Error;
use crate::image::budget::{Budget, Held};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;

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
pub(super) struct Work {
    pub(super) descriptor: Descriptor,
    /// Pairs of repository and group that need the blob, sorted by repository.
    pub(super) pending: Vec<(u32, u32)>,
    /// Number of pairs at the start of `pending` that are already handled.
    pub(super) begun: usize,
    /// A repository that is known to have the blob.
    pub(super) holder: Option<usize>,
    /// Whether a mount of this blob has succeeded.
    pub(super) mounts: bool,
    pub(super) in_flight: usize,
    /// Whether the blob's bytes can be read yet.
    pub(super) available: bool,
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

    pub(super) fn is_pending(&self) -> bool {
        self.begun < self.pending.len()
    }

    /// Takes the next need, with only the groups that are `alive`.
    pub(super) fn next_need(&mut self, alive: &impl Fn(usize) -> bool) -> Option<Need> {
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
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = usize> {
        let pending = std::mem::take(&mut self.pending).into_iter();
        pending
            .skip(std::mem::take(&mut self.begun))
            .map(|(_, group)| group as usize)
    }

    /// Returns the number of repositories that wait.
    pub(super) fn repositories(&self) -> usize {
        let rest = &self.pending[self.begun..];
        rest.chunk_by(|(a, _), (b, _)| a == b).count()
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

/// Demands that are being sorted into works.
pub(super) struct Sorting<'a> {
    budget: &'a Budget,
    /// The size belongs to the key: if two manifests state different sizes, only one can be right, and the wrong one must not
    /// make the images of the right one fail. A B-tree grows node by node; a hash table would hold all entries twice while it
    /// grows.
    numbers: BTreeMap<(Digest, u64), u32>,
    works: Vec<Work>,
    held: Vec<Held>,
    /// Pairs of work and repository whose blob is in place.
    has: Vec<(u32, u32)>,
    has_held: Option<Held>,
    sorted: Sorted,
}

impl<'a> Sorting<'a> {
    pub(super) fn new(budget: &'a Budget) -> Self {
        Self {
            budget,
            numbers: BTreeMap::new(),
            works: Vec::new(),
            held: Vec::new(),
            has: Vec::new(),
            has_held: budget.hold(0).ok(),
            sorted: Sorted::default(),
        }
    }

    /// Adds a demand. `number` is its position in the input.
    pub(super) fn add(&mut self, number: usize, Demand { blobs, groups }: Demand) {
        // The memory is counted before anything is kept, so that refused demands take no memory.
        let is_new = |blob: &&Descriptor| !self.numbers.contains_key(&(blob.digest.clone(), blob.size));
        let new = blobs.iter().filter(is_new).count() as u64;
        match self.budget.hold(new * WORK) {
            Ok(taken) => self.held.push(taken),
            Err(error) => {
                let refused = groups.iter().filter(|taker| !taker.in_place);
                let refused = refused.map(|taker| (taker.group as usize, error.clone()));
                self.sorted.too_large.extend(refused);
                return;
            }
        }
        let ids = self.ids(&blobs, number);
        let pairs = ids.len() as u64 * PAIR;
        for taker in groups {
            if taker.in_place {
                for id in &ids {
                    self.works[*id as usize].holder = Some(taker.repository as usize);
                }
                // If there is no memory for these pairs, the registry is asked, with the same result.
                let taken = self.has.len() as u64 * PAIR + pairs;
                if self.has_held.as_mut().is_some_and(|held| held.resize(taken).is_ok()) {
                    self.has.extend(ids.iter().map(|id| (*id, taker.repository)));
                }
                continue;
            }
            match self.budget.hold(pairs) {
                Ok(taken) => self.held.push(taken),
                Err(error) => {
                    self.sorted.too_large.push((taker.group as usize, error));
                    continue;
                }
            }
            for id in &ids {
                self.works[*id as usize].pending.push((taker.repository, taker.group));
            }
        }
    }

    /// Returns the numbers of the works of a demand's blobs, new ones included.
    fn ids(&mut self, blobs: &[Descriptor], number: usize) -> Vec<u32> {
        let costs = blobs.iter().map(|blob| cost(blob.size));
        let demand = (costs.fold(0, u64::saturating_add), number);
        let id = |blob: &Descriptor| {
            let id = *self.numbers.entry((blob.digest.clone(), blob.size)).or_insert_with(|| {
                self.works.push(Work::new(blob, demand));
                self.works.len() as u32 - 1
            });
            let work = &mut self.works[id as usize];
            work.demand = work.demand.min(demand);
            id
        };
        blobs.iter().map(id).collect()
    }

    /// Returns the works with something left to do, in the order in which they are sent, the memory that they take, and the
    /// needs of each group.
    pub(super) fn finish(self) -> (Vec<Work>, Vec<Held>, Sorted) {
        let Self {
            numbers,
            mut works,
            held,
            mut has,
            mut sorted,
            ..
        } = self;
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
            let rank = |work: &Work| (work.demand, Reverse(work.descriptor.size));
            let by_rank = rank(a).cmp(&rank(b));
            by_rank.then_with(|| a.descriptor.digest.cmp(&b.descriptor.digest))
        });
        (works, held, sorted)
    }
}
