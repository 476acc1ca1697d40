//! Ways to upload, and limits on the size of requests.

use super::client::{Memory, client, layer, noise};
use super::support::fault::Action;
use super::support::{Double, End, Options};
use super::{pushed, refused, upload};
use docker_mirror::Kind;

/// The ranges of the chunks that a server took.
fn ranges_taken(server: &Double) -> Vec<String> {
    let patches = server.requests_of("PATCH", "");
    let taken = patches.iter().filter(|patch| patch.status == 202);
    taken.map(|patch| patch.header("content-range")).collect()
}

/// Registries that refuse one PUT with the whole body, and the strategy that works with each.
#[tokio::test]
async fn the_strategy_that_a_host_takes_is_found_and_remembered() {
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
    // The second strategy is refused with 416, as by registries with a maximum chunk size.
    let (server, _) = pushed(
        options.fault(upload("PATCH").without_header("content-range"), Action::status(405)),
        10 << 20,
    )
    .await;
    let ranges = ranges_taken(&server);
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
    let ranges = ranges_taken(&server);
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
    assert!(error.full().starts_with("1048576 bytes: "), "{error:?}");
    assert!(error.hint().unwrap().contains("client_max_body_size"), "{error:?}");
}

/// A host that fails twice on one request with the whole body gets the blob by PATCH. The strategy is remembered only
/// if the host itself failed, not if the connection broke.
#[tokio::test]
async fn a_put_that_fails_twice_gives_way_to_a_patch() {
    let reset = Action::CutRequest(1000, End::Reset);
    for (fault, remembered) in [(Action::status(500), true), (reset, false)] {
        // Nothing is left of what was sent, so that no session can go on.
        let options = Options::default()
            .fault(upload("PUT").first(2), fault.clone())
            .fault(upload("GET").first(2), Action::ForgetUpload);
        let server = Double::start(options);
        let (registry, _) = client(&server.host());
        let bytes = noise(300_000);
        registry
            .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
            .await
            .unwrap();
        let log = server.transcript();
        let bodies: Vec<(String, u64)> = server
            .requests()
            .iter()
            .filter(|e| matches!(e.method.as_str(), "PUT" | "PATCH"))
            .map(|e| (e.method.clone(), e.bytes_in))
            .collect();
        let methods: Vec<&str> = bodies.iter().map(|(method, _)| method.as_str()).collect();
        assert_eq!(methods, ["PUT", "PUT", "PATCH", "PUT"], "{fault:?}\n{log}");
        assert_eq!((bodies[2].1, bodies[3].1), (300_000, 0), "{fault:?}\n{log}");
        assert!(server.store().blob("a", &layer(&bytes).digest.to_string()).is_some());
        server.forget_requests();
        let other = noise(300_001);
        registry
            .push_blob("a", &layer(&other), &Memory(other.clone()), None)
            .await
            .unwrap();
        let patches = server.count("PATCH", "");
        assert_eq!(patches, usize::from(remembered), "{fault:?}\n{}", server.transcript());
    }
}

/// Some registries answer 201 to the last PATCH and then do not know the upload any more: the blob is there, which
/// suffices.
#[tokio::test]
async fn a_closing_put_that_is_refused_after_the_end_was_taken_is_no_failure() {
    for (status, code) in [
        (404, "BLOB_UPLOAD_UNKNOWN"),
        (400, "BLOB_UPLOAD_INVALID"),
        (404, "NOT_FOUND"),
    ] {
        // The closing request has its effect, and its answer is a refusal.
        let refused = Action::Status(status);
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"gone"}}]}}"#);
        let options = Options::default()
            .fault(upload("PUT").first(1), Action::status(405))
            .fault(upload("PATCH"), Action::Status(201))
            .fault(upload("PUT").after(1), refused)
            .fault(upload("PUT").after(1), Action::Body(body.into_bytes()));
        let (server, _) = pushed(options, 300_000).await;
        let log = server.transcript();
        let digest = layer(&noise(300_000)).digest.to_string();
        assert_eq!(
            (server.count("PATCH", ""), server.count("PUT", "")),
            (1, 2),
            "{code}\n{log}"
        );
        assert_eq!(server.count("HEAD", &digest), 1, "{code}\n{log}");
    }
    // Where it is not there, the refusal counts.
    let options = Options::default()
        .fault(upload("PUT").first(1), Action::status(405))
        .fault(upload("PATCH"), Action::Status(201))
        .fault(
            upload("PUT").after(1),
            Action::error(404, "BLOB_UPLOAD_UNKNOWN", "gone"),
        );
    let (_, error) = refused(options, 300_000).await;
    assert!(error.full().contains("BLOB_UPLOAD_UNKNOWN"), "{error:?}");
}
