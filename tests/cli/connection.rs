//! Connections to registries as a user sees them: proxies, time limits, secrets, signals, and which server gets which
//! request.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::support;
use crate::support::cli::wait_until;
use crate::support::{Action, Cli, Double, Options, PullLimit, When};

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// A port of this machine at which nobody listens.
fn nobody() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

const SECRET: &str = "hunter2-very-secret";

#[test]
fn a_proxy_on_the_way_is_named_without_its_password() {
    let port = nobody();
    for (variable, scheme) in [("HTTPS_PROXY", "https"), ("http_proxy", "http"), ("ALL_PROXY", "https")] {
        let mut cli = cli();
        cli.set(variable, format!("http://somebody:{SECRET}@127.0.0.1:{port}"));
        let mut arguments = vec![
            "export",
            "registry.invalid/a/b:1",
            "-o",
            "x.tar",
            "--retries",
            "0",
            "-vv",
        ];
        if scheme == "http" {
            arguments.push("--plain-http");
        }
        cli.run(&arguments)
            .expect_code(1)
            .says(&[
                &format!("the proxy `127.0.0.1:{port}` on the way to `registry.invalid`"),
                "NO_PROXY",
            ])
            .hides(&[SECRET, "somebody"]);
        // What needs no proxy is not said to go by one.
        cli.set("NO_PROXY", ".invalid");
        let output = cli.run(&arguments).expect_code(1).says(&["registry.invalid"]);
        assert!(!output.stderr.contains("the proxy `"), "{}", output.everything());
    }
}

#[test]
fn a_tunnel_that_is_refused_names_the_proxy() {
    let proxy = Double::start(Options::default());
    let mut cli = cli();
    cli.set("HTTPS_PROXY", format!("http://somebody:{SECRET}@{}", proxy.host()));
    cli.run(&["export", "registry.invalid/a/b:1", "-o", "x.tar", "--retries", "0"])
        .expect_code(1)
        .says(&[&format!(
            "the proxy `{}` on the way to `registry.invalid`",
            proxy.host()
        )])
        .says(&["it answered 40"])
        .hides(&[SECRET]);
}

#[test]
fn a_variable_that_names_no_proxy_is_an_error() {
    for value in [
        format!("http://me:{SECRET}@:80"),
        format!("gopher://me:{SECRET}@host"),
        format!("http://[{SECRET}"),
    ] {
        let mut cli = cli();
        cli.set("HTTPS_PROXY", value);
        cli.run(&["export", "registry.invalid/a/b:1", "-o", "x.tar"])
            .expect_code(2)
            .says(&["`HTTPS_PROXY` does not name a proxy", "hint: write `http://HOST:PORT`"])
            .hides(&[SECRET]);
    }
}

#[test]
fn user_information_in_any_argument_is_not_shown() {
    let login = format!("somebody:{SECRET}@registry.invalid");
    for arguments in [
        vec!["export", &format!("{login}/a/b:1"), "-o", "x.tar"],
        vec!["export", &format!("https://{login}/a/b:1"), "-o", "x.tar"],
        vec!["-d", &login, "a/b"],
        vec!["-d", &format!("https://{login}/prefix"), "a/b"],
        vec!["limits", &login],
        vec!["limits", &format!("{login}/a/b")],
        vec![
            "export",
            "a/b",
            "-o",
            "x.tar",
            "--mirror",
            &format!("docker.io=https://{login}"),
        ],
        vec![
            "export",
            "a/b",
            "-o",
            "x.tar",
            "--mirror",
            &format!("{login}=https://cache.invalid"),
        ],
    ] {
        let output = cli().run(&arguments).expect_code(2);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(
            output.stderr.starts_with("error: ") && !text.contains(SECRET),
            "{}",
            output.everything()
        );
    }
}

#[test]
fn a_password_without_a_user_is_not_used_and_that_is_said() {
    let registry = Double::start(Options::default());
    support::images::greeting().push(&registry, "library/greeting", "1.0");
    let name = format!("{}/library/greeting:1.0", registry.host());
    let mut cli = cli();
    cli.set("DOCKER_MIRROR_PASSWORD", SECRET);
    cli.succeed(&["export", &name, "-o", "x.tar"])
        .says(&["`DOCKER_MIRROR_PASSWORD` is set, but no user name"])
        .hides(&[SECRET]);
    let other = Double::start(Options::default());
    cli.set("DOCKER_MIRROR_DEST_PASSWORD", SECRET);
    cli.succeed(&["-d", &other.host(), &name])
        .says(&[
            "`DOCKER_MIRROR_DEST_PASSWORD` is set, but no user name",
            "`DOCKER_MIRROR_PASSWORD` does not say at which registry",
        ])
        .hides(&[SECRET]);
}

#[test]
fn an_answer_that_does_not_begin_within_the_limit_is_given_up() {
    let registry = Double::start(Options::default().fault(When::get("/manifests/"), Action::End(support::End::Stall)));
    let name = format!("{}/library/greeting:1.0", registry.host());
    cli()
        .run(&[
            "export",
            &name,
            "-o",
            "x.tar",
            "--header-timeout",
            "1",
            "--retries",
            "0",
        ])
        .expect_code(1)
        .says(&["did not answer for 1 second"]);
}

