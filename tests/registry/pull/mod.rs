//! The pull half of the registry client against the registry double: manifests, blobs, resume, redirects, limits.

mod manifests;

use std::time::Duration;

use crate::client::{client, fetch, index, layer, manifest, noise, options, read, tag, with};
use crate::support::fault::{Action, Canned, When};
use crate::support::{Double, End, Options, PullLimit};
use bytes::Bytes;
use docker_mirror::{
    Digest, Kind,
    testing::{Descriptor, Presence, Target, WithoutRange},
};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A server with one image under `a/b:1`, and the digest of its manifest.
fn with_image(options: Options) -> (Double, Digest, Bytes) {
    let server = Double::start(options);
    let image = manifest(&layer(b"{}"), &[layer(b"layer")]);
    let digest = server
        .store()
        .put_manifest("a/b", Some("1"), TYPE, image.bytes().clone());
    (server, digest.parse().unwrap(), image.bytes().clone())
}

/// A server with one blob in `a/b`.
fn with_blob(options: Options, len: usize) -> (Double, Descriptor, Bytes) {
    let server = Double::start(options);
    let bytes = noise(len);
    server.store().put_blob("a/b", bytes.clone());
    (server, layer(&bytes), bytes)
}

#[tokio::test]
async fn ranges_are_asked_for_and_checked() {
    let (server, blob, bytes) = with_blob(Options::default(), 100_000);
    let (registry, _) = client(&server.host());
    for (start, end) in [(0, 100_000), (0, 1), (1, 100_000), (50_000, 60_000), (99_999, 100_000)] {
        let reader = registry
            .blob("a/b", &blob, start..end, WithoutRange::Refuse)
            .await
            .unwrap();
        assert_eq!(read(reader).await.unwrap(), bytes[start as usize..end as usize]);
    }
    server.forget_requests();
    let reader = registry.blob("a/b", &blob, 7..7, WithoutRange::Refuse).await.unwrap();
    assert_eq!(read(reader).await.unwrap(), b"");
    assert!(server.requests().is_empty(), "nothing is asked for nothing");
    let error = registry
        .blob("a/b", &blob, 0..100_001, WithoutRange::Refuse)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
}

#[tokio::test]
async fn a_server_without_ranges() {
    for action in [Action::IgnoreRange, Action::NoRange] {
        let fault = Options::default().fault(When::get("/blobs/").with_header("range"), action);
        let (server, blob, bytes) = with_blob(fault, 100_000);
        let (registry, _) = client(&server.host());
        let error = registry
            .blob("a/b", &blob, 10..20, WithoutRange::Refuse)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::NoRanges);
        let reader = registry
            .blob("a/b", &blob, 60_000..60_010, WithoutRange::Skip)
            .await
            .unwrap();
        assert_eq!(read(reader).await.unwrap(), bytes[60_000..60_010]);
    }
}

#[tokio::test]
async fn a_range_behind_the_end_of_a_blob_tells_that_it_is_too_short() {
    let (server, blob, _) = with_blob(Options::default(), 1000);
    let (registry, _) = client(&server.host());
    let longer = Descriptor { size: 5000, ..blob };
    let error = registry
        .blob("a/b", &longer, 2000..2010, WithoutRange::Skip)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error:?}");
    assert_eq!(server.requests().len(), 1);
}

/// Answers to `Range` that must not be used: the whole blob is read instead, and the next range is not requested.
#[tokio::test]
async fn wrong_answers_to_a_range_are_answered_by_the_whole_blob() {
    let wrong_range = |value: &str| Action::Header("content-range", Some(value.into()));
    for (name, action) in [
        ("begins too late", Action::WrongStart(5)),
        ("begins too early", Action::WrongStart(-5)),
        ("no Content-Range", Action::Header("content-range", None)),
        ("another unit", wrong_range("items 10-19/100000")),
        ("another size", wrong_range("bytes 10-19/100001")),
        ("400", Action::status(400)),
        ("405", Action::status(405)),
        ("412", Action::status(412)),
        ("501", Action::status(501)),
    ] {
        let fault = Options::default().fault(When::get("/blobs/").with_header("range"), action);
        let (server, blob, bytes) = with_blob(fault, 100_000);
        let (registry, _) = client(&server.host());
        let open = |range, without_range| registry.blob("a/b", &blob, range, without_range);
        let refused = open(10..20, WithoutRange::Refuse).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::NoRanges, "{name}: {refused:?}");
        for range in [10..20, 90_000..100_000] {
            let reader = open(range.clone(), WithoutRange::Skip).await.unwrap();
            let expected = &bytes[range.start as usize..range.end as usize];
            assert_eq!(read(reader).await.unwrap(), expected, "{name}");
        }
        assert_eq!(server.requests().len(), 4, "{name}: {}", server.transcript());
        let refused = open(10..20, WithoutRange::Refuse).await.unwrap_err();
        assert_eq!((refused.kind(), server.requests().len()), (Kind::NoRanges, 4), "{name}");
    }
}

