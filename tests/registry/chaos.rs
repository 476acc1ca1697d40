//! Faults that the chaos test found in the program, each on its own against the registry double.

use std::sync::Arc;
use std::time::Duration;

use crate::client::{Memory, client, layer, logged_in, manifest, tag, with};
use crate::support;
use crate::support::auth::TokenService;
use crate::support::fault::{Action, When};
use crate::support::{Auth, Canned, Cli, Double, Options};
use docker_mirror::{Kind, testing::Presence};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn server(options: Options) -> Double {
    let server = Double::start(options);
    let image = manifest(&layer(b"{}"), &[]);
    server
        .store()
        .put_manifest("a/b", Some("1"), TYPE, image.bytes().clone());
    server
}

/// The manifest with one bit flipped: still JSON, and of another digest.
fn hurt() -> Vec<u8> {
    let bytes = manifest(&layer(b"{}"), &[]).bytes().to_vec();
    let at = bytes.windows(13).position(|w| w == b"schemaVersion").unwrap();
    let mut hurt = bytes;
    hurt[at] ^= 1;
    hurt
}

#[tokio::test]
async fn a_manifest_that_was_hurt_on_the_way_is_asked_for_again() {
    for bytes in [hurt(), b"{ no JSON".to_vec(), vec![0xff]] {
        let fault = Action::Body(bytes);
        let server = server(Options::default().fault(When::get("/manifests/1").first(1), fault));
        let (registry, told) = client(&server.host());
        let found = registry.manifest("a/b", &tag("1")).await.unwrap();
        assert_eq!(found.bytes(), manifest(&layer(b"{}"), &[]).bytes());
        assert_eq!(server.count("GET", "/manifests/"), 2, "{}", server.transcript());
        assert!(told.retries()[0].contains("instead of"), "{:?}", told.retries());
    }
}

#[tokio::test]
async fn what_comes_twice_is_what_the_registry_has() {
    let server = server(Options::default().fault(When::get("/manifests/1"), Action::Body(hurt())));
    let (registry, told) = client(&server.host());
    let found = registry.manifest("a/b", &tag("1")).await.unwrap();
    assert_eq!(found.bytes()[..], hurt()[..]);
    assert_eq!(server.count("GET", "/manifests/"), 2, "{}", server.transcript());
    assert!(told.warnings()[0].contains("states digest"), "{:?}", told.warnings());
    // The wrong header of this host is known: no further request and no second warning.
    for _ in 0..3 {
        registry.manifest("a/b", &tag("1")).await.unwrap();
    }
    assert_eq!(server.count("GET", "/manifests/"), 5, "{}", server.transcript());
    assert_eq!(told.warnings().len(), 1, "{:?}", told.warnings());
}

