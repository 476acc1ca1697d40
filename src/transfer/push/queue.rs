//! Which blob goes where next: a pure state machine, without requests.
//!
//! A *work* is one digest, a *need* is one repository that must have it. The first need of a work leads: it asks the
//! registry and uploads if it must. The others follow when a repository is known that has the blob, and mount it from
//! there. Needs of one work follow one another until the first mount has worked, so that a registry that refuses mounts
//! is never sent the same bytes twice at a time; after that they go side by side.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::report::Amount;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;

/// What an image brings to the queue.
pub(crate) struct Demand {
    /// The image, by its number.
    pub(crate) image: usize,
    /// The repository that it goes to, by its number.
    pub(crate) repository: usize,
    /// Its blobs, each once.
    pub(crate) blobs: Vec<Descriptor>,
    /// Whether all of them are known to be in place.
    pub(crate) in_place: bool,
}

/// What an image waits for.
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
    /// The images that wait for it, by their numbers; the first one has the blob in its report.
    pub(crate) images: Vec<usize>,
}

#[derive(Debug)]
struct Work {
    descriptor: Descriptor,
    pending: VecDeque<Need>,
    /// A repository that is known to have the blob.
    holder: Option<usize>,
    /// Whether a mount of this blob has worked.
    mounts: bool,
    in_flight: usize,
    /// Whether its bytes can be had yet.
    here: bool,
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

/// What a job that failed says about the other needs of its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: another repository may take it.
    Here,
    /// The bytes are no good, or cannot be read: no repository will get them.
    Source,
}

/// All blobs of a push.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Largest first; equal sizes by digest, so that a run that is repeated goes the same way.
    works: Vec<Work>,
    ready: BTreeSet<usize>,
    /// Whether the registry has refused a mount. From then on it is asked first, since a refused mount becomes an upload.
    refused: bool,
    /// Whether a mount has worked.
    worked: bool,
    /// Works that were held back and have not arrived.
    away: HashMap<Digest, Vec<usize>>,
    /// Blobs of which nothing is left to do, since this was last asked.
    over: Vec<Digest>,
}

impl Queue {
    /// Sorts the demands of all images into works. Also returns what each image waits for.
    pub(crate) fn new(demands: &[Demand]) -> (Self, HashMap<usize, Awaited>) {
        // The size belongs to the key: of two manifests that disagree about it, only one can be right, and that one
        // must not suffer.
        let mut by_blob: HashMap<(Digest, u64), Work> = HashMap::new();
        let key = |blob: &Descriptor| (blob.digest.clone(), blob.size);
        let new = |blob: &Descriptor| Work {
            descriptor: blob.clone(),
            pending: VecDeque::new(),
            holder: None,
            mounts: false,
            in_flight: 0,
            here: true,
        };
        let mut has: HashSet<(usize, &Digest, u64)> = HashSet::new();
        for demand in demands.iter().filter(|d| d.in_place) {
            for blob in &demand.blobs {
                by_blob.entry(key(blob)).or_insert_with(|| new(blob)).holder = Some(demand.repository);
                has.insert((demand.repository, &blob.digest, blob.size));
            }
        }
        let mut waiting = HashMap::new();
        for demand in demands.iter().filter(|d| !d.in_place) {
            let awaited: &mut Awaited = waiting.entry(demand.image).or_default();
            for blob in &demand.blobs {
                if has.contains(&(demand.repository, &blob.digest, blob.size)) {
                    awaited.known.one(blob.size);
                    continue;
                }
                awaited.needs += 1;
                let work = by_blob.entry(key(blob)).or_insert_with(|| new(blob));
                match work.pending.iter_mut().find(|n| n.repository == demand.repository) {
                    Some(need) => need.images.push(demand.image),
                    None => work.pending.push_back(Need {
                        repository: demand.repository,
                        images: vec![demand.image],
                    }),
                }
            }
        }
        let mut works: Vec<Work> = by_blob.into_values().filter(|w| !w.pending.is_empty()).collect();
        works.sort_by(|a, b| (b.descriptor.size, &a.descriptor.digest).cmp(&(a.descriptor.size, &b.descriptor.digest)));
        let ready = (0..works.len()).collect();
        let queue = Self {
            works,
            ready,
            refused: false,
            worked: false,
            away: HashMap::new(),
            over: Vec::new(),
        };
        (queue, waiting)
    }

