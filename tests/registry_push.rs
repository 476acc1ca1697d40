//! The writing half of the registry client against the registry double: uploads by every rung of the ladder, mounts,
//! resume, locations, manifests.

mod client;
mod support;

use std::time::Duration;

use bytes::Bytes;
use client::{Broken, Memory, by_digest, client, fetch, index, layer, manifest, noise, options, tag, with};
use docker_mirror::error::Kind;
use docker_mirror::image::descriptor::Descriptor;
use docker_mirror::image::digest::{Algorithm, Hasher};
use docker_mirror::registry::{Presence, Pushed, Refusal};
use support::fault::{Action, Canned, LocationForm, When};
use support::{Double, End, Immutable, Options};

fn upload(method: &str) -> When {
    When::method(method, "/blobs/uploads/")
}

/// Pushes one blob of this length to a server with these faults, and checks that it is there.
async fn pushed(options: Options, len: usize) -> (Double, client::Told) {
    let server = Double::start(options);
    let (registry, told) = client(&server.host());
    let bytes = noise(len);
    let blob = layer(&bytes);
    let result = registry.push_blob("a/b", &blob, &Memory(bytes.clone()), None).await;
    assert_eq!(
        result.map_err(|e| e.full()),
        Ok(Pushed::Uploaded),
        "{}",
        server.transcript()
    );
    let stored = server
        .store()
        .blob("a/b", &blob.digest.to_string())
        .map(|content| content.all());
    assert!(stored == Some(bytes), "{}", server.transcript());
    (server, told)
}

/// The same where the push has to fail; nothing may be stored then.
async fn refused(options: Options, len: usize) -> (Double, docker_mirror::error::Error) {
    let server = Double::start(options);
    let (registry, _) = client(&server.host());
    let bytes = noise(len);
    let blob = layer(&bytes);
    let error = registry
        .push_blob("a/b", &blob, &Memory(bytes), None)
        .await
        .expect_err("the push was to fail");
    assert!(
        server.store().blob("a/b", &blob.digest.to_string()).is_none(),
        "{}",
        server.transcript()
    );
    (server, error)
}

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
    let [post, put] = &server.requests()[..] else {
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
            assert_eq!(server.count("PATCH", ""), 1, "the second rung is remembered");
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

/// Registries that refuse one PUT with the whole body, and how each is served in the end.
#[tokio::test]
async fn the_ladder_is_climbed_and_remembered() {
    for status in [404, 405, 411, 501] {
        // Only a PUT with a body is refused; the closing PUT is not the first one.
        let options = Options::default().fault(upload("PUT").first(1), Action::status(status));
        let server = Double::start(options);
        let (registry, _) = client(&server.host());
        for n in 0..3_usize {
            let bytes = noise(300_000 + n);
            registry
                .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
                .await
                .unwrap();
            assert!(server.store().blob("a", &layer(&bytes).digest.to_string()).is_some());
        }
        let patches = server.requests_of("PATCH", "");
        assert_eq!(patches.len(), 3, "{status}: {}", server.transcript());
        assert!(
            patches.iter().all(|patch| patch.header("content-range").is_empty()),
            "{status}"
        );
        assert_eq!(
            server.count("PUT", ""),
            4,
            "one refusal, three ends: {}",
            server.transcript()
        );
    }
}

#[tokio::test]
async fn chunks_have_ranges_that_meet() {
    let options = Options {
        max_chunk: Some(4 << 20),
        ..Options::default()
    }
    .fault(upload("PUT").first(1), Action::status(405));
    // The second rung is refused with 416, as registries with a limit on chunks do.
    let (server, _) = pushed(
        options.fault(upload("PATCH").without_header("content-range"), Action::status(405)),
        10 << 20,
    )
    .await;
    let ranges: Vec<_> = server
        .requests_of("PATCH", "")
        .iter()
        .filter(|p| p.status == 202)
        .map(|p| p.header("content-range"))
        .collect();
    assert_eq!(
        ranges,
        ["0-4194303", "4194304-8388607", "8388608-10485759"],
        "{}",
        server.transcript()
    );
}

#[tokio::test]
async fn a_stated_minimum_is_honoured() {
    let options = Options {
        min_chunk: Some(5 << 20),
        ..Options::default()
    }
    .fault(upload("PUT").first(1), Action::status(405))
    .fault(upload("PATCH").without_header("content-range"), Action::status(405));
    let (server, _) = pushed(options, 12 << 20).await;
    let ranges: Vec<_> = server
        .requests_of("PATCH", "")
        .iter()
        .filter(|p| p.status == 202)
        .map(|p| p.header("content-range"))
        .collect();
    assert_eq!(
        ranges,
        ["0-5242879", "5242880-10485759", "10485760-12582911"],
        "{}",
        server.transcript()
    );
}

#[tokio::test]
async fn a_limit_on_bodies_is_found_and_remembered_by_size() {
    let server = Double::start(Options {
        max_body: Some(1 << 20),
        ..Options::default()
    });
    let (registry, _) = client(&server.host());
    let bytes = noise(5 << 20);
    registry
        .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
        .await
        .unwrap();
    assert!(server.store().blob("a", &layer(&bytes).digest.to_string()).is_some());
    server.forget_requests();
    let small = noise(1000);
    registry
        .push_blob("a", &layer(&small), &Memory(small.clone()), None)
        .await
        .unwrap();
    assert_eq!(
        (server.count("PUT", ""), server.count("PATCH", "")),
        (1, 0),
        "small blobs still go the cheap way"
    );
    server.forget_requests();
    let other = noise((5 << 20) + 1);
    registry
        .push_blob("a", &layer(&other), &Memory(other.clone()), None)
        .await
        .unwrap();
    assert!(
        server.requests().iter().all(|request| request.status != 413),
        "{}",
        server.transcript()
    );
}

#[tokio::test]
async fn a_limit_below_any_use_is_an_error_that_says_so() {
    let (_, error) = refused(
        Options {
            max_body: Some(1000),
            ..Options::default()
        },
        1 << 20,
    )
    .await;
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.full().contains("413"), "{error:?}");
    assert!(error.hint().unwrap().contains("1048576"), "{error:?}");
}

