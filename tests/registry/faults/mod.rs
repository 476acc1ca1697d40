//! The registry client when the connection, the server or a proxy fails: connections, TLS, redirects, retries,
//! throttling, mirrors.

mod encryption;
mod mirrors;
mod redirects;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::client;
use crate::client::{Memory, client, fetch, layer, manifest, noise, options, read, tag, with};
use crate::fill;
use crate::support::fault::{Action, Canned, When};
use crate::support::tls::{Authority, ServerTls, self_signed, write_pem};
use crate::support::{Auth, Double, End, Gate, Options};
use docker_mirror::{
    Authorities, ClientCertificate, Error, Kind, Mirrors, Registries, TlsOptions, parse_mirror,
    testing::{Presence, Registry, WithoutRange},
};

fn server(options: Options) -> Double {
    let server = Double::start(options);
    fill(&server);
    server
}

fn trusting(file: std::path::PathBuf) -> docker_mirror::Options {
    let (mut options, _) = options();
    options.tls = TlsOptions {
        authorities: vec![Authorities::read(&file).unwrap()],
        without_system_roots: true,
        ..TlsOptions::default()
    };
    options
}

async fn pull(registry: &Registry) -> Result<(), Error> {
    registry.manifest("a/b", &tag("1")).await.map(|_| ())
}

#[tokio::test]
async fn what_may_pass_is_waited_out_and_what_will_not_is_not() {
    for status in [
        408, 425, 429, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524, 530, 599,
    ] {
        let server = server(Options::default().fault(When::any().first(5), Action::status(status)));
        let (registry, told) = client(&server.host());
        pull(&registry).await.unwrap();
        assert_eq!((told.retries().len(), told.answers()), (5, 6), "{status}");
        assert!(
            told.retries()[0].contains(&status.to_string()) && told.retries()[0].contains(&server.host()),
            "{:?}",
            told.retries()
        );
    }
    for status in [400, 403, 404, 405, 413, 415, 501] {
        let server = server(Options::default().fault(When::any(), Action::status(status)));
        let (registry, told) = client(&server.host());
        let error = pull(&registry).await.unwrap_err();
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        // A missing tag is searched in the list of tags; no request is sent twice.
        let asked = server.count("GET", "/manifests/");
        assert_eq!((asked, told.retries().len()), (1, 0), "{status}");
    }
}

#[tokio::test]
async fn patience_ends() {
    for (status, kind) in [(503, Kind::Server), (429, Kind::RateLimited)] {
        let server = server(Options::default().fault(When::any(), Action::status(status)));
        let (registry, _) = client(&server.host());
        assert_eq!(pull(&registry).await.unwrap_err().kind(), kind);
        assert_eq!(server.requests().len(), 6, "one and five repetitions");
        let (mut options, told) = options();
        options.retries = Some(0);
        server.forget_requests();
        assert!(pull(&with(options, &server.host())).await.is_err());
        assert_eq!((server.requests().len(), told.retries().len()), (1, 0));
    }
}

#[tokio::test]
async fn a_refusal_that_says_too_much_was_asked_for_is_waited_out() {
    let refusal = || {
        let words = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
        Action::error(403, "DENIED", words)
    };
    let server = server(Options::default().fault(When::get("/manifests/").first(1), refusal()));
    let (registry, told) = client(&server.host());
    pull(&registry).await.unwrap();
    assert_eq!(told.retries().len(), 1);
    let server = self::server(Options::default().fault(When::get("/manifests/"), refusal()));
    let (registry, _) = client(&server.host());
    let error = pull(&registry).await.unwrap_err();
    assert_eq!(error.kind(), Kind::RateLimited, "{error:?}");
}

#[tokio::test]
async fn retry_after_is_honoured_for_all_requests_of_a_host() {
    let server = server(Options::default().fault(When::any().first(1), Action::throttled(Some("1"))));
    let (registry, told) = client(&server.host());
    let begun = Instant::now();
    let crowd = (0..4).map(|_| pull(&registry));
    for result in futures_util::future::join_all(crowd).await {
        result.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(told.pauses(), [Duration::from_secs(1)]);
    for nonsense in ["-5", "soon", "", "1e9", "Thu, 01 Jan 1970 00:00:00 GMT"] {
        let server = self::server(Options::default().fault(When::any().first(1), Action::throttled(Some(nonsense))));
        let (registry, told) = client(&server.host());
        pull(&registry).await.unwrap();
        assert!(
            told.pauses()[0] < Duration::from_secs(1),
            "{nonsense}: {:?}",
            told.pauses()
        );
    }
}

#[tokio::test]
async fn a_pause_that_is_longer_than_a_run_waits_is_told_in_words_for_people() {
    for (stated, shown) in [
        ("601", "10m 1s"),
        ("86400", "1day"),
        ("251416828810", "more than 30 days"),
        ("99999999999999999999999999", "more than 30 days"),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "more than 30 days"),
    ] {
        let server = server(Options::default().fault(When::any(), Action::throttled(Some(stated))));
        let (registry, told) = client(&server.host());
        let error = pull(&registry).await.unwrap_err();
        let hint = error.hint().unwrap_or_default();
        assert!(
            hint.contains(&format!("a pause of {shown}, which is longer")),
            "{stated}: {error:?} {hint}"
        );
        assert_eq!((told.pauses().len(), server.requests().len()), (0, 1), "{stated}");
    }
}