#[test]
fn the_limit_of_a_registry_is_asked_of_that_registry() {
    let silent = Double::new();
    let output = cli().succeed(&["limits", &silent.host()]);
    assert_eq!(output.stdout, format!("{}: no limit is stated\n", silent.host()));
    assert_eq!(silent.count("GET", "/v2/"), 1, "{}", silent.transcript());

    let limit = PullLimit {
        limit: 100,
        remaining: 42,
        window: 21600,
    };
    let limited = Double::start(Options {
        pull_limit: Some(limit),
        ..Options::default()
    });
    support::images::greeting().push(&limited, "library/greeting", "1.0");
    let image = format!("{}/library/greeting:1.0", limited.host());
    let output = cli().succeed(&["limits", &image]);
    assert!(output.stdout.contains("42 of 100 pulls"), "{}", output.everything());
    assert_eq!(limited.count("GET", "/manifests/"), 0, "{}", limited.transcript());

    let stated = Double::start(Options::default().fault(
        When::get("/v2/"),
        Action::Header("ratelimit-remaining", Some("7;w=60".into())),
    ));
    let output = cli().succeed(&["limits", &stated.host()]);
    assert!(
        output.stdout.contains(": 7 pulls are left in 1m"),
        "{}",
        output.everything()
    );

    let wrong = format!("127.0.0.1:{}", nobody());
    cli()
        .run(&["limits", &wrong, "--retries", "0"])
        .expect_code(1)
        .says(&[&wrong, "refused"]);
}

/// Sends a signal to a run that waits, and gives the run a few seconds to end.
fn interrupt(mut run: Child, what: &str) {
    let pid = run.id().to_string();
    // The signal handlers are installed before anything is read: once the program has its threads, it can be
    // interrupted.
    wait_until(&format!("{what} has started"), || {
        std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 2)
            && std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                status
                    .lines()
                    .any(|line| line.starts_with("SigCgt") && !line.ends_with("0000000000000000"))
            })
    });
    assert!(run.try_wait().unwrap().is_none(), "{what} does not wait");
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let begun = Instant::now();
    wait_until(&format!("{what} has ended"), || run.try_wait().unwrap().is_some());
    let output = run.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(crate::support::cli::was_cut_off(output.status), "{what}: {text}");
    assert!(
        text.contains("interrupted"),
        "{what}, after {:?}: {text}",
        begun.elapsed()
    );
}

#[test]
fn an_interrupt_is_heard_while_something_is_read() {
    let registry = Double::start(Options::default().auth(support::Auth::basic("somebody", SECRET)));
    let name = format!("{}/library/greeting:1.0", registry.host());
    let cli = cli();
    let fifo = cli.path("pipe");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let password = [
        "export",
        &name,
        "-o",
        "x.tar",
        "--username",
        "somebody",
        "--password-stdin",
    ];
    let mut child = cli.command(&password).stdin(Stdio::piped()).spawn().unwrap();
    let mut typing = child.stdin.take().unwrap();
    typing.write_all(b"half a pass").unwrap();
    interrupt(child, "a password from standard input");
    drop(typing);
    interrupt(
        cli.spawn(&["export", &name, "-o", "x.tar", "--auth-file", "pipe"]),
        "a pipe as credentials file",
    );
    interrupt(
        cli.spawn(&["export", &name, "-o", "x.tar", "--ca-file", "pipe"]),
        "a pipe as authority",
    );
    let limited = ["export", &name, "-o", "x.tar", "--auth-file", "pipe", "--timeout", "1"];
    cli.run(&limited)
        .expect_code(124)
        .says(&["timed out after 1 s (`--timeout`)"]);
}

/// Runs an export with this limit on open files, as an argument of `ulimit -n`.
fn export_with_few_files(limit: &str, arguments: &str) -> std::process::Output {
    let script = format!("ulimit -n {limit}; exec \"$0\" export {arguments} -o x.tar --retries 0");
    let cli = cli();
    let program = env!("CARGO_BIN_EXE_docker-mirror");
    let mut command = cli.command(&[]);
    let environment: Vec<_> = command
        .get_envs()
        .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())))
        .collect();
    command = Command::new("sh");
    command
        .env_clear()
        .envs(environment)
        .args(["-c", &script, program])
        .current_dir(cli.folder());
    command.output().unwrap()
}

#[test]
fn a_limit_on_open_files_that_makes_a_run_slow_is_told() {
    let arguments = "-v registry.invalid/a";
    let text = |limit| String::from_utf8(export_with_few_files(limit, arguments).stderr).unwrap();
    let few = text("100");
    let expected = "note: at most 9 requests at a time go to `registry.invalid`";
    assert!(few.contains(expected) && few.contains("`ulimit -n`"), "{few}");
    // A limit that this user may raise is raised.
    for limit in ["1000", "1000; ulimit -S -n 100"] {
        let many = text(limit);
        assert!(!many.contains("ulimit"), "{limit}: {many}");
    }
}

#[test]
fn too_few_open_files_are_an_error_and_no_panic() {
    let mut reached = false;
    for limit in 4..24 {
        let output = export_with_few_files(&limit.to_string(), "registry.invalid/a");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("panicked"), "{limit}: {text}");
        // Below that not even the loader works.
        if text.starts_with("error: ") {
            assert_eq!(output.status.code(), Some(1), "{limit}: {text}");
            reached |= text.contains("Too many open files") && text.contains("ulimit -n");
        }
    }
    assert!(reached, "no limit was too low");
}
