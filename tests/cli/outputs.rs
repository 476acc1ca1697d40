//! Outputs that a finished bundle cannot replace by a rename: refused before anything is fetched.

use std::process::{Command, Stdio};

use super::support::cli::Output;
use super::support::real::skipped;
use super::support::sha256;
use super::{cli, source};

#[test]
fn an_output_that_is_a_mount_point_is_refused_before_anything_is_fetched() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    for name in ["real.tar", "out.tar"] {
        std::fs::write(cli.path(name), "precious").unwrap();
    }
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .current_dir(cli.folder());
        command.env("HOME", cli.folder()).stdin(Stdio::null());
        command
    };
    let mount = "mount --bind real.tar out.tar";
    if !unshare(mount)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        return skipped("an output that is a mount point", "nothing can be mounted here");
    }
    for flags in [&[][..], &["--force"], &["--force", "--gzip"], &["--gzip"]] {
        let program = env!("CARGO_BIN_EXE_docker-mirror");
        let arguments = [&[program, "export", &image, "-o", "out.tar"], flags].concat();
        let output = unshare(&format!("{mount} && \"$@\""))
            .args(&arguments)
            .output()
            .unwrap();
        Output::new(&output, &arguments).expect_code(2).says(&[
            "`out.tar` is a mount point",
            "hint: mount the folder",
            "-o -",
        ]);
        assert_eq!(std::fs::read(cli.path("real.tar")).unwrap(), b"precious");
        assert!(!cli.path("out.tar.partial").exists());
    }
    assert!(source.requests().is_empty(), "{}", source.transcript());
}

#[test]
fn a_pipe_or_link_in_place_of_the_output_is_named_as_such() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, cli.path("pipe.tar"), mode).unwrap();
    std::os::unix::fs::symlink("elsewhere.tar", cli.path("link.tar")).unwrap();
    for output in ["pipe.tar", "link.tar", "/dev/stdout", "/dev/null"] {
        for flags in [&[][..], &["--force"]] {
            cli.run(&[&["export", &image, "-o", output], flags].concat())
                .expect_code(2)
                .says(&["not an ordinary file", "-o -"]);
        }
    }
    assert!(source.requests().is_empty(), "{}", source.transcript());
}

#[test]
fn a_closed_standard_output_takes_no_bundle() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    let sh = |redirection: &str| {
        let mut command = Command::new("sh");
        let script = format!("\"$@\" {redirection}");
        command
            .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_docker-mirror")])
            .args(["export", &image, "-o", "-"])
            .env("HOME", cli.folder())
            .current_dir(cli.folder());
        Output::new(&command.output().unwrap(), &["export", "-o", "-"])
    };
    sh(">&-").expect_code(2).says(&["standard output is closed"]);
    sh(">/dev/null").expect_code(0);
}

#[test]
fn results_are_not_repeated_in_a_log_that_has_them() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    let log = std::fs::File::create(cli.path("log")).unwrap();
    let mut command = cli.command(&["export", &image, "-o", "b.tar"]);
    let status = command.stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
    assert!(status.success());
    let log = std::fs::read_to_string(cli.path("log")).unwrap();
    assert_eq!(log.matches(&format!("{image}@sha256")).count(), 1, "{log}");
}

#[test]
fn a_dry_run_of_a_finished_export_says_that_it_is_finished() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    let sum = sha256(&std::fs::read(cli.path("b.tar")).unwrap());
    for flags in [&["--dry-run"][..], &[], &["--json"]] {
        let output = cli.succeed(&[&["export", &image, "-o", "b.tar"], flags].concat());
        assert_eq!(
            output.stderr.contains(&sum),
            flags != ["--dry-run"],
            "{}",
            output.everything()
        );
        if flags == ["--json"] {
            let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
            assert_eq!(report["bundle"]["sha256"], sum.as_str());
            assert_eq!(report["bundle"]["upToDate"], true);
        }
        output.says(&["is up to date: nothing was written"]);
    }
}

#[test]
fn a_host_that_is_down_is_not_mended_by_other_names() {
    let (cli, source) = (cli(), source());
    let good = format!("{}/library/greeting:1.0", source.host());
    let bad = "127.0.0.1:1/team/app:1";
    let output = cli
        .run(&["export", &good, bad, "-o", "b.tar", "--retries", "0"])
        .expect_code(1);
    let output = output.says(&["refused the connection", "run again once the cause is mended"]);
    assert!(!output.stderr.contains("correct the names"), "{}", output.stderr);
}