#[tokio::test]
async fn a_long_pause_ends_every_kind_of_request() {
    let config = layer(b"{}");
    let image = manifest(&config, &[]);
    for when in [
        When::post("/blobs/uploads/"),
        When::put("/blobs/uploads/"),
        When::put("/manifests/"),
        When::get("/token"),
    ] {
        let options = Options::default().auth(Auth::bearer("alice", "right"));
        let server = Double::start(options.fault(when.clone(), Action::throttled(Some("3600"))));
        let (options, told) = client::logged_in("alice", "right");
        let registry = with(options, &server.host());
        let blob = registry.push_blob("a", &config, &Memory("{}".into()), None).await;
        let error = match blob {
            Ok(_) => registry.put_manifest("a", &tag("1"), &image).await.unwrap_err(),
            Err(error) => error,
        };
        let hint = error.hint().unwrap_or_default();
        assert!(
            hint.contains("a pause of 1h, which is longer"),
            "{when:?}: {error:?} {hint}"
        );
        assert_eq!(told.pauses(), [Duration::ZERO; 0], "{when:?}: {}", server.transcript());
    }
}

#[tokio::test]
async fn connections_that_break_before_an_answer() {
    for end in [End::Close, End::Reset] {
        let server = server(Options::default().fault(When::any().first(3), Action::End(end)));
        let (registry, told) = client(&server.host());
        // Once reached, a host is known to be one.
        let result = pull(&registry).await;
        assert!(result.is_ok(), "{end:?}: {result:?} {:?}", told.retries());
    }
}

#[tokio::test]
async fn what_is_no_http() {
    for (name, bytes) in [
        ("text", b"hello, this is no registry\r\n\r\n".to_vec()),
        ("zeros", vec![0; 1000]),
        (
            "an endless head",
            [b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".repeat(100_000)].concat(),
        ),
        (
            "two lengths",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x".to_vec(),
        ),
        (
            "a negative length",
            b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}".to_vec(),
        ),
    ] {
        let server = server(Options::default().fault(When::any(), Action::Raw(bytes, End::Close)));
        let (registry, _) = client(&server.host());
        let error = pull(&registry).await.unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Server | Kind::Network),
            "{name}: {error:?}"
        );
        assert!(error.to_string().contains(&server.host()), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_refused_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (registry, told) = client(&host);
    let error = pull(&registry).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(
        error.to_string().contains("refused the connection") && error.to_string().contains(&host),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("port"), "{error:?}");
    assert_eq!(
        told.retries().len(),
        1,
        "a host that was never reached is most likely a wrong address"
    );
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    // `.invalid` never resolves (RFC 6761). With a proxy, the proxy's resolver answers instead.
    let (registry, _) = client("registry.invalid:5000");
    let error = pull(&registry).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network, "{error:?}");
    assert!(error.to_string().contains("registry.invalid:5000"), "{error}");
}

#[tokio::test]
async fn hosts_that_are_none() {
    let (options, _) = options();
    let registries = Registries::new(options).unwrap();
    for host in ["a b", "h/x", "user@h", "h?x", "h:99999", ""] {
        assert_eq!(registries.host(host).unwrap_err().kind(), Kind::Usage, "{host}");
    }
    assert_eq!(registries.host("docker.io").unwrap().host(), "docker.io");
    registries.host("[::1]:5000").unwrap();
}

#[tokio::test]
async fn a_slow_drip_is_borne_within_the_limits_and_ended_beyond_them() {
    let bytes = noise(200_000);
    // Fifty bytes take longer than the time without a byte may, which is far longer than a busy machine holds up one byte.
    let drip = Action::Drip(1, Duration::from_millis(90));
    let server = Double::start(Options::default().fault(When::get("/blobs/"), drip));
    server.store().put_blob("a/b", bytes.clone());
    let (mut options, told) = options();
    options.stall_timeout = Some(Duration::from_secs(4));
    options.retries = Some(0);
    options.minimum_rate = Some(0);
    let lenient = with(options.clone(), &server.host());
    let blob = layer(&bytes);
    let reader = lenient.blob("a/b", &blob, 0..50, WithoutRange::Refuse).await.unwrap();
    assert_eq!(read(reader).await.unwrap(), bytes[..50], "slow, but never silent");
    assert!(told.retries().is_empty());
    options.minimum_rate = None;
    let error = fetch(&with(options, &server.host()), "a/b", &blob).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.full().contains("bytes per second"), "{error:?}");
}