#[tokio::test]
async fn bytes_that_are_others_each_time_are_no_manifest() {
    let mut options = Options::default();
    for n in 1..10 {
        let body = Action::Body(format!("{{\"n\":{n}}}").into_bytes());
        options = options.fault(When::get("/manifests/1").nth(n), body);
    }
    let server = server(options);
    let (registry, _) = client(&server.host());
    let error = registry.manifest("a/b", &tag("1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error:?}");
    assert!(server.count("GET", "/manifests/") <= 6, "{}", server.transcript());
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_not_asked_for_without_a_pause() {
    let server = server(Options::default().fault(When::get("/manifests/1").first(2), Action::cut(20)));
    let (registry, told) = client(&server.host());
    registry.manifest("a/b", &tag("1")).await.unwrap();
    assert_eq!(told.pauses().len(), 2, "{:?}", told.retries());
    assert!(told.pauses().iter().all(|pause| *pause > Duration::ZERO));
}

#[tokio::test]
async fn a_second_token_that_is_as_old_as_the_refused_one_is_not_tried() {
    let service = Arc::new(TokenService {
        users: vec![("user".into(), "s3cret".into())],
        anonymous_pull: false,
        ..TokenService::default()
    });
    let server = server(Options::default().auth(Auth::Bearer(service.clone())));
    let (options, _) = logged_in("user", "s3cret");
    let registry = with(options, &server.host());
    // One token to pull and one to push; both are valid for minutes, as the service states.
    let (blob, other) = (layer(b"{}"), layer(b"[]"));
    assert_eq!(registry.head_blob("a/b", &blob).await.unwrap(), Presence::Missing);
    registry
        .push_blob("a/b", &blob, &Memory("{}".into()), None)
        .await
        .unwrap();
    assert_eq!(service.handed_out(), 2);
    service.revoke_all();
    assert_eq!(
        registry.head_blob("a/b", &other).await.unwrap(),
        Presence::Missing,
        "{}",
        server.transcript()
    );
    assert_eq!(service.handed_out(), 3, "{}", server.transcript());
}

#[tokio::test]
async fn a_token_that_is_used_up_when_a_pause_is_over_is_replaced() {
    let service = Arc::new(TokenService {
        uses: Some(1),
        ..TokenService::default()
    });
    let options = Options::default().auth(Auth::Bearer(service.clone())).fault(
        When::get("/manifests/1").with_header("authorization").first(1),
        Action::Status(503),
    );
    let server = server(options);
    let (registry, _) = client(&server.host());
    registry.manifest("a/b", &tag("1")).await.unwrap();
    assert_eq!(service.handed_out(), 2, "{}", server.transcript());
}

#[tokio::test]
async fn a_gateway_in_trouble_is_not_taken_for_something_else() {
    let mut page = Canned::error(502, "", "").with_header("content-type", "text/html");
    page.body = b"<html><body>502 Bad Gateway</body></html>".to_vec();
    let server = server(Options::default().fault(When::any(), Action::Answer(page)));
    let (registry, _) = client(&server.host());
    let error = registry.manifest("a/b", &tag("1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Server);
    assert!(error.to_string().contains("502"), "{error:?}");
    assert!(error.hint().unwrap().contains("in trouble"), "{:?}", error.hint());
}

#[tokio::test]
async fn a_manifest_that_was_hurt_on_the_way_out_is_put_again() {
    let image = manifest(&layer(b"{}"), &[]);
    let other = support::sha256(b"other");
    for (action, right) in [
        (
            Action::error(400, "DIGEST_INVALID", "did not match uploaded content"),
            1,
        ),
        (Action::Header("docker-content-digest", Some(other)), 1),
        (
            Action::error(400, "DIGEST_INVALID", "did not match uploaded content"),
            9,
        ),
    ] {
        let fault = When::put("/manifests/2").first(right);
        let server = server(Options::default().fault(fault, action));
        server.store().put_blob("a/b", "{}");
        let (registry, _) = client(&server.host());
        let result = registry.put_manifest("a/b", &tag("2"), &image).await;
        assert_eq!(result.is_ok(), right == 1, "{result:?}\n{}", server.transcript());
        let puts = server.count("PUT", "/manifests/2");
        assert!(puts <= 2, "{}", server.transcript());
    }
}

#[test]
fn a_mirror_fetches_a_blob_again_that_was_hurt_on_the_way() {
    let blob = support::images::sized(3, "linux/amd64", &[70_000]);
    let layer = blob.root.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    for (times, code) in [(1, 0), (9, 1)] {
        let source = Double::start(Options::default().fault(When::get(&layer).first(times), Action::FlipBit(5)));
        blob.push(&source, "a/b", "1");
        let target = Double::new();
        let cli = Cli::new(env!("CARGO_BIN_EXE_docker-mirror"));
        let image = format!("{}/a/b:1", source.host());
        cli.run(&["-d", &target.host(), &image, "--retries", "1"])
            .expect_code(code);
        assert_eq!(target.manifest("a/b", "1").is_some(), code == 0);
    }
}
