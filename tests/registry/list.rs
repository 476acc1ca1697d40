//! Lists in pages: tags and referrers, against the registry double with faults.

use crate::client::{client, options, tag};
use crate::support::{Action, Canned, Double, Options, When};
use docker_mirror::{Digest, ImageList, Kind, Registries, expand};
use serde_json::json;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn server(options: Options) -> Double {
    let server = Double::start(options);
    for tag in ["1.0", "1.1", "2.0", "latest"] {
        put(&server, tag);
    }
    server
}

fn put(server: &Double, tag: &str) {
    let config = server.store().put_blob("a/b", format!("{{\"tag\":\"{tag}\"}}"));
    let json = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 5 + 4 + tag.len()},
        "layers": []});
    let manifest = json.to_string().into();
    server.store().put_manifest("a/b", Some(tag), MANIFEST, manifest);
}

/// A page of tags that names this next page.
fn page(tags: &serde_json::Value, next: Option<&str>) -> Action {
    let mut canned = Canned {
        status: 200,
        body: json!({"name": "a/b", "tags": tags}).to_string().into_bytes(),
        ..Canned::default()
    };
    if let Some(next) = next {
        canned = canned.with_header("link", &format!("<{next}>; rel=\"next\""));
    }
    Action::Answer(canned)
}

fn faulty(faults: Vec<(When, Action)>) -> Double {
    server(faults.into_iter().fold(Options::default(), |options, (when, action)| {
        options.fault(when, action)
    }))
}

#[tokio::test]
async fn pages_of_tags_are_followed_to_the_end() {
    let server = faulty(vec![
        (
            When::get("tags/list?n="),
            page(&json!(["1.0", "1.1"]), Some("/v2/a/b/tags/list?last=1.1")),
        ),
        (
            When::get("last=1.1"),
            page(&json!(["1.1", null, "sha256:ab", "\u{1b}[2J"]), Some("?last=again")),
        ),
        (When::get("last=again"), page(&json!(null), Some("?last=end"))),
        (When::get("last=end"), page(&json!(["z"]), None)),
    ]);
    let (registry, _) = client(&server.host());
    assert_eq!(registry.tags("a/b").await.unwrap(), ["1.0", "1.1", "z"]);
    assert_eq!(server.count("GET", "tags/list"), 4, "{}", server.transcript());

    // What the double itself lists.
    let server = self::server(Options::default());
    let (registry, _) = client(&server.host());
    assert_eq!(registry.tags("a/b").await.unwrap(), ["1.0", "1.1", "2.0", "latest"]);
    let error = registry.tags("none/such").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
}

#[tokio::test]
async fn pages_without_end_are_left() {
    let loops = page(&json!(["1"]), Some("?n=1000"));
    let two = page(&json!(["1"]), Some("?last=a"));
    for (name, faults, words) in [
        (
            "itself",
            vec![(When::get("tags/list"), loops.clone())],
            "too many pages",
        ),
        (
            "two",
            vec![(When::get("?n="), two), (When::get("?last=a"), loops)],
            "too many pages",
        ),
        (
            "huge",
            vec![(When::get("tags/list"), page(&json!("x".repeat(5 << 20)), None))],
            "more than",
        ),
        (
            "many",
            vec![(
                When::get("tags/list"),
                page(&json!((0..100_001).map(|n| n.to_string()).collect::<Vec<_>>()), None),
            )],
            "more than 100000",
        ),
        (
            "no list",
            vec![(When::get("tags/list"), Action::Body(b"{\"tags\":7}".to_vec()))],
            "no list of tags",
        ),
        (
            "html",
            vec![(When::get("tags/list"), Action::html())],
            "not such a list",
        ),
    ] {
        let server = faulty(faults);
        let (registry, _) = client(&server.host());
        let error = registry.tags("a/b").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Server, "{name}: {error:?}");
        assert!(
            error.full().contains(words) && error.full().contains("a/b"),
            "{name}: {error:?}"
        );
        assert!(server.count("GET", "tags/list") <= 2, "{name}: {}", server.transcript());
    }
}

