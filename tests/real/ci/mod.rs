//! The files of `docs/ci`: both stages of each, as their CI system would run them, each interrupted once.
//!
//! Three folders play a runner: a workspace that is new for each job, the paths that the file keeps from job to job,
//! and the paths that it hands to the next stage. All three, and the commands, come from the file itself.

mod files;
mod runner;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use self::files::Pipeline;
use self::runner::{Attempt, Runner};
use super::support::image::Style;
use super::support::nginx::nginx;
use super::support::real::program;
use super::support::{Action, Allowance, Double, Gate, When, images, sha256};

/// Runs both stages, each with an interruption, and checks which requests were sent twice.
fn runs_both_stages(pipeline: &Pipeline) {
    let (source, target) = (Double::new(), Double::new());
    let large = images::sized(1, "linux/amd64", &[24 << 20, 1 << 20]);
    large.push(&source, "team/large", "1.0");
    images::multi(Style::Oci, &["linux/amd64", "linux/arm64"], "small").push(&source, "team/small", "2.0");
    let list = format!(
        "# for the test\n{0}/team/large:1.0\n{0}/team/small:2.0\n",
        source.host()
    );
    let destination = target.host();
    let runner = Runner::new(pipeline, &list, &destination);

    let allowance = Allowance::new(16 << 20);
    source.add_fault(When::get("/blobs/"), Action::Allow(allowance.clone()));
    let cancelled = runner.run(&pipeline.fetch, Attempt::CancelledWhen(&|| allowance.is_spent()));
    assert!(!cancelled.success, "{}", cancelled.output);
    source.clear_faults();
    source.forget_requests();
    runner.run(&pipeline.fetch, Attempt::ToItsEnd).expect_success();
    let sent: u64 = source.requests_of("GET", "/blobs/").iter().map(|r| r.bytes_out).sum();
    assert!(
        sent < 20 << 20,
        "{}: {sent} bytes were fetched again\n{}",
        pipeline.name,
        source.transcript()
    );

    let gate = Gate::closed();
    target.add_fault(When::put("/team/large/manifests/"), Action::Hold(gate.clone()));
    let cancelled = runner.run(&pipeline.push, Attempt::CancelledWhen(&|| gate.arrived() > 0));
    assert!(!cancelled.success, "{}", cancelled.output);
    gate.open();
    target.clear_faults();
    target.forget_requests();
    runner.run(&pipeline.push, Attempt::ToItsEnd).expect_success();
    let sent: u64 = target.requests().iter().map(|r| r.bytes_in).sum();
    assert!(
        sent < 20 << 20,
        "{}: {sent} bytes were sent again\n{}",
        pipeline.name,
        target.transcript()
    );
    for (repository, tag) in [("mirror/team/large", "1.0"), ("mirror/team/small", "2.0")] {
        let stored = target.store().repository(repository).expect("the image is not there");
        let origin = source.store().repository(&repository["mirror/".len()..]).unwrap();
        assert_eq!(stored.tags[tag], origin.tags[tag], "{}: {repository}", pipeline.name);
    }
}

/// What every one of these tests needs; what is not there is said.
fn tools() -> bool {
    ["bash", "curl", "sha256sum"]
        .iter()
        .all(|tool| program(tool, "the files of docs/ci").is_some())
}

#[test]
fn gitlab_with_artifacts() {
    if tools() {
        runs_both_stages(&files::gitlab("gitlab-ci.yml"));
    }
}

#[test]
fn gitlab_with_generic_packages() {
    let server = "listen 127.0.0.1:{port};\nclient_max_body_size 0;\nroot {folder}/packages;\n\
                  dav_methods PUT;\ncreate_full_put_path on;";
    let store = nginx("generic packages of GitLab", server);
    let (true, Some(store)) = (tools(), store) else { return };
    let mut pipeline = files::gitlab("gitlab-ci-packages.yml");
    let api = format!("http://127.0.0.1:{}", store.port);
    pipeline.environment.insert(0, ("CI_API_V4_URL".to_owned(), api));
    // The folder of the push job is kept: it has an older bundle at first, and the right one after the interruption.
    pipeline.push.kept = ["bundle.tar", "bundle.tar.sha256"].map(str::to_owned).to_vec();
    let older = "[ -e bundle.tar ] || { echo older > bundle.tar; sha256sum bundle.tar > bundle.tar.sha256; }";
    pipeline.push.scripts.insert(0, older.to_owned());
    runs_both_stages(&pipeline);
}

#[test]
fn github_actions() {
    if tools() {
        runs_both_stages(&files::github("github-actions.yml"));
    }
}

#[test]
fn jenkins() {
    if tools() {
        runs_both_stages(&files::jenkins("Jenkinsfile"));
    }
}

#[test]
fn jenkins_repeats_what_another_attempt_may_mend() {
    if !tools() {
        return;
    }
    let pipeline = files::jenkins("Jenkinsfile");
    for script in [&pipeline.fetch.scripts[0], &pipeline.push.scripts[0]] {
        for (code, attempts) in [(0, 1), (1, 3), (2, 1), (3, 1), (4, 1), (124, 3)] {
            assert_eq!(runs_of_program(script, code), (attempts, Some(code)), "{script}");
        }
    }
}

/// Runs a script with a program that always ends with this exit code. Returns how often the program ran, and the exit
/// code of the script.
fn runs_of_program(script: &str, code: i32) -> (usize, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let program = format!("#!/bin/sh\necho run >> runs\nexit {code}\n");
    fs::write(folder.path().join("program"), &program).unwrap();
    let status = Command::new("bash")
        .args(["-e", "-c", script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("WORKSPACE", folder.path())
        .env("DESTINATION", "docker.example.com/mirror")
        .env("TOOL_URL", format!("file://{}/program", folder.path().display()))
        .env("TOOL_SHA256", sha256(program.as_bytes()).trim_start_matches("sha256:"))
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let runs = fs::read_to_string(folder.path().join("runs")).unwrap_or_default();
    (runs.lines().count(), status.code())
}

#[test]
fn tekton() {
    if tools() {
        runs_both_stages(&files::tekton("tekton.yaml"));
    }
}

#[test]
fn kubernetes_jobs() {
    if tools() {
        runs_both_stages(&files::kubernetes("kubernetes-fetch.yaml", "kubernetes-push.yaml"));
    }
}

/// The program under test, and its checksum.
fn tool() -> (&'static Path, String) {
    let path = Path::new(env!("CARGO_BIN_EXE_docker-mirror"));
    let sum = sha256(&fs::read(path).unwrap());
    (path, sum.trim_start_matches("sha256:").to_owned())
}
