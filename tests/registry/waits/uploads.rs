//! Uploads that a registry receives and never answers, or loses repeatedly.

use std::sync::atomic::{AtomicBool, Ordering};

use docker_mirror::{
    Kind,
    testing::{Presence, Registry},
};

use super::clock;
use super::downloads::by_default;
use super::scripted::{Asked, Server, Step, answer, present};
use crate::client::{Memory, layer, manifest, noise, tag, with};

pub(super) const SESSION: &str = "/v2/a/b/blobs/uploads/1";

/// Returns a registry that opens sessions and has the bytes that it received. `status` answers requests about sessions,
/// and `other` is tried before all else.
pub(super) async fn registry(
    status: impl Fn(&Asked) -> Option<usize> + Send + Sync + 'static,
    other: impl Fn(&Asked) -> Option<Vec<Step>> + Send + Sync + 'static,
) -> (Server, Registry) {
    let stored = AtomicBool::new(false);
    let server = Server::start(move |asked| {
        if let Some(steps) = other(asked) {
            return steps;
        }
        let answer = |status: u16, headers: &[(&str, &str)]| vec![Step::Take, answer(status, headers, 0)];
        match asked.method.as_str() {
            "POST" | "PATCH" => answer(202, &[("location", SESSION)]),
            "PUT" => {
                stored.store(true, Ordering::Relaxed);
                answer(201, &[])
            }
            "GET" => match status(asked) {
                None => answer(404, &[]),
                Some(offset) => {
                    let range = format!("0-{}", offset.saturating_sub(1));
                    answer(204, &[("location", SESSION), ("range", &range)])
                }
            },
            "HEAD" if stored.load(Ordering::Relaxed) => vec![Step::Take, present()],
            "HEAD" => answer(404, &[]),
            _ => answer(204, &[]),
        }
    })
    .await;
    let registry = with(by_default(), &server.host);
    (server, registry)
}

