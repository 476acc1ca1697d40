//! Redirects: which are followed, and with what.

use super::*;

/// Redirects that are not followed; the error names both URLs without their queries.
#[tokio::test]
async fn redirects_that_are_refused() {
    for (name, to, words) in [
        ("a loop", "{target}", "more than 10 times"),
        ("a file", "file:///etc/passwd", "not http"),
        ("ftp", "ftp://x.example/y", "not http"),
        ("nonsense", "http://[", "not an address"),
    ] {
        let server = server(Options::default().fault(When::any(), Action::redirect(302, to)));
        let (registry, told) = client(&server.host());
        let error = pull(&registry).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Server, "{name}: {error:?}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(server.requests().len() <= 11, "{name}");
        assert!(told.retries().is_empty(), "{name}");
    }
    let silent = server(Options::default().fault(When::any(), Action::status(302)));
    let error = pull(&client(&silent.host()).0).await.unwrap_err();
    assert!(error.to_string().contains("without saying where"), "{error}");
    // From https to http.
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    let plain = server(Options::default());
    let tls = Options::default().tls(ServerTls::new(authority.server(&["127.0.0.1"])));
    let tls = server(tls.fault(
        When::any(),
        Action::redirect(302, &format!("{}/x?sig=s3cret", plain.url())),
    ));
    let file = write_pem(folder.path(), "ca.pem", &authority.pem());
    let error = pull(&with(trusting(file), &tls.host())).await.unwrap_err();
    assert!(error.to_string().contains("gives up encryption"), "{error}");
    assert!(
        error.to_string().contains("/x?…") && !error.full().contains("s3cret"),
        "{error:?}"
    );
    assert_eq!(plain.requests().len(), 0);
}

#[tokio::test]
async fn redirects_that_are_followed() {
    for status in [301, 302, 303, 307, 308] {
        let store = server(Options::default());
        let server = server(Options::default().fault(
            When::get("/blobs/"),
            Action::redirect(status, &format!("{}{{target}}", store.url())),
        ));
        let (registry, _) = client(&server.host());
        assert_eq!(fetch(&registry, "a/b", &layer(b"{}")).await.unwrap(), b"{}");
        let reader = registry
            .blob("a/b", &layer(b"{}"), 1..2, WithoutRange::Refuse)
            .await
            .unwrap();
        assert_eq!(read(reader).await.unwrap(), b"}");
        assert_eq!(
            store.requests().last().unwrap().header("range"),
            "bytes=1-1",
            "{status}"
        );
    }
    // Ten hops are borne.
    let server = server(Options::default().fault(When::any().first(10), Action::redirect(307, "{target}")));
    pull(&client(&server.host()).0).await.unwrap();
}

#[tokio::test]
async fn a_broken_download_goes_back_to_the_registry_and_not_to_the_expired_address() {
    let bytes = noise(4 << 20);
    let blob = layer(&bytes);
    let store = Double::start(Options::default().fault(When::any().first(1), Action::cut(2 << 20)));
    store.store().put_blob("a/b", bytes.clone());
    let server = server(Options::default().fault(
        When::get("/blobs/"),
        Action::redirect(307, &format!("{}{{target}}?sig=1", store.url())),
    ));
    let (registry, _) = client(&server.host());
    assert_eq!(fetch(&registry, "a/b", &blob).await.unwrap(), bytes);
    assert_eq!((server.count("GET", "/blobs/"), store.count("GET", "/blobs/")), (2, 2));
}

#[tokio::test]
async fn a_head_that_is_redirected_to_where_it_is_refused() {
    let store = server(Options::default().fault(When::any(), Action::status(403)));
    let server = server(Options::default().fault(
        When::head("/"),
        Action::redirect(307, &format!("{}{{target}}", store.url())),
    ));
    let (registry, _) = client(&server.host());
    assert_eq!(
        registry.head_blob("a/b", &layer(b"{}")).await.unwrap(),
        Presence::Unknown
    );
}

/// A registry that has a blob and sends the question for it to a store.
fn before_store(store: &str, options: Options) -> Double {
    server(options.fault(
        When::head("/blobs/"),
        Action::redirect(307, &format!("{store}/bucket/x?X-Amz-Signature=s3cret")),
    ))
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_for_a_blob_is_told_once_and_the_blob_is_sent() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for store in [
        "http://minio.storage.invalid:9000".to_owned(),
        format!("http://{closed}"),
        "ftp://127.0.0.1".to_owned(),
    ] {
        let server = before_store(&store, Options::default());
        let (registry, told) = client(&server.host());
        for bytes in [noise(1000), noise(2000)] {
            let blob = layer(&bytes);
            assert_eq!(registry.head_blob("a/b", &blob).await.unwrap(), Presence::Unknown);
            registry.push_blob("a/b", &blob, &Memory(bytes), None).await.unwrap();
        }
        assert_eq!(told.retries(), Vec::<String>::new());
        let warnings = told.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for words in ["redirects the question", &server.host(), "redirect: disable"] {
            assert!(warnings[0].contains(words), "{warnings:?}");
        }
        assert!(!warnings[0].contains("s3cret"), "{warnings:?}");
    }
}