#[tokio::test]
async fn bodies_in_flight_are_limited() {
    let bytes = noise(300_000);
    let server = Double::start(Options {
        latency: Duration::from_millis(5),
        ..Options::default()
    });
    server.store().put_blob("a/b", bytes.clone());
    let (mut options, _) = options();
    options.jobs = Some(3);
    let registry = with(options, &server.host());
    let blob = layer(&bytes);
    let crowd = (0..12).map(|_| fetch(&registry, "a/b", &blob));
    for result in futures_util::future::join_all(crowd).await {
        assert_eq!(result.unwrap(), bytes);
    }
    assert!(server.peak() <= 3, "{} at once", server.peak());
}

/// Sixteen requests are in flight together, and eight of them are refused. After that, one more request at a time is
/// tried more and more rarely.
#[tokio::test]
async fn a_registry_that_takes_eight_requests_at_a_time_refuses_one_burst_and_then_a_few() {
    let together = Action::Hold(Gate::meeting_of(16));
    let server = Double::start(
        Options {
            refuse_above: Some(8),
            ..Options::default()
        }
        .fault(When::any().after(1).first(16), together),
    );
    let (mut options, _) = options();
    options.retry_pause = Some(Duration::from_millis(20));
    let registry = with(options, &server.host());
    // The first answer raises the limit to sixteen.
    let first = layer(b"not there");
    assert_eq!(registry.head_blob("a/b", &first).await.unwrap(), Presence::Missing);
    let crowd = (0..400).map(|number: usize| {
        let registry = &registry;
        async move {
            let bytes = number.to_string();
            let blob = layer(bytes.as_bytes());
            let memory = Memory(bytes.clone().into());
            assert_eq!(registry.head_blob("a/b", &blob).await.unwrap(), Presence::Missing);
            registry.push_blob("a/b", &blob, &memory, None).await.unwrap();
            assert_eq!(fetch(registry, "a/b", &blob).await.unwrap(), bytes.as_bytes());
        }
    });
    futures_util::future::join_all(crowd).await;
    let requests = server.requests();
    let refused: Vec<usize> = (0..requests.len()).filter(|at| requests[*at].status == 429).collect();
    let transcript = || format!("{refused:?} of {}", requests.len());
    let burst = refused.iter().filter(|at| !requests[**at].faults.is_empty()).count();
    assert_eq!(burst, 8, "{}", transcript());
    // The number of rounds between two trials doubles, from 16, and a round has an answer at least.
    assert!(refused.len() - burst <= 16, "{}", transcript());
    assert!(requests.len() > 1600);
}

#[tokio::test]
async fn the_wire_log_has_a_line_for_each_and_no_secret() {
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::SubscriberExt as _;

    // With one dispatcher alone, a log line that another test reaches first is put off for good by that test's thread, which
    // has no subscriber. With two, all of them are asked.
    let _other = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let sink = Sink::default();
    let writer = sink.clone();
    let format = tracing_subscriber::fmt::layer()
        .with_writer(move || writer.clone())
        .with_ansi(false);
    let wire = Targets::new().with_target("docker_mirror::wire", tracing::Level::DEBUG);
    let subscriber = tracing_subscriber::registry().with(wire).with(format);
    let guard = tracing::subscriber::set_default(subscriber);
    let server = server(Options::default().auth(Auth::bearer("user", "s3cret")));
    let (options, _) = client::logged_in("user", "s3cret");
    let registry = with(options, &server.host());
    pull(&registry).await.unwrap();
    registry
        .push_blob("new", &layer(b"new"), &Memory("new".into()), None)
        .await
        .unwrap();
    drop(guard);
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    let lines = |mark: &str| text.lines().filter(|line| line.contains(mark)).count();
    let requests = server.requests().len();
    assert_eq!((lines("> "), lines("< ")), (requests, requests), "{text}");
    assert!(
        text.contains("< 401 GET http://") && text.contains("digest=sha256"),
        "{text}"
    );
    for secret in ["s3cret", "secret", "signature=s", "_state=0", "Bearer", "Basic"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn bodies_of_errors_are_capped() {
    let canned = Canned {
        status: 400,
        headers: vec![],
        body: vec![b'x'; 5 << 20],
    };
    let server = server(Options::default().fault(When::any(), Action::Answer(canned)));
    let error = pull(&client(&server.host()).0).await.unwrap_err();
    assert!(error.full().len() < 3000, "{}", error.full().len());
    assert!(server.requests()[0].bytes_out < 5 << 20);
}
