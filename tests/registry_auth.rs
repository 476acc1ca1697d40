//! Challenges, tokens and credentials of the registry client against the registry double, and who gets to see what.

mod client;
mod support;

use std::sync::Arc;

use base64::Engine as _;
use client::{Memory, Told, client, fetch, layer, logged_in, manifest, noise, tag, with, with_file};
use docker_mirror::error::{Error, Kind};
use docker_mirror::registry::{Presence, Pushed, Registry};
use serde_json::json;
use support::auth::TokenService;
use support::fault::{Action, LocationForm, When};
use support::{Auth, Double, Options};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A server with this token service and one image `a/b:1`.
fn server(service: TokenService) -> (Double, Arc<TokenService>) {
    let service = Arc::new(service);
    let server = Double::start(Options::default().auth(Auth::Bearer(service.clone())));
    fill(&server);
    (server, service)
}

fn fill(server: &Double) {
    let image = manifest(&layer(b"{}"), &[]);
    server
        .store()
        .put_manifest("a/b", Some("1"), TYPE, image.bytes().clone());
    server.store().put_blob("a/b", "{}");
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
        assert!(error.hint().unwrap().contains("log in"), "{error:?}");
        assert!(!format!("{error:?} {error} {:?}", error.hint()).contains("wr0ng"));
    }
    assert_eq!(
        tokens(&server),
        1,
        "many images must not lock an account: {}",
        server.transcript()
    );
}