#[tokio::test]
async fn a_server_that_ignores_a_range_at_the_start_may_send_the_whole_blob() {
    let fault = Options::default().fault(When::get("/blobs/"), Action::IgnoreRange);
    let (server, blob, bytes) = with_blob(fault, 100_000);
    let (registry, _) = client(&server.host());
    let open = |range| registry.blob("a/b", &blob, range, WithoutRange::Extend);
    assert_eq!(read(open(0..10).await.unwrap()).await.unwrap(), bytes);
    assert_eq!(server.requests().len(), 1, "{}", server.transcript());
    assert_eq!(open(10..20).await.unwrap_err().kind(), Kind::NoRanges);

    let (server, blob, bytes) = with_blob(Options::default(), 100_000);
    let (registry, _) = client(&server.host());
    let reader = registry.blob("a/b", &blob, 0..10, WithoutRange::Extend).await.unwrap();
    assert_eq!(read(reader).await.unwrap(), bytes[..10], "ranges are served");
}

#[tokio::test]
async fn a_page_in_place_of_a_range_is_a_failure() {
    let (server, blob, _) = with_blob(Options::default().fault(When::get("/blobs/"), Action::html()), 100_000);
    let (registry, _) = client(&server.host());
    let opened = registry.blob("a/b", &blob, 10..20, WithoutRange::Skip).await;
    assert_eq!(opened.unwrap_err().kind(), Kind::Server);
    assert!(server.requests().len() < 3, "{}", server.transcript());
}

#[tokio::test]
async fn a_body_of_a_wrong_length_is_asked_for_once_more() {
    for action in [Action::Body(b"<Error/>".to_vec()), Action::Body(Vec::new())] {
        let (server, blob, bytes) = with_blob(Options::default(), 1000);
        server.add_fault(When::get("/blobs/").first(1), action.clone());
        assert_eq!(fetch(&client(&server.host()).0, "a/b", &blob).await.unwrap(), bytes);
        assert_eq!(server.count("GET", "/blobs/"), 2, "{}", server.transcript());
        let (server, blob, _) = with_blob(Options::default().fault(When::get("/blobs/"), action), 1000);
        let error = fetch(&client(&server.host()).0, "a/b", &blob).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert_eq!(server.count("GET", "/blobs/"), 2, "{}", server.transcript());
    }
}

#[tokio::test]
async fn a_whole_blob_may_come_as_a_part() {
    let part = |range: &str| Action::Header("content-range", Some(range.to_owned()));
    let (server, blob, bytes) = with_blob(Options::default(), 1000);
    server.add_fault(When::get("/blobs/").first(1), Action::Status(206));
    server.add_fault(When::get("/blobs/").first(1), part("bytes 0-999/1000"));
    assert_eq!(fetch(&client(&server.host()).0, "a/b", &blob).await.unwrap(), bytes);
    assert_eq!(server.count("GET", "/blobs/"), 1, "{}", server.transcript());
}

#[tokio::test]
async fn an_address_of_the_registry_itself_that_has_expired_is_asked_for_again() {
    for (status, text) in [(403, "Request has expired"), (400, "ExpiredToken"), (410, "Gone")] {
        let expired = |times| {
            let (server, blob, bytes) = with_blob(Options::default(), 1000);
            server.add_fault(
                When::get("/blobs/").but_not("signature"),
                Action::redirect(307, "{target}?signature=1"),
            );
            let fault = When::get("signature").first(times);
            server.add_fault(fault, Action::Answer(Canned::error(status, "DENIED", text)));
            (server, blob, bytes)
        };
        let (server, blob, bytes) = expired(1);
        assert_eq!(
            fetch(&client(&server.host()).0, "a/b", &blob).await.unwrap(),
            bytes,
            "{status}"
        );
        let (server, blob, _) = expired(100);
        let error = fetch(&client(&server.host()).0, "a/b", &blob).await.unwrap_err();
        assert!(!error.hint().unwrap_or_default().contains("log in again"), "{error:?}");
    }
}

