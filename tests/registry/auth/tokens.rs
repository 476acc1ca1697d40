//! Tokens: how they are asked for, how long they are used, and for what.

use super::*;

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

/// Answers of a token server without a token: an error that names the server, and no retry.
#[tokio::test]
async fn answers_of_token_servers_that_are_none() {
    for (name, action, kind) in [
        ("a web page", Action::html(), Kind::Server),
        ("nothing", Action::Body(Vec::new()), Kind::Server),
        ("compressed", Action::Body(vec![0x1f, 0x8b, 8, 0, 0, 0]), Kind::Server),
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
        ("gone", Action::status(404), Kind::Server),
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
async fn a_crowd_that_comes_before_the_challenge_waits_for_one_token_too() {
    let (server, service) = server(private());
    let (registry, _) = user(&server.host());
    let crowd = (0..20).map(|_| pull(&registry));
    for result in futures_util::future::join_all(crowd).await {
        result.unwrap();
    }
    assert_eq!(tokens(&server), 1, "{}", server.transcript());
    // And one more when it is revoked under all of them.
    service.revoke_all();
    let crowd = (0..20).map(|_| pull(&registry));
    for result in futures_util::future::join_all(crowd).await {
        result.unwrap();
    }
    assert_eq!(tokens(&server), 2, "{}", server.transcript());
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

/// A registry that accepts a little more each time and then requires another token does not get an endless upload.
#[tokio::test]
async fn an_upload_that_is_refused_again_and_again_comes_to_an_end() {
    let mut options = Options::default().auth(Auth::Bearer(Arc::new(private()))).fault(
        When::path("/blobs/uploads/")
            .with_header("content-type")
            .but_not("uploads/?"),
        Action::challenge(&[r#"Bearer realm="/token",service="double",error="invalid_token""#]),
    );
    for n in 1..=60 {
        let kept = Action::Header("range", Some(format!("0-{n}")));
        options = options.fault(When::get("/blobs/uploads/").nth(n), kept);
    }
    let server = Double::start(options);
    let (registry, _) = user(&server.host());
    let bytes = noise(1 << 20);
    let error = registry
        .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error:?}");
    assert!(server.count("GET", "/blobs/uploads/") > 5, "{}", server.transcript());
    assert!(server.count("GET", "/blobs/uploads/") < 15, "{}", server.transcript());
}
