//! No other server ever sees a credential: every byte that another server received is checked.

use super::*;

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
        let options = docker_mirror::Options {
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
