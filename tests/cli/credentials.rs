//! Credentials: where they are read, how they are used, and that they are never shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use base64::Engine;
use serde_json::json;

use super::support::auth::TokenService;
use super::support::cli::Output;
use super::support::images::{greeting, helm_chart};
use super::support::{Auth, Double, Options};
use super::{Cli, cli};

const USER: &str = "somebody";
const PASSWORD: &str = "hunter2-very-secret";

fn encoded() -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"))
}

fn basic() -> Double {
    let registry = Double::start(Options::default().auth(Auth::basic(USER, PASSWORD)));
    helm_chart().push(&registry, "a/b", "1");
    registry
}

fn bearer() -> Double {
    let registry = Double::start(Options::default().auth(Auth::bearer(USER, PASSWORD)));
    helm_chart().push(&registry, "a/b", "1");
    registry
}

/// Exports the chart with the most verbose log, and checks that the log shows no secret.
fn export_works(cli: &Cli, registry: &Double) {
    let image = format!("{}/a/b:1", registry.host());
    cli.succeed(&["export", &image, "-o", "b.tar", "--force", "-vv"])
        .hides(&[PASSWORD, &encoded(), "secret-token-"]);
}

fn export_is_refused(cli: &Cli, registry: &Double) {
    let image = format!("{}/a/b:1", registry.host());
    cli.run(&["export", &image, "-o", "refused.tar", "-vv"])
        .expect_code(3)
        .says(&["a/b", &registry.host()])
        .hides(&[PASSWORD, &encoded(), "secret-token-"]);
    assert!(!cli.path("refused.tar").exists());
}

#[test]
fn basic_from_the_home_folder() {
    let (cli, registry) = (cli(), basic());
    export_is_refused(&cli, &registry);
    cli.log_in(&registry.host(), USER, "wrong-password");
    export_is_refused(&cli, &registry);
    cli.log_in(&registry.host(), USER, PASSWORD);
    export_works(&cli, &registry);
}

#[test]
fn basic_from_docker_config() {
    let (mut cli, registry) = (cli(), basic());
    let folder = cli.path("elsewhere");
    fs::create_dir(&folder).unwrap();
    let config = json!({"auths": {registry.host(): {"auth": encoded()}}});
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    cli.set("DOCKER_CONFIG", folder.to_str().unwrap());
    export_works(&cli, &registry);
}

#[test]
fn basic_from_registry_auth_file_and_from_podman() {
    let (mut cli, registry) = (cli(), basic());
    let config = json!({"auths": {registry.host(): {"auth": encoded()}}}).to_string();
    fs::create_dir_all(cli.path("run/containers")).unwrap();
    fs::write(cli.path("run/containers/auth.json"), &config).unwrap();
    export_works(&cli, &registry);
    fs::remove_file(cli.path("run/containers/auth.json")).unwrap();
    export_is_refused(&cli, &registry);
    fs::write(cli.path("auth.json"), &config).unwrap();
    let file = cli.path("auth.json").to_str().unwrap().to_owned();
    cli.set("REGISTRY_AUTH_FILE", file);
    export_works(&cli, &registry);
}

/// Puts a credential helper on the path that knows one registry.
pub(super) fn helper(cli: &mut Cli, name: &str, host: &str, answer: &str) {
    let folder = cli.path("bin");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("docker-credential-{name}"));
    let script = format!(
        "#!/bin/sh\nread asked\n[ \"$1\" = get ] || exit 1\ncase \"$asked\" in\n*{host}*) echo '{answer}' ;;\n\
         *) echo 'credentials not found in native keychain'; exit 1 ;;\nesac\n"
    );
    fs::write(&file, script).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    cli.set("PATH", path);
}

#[test]
fn helpers_for_one_registry_and_for_all() {
    let registry = basic();
    let answer = json!({"ServerURL": registry.host(), "Username": USER, "Secret": PASSWORD}).to_string();
    for config in [
        json!({"credHelpers": {registry.host(): "test"}}),
        json!({"credsStore": "test"}),
        json!({"credsStore": "other", "credHelpers": {registry.host(): "test"}}),
    ] {
        let mut cli = cli();
        helper(&mut cli, "test", &registry.host(), &answer);
        cli.docker_config(&config);
        export_works(&cli, &registry);
    }
}