    /// How many blobs are to be placed somewhere, and their bytes, each counted once.
    pub(crate) fn size(&self) -> (u64, u64) {
        let bytes = self
            .works
            .iter()
            .fold(0u64, |sum, work| sum.saturating_add(work.descriptor.size));
        (self.works.len() as u64, bytes)
    }

    /// Holds back all blobs that are not `here`, until they arrive.
    pub(crate) fn hold_back(&mut self, here: impl Fn(&Descriptor) -> bool) {
        for (number, work) in self.works.iter_mut().enumerate() {
            work.here = here(&work.descriptor);
            if !work.here {
                self.ready.remove(&number);
                self.away
                    .entry(work.descriptor.digest.clone())
                    .or_default()
                    .push(number);
            }
        }
    }

    /// The blobs that are held back, and in how many repositories each is needed.
    pub(crate) fn held_back(&self) -> impl Iterator<Item = (&Descriptor, usize)> {
        let away = self.works.iter().filter(|work| !work.here);
        away.map(|work| (&work.descriptor, work.pending.len()))
    }

    /// Whether a blob that is in one repository will be mounted into the others, as far as that can be known: it has worked,
    /// and never been refused.
    pub(crate) fn mounts_work(&self) -> bool {
        self.worked && !self.refused
    }

    /// A blob that was held back can be had now. Returns the images that state another size, and that size.
    pub(crate) fn arrived(&mut self, digest: &Digest, size: u64) -> Vec<(usize, u64)> {
        let mut lost = Vec::new();
        let mut of_use = false;
        for number in self.away.remove(digest).unwrap_or_default() {
            let work = &mut self.works[number];
            work.here = true;
            if work.descriptor.size == size {
                of_use = true;
                self.ready.insert(number);
            } else {
                let images = work.pending.drain(..).flat_map(|need| need.images);
                lost.extend(images.map(|image| (image, work.descriptor.size)));
            }
        }
        if !of_use {
            self.over.push(digest.clone());
        }
        lost
    }

    /// What is held back will not come. Returns what each image lacks.
    pub(crate) fn never(&mut self) -> BTreeMap<usize, BTreeSet<Digest>> {
        let mut lacking: BTreeMap<usize, BTreeSet<Digest>> = BTreeMap::new();
        for (digest, numbers) in self.away.drain() {
            for number in numbers {
                for image in self.works[number].pending.drain(..).flat_map(|need| need.images) {
                    lacking.entry(image).or_default().insert(digest.clone());
                }
            }
        }
        lacking
    }

    /// Blobs of which nothing is left to do, each told once.
    pub(crate) fn take_over(&mut self) -> Vec<Digest> {
        std::mem::take(&mut self.over)
    }

