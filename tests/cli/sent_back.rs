//! A server that sends secrets back gets none of them printed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::cli;
use super::support::cli::Output;
use super::support::fault::{Action, Canned, When};
use super::support::images::helm_chart;
use super::support::{Auth, Cli, Double, Options};

const PASSWORD: &str = "S3cr3t/Passw0rd \"!";

fn user() -> Cli {
    let mut cli = cli();
    cli.set("DOCKER_MIRROR_USERNAME", "alice");
    cli.set("DOCKER_MIRROR_PASSWORD", PASSWORD);
    cli
}

fn pair() -> String {
    STANDARD.encode(format!("alice:{PASSWORD}"))
}

/// A refusal whose words hold the password in every form.
fn echo(status: u16) -> Action {
    let pair = pair();
    let message = format!("no access for {PASSWORD} (Basic {pair}, {})", STANDARD.encode(PASSWORD));
    let detail = serde_json::json!({"auth": format!("Basic {pair}"), "password": PASSWORD});
    let body = serde_json::json!({"errors": [{"code": PASSWORD, "message": message, "detail": detail}]});
    Action::Answer(Canned {
        status,
        headers: vec![("content-type".into(), "application/json".into())],
        body: body.to_string().into_bytes(),
    })
}

#[track_caller]
fn hidden(output: Output) -> Output {
    let pair = pair();
    for text in [&output.stdout, &output.stderr] {
        for secret in [
            PASSWORD,
            "S3cr3t",
            pair.trim_end_matches('='),
            STANDARD.encode(PASSWORD).trim_end_matches('='),
        ] {
            assert!(!text.contains(secret), "`{secret}` in {}", output.everything());
        }
    }
    output
}

fn closed() -> Double {
    let registry = Double::start(Options::default().auth(Auth::basic("alice", PASSWORD)));
    helm_chart().push(&registry, "a/b", "1");
    registry
}

#[test]
fn the_words_of_a_refusal_hold_no_secret() {
    for (status, code) in [(400, 1), (401, 3), (403, 3), (404, 1), (500, 1), (507, 1)] {
        for flags in [&[][..], &["-vv"]] {
            let registry = closed();
            registry.add_fault(When::path("/v2/").with_header("authorization"), echo(status));
            let name = format!("{}/a/b:1", registry.host());
            let export = [&["export", &name, "-o", "x.tar", "--no-cache", "--retries", "0"], flags].concat();
            let output = hidden(user().run(&export)).expect_code(code);
            assert!(output.stderr.contains("***"), "{}", output.everything());
        }
    }
}

#[test]
fn a_report_of_an_import_holds_no_secret() {
    let (cli, source) = (user(), closed());
    let name = format!("{}/a/b:1", source.host());
    cli.succeed(&["export", &name, "-o", "b.tar"]);
    let target = Double::start(Options::default().auth(Auth::basic("alice", PASSWORD)));
    target.add_fault(When::post("/blobs/uploads/").with_header("authorization"), echo(403));
    let output = cli.run(&[
        "import",
        "b.tar",
        "-d",
        &target.host(),
        "--report",
        "r.json",
        "--retries",
        "0",
    ]);
    hidden(output).expect_code(3);
    let report = std::fs::read_to_string(cli.path("r.json")).unwrap();
    assert!(!report.contains("S3cr3t") && report.contains("***"), "{report}");
}

#[test]
fn an_address_to_which_a_registry_redirects_holds_no_secret() {
    for address in [
        format!(
            "http://127.0.0.1:1/{}/x",
            PASSWORD.replace(' ', "%20").replace('"', "%22")
        ),
        format!("http://127.0.0.1:1/{}", pair()),
        format!("ftp://127.0.0.1:1/x?{}", pair()),
        "ftp://127.0.0.1:1/x?AKIAsignature&name=S3cr3t".to_owned(),
    ] {
        let registry = closed();
        registry.add_fault(
            When::get("/manifests/").with_header("authorization"),
            Action::redirect(307, &address),
        );
        let name = format!("{}/a/b:1", registry.host());
        let output = user().run(&["export", &name, "-o", "x.tar", "--no-cache", "--retries", "0", "-vv"]);
        let output = hidden(output).expect_code(1);
        assert!(!output.stderr.contains("AKIA"), "{}", output.everything());
    }
}

#[test]
fn a_limit_that_cannot_be_asked_for_is_an_error() {
    let registry = Double::start(Options::default().fault(When::any(), Action::status(400)));
    let name = format!("{}/a/b:1", registry.host());
    for asked in [&name, &registry.host()] {
        let output = cli().run(&["limits", asked]).expect_code(1);
        assert!(!output.stdout.contains("no limit"), "{}", output.everything());
    }
}