#[tokio::test]
async fn a_length_that_contradicts_the_descriptor_is_found_before_reading() {
    let (server, blob, _) = with_blob(Options::default(), 1000);
    let (registry, _) = client(&server.host());
    for size in [999, 1001] {
        let lie = Descriptor { size, ..blob.clone() };
        let error = fetch(&registry, "a/b", &lie).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert!(
            error.to_string().contains("1000") && error.to_string().contains(&size.to_string()),
            "{error}"
        );
    }
    // Each is asked for once more: an answer of a wrong length may come a single time.
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_body_without_a_length_is_measured() {
    let chunked = || Options::default().fault(When::get("/blobs/"), Action::Chunked);
    let (server, blob, bytes) = with_blob(chunked(), 100_000);
    let (registry, _) = client(&server.host());
    assert_eq!(fetch(&registry, "a/b", &blob).await.unwrap(), bytes);
    let short = Descriptor {
        size: 99_999,
        ..blob.clone()
    };
    let error = fetch(&registry, "a/b", &short).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error:?}");
    let long = Descriptor { size: 100_001, ..blob };
    assert!(fetch(&registry, "a/b", &long).await.is_err());
}

/// Bodies that break are continued by range, from the byte at which they broke.
#[tokio::test]
async fn broken_bodies_go_on_where_they_broke() {
    for (name, action) in [
        ("closed", Action::cut(1_500_000)),
        ("reset", Action::reset(1_500_000)),
        ("chunked and closed", Action::Cut(1_500_000, End::Close)),
    ] {
        let (server, blob, bytes) = with_blob(
            Options::default().fault(When::get("/blobs/").first(3), action),
            6_000_000,
        );
        let (registry, told) = client(&server.host());
        assert_eq!(fetch(&registry, "a/b", &blob).await.unwrap(), bytes, "{name}");
        assert_eq!(told.retries().len(), 3, "{name}: {:?}", told.retries());
        let out: u64 = server.requests().iter().map(|entry| entry.bytes_out).sum();
        // A reset discards the bytes that had arrived and were not read yet; an orderly end does not.
        let lost = if name == "reset" { 3 * 1_500_000 } else { 300_000 };
        assert!(out < 6_000_000 + lost, "{name}: {out} bytes for 6000000");
        assert!(
            server
                .requests()
                .iter()
                .skip(1)
                .all(|entry| entry.header("range").starts_with("bytes=")),
            "{name}"
        );
    }
}

#[tokio::test]
async fn progress_renews_patience_and_its_lack_ends_it() {
    let cut = |after| Options::default().fault(When::get("/blobs/"), Action::cut(after));
    let (server, blob, bytes) = with_blob(cut(1 << 20), 20 << 20);
    let (registry, told) = client(&server.host());
    assert_eq!(
        fetch(&registry, "a/b", &blob).await.unwrap(),
        bytes,
        "twenty breaks with a MiB between them"
    );
    assert!(told.retries().len() > 10);
    let (server, blob, _) = with_blob(cut(1000), 20 << 20);
    let (registry, _) = client(&server.host());
    let error = fetch(&registry, "a/b", &blob).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.to_string().contains("bytes"), "{error}");
    assert_eq!(server.requests().len(), 6, "five repetitions without progress");
}

#[tokio::test]
async fn stalled_bodies_are_given_up() {
    let (server, blob, bytes) = with_blob(
        Options::default().fault(When::get("/blobs/").first(1), Action::stall(2_000_000)),
        4_000_000,
    );
    let (mut options, told) = options();
    options.stall_timeout = Some(Duration::from_millis(300));
    let registry = with(options, &server.host());
    assert_eq!(fetch(&registry, "a/b", &blob).await.unwrap(), bytes);
    assert!(told.retries()[0].contains("sent nothing"), "{:?}", told.retries());
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_given_up() {
    let (server, ..) = with_image(Options::default().fault(When::get("/manifests/").first(1), Action::End(End::Stall)));
    let (mut options, told) = options();
    options.header_timeout = Some(Duration::from_millis(300));
    let registry = with(options, &server.host());
    registry.manifest("a/b", &tag("1")).await.unwrap();
    assert!(told.retries()[0].contains("did not answer"), "{:?}", told.retries());
}

#[tokio::test]
async fn small_blobs_are_verified() {
    let (server, blob, bytes) = with_blob(
        Options::default().fault(When::get("/blobs/").first(1), Action::FlipBit(500)),
        1000,
    );
    let (registry, _) = client(&server.host());
    assert_eq!(
        registry.small_blob("a/b", &blob).await.unwrap(),
        bytes,
        "hurt once on the way"
    );
    let (server_always, blob, _) = with_blob(
        Options::default().fault(When::get("/blobs/"), Action::FlipBit(500)),
        1000,
    );
    let (registry, _) = client(&server_always.host());
    assert_eq!(
        registry.small_blob("a/b", &blob).await.unwrap_err().kind(),
        Kind::Integrity
    );
    assert_eq!(server_always.requests().len(), 2);
    let huge = Descriptor { size: 1 << 40, ..blob };
    assert_eq!(
        registry.small_blob("a/b", &huge).await.unwrap_err().kind(),
        Kind::Malformed
    );
    drop(server);
}
