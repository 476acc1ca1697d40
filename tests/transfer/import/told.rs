//! What a user is told of an import: on the terminal, and in the report.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::handmade::Maker;
use super::support::cli::wait_until;
use super::support::fault::{Action, When};
use super::support::{Cli, Double, Gate, Options, sha256};

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// Writes one image of this content as `team/app:1` to `b.tar`.
fn app(cli: &Cli, content: &str) {
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &[content.as_bytes()]);
    maker.name("docker.io/team/app:1", &image);
    std::fs::copy(maker.write().path, cli.path("b.tar")).unwrap();
}

#[test]
fn a_tag_that_was_moved_is_told_with_what_it_held() {
    let (cli, target) = (cli(), Double::new());
    app(&cli, "old");
    let first = cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert!(!first.stderr.contains("updated"), "{}", first.everything());
    let old = first.lines()[0].rsplit_once('@').unwrap().1.to_owned();
    app(&cli, "new");
    let arguments = ["import", "b.tar", "-d", &target.host(), "--report", "r.json"];
    cli.succeed(&[&arguments[..], &["--dry-run"]].concat())
        .says(&["tag would be updated (was ", &old]);
    let moved = cli
        .succeed(&arguments)
        .says(&["team/app:1: tag updated (was ", &old, "1 updated, 0 failed in "]);
    let report: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
    assert_eq!(report["images"][0]["replaced"], old.as_str());
    assert!(!moved.stdout.contains(&old));
}

#[test]
fn a_dry_run_says_of_nothing_that_it_is_done() {
    let (cli, target) = (cli(), Double::new());
    app(&cli, "app");
    let arguments = ["import", "b.tar", "-d", &target.host(), "--dry-run"];
    let planned = cli.succeed(&arguments);
    assert!(!planned.stderr.contains(" new"), "{}", planned.everything());
    cli.succeed(&arguments[..4]).says(&["1 new, 0 failed"]);
    let planned = cli.succeed(&arguments);
    assert!(!planned.stderr.contains(" new"), "{}", planned.everything());
    assert!(planned.stdout.contains("is there already"));
}

#[test]
fn a_report_replaces_nothing_but_a_report() {
    let (cli, target) = (cli(), Double::new());
    app(&cli, "app");
    let before = std::fs::read(cli.path("b.tar")).unwrap();
    std::os::unix::fs::symlink("b.tar", cli.path("link")).unwrap();
    std::fs::write(cli.path("old.json"), "{\"dryRun\": false}").unwrap();
    std::os::unix::fs::symlink("old.json", cli.path("link to a report")).unwrap();
    std::os::unix::fs::symlink("nowhere", cli.path("link to nothing")).unwrap();
    for (report, why) in [
        ("b.tar", "is not a report"),
        ("link", "links are not followed"),
        ("link to a report", "links are not followed"),
        ("link to nothing", "link to nothing"),
    ] {
        cli.run(&["import", "b.tar", "-d", &target.host(), "--report", report])
            .expect_code(2)
            .says(&["--report", report, why]);
        assert!(std::fs::read(cli.path("b.tar")).unwrap() == before);
        assert_eq!(std::fs::read(cli.path("old.json")).unwrap(), b"{\"dryRun\": false}");
        assert!(!cli.path("nowhere").exists());
    }
    assert!(target.requests().is_empty(), "{}", target.transcript());
    // An empty file is nobody's loss, and a report is replaced.
    std::fs::write(cli.path("r.json"), "").unwrap();
    for _ in 0..2 {
        cli.succeed(&["import", "b.tar", "-d", &target.host(), "--report", "r.json"]);
    }
}