/// Pushes a blob of 3 MiB, which fails, and returns the number of bodies that were sent for it.
async fn bodies_until_given_up(server: &Server, registry: &Registry) -> usize {
    let bytes = noise(3 << 20);
    let (descriptor, source) = (layer(&bytes), Memory(bytes));
    let pushed = clock::run(registry.push_blob("a/b", &descriptor, &source, None)).await;
    let error = pushed.unwrap_err();
    assert_eq!(error.kind(), Kind::Network, "{error:?}\n{}", server.transcript());
    server.count("PUT", SESSION) + server.count("PATCH", SESSION)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_taken_and_never_answered_is_given_up_after_the_retries() {
    for kept in [None, Some(0)] {
        let silent = |asked: &Asked| {
            let body = matches!(asked.method.as_str(), "PUT" | "PATCH");
            body.then(|| vec![Step::Take, Step::Hang])
        };
        let (server, registry) = registry(move |_| kept, silent).await;
        assert_eq!(
            bodies_until_given_up(&server, &registry).await,
            6,
            "{}",
            server.transcript()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_read_is_given_up_after_the_retries() {
    let deaf = |asked: &Asked| matches!(asked.method.as_str(), "PUT" | "PATCH").then(|| vec![Step::Hang]);
    let (server, registry) = registry(|_| Some(0), deaf).await;
    assert!(
        bodies_until_given_up(&server, &registry).await <= 6,
        "{}",
        server.transcript()
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_that_a_registry_loses_again_and_again_are_no_progress() {
    // Of two answers about the session, one states a megabyte and the next one nothing.
    let fickle = |asked: &Asked| Some((asked.nth % 2) << 20);
    let silent = |asked: &Asked| matches!(asked.method.as_str(), "PUT" | "PATCH").then(|| vec![Step::Take, Step::Hang]);
    let (server, registry) = registry(fickle, silent).await;
    // One megabyte was progress once.
    assert!(
        bodies_until_given_up(&server, &registry).await <= 12,
        "{}",
        server.transcript()
    );
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_answers_nothing_else_while_an_upload_is_in_trouble() {
    let silent = |asked: &Asked| (asked.method != "POST").then(|| vec![Step::Take, Step::Hang]);
    let (server, registry) = registry(|_| None, silent).await;
    assert!(
        bodies_until_given_up(&server, &registry).await <= 6,
        "{}",
        server.transcript()
    );
    let questions = server.count("GET", "") + server.count("HEAD", "");
    assert!(questions <= 3 * 6, "one budget for all: {}", server.transcript());
}

#[tokio::test(start_paused = true)]
async fn every_other_request_of_a_push_ends_too() {
    let bytes = noise(1000);
    let blob = layer(&bytes);
    let root = manifest(&blob, &[]);
    for (silent, of) in [
        ("POST", "/uploads/"),
        ("HEAD", "/blobs/"),
        ("PUT", "/manifests/"),
        ("HEAD", "/manifests/"),
    ] {
        let hang = move |asked: &Asked| {
            (asked.method == silent && asked.target.contains(of)).then(|| vec![Step::Take, Step::Hang])
        };
        let (server, registry) = registry(|_| None, hang).await;
        let all = async {
            let source = Memory(bytes.clone());
            let tag = tag("1");
            (
                registry.head_blob("a/b", &blob).await,
                registry.push_blob("a/b", &blob, &source, None).await.map(|_| ()),
                registry.put_manifest("a/b", &tag, &root).await,
                registry.head_manifest("a/b", &tag).await,
            )
        };
        let (head, push, put, look) = clock::run(all).await;
        assert_eq!(head.is_err(), (silent, of) == ("HEAD", "/blobs/"));
        assert_eq!(push.is_err(), silent == "POST", "{}", server.transcript());
        assert_eq!(put.is_err(), silent == "PUT");
        assert_eq!(look.is_err(), (silent, of) == ("HEAD", "/manifests/"));
        // A blob that was uploaded is looked for too.
        let expected = if (silent, of) == ("HEAD", "/blobs/") { 12 } else { 6 };
        assert_eq!(server.count(silent, of), expected, "{}", server.transcript());
    }
}

#[tokio::test(start_paused = true)]
async fn a_mount_or_a_cancellation_without_an_answer_ends_nothing_else() {
    let bytes = noise(1000);
    let (blob, source) = (layer(&bytes), Memory(bytes));
    let mount = |asked: &Asked| asked.target.contains("mount=").then(|| vec![Step::Take, Step::Hang]);
    let (server, to) = registry(|_| None, mount).await;
    clock::run(to.push_blob("a/b", &blob, &source, Some("c")))
        .await
        .unwrap();
    assert_eq!(server.count("POST", "mount="), 1, "{}", server.transcript());

    let wrong = Memory(noise(999));
    let cancellation = |asked: &Asked| (asked.method == "DELETE").then(|| vec![Step::Hang]);
    let (server, to) = registry(|_| None, cancellation).await;
    let error = clock::run(to.push_blob("a/b", &blob, &wrong, None)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error:?}");
    assert_eq!(server.count("DELETE", SESSION), 1, "{}", server.transcript());
}

#[tokio::test(start_paused = true)]
async fn a_closing_request_without_an_answer_is_sent_again_and_given_up() {
    let bytes = noise(3 << 20);
    let (blob, size) = (layer(&bytes), bytes.len());
    // A session of which everything has arrived, and which cannot be closed.
    let script = move |asked: &Asked| match asked.method.as_str() {
        "PUT" if asked.nth == 0 => Some(vec![Step::Take, answer(404, &[], 0)]),
        "PUT" => Some(vec![Step::Take, Step::Hang]),
        _ => None,
    };
    let (server, to) = registry(move |_| Some(size), script).await;
    clock::run(to.push_blob("a/b", &blob, &Memory(bytes), None))
        .await
        .unwrap_err();
    // One budget before the registry said that it has the bytes, and one after it.
    assert!(server.count("PUT", SESSION) <= 1 + 12, "{}", server.transcript());
    let head = clock::run(to.head_blob("a/b", &blob)).await;
    assert_eq!(head.unwrap(), Presence::Missing);
}
