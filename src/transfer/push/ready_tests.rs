use super::*;

const MIB: u64 = 1 << 20;

/// Lines, whether they are growing, sizes of bodies on their way, sizes of waiting blobs in the order of their images, and
/// the size that goes next, all in MiB.
type Case = (usize, bool, &'static [u64], &'static [u64], u64);

#[test]
fn a_small_image_goes_first_as_long_as_the_large_blobs_still_fit() {
    let cases: &[Case] = &[
        // With one line, the order does not change the end.
        (1, false, &[], &[1, 100], 1),
        // Two lines: the large blob takes longer than all others together.
        (2, false, &[], &[1, 2, 3, 100], 1),
        (2, false, &[10], &[5, 10, 100], 100),
        (2, false, &[100], &[1, 2, 3], 1),
        // Large blobs that fill the lines to the end do not wait.
        (2, false, &[10], &[10, 100, 100], 10),
        (2, false, &[10, 100], &[10, 100], 100),
        // Two percent more is accepted, unless the lines are still growing.
        (2, false, &[100], &[2, 100], 2),
        (2, true, &[100], &[2, 100], 100),
        // Four lines with three large blobs leave one for small images.
        (4, false, &[4], &[4, 1, 1, 50, 50, 50], 50),
        (4, false, &[1, 50, 50, 50], &[1, 1, 1], 1),
        // More lines than blobs.
        (8, true, &[], &[5, 7], 5),
    ];
    for (count, are_growing, bodies, waiting, expected) in cases {
        let mut ready = Ready::new();
        let sizes: Vec<u64> = bodies.iter().chain(*waiting).map(|size| size * MIB).collect();
        let lines = Lines {
            count: *count,
            are_growing: *are_growing,
        };
        ready.set_lines(lines);
        for (work, size) in sizes.iter().enumerate() {
            match work < bodies.len() {
                true => ready.begin(work, *size),
                false => ready.insert(work, *size, true),
            }
        }
        let next = ready.first().map(|work| sizes[work] / MIB);
        let case = format!("{count} lines, growing {are_growing}, {bodies:?} on their way, {waiting:?} wait");
        assert_eq!(next, Some(*expected), "{case}");
    }
}
