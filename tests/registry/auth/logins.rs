//! Refused logins, and answers that do not state which login they require: which logins are tried, how often, and the
//! messages.

use super::*;
use crate::support::Canned;

/// Repositories of the tests below, each with the image `1`.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("team/app{number}")).collect()
}

fn fill_all(server: &Double, names: &[String]) {
    let image = manifest(&layer(b"{}"), &[]);
    for name in names {
        let bytes = image.bytes().clone();
        server.store().put_manifest(name, Some("1"), image.media_type(), bytes);
    }
}

/// Returns a client with this entry in a credential file, which may go on without the login.
fn stored(folder: &std::path::Path, server: &Double, entry: &serde_json::Value) -> (Registry, Told) {
    let (mut options, told) = with_file(folder, &json!({"auths": {server.host(): entry}}));
    options.login_is_optional = true;
    (with(options, &server.host()), told)
}

fn stale_entry() -> serde_json::Value {
    json!({"auth": base64::engine::general_purpose::STANDARD.encode("me:expired")})
}

async fn pull_all(registry: &Registry, names: &[String]) -> Vec<Result<(), Error>> {
    let pulls = names
        .iter()
        .map(|name| async move { registry.manifest(name, &tag("1")).await.map(drop) });
    futures_util::future::join_all(pulls).await
}

/// Returns the number of requests with a login, and of requests to the token server without one.
fn shown_and_not(server: &Double) -> (usize, usize) {
    let shown = |entry: &&support::Entry| {
        let header = entry.header("authorization");
        header.starts_with("Basic") || header.contains("stale") || !entry.body.is_empty()
    };
    let requests = server.requests();
    let tokens = server.requests_of("GET", "/token");
    (
        requests.iter().filter(shown).count(),
        tokens
            .iter()
            .filter(|entry| entry.header("authorization").is_empty())
            .count(),
    )
}

#[tokio::test]
async fn public_images_are_pulled_without_a_stale_login_and_it_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    for (entry, who) in [
        (stale_entry(), "user `me`"),
        (json!({"identitytoken": "stale"}), "the identity token"),
        (json!({"registrytoken": "stale"}), "the token"),
    ] {
        let (server, names) = (server(TokenService::default()).0, names(20));
        fill_all(&server, &names);
        let (registry, told) = stored(folder.path(), &server, &entry);
        for result in pull_all(&registry, &names).await {
            result.unwrap();
        }
        let expected = format!(
            "`{}` rejected {who} (login from `{}`); pulling without a login",
            server.host(),
            folder.path().join("config.json").display()
        );
        assert_eq!(told.warnings(), [expected]);
        // An identity token is sent by POST and then by GET; a token for the registry itself is sent with each first
        // request.
        let (shown, without) = shown_and_not(&server);
        assert!(
            shown <= 6 || who == "the token",
            "the login is given up: {}",
            server.transcript()
        );
        assert_eq!(without, 20, "{}", server.transcript());
    }
}

#[tokio::test]
async fn a_wrong_password_is_not_shown_for_each_image() {
    let names = names(20);
    let basic = Double::start(Options::default().auth(Auth::basic("user", "s3cret")));
    let (tokens, _) = server(private());
    for server in [basic, tokens] {
        fill_all(&server, &names);
        let (options, _) = logged_in("user", "wr0ng");
        let registry = with(options, &server.host());
        for result in pull_all(&registry, &names).await {
            let error = result.unwrap_err();
            let expected = format!("`{}` rejected user `user` (login from `--username`)", server.host());
            assert_eq!(error.shared_cause(), Some(expected.as_str()), "{error:?}");
            assert_eq!(error.hint(), Some("check the user name and the password"));
            assert!(!error.full().contains("wr0ng"));
        }
        let (shown, without) = shown_and_not(&server);
        assert_eq!((shown, without), (3, 0), "{}", server.transcript());
    }
}

