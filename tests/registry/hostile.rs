//! Answers of broken and hostile registries: each is one clear error or is accepted, within limits of bytes, requests
//! and time.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::client::{Memory, client, fetch, layer, logged_in, noise, options, tag, with};
use crate::support::fault::{Action, Canned, LocationForm, When};
use crate::support::{Auth, Cli, Double, End};
use crate::{client, support};
use docker_mirror::{Error, Kind, Mirrors, Options, Proxies, parse_mirror, testing::Registry};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn server(options: support::Options) -> Double {
    let server = Double::start(options);
    fill(&server);
    server
}

fn fill(server: &Double) {
    let image = client::manifest(&layer(b"{}"), &[layer(b"layer")]);
    server.store().put_blob("a/b", &b"layer"[..]);
    server
        .store()
        .put_manifest("a/b", Some("1"), TYPE, image.bytes().clone());
}

fn faulty(when: When, action: Action) -> Double {
    server(support::Options::default().fault(when, action))
}

async fn pull(registry: &Registry) -> Result<(), Error> {
    registry.manifest("a/b", &tag("1")).await.map(drop)
}

/// Returns options in which this double is the proxy to `registry.invalid` and so answers for it: a registry that is
/// not on this machine.
fn elsewhere(double: &Double) -> Options {
    let (mut options, _) = options();
    let address = double.url().to_owned();
    options.proxies = Proxies::standard(&|name| (name == "HTTP_PROXY").then(|| address.clone().into())).unwrap();
    options.plain_http = true;
    options.retries = Some(1);
    options
}

#[tokio::test]
async fn lengths_that_contradict_each_other() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n";
    for (name, rest, good) in [
        (
            "two lengths",
            "content-length: 5\r\ncontent-length: 6\r\n\r\nlayer!",
            false,
        ),
        ("a list of lengths", "content-length: 5, 6\r\n\r\nlayer!", false),
        ("a negative one", "content-length: -5\r\n\r\nlayer", false),
        ("a sign", "content-length: +5\r\n\r\nlayer", false),
        ("a huge one", "content-length: 99999999999999999999\r\n\r\nlayer", false),
        ("more than there is", "content-length: 50\r\n\r\nlayer", false),
        ("less than the blob", "content-length: 4\r\n\r\nlayer", false),
        (
            "a broken chunk",
            "transfer-encoding: chunked\r\n\r\nzz\r\nlayer\r\n0\r\n\r\n",
            false,
        ),
        (
            "the same twice",
            "content-length: 5\r\ncontent-length: 5\r\n\r\nlayer",
            true,
        ),
    ] {
        let raw = format!("{head}{rest}").into_bytes();
        let server = faulty(When::get("/blobs/"), Action::Raw(raw, End::Close));
        let (mut options, _) = options();
        options.retries = Some(1);
        let result = fetch(&with(options, &server.host()), "a/b", &layer(b"layer")).await;
        match result {
            Ok(bytes) => assert!(good && bytes == b"layer", "{name}"),
            Err(error) => {
                assert!(!good, "{name}: {error:?}");
                assert!(error.full().contains(&server.host()), "{name}: {error:?}");
            }
        }
        assert!(server.requests().len() <= 2, "{name}: {}", server.transcript());
    }
}

/// A length together with chunks is used to smuggle requests: whatever the client makes of it, it does not read a
/// second answer behind the first.
#[tokio::test]
async fn a_length_and_chunks_at_once_poison_no_connection() {
    let raw = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nlayer\r\n0\r\n\r\n\
               HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npoisoned!";
    let server = faulty(When::get("/blobs/"), Action::Raw(raw.as_bytes().to_vec(), End::Close));
    let (mut options, _) = options();
    options.retries = Some(1);
    let registry = with(options, &server.host());
    if let Ok(bytes) = fetch(&registry, "a/b", &layer(b"layer")).await {
        assert_eq!(bytes, b"layer");
    }
    let manifest = registry.manifest("a/b", &tag("1")).await.unwrap();
    assert!(!manifest.bytes().starts_with(b"poisoned"));
}