#[tokio::test]
async fn what_a_store_says_of_a_blob_counts_if_it_can_be_asked() {
    for (status, expected) in [
        (200, Presence::Present(())),
        (404, Presence::Missing),
        (401, Presence::Unknown),
        (403, Presence::Unknown),
        (503, Presence::Unknown),
    ] {
        let answer = Canned {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        let store = server(Options::default().fault(When::any(), Action::Answer(answer)));
        let server = before_store(store.url(), Options::default());
        let (registry, told) = client(&server.host());
        let found = registry.head_blob("a/b", &layer(b"")).await.unwrap();
        assert_eq!(found, expected, "{status}");
        assert_eq!(told.warnings(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_store_without_tls_below_a_registry_with_it_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    let file = write_pem(folder.path(), "ca.pem", &authority.pem());
    let store = server(Options::default());
    let tls = Options::default().tls(ServerTls::new(authority.server(&["127.0.0.1"])));
    let server = before_store(store.url(), tls);
    let registry = with(trusting(file), &server.host());
    let bytes = noise(1000);
    let blob = layer(&bytes);
    assert_eq!(registry.head_blob("a/b", &blob).await.unwrap(), Presence::Unknown);
    registry.push_blob("a/b", &blob, &Memory(bytes), None).await.unwrap();
    assert_eq!(store.requests().len(), 0);
    // A request that must read the bytes fails with a hint.
    server.add_fault(When::get("/blobs/"), Action::redirect(307, store.url()));
    let error = fetch(&registry, "a/b", &blob).await.unwrap_err();
    assert!(
        error.hint().is_some_and(|hint| hint.contains("redirect: disable")),
        "{error:?}"
    );
}

/// A client without retries, for a registry that redirects each request to `store`.
fn through(store: &Double) -> (Double, Registry, client::Told) {
    let to = format!("{}{{target}}", store.url());
    let front = server(Options::default().fault(When::any(), Action::redirect(307, &to)));
    let (mut options, told) = options();
    options.retries = Some(0);
    let registry = with(options, &front.host());
    (front, registry, told)
}

#[tokio::test]
async fn a_store_that_fails_for_one_repository_is_asked_for_others() {
    let store = server(Options::default().fault(When::path("/v2/bad/"), Action::status(500)));
    let (_front, registry, told) = through(&store);
    for _ in 0..12 {
        registry.manifest("bad/app", &tag("1")).await.unwrap_err();
    }
    pull(&registry).await.unwrap();
    assert!(told.warnings().is_empty(), "{:?}", told.warnings());
}

#[tokio::test]
async fn a_store_that_lacks_something_has_answered() {
    let store = server(Options::default().fault(When::path("/v2/bad"), Action::status(503)));
    let (_front, registry, told) = through(&store);
    for number in 0..12 {
        for name in ["bad", "good"] {
            let repository = format!("{name}{number}");
            registry.manifest(&repository, &tag("1")).await.unwrap_err();
        }
    }
    assert_eq!(store.count("GET", "/manifests/"), 24, "{}", store.transcript());
    assert!(told.warnings().is_empty(), "{:?}", told.warnings());
}

#[tokio::test]
async fn a_registry_that_redirects_to_a_store_that_is_down_has_answered() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let to = format!("http://{closed}{{target}}");
    let options_of_server = Options::default().fault(When::get("/blobs/"), Action::redirect(307, &to));
    let server = server(options_of_server.fault(When::any(), Action::status(503)));
    let (mut options, told) = options();
    options.retries = Some(0);
    let registry = with(options, &server.host());
    for number in 0..12 {
        registry.manifest(&format!("bad{number}"), &tag("1")).await.unwrap_err();
        let error = fetch(&registry, "a/b", &layer(b"{}")).await.unwrap_err();
        assert!(error.full().contains(&closed.to_string()), "{error:?}");
    }
    assert_eq!(server.count("GET", "/manifests/"), 12, "{}", server.transcript());
    let warnings = told.warnings();
    let left = warnings.iter().filter(|text| text.contains("not asked again"));
    let left: Vec<&String> = left.collect();
    assert!(
        left.len() == 1 && left[0].contains(&format!("`{closed}` is not asked again")),
        "{warnings:?}"
    );
}
