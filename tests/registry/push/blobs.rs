//! Uploads of blobs: requests, digests, mounts, refusals.

use super::client::{Broken, Memory, client, fetch, layer, manifest, noise, tag};
use super::support::fault::{Action, Canned, LocationForm, When};
use super::support::{Double, End, Options};
use super::{pushed, refused, upload};
use bytes::Bytes;
use docker_mirror::{
    Kind,
    testing::{Algorithm, Descriptor, Hasher, Presence, Pushed},
};

#[tokio::test]
async fn what_is_pushed_can_be_pulled() {
    let server = Double::new();
    let (registry, told) = client(&server.host());
    let bytes = noise(3_000_000);
    let (config, blob) = (layer(b"{}"), layer(&bytes));
    assert_eq!(registry.head_blob("a/b", &blob).await.unwrap(), Presence::Missing);
    assert_eq!(
        registry
            .push_blob("a/b", &blob, &Memory(bytes.clone()), None)
            .await
            .unwrap(),
        Pushed::Uploaded
    );
    registry
        .push_blob("a/b", &config, &Memory("{}".into()), None)
        .await
        .unwrap();
    assert_eq!(registry.head_blob("a/b", &blob).await.unwrap(), Presence::Present(()));
    assert_eq!(
        registry
            .push_blob("c", &blob, &Memory(bytes.clone()), Some("a/b"))
            .await
            .unwrap(),
        Pushed::Mounted
    );
    let image = manifest(&config, std::slice::from_ref(&blob));
    registry.put_manifest("a/b", &tag("1"), &image).await.unwrap();
    let back = registry.manifest("a/b", &tag("1")).await.unwrap();
    assert_eq!(back.bytes(), image.bytes());
    assert_eq!(fetch(&registry, "a/b", &blob).await.unwrap(), bytes);
    assert_eq!(registry.small_blob("a/b", &config).await.unwrap(), "{}");
    assert_eq!(told.retries(), Vec::<String>::new());
    // Each blob: POST and PUT; nothing is asked twice.
    assert_eq!(server.count("POST", "/blobs/uploads/"), 3, "{}", server.transcript());
    assert_eq!(server.count("PUT", "/blobs/uploads/"), 2, "{}", server.transcript());
    assert_eq!(server.count("PATCH", ""), 0, "{}", server.transcript());
}

#[tokio::test]
async fn an_upload_is_a_post_without_a_body_and_a_put_of_known_length() {
    let (server, _) = pushed(Options::default(), 100_000).await;
    let [post, put, head] = &server.requests()[..] else {
        panic!("{}", server.transcript())
    };
    assert_eq!(
        (post.method.as_str(), post.header("content-length").as_str()),
        ("POST", "0")
    );
    assert_eq!(
        (put.method.as_str(), put.header("content-length").as_str()),
        ("PUT", "100000")
    );
    assert_eq!(put.header("content-type"), "application/octet-stream");
    assert_eq!(head.method, "HEAD", "the first upload at a host is looked for");
    for absent in ["content-range", "transfer-encoding", "expect"] {
        assert_eq!(put.header(absent), "", "{absent}");
    }
}

#[tokio::test]
async fn the_smallest_blobs() {
    pushed(Options::default(), 0).await;
    pushed(Options::default(), 1).await;
    for len in [0, 1] {
        let options = Options::default().fault(upload("PUT").first(1), Action::status(405));
        let (server, _) = pushed(options, len).await;
        assert_eq!(server.count("PATCH", ""), len, "{}", server.transcript());
    }
}