#[test]
fn a_line_end_behind_a_login_in_a_variable_does_not_count() {
    let (mut cli, registry) = (cli(), basic());
    cli.set("DOCKER_MIRROR_USERNAME", format!("{USER}\r\n"));
    cli.set("DOCKER_MIRROR_PASSWORD", format!("{PASSWORD}\n"));
    export_works(&cli, &registry);
    // Only one line end: the others belong to the password.
    cli.set("DOCKER_MIRROR_PASSWORD", format!("{PASSWORD}\n\n"));
    export_is_refused(&cli, &registry);
}

#[test]
fn a_helper_that_cannot_start_is_not_called_absent() {
    let (mut cli, registry) = (cli(), basic());
    helper(&mut cli, "lost", &registry.host(), "");
    fs::write(cli.path("bin/docker-credential-lost"), "#!/no/such/interpreter\n").unwrap();
    cli.docker_config(&json!({"credHelpers": {registry.host(): "lost"}}));
    let image = format!("{}/a/b:1", registry.host());
    let output = cli.run(&["export", &image, "-o", "b.tar"]).expect_code(3);
    let output = output.says(&["bin/docker-credential-lost` exists", "interpreter or loader is missing"]);
    assert!(!output.stderr.contains("not installed"), "{}", output.everything());
}

#[test]
fn a_helper_that_is_not_there_is_named() {
    let (cli, registry) = (cli(), basic());
    cli.docker_config(&json!({"credHelpers": {registry.host(): "absent-one"}}));
    let image = format!("{}/a/b:1", registry.host());
    cli.run(&["export", &image, "-o", "b.tar"])
        .expect_code(3)
        .says(&["docker-credential-absent-one"]);
}

#[test]
fn tokens_for_a_user() {
    let (cli, registry) = (cli(), bearer());
    export_is_refused(&cli, &registry);
    cli.log_in(&registry.host(), USER, PASSWORD);
    registry.forget_requests();
    export_works(&cli, &registry);
    let tokens = registry.requests_of("*", "/token");
    assert_eq!(
        tokens.len(),
        1,
        "one token for the whole run: {}",
        registry.transcript()
    );
    assert!(
        tokens[0]
            .target()
            .replace("%2F", "/")
            .replace("%3A", ":")
            .contains("a/b:pull"),
        "the scope is that of the repository"
    );
    for request in registry.requests_of("*", "/v2/") {
        assert!(
            !request.everything().contains(&encoded()),
            "the password went to the registry itself"
        );
    }
}

#[test]
fn an_anonymous_token_where_there_are_no_credentials() {
    let registry = Double::start(Options::default().auth(Auth::anonymous()));
    helm_chart().push(&registry, "a/b", "1");
    let cli = cli();
    export_works(&cli, &registry);
    let tokens = registry.requests_of("GET", "/token");
    assert!(!tokens.is_empty() && tokens.iter().all(|t| t.header("authorization").is_empty()));
}

#[test]
fn pushes_with_a_token_that_may_push() {
    let service = Arc::new(TokenService {
        users: vec![(USER.to_owned(), PASSWORD.to_owned())],
        ..TokenService::default()
    });
    let source = super::source();
    let target = Double::start(Options::default().auth(Auth::Bearer(service)));
    let cli = cli();
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    cli.run(&["import", "b.tar", "-d", &target.host()])
        .expect_code(3)
        .says(&[&target.host()]);
    assert!(target.store().repositories().is_empty());
    cli.log_in(&target.host(), USER, PASSWORD);
    cli.succeed(&["import", "b.tar", "-d", &target.host(), "-vv"])
        .hides(&[PASSWORD, &encoded(), "secret-token-"]);
    let linux = greeting().documents_of("linux").len();
    assert_eq!(
        target.store().repository("library/greeting").unwrap().manifests.len(),
        linux + 1
    );
}

#[test]
fn credentials_of_one_registry_do_not_go_to_the_other() {
    let (source, target) = (
        basic(),
        Double::start(Options::default().auth(Auth::basic("other", "another-secret"))),
    );
    let cli = cli();
    let auth = |user: &str, password: &str| json!({"auth": base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))});
    let config =
        json!({"auths": {source.host(): auth(USER, PASSWORD), target.host(): auth("other", "another-secret")}});
    cli.docker_config(&config);
    cli.succeed(&["-d", &target.host(), &format!("{}/a/b:1", source.host())]);
    assert!(target.requests().iter().all(|e| !e.everything().contains(&encoded())));
    let theirs = base64::engine::general_purpose::STANDARD.encode("other:another-secret");
    assert!(source.requests().iter().all(|e| !e.everything().contains(&theirs)));
}