#[test]
fn a_report_that_cannot_be_written_is_found_before_the_first_request() {
    let (cli, target) = (cli(), Double::new());
    app(&cli, "app");
    std::fs::create_dir(cli.path("folder")).unwrap();
    for (report, why) in [
        ("nowhere/r.json", "folder does not exist"),
        ("folder", "is a folder"),
        ("-", "`--json` prints it to standard output"),
        ("b.tar/r.json", "folder does not exist"),
    ] {
        cli.run(&["import", "b.tar", "-d", &target.host(), "--report", report])
            .expect_code(2)
            .says(&["--report", why]);
    }
    assert!(target.requests().is_empty(), "{}", target.transcript());
    // What fails at the end takes no result with it, and no success.
    let full = cli.run(&["import", "b.tar", "-d", &target.host(), "--report", "/dev/full"]);
    let full = full.expect_code(1).says(&["/dev/full"]);
    assert_eq!(full.lines().len(), 1, "{}", full.everything());
}

#[test]
fn a_link_that_takes_the_place_of_a_report_during_the_run_is_not_followed() {
    let (cli, gate) = (cli(), Gate::closed());
    app(&cli, "app");
    let target = Double::start(Options::default().fault(When::put("/manifests/"), Action::Hold(gate.clone())));
    std::fs::write(cli.path("precious"), "precious").unwrap();
    let child = cli.spawn(&["import", "b.tar", "-d", &target.host(), "--report", "r.json"]);
    wait_until("the manifest is on its way", || target.count("PUT", "/manifests/") > 0);
    // The report that says that the run has not ended.
    std::fs::remove_file(cli.path("r.json")).unwrap();
    std::os::unix::fs::symlink("precious", cli.path("r.json")).unwrap();
    gate.open();
    let run = child.wait_with_output().unwrap();
    assert!(!run.status.success());
    assert_eq!(std::fs::read(cli.path("precious")).unwrap(), b"precious");
}

#[test]
fn a_report_to_standard_output_keeps_the_results() {
    let (cli, target) = (cli(), Double::new());
    app(&cli, "app");
    let out = std::fs::File::create(cli.path("out")).unwrap();
    let arguments = ["import", "b.tar", "-d", &target.host(), "--report", "/dev/stdout"];
    let status = cli.command(&arguments).stdout(out).status().unwrap();
    assert!(status.success());
    let out = std::fs::read_to_string(cli.path("out")).unwrap();
    let report = out.find('{').unwrap();
    assert!(out[..report].contains("app"), "{out}");
    serde_json::from_str::<serde_json::Value>(&out[report..]).unwrap();
}

#[test]
fn a_report_is_a_file_like_any_other() {
    let (cli, target) = (cli(), Double::new());
    app(&cli, "app");
    std::fs::write(cli.path("plain"), "").unwrap();
    cli.succeed(&["import", "b.tar", "-d", &target.host(), "--report", "r.json"]);
    let mode = |name: &str| cli.path(name).metadata().unwrap().permissions().mode();
    assert_eq!(mode("r.json"), mode("plain"));
    assert_eq!(cli.files(), ["b.tar", "plain", "r.json"]);
}

#[test]
fn images_that_the_bundle_lacks_are_told_and_the_others_imported() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    super::support::images::greeting().push(&source, "team/app", "1");
    let (there, gone) = (
        format!("{}/team/app:1", source.host()),
        format!("{}/team/gone:1", source.host()),
    );
    cli.run(&["export", &there, &gone, "-o", "b.tar", "--allow-partial"]);
    let imported = cli.run(&["import", "b.tar", "-d", &target.host(), "--report", "r.json"]);
    let imported = imported.expect_code(0).says(&[
        "warning: the bundle says that",
        &gone,
        "is missing from it: it was not found",
    ]);
    assert_eq!(imported.lines().len(), 1);
    let last = imported.stderr.lines().last().unwrap();
    assert!(last.contains("1 missing from the bundle"), "{}", imported.stderr);
    let report: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
    assert_eq!(report["missing"][0]["reference"], gone.as_str());
}