#[tokio::test]
async fn a_corrupt_blob_never_becomes_an_upload() {
    for patch in [false, true] {
        let mut options = Options::default();
        if patch {
            options = options.fault(upload("PUT").first(1), Action::status(405));
        }
        let server = Double::start(options);
        let (registry, _) = client(&server.host());
        if patch {
            registry
                .push_blob("x", &layer(b"x"), &Memory("x".into()), None)
                .await
                .unwrap();
            assert_eq!(server.count("PATCH", ""), 1, "the second strategy is remembered");
            server.forget_requests();
        }
        let bytes = noise(2_000_000);
        let blob = layer(&bytes);
        let mut edited = bytes.to_vec();
        edited[1_000_000] ^= 1;
        let error = registry
            .push_blob("a/b", &blob, &Memory(edited.into()), None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error:?}");
        assert!(error.full().contains(&blob.digest.to_string()), "{error:?}");
        let short = registry
            .push_blob("a/b", &blob, &Memory(bytes.slice(..1_999_999)), None)
            .await
            .unwrap_err();
        assert_eq!(short.kind(), Kind::Integrity, "{short:?}");
        let fire = registry
            .push_blob("a/b", &blob, &Broken(bytes.clone(), 500_000), None)
            .await
            .unwrap_err();
        assert_eq!(fire.kind(), Kind::Io, "the source's own error comes through: {fire:?}");
        assert!(server.store().blob("a/b", &blob.digest.to_string()).is_none());
        let finished = server
            .requests_of("PUT", "/blobs/uploads/")
            .into_iter()
            .filter(|put| put.status == 201)
            .count();
        assert_eq!(finished, 0, "{}", server.transcript());
        assert_eq!(
            server.count("POST", ""),
            3,
            "a corrupt source is not tried again: {}",
            server.transcript()
        );
        let all: Vec<_> = server
            .requests()
            .iter()
            .filter(|request| request.bytes_in >= 2_000_000)
            .map(|r| r.bytes_in)
            .collect();
        assert_eq!(all, Vec::<u64>::new(), "the last bytes never left");
    }
}

#[tokio::test]
async fn mounts() {
    let bytes = noise(1000);
    let blob = layer(&bytes);
    // Refused in any way: an ordinary upload.
    for (name, action) in [
        ("ignored", Action::IgnoreMount),
        ("401", Action::error(401, "UNAUTHORIZED", "no")),
        ("404", Action::error(404, "NAME_UNKNOWN", "no")),
        ("405", Action::status(405)),
        ("500", Action::status(500)),
        ("closed", Action::End(End::Close)),
    ] {
        let server = Double::start(Options::default().fault(When::post("mount="), action));
        server.store().put_blob("from/here", bytes.clone());
        let (registry, _) = client(&server.host());
        let pushed = registry
            .push_blob("to", &blob, &Memory(bytes.clone()), Some("from/here"))
            .await;
        assert_eq!(pushed.map_err(|e| e.full()), Ok(Pushed::Uploaded), "{name}");
        assert!(server.store().blob("to", &blob.digest.to_string()).is_some(), "{name}");
        let expected = if name == "ignored" { 1 } else { 2 };
        assert_eq!(server.count("POST", ""), expected, "{name}: {}", server.transcript());
        assert_eq!(server.store().open_uploads(), 0, "{name}: no session is left behind");
    }
    let server = Double::new();
    let (registry, _) = client(&server.host());
    registry
        .push_blob("same", &blob, &Memory(bytes.clone()), Some("same"))
        .await
        .unwrap();
    assert_eq!(server.count("POST", "mount="), 0, "nothing is mounted onto itself");
    assert_eq!(server.count("POST", "mount"), 0);
}

#[tokio::test]
async fn sha512_is_asked_for_by_name() {
    let server = Double::new();
    let (registry, _) = client(&server.host());
    let bytes = Bytes::from_static(b"hello");
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&bytes);
    let blob = Descriptor {
        digest: hasher.finish(),
        ..layer(&bytes)
    };
    registry
        .push_blob("a", &blob, &Memory(bytes.clone()), None)
        .await
        .unwrap();
    assert_eq!(
        server.count("POST", "digest-algorithm=sha512"),
        1,
        "{}",
        server.transcript()
    );
    assert!(server.store().blob("a", &blob.digest.to_string()).is_some());
}

