//! Answers other than blobs have a time limit: tokens, manifests, lists, bodies of errors, and redirects.

use std::time::Duration;

use docker_mirror::{Options, testing::Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::clock;
use super::downloads::by_default;
use super::scripted::{Asked, Server, Step, answer};
use crate::client::{layer, manifest, tag, with};

/// A body that has begun and sends a byte every half minute, so that no wait for the next byte is too long.
fn drip(status: u16, headers: &[(&str, &str)]) -> Vec<Step> {
    let pause = Duration::from_secs(30);
    vec![Step::Take, answer(status, headers, 60_000), Step::Drip(" ", pause)]
}

async fn start(script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> (Server, Registry) {
    let server = Server::start(script).await;
    let registry = with(by_default(), &server.host);
    (server, registry)
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_drips() {
    let (server, registry) = start(|_| drip(200, &[])).await;
    let error = clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
    assert!(error.to_string().contains("seconds"), "{error:?}");
    assert_eq!(server.count("GET", "/manifests/"), 6, "{}", server.transcript());
}

/// Heads of answers that never end: their beginning, and the part that is repeated.
const ENDLESS_HEADS: [(&str, &str, u64); 5] = [
    ("", "HTTP/1.1 100 Continue\r\n\r\n", 1),
    ("", "HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n", 20),
    ("HTTP/1.1 102 Processing\r\n\r\n", "\r\n", 30),
    ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: ", "y", 30),
    ("", "\r\n", 1),
];

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_given_up_after_one_limit() {
    let once = || Options {
        retries: Some(0),
        ..by_default()
    };
    let endless = |(begin, piece, seconds): (&str, &'static str, u64)| {
        let drip = Step::Drip(piece, Duration::from_secs(seconds));
        vec![Step::Take, Step::Say(begin.into()), drip]
    };
    let blob = layer(b"bytes");
    let source = crate::client::Memory("bytes".into());
    for head in ENDLESS_HEADS {
        let server = Server::start(move |_| endless(head)).await;
        let registry = with(once(), &server.host);
        let before = tokio::time::Instant::now();
        let error = clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
        assert_eq!(server.count("GET", "/manifests/"), 1, "{}", server.transcript());
        assert!(before.elapsed() < Duration::from_secs(140), "{head:?}: {error:?}");
    }
    // A session for an upload, and its body.
    for method in ["POST", "PUT"] {
        let (server, _) = super::uploads::registry(
            |_| None,
            move |asked| (asked.method == method).then(|| endless(ENDLESS_HEADS[0])),
        )
        .await;
        let registry = with(once(), &server.host);
        clock::run(registry.push_blob("a/b", &blob, &source, None))
            .await
            .unwrap_err();
        assert_eq!(server.count(method, "/uploads/"), 1, "{}", server.transcript());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_of_this_machine_that_leaves_a_tls_handshake_without_an_answer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut first = [0];
            // A handshake begins with this byte; anything else gets an answer that is not HTTP.
            if stream.read_exact(&mut first).await.is_ok() && first != [0x16] {
                stream.write_all(b"\x1b\r\n\r\n").await.unwrap();
            }
            open.push(stream);
        }
    });
    let options = Options {
        retries: Some(0),
        ..by_default()
    };
    let registry = with(options, &host);
    let before = tokio::time::Instant::now();
    clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_words_of_an_error_that_drip() {
    for (status, asked) in [(404, 1), (403, 1), (503, 6)] {
        let (server, registry) = start(move |_| drip(status, &[])).await;
        let error = clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
        assert!(error.to_string().contains(&status.to_string()), "{error:?}");
        assert_eq!(server.count("GET", "/manifests/"), asked, "{}", server.transcript());
    }
}

#[tokio::test(start_paused = true)]
async fn lists_that_drip_or_have_no_end() {
    let subject = manifest(&layer(b"{}"), &[]);
    let endless = |asked: &Asked| {
        let next = format!("<{}x>; rel=next", asked.target);
        let page = r#"{"schemaVersion":2,"manifests":[],"tags":["a"]}"#;
        let index = "application/vnd.oci.image.index.v1+json";
        let head = answer(200, &[("link", &next), ("content-type", index)], page.len());
        vec![head, Step::Say(page.into())]
    };
    let slow = move |asked: &Asked| {
        let mut steps = endless(asked);
        // Each page comes within the limits of one request.
        steps.insert(1, Step::Pause(Duration::from_secs(50)));
        steps
    };
    for script in [Script::Drip, Script::Endless, Script::Slow] {
        let (server, registry) = start(move |asked| match script {
            Script::Drip => drip(200, &[("content-type", "application/vnd.oci.image.index.v1+json")]),
            Script::Endless => endless(asked),
            Script::Slow => slow(asked),
        })
        .await;
        clock::run(registry.tags("a/b")).await.unwrap_err();
        clock::run(registry.referrers("a/b", subject.digest(), 9))
            .await
            .unwrap_err();
        let most = if script == Script::Endless { 400 } else { 30 };
        assert!(server.count("GET", "") <= most, "{}", server.transcript());
        // A host that used up the time for one list is not asked for the next one.
        if script == Script::Slow {
            let before = server.count("GET", "");
            let next = manifest(&layer(b"[]"), &[]);
            for other in ["a/b", "c"] {
                let error = registry.referrers(other, next.digest(), 9).await.unwrap_err();
                assert!(error.to_string().contains("not asked again"), "{error:?}");
                registry.tags(other).await.unwrap_err();
            }
            assert_eq!(server.count("GET", ""), before, "{}", server.transcript());
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Drip,
    Endless,
    Slow,
}

#[tokio::test(start_paused = true)]
async fn the_tags_that_a_hint_would_name_are_not_waited_for_long() {
    let (server, registry) = start(|asked| match asked.target.contains("tags") {
        true => vec![Step::Hang],
        false => vec![answer(404, &[], 0)],
    })
    .await;
    let before = tokio::time::Instant::now();
    clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
    assert_eq!(server.count("GET", "tags"), 1, "{}", server.transcript());
    assert!(before.elapsed() < Duration::from_secs(30), "on the clock of the test");
}

#[tokio::test(start_paused = true)]
async fn redirects_that_drip_or_go_round_in_circles() {
    let (server, registry) = start(|asked| drip(302, &[("location", &format!("{}x", asked.target))])).await;
    clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
    assert_eq!(server.count("GET", "/manifests/"), 11, "{}", server.transcript());

    let blob = layer(b"bytes");
    for status in [301, 302, 303, 307, 308] {
        let (server, registry) =
            start(move |asked| vec![Step::Take, answer(status, &[("location", &asked.target)], 0)]).await;
        clock::run(crate::client::fetch(&registry, "a/b", &blob))
            .await
            .unwrap_err();
        clock::run(registry.head_blob("a/b", &blob)).await.unwrap_err();
        assert_eq!((server.count("GET", ""), server.count("HEAD", "")), (11, 11));
        let source = crate::client::Memory("bytes".into());
        clock::run(registry.push_blob("a/b", &blob, &source, None))
            .await
            .unwrap_err();
        assert_eq!(server.count("POST", ""), 1, "{}", server.transcript());
    }
}

/// Returns a registry that requires a token, and its token server, which follows `script`.
async fn guarded(options: Options, script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> (Server, Registry) {
    let tokens = Server::start(script).await;
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"x\"", tokens.host);
    let server = Server::start(move |_| vec![Step::Take, answer(401, &[("www-authenticate", &challenge)], 0)]).await;
    let registry = with(options, &server.host);
    (tokens, registry)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_drips_or_never_comes() {
    let drips = |_: &Asked| drip(200, &[]);
    let (tokens, registry) = guarded(by_default(), drips).await;
    let error = clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
    assert!(error.full().contains("token"), "{error:?}");
    assert_eq!(tokens.count("GET", "/token"), 1, "{}", tokens.transcript());

    let (tokens, registry) = guarded(by_default(), |_| vec![Step::Take, Step::Hang]).await;
    clock::run(registry.manifest("a/b", &tag("1"))).await.unwrap_err();
    assert_eq!(tokens.count("GET", "/token"), 6, "{}", tokens.transcript());
}

#[tokio::test(start_paused = true)]
async fn a_token_server_that_is_silent_is_not_asked_again_for_everybody_who_waits() {
    let (tokens, registry) = guarded(by_default(), |_| vec![Step::Take, Step::Hang]).await;
    let tags: Vec<_> = (0..20).map(|n| tag(&n.to_string())).collect();
    let all = tags.iter().map(|tag| registry.manifest("a/b", tag));
    let results = clock::run(futures_util::future::join_all(all)).await;
    assert!(results.iter().all(Result::is_err));
    assert_eq!(tokens.count("GET", "/token"), 6, "{}", tokens.transcript());
}
