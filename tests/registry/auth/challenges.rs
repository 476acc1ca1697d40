//! Which challenges are answered, and how.

use super::*;

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
        (&["Negotiate"][..], "asks for Negotiate, which is not supported"),
        (&["Bearer service=\"x\""], "where to get one (`realm`)"),
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

/// Realms that must not see credentials, whatever the registry says.
#[tokio::test]
async fn realms_that_are_not_to_be_trusted() {
    for (realm, words) in [
        ("file:///etc/passwd", "not http"),
        ("ftp://x/token", "not http"),
        ("https://[::1", "cannot be read"),
        (
            "127.0.0.1:1/token",
            "`127.0.0.1:1/token` for a token, which is no address",
        ),
        ("'https://x/token'", "no address"),
        ("registry", "no address"),
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