#[tokio::test]
async fn a_next_page_on_another_server_is_not_asked() {
    let other = Double::new();
    for target in [
        format!("{}/v2/a/b/tags/list", other.url()),
        format!("//{}/v2/a/b/tags/list", other.host()),
        "https://127.0.0.1/".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let server = faulty(vec![(When::get("tags/list"), page(&json!(["1"]), Some(&target)))]);
        let (registry, _) = client(&server.host());
        let error = registry.tags("a/b").await.unwrap_err();
        assert!(error.full().contains("another server"), "{target}: {error:?}");
    }
    assert_eq!(other.requests().len(), 0, "{}", other.transcript());
}

#[tokio::test]
async fn a_missing_tag_is_answered_with_those_that_are_there() {
    let server = server(Options::default());
    let (registry, _) = client(&server.host());
    let error = registry.manifest("a/b", &tag("1.2")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(error.hint(), Some("existing tags: `1.0`, `1.1`, `2.0` and 1 more"));
    assert_eq!(server.count("GET", "tags/list"), 1, "{}", server.transcript());

    // At most one request, and none if the repository itself does not exist.
    server.add_fault(When::get("tags/list"), Action::status(503));
    let error = registry.manifest("a/b", &tag("1.2")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.hint()),
        (Kind::NotFound, Some("check the name and the tag"))
    );
    assert_eq!(server.count("GET", "tags/list"), 2, "{}", server.transcript());
    server.forget_requests();
    let error = registry.manifest("none/such", &tag("1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(server.count("GET", "tags/list"), 0, "{}", server.transcript());
}

#[tokio::test]
async fn referrers_are_listed_in_pages_once_each_and_not_fetched() {
    let entry =
        |text: &str| json!({"mediaType": MANIFEST, "digest": Digest::sha256(text.as_bytes()), "size": text.len()});
    let index = |entries: &[&str], next: Option<&str>| {
        let mut canned = Canned {
            status: 200,
            headers: vec![("content-type".to_owned(), INDEX.to_owned())],
            body: json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries.iter().map(|e| entry(e)).collect::<Vec<_>>()})
                .to_string()
                .into_bytes(),
        };
        if let Some(next) = next {
            canned = canned.with_header("link", &format!("<{next}>; rel=next"));
        }
        Action::Answer(canned)
    };
    let subject = Digest::sha256(b"subject");
    let server = faulty(vec![
        (When::get("page=2"), index(&["two", "one", "subject"], None)),
        (
            When::get("/referrers/").but_not("page"),
            index(&["one"], Some("?page=2")),
        ),
    ]);
    let (registry, _) = client(&server.host());
    let found = registry.referrers("a/b", &subject, 100).await.unwrap().unwrap();
    assert!(!found.more);
    let digests: Vec<_> = found.list.into_iter().map(|d| d.digest).collect();
    // None of these manifests exists, and one states itself as its subject: listing them requests none of them.
    assert_eq!(
        digests,
        ["one", "two", "subject"].map(|text| Digest::sha256(text.as_bytes()))
    );
    assert_eq!(server.discovery().len(), 2, "{}", server.transcript());

    // Of a long list, only the requested number of entries is kept, and the pages behind them are not requested.
    let many = (0..10_001).map(|n| n.to_string()).collect::<Vec<_>>();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let server = faulty(vec![(When::get("/referrers/"), index(&many, Some("?page=2")))]);
    let (registry, _) = client(&server.host());
    let found = registry.referrers("a/b", &subject, 1000).await.unwrap().unwrap();
    assert_eq!((found.list.len(), found.more), (1000, true));
    assert_eq!(server.discovery().len(), 1, "{}", server.transcript());

    let server = faulty(vec![(When::get("/referrers/"), index(&["one"], Some("?page=0")))]);
    let (registry, _) = client(&server.host());
    let error = registry.referrers("a/b", &subject, 9).await.unwrap_err();
    assert!(error.full().contains("too many pages"), "{error:?}");
}

