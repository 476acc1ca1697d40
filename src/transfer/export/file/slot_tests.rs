//! Tests of slots, without files and registries.

use super::*;
use crate::image::descriptor::Descriptor;

const ANYWHERE: Option<u64> = None;
const PART: u64 = LARGE / 2;

/// Returns a slot of a registry that has served ranges.
fn slot(content: &[u8], size: u64) -> Slot {
    let slot = new_slot(content, size);
    slot.set_ranges_served();
    slot
}

fn new_slot(content: &[u8], size: u64) -> Slot {
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
fn a_blob_is_whole_if_it_is_small_or_the_registry_refuses_ranges() {
    let refused = slot(b"", 16 * PART);
    refused.refuse_range(0);
    assert_eq!(refused.assign(1, ANYWHERE), Some(0..16 * PART));
    assert_eq!(slot(b"", 2 * PART - 1).assign(1, ANYWHERE), Some(0..2 * PART - 1));
}

#[tokio::test(start_paused = true)]
async fn one_worker_asks_until_the_registry_has_served_a_range() {
    let slot = new_slot(b"", 16 * PART);
    assert_eq!(slot.read_mode(), WithoutRange::Extend);
    let first = slot.assign(1, ANYWHERE).unwrap();
    assert_eq!(slot.assign(2, ANYWHERE), None);
    assert!(!slot.start_waiting(ANYWHERE));
    slot.set_ranges_served();
    assert_eq!(slot.read_mode(), WithoutRange::Refuse);
    assert_eq!(slot.assign(2, ANYWHERE).unwrap().start, first.end);
}

#[tokio::test(start_paused = true)]
async fn the_next_worker_asks_when_the_first_request_fails_or_hangs() {
    let slot = new_slot(b"", 16 * PART);
    let first = slot.assign(1, ANYWHERE).unwrap();
    slot.release(1);
    assert_eq!(slot.assign(2, ANYWHERE), Some(first.clone()), "it failed");
    assert_eq!(slot.assign(3, ANYWHERE), None);
    tokio::time::advance(PROBE_PATIENCE).await;
    assert_eq!(slot.assign(3, ANYWHERE).unwrap().start, first.end, "it hangs");
    assert_eq!(slot.assign(4, ANYWHERE), None, "one more for each such time");
}

#[test]
fn a_request_whose_range_is_ignored_brings_the_whole_blob() {
    let slot = new_slot(b"", 16 * PART);
    slot.assign(1, ANYWHERE).unwrap();
    slot.extend(1);
    assert_eq!(
        (slot.end_of(1), slot.read_mode()),
        (Some(16 * PART), WithoutRange::Skip)
    );
    assert_eq!(slot.assign(2, ANYWHERE), None);

    // Up to the bytes that an earlier run wrote.
    let mut there = Ranges::default();
    there.insert(10 * PART..11 * PART);
    let resumed = Slot::new(0, slot.place.clone(), there, None);
    resumed.assign(1, ANYWHERE).unwrap();
    resumed.extend(1);
    assert_eq!(resumed.end_of(1), Some(10 * PART));
    assert_eq!(resumed.assign(2, ANYWHERE), Some(11 * PART..16 * PART));
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
    assert_eq!(large.assign(1, Some(511)), None);
    assert_eq!(large.assign(1, Some(512)), Some(0..PART));
    assert_eq!(large.first_absent(), Some(512));
    large.advance(1, 10);
    assert_eq!(large.first_absent(), Some(522));
    large.release(1);
    assert_eq!(large.assign(2, Some(521)), None, "the rest starts behind the limit");
    assert_eq!(slot(b"", 0).assign(1, Some(0)), Some(0..0));
}
