//! Selects the next part of a blob for a worker. No I/O.
//!
//! FAT and exFAT have no sparse files: they fill skipped ranges with zeros before the next write, which takes as long as
//! writing the bytes themselves. On such file systems no part is assigned that starts far behind the first absent byte.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use super::slot::Slot;

/// Maximum distance in bytes from the first absent byte to the start of an assigned part.
/// The limit applies to file systems without sparse files.
const MAX_GAP: u64 = 64 << 20;

/// Maximum number of parts without first bytes while idle workers still help with large blobs.
/// The limit grows by a quarter of the number of parts that have begun to arrive.
const LEAST_WAITING: usize = 8;

/// Maximum number of assigned parts and open blobs with which idle workers still help. Each connection takes up to a megabyte of
/// buffers, and a run takes less than 64 MiB in all.
const MOST_PARTS: usize = 40;

/// The slots that are not finished.
pub(super) struct Scheduler {
    /// Slots without any assigned part so far, in the order of the plan. Each is created when its turn comes, since the state
    /// of a slot takes much more memory than its place in the plan.
    queue: Peekable<Box<dyn Iterator<Item = Arc<Slot>> + Send>>,
    /// Slots with at least one assigned part so far, by their number.
    open: BTreeMap<usize, Arc<Slot>>,
    /// Whether the file system supports sparse files, so that gaps cost nothing.
    sparse: bool,
    next_id: u64,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// The next step of a worker.
#[derive(Debug)]
pub(super) enum Work {
    /// Fetch the first part of a blob.
    Open(Assignment),
    /// Wait for a place at the registry, then fetch a part of an open blob.
    Help(Help),
    /// Ask the scheduler again after its state has changed.
    Wait,
    /// All slots are finished.
    Done,
}

/// A part of a blob assigned to one worker.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) slot: Arc<Slot>,
    /// Number by which the slot identifies this assignment.
    pub(super) id: u64,
    pub(super) part: Range<u64>,
}

/// An open blob that a worker is to help with.
///
/// The part is assigned once the worker has a place at the registry: a part that waits for a place would be fetched last.
#[derive(Debug)]
pub(super) struct Help {
    pub(super) slot: Arc<Slot>,
    /// Number by which the slot identifies the assignment.
    pub(super) id: u64,
    limit: Option<u64>,
}

impl Help {
    /// Assigns the part, or `None` if other workers have taken all parts meanwhile. Called once.
    /// `growing` says whether the number of connections to the registry grows.
    pub(super) fn assign(&self, growing: bool) -> Option<Range<u64>> {
        self.slot.stop_waiting(growing);
        self.slot.assign(self.id, self.limit)
    }
}

impl Scheduler {
    /// Returns a scheduler for slots in the order of the plan.
    pub(super) fn new(slots: impl Iterator<Item = Slot> + Send + 'static, sparse: bool) -> Self {
        let slots: Box<dyn Iterator<Item = Arc<Slot>> + Send> = Box::new(slots.map(Arc::new));
        Self {
            queue: slots.peekable(),
            open: BTreeMap::new(),
            sparse,
            next_id: 0,
        }
    }

    /// Returns the next work for a worker.
    /// A worker first continues with its `own` blob, since it has the hasher of that blob, then opens the next blob of the
    /// plan. Once all blobs are open, the worker helps with the parts of a large blob.
    pub(super) fn next(&mut self, own: Option<&Slot>) -> Work {
        self.next_id += 1;
        let (id, limit) = (self.next_id, self.limit());
        let own = own.and_then(|own| self.open.get(&own.number));
        if let Some(slot) = own
            && let Some(work) = help(slot, id, limit)
        {
            return work;
        }
        if let Some(slot) = self.queue.peek()
            && let Some(part) = slot.assign(id, limit)
        {
            let slot = slot.clone();
            self.open.extend(self.queue.next().map(|slot| (slot.number, slot)));
            return Work::Open(Assignment { slot, id, part });
        }
        self.next_help()
    }

    /// Returns the next work for a worker that opens no blob.
    pub(super) fn next_help(&mut self) -> Work {
        self.next_id += 1;
        let (id, limit) = (self.next_id, self.limit());
        let mut open = self.open.values();
        let found = match self.may_help() {
            true => open.find_map(|slot| help(slot, id, limit)),
            false => None,
        };
        let is_done = self.open.is_empty() && self.queue.peek().is_none();
        found.unwrap_or(match is_done {
            true => Work::Done,
            false => Work::Wait,
        })
    }

    /// Returns whether one more worker may help with an open blob.
    /// While many parts wait for their first bytes, the limit of a registry is holding them up, and another request would
    /// not help.
    /// While very many parts arrive, another connection would only take memory.
    fn may_help(&self) -> bool {
        let counts = self.open.values().map(|slot| slot.begun_and_waiting());
        let (begun, waiting) = counts.fold((0, 0), |(begun, waiting), (b, w)| (begun + b, waiting + w));
        waiting < LEAST_WAITING + begun / 4 && begun + waiting < MOST_PARTS
    }

    /// Removes a finished slot, whether its blob is whole or failed.
    pub(super) fn close(&mut self, slot: &Slot) {
        self.open.remove(&slot.number);
    }

    /// Returns the maximum file offset at which an assigned part may start; `None` with sparse files.
    /// The part with the first absent byte always starts below the limit, so there is always work to assign or a worker at
    /// work on that part.
    fn limit(&self) -> Option<u64> {
        if self.sparse {
            return None;
        }
        // Slots in the queue lie behind all open slots.
        let first = self.open.values().filter_map(|slot| slot.first_absent()).min();
        Some(first.map_or(u64::MAX, |first| first.saturating_add(MAX_GAP)))
    }
}

