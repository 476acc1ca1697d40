//! Every archive of the hostile tables through the program: from a file, from a pipe, as a dry run, and several at
//! once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::archives::as_ours;
use crate::cases::{self, Case, Expect};
use crate::measured::{Lab, raw_text};
use crate::support::Double;

/// Runs that are measured at the same time.
const SIDE_BY_SIDE: usize = 3;

/// Returns whether a run may succeed: a fault behind the images of a bundle in a pipe, or one that a dry run does not
/// read.
fn may_succeed(expect: &Expect, is_whole: bool) -> bool {
    matches!(expect, Expect::Fine | Expect::Warning(_)) || !is_whole
}

/// What is wrong with the runs of one case.
fn faults(case: &Case, number: usize, lab: &Lab, registry: &Double) -> Vec<String> {
    let (name, generate, expect) = case;
    let mut faults = Vec::new();
    for (style, bytes) in [("foreign", generate()), ("ours", as_ours(generate))] {
        let file = lab.path(&format!("{number}-{style}.tar"));
        std::fs::write(&file, bytes).unwrap();
        let path = file.to_str().unwrap();
        for (way, source, dry_run) in [("file", path, false), ("pipe", "-", false), ("dry run", path, true)] {
            let destination = format!("{}/{number}/{style}/{}", registry.host(), &way[..3]);
            let mut arguments = vec!["import", source, "-d", &destination];
            arguments.extend(dry_run.then_some("--dry-run"));
            let run = lab.run(&arguments, (source == "-").then_some(&file));
            let mut found = run.faults(20);
            let succeeded = run.ended == Ok(0);
            if succeeded && !may_succeed(expect, way == "file") {
                found.push("was a success".to_owned());
            } else if !succeeded && matches!(expect, Expect::Fine | Expect::Warning(_)) {
                found.push(format!("failed: {}", run.stderr));
            }
            faults.extend(
                found
                    .into_iter()
                    .map(|fault| format!("{name} ({style}, {way}): {fault}")),
            );
        }
    }
    faults.extend(looked_at(case, number, lab));
    faults.extend(verified(case, number, lab, registry));
    faults
}

/// Returns what is wrong with the runs of the commands that only read one case.
fn looked_at(case: &Case, number: usize, lab: &Lab) -> Vec<String> {
    let (name, _, expect) = case;
    let file = format!("{number}-foreign.tar");
    let [page, lock, want] = ["html", "lock", "want"].map(|suffix| format!("{number}.{suffix}"));
    // A rule of imports alone is not a fault of a bundle, and neither is an unusable name.
    let is_wrong = !name.starts_with("r29") && matches!(expect, Expect::Open(_) | Expect::Tree(_) | Expect::Blob(_));
    let commands: [(&[&str], bool); 3] = [
        (
            &["inspect", "--layers", "--html", &page, "--lock", &lock, &file],
            matches!(expect, Expect::Open(_)),
        ),
        (&["verify", "--deep", "--want", &want, &file], is_wrong),
        (&["diff", "--json", &file, &file], matches!(expect, Expect::Open(_))),
    ];
    let mut faults = Vec::new();
    for (arguments, must_fail) in commands {
        let run = lab.run(arguments, None);
        let mut found = run.faults(1100);
        if must_fail && run.ended == Ok(0) {
            found.push("was a success".to_owned());
        }
        let lines = run.stderr.lines().filter(|line| line.starts_with("FAULT ")).count();
        if lines > 1000 {
            found.push(format!("{lines} faults are listed"));
        }
        faults.extend(
            found
                .into_iter()
                .map(|fault| format!("{name} ({}): {fault}", arguments[0])),
        );
    }
    for file in [page, lock, want] {
        let path = lab.path(&file);
        let raw = if path.exists() { raw_text(&path) } else { Vec::new() };
        if !raw.is_empty() {
            faults.push(format!("{name}: {file} has {raw:?}"));
        }
    }
    faults
}

/// Returns what is wrong with an import that verifies the whole archive before it sends any of it.
fn verified(case: &Case, number: usize, lab: &Lab, registry: &Double) -> Vec<String> {
    let (name, _, expect) = case;
    let destination = format!("{}/{number}/verified", registry.host());
    let file = format!("{number}-foreign.tar");
    let run = lab.run(&["import", "--verify", &file, "-d", &destination], None);
    let mut found = run.faults(1100);
    let is_sent = registry.transcript().contains(&format!("/v2/{number}/verified/"));
    let is_wrong = !matches!(expect, Expect::Fine | Expect::Warning(_));
    if is_wrong && run.ended == Ok(0) {
        found.push("was a success".to_owned());
    }
    if matches!(expect, Expect::Open(_) | Expect::Blob(_)) && is_sent {
        found.push("has sent something".to_owned());
    }
    found
        .into_iter()
        .map(|fault| format!("{name} (verified): {fault}"))
        .collect()
}

#[test]
fn every_hostile_archive_stays_below_the_ceilings() {
    let cases = cases::all();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (lab, registry) = (Lab::new(), Double::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some((number, case)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|number| Some((number, cases.get(number)?)))
                {
                    let found = faults(case, number, &lab, &registry);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // Several in one run: what one of them says may be wrong for all.
    let all: Vec<String> = (0..cases.len()).map(|number| format!("{number}-ours.tar")).collect();
    for (number, files) in all.chunks(8).enumerate() {
        let destination = format!("{}/together/{number}", registry.host());
        let mut arguments = vec!["import", "-d", &destination];
        arguments.extend(files.iter().map(String::as_str));
        // Some of them list ten thousand images, each of which fails by itself.
        let found = lab.run(&arguments, None).faults(10_100);
        assert!(found.is_empty(), "{files:?}: {}", found.join("\n"));
    }
}