#[tokio::test]
async fn basic_credentials() {
    let server = Double::start(Options::default().auth(Auth::basic("user", "s3cret")));
    fill(&server);
    let (registry, _) = user(&server.host());
    pull(&registry).await.unwrap();
    pull(&registry).await.unwrap();
    assert_eq!(server.requests().len(), 3, "the challenge is remembered");
    let blob = layer(b"blob");
    assert_eq!(
        registry
            .push_blob("a/b", &blob, &Memory("blob".into()), None)
            .await
            .unwrap(),
        Pushed::Uploaded
    );
    let (nobody, _) = client(&server.host());
    let error = pull(&nobody).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(error.hint().unwrap().contains("docker login"), "{error:?}");
    let (options, _) = logged_in("user", "wr0ng");
    server.forget_requests();
    let error = pull(&with(options, &server.host())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert_eq!(
        server.requests().len(),
        2,
        "once without, once with, and no more: {}",
        server.transcript()
    );
}

/// Challenges in forms that have been seen, all to be answered by Bearer.
#[tokio::test]
async fn challenges_in_every_form() {
    let forms: [&[&str]; 8] = [
        &[r#"bEaReR REALM="{realm}",  SERVICE="{service}" , scope="{scope}""#],
        &[
            r#"Basic realm="x""#,
            r#"Bearer realm="{realm}",service="{service}",scope="{scope}""#,
        ],
        &[r#"Negotiate, Basic realm="a, b", Bearer realm="{realm}",scope="{scope}""#],
        &[r#"Bearer realm="{realm}""#],
        &[r#"Bearer realm={realm},service={service}"#],
        &[r#"Bearer realm="/token",service="{service}""#],
        &[r#"Negotiate oYG2MIG=, Bearer realm="{realm}""#],
        &[r#"Bearer scope="{scope}",realm="{realm}"#],
    ];
    for form in forms {
        let challenge = form.iter().map(|line| (*line).to_owned()).collect();
        let (server, _) = server(TokenService { challenge, ..private() });
        let (registry, _) = user(&server.host());
        let result = pull(&registry).await;
        assert!(result.is_ok(), "{form:?}: {result:?} {}", server.transcript());
    }
}

#[tokio::test]
async fn challenges_that_cannot_be_answered() {
    for (form, words) in [
        (&["Negotiate"][..], "in which form"),
        (&["Bearer service=\"x\""], "in which form"),
        (&["\"", ",,,"], "in which form"),
        (&[], "in which form"),
    ] {
        let (server, _) = server(TokenService {
            challenge: form.iter().map(|s| (*s).to_owned()).collect(),
            ..private()
        });
        let (registry, _) = user(&server.host());
        let error = pull(&registry).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized, "{form:?}: {error:?}");
        assert!(error.to_string().contains(words), "{form:?}: {error}");
        assert!(server.requests().len() <= 2, "{}", server.transcript());
    }
}

#[tokio::test]
async fn a_challenge_on_the_root_alone_is_found() {
    let options = Options::default().auth(Auth::Bearer(Arc::new(private())));
    let server = Double::start(options.fault(
        When::path("/v2/a/b/").without_header("authorization"),
        Action::challenge(&[]),
    ));
    fill(&server);
    let (registry, _) = user(&server.host());
    pull(&registry).await.unwrap();
    // And a root that is open to all, with repositories that are not.
    let (server, _) = self::server(TokenService {
        open_ping: true,
        ..private()
    });
    pull(&user(&server.host()).0).await.unwrap();
}

#[tokio::test]
async fn answers_of_token_servers_in_every_form() {
    for service in [
        TokenService {
            access_token_only: true,
            ..private()
        },
        TokenService {
            told_lifetime: None,
            ..private()
        },
        TokenService {
            told_lifetime: Some(json!("300")),
            ..private()
        },
        TokenService {
            told_lifetime: Some(json!(-1)),
            ..private()
        },
        TokenService {
            told_lifetime: Some(json!(1e9)),
            ..private()
        },
        TokenService {
            told_issued: Some("2001-01-01T00:00:00Z".into()),
            ..private()
        },
        TokenService {
            told_issued: Some("2101-01-01T00:00:00Z".into()),
            ..private()
        },
        TokenService {
            told_issued: Some("never".into()),
            ..private()
        },
    ] {
        let text = format!("{:?} {:?}", service.told_lifetime, service.told_issued);
        let (server, _) = server(service);
        let (registry, _) = user(&server.host());
        for _ in 0..3 {
            assert!(pull(&registry).await.is_ok(), "{text}");
        }
        assert_eq!(tokens(&server), 1, "{text}: {}", server.transcript());
    }
}

/// What a token server may answer that is no token: an error that names the server, and no second try.
#[tokio::test]
async fn answers_of_token_servers_that_are_none() {
    for (name, action, kind) in [
        ("a web page", Action::html(), Kind::Server),
        ("nothing", Action::Body(Vec::new()), Kind::Server),
        ("no object", Action::Body(b"[1]".to_vec()), Kind::Server),
        (
            "no token",
            Action::Body(b"{\"token\":\"\",\"access_token\":null}".to_vec()),
            Kind::Server,
        ),
        ("too much", Action::Body(vec![b' '; (1 << 20) + 1]), Kind::Server),
        (
            "a line feed in it",
            Action::Body(br#"{"token":"a\nb"}"#.to_vec()),
            Kind::Server,
        ),
        ("gone", Action::status(404), Kind::NotFound),
        ("a redirect to itself", Action::redirect(302, "{target}"), Kind::Server),
        (
            "a redirect to a file",
            Action::redirect(302, "file:///etc/passwd"),
            Kind::Server,
        ),
        ("forbidden", Action::status(403), Kind::Unauthorized),
    ] {
        let server = Double::start(
            Options::default()
                .auth(Auth::Bearer(Arc::new(private())))
                .fault(When::path("/token"), action),
        );
        let (registry, _) = user(&server.host());
        let error = pull(&registry).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error:?}");
        assert!(error.to_string().contains(&server.host()), "{name}: {error}");
        assert!(tokens(&server) <= 11, "{name}: {}", server.transcript());
    }
    let options = Options::default().auth(Auth::Bearer(Arc::new(private())));
    let server = Double::start(options.fault(When::path("/token").first(2), Action::status(503)));
    fill(&server);
    pull(&user(&server.host()).0).await.unwrap();
}

#[tokio::test]
async fn one_token_however_many_wait_for_it() {
    let (server, _) = server(private());
    let (registry, _) = user(&server.host());
    // The challenge is known before the crowd comes.
    assert_eq!(
        registry.head_manifest("c/d", &tag("1")).await.unwrap(),
        Presence::Missing
    );
    let crowd = (0..20).map(|_| pull(&registry));
    for result in futures_util::future::join_all(crowd).await {
        result.unwrap();
    }
    assert_eq!(tokens(&server), 2, "one for each repository: {}", server.transcript());
}

#[tokio::test]
async fn a_token_that_expires_early_is_renewed_once() {
    let (server, service) = server(private());
    let (registry, _) = user(&server.host());
    pull(&registry).await.unwrap();
    service.revoke_all();
    pull(&registry).await.unwrap();
    assert_eq!(tokens(&server), 2);
    // One that never does is asked for twice, and then it is said.
    let (server, _) = self::server(TokenService {
        useless: true,
        ..private()
    });
    let (registry, told) = user(&server.host());
    let error = pull(&registry).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert_eq!(server.count("GET", "/manifests/"), 2, "{}", server.transcript());
    assert!(told.retries().is_empty());
}

#[tokio::test]
async fn a_token_that_expires_under_a_download_and_an_upload() {
    // Good for two requests each: everything needs new ones, and gets them.
    let (server, _) = server(TokenService {
        uses: Some(2),
        ..private()
    });
    let bytes = noise(3 << 20);
    server.store().put_blob("a/b", bytes.clone());
    server.add_fault(When::get("/blobs/").first(2), Action::cut(1 << 20));
    let (registry, _) = user(&server.host());
    assert_eq!(fetch(&registry, "a/b", &layer(&bytes)).await.unwrap(), bytes);
    let blob = layer(b"new");
    registry
        .push_blob("a/b", &blob, &Memory("new".into()), None)
        .await
        .unwrap();
    assert!(server.store().blob("a/b", &blob.digest.to_string()).is_some());
    let image = manifest(&blob, &[]);
    registry.put_manifest("a/b", &tag("2"), &image).await.unwrap();
}

#[tokio::test]
async fn an_upload_refused_at_its_end_goes_on_with_a_new_token() {
    let options = Options::default().auth(Auth::Bearer(Arc::new(private())));
    let server = Double::start(options.fault(
        When::put("/blobs/uploads/").first(1),
        Action::challenge(&[r#"Bearer realm="/token",service="double",error="invalid_token""#]),
    ));
    let (registry, _) = user(&server.host());
    let bytes = noise(1 << 20);
    registry
        .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
        .await
        .unwrap();
    assert_eq!(tokens(&server), 2, "{}", server.transcript());
    let always = Double::start(Options::default().auth(Auth::Bearer(Arc::new(private()))).fault(
        When::put("/blobs/uploads/"),
        Action::challenge(&[r#"Bearer realm="/token",service="double""#]),
    ));
    let (registry, _) = user(&always.host());
    let error = registry
        .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error:?}");
    assert!(always.count("PUT", "") <= 3, "{}", always.transcript());
}

#[tokio::test]
async fn identity_tokens_go_by_post_and_where_that_is_unknown_by_get() {
    let folder = tempfile::tempdir().unwrap();
    let (with_post, _) = server(TokenService {
        identity_tokens: vec!["id-s3cret".into()],
        ..private()
    });
    let file = |server: &Double| json!({"auths": {server.host(): {"identitytoken": "id-s3cret"}}});
    let (options, _) = with_file(folder.path(), &file(&with_post));
    pull(&with(options, &with_post.host())).await.unwrap();
    let request = &with_post.requests_of("POST", "/token")[0];
    let body = String::from_utf8(request.body.clone()).unwrap();
    for part in [
        "grant_type=refresh_token",
        "refresh_token=id-s3cret",
        "service=double",
        "client_id=docker-mirror",
        "scope=repository%3Aa%2Fb%3Apull",
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
    assert_eq!(request.query, "");
    for status in [400, 401, 404, 405] {
        let service = TokenService {
            post_refused: Some(status),
            users: vec![("<token>".into(), "id-s3cret".into())],
            ..private()
        };
        let (server, _) = self::server(service);
        let (options, _) = with_file(folder.path(), &file(&server));
        pull(&with(options, &server.host())).await.unwrap();
        assert_eq!(
            (server.count("POST", "/token"), server.count("GET", "/token")),
            (1, 1),
            "{status}"
        );
    }
}

#[tokio::test]
async fn registry_tokens_go_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (server, service) = server(private());
    let issued = service.answer(
        false,
        &[("scope".into(), "repository:a/b:pull".into())],
        Some(&format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode("user:s3cret")
        )),
    );
    let issued: serde_json::Value = serde_json::from_slice(&issued.body).unwrap();
    let json = json!({"auths": {server.host(): {"registrytoken": issued["token"]}}});
    let (options, _) = with_file(folder.path(), &json);
    let registry = with(options, &server.host());
    pull(&registry).await.unwrap();
    assert_eq!(tokens(&server), 0);
    service.revoke_all();
    assert_eq!(pull(&registry).await.unwrap_err().kind(), Kind::Unauthorized);
}

#[tokio::test]
async fn scopes_say_what_is_needed_and_no_more() {
    let (server, _) = server(private());
    let (registry, _) = user(&server.host());
    pull(&registry).await.unwrap();
    let blob = layer(b"new");
    registry
        .push_blob("c", &blob, &Memory("new".into()), None)
        .await
        .unwrap();
    registry
        .push_blob("d", &blob, &Memory("new".into()), Some("c"))
        .await
        .unwrap();
    let scopes: Vec<Vec<String>> = server
        .requests_of("GET", "/token")
        .iter()
        .map(|request| {
            let url = format!("http://h/?{}", request.query)
                .replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",");
            url.split(['?', '&'])
                .filter_map(|pair| pair.strip_prefix("scope=").map(str::to_owned))
                .collect()
        })
        .collect();
    assert_eq!(scopes[0], ["repository:a/b:pull"]);
    assert_eq!(scopes[1], ["repository:c:pull,push"]);
    assert!(
        scopes.last().unwrap().contains(&"repository:c:pull".to_owned()),
        "{scopes:?}"
    );
    assert!(
        scopes.last().unwrap().contains(&"repository:d:pull,push".to_owned()),
        "{scopes:?}"
    );
}

#[tokio::test]
async fn a_token_server_that_reads_one_scope_gets_the_demanded_one_first() {
    let (server, _) = server(TokenService {
        first_scope_only: true,
        ..private()
    });
    server.store().put_blob("from", "blob");
    let (registry, _) = user(&server.host());
    let pushed = registry
        .push_blob("to", &layer(b"blob"), &Memory("blob".into()), Some("from"))
        .await
        .unwrap();
    assert_eq!(
        pushed,
        Pushed::Uploaded,
        "a mount that is not allowed becomes an upload"
    );
    assert!(server.store().blob("to", &layer(b"blob").digest.to_string()).is_some());
}

#[tokio::test]
async fn a_missing_scope_is_asked_for_once() {
    let demand = Action::Answer(
        support::Canned::error(403, "DENIED", "more is needed").with_header("www-authenticate", r#"Bearer realm="/token",service="double",scope="repository:a/b:pull repository:extra:pull",error="insufficient_scope""#),
    );
    let options = || Options::default().auth(Auth::Bearer(Arc::new(private())));
    let once = Double::start(options().fault(
        When::get("/manifests/").with_header("authorization").first(1),
        demand.clone(),
    ));
    fill(&once);
    pull(&user(&once.host()).0).await.unwrap();
    let wider = once.requests_of("GET", "/token").last().unwrap().query.clone();
    assert!(wider.contains("extra"), "{wider}");
    assert!(
        wider.find("extra").unwrap() < wider.find("a%2Fb").unwrap_or(wider.len()),
        "the new one comes first: {wider}"
    );
    let always = Double::start(options().fault(When::get("/manifests/").with_header("authorization"), demand));
    let error = pull(&user(&always.host()).0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert_eq!(always.count("GET", "/manifests/"), 3, "{}", always.transcript());
}

/// Realms that must not see credentials, whatever the registry says.
#[tokio::test]
async fn realms_that_are_not_to_be_trusted() {
    for (realm, words) in [
        ("file:///etc/passwd", "not http"),
        ("ftp://x/token", "not http"),
        ("https://[::1", "cannot be read"),
    ] {
        let (server, _) = server(TokenService {
            realm: Some(realm.into()),
            ..private()
        });
        let error = pull(&user(&server.host()).0).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Server);
        assert!(error.to_string().contains(words), "{realm}: {error}");
    }
    // User information and a fragment in a realm are left out.
    let (server, service) = server(private());
    let realm = format!("http://evil:pw@{}/token#x", server.host());
    let (other, _) = self::server(TokenService {
        realm: Some(realm),
        ..private()
    });
    let _ = pull(&user(&other.host()).0).await;
    let request = &server.requests_of("GET", "/token")[0];
    assert!(!request.everything().contains("evil"), "{}", request.everything());
    assert_eq!(service.handed_out(), 1, "a token server elsewhere is legitimate");
}

/// Reads every byte that another server got.
fn saw_nothing(other: &Double) {
    for request in other.requests() {
        let text = request.everything().to_lowercase();
        for secret in [
            "authorization",
            "s3cret",
            "secret-token",
            "cookie",
            &base64::engine::general_purpose::STANDARD
                .encode("user:s3cret")
                .to_lowercase(),
        ] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[tokio::test]
async fn a_redirect_target_never_sees_credentials() {
    for auth in [Auth::basic("user", "s3cret"), Auth::Bearer(Arc::new(private()))] {
        let bytes = noise(100_000);
        let blob = layer(&bytes);
        let elsewhere = Double::new();
        elsewhere.store().put_blob("a/b", bytes.clone());
        let server = Double::start(Options::default().auth(auth).fault(
            When::get("/blobs/").with_header("authorization"),
            Action::redirect(307, &format!("{}{{target}}", elsewhere.url())),
        ));
        let (registry, _) = user(&server.host());
        assert_eq!(fetch(&registry, "a/b", &blob).await.unwrap(), bytes);
        assert_eq!(elsewhere.requests().len(), 1);
        saw_nothing(&elsewhere);
        // One that challenges gets no answer to that.
        let curious = Double::start(Options::default().fault(
            When::any(),
            Action::challenge(&[
                &format!(r#"Bearer realm="{}/token""#, elsewhere.url()),
                "Basic realm=\"x\"",
            ]),
        ));
        server.clear_faults();
        server.add_fault(
            When::get("/blobs/").with_header("authorization"),
            Action::redirect(302, &format!("{}{{target}}", curious.url())),
        );
        let error = fetch(&registry, "a/b", &blob).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized);
        saw_nothing(&curious);
        saw_nothing(&elsewhere);
        assert_eq!(curious.requests().len(), 1, "{}", curious.transcript());
    }
}

#[tokio::test]
async fn a_redirect_back_to_the_registry_does_not_bring_them_back() {
    let server = Double::start(Options::default().auth(Auth::basic("user", "s3cret")));
    let other = Double::start(Options::default().fault(
        When::any(),
        Action::redirect(302, &format!("{}/v2/a/b/manifests/1?back", server.url())),
    ));
    fill(&server);
    server.add_fault(
        When::get("/manifests/1").but_not("back").with_header("authorization"),
        Action::redirect(302, &format!("{}/x", other.url())),
    );
    let error = pull(&user(&server.host()).0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(
        server
            .requests_of("GET", "back")
            .iter()
            .all(|request| request.header("authorization").is_empty()),
        "{}",
        server.transcript()
    );
    saw_nothing(&other);
}

#[tokio::test]
async fn a_location_on_another_host_never_sees_credentials() {
    for auth in [Auth::basic("user", "s3cret"), Auth::Bearer(Arc::new(private()))] {
        let elsewhere = Double::new();
        let server = Double::start(Options::default().auth(auth).fault(
            When::post("/blobs/uploads/"),
            Action::Location(LocationForm::Elsewhere(elsewhere.url().to_owned())),
        ));
        let (options, _) = logged_in("user", "s3cret");
        let options = docker_mirror::registry::Options {
            retries: Some(1),
            ..options
        };
        let registry = with(options, &server.host());
        let bytes = noise(1000);
        let _ = registry
            .push_blob("a/b", &layer(&bytes), &Memory(bytes.clone()), None)
            .await;
        assert!(!elsewhere.requests().is_empty(), "the bytes may go there");
        saw_nothing(&elsewhere);
    }
}

#[tokio::test]
async fn a_location_that_challenges_gets_no_answer() {
    let curious = Double::start(Options::default().fault(When::any(), Action::challenge(&["Basic realm=\"x\""])));
    let server = Double::start(Options::default().auth(Auth::basic("user", "s3cret")).fault(
        When::post("/blobs/uploads/"),
        Action::Location(LocationForm::Elsewhere(curious.url().to_owned())),
    ));
    let (registry, _) = user(&server.host());
    let error = registry
        .push_blob("a/b", &layer(b"x"), &Memory("x".into()), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error:?}");
    saw_nothing(&curious);
}

#[tokio::test]
async fn secrets_are_in_no_message() {
    let (server, _) = server(TokenService {
        useless: true,
        ..private()
    });
    let (registry, told) = user(&server.host());
    server.add_fault(
        When::get("/manifests/").with_header("authorization"),
        Action::End(support::End::Reset),
    );
    let error = pull(&registry).await.unwrap_err();
    let text = format!(
        "{error:?} {} {:?} {:?} {registry:?}",
        error.full(),
        error.hint(),
        told.retries()
    );
    assert!(!text.contains("s3cret") && !text.contains("secret-token"), "{text}");
}
