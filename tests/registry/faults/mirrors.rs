//! Mirrors of a registry, and the registry itself where they fail.

use super::*;

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_origin_when_it_fails() {
    let origin = server(Options::default());
    let mirror = server(Options::default());
    let through = || {
        let (mut options, told) = options();
        options.mirrors = Mirrors::new(vec![
            parse_mirror(&format!("{}={}", origin.host(), mirror.url())).unwrap(),
        ]);
        (with(options, &origin.host()), told)
    };
    let (registry, told) = through();
    pull(&registry).await.unwrap();
    fetch(&registry, "a/b", &layer(b"{}")).await.unwrap();
    assert_eq!((origin.requests().len(), mirror.requests().len()), (0, 2));
    assert!(told.warnings().is_empty());
    mirror.add_fault(When::any(), Action::status(404));
    let (registry, told) = through();
    pull(&registry).await.unwrap();
    fetch(&registry, "a/b", &layer(b"{}")).await.unwrap();
    assert_eq!(origin.requests().len(), 2);
    assert!(
        told.warnings()[0].contains(&mirror.host()) && told.warnings()[0].contains(&origin.host()),
        "{:?}",
        told.warnings()
    );
    // A mirror that breaks off in the middle of a blob is replaced in the middle of the blob.
    let bytes = noise(2 << 20);
    for server in [&origin, &mirror] {
        server.store().put_blob("a/b", bytes.clone());
        server.clear_faults();
    }
    mirror.add_fault(When::get("/blobs/"), Action::cut(1 << 20));
    mirror.add_fault(When::get("/blobs/").with_header("range"), Action::status(500));
    origin.forget_requests();
    let (registry, _) = through();
    assert_eq!(fetch(&registry, "a/b", &layer(&bytes)).await.unwrap(), bytes);
    assert_eq!(
        origin.requests()[0].header("range"),
        format!("bytes={}-{}", 1 << 20, (2 << 20) - 1)
    );
    // What is pushed goes to the origin alone.
    mirror.forget_requests();
    registry
        .push_blob("new", &layer(b"new"), &Memory("new".into()), None)
        .await
        .unwrap();
    assert!(mirror.requests().is_empty());
}

#[tokio::test]
async fn a_pause_of_a_mirror_is_not_waited_for() {
    for status in [429, 503] {
        let busy = Canned::error(status, "TOOMANYREQUESTS", "too many requests").with_header("retry-after", "100");
        let (origin, mirror) = (server(Options::default()), server(Options::default()));
        mirror.add_fault(When::any(), Action::Answer(busy));
        let (mut options, told) = options();
        options.mirrors = Mirrors::new(vec![
            parse_mirror(&format!("{}={}", origin.host(), mirror.url())).unwrap(),
        ]);
        let registry = with(options, &origin.host());
        // Only a wait for the pause takes so long.
        let pulled = async {
            pull(&registry).await.unwrap();
            fetch(&registry, "a/b", &layer(b"{}")).await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(60), pulled).await.unwrap();
        assert_eq!(mirror.count("GET", "/a/b/"), 1, "{status}: {}", mirror.transcript());
        assert!(told.warnings()[0].contains("not asked again"), "{:?}", told.warnings());
    }
}

#[tokio::test]
async fn what_a_mirror_lacks_is_told_once() {
    let (origin, mirror) = (server(Options::default()), server(Options::default()));
    mirror.add_fault(When::any(), Action::error(404, "MANIFEST_UNKNOWN", "unknown"));
    let (mut options, told) = options();
    options.mirrors = Mirrors::new(vec![
        parse_mirror(&format!("{}={}", origin.host(), mirror.url())).unwrap(),
    ]);
    let registry = with(options, &origin.host());
    pull(&registry).await.unwrap();
    fetch(&registry, "a/b", &layer(b"{}")).await.unwrap();
    assert_eq!(told.warnings().len(), 1, "{:?}", told.warnings());
    assert!(told.warnings()[0].contains("does not have all that is asked for"));
}

#[tokio::test]
async fn a_mirror_gets_no_credentials_of_the_origin() {
    let folder = tempfile::tempdir().unwrap();
    let origin = server(Options::default().auth(Auth::basic("user", "s3cret")));
    let mirror = server(Options::default().fault(When::any(), Action::challenge(&["Basic realm=\"x\""])));
    let file = serde_json::json!({"auths": {origin.host(): {"username": "user", "password": "s3cret"}}});
    let (mut options, _) = client::with_file(folder.path(), &file);
    options.mirrors = Mirrors::new(vec![
        parse_mirror(&format!("{}={}", origin.host(), mirror.url())).unwrap(),
    ]);
    pull(&with(options, &origin.host())).await.unwrap();
    assert!(
        mirror
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_empty())
    );
}

#[tokio::test]
async fn the_store_of_a_mirror_is_used_again_after_one_failure() {
    let [origin, mirror, store] = [(); 3].map(|()| server(Options::default()));
    mirror.add_fault(
        When::get("/blobs/"),
        Action::redirect(307, &format!("{}{{target}}", store.url())),
    );
    store.add_fault(When::get("/blobs/").first(1), Action::status(500));
    let (mut options, told) = options();
    options.retries = Some(0);
    options.mirrors = Mirrors::new(vec![
        parse_mirror(&format!("{}={}", origin.host(), mirror.url())).unwrap(),
    ]);
    let registry = with(options, &origin.host());
    // A mirror that has served nothing is left after any failure.
    pull(&registry).await.unwrap();
    for _ in 0..2 {
        fetch(&registry, "a/b", &layer(b"{}")).await.unwrap();
    }
    assert_eq!(origin.count("GET", "/blobs/"), 1, "{}", origin.transcript());
    assert_eq!(store.count("GET", "/blobs/"), 2, "{}", store.transcript());
    let left = told.warnings().iter().any(|text| text.contains("not asked again"));
    assert!(!left, "{:?}", told.warnings());
}
