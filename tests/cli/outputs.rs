//! Outputs that cannot be written, have no room, or cannot be replaced by a rename: found before anything is fetched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::support::Double;
use super::support::cli::{Output, copy_program};
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
    cli.run(&["export", &image, "-o", "link.tar"])
        .says(&["the output `link.tar` is a symbolic link to `elsewhere.tar`"]);
    assert!(source.requests().is_empty(), "{}", source.transcript());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    for flag in ["--lock", "--html"] {
        cli.run(&["inspect", "b.tar", flag, "link.tar"])
            .expect_code(2)
            .says(&["this is a symbolic link to `elsewhere.tar`"]);
    }
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
fn a_dry_run_adds_up() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    let dry = |more: &[&str]| cli.succeed(&[&["export", &image, "--dry-run"][..], more].concat());
    let all = dry(&["-o", "a.tar"]).says(&["would write a.tar: 1 image, ", " to fetch), "]);
    all.says(&[" in all; "])
        .hides(&["present already", "from earlier bundles"]);
    dry(&["-o", "-"]).says(&["would write the bundle to standard output: 1 image"]);
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    dry(&["-o", "a.tar", "--reuse", "b.tar"])
        .says(&[" from earlier bundles), "])
        .hides(&["to fetch"]);
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

/// Runs a command as a user without rights over the files of this one.
fn as_somebody(cli: &super::Cli, arguments: &[&str]) -> Output {
    let program = cli.path("program");
    if !program.exists() {
        copy_program(env!("CARGO_BIN_EXE_docker-mirror"), &program);
    }
    let plain = cli.command(&[]);
    let mut command = Command::new(&program);
    let environment = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(cli.folder());
    std::os::unix::process::CommandExt::uid(&mut command, 12345);
    Output::new(&command.output().unwrap(), arguments)
}

#[test]
fn an_output_that_cannot_be_written_or_replaced_is_refused_before_the_first_request() {
    let (cli, registry) = (cli(), source());
    let host = registry.host();
    let (image, pattern) = (
        format!("{host}/library/greeting:1.0"),
        format!("{host}/library/greeting:1.*"),
    );
    let mode = |name: &str, mode| fs::set_permissions(cli.path(name), fs::Permissions::from_mode(mode)).unwrap();
    for (folder, rights) in [(".", 0o755), ("closed", 0o755), ("shared", 0o1777)] {
        fs::create_dir_all(cli.path(folder)).unwrap();
        mode(folder, rights);
    }
    fs::write(cli.path("shared/old.tar"), "of another user").unwrap();
    let (refused, cannot) = (
        &["no right to do that", "or choose another place with `-o`"][..],
        "cannot be replaced",
    );
    for (output, words) in [
        ("closed/b.tar", refused),
        ("closed/b.tar.zst", refused),
        ("shared/old.tar", &[cannot, "sticky", "hint: choose another name"]),
        ("shared/old.tar.gz", &[cannot, "sticky", "hint: choose another name"]),
    ] {
        if output.ends_with(".gz") {
            fs::write(cli.path(output), "of another user").unwrap();
        }
        for name in [&image, &pattern] {
            if !rustix::process::geteuid().is_root() {
                continue;
            }
            let run = as_somebody(&cli, &["export", name, "-o", output, "--force"]);
            run.expect_code(2).says(words);
        }
    }
    let fixed = cli.path("fixed.tar");
    fs::write(&fixed, "old").unwrap();
    let mark = |how| {
        Command::new("chattr")
            .arg(how)
            .arg(&fixed)
            .stderr(Stdio::null())
            .status()
    };
    if mark("+i").is_ok_and(|done| done.success()) {
        let run = cli.run(&["export", &image, "-o", "fixed.tar", "--force"]);
        mark("-i").unwrap();
        run.expect_code(2).says(&[cannot, "unchangeable"]);
    }
    assert_eq!(registry.requests().len(), 0, "{}", registry.transcript());
}

/// Runs a command in a shell in which no file may have more than this many blocks of 512 bytes.
fn limited(cli: &super::Cli, blocks: u32, arguments: &[&str]) -> Output {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let plain = cli.command(&[]);
    let environment = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_docker-mirror")]);
    command
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(cli.folder());
    Output::new(&command.output().unwrap(), arguments)
}

#[test]
fn a_file_beside_the_output_that_has_no_room_is_told_before_any_work() {
    let (cli, registry, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", registry.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    registry.forget_requests();
    let host = target.host();
    let report = ["--report", "r.json"];
    for arguments in [
        &["import", "b.tar", "-d", &host, report[0], report[1]][..],
        &["export", &image, "-o", "-", report[0], report[1]],
        &["verify", "b.tar", "--want", "w.txt"],
        &["inspect", "b.tar", "--html", "page.html"],
        &["inspect", "b.tar", "--lock", "b.lock"],
    ] {
        limited(&cli, 0, arguments).expect_code(2).says(&[
            arguments[arguments.len() - 2],
            "no file can be made",
            "hint: make room",
        ]);
    }
    assert_eq!(registry.requests().len() + target.requests().len(), 0);
    assert_eq!(cli.files(), ["b.tar"]);
}

#[test]
fn a_dry_run_says_that_the_bundle_will_not_fit() {
    let (cli, registry) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", registry.host());
    for output in ["b.tar", "b.tar.zst"] {
        let run = limited(&cli, 8, &["export", &image, "-o", output, "--dry-run"]);
        run.expect_code(1)
            .says(&["would write", "error: the bundle has", "ulimit -f"]);
    }
    cli.succeed(&["export", &image, "-o", "b.tar", "--dry-run"]);
    assert_eq!(cli.files(), [""; 0]);
}
