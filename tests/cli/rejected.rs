//! Messages about a login that a registry rejects, or requires and does not get.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use base64::Engine as _;
use serde_json::json;

use super::cli;
use super::credentials::helper;
use super::support::cli::Output;
use super::support::images::helm_chart;
use super::support::{Auth, Cli, Double, Options};

const WRONG: &str = "hunter2-wrong-secret";

/// Returns two registries: one that requires a login with every request, and one with a token server.
fn private() -> [Double; 2] {
    [Auth::basic("alice", "right"), Auth::bearer("alice", "right")].map(|auth| {
        let registry = Double::start(Options::default().auth(auth));
        for tag in ["1", "2", "3"] {
            helm_chart().push(&registry, "a/b", tag);
        }
        registry
    })
}

fn images(registry: &Double) -> Vec<String> {
    (1..4).map(|tag| format!("{}/a/b:{tag}", registry.host())).collect()
}

/// Exports three images, with a password on standard input if one is given.
fn export(cli: &Cli, registry: &Double, flags: &[&str], password: Option<&str>) -> Output {
    let images = images(registry);
    let mut arguments = vec!["export", "-o", "b.tar", "--force", "--no-cache"];
    arguments.extend(images.iter().map(String::as_str));
    arguments.extend(flags);
    let mut child = cli.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // The program may be through before it has read anything.
    let _ = input.write_all(password.unwrap_or_default().as_bytes());
    drop(input);
    Output::new(&child.wait_with_output().unwrap(), &arguments)
}

/// The `auths` of a credential file.
fn auths(registry: &Double, user: &str) -> serde_json::Value {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{WRONG}"));
    json!({"auths": {registry.host(): {"auth": auth}}})
}

#[test]
fn a_login_that_is_rejected_is_named_with_the_place_that_it_came_from() {
    for registry in private() {
        let host = registry.host();
        let rejected = |output: Output, user: &str, place: &str| {
            output
                .expect_code(3)
                .says(&[&format!("`{host}` rejected user `{user}` (login from {place}")])
                .hides(&[WRONG, "credentials stored"]);
        };
        let flags = ["--username", "alice", "--password-stdin"];
        rejected(export(&cli(), &registry, &flags, Some(WRONG)), "alice", "`--username`");

        let mut variables = cli();
        variables.set("DOCKER_MIRROR_USERNAME", "bob");
        variables.set("DOCKER_MIRROR_PASSWORD", WRONG);
        rejected(
            export(&variables, &registry, &[], None),
            "bob",
            "`DOCKER_MIRROR_USERNAME`",
        );

        let file = cli();
        file.docker_config(&auths(&registry, "carol"));
        let path = file.path(".docker/config.json");
        rejected(
            export(&file, &registry, &[], None),
            "carol",
            &format!("`{}`", path.display()),
        );

        let mut variable = cli();
        variable.set("DOCKER_AUTH_CONFIG", auths(&registry, "dora").to_string());
        rejected(export(&variable, &registry, &[], None), "dora", "`DOCKER_AUTH_CONFIG`");

        let named = cli();
        fs::write(named.path("own.json"), auths(&registry, "erin").to_string()).unwrap();
        let flags = ["--auth-file", "own.json"];
        rejected(export(&named, &registry, &flags, None), "erin", "`own.json`");

        let mut helped = cli();
        helped.docker_config(&json!({"credsStore": "test"}));
        let answer = json!({"Username": "frank", "Secret": WRONG}).to_string();
        helper(&mut helped, "test", &host, &answer);
        rejected(
            export(&helped, &registry, &[], None),
            "frank",
            "credential helper `docker-credential-test`",
        );
    }
}

