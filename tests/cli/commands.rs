//! "The commands": one step, export, import, and what each prints where.

use std::time::Duration;

use super::support::images::{self, greeting};
use super::support::real::{optional_program, skipped};
use super::support::{Action, Double, Options, When};
use super::{cli, digest_in, source};

#[test]
fn export_then_import_carries_the_image() {
    let (cli, source, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", source.host());
    let exported = cli.succeed(&["export", &image, "-o", "bundle.tar"]);
    let imported = cli.succeed(&["import", "bundle.tar", "-d", &target.host()]);
    let digest = digest_in(exported.lines()[0]);
    assert_eq!(digest_in(imported.lines()[0]), digest);
    assert_eq!(
        imported.lines(),
        [format!("{}/library/greeting:1.0@{digest}", target.host())]
    );
    let fixture = greeting();
    for document in fixture.documents_of("linux") {
        assert_eq!(
            target.manifest("library/greeting", &document.digest).unwrap(),
            document.bytes
        );
    }
    for digest in super::support::image::Image::blobs_of(&fixture.documents_of("linux")) {
        let stored = target
            .store()
            .blob("library/greeting", &digest)
            .expect("a blob is missing");
        assert_eq!(stored.all(), fixture.blobs[&digest]);
    }
}

#[test]
fn one_step_gives_what_two_steps_give() {
    let (cli, source, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "bundle.tar"]);
    cli.succeed(&["import", "bundle.tar", "-d", &format!("{}/two", target.host())]);
    let before = cli.files();
    let one = cli.succeed(&["-d", &format!("{}/one", target.host()), &image]);
    assert_eq!(cli.files(), before, "the one-step mirror leaves no file");
    let stored = |prefix: &str| {
        target
            .store()
            .repository(&format!("{prefix}/library/greeting"))
            .unwrap()
    };
    let (first, second) = (stored("one"), stored("two"));
    assert_eq!(first.tags, second.tags);
    assert_eq!(first.blobs, second.blobs);
    assert!(first.manifests.keys().eq(second.manifests.keys()));
    assert_eq!(
        one.lines(),
        [format!(
            "{}/one/library/greeting:1.0@{}",
            target.host(),
            first.tags["1.0"]
        )]
    );
}

#[test]
fn import_needs_nothing_but_the_file_and_the_destination() {
    let (cli, source, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "bundle.tar"]);
    drop(source);
    let elsewhere = super::cli();
    std::fs::copy(cli.path("bundle.tar"), elsewhere.path("b.tar")).unwrap();
    elsewhere.succeed(&["import", "b.tar", "-d", &target.host()]);
}

#[test]
fn results_on_stdout_and_all_else_on_stderr() {
    let (cli, source, target) = (cli(), source(), Double::new());
    images::helm_chart().push(&source, "charts/x", "1");
    let names = ["library/greeting:1.0", "charts/x:1"].map(|name| format!("{}/{name}", source.host()));
    let out = cli.succeed(&["-d", &target.host(), &names[0], &names[1]]);
    assert_eq!(out.lines().len(), 2, "{}", out.everything());
    for (line, name) in out.lines().iter().zip(["library/greeting:1.0", "charts/x:1"]) {
        assert!(line.starts_with(&format!("{}/{name}@sha256:", target.host())), "{line}");
    }
    // Not on a terminal: what it came to, and no bar.
    assert!(out.stderr.contains("2 new, 0 failed in "), "{}", out.everything());
    assert!(
        !out.stderr.contains('\r') && !out.stderr.contains('\u{1b}'),
        "{}",
        out.everything()
    );
}

#[test]
fn a_bundle_on_standard_output_is_the_same_and_alone_there() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "bundle.tar"]);
    let output = cli.command(&["export", &image, "-o", "-"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.stdout == std::fs::read(cli.path("bundle.tar")).unwrap(),
        "the pipe got other bytes"
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("@sha256:"), "{said}");
    // Its sum is known without a second read; also that of a compressed one.
    let sum = |bytes: &[u8]| format!(", {} in ", super::support::sha256(bytes));
    assert!(said.contains(&sum(&output.stdout)), "{said}");
    let packed = cli.succeed(&["export", &image, "-o", "bundle.tar.gz"]);
    let bytes = std::fs::read(cli.path("bundle.tar.gz")).unwrap();
    assert!(packed.stderr.contains(&sum(&bytes)), "{}", packed.everything());
}