/// Uploads that break in the middle go on from the offset that the registry states.
#[tokio::test]
async fn broken_uploads_go_on_where_they_broke() {
    for end in [End::Close, End::Reset] {
        let options = Options::default().fault(upload("PUT").first(1), Action::CutRequest(3 << 20, end));
        let (server, told) = pushed(options, 8 << 20).await;
        assert_eq!(told.retries().len(), 1, "{end:?}: {:?}", told.retries());
        let patch = &server.requests_of("PATCH", "")[0];
        assert_eq!(
            patch.header("content-range"),
            format!("{}-{}", 3 << 20, (8 << 20) - 1),
            "{end:?}"
        );
        assert_eq!(patch.bytes_in, 5 << 20, "what was there is not sent again");
    }
}

#[tokio::test]
async fn progress_renews_patience() {
    // Eight breaks with bytes kept between them, where five without any would be the end.
    let options = Options::default()
        .fault(upload("PUT").first(1), Action::CutRequest(2 << 20, End::Close))
        .fault(upload("PATCH").first(7), Action::CutRequest(2 << 20, End::Close));
    let (server, told) = pushed(options, 20 << 20).await;
    assert_eq!(told.retries().len(), 8, "{:?}", told.retries());
    let sent: u64 = server.requests().iter().map(|request| request.bytes_in).sum();
    assert_eq!(sent, 20 << 20, "no byte twice: {}", server.transcript());
    let hopeless = Options::default().fault(
        When::path("/blobs/uploads/")
            .but_not("uploads/?")
            .with_header("content-type"),
        Action::CutRequest(1000, End::Close),
    );
    let (_, error) = refused(hopeless, 4 << 20).await;
    assert_eq!(error.kind(), Kind::Network, "{error:?}");
}

#[tokio::test]
async fn an_offset_that_says_nothing_starts_anew() {
    let options = Options::default()
        .fault(upload("PUT").first(1), Action::CutRequest(3 << 20, End::Close))
        .fault(upload("GET"), Action::ZeroStatus);
    let (server, _) = pushed(options, 4 << 20).await;
    assert_eq!(server.count("POST", ""), 2, "{}", server.transcript());
    assert_eq!(server.requests_of("PUT", "").last().unwrap().bytes_in, 4 << 20);
}

