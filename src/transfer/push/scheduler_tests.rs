use super::*;
use crate::error::Kind;

fn blob(text: &str, size: u64) -> Descriptor {
    Descriptor {
        size,
        ..Descriptor::of("x", text.as_bytes())
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
    assert_eq!(order, [8, 3, 2, 7, 6, 5, 4]);
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
    // Of a group per repository some find no room; the others go on.
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
