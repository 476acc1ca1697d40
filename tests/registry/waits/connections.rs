//! Connections that are not established: behind a proxy, in a TLS handshake; and a program that does not answer.

use std::os::unix::fs::PermissionsExt as _;

use docker_mirror::{CredentialFile, CredentialOptions, Error, Kind, Options, Proxies};

use super::clock;
use super::downloads::by_default;
use super::scripted::{Server, Step, answer};
use crate::client::{tag, with};

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_says_nothing() {
    // It reads what looks like a request, and a TLS greeting is none.
    let server = Server::start(|_| vec![Step::Hang]).await;
    for host in [server.host.clone(), server.host.replace("127.0.0.1", "localhost")] {
        let registry = with(Options::default(), &host);
        let error = clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tls_handshake_or_a_proxy_that_hangs() {
    let server = Server::start(|_| vec![Step::Hang]).await;
    for scheme in ["http", "socks5", "socks5h", "https"] {
        for error in through_proxy(&format!("{scheme}://{}", server.host)).await {
            assert_eq!(error.kind(), Kind::Network, "{scheme}: {error:?}");
        }
    }
}

/// What a registry behind this proxy comes to, over http and over https.
async fn through_proxy(address: &str) -> Vec<Error> {
    let proxies = Proxies::standard(&|name| (name == "ALL_PROXY").then(|| address.into())).unwrap();
    let mut errors = Vec::new();
    for plain_http in [true, false] {
        let options = Options {
            plain_http,
            proxies: proxies.clone(),
            ..Options::default()
        };
        let registry = with(options, "registry.example");
        errors.push(clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err());
    }
    errors
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_drips_its_answer() {
    let pause = std::time::Duration::from_secs(20);
    let server = Server::start(move |_| vec![Step::Say("HTTP/1.1 200 OK\r\nx: ".into()), Step::Drip("y", pause)]).await;
    assert_eq!(through_proxy(&format!("http://{}", server.host)).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_credential_helper_that_hangs_is_run_once() {
    let server =
        Server::start(|_| vec![Step::Take, answer(401, &[("www-authenticate", "Basic realm=\"x\"")], 0)]).await;
    let folder = tempfile::tempdir().unwrap();
    let helper = folder.path().join("docker-credential-slow");
    std::fs::write(&helper, "#!/bin/sh\necho >> \"$0.runs\"\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, r#"{"credsStore":"slow"}"#).unwrap();
    let mut options = by_default();
    options.credentials = CredentialOptions {
        files: vec![CredentialFile::named(config, "--auth-file")],
        helper_directories: vec![folder.path().to_owned()],
        ..CredentialOptions::default()
    };
    let registry = with(options, &server.host);
    for _ in 0..3 {
        let error = clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
        assert!(error.full().contains("within 60 s"), "{error:?}");
    }
    let runs = std::fs::read_to_string(folder.path().join("docker-credential-slow.runs")).unwrap_or_default();
    assert!(runs.lines().count() <= 1, "{runs:?}");
}