#[tokio::test]
async fn an_endless_body_ends_at_the_size_that_was_promised() {
    let endless = noise(64 << 20);
    for action in [Action::Chunked, Action::Overrun(32 << 20)] {
        let server = Double::start(support::Options::default().fault(When::get("/blobs/"), action.clone()));
        // The store has far more bytes under the digest than the descriptor states.
        let blob = layer(&endless[..1000]);
        server
            .store()
            .change("a/b", |repository| repository.blobs.insert(blob.digest.to_string()));
        let chunked = matches!(action, Action::Chunked);
        let content = if chunked {
            endless.clone()
        } else {
            endless.slice(..1000)
        };
        server.store().keep(&blob.digest.to_string(), content);
        let (mut options, _) = options();
        options.retries = Some(0);
        let result = fetch(&with(options, &server.host()), "a/b", &blob).await;
        if chunked {
            assert_eq!(result.unwrap_err().kind(), Kind::Integrity);
            let out = server.requests()[0].bytes_out;
            assert!(out < 32 << 20, "{out} bytes of an endless body were taken");
        } else {
            // What follows a body of the right length is none of it.
            assert_eq!(result.unwrap(), endless[..1000]);
        }
    }
}

#[tokio::test]
async fn several_ranges_in_one_answer_are_not_taken() {
    let bytes = noise(4000);
    let body = b"--x\r\ncontent-type: a/b\r\ncontent-range: bytes 10-19/4000\r\n\r\n0123456789\r\n--x--\r\n".to_vec();
    let canned = Canned {
        status: 206,
        headers: vec![("content-type".into(), "multipart/byteranges; boundary=x".into())],
        body,
    };
    let server = faulty(When::get("/blobs/"), Action::Answer(canned));
    server.store().put_blob("a/b", bytes.clone());
    let (registry, _) = client(&server.host());
    let without = docker_mirror::testing::WithoutRange::Skip;
    // The same answer to a request without a range is not taken either.
    let error = match registry.blob("a/b", &layer(&bytes), 10..20, without).await {
        Ok(reader) => client::read(reader).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), Kind::Server, "{error:?}");
    assert!(server.requests().len() < 3, "{}", server.transcript());
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap();
    let (mut options, told) = options();
    options.mirrors = Mirrors::new(vec![parse_mirror(&format!("h.invalid=https://{silent}")).unwrap()]);
    options.retries = Some(0);
    options.connect_timeout = Some(Duration::from_millis(300));
    let begun = Instant::now();
    pull(&with(options, "h.invalid")).await.unwrap_err();
    assert!(told.warnings()[0].contains("in time"), "{:?}", told.warnings());
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn nobody_sends_a_registry_elsewhere_to_this_machine() {
    let here = Double::new();
    let targets = [
        format!("{}{{target}}", here.url()),
        format!("http://localhost:{}/", here.host().rsplit_once(':').unwrap().1),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://[::1]/".to_owned(),
        "http://[fe80::1]/".to_owned(),
        "http://0.0.0.0/".to_owned(),
        "http://2130706433/".to_owned(),
        format!("http://localhost.:{}/", here.host().rsplit_once(':').unwrap().1),
        format!("http://x.localhost.:{}/", here.host().rsplit_once(':').unwrap().1),
        "http://x.localhost/".to_owned(),
        "http://0x7f.1/".to_owned(),
        "http://0177.0.0.1/".to_owned(),
        "http://127.1/".to_owned(),
        "http://0/".to_owned(),
        "http://[::]/".to_owned(),
        "http://[::ffff:127.0.0.1]/".to_owned(),
        "http://[::ffff:169.254.169.254]/".to_owned(),
        "http://[64:ff9b::127.0.0.1]/".to_owned(),
        "http://[fd00:ec2::254]/".to_owned(),
        "http://100.100.100.200/".to_owned(),
        // A user name that looks like the registry, and other spellings of addresses.
        "http://registry.invalid@127.0.0.1/".to_owned(),
        "http://registry.invalid:80@127.0.0.1:80/".to_owned(),
        "http://127.0.0.1#@registry.invalid/".to_owned(),
        "http://127.0.0.1?@registry.invalid/".to_owned(),
        "http://127.0.0.1./".to_owned(),
        "http://%31%32%37.0.0.1/".to_owned(),
        "http://0x7F.0x0.0X0.0x1/".to_owned(),
        "http://017700000001/".to_owned(),
        "http://0x7f000001/".to_owned(),
        "http://127.0.1/".to_owned(),
        "http://0x/".to_owned(),
        "http://LOCALHOST/".to_owned(),
        "http://[0:0:0:0:0:0:0:1]/".to_owned(),
        "http://[::127.0.0.1]/".to_owned(),
        "http://[0:0::ffff:7f00:0001]/".to_owned(),
        "http://[2002:7f00:1::]/".to_owned(),
        "http://0xa9fea9fe/".to_owned(),
        "http://2852039166/".to_owned(),
        "http://0251.0376.0251.0376/".to_owned(),
        "http://169.254.43518/".to_owned(),
    ];
    for target in &targets {
        // By a redirect,
        let server = faulty(When::any(), Action::redirect(307, target));
        let error = pull(&with(elsewhere(&server), "registry.invalid")).await.unwrap_err();
        assert!(
            error.full().contains("an address of this machine"),
            "{target}: {error:?}"
        );
        // by the realm of a challenge,
        let challenge = format!("Bearer realm=\"{}\"", target.replace("{target}", "/token"));
        let server = faulty(When::any(), Action::challenge(&[&challenge]));
        let error = pull(&with(elsewhere(&server), "registry.invalid")).await.unwrap_err();
        assert!(
            error.full().contains("an address of this machine"),
            "{target}: {error:?}"
        );
        let mut options = elsewhere(&server);
        options.any_token_server = true;
        let error = pull(&with(options, "registry.invalid")).await.unwrap_err();
        assert!(
            !error.full().contains("an address of this machine"),
            "{target}: {error:?}"
        );
    }
    // or by the location of an upload.
    here.forget_requests();
    for target in &targets {
        let target = target.replace("{target}", "/").trim_end_matches('/').to_owned();
        let server = faulty(
            When::post("/blobs/uploads/"),
            Action::Location(LocationForm::Elsewhere(target.clone())),
        );
        let registry = with(elsewhere(&server), "registry.invalid");
        let error = registry
            .push_blob("a/b", &layer(b"new"), &Memory("new".into()), None)
            .await
            .unwrap_err();
        assert!(
            error.full().contains("an address of this machine"),
            "{target}: {error:?}"
        );
    }
    assert!(here.requests().is_empty(), "{}", here.transcript());
}