#[tokio::test]
async fn registries_that_have_no_list_of_referrers_are_asked_once() {
    let (subject, other) = (Digest::sha256(b"subject"), Digest::sha256(b"other"));
    for action in [
        Action::html(),
        Action::status(404),
        Action::error(400, "UNSUPPORTED", "no"),
        Action::status(405),
        Action::status(406),
    ] {
        let name = format!("{action:?}");
        let server = faulty(vec![(When::get("/referrers/"), action)]);
        let (registry, _) = client(&server.host());
        assert_eq!(registry.referrers("a/b", &subject, 9).await.unwrap(), None, "{name}");
        assert_eq!(registry.referrers("a/b", &other, 9).await.unwrap(), None, "{name}");
        assert_eq!(server.discovery().len(), 1, "{name}: {}", server.transcript());
    }
    // A registry that does not know the subject, or that answered for another subject, is asked again.
    for action in [
        Action::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        Action::status(404),
    ] {
        let server = faulty(vec![(When::get("/referrers/").and(&subject.to_string()), action)]);
        let (registry, _) = client(&server.host());
        for (digest, is_list) in [(&other, true), (&subject, false), (&other, true)] {
            let found = registry.referrers("a/b", digest, 9).await.unwrap();
            assert_eq!(found.is_some(), is_list, "{}", server.transcript());
        }
    }
    // A body that is not a list is an error, since the list may have had entries.
    let cut = Action::Body(b"{\"manifests\":[{".to_vec());
    let server = faulty(vec![(When::get("/referrers/"), cut)]);
    let (registry, _) = client(&server.host());
    let error = registry.referrers("a/b", &subject, 9).await.unwrap_err();
    assert!(error.full().contains("no list of referrers"), "{error:?}");
    // A registry that refuses or fails does not say that there is nothing.
    for (status, kind) in [
        (403, Kind::Denied),
        (401, Kind::Unauthorized),
        (429, Kind::RateLimited),
        (500, Kind::Server),
        (503, Kind::Server),
    ] {
        let server = faulty(vec![(When::get("/referrers/"), Action::status(status))]);
        let (registry, _) = client(&server.host());
        let error = registry.referrers("a/b", &subject, 9).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error:?}");
    }
}

#[tokio::test]
async fn all_patterns_of_a_list_together_match_a_bounded_number_of_images() {
    const HALF: usize = 25_000;
    for (more, is_taken) in [(0, true), (1, false)] {
        let server = Double::new();
        let tags = |count: usize| json!((0..count).map(|n| format!("{n:x}")).collect::<Vec<_>>());
        server.add_fault(When::get("/v2/a/b/tags/list"), page(&tags(HALF), None));
        server.add_fault(When::get("/v2/c/d/tags/list"), page(&tags(HALF + more), None));
        let mut list = ImageList::default();
        for repository in ["a/b", "c/d"] {
            list.add_argument(&format!("{}/{repository}:*", server.host()));
        }
        let list = list.check().unwrap();
        // Each pattern alone is below its own limit.
        let expanded = expand(list, &Registries::new(options().0).unwrap(), 2 * HALF, 2).await;
        match is_taken {
            true => assert_eq!(expanded.unwrap().images.len(), 2 * HALF),
            false => {
                let error = expanded.unwrap_err();
                assert_eq!(error.kind(), Kind::Usage, "{error:?}");
                assert!(
                    error.full().contains("match more than 50000 images"),
                    "{}",
                    error.full()
                );
                assert!(
                    error.hint().unwrap_or_default().contains("divide the list"),
                    "{error:?}"
                );
            }
        }
    }
}