/// An anonymous token is enough to pull, as on Docker Hub.
fn public() -> Double {
    let registry = Double::start(Options::default().auth(Auth::anonymous()));
    for tag in ["1", "2", "3"] {
        helm_chart().push(&registry, "a/b", tag);
    }
    registry
}

/// Exports three public images.
fn export_public(cli: &Cli, registry: &Double) -> Output {
    let images: Vec<String> = (1..4).map(|tag| format!("{}/a/b:{tag}", registry.host())).collect();
    let mut arguments = vec!["export", "-o", "b.tar", "--force", "--no-cache"];
    arguments.extend(images.iter().map(String::as_str));
    cli.run(&arguments).expect_code(0).hides(&[PASSWORD, &encoded()])
}

fn warnings(output: &Output) -> Vec<&str> {
    output
        .stderr
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect()
}

#[test]
fn a_login_in_docker_auth_config_is_used() {
    let registry = basic();
    let config = json!({"auths": {registry.host(): {"auth": encoded()}}}).to_string();
    let mut cli = cli();
    // It comes before the files at their ordinary places.
    cli.log_in(&registry.host(), USER, "stale-password");
    cli.set("DOCKER_AUTH_CONFIG", format!("\u{feff}{config}\r\n"));
    export_works(&cli, &registry);
    // And it may name helpers.
    let answer = json!({"Username": USER, "Secret": PASSWORD}).to_string();
    helper(&mut cli, "test", &registry.host(), &answer);
    for config in [
        json!({"credsStore": "test"}),
        json!({"credHelpers": {registry.host(): "test"}}),
    ] {
        cli.set("DOCKER_AUTH_CONFIG", config.to_string());
        export_works(&cli, &registry);
    }
    // A file that a flag names is the only place that is searched.
    cli.set("DOCKER_AUTH_CONFIG", config);
    fs::write(cli.path("empty.json"), "{}").unwrap();
    let image = format!("{}/a/b:1", registry.host());
    cli.run(&["export", &image, "-o", "other.tar", "--auth-file", "empty.json"])
        .expect_code(3);
}

/// Ways in which a stored login is unusable: files of `~/.docker`, and a word of the warning.
fn unusable_logins(cli: &mut Cli, registry: &Double) -> Vec<(serde_json::Value, &'static str)> {
    helper(cli, "failing", "nobody", "");
    helper(cli, "talking", &registry.host(), "no JSON at all");
    vec![
        (json!("text"), "config.json"),
        (json!({"auths": {registry.host(): {"auth": "%%%"}}}), "is not base64"),
        (json!({"credsStore": "absent-one"}), "docker-credential-absent-one"),
        (
            json!({"credHelpers": {registry.host(): "talking"}}),
            "docker-credential-talking",
        ),
    ]
}

#[test]
fn a_public_image_is_pulled_without_a_login_that_cannot_be_read() {
    let registry = public();
    let mut cli = cli();
    for (config, words) in unusable_logins(&mut cli, &registry) {
        cli.docker_config(&config);
        let output = export_public(&cli, &registry).says(&[words, "going on without it"]);
        assert_eq!(warnings(&output).len(), 1, "told once: {}", output.everything());
    }
    // A mount of a file that does not exist makes a folder in its place.
    fs::remove_file(cli.path(".docker/config.json")).unwrap();
    fs::create_dir(cli.path(".docker/config.json")).unwrap();
    let output = export_public(&cli, &registry).says(&["cannot read credential file", "config.json"]);
    assert_eq!(warnings(&output).len(), 1, "{}", output.everything());
}

#[test]
fn a_login_behind_a_file_that_cannot_be_read_is_used() {
    let registry = basic();
    let cli = cli();
    fs::create_dir_all(cli.path("run/containers/auth.json")).unwrap();
    cli.log_in(&registry.host(), USER, PASSWORD);
    export_works(&cli, &registry);
}

#[test]
fn a_push_stops_where_its_login_cannot_be_read() {
    let source = super::source();
    let target = Double::start(Options::default().auth(Auth::anonymous()));
    let mut cli = cli();
    cli.succeed(&[
        "export",
        &format!("{}/library/greeting:1.0", source.host()),
        "-o",
        "b.tar",
    ]);
    for (config, words) in unusable_logins(&mut cli, &target) {
        cli.docker_config(&config);
        for command in [
            vec!["import".to_owned(), "b.tar".to_owned()],
            vec![format!("{}/library/greeting:1.0", source.host())],
        ] {
            let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
            let host = target.host();
            arguments.extend(["-d", &host]);
            cli.run(&arguments).expect_code(3).says(&[words]);
        }
    }
    assert_eq!(target.count("*", "/token"), 0, "{}", target.transcript());
}

