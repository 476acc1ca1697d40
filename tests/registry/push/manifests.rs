//! Manifests: byte for byte, refused, altered, put once.

use super::client::{Memory, by_digest, client, index, layer, manifest, options, tag, with};
use super::support::fault::{Action, When};
use super::support::{Double, End, Immutable, Options};
use docker_mirror::{Kind, testing::Refusal};

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
            "lost blob, 404",
            &image,
            Action::error(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown"),
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
        let advice = match name {
            "immutable tag" | "immutable tag, otherwise" => "choose another tag",
            "quota" => "quota",
            "denied" => "lacks permission",
            "too large" => "larger than the registry",
            "type" | "type, otherwise" => "does not take this kind",
            "repository" => "created first",
            "lost blob" | "lost blob, 404" => "run again",
            "sparse" | "sparse, otherwise" => "--index filtered",
            "sparse, without words" => "every manifest that an index lists",
            "a page" => "is this address a registry",
            "a redirect" => "",
            _ => panic!("no advice for {name}"),
        };
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains(advice), "{name}: {hint}");
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
    let refusal = Refusal::in_error(&error).unwrap();
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

/// The connections of the uploads break, and the gateway in front answers the question for the manifest.
#[tokio::test]
async fn a_destination_that_goes_down_is_not_asked_for_each_manifest() {
    let (image, target) = (manifest(&layer(b"{}"), &[]), tag("1"));
    for retries in [0, 2] {
        let server = Double::new();
        let (mut options, told) = options();
        options.retries = Some(retries);
        let registry = with(options, &server.host());
        registry.manifest("team/app", &target).await.unwrap_err();
        server.add_fault(When::put("/manifests/"), Action::End(End::Reset));
        server.add_fault(When::any(), Action::status(503));
        for number in 0..12 {
            let repository = format!("team/app{number}");
            let put = registry.put_manifest(&repository, &target, &image);
            put.await.unwrap_err();
        }
        let puts = server.count("PUT", "/manifests/");
        assert!(puts <= 6, "{retries}: {}", server.transcript());
        let warnings = told.warnings();
        let left = warnings.iter().filter(|text| text.contains("not asked again")).count();
        assert_eq!(left, 1, "{retries}: {warnings:?}");
    }
}
