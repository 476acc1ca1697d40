//! Ways to upload, and limits on the size of requests.

use super::client::{Memory, client, layer, noise};
use super::support::fault::Action;
use super::support::{Double, Options};
use super::{pushed, refused, upload};
use docker_mirror::error::Kind;

/// The ranges of the chunks that a server took.
fn ranges_taken(server: &Double) -> Vec<String> {
    let patches = server.requests_of("PATCH", "");
    let taken = patches.iter().filter(|patch| patch.status == 202);
    taken.map(|patch| patch.header("content-range")).collect()
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
    assert!(error.hint().unwrap().contains("1048576"), "{error:?}");
}
