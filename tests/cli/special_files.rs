//! Named pipes and devices in place of a file: no command waits for one without end.

use std::io::Write;
use std::process::Stdio;

use super::support::cli::{Output, wait_until};
use super::support::{Auth, Double, Options};
use super::{Cli, cli, source};

/// Creates a named pipe in the folder of a user, with its parent folders.
fn pipe(cli: &Cli, name: &str) {
    let path = cli.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
}

/// Runs the program, which must come to an end.
#[track_caller]
fn ends(cli: &Cli, arguments: &[&str]) -> Output {
    let mut child = cli.spawn(arguments);
    wait_until(&arguments.join(" "), || child.try_wait().unwrap().is_some());
    Output::new(&child.wait_with_output().unwrap(), arguments)
}

#[test]
fn a_named_pipe_without_a_writer_is_no_file_that_was_named() {
    let source = source();
    let image = format!("{}/library/greeting:1.0", source.host());
    let export = ["export", &image];
    for device in [["--auth-file", "/dev/zero"], ["--ca-file", "/dev/zero"]] {
        let run = ends(&cli(), &[&export[..], &["-o", "b.tar"], &device].concat());
        run.expect_code(2).says(&["/dev/zero"]);
    }
    // All at once, since each waits a few seconds for a writer.
    let cli = cli();
    pipe(&cli, "pipe");
    let flags = [
        &["--auth-file", "pipe"][..],
        &["--ca-file", "pipe"],
        &["--cert", "pipe", "--key", "pipe"],
    ];
    let variables = [
        "REGISTRY_AUTH_FILE",
        "DOCKER_MIRROR_AUTH_FILE",
        "CONTAINERS_REGISTRIES_CONF",
    ];
    let flags = flags.iter().map(|flags| cli.command(&[&export, *flags].concat()));
    let variables = variables.iter().map(|name| {
        let mut command = cli.command(&export);
        command.env(name, cli.path("pipe"));
        command
    });
    // Each has an output of its own, since an export holds the lock of its output while it checks it.
    let mut runs: Vec<_> = flags
        .chain(variables)
        .enumerate()
        .map(|(number, mut command)| {
            let output = format!("{number}.tar");
            command.env("DOCKER_MIRROR_OUTPUT", output).spawn().unwrap()
        })
        .collect();
    wait_until("all have ended", || {
        runs.iter_mut().all(|run| run.try_wait().unwrap().is_some())
    });
    for run in runs {
        let run = Output::new(&run.wait_with_output().unwrap(), &export);
        run.expect_code(2).says(&["without a writer"]);
    }
    assert_eq!(source.requests().len(), 0);
}

#[test]
fn a_named_pipe_where_a_list_a_lock_or_an_earlier_bundle_is_named_is_refused() {
    let cli = cli();
    pipe(&cli, "pipe");
    let export = ["export", "127.0.0.1:1/a/b:1", "-o", "b.tar"];
    for (file, said) in [("pipe", "pipe"), ("/dev/zero", "/dev/zero")] {
        for flags in [
            &["export", "--lock", file, "-o", "b.tar"][..],
            &["export", "--want", file, "-o", "b.tar"],
            &["export", "-f", file, "-o", "b.tar"],
            &[&export[..], &["--reuse", file]].concat(),
            &["inspect", "b.tar", "--html", file],
            &["inspect", "b.tar", "--lock", file],
            &["verify", "b.tar", "--want", file],
        ] {
            ends(&cli, flags).expect_code(2).says(&[said]);
        }
    }
}

#[test]
fn a_named_pipe_in_an_ordinary_place_is_not_read() {
    let source = source();
    let image = format!("{}/library/greeting:1.0", source.host());
    let certificates = format!(".config/containers/certs.d/{}", source.host());
    let refused = "not a regular file";
    for (place, code, said) in [
        // Credentials are read only if a registry requires them, and this one does not.
        (".docker/config.json".to_owned(), 0, ""),
        (".config/containers/auth.json".to_owned(), 0, ""),
        ("run/containers/auth.json".to_owned(), 0, ""),
        (".config/containers/registries.conf".to_owned(), 2, refused),
        (format!("{certificates}/ca.crt"), 1, refused),
        // Nothing is said of what is kept only to save time.
        (".cache/docker-mirror/manifests/sha256".to_owned(), 0, ""),
        (".cache/docker-mirror/manifests".to_owned(), 0, ""),
    ] {
        let cli = cli();
        pipe(&cli, &place);
        let run = ends(&cli, &["export", &image, "-o", "b.tar"]);
        run.expect_code(code).says(&[said]);
    }
}

