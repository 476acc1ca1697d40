//! Challenges, tokens and credentials of the registry client against the registry double, and which server sees which
//! of them.

mod challenges;
mod led_back;
mod logins;
mod secrecy;
mod tokens;

use std::sync::Arc;

use crate::client::{Memory, Told, client, fetch, layer, logged_in, manifest, noise, tag, with, with_file};
use crate::fill;
use crate::support;
use crate::support::auth::TokenService;
use crate::support::fault::{Action, LocationForm, When};
use crate::support::{Auth, Double, Options};
use base64::Engine as _;
use docker_mirror::{
    Error, Kind,
    testing::{Presence, Pushed, Registry},
};
use serde_json::json;

/// A server with this token service and one image `a/b:1`.
fn server(service: TokenService) -> (Double, Arc<TokenService>) {
    let service = Arc::new(service);
    let server = Double::start(Options::default().auth(Auth::Bearer(service.clone())));
    fill(&server);
    (server, service)
}

/// A service that knows one user, and nobody else.
fn private() -> TokenService {
    TokenService {
        users: vec![("user".into(), "s3cret".into())],
        anonymous_pull: false,
        ..TokenService::default()
    }
}

fn tokens(server: &Double) -> usize {
    server.count("*", "/token")
}

async fn pull(registry: &Registry) -> Result<(), Error> {
    registry.manifest("a/b", &tag("1")).await.map(|_| ())
}

fn user(host: &str) -> (Registry, Told) {
    let (options, told) = logged_in("user", "s3cret");
    (with(options, host), told)
}

#[tokio::test]
async fn nobody_gets_an_anonymous_token() {
    let (server, _) = server(TokenService::default());
    let (registry, _) = client(&server.host());
    pull(&registry).await.unwrap();
    pull(&registry).await.unwrap();
    fetch(&registry, "a/b", &layer(b"{}")).await.unwrap();
    assert_eq!(tokens(&server), 1, "one token for all: {}", server.transcript());
    assert_eq!(server.requests().len(), 5, "{}", server.transcript());
    let token = &server.requests_of("GET", "/token")[0];
    assert_eq!(token.header("authorization"), "");
    let target = token.target().replace("%3A", ":").replace("%2F", "/");
    assert!(
        target.contains("scope=repository:a/b:pull&") || target.ends_with("scope=repository:a/b:pull"),
        "{target}"
    );
    assert!(
        target.contains("service=double") && target.contains("client_id=docker-mirror"),
        "{target}"
    );
}

#[tokio::test]
async fn a_missing_or_private_repository_looks_the_same() {
    let (server, _) = server(TokenService {
        private: vec!["a/b".into()],
        ..TokenService::default()
    });
    let (registry, told) = client(&server.host());
    let error = pull(&registry).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(error.to_string().contains("a/b"), "{error}");
    assert!(
        error.hint().unwrap().contains("log in") && error.hint().unwrap().contains("name"),
        "{error:?}"
    );
    assert_eq!(tokens(&server), 1, "{}", server.transcript());
    assert!(told.retries().is_empty());
}

#[tokio::test]
async fn passwords_go_to_the_token_server_by_get() {
    let (server, _) = server(private());
    let (registry, _) = user(&server.host());
    pull(&registry).await.unwrap();
    let token = &server.requests_of("*", "/token")[0];
    assert_eq!(token.method, "GET");
    assert_eq!(
        token.header("authorization"),
        format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode("user:s3cret")
        )
    );
    assert!(token.target().contains("account=user"));
    assert!(
        server
            .requests_of("*", "/v2/")
            .iter()
            .all(|request| !request.header("authorization").starts_with("Basic"))
    );
}

#[tokio::test]
async fn a_refused_password_is_tried_once() {
    let (server, _) = server(private());
    let (options, _) = logged_in("user", "wr0ng");
    let registry = with(options, &server.host());
    for _ in 0..3 {
        let error = pull(&registry).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized);
        assert!(
            error
                .to_string()
                .contains("rejected user `user` (login from `--username`)"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("check the user name"), "{error:?}");
        assert!(!format!("{error:?} {error} {:?}", error.hint()).contains("wr0ng"));
    }
    assert_eq!(
        tokens(&server),
        1,
        "many images must not lock an account: {}",
        server.transcript()
    );
}
