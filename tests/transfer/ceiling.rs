//! `-j N` is the maximum number of requests to a registry at a time, of every kind. The registries count what is under way, and
//! gates hold requests until N are there, so that no count depends on the speed of the machine.

use crate::support::fault::{Action, Canned, When};
use crate::support::image::Style;
use crate::support::{Cli, Double, Gate, images};

const REPOSITORIES: [&str; 4] = ["team/a", "team/b", "team/c", "team/d"];

/// Returns a registry with an image of two platforms in each repository, each with layers of its own.
fn stocked() -> Double {
    let registry = Double::new();
    for name in REPOSITORIES {
        images::multi(Style::Oci, &["linux/amd64", "linux/arm64/v8"], name).push(&registry, name, "1");
    }
    registry
}

/// Holds requests until this number of them wait together, and forgets the requests so far.
fn meet(registry: &Double, jobs: usize, kinds: &[When]) {
    registry.clear_faults();
    for when in kinds {
        registry.add_fault(when.clone(), Action::Hold(Gate::meeting_of(jobs)));
    }
    registry.forget_requests();
}

/// Runs the program with `-j`, and a limit of time in place of a hang.
fn run(cli: &Cli, jobs: usize, command: &[&str], images: &[String]) {
    let jobs = jobs.to_string();
    let flags = ["-j", &jobs, "--no-cache", "--timeout", "100"];
    let images = images.iter().map(String::as_str);
    let arguments: Vec<&str> = command.iter().copied().chain(flags).chain(images).collect();
    let output = cli.command(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

fn images_of(registry: &Double) -> Vec<String> {
    REPOSITORIES.map(|name| format!("{}/{name}:1", registry.host())).into()
}

#[track_caller]
fn assert_peak(registry: &Double, jobs: usize, what: &str) {
    assert_eq!(registry.peak(), jobs, "{what}, -j {jobs}:\n{}", registry.transcript());
}

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

#[test]
fn an_export_sends_as_many_requests_at_a_time_as_were_asked_for_and_no_more() {
    let (registry, cli) = (stocked(), cli());
    let kinds = [When::get("/manifests/"), When::get("/blobs/")];
    for jobs in 1..4 {
        for output in ["b.tar", "-", "b.tar.gz"] {
            meet(&registry, jobs, &kinds);
            run(&cli, jobs, &["export", "--force", "-o", output], &images_of(&registry));
            assert_peak(&registry, jobs, output);
        }
    }
}

#[test]
fn an_import_sends_as_many_requests_at_a_time_as_were_asked_for_and_no_more() {
    let (registry, cli) = (stocked(), cli());
    run(&cli, 4, &["export", "-o", "b.tar"], &images_of(&registry));
    let kinds = [
        When::head("/blobs/"),
        When::post("/blobs/uploads/"),
        When::put("/blobs/uploads/"),
        When::put("/manifests/"),
    ];
    for jobs in 1..4 {
        let target = Double::new();
        meet(&target, jobs, &kinds);
        run(&cli, jobs, &["import", "b.tar", "-d", &target.host()], &[]);
        assert_peak(&target, jobs, "import");
        // Everything is there now: what is asked is short, and no more at a time either.
        meet(&target, jobs, &[]);
        run(&cli, jobs, &["import", "b.tar", "-d", &target.host()], &[]);
        assert!(target.peak() <= jobs, "{}", target.transcript());
    }
}

#[test]
fn one_step_sends_as_many_requests_at_a_time_to_each_registry_as_were_asked_for_and_no_more() {
    let (registry, cli) = (stocked(), cli());
    for jobs in 1..4 {
        let target = Double::new();
        meet(&registry, jobs, &[When::get("/manifests/"), When::get("/blobs/")]);
        meet(&target, jobs, &[When::put("/blobs/uploads/"), When::put("/manifests/")]);
        run(&cli, jobs, &["-d", &target.host()], &images_of(&registry));
        assert_peak(&registry, jobs, "source");
        assert_peak(&target, jobs, "destination");
    }
}

#[test]
fn a_registry_that_is_source_and_destination_gets_as_many_of_each_side() {
    let (registry, cli) = (stocked(), cli());
    for jobs in 1..4 {
        let below = format!("{}/copy{jobs}", registry.host());
        registry.forget_requests();
        run(&cli, jobs, &["-d", &below], &images_of(&registry));
        assert!(registry.peak() <= 2 * jobs, "{}", registry.transcript());
        for name in REPOSITORIES {
            let there = registry.manifest(&format!("copy{jobs}/{name}"), "1");
            assert!(there.is_some(), "{name}, -j {jobs}: {}", registry.transcript());
        }
    }
}

/// An upload that fails in the middle of its body waits for a place at the destination, which the next upload has. That one
/// waits for a place at the source, which the first one must not keep meanwhile.
#[test]
fn an_upload_that_fails_in_its_body_holds_up_no_other_at_the_source() {
    let (registry, cli) = (Double::new(), cli());
    for (seed, name) in (1..).zip(REPOSITORIES) {
        images::sized(seed, "linux/amd64", &[12 << 20]).push(&registry, name, "1");
    }
    for jobs in 1..3 {
        let target = Double::new();
        let failing = Action::Early(Canned::error(500, "UNKNOWN", "try again"));
        for name in REPOSITORIES {
            let uploads = format!("/{name}/blobs/uploads/");
            // Whichever request sends the layer, it fails once before its body is read.
            target.add_fault(When::put(&uploads).first(2), failing.clone());
            target.add_fault(When::patch(&uploads).first(1), failing.clone());
        }
        run(&cli, jobs, &["-d", &target.host()], &images_of(&registry));
        for name in REPOSITORIES {
            let there = target.manifest(name, "1");
            assert!(there.is_some(), "{name}, -j {jobs}: {}", target.transcript());
        }
    }
}