/// What the status of a broken upload may say without being believed.
#[tokio::test]
async fn an_offset_that_cannot_be_is_not_believed() {
    for (name, action) in [
        ("more than was sent", Action::Header("range", Some("0-99999999".into()))),
        ("absent", Action::Header("range", None)),
        ("not from the start", Action::Header("range", Some("5-100".into()))),
        ("nonsense", Action::Header("range", Some("bytes".into()))),
        ("session gone", Action::error(404, "BLOB_UPLOAD_UNKNOWN", "gone")),
    ] {
        let options = Options::default()
            .fault(upload("PUT").first(1), Action::CutRequest(1 << 20, End::Close))
            .fault(upload("GET"), action);
        let (server, _) = pushed(options, 2 << 20).await;
        assert_eq!(server.count("POST", ""), 2, "{name}: {}", server.transcript());
    }
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_found() {
    let options = Options::default().fault(upload("PUT").first(1), Action::Status(503));
    let (server, _) = pushed(options, 1 << 20).await;
    assert_eq!(server.count("PUT", ""), 1, "the blob is there: {}", server.transcript());
}

#[tokio::test]
async fn bursts_of_errors_are_waited_out() {
    for status in [408, 429, 499, 500, 502, 503, 504, 522] {
        let options = Options::default()
            .fault(upload("POST").first(2), Action::status(status))
            .fault(upload("PUT").first(2), Action::status(status));
        let (_, told) = pushed(options, 100_000).await;
        assert!(told.retries().len() >= 4, "{status}: {:?}", told.retries());
        assert!(
            told.retries()[0].contains(&status.to_string()),
            "{status}: {:?}",
            told.retries()
        );
    }
    let (server, error) = refused(Options::default().fault(upload("POST"), Action::status(503)), 10).await;
    assert_eq!(error.kind(), Kind::Server);
    assert_eq!(server.requests().len(), 6, "five repetitions");
}

#[tokio::test]
async fn a_throttled_chunk_goes_on_in_its_session() {
    let options = Options::default()
        .fault(upload("PUT").first(1), Action::status(405))
        .fault(upload("PATCH").without_header("content-range"), Action::status(405))
        .fault(
            upload("PATCH").with_header("content-range").nth(2),
            Action::Answer(Canned::error(429, "TOOMANYREQUESTS", "slow down").with_header("retry-after", "1")),
        );
    let (server, told) = pushed(options, 10 << 20).await;
    assert!(told.pauses().contains(&Duration::from_secs(1)), "{:?}", told.pauses());
    assert_eq!(
        server.count("POST", ""),
        3,
        "one session for each rung: {}",
        server.transcript()
    );
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
    // The others would turn it into a GET.
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
async fn a_stalled_upload_is_given_up() {
    let server = Double::start(Options::default().fault(upload("PUT").first(1), Action::CutRequest(1000, End::Stall)));
    let (mut options, told) = options();
    options.stall_timeout = Some(Duration::from_millis(300));
    options.header_timeout = Some(Duration::from_millis(600));
    let registry = with(options, &server.host());
    let bytes = noise(30 << 20);
    registry
        .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
        .await
        .unwrap();
    assert!(told.retries()[0].contains("took no byte"), "{:?}", told.retries());
}

#[tokio::test]
async fn manifests_go_out_as_they_are() {
    let server = Double::new();
    let (registry, _) = client(&server.host());
    let config = layer(b"{}");
    registry
        .push_blob("a", &config, &Memory("{}".into()), None)
        .await
        .unwrap();
    let image = manifest(&config, &[]);
    registry.put_manifest("a", &by_digest(&image), &image).await.unwrap();
    registry.put_manifest("a", &tag("1"), &image).await.unwrap();
    let put = &server.requests_of("PUT", "/manifests/1")[0];
    assert_eq!(put.header("content-type"), image.media_type());
    assert_eq!(put.body, image.bytes()[..]);
}

/// Refusals of a manifest, and what the caller is told to do with each.
#[tokio::test]
async fn refused_manifests_are_sorted() {
    let config = layer(b"{}");
    let image = manifest(&config, &[]);
    let list = index(&[image.descriptor()]);
    for (name, document, action, kind) in [
        (
            "immutable tag",
            &image,
            Action::error(400, "TAG_INVALID", "immutable"),
            Kind::Exists,
        ),
        (
            "immutable tag, otherwise",
            &image,
            Action::error(409, "DENIED", "tag is immutable"),
            Kind::Exists,
        ),
        (
            "quota",
            &image,
            Action::error(403, "DENIED", "quota exceeded"),
            Kind::Denied,
        ),
        ("denied", &image, Action::error(403, "DENIED", "no"), Kind::Denied),
        ("too large", &image, Action::status(413), Kind::Unsupported),
        ("type", &image, Action::status(415), Kind::Unsupported),
        (
            "type, otherwise",
            &image,
            Action::error(400, "MANIFEST_INVALID", "unknown media type"),
            Kind::Unsupported,
        ),
        (
            "repository",
            &image,
            Action::error(404, "NAME_UNKNOWN", "create it"),
            Kind::NotFound,
        ),
        (
            "lost blob",
            &image,
            Action::error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown"),
            Kind::NotFound,
        ),
        (
            "sparse",
            &list,
            Action::error(400, "MANIFEST_BLOB_UNKNOWN", "child"),
            Kind::Unsupported,
        ),
        (
            "sparse, otherwise",
            &list,
            Action::error(400, "MANIFEST_INVALID", "child"),
            Kind::Unsupported,
        ),
        ("sparse, without words", &list, Action::status(404), Kind::Unsupported),
        ("a page", &image, Action::html(), Kind::Server),
        (
            "a redirect",
            &image,
            Action::redirect(302, "https://elsewhere.example/"),
            Kind::Server,
        ),
    ] {
        let server = Double::start(
            Options {
                accept_sparse: true,
                ..Options::default()
            }
            .fault(When::put("/manifests/"), action),
        );
        server.store().put_blob("a", "{}");
        let (registry, _) = client(&server.host());
        let error = registry.put_manifest("a", &tag("1"), document).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error:?}");
        assert_eq!(server.count("PUT", ""), 1, "{name} is final");
    }
}

#[tokio::test]
async fn a_registry_that_alters_a_manifest_is_told_of() {
    let altered = Action::Header("docker-content-digest", Some(format!("sha256:{}", "0".repeat(64))));
    let server = Double::start(Options::default().fault(When::path("/manifests/"), altered));
    server.store().put_blob("a", "{}");
    let (registry, _) = client(&server.host());
    let image = manifest(&layer(b"{}"), &[]);
    let error = registry.put_manifest("a", &tag("1"), &image).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error:?}");
    // It may have been hurt on the way; twice it has not.
    assert_eq!(server.count("PUT", ""), 2, "{}", server.transcript());
}

