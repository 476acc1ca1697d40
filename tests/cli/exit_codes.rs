//! Exit codes: one for each reason, as the README lists them.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use super::support::cli::{Output, wait_until};
use super::support::fault::{Action, Canned, When};
use super::support::image::Style;
use super::support::images::{sized, small};
use super::support::layout::{Tar, write_layout};
use super::support::real::signal;
use super::support::{Auth, Double, Options};
use super::{Cli, cli, source};

#[test]
fn each_reason_has_a_code_of_its_own() {
    let (cli, open, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", open.host());
    let absent = format!("{}/library/absent:1.0", open.host());
    let closed = Double::start(Options::default().auth(Auth::basic("user", "password")));
    let closed_image = format!("{}/a/b:1", closed.host());
    let used_up = Double::start(Options::default().fault(
        When::path("/manifests/"),
        Action::error(429, "TOOMANYREQUESTS", "You have reached your pull rate limit"),
    ));
    let full = Double::start(Options::default().fault(
        When::post("/blobs/uploads/"),
        Action::error(507, "DENIED", "quota exceeded"),
    ));
    let full_host = full.host();
    let limited_image = format!("{}/a/b:1", used_up.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    let whole = std::fs::read(cli.path("b.tar")).unwrap();
    std::fs::write(cli.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    let host = target.host();
    let rows: &[(&[&str], i32)] = &[
        (&["import", "b.tar", "-d", &host], 0),
        (&["export", &image, "-o", "b.tar"], 0),
        (&["export", &absent, "-o", "c.tar"], 1),
        (&["export", &absent, &closed_image, "-o", "c.tar"], 1),
        (&["export", "UP", "-o", "c.tar"], 2),
        (&["export", &image], 2),
        (&["export", &closed_image, "-o", "c.tar"], 3),
        (&["import", "b.tar", "-d", &closed.host()], 3),
        (&["export", &limited_image, "-o", "c.tar", "--retries", "0"], 4),
        (&["import", "b.tar", "-d", &full_host], 4),
        (&["import", "cut.tar", "-d", &host], 5),
        (&["export", &image, &absent, "-o", "c.tar", "--allow-partial"], 6),
        (&["export", &absent, "-o", "d.tar", "--allow-partial"], 1),
    ];
    for (arguments, code) in rows {
        let output = cli.run(arguments);
        assert_eq!(output.code, Some(*code), "{}", output.everything());
    }
}

#[test]
fn every_command_that_reads_bundles_follows_one_rule() {
    let (cli, open, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", open.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    let bundle = Tar::open(&cli.path("b.tar"));
    let whole = std::fs::read(cli.path("b.tar")).unwrap();
    std::fs::write(cli.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(cli.path("text.tar"), "no archive").unwrap();
    let last = bundle.members.iter().max_by_key(|member| member.offset).unwrap();
    bundle.without(&last.name, &cli.path("incomplete.tar"));
    let host = target.host();
    for damaged in ["cut.tar", "text.tar", "incomplete.tar"] {
        for arguments in [
            &["import", damaged, "-d", &host][..],
            &["import", damaged, "-d", &host, "--verify"],
            &["inspect", damaged],
            &["inspect", damaged, "--json"],
            &["verify", damaged],
            &["diff", damaged, "b.tar", "--exit-code"],
            &["diff", "b.tar", damaged],
        ] {
            cli.run(arguments).expect_code(5);
        }
    }
    assert!(target.requests().is_empty(), "{}", target.transcript());
    // Two sound bundles that give one name to two images are damaged neither alone nor together.
    let [old, new, other] = ["old", "new", "other"].map(|text| small(Style::Oci, "linux/amd64", text));
    std::fs::create_dir(cli.path("both")).unwrap();
    write_layout(&cli.path("both/old.tar"), &[("quay.io/a/moved:1", &old)]);
    write_layout(&cli.path("both/new.tar"), &[("quay.io/a/moved:1", &new)]);
    write_layout(&cli.path("other.tar"), &[("quay.io/a/other:1", &other)]);
    let rows: &[(&[&str], i32)] = &[
        (&["import", "both", "-d", &host], 2),
        (&["import", "both/old.tar", "both/new.tar", "-d", &host], 2),
        (&["inspect", "both"], 2),
        (&["inspect", "both/old.tar", "both/new.tar", "--json"], 2),
        (&["diff", "both", "both"], 2),
        // Something was done.
        (&["inspect", "both", "other.tar"], 1),
        (&["import", "both", "other.tar", "-d", &host], 1),
        (&["diff", "both", "other.tar"], 1),
    ];
    for (arguments, code) in rows {
        let output = cli.run(arguments).expect_code(*code);
        let said = "two images are called `quay.io/a/moved:1`";
        assert!(output.everything().contains(said), "{}", output.everything());
        let hint = "import the bundles one after the other";
        assert!(output.everything().contains(hint), "{}", output.everything());
    }
    cli.run(&["verify", "both"])
        .expect_code(0)
        .says(&["two images are called `quay.io/a/moved:1`"]);
    // Several such names, and one without.
    let names = ["quay.io/a/moved:1", "quay.io/a/too:1"];
    for (file, image) in [("both/old.tar", &old), ("both/new.tar", &new)] {
        write_layout(&cli.path(file), &names.map(|name| (name, image)));
    }
    cli.run(&["import", "both", "-d", &host])
        .expect_code(2)
        .says(&["2 images cannot be told apart by their names", "one after the other"]);
}

/// Only what a bundle holds makes it a damaged one.
#[test]
fn a_malformed_answer_or_configuration_is_no_damaged_bundle() {
    let (cli, open) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", open.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    std::fs::write(cli.path("text.json"), "\"text\"").unwrap();
    std::fs::write(cli.path("text.pem"), "no certificate\n").unwrap();
    let no_json = || {
        Action::Answer(Canned {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            body: b"no JSON".to_vec(),
        })
    };
    let plain = || Options::default();
    let faulty = |path| Options::default().fault(When::path(path), no_json());
    let cases: Vec<(Options, &[&str], &str, i32)> = vec![
        (plain().auth(Auth::anonymous()), &[], "REGISTRY_AUTH_FILE=text.json", 2),
        (plain().auth(Auth::anonymous()), &[], "DOCKER_AUTH_CONFIG=text", 3),
        (plain(), &["--ca-file", "text.pem"], "", 2),
        (faulty("/token").auth(Auth::anonymous()), &[], "", 1),
        (faulty("/manifests/"), &[], "", 1),
    ];
    for (options, flags, variable, code) in cases {
        let target = Double::start(options);
        let host = target.host();
        let arguments = [&["import", "b.tar", "-d", &host, "--retries", "0"], flags].concat();
        let mut command = cli.command(&arguments);
        command.envs(variable.split_once('='));
        let output = Output::new(&command.output().unwrap(), &arguments);
        assert_eq!(
            output.code,
            Some(code),
            "{flags:?} {variable}: {}\n{}",
            output.everything(),
            target.transcript()
        );
        assert!(!output.stderr.contains("b.tar"), "{}", output.everything());
    }
    let source = Double::start(faulty("/manifests/"));
    let image = format!("{}/a/b:1", source.host());
    cli.run(&["export", &image, "-o", "c.tar", "--retries", "0"])
        .expect_code(1);
}

/// An export that stalls in its first blob.
fn stalled(cli: &Cli, flags: &[&str]) -> (Double, std::process::Child) {
    let source = Double::new();
    sized(6, "linux/amd64", &[200_000]).push(&source, "a/b", "1");
    let fault = source.add_fault(When::get("/blobs/"), Action::stall(1000));
    let image = format!("{}/a/b:1", source.host());
    let child = cli.spawn(&[&["export", &image, "-o", "b.tar", "--retries", "0"], flags].concat());
    wait_until("the first blob is asked for", || fault.seen() > 0);
    (source, child)
}

#[test]
fn a_signal_has_the_code_that_a_shell_shows_for_it() {
    for (name, number, code) in [("INT", 2, 130), ("TERM", 15, 143), ("HUP", 1, 129)] {
        let cli = cli();
        let (_source, child) = stalled(&cli, &[]);
        signal(name, child.id());
        let output = child.wait_with_output().unwrap();
        // On Ctrl-C the program dies of the signal, which a shell shows as the same number.
        let shown = output
            .status
            .code()
            .or(output.status.signal().map(|signal| 128 + signal));
        assert_eq!(shown, Some(code), "{name}");
        assert_eq!(output.status.signal(), (name == "INT").then_some(number), "{name}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("run the same command again"), "{said}");
    }
}

#[test]
fn an_interrupted_export_that_starts_anew_is_told_how_to_resume() {
    let cli = cli();
    let (_source, child) = stalled(&cli, &["--fresh"]);
    signal("TERM", child.id());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("again without `--fresh` to resume"), "{said}");
}

#[test]
fn an_interrupted_dry_run_has_nothing_to_resume() {
    let (cli, source) = (cli(), Double::new());
    sized(6, "linux/amd64", &[200_000]).push(&source, "a/b", "1");
    let fault = source.add_fault(When::get("/manifests/"), Action::stall(10));
    let image = format!("{}/a/b:1", source.host());
    let child = cli.spawn(&["export", &image, "-o", "b.tar", "--dry-run"]);
    wait_until("the manifest is asked for", || fault.seen() > 0);
    signal("TERM", child.id());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("begins anew, and nothing was changed"), "{said}");
}

#[test]
fn a_loop_of_a_shell_ends_at_control_c() {
    let (cli, source) = (cli(), Double::new());
    sized(6, "linux/amd64", &[200_000]).push(&source, "a/b", "1");
    let fault = source.add_fault(When::get("/blobs/"), Action::stall(1000));
    let script = format!(
        "for i in 1 2 3; do '{}' export {}/a/b:1 -o b$i.tar; done; echo went on",
        env!("CARGO_BIN_EXE_docker-mirror"),
        source.host()
    );
    let mut shell = Command::new("env");
    // A process group of its own, to which a terminal would send the signal. The shell that runs the tests may ignore
    // the signal.
    shell
        .args(["--default-signal=INT", "bash", "-c", &script])
        .current_dir(cli.folder())
        .env("HOME", cli.folder())
        .process_group(0);
    let child = shell
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the first blob is asked for", || fault.seen() > 0);
    let group = format!("-{}", child.id());
    assert!(
        Command::new("kill")
            .args(["-INT", "--", &group])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(!cli.path("b2.tar.partial").exists());
}
