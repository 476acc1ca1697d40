//! Tests of slots, without files and registries.

use super::*;
use crate::image::descriptor::Descriptor;

const ANYWHERE: u64 = u64::MAX;

fn slot(content: &[u8], size: u64) -> Slot {
    let place = plan::BlobSlot {
        blob: Descriptor {
            media_type: Default::default(),
            digest: Digest::sha256(content),
            size,
        },
        header_offset: 0,
        offset: 512,
    };
    Slot::new(0, place, Ranges::default(), None)
}

#[test]
fn a_slot_always_has_work_until_it_is_done() {
    for size in [0, 1, 3 * PART] {
        for refused in [false, true] {
            let slot = slot(b"something else", size);
            if refused {
                slot.set_ranges_refused();
            }
            let take_all = || while slot.assign(1, ANYWHERE).is_some() {};
            take_all();
            slot.state.lock().active.clear();
            slot.return_hasher(slot.place.blob.digest.hasher(), size);
            // All bytes are hashed, and the digest is wrong.
            let verdict = slot.verdict(2);
            assert!(matches!(verdict, Some(Verdict::WrongFetched { again: true, .. })));
            assert!(
                slot.assign(2, ANYWHERE).is_some(),
                "size {size}, ranges refused: {refused}"
            );
            take_all();
            slot.state.lock().active.clear();
            slot.add_written(0..size);
            slot.stop_reusing(9);
            assert!(slot.assign(3, ANYWHERE).is_some(), "nothing to reuse: size {size}");
            slot.refuse_range(3);
            assert!(slot.assign(4, ANYWHERE).is_some(), "no ranges: size {size}");
        }
    }
}

#[test]
fn the_last_parts_of_a_large_blob_are_smaller_so_that_its_workers_end_together() {
    let make = slot;
    let slot = make(b"", 16 * PART);
    let mut sizes = Vec::new();
    let mut end = 0;
    while let Some(part) = slot.assign(sizes.len() as u64, ANYWHERE) {
        assert_eq!(part.start, end, "one directly behind the other");
        end = part.end;
        sizes.push(part.end - part.start);
        // With four workers, the worker of the fourth part from the end has finished.
        if let Some(through) = sizes.len().checked_sub(4) {
            slot.advance(through as u64, u64::MAX);
            slot.release(through as u64);
        }
    }
    assert_eq!(end, 16 * PART);
    assert!(sizes[..12].iter().all(|size| *size == PART), "{sizes:?}");
    assert!(
        sizes
            .windows(2)
            .all(|pair| pair[0] >= pair[1] || pair[0] < 2 * LEAST_PART),
        "{sizes:?}"
    );
    let (last, most) = (sizes[sizes.len() - 1], PART / 2);
    assert!((LEAST_PART..=most).contains(&last), "{sizes:?}");
    // Parts do not get smaller where the blob is fetched in one request.
    let refused = make(b"", 16 * PART);
    refused.refuse_range(0);
    assert_eq!(refused.assign(1, ANYWHERE), Some(0..16 * PART));
    assert_eq!(make(b"", 2 * PART - 1).assign(1, ANYWHERE), Some(0..2 * PART - 1));
}

/// Returns the time that a blob takes, in units of the time of a byte, with workers that all have the same rate.
fn time(size: u64, workers: u64) -> u64 {
    let slot = slot(b"", size);
    let mut ends: Vec<(u64, u64)> = (0..workers).map(|worker| (0, worker)).collect();
    let mut id = workers;
    loop {
        ends.sort_unstable();
        let (now, old) = ends[0];
        slot.advance(old, u64::MAX);
        slot.release(old);
        let Some(part) = slot.assign(id, ANYWHERE) else { break };
        slot.advance(id, part.start + 1);
        ends[0] = (now + part.end - part.start, id);
        id += 1;
    }
    ends.into_iter().map(|(end, _)| end).max().unwrap()
}

#[test]
fn workers_of_one_rate_end_nearly_together() {
    for (size, workers) in [
        (12 * PART + PART / 2, 8),
        (66 * PART, 8),
        (66 * PART, 16),
        (63 * PART, 32),
    ] {
        let (time, ideal) = (time(size, workers), size / workers);
        assert!(
            time <= ideal + LEAST_PART * 3 / 2,
            "{size} bytes, {workers} workers: {time}, not {ideal}"
        );
    }
}

#[test]
fn parts_stay_large_until_the_registry_has_served_a_range() {
    let slot = slot(b"", 8 * PART);
    let whole = |id| {
        slot.assign(id, ANYWHERE)
            .is_some_and(|part| part.end - part.start == PART)
    };
    assert!((0..6).all(whole));
    // The first part begins where an answer without ranges does.
    slot.advance(0, 1);
    assert_eq!(slot.assign(6, ANYWHERE), Some(6 * PART..7 * PART));
    slot.advance(1, PART + 1);
    assert_eq!(slot.assign(7, ANYWHERE), Some(7 * PART..7 * PART + LEAST_PART));
}

#[test]
fn each_failed_reading_is_answered_by_what_it_was() {
    let all = |slot: &Slot| {
        let part = slot.assign(1, ANYWHERE).unwrap();
        slot.advance(1, part.end);
        slot.add_written(part);
        slot.release(1);
        slot.return_hasher(slot.place.blob.digest.hasher(), slot.size());
    };
    let fetched = slot(b"x", 1);
    all(&fetched);
    let found = Digest::sha256(b"");
    let again = |again| {
        Some(Verdict::WrongFetched {
            found: found.clone(),
            again,
        })
    };
    assert_eq!(fetched.verdict(2), again(true));
    assert_eq!(fetched.verdict(2), None, "its bytes are forgotten");
    all(&fetched);
    assert_eq!(fetched.verdict(2), again(false));

    let place = fetched.place.clone();
    let mut there = Ranges::default();
    there.insert(0..1);
    let inherited = Slot::new(0, place.clone(), there, None);
    all(&inherited);
    assert_eq!(inherited.verdict(1), Some(Verdict::WrongBefore { from_bundle: false }));

    let reused = Slot::new(0, place, Ranges::default(), Some(0));
    assert_eq!((reused.take_earlier(), reused.take_earlier()), (Some(0), None));
    all(&reused);
    reused.add_reused(1, 1, 1);
    assert_eq!(reused.verdict(1), Some(Verdict::WrongBefore { from_bundle: true }));

    let whole = slot(b"", 0);
    all(&whole);
    assert_eq!(whole.verdict(1), Some(Verdict::Whole { reused: 0 }));
}

#[test]
fn no_part_behind_the_limit_is_assigned_but_an_empty_one() {
    let large = slot(b"x", PART);
    assert_eq!(large.assign(1, 511), None);
    assert_eq!(large.assign(1, 512), Some(0..PART));
    assert_eq!(large.first_absent(), Some(512));
    large.advance(1, 10);
    assert_eq!(large.first_absent(), Some(522));
    large.release(1);
    assert_eq!(large.assign(2, 521), None, "the rest starts behind the limit");
    assert_eq!(slot(b"", 0).assign(1, 0), Some(0..0));
}