#[tokio::test]
async fn a_login_that_may_not_read_some_images_is_used_for_the_others() {
    let names = names(12);
    let server = Double::start(Options::default().auth(Auth::basic("user", "s3cret")));
    fill_all(&server, &names);
    for name in &names[..9] {
        if name.ends_with(['2', '5', '8']) {
            continue;
        }
        let refused = Action::challenge(&[r#"Basic realm="x""#]);
        server.add_fault(When::path(&format!("/v2/{name}/")), refused);
    }
    let (options, _) = logged_in("user", "s3cret");
    let registry = with(options, &server.host());
    for name in &names {
        let readable = name.ends_with(['2', '5', '8']) || names[9..].contains(name);
        let result = registry.manifest(name, &tag("1")).await;
        assert_eq!(result.is_ok(), readable, "{name}: {result:?}");
    }
}

#[tokio::test]
async fn a_push_never_goes_on_without_the_login() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = server(TokenService::default());
    let (registry, told) = stored(folder.path(), &server, &stale_entry());
    let blob = layer(b"new");
    let error = registry
        .push_blob("c", &blob, &Memory("new".into()), None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("rejected user `me` (login from `"),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("docker login"), "{error:?}");
    let image = manifest(&blob, &[]);
    let error = registry.put_manifest("c", &tag("1"), &image).await.unwrap_err();
    assert!(error.to_string().contains("rejected user `me`"), "{error:?}");
    assert_eq!(shown_and_not(&server).1, 0, "{}", server.transcript());
    assert!(told.warnings().is_empty());
}

#[tokio::test]
async fn a_login_of_this_run_is_never_left_out() {
    let (server, _) = server(TokenService::default());
    let (mut options, told) = logged_in("me", "expired");
    options.login_is_optional = true;
    let error = pull(&with(options, &server.host())).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("rejected user `me` (login from `--username`)"),
        "{error:?}"
    );
    assert_eq!(shown_and_not(&server).1, 0, "{}", server.transcript());
    assert!(told.warnings().is_empty());
}

#[tokio::test]
async fn a_private_image_fails_with_the_login_that_was_refused() {
    let folder = tempfile::tempdir().unwrap();
    let all_private = TokenService {
        private: vec!["a/b".into()],
        ..TokenService::default()
    };
    let basic = Double::start(Options::default().auth(Auth::basic("user", "s3cret")));
    fill(&basic);
    for server in [server(private()).0, server(all_private).0, basic] {
        let (registry, _) = stored(folder.path(), &server, &stale_entry());
        let error = pull(&registry).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized);
        assert!(
            error.to_string().contains("rejected user `me` (login from `"),
            "{error:?}"
        );
        assert!(error.hint().unwrap().contains("log in again"), "{error:?}");
    }
}

