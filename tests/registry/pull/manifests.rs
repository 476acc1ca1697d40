//! Manifests, their cache, and the quota that they count against.

use super::*;

#[tokio::test]
async fn a_manifest_is_read_in_one_request_as_it_is() {
    let (server, digest, bytes) = with_image(Options::default());
    let (registry, told) = client(&server.host());
    let found = registry.manifest("a/b", &tag("1")).await.unwrap();
    assert_eq!((found.bytes(), found.digest()), (&bytes, &digest));
    assert_eq!(server.requests().len(), 1, "{}", server.transcript());
    let request = &server.requests()[0];
    assert_eq!(request.headers.get_all("accept").iter().count(), 1);
    for media_type in [
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "manifest.list.v2",
        "manifest.v2",
        "manifest.v1+prettyjws",
    ] {
        assert!(request.header("accept").contains(media_type), "{media_type}");
    }
    assert_eq!(request.header("accept-encoding"), "identity");
    assert!(request.header("user-agent").starts_with("docker-mirror/"));
    let Presence::Present(head) = registry.head_manifest("a/b", &tag("1")).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        (head.digest, head.media_type.as_deref(), head.size),
        (Some(digest), Some(TYPE), Some(bytes.len() as u64))
    );
    assert!(told.warnings().is_empty());
}