#[test]
fn a_named_pipe_among_the_credentials_is_told() {
    let closed = Double::start(Options::default().auth(Auth::basic("user", "password")));
    let cli = cli();
    pipe(&cli, ".docker/config.json");
    let image = format!("{}/a/b:1", closed.host());
    let run = ends(&cli, &["export", &image, "-o", "b.tar"]);
    run.expect_code(3).says(&["config.json", "not a regular file"]);
}

#[test]
fn a_report_is_not_written_to_a_pipe_that_nobody_reads() {
    let (cli, source, destination) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    pipe(&cli, "pipe");
    let import = ["import", "b.tar", "-d", &destination.host(), "--report", "pipe"];
    for more in [&[][..], &["--json"], &["--dry-run"]] {
        let run = ends(&cli, &[&import[..], more].concat());
        let run = run.expect_code(1).says(&["pipe", "without a reader"]);
        assert_eq!(run.stderr.matches("error: ").count(), 1, "{}", run.everything());
        assert_eq!(
            run.stdout.contains("\"exitCode\": 1"),
            more.contains(&"--json"),
            "{}",
            run.everything()
        );
    }
    assert_eq!(destination.requests().len(), 0);
}

#[test]
fn a_bundle_in_a_pipe_without_a_writer_is_waited_for_until_the_limit_of_the_run() {
    let cli = cli();
    pipe(&cli, "pipe");
    std::fs::write(cli.path("b.tar"), "").unwrap();
    for bundles in [&["pipe"][..], &["b.tar", "pipe"]] {
        let import = ["import", "-d", "127.0.0.1:1", "--timeout", "1"];
        let run = ends(&cli, &[&import[..], bundles].concat());
        run.expect_code(124).says(&["timed out after 1 s"]);
    }
    for (command, words) in [
        (
            &["verify", "pipe"][..],
            "hint: raise `--timeout` and run the same command again: it begins anew",
        ),
        (
            &["import", "pipe", "-d", "127.0.0.1:1"],
            "hint: run the same command again to resume",
        ),
        (
            &["import", "pipe", "-d", "127.0.0.1:1", "--dry-run"],
            "hint: raise `--timeout` and run",
        ),
    ] {
        let run = ends(&cli, &[command, &["--timeout", "1"]].concat());
        run.expect_code(124).says(&[words]);
    }
}

#[test]
fn a_file_that_is_named_may_come_through_a_pipe_that_ends() {
    let closed = Double::start(Options::default().auth(Auth::basic("user", "password")));
    super::support::images::greeting().push(&closed, "library/greeting", "1.0");
    let image = format!("{}/library/greeting:1.0", closed.host());
    let cli = cli();
    let arguments = ["export", &image, "-o", "b.tar", "--auth-file", "/dev/stdin"];
    let mut child = cli.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let auths = serde_json::json!({"auths": {closed.host(): {"username": "user", "password": "password"}}});
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(auths.to_string().as_bytes()).unwrap();
    drop(stdin);
    Output::new(&child.wait_with_output().unwrap(), &arguments).expect_code(0);
    // The null device is the usual way to say: none.
    cli.run(&["export", &image, "-o", "c.tar", "--auth-file", "/dev/null"])
        .expect_code(3)
        .says(&["log in"]);
}

#[test]
fn what_is_in_the_place_of_a_file_of_the_program_is_named_and_kept() {
    let source = source();
    let image = format!("{}/library/greeting:1.0", source.host());
    let export = ["export", &image, "-o", "b.tar"];
    let cli = cli();
    for name in ["b.tar.partial", "b.tar.partial.journal", "b.tar.partial.journal.new"] {
        let kept = cli.path(name).join("kept");
        std::fs::create_dir_all(&kept).unwrap();
        let run = ends(&cli, &export);
        run.expect_code(2).says(&["b.tar.partial", "folder", "hint: ", "emove"]);
        assert!(kept.is_dir() && !cli.path("b.tar").exists(), "{name}");
        std::fs::remove_dir_all(cli.path(name)).unwrap();
        cli.succeed(&export);
        assert_eq!(cli.files(), ["b.tar"], "{name}");
        std::fs::remove_file(cli.path("b.tar")).unwrap();
    }
    let socket = std::os::unix::net::UnixListener::bind(cli.path("b.tar.partial")).unwrap();
    ends(&cli, &export)
        .expect_code(2)
        .says(&["it is a socket", "hint: remove it"]);
    drop(socket);
    for flag in ["--lock", "--want"] {
        let run = ends(&cli, &["export", flag, "b.tar.partial", "-o", "c.tar"]);
        run.expect_code(2).says(&["it is a socket", "hint: name a file"]);
        let run = ends(&cli, &["export", flag, ".", "-o", "c.tar"]);
        run.expect_code(2).says(&["it is a folder", "hint: name a file"]);
    }
}
