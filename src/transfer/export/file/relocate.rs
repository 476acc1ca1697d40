//! Moves the written bytes of each blob to their offset in a new plan, within the file.
//!
//! The bytes of a blob are at the offset of an earlier run's plan, or of this run's plan before an image failed. Each move
//! is recorded in the journal, so a kill during the moves loses at most the one blob being moved.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::bundle::journal::{Header, Journal, OldSlot};
use crate::bundle::partial::Partial;
use crate::bundle::plan::Plan;
use crate::bundle::ranges::Ranges;
use crate::error::Result;
use crate::image::digest::Digest;

/// Maximum number of bytes moved at a time.
const MOVE: usize = 1 << 20;

/// Number of moved bytes after which the file is synced to disk.
const SYNC_STEP: u64 = 128 << 20;

/// A blob in both layouts, with its slot numbers in the old and the new layout.
#[derive(Debug, Clone, Copy)]
struct Move {
    from: usize,
    to: usize,
    /// Offset of the blob in the new plan.
    target: u64,
}

/// Moves the written bytes and returns the written ranges of each slot of the plan, by slot number.
/// `header` is the journal header for the old layout, which is valid until the caller writes a journal for the new layout.
///
/// Only blobs with the same order in both layouts are moved, so a blob that moves up never crosses an earlier blob that
/// moves down, nor the other way round. First the blobs that move up are moved, from the last to the first, then the blobs
/// that move down, from the first to the last. This order overwrites no bytes that are still to be moved. A blob whose
/// order changed is fetched again.
pub(super) fn relocate_blobs(
    partial: &Partial,
    header: &Header,
    plan: &Plan,
    old: &[OldSlot],
) -> Result<HashMap<usize, Ranges>> {
    let moves = in_order(plan, old);
    if moves.iter().any(|mv| mv.target != old[mv.from].offset) {
        partial.sync()?;
        let mut mover = Mover {
            partial,
            journal: Journal::create(&partial.journal(), header, old.iter().cloned(), true)?,
            old,
            moved: 0,
            slots: old.len(),
        };
        mover.run(&moves)?;
    }
    let there = moves.iter().map(|mv| (mv.to, old[mv.from].written.clone()));
    Ok(there.collect())
}

/// Returns the blobs of both layouts that have the same order in both layouts.
fn in_order(plan: &Plan, old: &[OldSlot]) -> Vec<Move> {
    let numbers: BTreeMap<&Digest, usize> = plan
        .blobs()
        .iter()
        .enumerate()
        .map(|(number, slot)| (&slot.blob.digest, number))
        .collect();
    let mut moves: Vec<Move> = old
        .iter()
        .enumerate()
        .filter_map(|(from, slot)| {
            let to = *numbers.get(&slot.digest)?;
            let place = &plan.blobs()[to];
            let wanted = place.blob.size == slot.size && !slot.written.is_empty();
            let target = place.offset;
            wanted.then_some(Move { from, to, target })
        })
        .collect();
    moves.sort_by_key(|mv| old[mv.from].offset);
    let mut last = None;
    moves.retain(|mv| {
        let slot = &old[mv.from];
        let end = slot.offset.saturating_add(slot.size);
        // A blob that changed its order or overlaps the previous blob is fetched again.
        let in_order = last.is_none_or(|(n, e)| n < mv.to && e <= slot.offset);
        if in_order {
            last = Some((mv.to, end));
        }
        in_order
    });
    moves
}

/// Moves blobs and records each move in the journal.
struct Mover<'a> {
    partial: &'a Partial,
    journal: Journal,
    old: &'a [OldSlot],
    /// Bytes moved since the last sync.
    moved: u64,
    /// Number of slots in the journal.
    slots: usize,
}

impl Mover<'_> {
    fn run(&mut self, moves: &[Move]) -> Result<()> {
        self.order(moves)?.into_iter().try_for_each(|mv| self.one(mv))
    }

    /// Discards the slots that are not moved from the journal, since moves may overwrite them.
    /// Returns the moves in an order in which no move overwrites the source of a later move.
    fn order(&self, moves: &[Move]) -> Result<Vec<Move>> {
        let along: HashSet<usize> = moves.iter().map(|mv| mv.from).collect();
        for number in (0..self.old.len()).filter(|number| !along.contains(number)) {
            self.journal.discard(number)?;
        }
        let (up, down): (Vec<Move>, Vec<Move>) = moves
            .iter()
            .copied()
            .partition(|mv| mv.target > self.old[mv.from].offset);
        Ok(up.into_iter().rev().chain(down).collect())
    }

    /// Moves one blob and records the move in the journal.
    fn one(&mut self, mv: Move) -> Result<()> {
        let slot = &self.old[mv.from];
        let to = mv.target;
        if to == slot.offset {
            return Ok(());
        }
        self.journal.discard(mv.from)?;
        self.moved += shift(self.partial, slot, to)?;
        self.journal.slot(&OldSlot {
            offset: to,
            written: Ranges::default(),
            ..slot.clone()
        })?;
        for range in slot.written.iter() {
            self.journal.written(self.slots, range)?;
        }
        self.slots += 1;
        if self.moved >= SYNC_STEP {
            self.moved = 0;
            self.journal.synced(|| self.partial.sync())?;
        }
        Ok(())
    }
}

