//! Blobs that do not come, or come too slowly.

use std::time::Duration;

use docker_mirror::{Kind, Mirrors, Options, parse_mirror};

use super::clock;
use super::scripted::{Server, Step, answer};
use crate::client::{fetch, layer, noise, options, with};

/// The default limits.
pub(crate) fn by_default() -> Options {
    Options {
        plain_http: true,
        ..Options::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_never_comes_is_given_up_after_the_retries() {
    let bytes = noise(3 << 20);
    let descriptor = layer(&bytes);
    let size = bytes.len();
    let silent = vec![answer(200, &[], size), Step::Hang];
    let drip = vec![answer(200, &[], size), Step::Drip("x", Duration::from_secs(30))];
    for script in [silent, drip, vec![Step::Hang]] {
        let server = Server::start(move |_| script.clone()).await;
        let registry = with(by_default(), &server.host);
        let error = clock::run(fetch(&registry, "a/b", &descriptor)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{error:?}");
        assert_eq!(server.count("GET", "/blobs/"), 6, "{}", server.transcript());
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_bytes_for_each_request_are_no_progress() {
    let bytes = noise(3 << 20);
    let descriptor = layer(&bytes);
    let server = Server::start(move |asked| {
        let range = format!("bytes {}-{}/{}", asked.from, bytes.len() - 1, bytes.len());
        let piece = bytes[asked.from..asked.from + 1000].to_vec();
        let status = if asked.from == 0 { 200 } else { 206 };
        let head = answer(status, &[("content-range", &range)], bytes.len() - asked.from);
        vec![head, Step::Say(piece), Step::Hang]
    })
    .await;
    let registry = with(by_default(), &server.host);
    clock::run(fetch(&registry, "a/b", &descriptor)).await.unwrap_err();
    assert_eq!(server.count("GET", "/blobs/"), 6, "{}", server.transcript());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_came_renew_the_retries_though_each_connection_stalls() {
    let bytes = noise(5 << 20);
    let (descriptor, expected) = (layer(&bytes), bytes.clone());
    let server = Server::start(move |asked| {
        let range = format!("bytes {}-{}/{}", asked.from, bytes.len() - 1, bytes.len());
        // Less than what renews them by itself.
        let end = bytes.len().min(asked.from + 100_000);
        let status = if asked.from == 0 { 200 } else { 206 };
        let head = answer(status, &[("content-range", &range)], bytes.len() - asked.from);
        vec![head, Step::Say(bytes[asked.from..end].to_vec()), Step::Hang]
    })
    .await;
    let registry = with(by_default(), &server.host);
    let found = clock::run(fetch(&registry, "a/b", &descriptor)).await.unwrap();
    assert_eq!(found, expected);
    assert_eq!(server.count("GET", "/blobs/"), expected.len().div_ceil(100_000));
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_sends_nothing_makes_room_for_the_registry_itself() {
    let bytes = noise(100_000);
    let descriptor = layer(&bytes);
    let size = bytes.len();
    let mirror = Server::start(move |_| vec![answer(200, &[], size), Step::Hang]).await;
    let body = bytes.to_vec();
    let origin = Server::start(move |_| vec![answer(200, &[], size), Step::Say(body.clone())]).await;
    let (mut options, told) = options();
    options.plain_http = true;
    let flag = format!("{}=http://{}", origin.host, mirror.host);
    options.mirrors = Mirrors::new(vec![parse_mirror(&flag).unwrap()]);
    let registry = with(options, &origin.host);
    let found = clock::run(fetch(&registry, "a/b", &descriptor)).await.unwrap();
    assert_eq!(found, bytes);
    assert_eq!((mirror.count("GET", "/blobs/"), origin.count("GET", "/blobs/")), (6, 1));
    assert!(told.warnings()[0].contains("sent nothing"), "{:?}", told.warnings());
}
