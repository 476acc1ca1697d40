//! The registry double does what its documentation says: a test of the tests' own server, over real connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support;
use crate::support::fault::{Action, LocationForm, When};
use crate::support::{Auth, Double, End, Options, sha256};

/// Sends one request on a new connection and returns all bytes of the answer.
fn raw(registry: &Double, request: &str) -> String {
    let mut stream = TcpStream::connect(registry.host()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(e) => {
                answer.extend_from_slice(format!("<{:?}>", e.kind()).as_bytes());
                break;
            }
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn call(registry: &Double, method: &str, target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    raw(
        registry,
        &format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        ),
    )
}

fn location(answer: &str) -> String {
    let line = answer
        .lines()
        .find_map(|l| l.strip_prefix("location: "))
        .expect("no Location");
    line.trim().to_owned()
}

fn path_of(location: &str) -> String {
    format!("/v2/{}", location.split_once("/v2/").unwrap().1)
}

#[test]
fn pushes_and_pulls() {
    let registry = Double::new();
    let blob = "hello blob";
    let digest = sha256(blob.as_bytes());
    let started = call(&registry, "POST", "/v2/a/b/blobs/uploads/", "", "");
    assert!(started.starts_with("HTTP/1.1 202"), "{started}");
    let target = path_of(&location(&started));
    let patched = call(&registry, "PATCH", &target, "content-range: 0-4\r\n", "hello");
    assert!(
        patched.starts_with("HTTP/1.1 202") && patched.contains("range: 0-4"),
        "{patched}"
    );
    assert!(call(&registry, "PATCH", &target, "", "stale").starts_with("HTTP/1.1 416"));
    let target = path_of(&location(&patched));
    let wrong = format!("{target}&digest={}", sha256(b"other"));
    let done = call(&registry, "PUT", &format!("{target}&digest={digest}"), "", " blob");
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");
    assert!(call(&registry, "PUT", &wrong, "", "").starts_with("HTTP/1.1 404"));
    let got = call(
        &registry,
        "GET",
        &format!("/v2/a/b/blobs/{digest}"),
        "range: bytes=6-\r\n",
        "",
    );
    assert!(
        got.starts_with("HTTP/1.1 206") && got.ends_with("\r\n\r\nblob"),
        "{got}"
    );
    assert!(got.contains("content-range: bytes 6-9/10"), "{got}");

    let descriptor = format!(r#"{{"mediaType":"x","digest":"{digest}","size":10}}"#);
    let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#);
    let kind = "content-type: application/vnd.oci.image.manifest.v1+json\r\n";
    assert!(call(&registry, "PUT", "/v2/other/manifests/1", kind, &manifest).contains("MANIFEST_BLOB_UNKNOWN"));
    let mount = format!("/v2/other/blobs/uploads/?mount={digest}&from=a/b");
    assert!(call(&registry, "POST", &mount, "", "").starts_with("HTTP/1.1 201"));
    assert!(call(&registry, "PUT", "/v2/other/manifests/1", kind, &manifest).starts_with("HTTP/1.1 201"));
    let refused = call(&registry, "GET", "/v2/other/manifests/1", "accept: text/plain\r\n", "");
    assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
    let got = call(&registry, "GET", "/v2/other/manifests/1", "accept: */*\r\n", "");
    assert!(
        got.ends_with(&manifest) && got.contains(&sha256(manifest.as_bytes())),
        "{got}"
    );
    let head = call(&registry, "HEAD", "/v2/other/manifests/1", "accept: */*\r\n", "");
    assert!(
        head.contains(&format!("content-length: {}", manifest.len())) && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert_eq!(registry.count("PUT", "/manifests/"), 2);
    assert!(call(&registry, "GET", "/v2/other/tags/list", "", "").contains(r#""tags":["1"]"#));
}

#[test]
fn wrong_upload_is_refused() {
    let registry = Double::new();
    let target = path_of(&location(&call(&registry, "POST", "/v2/a/blobs/uploads/", "", "")));
    let wrong = call(
        &registry,
        "PUT",
        &format!("{target}&digest={}", sha256(b"other")),
        "",
        "body",
    );
    assert!(wrong.contains("DIGEST_INVALID"), "{wrong}");
    assert_eq!(registry.store().open_uploads(), 0);
}

#[test]
fn bodies_break_as_told() {
    let registry = Double::new();
    let digest = registry.store().put_blob("a", vec![b'a'; 200_000]);
    let target = format!("/v2/a/blobs/{digest}");
    let body = |answer: &str| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    for (action, expected) in [
        (Action::cut(1000), "a".repeat(1000)),
        (Action::cut(150_000), "a".repeat(150_000)),
        (Action::stall(70_000), "a".repeat(70_000) + "<WouldBlock>"),
        (Action::cut(0), String::new()),
    ] {
        registry.clear_faults();
        registry.add_fault(When::get("/blobs/"), action.clone());
        let got = call(&registry, "GET", &target, "", "");
        assert!(got.contains("content-length: 200000"), "{action:?}");
        assert!(body(&got) == expected, "{action:?}: {} bytes", body(&got).len());
    }
    registry.clear_faults();
    registry.add_fault(When::get("/blobs/"), Action::reset(1000));
    assert!(call(&registry, "GET", &target, "", "").ends_with("<ConnectionReset>"));
    registry.clear_faults();
    registry.add_fault(When::get("/blobs/"), Action::Overrun(7));
    let got = call(&registry, "GET", &target, "", "");
    assert!(got.contains("content-length: 200000") && got.ends_with("axxxxxxx"));
    registry.clear_faults();
    registry.add_fault(When::get("/blobs/"), Action::ContentLength(-150_000));
    assert_eq!(body(&call(&registry, "GET", &target, "", "")).len(), 50_000);
    registry.clear_faults();
    registry.add_fault(When::get("/blobs/"), Action::FlipBit(100_000));
    let got = body(&call(&registry, "GET", &target, "range: bytes=99999-100001\r\n", ""));
    assert_eq!(got, "a`a");
    registry.clear_faults();
    registry.add_fault(
        When::get("/blobs/"),
        Action::Raw(b"no http at all".to_vec(), End::Close),
    );
    assert_eq!(call(&registry, "GET", &target, "", ""), "no http at all");
    registry.clear_faults();
    registry.add_fault(When::get("/blobs/"), Action::End(End::Reset));
    assert_eq!(call(&registry, "GET", &target, "", ""), "<ConnectionReset>");
}

#[test]
fn rules_count() {
    let registry = Double::start(Options::default().fault(When::get("/v2/").after(1).first(2), Action::status(503)));
    let statuses: Vec<bool> = (0..5)
        .map(|_| call(&registry, "GET", "/v2/", "", "").starts_with("HTTP/1.1 503"))
        .collect();
    assert_eq!(statuses, [false, true, true, false, false]);
}

#[test]
fn request_is_cut_and_the_session_remembers() {
    let registry = Double::new();
    registry.add_fault(When::patch("/uploads/").first(1), Action::CutRequest(3, End::Reset));
    registry.add_fault(When::post("/uploads/"), Action::Location(LocationForm::Path));
    let at = location(&call(&registry, "POST", "/v2/a/blobs/uploads/", "", ""));
    assert!(at.starts_with("/v2/"), "{at}");
    assert!(call(&registry, "PATCH", &at, "", "hello").ends_with("<ConnectionReset>"));
    let status = call(&registry, "GET", &at, "", "");
    assert!(
        status.starts_with("HTTP/1.1 204") && status.contains("range: 0-2"),
        "{status}"
    );
}

#[test]
fn tokens_are_asked_for_and_checked() {
    let registry = Double::start(Options::default().auth(Auth::bearer("me", "secret")));
    let digest = registry.store().put_blob("a/b", "x");
    let target = format!("/v2/a/b/blobs/{digest}");
    let challenge = call(&registry, "GET", &target, "", "");
    let scope = r#"scope="repository:a/b:pull""#;
    assert!(
        challenge.starts_with("HTTP/1.1 401") && challenge.contains(scope),
        "{challenge}"
    );
    let refused = call(
        &registry,
        "GET",
        "/token?service=double&scope=repository:a/b:pull",
        "authorization: Basic eDp5\r\n",
        "",
    );
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let right = "authorization: Basic bWU6c2VjcmV0\r\n";
    let token = call(
        &registry,
        "GET",
        "/token?service=double&scope=repository:a/b:pull",
        right,
        "",
    );
    assert!(token.contains("secret-token-1"), "{token}");
    let bearer = "authorization: Bearer secret-token-1\r\n";
    assert!(call(&registry, "GET", &target, bearer, "").starts_with("HTTP/1.1 200"));
    let push = call(&registry, "POST", "/v2/a/b/blobs/uploads/", bearer, "");
    assert!(
        push.starts_with("HTTP/1.1 401") && push.contains("insufficient_scope"),
        "{push}"
    );
}

#[test]
fn a_folder_survives() {
    let folder = tempfile::tempdir().unwrap();
    let options = || Options {
        folder: Some(folder.path().to_owned()),
        ..Options::default()
    };
    let registry = Double::start(options());
    let digest = registry.store().put_blob("a/b", "kept");
    registry
        .store()
        .put_manifest("a/b", Some("1"), "application/x", "{}".into());
    drop(registry);
    let registry = Double::start(options());
    assert_eq!(registry.store().blob("a/b", &digest).unwrap().all(), "kept");
    assert_eq!(registry.manifest("a/b", "1").unwrap(), "{}");
}

#[test]
fn the_fixture_is_what_its_description_says() {
    let image = support::images::greeting();
    let root = image.root.json();
    let entries = root["manifests"].as_array().unwrap();
    let count = |os: &str| entries.iter().filter(|e| e["platform"]["os"] == os).count();
    assert_eq!((count("linux"), count("windows"), count("unknown")), (8, 2, 10));
    // The documents of linux: eight images, and the attestation of each.
    assert_eq!(image.documents_of("linux").len(), 16);
    assert_eq!(image.documents_of("windows").len(), 4);
    assert_eq!(image.digest(), support::images::greeting().digest());
    let registry = Double::new();
    image.push(&registry, "library/greeting", "1.0");
    let client = support::http::Client::new(&registry.host());
    let by_tag = client.manifest("library/greeting", "1.0").unwrap();
    assert_eq!(by_tag, image.root.bytes);
    let blobs = support::image::Image::blobs_of(&image.below);
    for digest in &blobs {
        assert_eq!(client.blob("library/greeting", digest).unwrap(), image.blobs[digest]);
    }
    assert_eq!(blobs.len(), image.blobs.len());
}

#[test]
fn tls_and_client_certificates() {
    let authority = support::tls::Authority::new("test authority");
    let pair = authority.server(&["127.0.0.1", "localhost"]);
    let open = Double::start(Options::default().tls(support::tls::ServerTls::new(pair.clone())));
    let client = |registry: &Double| support::http::Client {
        host: registry.host(),
        authority: Some(authority.pem()),
        login: None,
    };
    assert!(client(&open).ping());
    let image = support::images::helm_chart();
    client(&open).push(&image, "charts/x", "1");
    assert_eq!(open.manifest("charts/x", "1").unwrap(), image.root.bytes);
    let strict = support::tls::ServerTls::new(pair).only_clients_of(&authority);
    let closed = Double::start(Options::default().tls(strict));
    assert!(!client(&closed).ping());
    assert!(closed.requests().is_empty());
}

#[test]
fn pull_limit_counts_manifests_that_are_got() {
    let registry = Double::start(Options {
        pull_limit: Some(support::PullLimit {
            limit: 100,
            remaining: 2,
            window: 21600,
        }),
        ..Options::default()
    });
    support::images::helm_chart().push(&registry, "a", "1");
    let target = "/v2/a/manifests/1";
    let head = call(&registry, "HEAD", target, "accept: */*\r\n", "");
    assert!(
        head.contains("ratelimit-remaining: 2;w=21600") && head.contains("ratelimit-limit: 100;w=21600"),
        "{head}"
    );
    let answers: Vec<String> = (0..3)
        .map(|_| call(&registry, "GET", target, "accept: */*\r\n", ""))
        .collect();
    assert!(answers[1].starts_with("HTTP/1.1 200") && answers[1].contains("ratelimit-remaining: 0"));
    assert!(answers[2].starts_with("HTTP/1.1 429") && answers[2].contains("TOOMANYREQUESTS"));
}

#[test]
fn children_tags_and_referrers_are_checked_as_told() {
    let image = support::images::linux_and_windows(support::image::Style::Oci);
    let kind = format!("content-type: {}\r\n", image.root.media_type);
    let body = std::str::from_utf8(&image.root.bytes).unwrap();
    let strict = Double::new();
    assert!(call(&strict, "PUT", "/v2/a/manifests/1", &kind, body).contains("MANIFEST_BLOB_UNKNOWN"));
    let lenient = Double::start(Options {
        accept_sparse: true,
        immutable_tags: Some(support::Immutable::Other),
        ..Options::default()
    });
    assert!(call(&lenient, "PUT", "/v2/a/manifests/1", &kind, body).starts_with("HTTP/1.1 201"));
    assert!(call(&lenient, "PUT", "/v2/a/manifests/1", &kind, body).starts_with("HTTP/1.1 201"));
    let referrer = format!(
        r#"{{"schemaVersion":2,"mediaType":"{0}","manifests":[],"artifactType":"x/y","subject":{{"digest":"{1}"}}}}"#,
        image.root.media_type,
        image.digest()
    );
    assert!(call(&lenient, "PUT", "/v2/a/manifests/1", &kind, &referrer).starts_with("HTTP/1.1 409"));
    let put = call(&lenient, "PUT", "/v2/a/manifests/2", &kind, &referrer);
    assert!(put.contains(&format!("oci-subject: {}", image.digest())), "{put}");
    let list = call(&lenient, "GET", &format!("/v2/a/referrers/{}", image.digest()), "", "");
    assert!(list.contains(&sha256(referrer.as_bytes())), "{list}");
}

#[test]
fn answers_are_bent_as_told() {
    let registry = Double::new();
    let digest = registry.store().put_blob("a", "0123456789");
    let target = format!("/v2/a/blobs/{digest}");
    let bend = |action: Action, headers: &str| {
        registry.clear_faults();
        registry.add_fault(When::path("/blobs/"), action);
        call(&registry, "GET", &target, headers, "")
    };
    let range = "range: bytes=4-\r\n";
    assert!(bend(Action::IgnoreRange, range).ends_with("\r\n\r\n0123456789"));
    let wrong = bend(Action::WrongStart(-2), range);
    assert!(
        wrong.contains("content-range: bytes 2-9/10") && wrong.ends_with("\r\n\r\n23456789"),
        "{wrong}"
    );
    assert!(bend(Action::NoRange, range).starts_with("HTTP/1.1 416"));
    assert!(!bend(Action::Header("docker-content-digest", None), "").contains("docker-content-digest"));
    let moved = bend(Action::redirect(307, "http://127.0.0.1:1{target}"), "");
    assert!(
        moved.contains(&format!("location: http://127.0.0.1:1{target}")),
        "{moved}"
    );
    let chunked = bend(Action::Chunked, "");
    assert!(
        chunked.contains("transfer-encoding: chunked") && !chunked.contains("content-length"),
        "{chunked}"
    );
    registry.clear_faults();
    registry.add_fault(When::head("/blobs/"), Action::PretendPresent);
    let absent = call(&registry, "HEAD", &format!("/v2/a/blobs/{}", sha256(b"absent")), "", "");
    assert!(
        absent.starts_with("HTTP/1.1 200") && !absent.contains("content-length"),
        "{absent}"
    );
}