    /// The next job, if one can be started now. Images that are not `alive` any more get nothing.
    pub(crate) fn next(&mut self, alive: impl Fn(usize) -> bool) -> Option<Job> {
        while let Some(&number) = self.ready.first() {
            let work = &mut self.works[number];
            let need = loop {
                let Some(mut need) = work.pending.pop_front() else {
                    break None;
                };
                need.images.retain(|&image| alive(image));
                if !need.images.is_empty() {
                    break Some(need);
                }
            };
            let Some(need) = need else {
                self.ready.remove(&number);
                self.end(number);
                continue;
            };
            work.in_flight += 1;
            if !work.mounts || work.pending.is_empty() {
                self.ready.remove(&number);
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

    /// Takes note of a job that failed. Returns the images that wait for the blob elsewhere and will not get it.
    pub(crate) fn failed(&mut self, job: &Job, fault: Fault) -> Vec<usize> {
        let work = &mut self.works[job.work];
        work.in_flight -= 1;
        let lost = match fault {
            Fault::Here => Vec::new(),
            Fault::Source => work.pending.drain(..).flat_map(|need| need.images).collect(),
        };
        self.wake(job.work);
        self.end(job.work);
        lost
    }

    fn end(&mut self, number: usize) {
        let work = &self.works[number];
        if work.pending.is_empty() && work.in_flight == 0 {
            self.over.push(work.descriptor.digest.clone());
        }
    }

    fn wake(&mut self, number: usize) {
        let work = &self.works[number];
        if !work.pending.is_empty() && (work.in_flight == 0 || work.mounts) {
            self.ready.insert(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &str, size: u64) -> Descriptor {
        Descriptor {
            size,
            ..Descriptor::of("x", text.as_bytes())
        }
    }

    fn demand(image: usize, repository: usize, blobs: &[&Descriptor]) -> Demand {
        Demand {
            image,
            repository,
            blobs: blobs.iter().map(|b| (*b).clone()).collect(),
            in_place: false,
        }
    }

    #[test]
    fn largest_first_and_one_upload_at_a_time() {
        let (small, large) = (blob("small", 1), blob("large", 9));
        let (mut queue, waiting) = Queue::new(&[
            demand(0, 0, &[&small, &large]),
            demand(1, 1, &[&large]),
            demand(2, 2, &[&large]),
        ]);
        assert_eq!((waiting[&0].needs, waiting[&1].needs), (2, 1));
        assert_eq!(queue.size(), (2, 10));
        let lead = queue.next(|_| true).unwrap();
        assert_eq!(
            (&lead.descriptor, lead.need.repository, lead.ask, lead.mount_from),
            (&large, 0, true, None)
        );
        assert_eq!(queue.next(|_| true).unwrap().descriptor, small);
        assert!(queue.next(|_| true).is_none(), "the others wait for the upload");
        queue.placed(&lead, Placed::Uploaded);
        let follow = queue.next(|_| true).unwrap();
        assert_eq!(
            (follow.need.repository, follow.ask, follow.mount_from),
            (1, false, Some(0))
        );
        assert!(queue.next(|_| true).is_none(), "the first mount is waited for");
        assert!(!queue.mounts_work());
        queue.placed(&follow, Placed::Mounted);
        assert!(queue.mounts_work());
        assert_eq!(queue.next(|_| true).unwrap().need.repository, 2);
        assert!(queue.next(|_| true).is_none());
    }

    #[test]
    fn after_a_refused_mount_the_registry_is_asked_first() {
        let large = blob("large", 9);
        let demands: Vec<Demand> = (0..4).map(|i| demand(i, i, &[&large])).collect();
        let (mut queue, _) = Queue::new(&demands);
        let lead = queue.next(|_| true).unwrap();
        queue.placed(&lead, Placed::Present);
        let follow = queue.next(|_| true).unwrap();
        queue.placed(&follow, Placed::Uploaded);
        let next = queue.next(|_| true).unwrap();
        assert!(next.ask && next.mount_from.is_some());
        assert!(queue.next(|_| true).is_none(), "one upload at a time");
        queue.placed(&next, Placed::Mounted);
        assert!(!queue.mounts_work(), "it may be refused again");
    }

    #[test]
    fn what_is_in_place_costs_nothing_and_can_be_mounted_from() {
        let (base, own) = (blob("base", 5), blob("own", 2));
        let mut there = demand(0, 0, &[&base]);
        there.in_place = true;
        let (mut queue, waiting) = Queue::new(&[there, demand(1, 0, &[&base, &own]), demand(2, 1, &[&base])]);
        assert_eq!(
            (waiting[&1].needs, waiting[&1].known.bytes, waiting[&2].needs),
            (1, 5, 1)
        );
        let job = queue.next(|_| true).unwrap();
        assert_eq!((job.need.repository, job.mount_from, job.ask), (1, Some(0), false));
        assert_eq!(queue.next(|_| true).unwrap().descriptor, own);
    }

    #[test]
    fn a_failure_passes_on_or_takes_all_with_it() {
        let large = blob("large", 9);
        let demands: Vec<Demand> = (0..3).map(|i| demand(i, i, &[&large])).collect();
        let (mut queue, _) = Queue::new(&demands);
        let lead = queue.next(|_| true).unwrap();
        assert!(queue.failed(&lead, Fault::Here).is_empty());
        let second = queue.next(|image| image != 0).unwrap();
        assert_eq!((second.need.repository, second.ask), (1, true));
        assert_eq!(queue.failed(&second, Fault::Source), [2]);
        assert!(queue.next(|_| true).is_none());
    }

    #[test]
    fn the_dead_get_nothing_and_sizes_that_disagree_are_apart() {
        let (right, wrong) = (blob("x", 9), blob("x", 8));
        let (mut queue, _) = Queue::new(&[demand(0, 0, &[&right]), demand(1, 0, &[&wrong])]);
        let only = queue.next(|image| image == 1).unwrap();
        assert_eq!(only.descriptor.size, 8);
        assert!(queue.next(|image| image == 1).is_none());
    }
}
