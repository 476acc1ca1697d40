use super::*;

const MIB: u64 = 1 << 20;

/// Number of lines, now and soon, sizes of bodies on their way, sizes of waiting blobs in the order of their images, and the size that goes
/// next, all in MiB.
type Case = ((usize, usize), &'static [u64], &'static [u64], u64);

#[test]
fn a_small_image_goes_first_as_long_as_the_large_blobs_still_fit() {
    let cases: &[Case] = &[
        // With one line, the order does not change the end.
        ((1, 1), &[], &[1, 100], 1),
        // Two lines: the large blob takes longer than all others together.
        ((2, 2), &[], &[1, 2, 3, 100], 1),
        ((2, 2), &[10], &[5, 10, 100], 100),
        ((2, 2), &[100], &[1, 2, 3], 1),
        // Large blobs that fill the lines to the end do not wait.
        ((2, 2), &[10], &[10, 100, 100], 10),
        ((2, 2), &[10, 100], &[10, 100], 100),
        // Four lines with three large blobs leave one for small images.
        ((4, 4), &[4], &[4, 1, 1, 50, 50, 50], 50),
        ((4, 4), &[1, 50, 50, 50], &[1, 1, 1], 1),
        // More lines than blobs.
        ((8, 8), &[], &[5, 7], 5),
        // Blobs that outlast a run with all lines take half of the few lines that there are at first.
        ((2, 8), &[], &[1, 9, 10], 10),
        ((2, 8), &[10], &[1, 9], 1),
        // Two bodies wait for one line.
        ((1, 1), &[10, 10], &[1, 100], 1),
    ];
    for (lines, bodies, waiting, expected) in cases {
        let mut ready = Ready::new();
        let sizes: Vec<u64> = bodies.iter().chain(*waiting).map(|size| size * MIB).collect();
        let (count, most) = *lines;
        ready.set_lines(Lines { count, most });
        for (work, size) in sizes.iter().enumerate() {
            match work < bodies.len() {
                true => ready.start(work, *size),
                false => ready.insert(work, *size, true),
            }
        }
        let next = ready.first().map(|work| sizes[work] / MIB);
        let case = format!("{lines:?} lines, {bodies:?} on their way, {waiting:?} wait");
        assert_eq!(next, Some(*expected), "{case}");
    }
}

#[test]
fn a_body_that_ends_tells_how_far_the_others_are() {
    let mut ready = Ready::new();
    ready.set_lines(Lines { count: 2, most: 2 });
    ready.start(0, 100 * MIB);
    ready.start(1, 90 * MIB);
    for (work, size) in [(2, 10), (3, 40)] {
        ready.insert(work, size * MIB, true);
    }
    ready.end(1, true);
    // The other line is free in 10 MiB, and not in 100.
    assert_eq!(ready.first(), Some(3));
}