#[test]
fn a_push_names_the_login_too() {
    let source = super::source();
    let image = format!("{}/library/greeting:1.0", source.host());
    for target in private() {
        let mut cli = cli();
        cli.succeed(&["export", &image, "-o", "greeting.tar"]);
        cli.set("DOCKER_MIRROR_DEST_USERNAME", "alice");
        cli.set("DOCKER_MIRROR_DEST_PASSWORD", WRONG);
        let words = format!(
            "`{}` rejected user `alice` (login from `DOCKER_MIRROR_DEST_USERNAME`)",
            target.host()
        );
        for arguments in [
            vec!["import", "greeting.tar", "-d", &target.host()],
            vec![image.as_str(), "-d", &target.host()],
        ] {
            cli.run(&arguments).expect_code(3).says(&[&words]).hides(&[WRONG]);
        }
    }
}

#[test]
fn a_user_name_cannot_forge_a_line() {
    for registry in private() {
        let cli = cli();
        cli.docker_config(&auths(&registry, "al\u{1b}[31mice\nerror: nothing is wrong"));
        let output = export(&cli, &registry, &[], None)
            .expect_code(3)
            .says(&["rejected user `al"]);
        assert!(!output.stderr.contains('\u{1b}'), "{}", output.everything());
        assert!(!output.stderr.contains("\nerror: nothing"), "{}", output.everything());
    }
}

#[test]
fn without_a_login_it_is_said_where_one_was_looked_for() {
    for registry in private() {
        let mut cli = cli();
        cli.docker_config(&json!({"auths": {"other.example": {"auth": "dTpw"}}}));
        let podman = cli.path("run/containers/auth.json").display().to_string();
        let docker = cli.path(".docker/config.json").display().to_string();
        export(&cli, &registry, &[], None)
            .expect_code(3)
            .says(&[
                "requires a login",
                "no credentials were found",
                "looked in",
                &docker,
                "not found: ",
                &podman,
            ])
            .hides(&["are refused", "rejected"]);
        // As in a pipeline whose secrets are not handed out.
        cli.set("DOCKER_MIRROR_USERNAME", "");
        cli.set("DOCKER_MIRROR_PASSWORD", "");
        export(&cli, &registry, &[], None)
            .expect_code(3)
            .says(&["`DOCKER_MIRROR_USERNAME` (set, but empty)"]);
    }
}

#[test]
fn a_user_name_without_a_password_gets_the_variable_of_the_help_as_hint() {
    let cli = cli();
    for (arguments, variable) in [
        (
            vec!["export", "a/b", "-o", "b.tar", "--username", "alice"],
            "`DOCKER_MIRROR_PASSWORD`",
        ),
        (
            vec!["import", "b.tar", "-d", "registry.invalid", "--username", "alice"],
            "`DOCKER_MIRROR_PASSWORD`",
        ),
        (
            vec!["a/b", "-d", "registry.invalid", "--src-username", "alice"],
            "`DOCKER_MIRROR_SRC_PASSWORD`",
        ),
        (
            vec!["a/b", "-d", "registry.invalid", "--dest-username", "alice"],
            "`DOCKER_MIRROR_DEST_PASSWORD`",
        ),
    ] {
        cli.run(&arguments).expect_code(2).says(&["no password", variable]);
    }
}

#[test]
fn a_public_image_is_pulled_without_a_stale_login() {
    let registry = Double::start(Options::default().auth(Auth::anonymous()));
    for tag in ["1", "2", "3"] {
        helm_chart().push(&registry, "a/b", tag);
    }
    let cli = cli();
    cli.docker_config(&auths(&registry, "carol"));
    let output = export(&cli, &registry, &[], None)
        .expect_code(0)
        .says(&["rejected user `carol`", "pulling without a login"])
        .hides(&[WRONG]);
    let warnings = output.stderr.lines().filter(|line| line.starts_with("warning: "));
    assert_eq!(warnings.count(), 1, "{}", output.everything());
    // Nor is it in the way of a push to another registry.
    let target = Double::new();
    cli.succeed(&["-d", &target.host(), &images(&registry)[0]]);
    // But a push to this one fails for it.
    let words = format!("`{}` rejected user `carol`", registry.host());
    cli.run(&["import", "b.tar", "-d", &registry.host()])
        .expect_code(3)
        .says(&[&words]);
}
