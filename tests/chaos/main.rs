//! Chaos: export, import and one-step mirror between two real registries, through proxies that inject faults drawn from
//! a seed.
//!
//! Every run must end in time. It succeeds with complete and right content, or fails with exit code 1 and a message
//! that names a cause. A second run without faults completes it, and an export then has the same bytes as an
//! undisturbed one. At no time does a tag at the destination point to an incomplete image.
//!
//! `DOCKER_MIRROR_CHAOS_SEEDS=0..300` chooses the seeds, `DOCKER_MIRROR_CHAOS_SHOW=1` prints the output of each run,
//! `DOCKER_MIRROR_CHAOS_PROGRAM` names another build of the program. The seed does not determine which requests run in
//! parallel, so that two runs of one seed may differ a little.

// The report of each seed is for people; the test runner shows it after a failure.
#![allow(clippy::print_stderr)]

#[path = "../support/mod.rs"]
mod support;

mod corpus;
mod lab;
mod watcher;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lab::{Ending, Lab, Outcome};

/// Seeds of the regular test run: for each operation some that succeed in spite of many kinds of faults, and some that
/// fail. None of them takes long.
const FEW: [u64; 22] = [
    9, 57, 63, 99, 147, 150, 195, 207, // export
    34, 58, 139, 142, 187, 199, 271, // import
    5, 11, 38, 56, 149, 230, 293, // one-step mirror
];

/// Runs side by side: most of the time of a run is waiting.
const WORKERS: usize = 6;

#[test]
fn every_run_ends_right_or_says_why_and_the_next_completes_it() {
    let Some(registries) = lab::registries() else { return };
    let seeds = std::env::var("DOCKER_MIRROR_CHAOS_SEEDS").map_or(FEW.to_vec(), |text| {
        let (first, end) = text
            .split_once("..")
            .expect("DOCKER_MIRROR_CHAOS_SEEDS is no range such as 0..300");
        (first.parse().unwrap()..end.parse().unwrap()).collect()
    });
    let show = std::env::var_os("DOCKER_MIRROR_CHAOS_SHOW").is_some();
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<Outcome>> = Mutex::default();
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (registries, next, outcomes, seeds) = (&registries, &next, &outcomes, &seeds);
            scope.spawn(move || {
                let lab = Lab::new(registries, worker);
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let outcome = match catch_unwind(AssertUnwindSafe(|| lab.run(seed))) {
                        Ok(outcome) => outcome,
                        Err(panic) => {
                            eprintln!("== seed {seed}: the test itself failed");
                            resume_unwind(panic);
                        }
                    };
                    if show || !outcome.faults.is_empty() {
                        eprintln!("{}", outcome.report());
                    }
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    eprintln!("{}", summary(&outcomes));
    let mut wrong: Vec<u64> = outcomes
        .iter()
        .filter(|o| !o.faults.is_empty())
        .map(|o| o.seed)
        .collect();
    wrong.sort_unstable();
    assert!(
        wrong.is_empty(),
        "wrong under the seeds {wrong:?}; each is told above; again: DOCKER_MIRROR_CHAOS_SEEDS=N..N+1"
    );
}

/// How many runs ended how, and what was done to them.
fn summary(outcomes: &[Outcome]) -> String {
    let mut endings: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    for outcome in outcomes {
        let ending = match (outcome.faults.is_empty(), &outcome.ending) {
            (false, _) => "WRONG",
            (true, Ending::Right) if outcome.tally.is_empty() => "right, with nothing in the way",
            (true, Ending::Right) => "right in spite of faults",
            (true, Ending::Failed) => "failed with a cause, then completed",
        };
        *endings.entry((outcome.operation, ending)).or_default() += 1;
        for (name, count) in &outcome.tally {
            *done.entry(name).or_default() += count;
        }
    }
    let mut text = format!("chaos: {} runs\n", outcomes.len());
    for ((operation, ending), count) in endings {
        text.push_str(&format!("  {operation:<7} {ending}: {count}\n"));
    }
    let done: Vec<String> = done.iter().map(|(name, count)| format!("{count} x {name}")).collect();
    text.push_str(&format!("  faults: {}", done.join(", ")));
    text
}