#[tokio::test]
async fn a_realm_without_encryption_is_not_asked_by_an_encrypted_registry() {
    use crate::support::tls::{ServerTls, self_signed};
    let plain = Double::new();
    let challenge = format!("Bearer realm=\"{}/token\"", plain.url());
    let tls = support::Options::default().tls(ServerTls::new(self_signed(&["127.0.0.1"])));
    let server = server(tls.fault(When::any(), Action::challenge(&[&challenge])));
    let (mut options, _) = logged_in("user", "s3cret");
    options.tls.insecure = true;
    let error = pull(&with(options, &server.host())).await.unwrap_err();
    assert!(error.full().contains("not encrypted"), "{error:?}");
    assert!(plain.requests().is_empty(), "{}", plain.transcript());
}

#[tokio::test]
async fn challenges_beyond_all_measure() {
    let long = format!("Bearer realm=\"https://h.invalid/{}\"", "x".repeat(64 << 10));
    let many = vec!["Bearer realm=\"http://127.0.0.1:1/t\",service=\"s\""; 80];
    let parameters = format!("Bearer {}realm=\"http://127.0.0.1:1/t\"", "a=\"b\",".repeat(5000));
    for challenge in [vec![long.as_str()], many, vec![parameters.as_str()]] {
        let server = faulty(When::any(), Action::challenge(&challenge));
        let (mut options, _) = logged_in("user", "s3cret");
        options.retries = Some(0);
        let error = pull(&with(options, &server.host())).await.unwrap_err();
        assert!(
            error.full().len() < 2000 && !error.full().contains("s3cret"),
            "{}",
            error.full()
        );
        assert!(server.requests().len() <= 3, "{}", server.transcript());
    }
}

#[tokio::test]
async fn an_upload_that_is_sent_elsewhere_goes_there_without_credentials() {
    for status in [307, 308] {
        let other = Double::start(support::Options::default().fault(When::put("/"), Action::status(201)));
        let to = format!("{}{{target}}", other.url());
        let server = Double::start(support::Options::default().auth(Auth::basic("user", "s3cret")).fault(
            When::put("/blobs/uploads/").with_header("authorization"),
            Action::redirect(status, &to),
        ));
        let (mut options, _) = logged_in("user", "s3cret");
        options.retries = Some(0);
        let bytes = noise(100_000);
        // The blob is missing afterwards; only the targets of the requests matter.
        let _ = with(options, &server.host())
            .push_blob("a/b", &layer(&bytes), &Memory(bytes.clone()), None)
            .await;
        let put = &other.requests_of("PUT", "")[0];
        assert_eq!(put.bytes_in, 100_000, "{status}: {}", other.transcript());
        for request in other.requests() {
            let text = request.everything().to_lowercase();
            assert!(!text.contains("authorization") && !text.contains("s3cret"), "{text}");
        }
    }
}

