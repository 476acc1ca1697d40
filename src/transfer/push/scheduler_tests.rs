use std::collections::VecDeque;

use super::*;
use crate::error::Kind;
use crate::transfer::push::ready::cost;
use crate::transfer::push::work::{Awaited, PAIR, Taker, WORK};

fn blob(text: &str, size: u64) -> Descriptor {
    Descriptor {
        size,
        ..Descriptor::from_content("x", text.as_bytes())
    }
}

fn demand(group: u32, repository: u32, blobs: &[&Descriptor]) -> Demand {
    Demand {
        blobs: blobs.iter().map(|b| (*b).clone()).collect(),
        groups: vec![Taker {
            group,
            repository,
            in_place: false,
        }],
    }
}

fn sorted(demands: Vec<Demand>) -> (Scheduler, HashMap<usize, Awaited>) {
    let (queue, sorted) = Scheduler::new(demands, &Budget::default());
    assert!(sorted.too_large.is_empty());
    (queue, sorted.awaited)
}

#[test]
fn largest_first_and_one_upload_at_a_time() {
    let (small, large) = (blob("small", 1), blob("large", 9));
    let (mut queue, waiting) = sorted(vec![
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
fn images_become_complete_one_after_the_other() {
    let sizes = [
        ("b1", 5),
        ("b2", 4),
        ("c1", 8),
        ("c2", 3),
        ("a1", 7),
        ("a2", 6),
        ("shared", 2),
    ];
    let blobs: Vec<Descriptor> = sizes.iter().map(|(text, size)| blob(text, *size)).collect();
    let shared = &blobs[6];
    let (mut queue, _) = sorted(vec![
        demand(0, 0, &[&blobs[0], &blobs[1]]),
        demand(1, 1, &[shared, &blobs[3], &blobs[2]]),
        demand(2, 2, &[&blobs[5], &blobs[4], shared]),
    ]);
    let order: Vec<u64> = std::iter::from_fn(|| queue.next(|_| true))
        .map(|job| job.descriptor.size)
        .collect();
    assert_eq!(order, [5, 4, 8, 3, 2, 7, 6]);
}

#[test]
fn after_a_refused_mount_the_registry_is_asked_first() {
    let large = blob("large", 9);
    let demands: Vec<Demand> = (0..4).map(|i| demand(i, i, &[&large])).collect();
    let (mut queue, _) = sorted(demands);
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
    there.groups[0].in_place = true;
    let (mut queue, waiting) = sorted(vec![there, demand(1, 0, &[&base, &own]), demand(2, 1, &[&base])]);
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
    let (mut queue, _) = sorted(demands);
    let lead = queue.next(|_| true).unwrap();
    assert!(queue.failed(&lead, false).is_empty());
    let second = queue.next(|image| image != 0).unwrap();
    assert_eq!((second.need.repository, second.ask), (1, true));
    assert_eq!(queue.failed(&second, true), [2]);
    assert!(queue.next(|_| true).is_none());
}

#[test]
fn the_dead_get_nothing_and_sizes_that_disagree_are_apart() {
    let (right, wrong) = (blob("x", 9), blob("x", 8));
    let (mut queue, _) = sorted(vec![demand(0, 0, &[&right]), demand(1, 0, &[&wrong])]);
    let only = queue.next(|image| image == 1).unwrap();
    assert_eq!(only.descriptor.size, 8);
    assert!(queue.next(|image| image == 1).is_none());
}

#[test]
fn a_hundred_thousand_names_in_one_repository_are_one_group() {
    let blobs: Vec<Descriptor> = (0..1000).map(|n| blob(&n.to_string(), n)).collect();
    let budget = Budget::new(1 << 20);
    let taker = |group, repository| Taker {
        group,
        repository,
        in_place: false,
    };
    let demand = |groups| Demand {
        blobs: blobs.clone(),
        groups,
    };
    let (_, all) = Scheduler::new([demand(vec![taker(0, 0)])], &budget);
    assert_eq!((all.awaited[&0].needs, all.too_large.len()), (1000, 0));
    // If each group has its own repository, some groups exceed the budget, and the remaining groups are planned.
    let (mut queue, some) = Scheduler::new([demand((0..1000).map(|n| taker(n, n)).collect())], &budget);
    assert!(some.too_large.len() > 900 && some.awaited.len() == 1000 - some.too_large.len());
    assert!(some.too_large.iter().all(|(_, error)| error.kind() == Kind::TooLarge));
    let mut repositories = Vec::new();
    while let Some(job) = queue.next(|_| true) {
        queue.placed(&job, Placed::Present);
        repositories.push(job.need.repository);
    }
    assert_eq!(repositories.len(), 1000 * some.awaited.len());
    drop(queue);
    assert_eq!(budget.left(), 1 << 20);
}

#[test]
fn groups_of_one_repository_get_a_blob_at_once() {
    let (base, own) = (blob("base", 5), blob("own", 2));
    let (mut queue, waiting) = sorted(vec![
        demand(0, 0, &[&base]),
        demand(1, 1, &[&base]),
        demand(2, 0, &[&base, &own]),
    ]);
    assert_eq!((waiting[&0].needs, waiting[&2].needs), (1, 2));
    let job = queue.next(|_| true).unwrap();
    assert_eq!((job.need.repository, &job.need.groups[..]), (0, &[0, 2][..]));
}

#[test]
fn demands_without_memory_for_them_take_none() {
    let many = |salt: &str| (0..1000).map(|n| blob(&format!("{salt}{n}"), 1)).collect::<Vec<_>>();
    let demands = (0..50u32).map(|group| Demand {
        blobs: many(&group.to_string()),
        groups: vec![Taker {
            group,
            repository: 0,
            in_place: false,
        }],
    });
    let budget = Budget::new(3000 * (WORK + PAIR));
    let (queue, sorted) = Scheduler::new(demands, &budget);
    assert_eq!(sorted.too_large.len(), 47);
    assert_eq!(queue.size().0, 3000);
    assert!(queue.works.capacity() < 10_000, "{}", queue.works.capacity());
}

/// Sizes of the blobs of each image, in MiB.
type Mix = Vec<Vec<u64>>;

/// Returns pseudo-random numbers that are the same in each run.
fn numbers() -> impl FnMut() -> u64 {
    let mut state = 88_172_645_463_325_252u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Lines that a simulated run has.
#[derive(Clone, Copy)]
struct Line {
    /// Number of bodies sent concurrently: at the start, and at most.
    jobs: (usize, usize),
    /// Number of bodies that are sent as fast as one; more bodies share the lines.
    full: usize,
    /// Number of bytes per line after which the number of bodies grows at the latest.
    round: f64,
}

/// Pushes a mix, with half as many blobs that wait for their turn as are sent.
/// Returns the duration of the run and the times at which images are complete.
/// As in the limiter, the number of bodies grows to 16 and then doubles, after as many answers or after a round.
fn simulate(mix: &[Vec<u64>], line: Line) -> (f64, Vec<f64>) {
    let demands = mix.iter().enumerate().map(|(group, sizes)| Demand {
        blobs: sizes
            .iter()
            .enumerate()
            .map(|(n, size)| blob(&format!("{group} {n}"), *size))
            .collect(),
        groups: vec![Taker {
            group: group as u32,
            repository: group as u32,
            in_place: false,
        }],
    });
    let (mut queue, sorted) = Scheduler::new(demands, &Budget::default());
    let mut waiting: HashMap<usize, usize> = sorted.awaited.iter().map(|(group, all)| (*group, all.needs)).collect();
    let (mut now, mut complete, mut running, mut begun) = (0.0, Vec::new(), Vec::new(), VecDeque::new());
    let (mut jobs, most) = line.jobs;
    let (mut answers, mut next_round) = (0, line.round);
    loop {
        queue.set_lines(Lines { count: jobs, most });
        while running.len() + begun.len() < jobs * 3 / 2 {
            let Some(job) = queue.next(|_| true) else { break };
            begun.push_back((cost(job.descriptor.size) as f64, job));
        }
        let free = (jobs - running.len()).min(begun.len());
        running.extend(begun.drain(..free));
        let rate = (line.full as f64 / running.len() as f64).min(1.0);
        let Some(least) = running.iter().map(|(left, _)| *left / rate).reduce(f64::min) else {
            return (now, complete);
        };
        let until_round = if jobs < most { next_round - now } else { f64::MAX };
        let step = least.min(until_round);
        now += step;
        running.iter_mut().for_each(|(left, _)| *left -= step * rate);
        let (done, rest): (Vec<_>, Vec<_>) = running.into_iter().partition(|(left, _)| *left <= 0.5);
        running = rest;
        for (_, job) in done {
            answers += 1;
            queue.placed(&job, Placed::Uploaded);
            let waits = waiting.get_mut(&job.need.groups[0]).unwrap();
            *waits -= 1;
            if *waits == 0 {
                complete.push(now);
            }
        }
        if jobs < most && (answers >= jobs || now >= next_round) {
            (jobs, answers, next_round) = ((jobs * 2).max(16).min(most), 0, now + line.round);
        }
    }
}

#[test]
fn images_become_complete_during_the_whole_run_which_takes_no_longer() {
    let mut number = numbers();
    // Sizes from 1 MiB to 512 MiB, each power of two equally likely.
    let mut mixed = |images: usize| -> Mix {
        let mut blobs = || (0..3).map(|_| 1 << (number() % 10)).collect();
        (0..images).map(|_| blobs()).collect()
    };
    let with = |mut mix: Mix, more: &[u64]| {
        mix.extend(more.iter().map(|size| vec![*size, 1]));
        mix
    };
    let mixes = [
        ("mixed", mixed(50)),
        ("equal", vec![vec![40, 5]; 50]),
        ("one huge", with(mixed(50), &[8000])),
        ("two huge", with(mixed(50), &[4000, 4000])),
        ("a few large", with(vec![vec![10, 2]; 45], &[1000, 900, 800, 700, 600])),
        ("growing", (1..=50).map(|n| vec![n * 4, n]).collect()),
        ("many mixed", mixed(200)),
        ("many growing", (1..=200).map(|n| vec![n, n / 4 + 1]).collect()),
        ("many small", vec![vec![2, 1]; 200]),
    ];
    for (name, mix) in &mixes {
        let mix: Mix = mix
            .iter()
            .map(|sizes| sizes.iter().map(|size| size << 20).collect())
            .collect();
        // Within one image, the largest blob goes first.
        let together = [mix.concat()];
        let fixed = [1, 2, 3, 4, 6, 8, 16, 32, 64].map(|jobs| ((jobs, jobs), jobs, 0));
        let shared = [2, 6, 16, 32, 64].map(|jobs| ((jobs, jobs), 1, 0));
        let growing = [5, 20, 100, 500].map(|round| ((6, 64), 64, round));
        for (jobs, full, round) in fixed.into_iter().chain(shared).chain(growing) {
            let round = (round << 20) as f64;
            let line = Line { jobs, full, round };
            let (wall, complete) = simulate(&mix, line);
            let (best, _) = simulate(&together, line);
            let by = |part: f64| {
                let count = complete.iter().filter(|at| **at <= wall * part).count();
                count as f64 / mix.len() as f64
            };
            let case = format!(
                "{name}, jobs {jobs:?}, {full} as fast as one, round {round}: wall {:.3}, complete {:.2} {:.2} {:.2} {:.2} {:.2}",
                wall / best,
                by(0.25),
                by(0.5),
                by(0.6),
                by(0.75),
                by(0.9)
            );
            assert!(wall <= best * 1.05, "{case}");
            let soon = match jobs {
                (6, 6) => by(0.25) >= 0.15 && by(0.5) >= 0.4 && by(0.75) >= 0.65,
                (16, 16) => by(0.5) >= 0.3 && by(0.75) >= 0.5 && by(0.9) >= 0.6,
                // Of many equal bodies on one line, all end together.
                (32, 32) if full == 1 => by(0.75) >= 0.3 && by(0.9) >= 0.4,
                (count, most) if count == most && mix.len() >= 6 * count => by(0.25) >= 0.15 && by(0.5) >= 0.3,
                _ => true,
            };
            assert!(soon, "{case}");
        }
    }
}