#[test]
fn jobs_bound_what_is_in_flight() {
    let cli = cli();
    let source = Double::start(Options {
        latency: std::time::Duration::from_millis(5),
        ..Options::default()
    });
    images::sized(1, "linux/amd64", &[2000; 24]).push(&source, "many/layers", "1");
    let image = format!("{}/many/layers:1", source.host());
    cli.succeed(&["export", &image, "-o", "two.tar", "-j", "2"]);
    assert!(source.peak() <= 2, "{} at once", source.peak());
    cli.run(&["export", &image, "-o", "none.tar", "-j", "0"]).expect_code(2);
}

#[test]
fn verbose_says_more() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    let plain = cli.succeed(&["export", &image, "-o", "a.tar"]);
    let verbose = cli.succeed(&["export", &image, "-o", "b.tar", "-v"]);
    assert!(verbose.stderr.len() > plain.stderr.len(), "{}", verbose.everything());
    assert_eq!(plain.stdout, verbose.stdout);
    let end = |name: &str| format!("wrote {name}: 1 image, ");
    assert!(plain.stderr.contains(&end("a.tar")), "{}", plain.everything());
    assert!(verbose.stderr.contains(&end("b.tar")), "{}", verbose.everything());
}

#[test]
fn a_command_behind_options_is_no_image() {
    let (cli, source, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    let (sent, asked) = (target.requests().len(), source.requests().len());
    let host = target.host();
    for arguments in [
        &["-d", &host, "import", "b.tar"][..],
        &["-d", &host, &image, "export"],
        &["-v", "import", "b.tar", "-d", &host],
        &["-v", "export", &image, "-o", "c.tar"],
        &["-v", "limits"],
    ] {
        let command = arguments
            .iter()
            .find(|a| ["import", "export", "limits"].contains(a))
            .unwrap();
        cli.run(arguments)
            .expect_code(2)
            .says(&[&format!("docker-mirror {command} "), &format!("library/{command}")]);
    }
    assert_eq!((target.requests().len(), source.requests().len()), (sent, asked));
    assert_eq!(cli.files(), ["b.tar"]);
    // A wrong option of a command stays one.
    cli.run(&["export", "--nonsense", "import"])
        .expect_code(2)
        .hides(&["library/import"]);
}

#[test]
fn help_tells_defaults_and_exit_codes() {
    let cli = cli();
    for command in [
        &["--help"][..],
        &["export", "--help"],
        &["import", "--help"],
        &["limits", "--help"],
    ] {
        let help = cli.succeed(command);
        let text = help.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut wanted = vec!["Exit codes: 0 ", " 1 something failed", " 2 the command line"];
        match command[0] {
            "--help" => wanted.extend([
                "[default: overwrite]",
                "[default: auto]",
                "[default: every linux platform]",
            ]),
            "export" => wanted.extend(["[default: auto]", "[default: every linux platform]"]),
            "import" => wanted.extend([
                "[default: overwrite]",
                "[default: what the bundle says]",
                "[default: all that the bundle has]",
            ]),
            _ => {}
        }
        for words in wanted {
            assert!(text.contains(words), "no `{words}` in {}", help.everything());
        }
    }
}

/// `/dev/full` refuses every byte, as a full disk does.
#[test]
fn results_that_cannot_be_written_fail_the_run() {
    if !std::path::Path::new("/dev/full").exists() {
        return skipped("results on a full disk", "this machine has no /dev/full");
    }
    let (cli, source, target) = (cli(), source(), Double::new());
    let (image, host) = (format!("{}/library/greeting:1.0", source.host()), target.host());
    for arguments in [
        &["export", &image, "-o", "b.tar"][..],
        &["import", "b.tar", "-d", &host],
        &["-d", &host, &image],
        &["limits", &image],
        &["inspect", "b.tar"],
        &["inspect", "b.tar", "--json"],
        &["verify", "b.tar", "--json"],
        &["completions", "bash"],
        &["man"],
        &["docker-cli-plugin-metadata"],
        &["--help"],
        &["export", "--help"],
        &["--version"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = cli.command(arguments).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains("standard output") && stderr.contains("No space"),
            "{arguments:?}: {stderr}"
        );
    }
    // What was asked for is done all the same.
    assert!(target.manifest("library/greeting", "1.0").is_some());
    // Messages that cannot be written change nothing: the results and the exit code stay right.
    for (arguments, code, results) in [
        (&["export", &image, "-o", "b.tar", "--force"][..], 0, 1),
        (&["import", "b.tar", "-d", &host, "-v"], 0, 1),
        (&["import", "none.tar", "-d", &host], 2, 0),
        (&["export", "--foo"], 2, 0),
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = cli.command(arguments).stderr(full).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!(
            output.stdout.iter().filter(|byte| **byte == b'\n').count(),
            results,
            "{arguments:?}"
        );
    }
    assert_eq!(cli.files(), ["b.tar"]);
}

#[test]
fn results_that_nobody_wants_are_no_failure() {
    let (cli, source, target) = (cli(), source(), Double::new());
    let (image, host) = (format!("{}/library/greeting:1.0", source.host()), target.host());
    for arguments in [
        &["export", &image, "-o", "b.tar"][..],
        &["-d", &host, &image],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = cli.command(arguments).stdout(writer).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("error:"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn an_image_that_is_named_like_a_command_has_a_long_name() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    images::helm_chart().push(&source, "library/export", "latest");
    cli.succeed(&["-d", &target.host(), &format!("{}/library/export", source.host())]);
    assert!(target.manifest("library/export", "latest").is_some());
    let help = cli.succeed(&["--help"]);
    assert!(help.stdout.contains("library/export"), "{}", help.everything());
}

#[test]
fn wrong_usage_ends_with_2() {
    let cli = cli();
    for arguments in [
        &["export"][..],
        &["export", "x"],
        &["import", "x.tar"],
        &["hello-world"],
        &["--no-such-flag"],
        &["export", "UPPER/case", "-o", "x.tar"],
        &["export", "hello-world", "-o", "x.tar", "--platform", "linux"],
        &["export", "hello-world", "-o", "x.tar", "--index", "other"],
        &["import", "x.tar", "-d", "http://127.0.0.1:1"],
    ] {
        let out = cli.run(arguments).expect_code(2);
        assert!(!out.stderr.is_empty() && out.stdout.is_empty(), "{}", out.everything());
    }
    assert!(cli.files().is_empty(), "{:?}", cli.files());
}

#[test]
fn a_bar_with_bytes_rate_and_time_on_a_terminal() {
    let Some(script) = optional_program("script", "the bar on a terminal") else {
        return;
    };
    let (cli, source) = (cli(), Double::new());
    images::sized(2, "linux/amd64", &[200_000]).push(&source, "a/b", "1");
    let slow = Action::Drip(20_000, Duration::from_millis(60));
    source.add_fault(When::get("/blobs/"), slow);
    let command = format!(
        "{} export {}/a/b:1 -o b.tar",
        env!("CARGO_BIN_EXE_docker-mirror"),
        source.host()
    );
    let output = std::process::Command::new(script)
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        // Without the environment of this run: with `CI` set, the program would write plain lines.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", cli.folder())
        .env("TERM", "xterm")
        .current_dir(cli.folder())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("KiB/s") || text.contains("MiB/s"), "no rate: {text}");
    assert!(text.contains('\u{1b}') && text.contains("@sha256:"), "{text}");
}

#[test]
fn plain_http_to_another_machine_needs_a_flag() {
    // Finds an address of this machine other than the loopback address; no packet is sent.
    let address = std::net::UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()));
    let Some(address) = address
        .ok()
        .map(|a| a.ip())
        .filter(|a| !a.is_loopback() && !a.is_unspecified())
    else {
        return skipped("--plain-http", "this machine has no address but the loopback one");
    };
    let (cli, source) = (cli(), Double::start_on(&format!("{address}:0"), Options::default()));
    images::helm_chart().push(&source, "a/b", "1");
    let image = format!("{}/a/b:1", source.host());
    cli.run(&["export", &image, "-o", "b.tar"])
        .expect_code(1)
        .says(&[&source.host(), "--plain-http"]);
    // In one step, the flag of this side alone is named as well.
    let target = Double::new();
    cli.run(&["-d", &target.host(), &image])
        .expect_code(1)
        .says(&[&source.host(), "`--src-plain-http`"]);
    assert!(source.requests().is_empty(), "{}", source.transcript());
    cli.succeed(&["export", &image, "-o", "b.tar", "--plain-http"]);
}

#[test]
fn nobody_reads_the_results() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    let mut child = cli.spawn(&["export", &image, "-o", "-"]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "a clean error: {stderr}");
    assert!(stderr.contains("error:") && !stderr.contains("panicked"), "{stderr}");
}
