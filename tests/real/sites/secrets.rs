//! No credential ever reaches a second server: every byte that the second server receives is checked.

use base64::Engine;

use super::support::daemon::Daemon;
use super::support::distribution::Distribution;
use super::support::nginx::{nginx, pass_to};
use super::support::proxy::Proxy;
use super::support::real::{self, RealRegistry, Setup};
use super::support::token_server::TokenServer;
use super::{Cli, cli, fill, has_all, names, with_names};

const WHAT: &str = "docker-registry whose blobs are elsewhere, by nginx";

/// Fails if a record contains one of these secrets, in any form, or any header that carries credentials.
#[track_caller]
pub(crate) fn hold_nothing(record: &[u8], secrets: &[&str]) {
    assert!(!record.is_empty(), "the second server was never asked");
    let text = String::from_utf8_lossy(record).to_lowercase();
    for header in ["authorization", "cookie", "bearer ", "basic "] {
        assert!(!text.contains(header), "`{header}` reached the second server:\n{text}");
    }
    for secret in secrets {
        let engines = [
            base64::engine::general_purpose::STANDARD_NO_PAD,
            base64::engine::general_purpose::URL_SAFE_NO_PAD,
        ];
        let mut forms: Vec<String> = engines.iter().map(|engine| engine.encode(secret)).collect();
        forms.push((*secret).to_owned());
        forms.push(secret.replace(' ', "%20"));
        forms.push(secret.replace(' ', "+"));
        for form in forms {
            assert!(
                !text.contains(&form.to_lowercase()),
                "`{form}` reached the second server"
            );
        }
    }
}

/// The user name alone is no secret, and this one is also a word of the program's own name; together with its password
/// it is.
const SECRETS: [&str; 2] = [real::PASSWORD, "mirror:correct horse"];

/// Starts an nginx that redirects every read and every upload of a blob from `of` to `elsewhere`.
fn redirecting(of: &str, elsewhere: &str) -> Option<Daemon> {
    let pass = "proxy_set_header Host $http_host; proxy_http_version 1.1;";
    nginx(
        WHAT,
        &format!(
            "listen 127.0.0.1:{{port}}; client_max_body_size 0;\n\
             location ~ ^/v2/.*/blobs/sha256: {{\n\
               if ($request_method = GET) {{ return 307 http://{elsewhere}$request_uri; }}\n\
               proxy_pass http://{of}; {pass} }}\n\
             location ~ ^/v2/.*/blobs/uploads/ {{\n\
               proxy_pass http://{of}; {pass} proxy_redirect ~^http://[^/]+/(.*)$ http://{elsewhere}/$1; }}\n{}",
            pass_to(of)
        ),
    )
}

/// Exports, imports and mirrors with one registry for both sides, whose blobs are at another address.
fn across(cli: &Cli, front: &Daemon, target: &super::Client) {
    let names = names(&front.host());
    cli.succeed(&with_names(&["export", "-o", "b.tar", "-vv"], &names));
    let (two, one) = (format!("{}/two", front.host()), format!("{}/one", front.host()));
    cli.succeed(&["import", "b.tar", "-d", &two, "-vv"]);
    has_all(target, "two/");
    cli.succeed(&with_names(&["-d", &one, "-vv"], &names));
    has_all(target, "one/");
}

#[test]
fn a_password_stays_at_its_registry() {
    let closed = Setup {
        login: true,
        tls: false,
    };
    let Some(guarded) = RealRegistry::start(closed, WHAT) else {
        return;
    };
    fill(&guarded.client());
    // The second server: the same registry at another port, at which the proxy adds the password itself.
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", real::USER, real::PASSWORD));
    let Some(door) = nginx(
        WHAT,
        &format!(
            "listen 127.0.0.1:{{port}}; client_max_body_size 0;\n\
             location / {{ proxy_pass http://{}; proxy_set_header Host $http_host; \
             proxy_set_header Authorization \"Basic {encoded}\"; }}",
            guarded.host()
        ),
    ) else {
        return;
    };
    let second = Proxy::recording(&door.host());
    let Some(front) = redirecting(&guarded.host(), &second.host()) else {
        return;
    };
    let cli = cli();
    cli.log_in(&front.host(), real::USER, real::PASSWORD);
    across(&cli, &front, &guarded.client());
    hold_nothing(&second.record(), &SECRETS);
}

#[test]
fn a_token_stays_at_its_registry() {
    let (user, password) = ("somebody", "hunter2-very-secret");
    let tokens = TokenServer::start(user, password, 300);
    let Some(guarded) = Distribution::start(WHAT, |folder| (tokens.configuration(folder), String::new())) else {
        return;
    };
    fill(&guarded.client());
    let second = Proxy::recording(&guarded.client().host);
    let Some(front) = redirecting(&guarded.host(), &second.host()) else {
        return;
    };
    let cli = cli();
    cli.log_in(&front.host(), user, password);
    across(&cli, &front, &guarded.client());
    let handed_out = tokens.tokens();
    assert!(!handed_out.is_empty());
    let record = second.record();
    hold_nothing(&record, &[user, password, "somebody:hunter2-very-secret"]);
    for token in &handed_out {
        hold_nothing(&record, &[token]);
    }
}

#[test]
fn another_servers_challenge_gets_no_answer() {
    let closed = Setup {
        login: true,
        tls: false,
    };
    let (Some(guarded), Some(other)) = (RealRegistry::start(closed, WHAT), RealRegistry::start(closed, WHAT)) else {
        return;
    };
    fill(&guarded.client());
    // The second server wants a password, too, and by chance it is the same.
    let second = Proxy::recording(&other.host());
    let Some(front) = redirecting(&guarded.host(), &second.host()) else {
        return;
    };
    let cli = cli();
    cli.log_in(&front.host(), real::USER, real::PASSWORD);
    let names = names(&front.host());
    cli.run(&with_names(&["export", "-o", "b.tar", "--retries", "1"], &names))
        .expect_code(3)
        .says(&[&second.host(), "401"])
        .hides(&[real::PASSWORD]);
    hold_nothing(&second.record(), &SECRETS);
}
