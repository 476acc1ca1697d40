//! Credential helpers: programs that answer, and such that do not.

use docker_mirror::quote;

use super::*;

#[tokio::test]
async fn helpers_answer() {
    let identity = Credential::IdentityToken(Secret::new(SECRET.to_owned()));
    for (name, expected) in [
        ("good", basic("user of h.io")),
        ("unread", basic("u")),
        ("agent", basic("u")),
        ("token", identity),
        ("missing", Credential::Anonymous),
        ("empty", Credential::Anonymous),
    ] {
        let store = Files::new().with(json!({"credsStore": name, "auths": {"h.io": {}}}));
        assert_eq!(store.lookup("h.io", "a").await.unwrap(), expected, "credsStore {name}");
        let own = Files::new().with(json!({"credHelpers": {"h.io": name}}));
        assert_eq!(own.lookup("h.io", "a").await.unwrap(), expected, "credHelpers {name}");
        assert_eq!(own.lookup("other.io", "a").await.unwrap(), Credential::Anonymous);
    }
}

#[tokio::test]
async fn which_helper_and_what_it_is_asked() {
    // The host's own helper is asked instead of the general one, with the spelling of its key.
    let files = Files::new().with(json!({"credsStore": "failing", "credHelpers": {"https://h.io": "good"}}));
    let found = files.lookup("h.io", "a").await.unwrap();
    assert_eq!(found, basic("user of https://h.io"));
    // Docker Hub goes by its old name.
    let files = Files::new().with(json!({"credsStore": "good"}));
    let found = files.lookup("docker.io", "library/x").await.unwrap();
    assert_eq!(found, basic("user of https://index.docker.io/v1/"));
    let files = Files::new().with(json!({"credHelpers": {"docker.io": "good"}}));
    let found = files.lookup("docker.io", "library/x").await.unwrap();
    assert_eq!(found, basic("user of docker.io"));
    // An empty name means that the host has no helper at all.
    let files = Files::new().with(json!({"credsStore": "failing", "credHelpers": {"h.io": ""}}));
    assert_eq!(files.lookup("h.io", "a").await.unwrap(), Credential::Anonymous);
    // The host's helper knows nothing: the general helper is still not asked, but the other sources are.
    let files = Files::new()
        .with(json!({"credsStore": "failing", "credHelpers": {"h.io": "missing"}}))
        .with(json!({"auths": {"h.io": user("second")}}));
    assert_eq!(files.lookup("h.io", "a").await.unwrap(), basic("second"));
    // An entry with content takes precedence over the general helper, and an entry for a path over the host's own
    // helper.
    let files = Files::new().with(json!({
        "credsStore": "failing",
        "credHelpers": {"own.io": "good"},
        "auths": {"h.io": user("entry"), "own.io": user("host"), "own.io/org": user("path")},
    }));
    assert_eq!(files.lookup("h.io", "a").await.unwrap(), basic("entry"));
    assert_eq!(files.lookup("own.io", "org/a").await.unwrap(), basic("path"));
    let found = files.lookup("own.io", "other/a").await.unwrap();
    assert_eq!(found, basic("user of own.io"));
}

#[tokio::test]
async fn bad_helpers_are_named() {
    for (name, kind, what) in [
        ("failing", Kind::Unauthorized, "exit status: 1"),
        ("html", Kind::Malformed, "JSON"),
        ("wrong-type", Kind::Malformed, "JSON"),
        ("silent", Kind::Malformed, "printed nothing"),
        ("binary", Kind::Malformed, "JSON"),
        ("large", Kind::Malformed, "more than 65536 bytes"),
        ("endless", Kind::Malformed, "more than 65536 bytes"),
        ("absent", Kind::NotFound, "not installed"),
        ("data", Kind::Io, "cannot be started"),
        ("lost", Kind::Io, "its interpreter or loader is missing"),
        ("../good", Kind::Malformed, "impossible name"),
        ("/bin/sh", Kind::Malformed, "impossible name"),
        ("a\\b", Kind::Malformed, "impossible name"),
        ("a\0b", Kind::Malformed, "impossible name"),
    ] {
        let files = Files::new().with(json!({"credHelpers": {"h.io": name}}));
        let error = files.lookup("h.io", "a").await.unwrap_err();
        let text = shown(&error);
        assert_eq!(error.kind(), kind, "{text}");
        let program = format!("docker-credential-{}", quote(name));
        assert!(text.contains(&program) && text.contains(what), "{name}: {text}");
        assert!(text.contains("h.io") && error.hint().is_some(), "{name}: {text}");
    }
}

#[tokio::test]
async fn a_hanging_helper_costs_its_timeout_once() {
    let mut files = Files::new().with(json!({"credsStore": "hanging"}));
    files.options.helper_timeout = Some(Duration::from_millis(300));
    let credentials = Arc::new(files.credentials());
    let start = Instant::now();
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let credentials = Arc::clone(&credentials);
            tokio::spawn(async move { certain(credentials.lookup("hang.io", &format!("image{i}")).await) })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap().unwrap_err();
        assert!(shown(&error).contains("no answer within 0.3 s"), "{error:?}");
    }
    // Far below the 600 seconds of the helper, and far above the time of a slow machine.
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(certain(credentials.lookup("hang.io", "later").await).is_err());
    // On a slow machine, the helper may have been stopped before it could record even the first call.
    assert!(calls("hanging").len() <= 1);
}

#[tokio::test]
async fn a_helper_is_asked_once_per_server() {
    let files =
        Files::new().with(json!({"credHelpers": {"one.io": "good", "two.io": "good", "bad.io": "failing-counted"}}));
    let credentials = Arc::new(files.credentials());
    let tasks: Vec<_> = (0..18)
        .map(|i| {
            let credentials = Arc::clone(&credentials);
            let host = ["one.io", "two.io", "bad.io"][i % 3];
            tokio::spawn(async move { (host, certain(credentials.lookup(host, &format!("image{i}")).await)) })
        })
        .collect();
    for task in tasks {
        let (host, found) = task.await.unwrap();
        assert_eq!(found.is_err(), host == "bad.io");
    }
    for host in ["one.io", "two.io"] {
        assert_eq!(calls("good").iter().filter(|line| *line == host).count(), 1, "{host}");
    }
    assert_eq!(calls("failing-counted").len(), 1);
}