/// Moves the written bytes of a slot and returns their number. Source and target may overlap.
fn shift(partial: &Partial, slot: &OldSlot, to: u64) -> Result<u64> {
    let up = to > slot.offset;
    let mut buffer = vec![0; MOVE];
    let mut ranges: Vec<_> = slot.written.iter().collect();
    if up {
        // Moving up starts at the end, so that no source byte is overwritten before it is read.
        ranges.reverse();
    }
    for range in &ranges {
        let length = range.end - range.start;
        let mut done = 0;
        while done < length {
            let step = (MOVE as u64).min(length - done);
            let at = range.start + if up { length - done - step } else { done };
            let piece = &mut buffer[..usize::try_from(step).unwrap_or(MOVE)];
            let got = partial.read_at(piece, slot.offset + at)?;
            // The read is short at the end of a truncated file. The absent bytes stay absent at the target, and the digest
            // check finds them.
            partial.write_at(&piece[..got], to + at)?;
            done += step;
        }
    }
    Ok(slot.written.len(slot.size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_over_itself() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
        for (from, to) in [(1000, 3000), (3000, 1000), (0, 2_000_000), (2_000_000, 0)] {
            let partial = Partial::open(&folder.path().join("f")).unwrap();
            partial.clear().unwrap();
            partial.write_at(&bytes, from).unwrap();
            let mut written = Ranges::default();
            written.insert(0..1_200_000);
            written.insert(1_200_001..bytes.len() as u64);
            let slot = OldSlot {
                digest: Digest::sha256(b""),
                size: bytes.len() as u64,
                offset: from,
                written,
            };
            assert_eq!(shift(&partial, &slot, to).unwrap(), bytes.len() as u64 - 1);
            let mut back = vec![0; bytes.len()];
            partial.read_at(&mut back, to).unwrap();
            back[1_200_000] = bytes[1_200_000];
            assert!(back == bytes, "{from} -> {to}");
        }
    }

    /// After a kill at any point, the journal claims only bytes that are present.
    /// Only the blob being moved is lost.
    #[test]
    fn a_kill_between_two_moves_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let partial = Partial::open(&folder.path().join("b.tar")).unwrap();
        let byte = |number: usize| vec![u8::try_from(number).unwrap() + 1; 1000];
        let mut old = Vec::new();
        for number in 0..6 {
            let mut written = Ranges::default();
            written.insert(0..1000);
            let offset = 2000 + 1500 * number as u64;
            partial.write_at(&byte(number), offset).unwrap();
            old.push(OldSlot {
                digest: Digest::sha256(&byte(number)),
                size: 1000,
                offset,
                written,
            });
        }
        // The second blob is not in the new plan; the blob before it moves up, and the blobs behind it move as listed.
        let targets = [(0, 2600), (2, 3700), (3, 4800), (4, 7000), (5, 9500)];
        let moves: Vec<Move> = targets
            .iter()
            .enumerate()
            .map(|(to, (from, target))| Move {
                from: *from,
                to,
                target: *target,
            })
            .collect();
        let header = Header::new(Digest::sha256(b"r"), "x".into(), 512, BTreeMap::new().into());
        for cut in 0..=moves.len() {
            let again = Partial::open(&folder.path().join(format!("{cut}.tar"))).unwrap();
            let mut all = vec![0; usize::try_from(partial.len().unwrap()).unwrap()];
            partial.read_at(&mut all, 0).unwrap();
            again.write_at(&all, 0).unwrap();
            let mut mover = Mover {
                partial: &again,
                journal: Journal::create(&again.journal(), &header, old.iter().cloned(), true).unwrap(),
                old: &old,
                moved: 0,
                slots: old.len(),
            };
            // Only the first `cut` moves are made, in the order of `order`.
            mover
                .order(&moves)
                .unwrap()
                .into_iter()
                .take(cut)
                .for_each(|mv| mover.one(mv).unwrap());
            let replay = crate::bundle::replay::Replay::read(&again.journal()).unwrap();
            let claimed: Vec<_> = replay.slots.iter().filter(|slot| !slot.written.is_empty()).collect();
            assert_eq!(claimed.len(), 5, "after {cut} moves");
            for slot in claimed {
                let mut found = vec![0; 1000];
                again.read_at(&mut found, slot.offset).unwrap();
                assert_eq!(Digest::sha256(&found), slot.digest, "after {cut} moves");
            }
        }
    }
}
