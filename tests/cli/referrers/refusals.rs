//! Requests for referrers that are refused, fail, or are answered incompletely: none of these answers counts as an
//! empty list.

use serde_json::{Value, json};

use super::super::support::image::{Document, Style};
use super::super::support::images::small;
use super::super::support::layout::Tar;
use super::super::support::referrers::{BUNDLE, beside, refer};
use super::super::support::{Action, Canned, Double, When};
use super::{cli, listed, registry, tag_of};

/// Stores an image with a referrer and all three tags of cosign in a repository. Returns the root and the referrer.
fn put_all(source: &Double, repository: &str, other_tags: usize) -> [Document; 2] {
    let image = small(Style::Oci, "linux/amd64", repository);
    image.push(source, repository, "1");
    let referrer = refer(source, repository, &image.root, BUNDLE, repository);
    for suffix in ["sig", "att", "sbom"] {
        beside(source, repository, &image.root, suffix, suffix);
    }
    for number in 0..other_tags {
        source.store().change(repository, |repository| {
            repository.tags.insert(format!("v{number}"), image.root.digest.clone());
        });
    }
    [image.root, referrer]
}

#[test]
fn a_refusal_at_any_place_that_is_asked_for_referrers_fails_the_image() {
    // The repository, the number of its other tags (a list of more than 500 is not used), and the request that is
    // refused.
    type Refused = fn(&Document, &Document) -> String;
    let places: [(&str, usize, Refused); 10] = [
        ("api", 0, |root, _| format!("/referrers/{}", root.digest)),
        ("list", 0, |root, _| format!("/manifests/{}", tag_of(root, ""))),
        ("sig", 0, |root, _| tag_of(root, ".sig")),
        ("att", 0, |root, _| tag_of(root, ".att")),
        ("sbom", 0, |root, _| tag_of(root, ".sbom")),
        ("referrer", 0, |_, referrer| referrer.digest.clone()),
        ("api-of-referrer", 0, |_, referrer| {
            format!("/referrers/{}", referrer.digest)
        }),
        ("many-list", 501, |root, _| format!("/manifests/{}", tag_of(root, ""))),
        ("many-sig", 501, |root, _| tag_of(root, ".sig")),
        ("many-referrer", 501, |_, referrer| referrer.digest.clone()),
    ];
    for (status, message) in [
        (401, ""),
        (403, ""),
        (403, "You have exceeded a secondary rate limit"),
        (429, ""),
        (500, ""),
        (503, ""),
    ] {
        let (cli, source, target) = (cli(), registry(false), registry(false));
        let mut images = Vec::new();
        for (name, other_tags, refused) in places {
            let repository = format!("team/{name}");
            let [root, referrer] = put_all(&source, &repository, other_tags);
            // A registry without the API does not refuse the request, so each repository has an API of its own here.
            let lists = When::get(&format!("/{repository}/referrers/"));
            if name.starts_with("api") {
                let entries = [Value::Object(referrer.descriptor())];
                let page = json!({"schemaVersion": 2, "mediaType": super::OCI_INDEX, "manifests": entries});
                let canned = Canned {
                    status: 200,
                    body: page.to_string().into_bytes(),
                    ..Canned::default()
                };
                let canned = canned.with_header("content-type", super::OCI_INDEX);
                source.add_fault(lists.but_not(&refused(&root, &referrer)), Action::Answer(canned));
            }
            let when = When::path(&format!("/{repository}/")).and(&refused(&root, &referrer));
            // A refusal with another method than GET has no body.
            source.add_fault(when, Action::error(status, "DENIED", message));
            images.push(format!("{}/{repository}:1", source.host()));
        }
        // The list of tags is a shortcut: without it each tag is asked for.
        let [unlisted, referrer] = put_all(&source, "team/unlisted", 0);
        source.add_fault(
            When::get("/team/unlisted/tags/list"),
            Action::error(status, "DENIED", message),
        );
        images.push(format!("{}/team/unlisted:1", source.host()));
        let (host, names) = (target.host(), images.iter().map(String::as_str));
        for way in [&["export", "-o", "b.tar", "--allow-partial"][..], &["-d", &host]] {
            let common = ["--retries", "0", "--no-cache", "--jobs", "8"];
            let all: Vec<&str> = way.iter().copied().chain(common).chain(names.clone()).collect();
            let out = cli.run(&all);
            assert!(!matches!(out.code, Some(0 | 2) | None), "{status}: {}", out.stderr);
            for image in &images {
                let is_refused = !image.contains("/unlisted:");
                let said = out
                    .stderr
                    .lines()
                    .any(|line| line.contains(image.as_str()) && line.contains("could not be read"));
                assert_eq!(said, is_refused, "{status} {way:?} {image}: {}", out.stderr);
            }
            assert!(out.stderr.contains("--no-referrers"), "{status}: {}", out.stderr);
        }
        let tar = Tar::open(&cli.path("b.tar"));
        let record = tar.json("docker-mirror.json");
        let carried = record["images"].as_array().unwrap();
        assert_eq!(carried.len(), 1, "{status}: {record}");
        assert_eq!(
            carried[0]["referrers"].as_array().unwrap().len(),
            4,
            "{status}: {record}"
        );
        assert_eq!(target.store().repositories(), ["team/unlisted"], "{status}");
        let there = listed(&target, "team/unlisted", &unlisted);
        assert_eq!(there[0]["digest"], json!(referrer.digest), "{status}");
    }
}

#[test]
fn a_list_of_tags_that_is_not_all_of_them_hides_no_signature() {
    let tags = |tags: &Value| Action::Body(json!({"name": "team/app", "tags": tags}).to_string().into_bytes());
    let table: [(&str, Action); 8] = [
        // A cache in between may list what it knows.
        ("without the tag of the image", tags(&json!(["2", "3"]))),
        ("empty", tags(&json!([]))),
        ("null", tags(&json!(null))),
        ("entries that are no tags", tags(&json!([null, 7, "sha256:x"]))),
        ("no list", Action::Body(b"[]".to_vec())),
        ("a page", Action::html()),
        (
            "more to come",
            Action::Header("link", Some("</v2/team/app/tags/list?last=1>; rel=\"next\"".to_owned())),
        ),
        ("nothing", Action::reset(0)),
    ];
    for (name, action) in table {
        let (cli, source) = (cli(), registry(false));
        let image = format!("{}/team/app:1", source.host());
        put_all(&source, "team/app", 0);
        source.add_fault(When::get("/tags/list"), action);
        let out = cli.succeed(&["export", &image, "-o", "b.tar", "--retries", "0"]);
        assert!(out.stderr.contains("4 referrers"), "{name}: {}", out.stderr);
    }
}