#[test]
fn every_image_that_fails_is_named() {
    let (cli, target) = (cli(), Double::new());
    let mut maker = Maker::default();
    for name in ["one", "two", "three"] {
        let image = maker.image("linux/amd64", &[name.as_bytes()]);
        maker.name(&format!("docker.io/team/{name}:1"), &image);
    }
    maker.remove(&sha256(b"one"));
    maker.corrupt(&sha256(b"two"));
    std::fs::copy(maker.write().path, cli.path("b.tar")).unwrap();
    let output = cli.run(&["import", "b.tar", "-d", &target.host()]).expect_code(5);
    let output = output.says(&["2 of 3 images failed", "docker.io/team/one:1", "docker.io/team/two:1"]);
    assert_eq!(output.lines().len(), 1);
    assert!(output.stdout.contains("team/three:1@"));
}

#[test]
fn only_a_digest_that_was_asked_for_is_called_pinned() {
    let cli = cli();
    for pinned in [false, true] {
        let target = Double::new();
        let mut maker = Maker::default();
        let kept = [maker.image("linux/amd64", &[b"amd64"])];
        let dropped = [maker.image("linux/s390x", &[b"s390x"])];
        let (original, _) = maker.clone().name_sparse("docker.io/team/app:1", &kept, &dropped);
        let name = match pinned {
            true => format!("docker.io/team/app:1@{original}"),
            false => "docker.io/team/app:1".to_owned(),
        };
        maker.name_sparse(&name, &kept, &dropped);
        std::fs::copy(maker.write().path, cli.path("b.tar")).unwrap();
        let output = cli.run(&["import", "b.tar", "-d", &target.host(), "--index", "sparse"]);
        let output = output.expect_code(1).says(&[&original, "does not exist there"]);
        assert_eq!(output.stderr.contains("pinned"), pinned, "{}", output.everything());
    }
}

#[test]
fn a_damaged_layer_that_two_images_share_is_told_of_each_without_the_others_name() {
    let (cli, target) = (cli(), Double::new());
    let mut maker = Maker::default();
    for name in ["one", "two"] {
        let image = maker.image("linux/amd64", &[&[7; 9000], name.as_bytes()]);
        maker.name(&format!("docker.io/team/{name}:1"), &image);
    }
    let layer = sha256(&[7; 9000]);
    maker.corrupt(&layer);
    std::fs::copy(maker.write().path, cli.path("b.tar")).unwrap();
    let said = cli.run(&["import", "b.tar", "-d", &target.host()]).expect_code(5);
    for name in ["one", "two"] {
        let line = said
            .stderr
            .lines()
            .find(|line| line.contains(&format!("`docker.io/team/{name}:1`")));
        let line = line.unwrap_or_else(|| panic!("nothing of {name}:\n{}", said.everything()));
        for part in [layer.as_str(), "`b.tar`", "member", "at offset", "other bytes"] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!line.contains(&target.host()), "it is no fault of a repository: {line}");
    }
    said.says(&["hint: the bundle was modified or corrupted in transit: copy it again, and compare checksums"]);
}

#[test]
fn a_password_and_a_bundle_cannot_both_be_on_standard_input() {
    use std::io::Seek;
    let (cli, target) = (cli(), Double::new());
    app(&cli, "app");
    let host = target.host();
    for bundle in ["-", "/dev/stdin"] {
        let arguments = ["import", bundle, "-d", &host, "--username", "u", "--password-stdin"];
        let mut input = std::fs::File::open(cli.path("b.tar")).unwrap();
        let output = cli
            .command(&arguments)
            .stdin(input.try_clone().unwrap())
            .output()
            .unwrap();
        let said = super::support::cli::Output::new(&output, &arguments).expect_code(2);
        said.says(&[
            &format!("`{bundle}` and `--password-stdin`"),
            "hint: ",
            "DOCKER_MIRROR_PASSWORD",
        ]);
        assert_eq!(input.stream_position().unwrap(), 0, "nothing was read");
    }
    assert!(target.requests().is_empty(), "{}", target.transcript());
    // A bundle in a file leaves standard input to the password.
    let arguments = ["import", "b.tar", "-d", &host, "--username", "u", "--password-stdin"];
    std::fs::write(cli.path("password"), "secret\n").unwrap();
    let input = std::fs::File::open(cli.path("password")).unwrap();
    assert!(cli.command(&arguments).stdin(input).status().unwrap().success());
}