#[tokio::test]
async fn offsets_that_are_always_wrong_come_to_an_end() {
    let wrong = || Action::error(416, "RANGE_INVALID", "wrong");
    let bytes = noise(2 << 20);
    let blob = layer(&bytes);
    // The strategy without offsets is allowed again once the strategy with offsets has failed.
    let once = support::Options::default()
        .fault(When::put("/blobs/uploads/").first(1), Action::status(405))
        .fault(When::patch("/blobs/uploads/"), wrong());
    let never = support::Options::default()
        .fault(When::put("/blobs/uploads/"), Action::status(405))
        .fault(When::patch("/blobs/uploads/"), wrong());
    for (options, good) in [(once, true), (never, false)] {
        let server = Double::start(options);
        let (registry, _) = client(&server.host());
        let result = registry.push_blob("a/b", &blob, &Memory(bytes.clone()), None).await;
        assert_eq!(result.is_ok(), good, "{result:?}");
        assert!(server.requests().len() < 40, "{}", server.transcript());
    }
}

#[tokio::test]
async fn an_address_of_ipv6() {
    let server = Double::start_on("[::1]:0", support::Options::default());
    fill(&server);
    assert!(server.host().starts_with("[::1]:"), "{}", server.host());
    let (registry, _) = client(&server.host());
    pull(&registry).await.unwrap();
    let name = format!("{}/a/b:1", server.host());
    let reference: docker_mirror::Reference = name.parse().unwrap();
    assert_eq!(
        (reference.host(), reference.to_string()),
        (server.host().as_str(), name)
    );
}

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

#[test]
fn a_resumed_body_from_a_backend_with_other_bytes_is_fetched_anew() {
    let cli = cli();
    let image = support::images::greeting();
    // Longer than the bytes that are read before the break, so that the rest is requested by range.
    let server = Double::start(
        support::Options::default()
            .fault(When::get("/blobs/").first(1), Action::cut(100))
            .fault(When::get("/blobs/").with_header("range").first(1), Action::FlipBit(150)),
    );
    image.push(&server, "a/b", "1");
    let name = format!("{}/a/b:1", server.host());
    cli.succeed(&["export", &name, "-o", "b.tar", "--jobs", "1"]);
    let to = Double::new();
    cli.succeed(&["import", "b.tar", "-d", &to.host()]);
    assert!(
        server
            .requests()
            .iter()
            .any(|r| r.header("range").starts_with("bytes="))
    );
}

#[test]
fn a_child_that_was_deleted_fails_its_image_and_no_other() {
    let cli = cli();
    let server = Double::new();
    support::images::greeting().push(&server, "a/b", "1");
    support::images::small(support::image::Style::Oci, "linux/amd64", "other").push(&server, "c/d", "1");
    server.add_fault(
        When::get("/v2/a/b/manifests/sha256:").after(1),
        Action::error(404, "MANIFEST_UNKNOWN", "gone"),
    );
    let names = ["a/b:1", "c/d:1"].map(|name| format!("{}/{name}", server.host()));
    let output = cli.run(&["export", &names[0], &names[1], "-o", "b.tar", "--allow-partial"]);
    let text = output.everything();
    assert!(text.contains("MANIFEST_UNKNOWN") && text.contains("a/b"), "{text}");
    assert!(output.stdout.contains("c/d:1@sha256:"), "{text}");
}

#[test]
fn two_importers_at_once_do_not_disturb_each_other() {
    let cli = cli();
    let from = Double::new();
    support::images::greeting().push(&from, "a/b", "1");
    cli.succeed(&["export", &format!("{}/a/b:1", from.host()), "-o", "b.tar"]);
    let to = Double::start(support::Options {
        latency: Duration::from_millis(2),
        ..support::Options::default()
    });
    let host = to.host();
    let runs: Vec<_> = (0..3).map(|_| cli.spawn(&["import", "b.tar", "-d", &host])).collect();
    let outputs: Vec<_> = runs.into_iter().map(|run| run.wait_with_output().unwrap()).collect();
    for output in &outputs {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, outputs[0].stdout);
    }
    cli.succeed(&["export", &format!("{host}/a/b:1"), "-o", "again.tar"]);
    assert_eq!(to.store().open_uploads(), 0, "{}", to.transcript());
}