#[tokio::test]
async fn a_small_answer_that_decodes_to_a_huge_one_is_called_too_large() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut gzip, &vec![b' '; 40 << 20]).unwrap();
    let bomb = Canned {
        status: 200,
        headers: vec![
            ("content-type".into(), TYPE.into()),
            ("content-encoding".into(), "gzip".into()),
        ],
        body: gzip.finish().unwrap(),
    };
    let (server, digest, _) = with_image(Options::default().fault(When::any(), Action::Answer(bomb)));
    let (registry, _) = client(&server.host());
    for target in [tag("1"), Target::Digest(digest)] {
        let error = registry.manifest("a/b", &target).await.unwrap_err().full();
        assert!(error.contains("decoded, it has more than the"), "{error}");
    }
    let error = registry.tags("a/b").await.unwrap_err().full();
    assert!(error.contains("a page has more than"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_said_so() {
    let (server, ..) = with_image(Options::default());
    let (registry, _) = client(&server.host());
    assert_eq!(
        registry.head_manifest("a/b", &tag("2")).await.unwrap(),
        Presence::Missing
    );
    let error = registry.manifest("a/b", &tag("2")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let text = error.full();
    for part in [&format!("{}/a/b", server.host()), "`2`", "404", "MANIFEST_UNKNOWN"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let error = fetch(&registry, "a/b", &layer(b"gone")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.full().contains("BLOB_UNKNOWN"), "{error:?}");
}

#[tokio::test]
async fn a_type_that_contradicts_a_manifest_counts_unless_the_digest_of_the_answer_is_right() {
    let index = || Action::Header("content-type", Some("application/vnd.oci.image.index.v1+json".into()));
    let (server, ..) = with_image(Options::default().fault(When::get("/manifests/"), index()));
    let (registry, told) = client(&server.host());
    let found = registry.manifest("a/b", &tag("1")).await.unwrap();
    assert_eq!(found.media_type(), "application/vnd.oci.image.manifest.v1+json");
    assert!(told.warnings()[0].contains("`Content-Type`"), "{:?}", told.warnings());
    server.add_fault(When::get("/manifests/"), Action::Header("docker-content-digest", None));
    let error = registry.manifest("a/b", &tag("1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed, "{error:?}");
    assert!(error.full().contains("announced as"), "{error:?}");
}

/// Answers to a GET of a manifest by tag that end in an error at once, with the kind of the error and words of its
/// message.
#[tokio::test]
async fn answers_that_are_no_manifest() {
    let json = |text: &str| Action::Body(text.as_bytes().to_vec());
    for (name, action, kind, words) in [
        ("a web page", Action::html(), Kind::Server, "web page"),
        ("no JSON", json("hello"), Kind::Malformed, "not a JSON object"),
        (
            "both shapes",
            json(r#"{"manifests":[],"layers":[],"config":{}}"#),
            Kind::Malformed,
            "both",
        ),
        (
            "schema 1",
            Action::Answer(Canned {
                status: 200,
                headers: vec![(
                    "content-type".into(),
                    "application/vnd.docker.distribution.manifest.v1+prettyjws".into(),
                )],
                body: br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(),
            }),
            Kind::Unsupported,
            "schema 1",
        ),
        (
            "too large",
            Action::Body(vec![b' '; (16 << 20) + 1]),
            Kind::Malformed,
            "more than",
        ),
        (
            "forbidden",
            Action::error(403, "DENIED", "no\u{1b}[31m access"),
            Kind::Denied,
            "DENIED: no\\u{1b}[31m access",
        ),
        (
            "a 403 without words",
            Action::status(403),
            Kind::Denied,
            "403 Forbidden",
        ),
        (
            "a 404 with a page",
            Action::Answer(Canned {
                status: 404,
                headers: vec![],
                body: b"<html>x".to_vec(),
            }),
            Kind::NotFound,
            "a web page",
        ),
        (
            "a 400",
            Action::error(400, "TAG_INVALID", "bad"),
            Kind::Exists,
            "400 Bad Request",
        ),
        ("a 405", Action::status(405), Kind::Unsupported, "405"),
    ] {
        let (server, ..) = with_image(Options::default().fault(When::get("/manifests/"), action));
        let (registry, _) = client(&server.host());
        let error = registry.manifest("a/b", &tag("1")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error:?}");
        assert!(error.full().contains(words), "{name}: {error:?}");
        assert!(error.full().len() < 3000, "{name}");
        // If the bytes do not have the digest that the registry states, they are requested once more.
        let asked = if ["no JSON", "both shapes"].contains(&name) {
            2
        } else {
            1
        };
        assert_eq!(server.requests().len(), asked, "{name}: {}", server.transcript());
    }
}

#[tokio::test]
async fn a_status_that_no_registry_answers_with_is_told_with_a_hint() {
    for status in [101, 201, 204, 206, 300, 304, 399, 600, 999] {
        let (server, digest, _) = with_image(Options::default().fault(When::get("/v2/a/b/"), Action::status(status)));
        let (registry, _) = client(&server.host());
        let blob = layer(b"bytes");
        for (what, error) in [
            ("by tag", registry.manifest("a/b", &tag("1")).await.unwrap_err()),
            (
                "by digest",
                registry.manifest("a/b", &Target::Digest(digest)).await.unwrap_err(),
            ),
            ("a blob", fetch(&registry, "a/b", &blob).await.unwrap_err()),
        ] {
            assert!(
                error.full().contains(&format!("answered {status}")),
                "{what}: {error:?}"
            );
            assert!(error.hint().is_some(), "{what}: {status}: {error:?}");
        }
        // Another request would have the same answer.
        assert_eq!(server.requests().len(), 3, "{}", server.transcript());
    }
}

#[tokio::test]
async fn bytes_of_a_digest_are_checked_and_fetched_twice_at_most() {
    let (server, digest, _) =
        with_image(Options::default().fault(When::get("/manifests/"), Action::Body(b"{\"config\":{}}".to_vec())));
    let (registry, _) = client(&server.host());
    let error = registry
        .manifest("a/b", &Target::Digest(digest.clone()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(error.full().contains(&digest.to_string()), "{error:?}");
    assert_eq!(server.requests().len(), 2);
    let (server, digest, bytes) = with_image(Options::default().fault(
        When::get("/manifests/").first(1),
        Action::Body(b"{\"config\":{}}".to_vec()),
    ));
    let (registry, _) = client(&server.host());
    assert_eq!(
        registry.manifest("a/b", &Target::Digest(digest)).await.unwrap().bytes(),
        &bytes
    );
}

#[tokio::test]
async fn by_tag_the_bytes_count_and_not_the_header() {
    let other = format!("sha256:{}", "0".repeat(64));
    let fault = Action::Header("docker-content-digest", Some(other.clone()));
    let (server, digest, _) = with_image(Options::default().fault(When::get("/manifests/"), fault));
    let (registry, told) = client(&server.host());
    assert_eq!(registry.manifest("a/b", &tag("1")).await.unwrap().digest(), &digest);
    assert!(told.warnings()[0].contains(&other), "{:?}", told.warnings());
}

#[tokio::test]
async fn a_head_that_does_not_answer_says_so() {
    for status in [400, 403, 405, 412, 501] {
        let (server, ..) = with_image(Options::default().fault(When::head("/"), Action::status(status)));
        let (registry, _) = client(&server.host());
        assert_eq!(
            registry.head_manifest("a/b", &tag("1")).await.unwrap(),
            Presence::Unknown,
            "{status}"
        );
        assert_eq!(
            registry.head_blob("a/b", &layer(b"x")).await.unwrap(),
            Presence::Unknown,
            "{status}"
        );
        assert_eq!(server.requests().len(), 2, "{status} is not repeated");
        registry.head_manifest("a/b", &tag("1")).await.unwrap();
        assert_eq!(
            server.requests().len(),
            if status == 405 { 2 } else { 3 },
            "a host without HEAD is not asked again"
        );
    }
    let gone = Options::default()
        .fault(When::head("/"), Action::Header("docker-content-digest", None))
        .fault(When::head("/"), Action::Header("content-type", None));
    let (server, ..) = with_image(gone);
    let (registry, _) = client(&server.host());
    let head = registry.head_manifest("a/b", &tag("1")).await.unwrap();
    assert!(matches!(head, Presence::Present(head) if head.digest.is_none() && head.media_type.is_none()));
}

#[tokio::test]
async fn the_cache_saves_the_pull_of_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let (server, digest, bytes) = with_image(Options::default());
    let cached = || {
        let (mut options, _) = options();
        options.manifest_cache = Some(folder.path().join("manifests"));
        with(options, &server.host())
    };
    assert_eq!(cached().manifest("a/b", &tag("1")).await.unwrap().bytes(), &bytes);
    assert_eq!((server.count("HEAD", ""), server.count("GET", "")), (1, 1));
    assert_eq!(cached().manifest("a/b", &tag("1")).await.unwrap().bytes(), &bytes);
    assert_eq!(
        (server.count("HEAD", ""), server.count("GET", "")),
        (2, 1),
        "a HEAD and nothing else"
    );
    cached().manifest("a/b", &Target::Digest(digest.clone())).await.unwrap();
    assert_eq!(server.requests().len(), 3, "by digest not even that");
    // What was edited is fetched again.
    let file = folder.path().join("manifests/manifests");
    let mut edited = std::fs::read(&file).unwrap();
    let at = edited.len() - 3;
    edited[at] ^= 1;
    std::fs::write(&file, edited).unwrap();
    assert_eq!(cached().manifest("a/b", &tag("1")).await.unwrap().bytes(), &bytes);
    assert_eq!(server.count("GET", ""), 2);
    // A tag that has moved is fetched.
    let moved = index(&[]);
    server.store().put_manifest(
        "a/b",
        Some("1"),
        "application/vnd.oci.image.index.v1+json",
        moved.bytes().clone(),
    );
    assert_eq!(
        cached().manifest("a/b", &tag("1")).await.unwrap().digest(),
        moved.digest()
    );
}

#[tokio::test]
async fn quotas_are_read_for_free_and_end_the_run_when_used_up() {
    let limit = PullLimit {
        limit: 100,
        remaining: 1,
        window: 21600,
    };
    let (server, ..) = with_image(Options {
        pull_limit: Some(limit),
        ..Options::default()
    });
    let (registry, told) = client(&server.host());
    assert_eq!(registry.last_rate_limit(), None);
    let state = registry.rate_limit("a/b", &tag("1")).await.unwrap().unwrap();
    assert_eq!(
        (state.limit, state.remaining, state.window),
        (Some(100), Some(1), Some(Duration::from_secs(21600)))
    );
    assert_eq!(server.count("GET", ""), 0);
    registry.manifest("a/b", &tag("1")).await.unwrap();
    assert_eq!(registry.last_rate_limit().unwrap().remaining, Some(0));
    let error = registry.manifest("a/b", &tag("1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::RateLimited);
    assert!(error.to_string().contains("6h"), "{error}");
    assert!(error.hint().unwrap().contains("log in"), "{error}");
    assert_eq!(server.count("GET", ""), 2, "not tried again");
    assert!(told.retries().is_empty());
    let open = Double::new();
    open.store().put_manifest(
        "a",
        Some("1"),
        TYPE,
        Bytes::from_static(b"{\"config\":{},\"layers\":[]}"),
    );
    let (registry, _) = client(&open.host());
    assert_eq!(registry.rate_limit("a", &tag("1")).await.unwrap(), None);
    assert_eq!(
        registry.rate_limit("a", &tag("2")).await.unwrap_err().kind(),
        Kind::NotFound
    );
}