#[tokio::test]
async fn refusals_are_final_and_have_the_registrys_words() {
    for (status, code, kind) in [
        (403, "DENIED", Kind::Denied),
        (404, "NAME_UNKNOWN", Kind::NotFound),
        (400, "NAME_INVALID", Kind::Server),
    ] {
        let (server, error) = refused(
            Options::default().fault(upload("POST"), Action::error(status, code, "because")),
            10,
        )
        .await;
        assert_eq!(error.kind(), kind);
        assert!(
            error.full().contains(code) && error.full().contains("because"),
            "{error:?}"
        );
        assert!(error.to_string().contains("a/b"), "{error:?}");
        assert_eq!(server.requests().len(), 1, "{}", server.transcript());
    }
}

#[tokio::test]
async fn a_server_that_says_yes_to_everything_is_found_out() {
    for (name, fault) in [
        ("POST", (upload("POST"), Action::status(201))),
        ("a page for the POST", (upload("POST"), Action::html())),
        ("PUT", (upload("PUT"), Action::status(200))),
        ("a page for the PUT", (upload("PUT"), Action::html())),
    ] {
        let (_, error) = refused(Options::default().fault(fault.0, fault.1), 1000).await;
        assert_eq!(error.kind(), Kind::Server, "{name}: {error:?}");
    }
    // One that says it in its own way and has the blob is believed.
    for status in [200, 202, 204] {
        pushed(Options::default().fault(upload("PUT"), Action::Status(status)), 1000).await;
    }
    for status in [200, 201, 204] {
        let options = Options::default()
            .fault(upload("PUT").first(1), Action::status(405))
            .fault(upload("PATCH"), Action::Status(status));
        pushed(options, 1000).await;
    }
}

#[tokio::test]
async fn locations_in_every_form() {
    for form in [
        LocationForm::Path,
        LocationForm::Absolute,
        LocationForm::NoScheme,
        LocationForm::Relative,
    ] {
        pushed(
            Options::default().fault(When::path("/blobs/uploads/"), Action::Location(form.clone())),
            1000,
        )
        .await;
        let chunked = Options::default()
            .fault(upload("PUT").first(1), Action::status(405))
            .fault(When::path("/blobs/uploads/"), Action::Location(form));
        pushed(chunked, 1000).await;
    }
    let (_, error) = refused(
        Options::default().fault(upload("POST"), Action::Location(LocationForm::Absent)),
        1000,
    )
    .await;
    assert_eq!(error.kind(), Kind::Server);
    assert!(error.to_string().contains("without saying where"), "{error}");
}

#[tokio::test]
async fn redirects_of_uploads() {
    // 307 and 308 carry the body along.
    for status in [307, 308] {
        let server = Double::start(Options::default().fault(
            upload("PUT").but_not("again").first(1),
            Action::Answer(Canned {
                status,
                headers: vec![("location".into(), "{target}&again=1".into())],
                body: vec![],
            }),
        ));
        let (registry, _) = client(&server.host());
        let bytes = noise(100_000);
        registry
            .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
            .await
            .unwrap();
        assert_eq!(server.count("PUT", "again=1"), 1, "{}", server.transcript());
    }
    // Other redirects would turn it into a GET.
    for status in [301, 302, 303] {
        for method in ["POST", "PUT"] {
            let (_, error) = refused(
                Options::default().fault(
                    upload(method),
                    Action::redirect(status, "https://other.example{target}"),
                ),
                1000,
            )
            .await;
            assert_eq!(error.kind(), Kind::Server, "{error:?}");
            assert!(
                error
                    .to_string()
                    .contains("https://other.example/v2/a/b/blobs/uploads/"),
                "{error}"
            );
            assert!(!error.full().contains("secret%2B"), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_registry_that_states_another_digest_is_at_fault_itself() {
    let other = format!("sha256:{}", "a".repeat(64));
    let altered = Action::Header("docker-content-digest", Some(other.clone()));
    let server = Double::start(Options::default().fault(upload("PUT"), altered));
    let (registry, _) = client(&server.host());
    let bytes = noise(1000);
    let result = registry
        .push_blob("a/b", &layer(&bytes), &Memory(bytes.clone()), None)
        .await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Server, "{error:?}");
    assert!(
        error.full().contains(&other) && error.full().contains("a/b"),
        "{error:?}"
    );
    assert!(error.hint().is_some());
}