#[tokio::test]
async fn without_credentials_the_error_says_where_they_were_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let basic = Double::start(Options::default().auth(Auth::basic("user", "s3cret")));
    fill(&basic);
    // One token server refuses requests without a login, another issues tokens that are not accepted.
    let (strict, _) = server(private());
    let refusal = Canned::error(401, "UNAUTHORIZED", "who are you?");
    strict.add_fault(When::get("/token"), Action::Answer(refusal));
    for (server, what) in [
        (&basic, "requires a login, and"),
        (&strict, "requires a login, and"),
        (
            &server(private()).0,
            "requires a login for this, or does not have it, and",
        ),
    ] {
        let (options, _) = with_file(folder.path(), &json!({"auths": {"other.example": stale_entry()}}));
        let error = pull(&with(options, &server.host())).await.unwrap_err();
        let expected = format!("`{}` {what} no credentials were found", server.host());
        assert_eq!(error.shared_cause(), Some(expected.as_str()), "{error:?}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("docker login") && hint.contains("looked in `"), "{hint}");
        assert!(hint.contains("config.json") && !hint.contains("refused"), "{hint}");
    }
}

#[tokio::test]
async fn a_user_without_access_is_named() {
    let denied = |status: u16| {
        let canned = Canned::error(status, "DENIED", "requested access to the resource is denied");
        Action::Answer(canned)
    };
    for status in [401, 403] {
        let (server, _) = server(private());
        server.add_fault(When::get("/manifests/").with_header("authorization"), denied(status));
        let (registry, _) = user(&server.host());
        let error = pull(&registry).await.unwrap_err();
        assert!(error.to_string().contains(&status.to_string()), "{error:?}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("user `user` (login from `--username`)"), "{hint}");
    }
}

/// A registry that requires a login only for `private/…`, and refuses every login.
fn half_public() -> Double {
    let challenge = || Action::challenge(&[r#"Basic realm="x""#]);
    let server = Double::start(
        Options::default()
            .fault(When::path("/v2/private/"), challenge())
            .fault(When::path("/v2/").with_header("authorization"), challenge()),
    );
    fill_all(&server, &["private/app".to_owned(), "a/b".to_owned(), "c/d".to_owned()]);
    server
}

#[tokio::test]
async fn a_public_image_beside_a_private_one_needs_no_login() {
    let folder = tempfile::tempdir().unwrap();
    for entry in [stale_entry(), json!({})] {
        let server = half_public();
        let (registry, told) = stored(folder.path(), &server, &entry);
        let private = registry.manifest("private/app", &tag("1")).await.unwrap_err();
        assert_eq!(private.kind(), Kind::Unauthorized);
        for name in ["a/b", "c/d"] {
            registry.manifest(name, &tag("1")).await.unwrap();
        }
        assert_eq!(
            told.warnings().len(),
            usize::from(entry == stale_entry()),
            "{:?}",
            told.warnings()
        );
    }
}

#[tokio::test]
async fn many_tags_of_a_private_repository_hide_no_public_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = half_public();
    let (registry, _) = stored(folder.path(), &server, &json!({}));
    for number in 0..6 {
        let private = registry.manifest("private/app", &tag(&number.to_string())).await;
        assert_eq!(private.unwrap_err().kind(), Kind::Unauthorized);
    }
    registry.manifest("a/b", &tag("1")).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_serves_nothing_without_a_login_is_not_asked_so_for_each_image() {
    let folder = tempfile::tempdir().unwrap();
    let server = Double::start(Options::default().auth(Auth::basic("user", "s3cret")));
    let names = names(20);
    fill_all(&server, &names);
    let (registry, _) = stored(folder.path(), &server, &json!({}));
    for name in &names {
        registry.manifest(name, &tag("1")).await.unwrap_err();
    }
    assert!(server.requests().len() <= 4, "{}", server.transcript());
}

/// A 401 without a challenge, as a failing proxy answers.
fn bare() -> Action {
    Action::Answer(Canned {
        status: 401,
        ..Canned::default()
    })
}

#[tokio::test]
async fn a_bare_401_from_a_host_that_has_answered_is_tried_again() {
    for auth in [
        Auth::Open,
        Auth::bearer("user", "s3cret"),
        Auth::basic("user", "s3cret"),
    ] {
        let server = Double::start(Options::default().auth(auth));
        fill(&server);
        let (registry, told) = user(&server.host());
        pull(&registry).await.unwrap();
        server.add_fault(When::get("/manifests/").first(3), bare());
        pull(&registry).await.unwrap();
        assert!(!told.retries().is_empty(), "{}", server.transcript());
        // For ever is too long.
        server.add_fault(When::get("/manifests/"), bare());
        let error = pull(&registry).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized, "{error:?}");
    }
}

#[tokio::test]
async fn a_host_that_answers_first_with_a_bare_401_is_believed() {
    let server = Double::start(Options::default().fault(When::any(), bare()));
    let (registry, told) = client(&server.host());
    let error = pull(&registry).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error:?}");
    assert!(told.retries().is_empty(), "{:?}", told.retries());
}

#[tokio::test]
async fn the_question_for_the_challenge_is_tried_again() {
    for trouble in [
        Action::status(503),
        Action::End(support::End::Close),
        Action::End(support::End::Reset),
    ] {
        let (server, _) = server(private());
        // The registry challenges on its root alone.
        server.add_fault(When::get("/manifests/").without_header("authorization"), bare());
        server.add_fault(
            When::get("/v2/").but_not("/manifests/").but_not("/blobs/").first(2),
            trouble,
        );
        let (registry, told) = user(&server.host());
        pull(&registry).await.unwrap();
        assert_eq!(told.retries().len(), 2, "{:?}", told.retries());
    }
}

#[tokio::test]
async fn an_upload_goes_on_after_a_bare_401() {
    for auth in [Auth::Open, Auth::bearer("user", "s3cret")] {
        let server = Double::start(Options::default().auth(auth));
        fill(&server);
        let (registry, _) = user(&server.host());
        pull(&registry).await.unwrap();
        server.add_fault(When::put("/blobs/uploads/").first(1), bare());
        server.add_fault(When::patch("/blobs/uploads/").first(1), bare());
        let bytes = noise(1 << 20);
        let blob = layer(&bytes);
        registry
            .push_blob("a/b", &blob, &Memory(bytes.clone()), None)
            .await
            .unwrap();
        assert!(server.store().blob("a/b", &blob.digest.to_string()).is_some());
    }
}