#[tokio::test]
async fn a_missing_blob_is_named() {
    let server = Double::new();
    let (registry, _) = client(&server.host());
    let blob = layer(b"missing");
    let image = manifest(&layer(b"{}"), std::slice::from_ref(&blob));
    server.store().put_blob("a", "{}");
    let error = registry.put_manifest("a", &tag("1"), &image).await.unwrap_err();
    let refusal = Refusal::of(&error).unwrap();
    assert!(refusal.has("MANIFEST_BLOB_UNKNOWN"), "{error:?}");
    assert_eq!(refusal.digests, [blob.digest]);
}

#[tokio::test]
async fn immutable_tags() {
    let server = Double::start(Options {
        immutable_tags: Some(Immutable::Any),
        ..Options::default()
    });
    let (registry, _) = client(&server.host());
    server.store().put_blob("a", "{}");
    let image = manifest(&layer(b"{}"), &[]);
    registry.put_manifest("a", &tag("1"), &image).await.unwrap();
    assert_eq!(
        registry.put_manifest("a", &tag("1"), &image).await.unwrap_err().kind(),
        Kind::Exists
    );
}

#[tokio::test]
async fn a_manifest_whose_answer_was_lost_is_not_put_twice() {
    let server = Double::start(
        Options {
            immutable_tags: Some(Immutable::Any),
            ..Options::default()
        }
        .fault(When::put("/manifests/").first(1), Action::Status(502)),
    );
    let (registry, _) = client(&server.host());
    server.store().put_blob("a", "{}");
    let image = manifest(&layer(b"{}"), &[]);
    registry.put_manifest("a", &tag("1"), &image).await.unwrap();
    assert_eq!(server.count("PUT", ""), 1, "{}", server.transcript());
    for status in [500, 503, 429] {
        let server = Double::start(Options::default().fault(When::put("/manifests/").first(2), Action::status(status)));
        server.store().put_blob("a", "{}");
        let (registry, _) = client(&server.host());
        registry.put_manifest("a", &tag("1"), &image).await.unwrap();
        assert_eq!(server.count("PUT", ""), 3, "{}", server.transcript());
    }
}
