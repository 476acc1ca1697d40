//! Which part of which blob a worker fetches next. No I/O.
//!
//! FAT and exFAT have no gaps: they fill what is skipped with zeros, which costs as much as the bytes themselves and comes
//! before them. On such file systems no part is handed out that starts far behind the first absent byte.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::slot::Slot;

/// Maximum distance in bytes from the first absent byte to a part that is handed out, where gaps are filled with zeros.
const MAX_GAP: u64 = 64 << 20;

/// Number of parts that may wait for their first bytes before no more help is given to large blobs, besides a quarter of those that
/// have begun to arrive.
const LEAST_WAITING: usize = 8;

/// The slots that are not done.
#[derive(Debug)]
pub(super) struct Scheduler {
    /// Slots of which no part was handed out, in the order of the plan.
    queue: VecDeque<Arc<Slot>>,
    /// The others, by their number.
    open: BTreeMap<usize, Arc<Slot>>,
    /// Whether gaps in the file cost nothing.
    sparse: bool,
    next_id: u64,
}

/// What a worker does next.
#[derive(Debug)]
pub(super) enum Work {
    /// Fetch a part.
    Part(Assignment),
    /// Ask again after something has changed.
    Wait,
    /// Nothing is left.
    Done,
}

/// A part of a blob for one worker.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) slot: Arc<Slot>,
    /// The number under which the slot knows it.
    pub(super) id: u64,
    pub(super) part: Range<u64>,
}

impl Scheduler {
    pub(super) fn new(slots: impl IntoIterator<Item = Slot>, sparse: bool) -> Self {
        Self {
            queue: slots.into_iter().map(Arc::new).collect(),
            open: BTreeMap::new(),
            sparse,
            next_id: 0,
        }
    }

    /// A worker goes on with its `own` blob, whose hasher it has, then opens the next one of the plan. When all are open it
    /// helps with the parts of a large one.
    pub(super) fn next(&mut self, own: Option<&Slot>) -> Work {
        self.next_id += 1;
        let (id, limit) = (self.next_id, self.limit());
        let own = own.and_then(|own| self.open.get(&own.number));
        if let Some(slot) = own
            && let Some(work) = assign(slot, id, limit)
        {
            return work;
        }
        if let Some(slot) = self.queue.front()
            && let Some(work) = assign(slot, id, limit)
        {
            self.open.extend(self.queue.pop_front().map(|slot| (slot.number, slot)));
            return work;
        }
        let mut open = self.open.values();
        let assigned = match self.may_help() {
            true => open.find_map(|slot| assign(slot, id, limit)),
            false => None,
        };
        assigned.unwrap_or(match self.open.is_empty() {
            true => Work::Done,
            false => Work::Wait,
        })
    }

    /// Whether a worker more may help with an open blob. Not while many wait for their parts to begin: those are held up by the
    /// limit of a registry.
    fn may_help(&self) -> bool {
        let counts = self.open.values().map(|slot| slot.begun_and_waiting());
        let (begun, waiting) = counts.fold((0, 0), |(begun, waiting), (b, w)| (begun + b, waiting + w));
        waiting < LEAST_WAITING + begun / 4
    }

    /// A slot is done, well or badly.
    pub(super) fn close(&mut self, slot: &Slot) {
        self.open.remove(&slot.number);
    }

    /// The offset in the file behind which no part is handed out that starts there. The part with the first absent byte is
    /// always before it, so that there is always work or a worker that has it.
    fn limit(&self) -> u64 {
        if self.sparse {
            return u64::MAX;
        }
        // Slots in the queue are behind all open ones.
        let first = self.open.values().filter_map(|slot| slot.first_absent()).min();
        first.map_or(u64::MAX, |first| first.saturating_add(MAX_GAP))
    }
}

fn assign(slot: &Arc<Slot>, id: u64, limit: u64) -> Option<Work> {
    let part = slot.assign(id, limit)?;
    let slot = slot.clone();
    Some(Work::Part(Assignment { slot, id, part }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::plan;
    use crate::bundle::ranges::Ranges;
    use crate::image::descriptor::Descriptor;
    use crate::image::digest::Digest;

    /// Slots of these sizes, one directly behind the other.
    fn scheduler(sizes: &[u64], sparse: bool) -> Scheduler {
        let mut offset = 0;
        let slot = |(number, size): (usize, &u64)| {
            let digest = Digest::sha256(&[u8::try_from(number).unwrap()]);
            let place = plan::BlobSlot {
                blob: Descriptor {
                    media_type: String::new(),
                    digest,
                    size: *size,
                },
                header_offset: offset,
                offset,
            };
            offset += size;
            Slot::new(number, place, Ranges::default(), None)
        };
        Scheduler::new(sizes.iter().enumerate().map(slot).collect::<Vec<_>>(), sparse)
    }

    fn part(work: Work) -> Assignment {
        match work {
            Work::Part(assignment) => assignment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn own_blob_first_then_new_ones_then_parts_of_large_ones() {
        let mut scheduler = scheduler(&[1 << 30, 1], true);
        let first = part(scheduler.next(None));
        assert_eq!((first.slot.number, first.part), (0, 0..32 << 20));
        let own = part(scheduler.next(Some(&first.slot)));
        assert_eq!((own.slot.number, own.part.start), (0, 32 << 20));
        let new = part(scheduler.next(None));
        assert_eq!(new.slot.number, 1);
        let helped = part(scheduler.next(Some(&new.slot)));
        assert_eq!((helped.slot.number, helped.part.start), (0, 64 << 20));
        let next = part(scheduler.next(None));
        assert_eq!(next.part, 96 << 20..128 << 20);
        // Eight parts wait for their first bytes, the small blob among them.
        for _ in 0..3 {
            part(scheduler.next(None));
        }
        assert!(matches!(scheduler.next(None), Work::Wait));
        first.slot.advance(first.id, 1);
        assert_eq!(part(scheduler.next(None)).slot.number, 0);
        assert!(matches!(scheduler.next(None), Work::Wait));
        // A worker goes on with its own blob all the same.
        assert_eq!(part(scheduler.next(Some(&first.slot))).slot.number, 0);
        scheduler.close(&first.slot);
        scheduler.close(&new.slot);
        assert!(matches!(scheduler.next(None), Work::Done));
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
        while let Work::Part(more) = scheduler.next(None) {
            more.slot.advance(more.id, more.part.end);
        }
        first.slot.release(first.id);
        assert_eq!(part(scheduler.next(None)).part.start, 0);
    }
}