/// Returns the work of helping with a slot, if the slot has a part below `limit`.
fn help(slot: &Arc<Slot>, id: u64, limit: Option<u64>) -> Option<Work> {
    slot.start_waiting(limit).then(|| {
        let slot = slot.clone();
        Work::Help(Help { slot, id, limit })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::plan;
    use crate::bundle::ranges::Ranges;
    use crate::image::descriptor::Descriptor;
    use crate::image::digest::Digest;

    /// Builds a scheduler for slots of the given sizes, placed back to back.
    fn scheduler(sizes: &[u64], sparse: bool) -> Scheduler {
        let mut offset = 0;
        let slot = |(number, size): (usize, &u64)| {
            let digest = Digest::sha256(&[u8::try_from(number).unwrap()]);
            let place = plan::BlobSlot {
                blob: Descriptor {
                    media_type: Default::default(),
                    digest,
                    size: *size,
                },
                header_offset: offset,
                offset,
            };
            offset += size;
            let slot = Slot::new(number, place, Ranges::default(), None);
            slot.set_ranges_served();
            slot
        };
        Scheduler::new(
            sizes.iter().enumerate().map(slot).collect::<Vec<_>>().into_iter(),
            sparse,
        )
    }

    /// Assigns the part at once if the worker is to help.
    fn try_part(work: Work) -> Result<Assignment, Work> {
        match work {
            Work::Open(assignment) => Ok(assignment),
            Work::Help(help) => Ok(Assignment {
                part: help.assign(false).unwrap(),
                slot: help.slot,
                id: help.id,
            }),
            other => Err(other),
        }
    }

    fn part(work: Work) -> Assignment {
        try_part(work).unwrap()
    }

    #[test]
    fn own_blob_first_then_new_ones_then_parts_of_large_ones() {
        let mut scheduler = scheduler(&[1 << 30, 1], true);
        let first = part(scheduler.next(None));
        assert_eq!((first.slot.number, first.part), (0, 0..4 << 20));
        let own = part(scheduler.next(Some(&first.slot)));
        assert_eq!((own.slot.number, own.part.start), (0, 4 << 20));
        let new = part(scheduler.next(None));
        assert_eq!(new.slot.number, 1);
        let helped = part(scheduler.next(Some(&new.slot)));
        assert_eq!((helped.slot.number, helped.part.start), (0, 8 << 20));
        let next = part(scheduler.next(None));
        assert_eq!(next.part, 12 << 20..16 << 20);
        // Eight parts wait for their first bytes, including the small blob.
        for _ in 0..3 {
            part(scheduler.next(None));
        }
        assert!(matches!(scheduler.next(None), Work::Wait));
        first.slot.advance(first.id, 1);
        assert_eq!(part(scheduler.next(None)).slot.number, 0);
        assert!(matches!(scheduler.next(None), Work::Wait));
        // The limit on helping does not apply to a worker's own blob.
        assert_eq!(part(scheduler.next(Some(&first.slot))).slot.number, 0);
        scheduler.close(&first.slot);
        scheduler.close(&new.slot);
        assert!(matches!(scheduler.next(None), Work::Done));
    }

    #[test]
    fn a_large_blob_has_a_maximum_of_connections() {
        let mut scheduler = scheduler(&[1 << 40], true);
        for _ in 0..MOST_PARTS {
            let assigned = part(scheduler.next(None));
            assigned.slot.advance(assigned.id, assigned.part.start + 1);
        }
        assert!(matches!(scheduler.next(None), Work::Wait));
        assert!(matches!(scheduler.next_help(), Work::Wait));
    }

    #[test]
    fn without_gaps_no_part_starts_far_behind_the_first_absent_byte() {
        let mut scheduler = scheduler(&[MAX_GAP + 1, 1], false);
        let first = part(scheduler.next(None));
        let second = part(scheduler.next(None));
        assert_eq!(second.slot.number, 0, "the second blob starts behind the limit");
        assert!(matches!(scheduler.next(None), Work::Wait));
        first.slot.advance(first.id, 1);
        assert_eq!(part(scheduler.next(None)).slot.number, 1);
    }

    #[test]
    fn the_part_with_the_first_absent_byte_is_handed_out_again() {
        let mut scheduler = scheduler(&[1 << 30, 1], false);
        let first = part(scheduler.next(None));
        while let Ok(more) = try_part(scheduler.next(None)) {
            more.slot.advance(more.id, more.part.end);
        }
        first.slot.release(first.id);
        assert_eq!(part(scheduler.next(None)).part.start, 0);
    }

    #[test]
    fn a_helper_opens_no_blob_and_is_done_after_the_last_one() {
        let mut scheduler = scheduler(&[1 << 30], true);
        assert!(matches!(scheduler.next_help(), Work::Wait), "the blob is not open yet");
        let first = part(scheduler.next(None));
        assert_eq!(part(scheduler.next_help()).part.start, first.part.end);
        scheduler.close(&first.slot);
        assert!(matches!(scheduler.next_help(), Work::Done));
    }

    #[test]
    fn helpers_that_wait_for_a_place_count_and_leave_the_parts_to_those_that_have_one() {
        let mut scheduler = scheduler(&[1 << 30], true);
        let first = part(scheduler.next(None));
        let waiting: Vec<Work> = (0..7).map(|_| scheduler.next(None)).collect();
        assert!(matches!(scheduler.next(None), Work::Wait), "eight wait");
        for (work, start) in waiting.into_iter().zip([4, 8, 12, 16, 20, 24, 28]) {
            assert_eq!(part(work).part.start, start << 20);
        }
        first.slot.give_up();
        assert!(matches!(scheduler.next(None), Work::Wait));
    }
}