#[test]
fn a_variable_that_is_for_no_host_of_the_run_is_named_with_the_right_spelling() {
    let registry = basic();
    let host = registry.host();
    let mut cli = cli();
    cli.set("DOCKER_MIRROR_USERNAME_127_0_0_1", USER);
    cli.set("DOCKER_MIRROR_PASSWORD_127_0_0_1", PASSWORD);
    let spelled = host.replace(['.', ':'], "_");
    cli.run(&["export", &format!("{host}/a/b:1"), "-o", "b.tar"])
        .expect_code(3)
        .says(&[
            "no credentials were found",
            &format!("`DOCKER_MIRROR_USERNAME_127_0_0_1` (`{host}` is spelled `{spelled}`)"),
        ])
        .hides(&[PASSWORD]);
}

#[test]
fn a_helper_that_prints_more_than_its_answer_is_understood_and_told() {
    let registry = basic();
    let answer = json!({"Username": USER, "Secret": PASSWORD}).to_string();
    let mut cli = cli();
    cli.docker_config(&json!({"credsStore": "test"}));
    helper(
        &mut cli,
        "test",
        &registry.host(),
        &format!("A new version is available\n{answer}"),
    );
    let image = format!("{}/a/b:1", registry.host());
    let output = cli
        .succeed(&["export", &image, "-o", "b.tar"])
        .says(&["`docker-credential-test` prints more than its answer"])
        .hides(&[PASSWORD]);
    assert_eq!(warnings(&output).len(), 1, "{}", output.everything());
    helper(&mut cli, "test", &registry.host(), &format!("{answer}\n{answer}"));
    cli.run(&["export", &image, "-o", "c.tar"])
        .expect_code(3)
        .says(&["`docker-credential-test`", "more than one JSON object"])
        .hides(&[PASSWORD]);
}
#[test]
fn a_file_that_is_no_json_is_to_be_corrected_and_one_without_logins_is_told() {
    let (cli, registry) = (cli(), basic());
    let image = format!("{}/a/b:1", registry.host());
    cli.docker_config(&json!({}));
    fs::write(cli.path(".docker/config.json"), "{\"auths\": {").unwrap();
    cli.run(&["export", &image, "-o", "b.tar"]).expect_code(3).says(&[
        "config.json",
        "no valid JSON at line 1",
        "hint: correct the file, or remove it",
    ]);
    // A Kubernetes Secret as a whole, not its value.
    cli.docker_config(&json!({"apiVersion": "v1", "kind": "Secret", "data": {".dockerconfigjson": "e30="}}));
    cli.run(&["export", &image, "-o", "b.tar"])
        .expect_code(3)
        .says(&["config.json` (it has no entry in `auths`)"]);
}

#[test]
fn a_docker_auth_config_that_is_none_is_explained_and_not_shown() {
    let (open, closed) = (public(), basic());
    for value in [
        "/builds/team/app.tmp/DOCKER_AUTH_CONFIG",
        &format!("{{\"auths\": \"{PASSWORD}\"}}"),
        PASSWORD,
    ] {
        let mut cli = cli();
        cli.set("DOCKER_AUTH_CONFIG", value);
        let output = export_public(&cli, &open);
        assert_eq!(warnings(&output).len(), 1, "{}", output.everything());
        output.says(&["the variable `DOCKER_AUTH_CONFIG`"]);
        let image = format!("{}/a/b:1", closed.host());
        cli.run(&["export", &image, "-o", "c.tar"])
            .expect_code(3)
            .says(&[
                "the variable `DOCKER_AUTH_CONFIG`",
                "the content of a `config.json`",
                "GitLab",
            ])
            .hides(&[PASSWORD]);
    }
}

#[test]
fn a_private_image_fails_with_the_reason_why_its_login_cannot_be_read() {
    for registry in [basic(), bearer()] {
        let mut cli = cli();
        for (config, words) in unusable_logins(&mut cli, &registry) {
            cli.docker_config(&config);
            let image = format!("{}/a/b:1", registry.host());
            let output = cli
                .run(&["export", &image, "-o", "b.tar"])
                .expect_code(3)
                .says(&[words]);
            let error = output.stderr.split("error: ").nth(1).unwrap_or_default();
            assert!(error.contains(words), "the error has it too: {}", output.everything());
        }
    }
}
