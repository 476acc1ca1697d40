//! Unbounded answers of registries about referrers: lists, entries of lists, and the manifests that the entries name.

use serde_json::{Value, json};

use crate::measured::Lab;
use crate::support::image::{Document, Image, Style};
use crate::support::referrers::{BUNDLE, OCI_INDEX, OCI_MANIFEST, list, refer};
use crate::support::{Action, Canned, Double, Options, When, images};

/// Returns a registry with or without the referrers API, and an image in it as `team/app:1`.
fn with_image(has_list: bool) -> (Double, Image) {
    let source = Double::start(Options {
        no_referrers: !has_list,
        ..Options::default()
    });
    let image = images::small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    (source, image)
}

/// A list of these entries as text, and where the next one is.
fn page(entries: &str, next: Option<&str>) -> Action {
    let body = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entries}]}}"#).into_bytes();
    let canned = Canned {
        status: 200,
        body,
        ..Canned::default()
    }
    .with_header("content-type", OCI_INDEX);
    Action::Answer(match next {
        Some(next) => canned.with_header("link", &format!("<{next}>; rel=\"next\"")),
        None => canned,
    })
}

/// An entry of this number and size; `media_type` may be anything.
fn entry(number: usize, media_type: &str, size: u64) -> String {
    let digest = docker_mirror::Digest::sha256(number.to_string().as_bytes());
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

fn entries(count: usize, media_type: &str, size: u64) -> String {
    let all: Vec<String> = (0..count).map(|number| entry(number, media_type, size)).collect();
    all.join(",")
}

/// Exports and mirrors the image, and expects one of these exit codes.
#[track_caller]
fn move_image(name: &str, lab: &Lab, source: &Double, codes: [i32; 2]) -> String {
    let (image, target) = (format!("{}/team/app:1", source.host()), Double::new());
    let host = target.host();
    let mut said = String::new();
    for (arguments, code) in [
        (
            vec![
                "export",
                &image,
                "-o",
                "b.tar",
                "--force",
                "--fresh",
                "--retries",
                "0",
                "--no-cache",
            ],
            codes[0],
        ),
        (
            vec![
                "-d",
                &host,
                &image,
                "--report",
                "report.json",
                "--retries",
                "0",
                "--no-cache",
            ],
            codes[1],
        ),
    ] {
        let run = lab.run(&arguments, None);
        println!("{}", run.line(&format!("{name}: {}", arguments[0])));
        // What is left out is named, a thousand at most.
        assert_eq!(run.faults(200), Vec::<String>::new(), "{name}");
        assert_eq!(run.ended, Ok(code), "{name}: {}", run.stderr);
        said.push_str(&run.stderr);
    }
    said
}

#[test]
fn lists_of_referrers_without_bounds() {
    let lab = Lab::new();
    let long = "x".repeat(4_000_000);
    for (name, text, codes) in [
        ("10^5 entries", entries(100_000, "a", 2), [1, 1]),
        ("entries of 4 MB", entry(1, &long, 2), [0, 0]),
        ("entries that are none", vec!["{}"; 400_000].join(","), [0, 0]),
        ("entries that are null", vec!["null"; 400_000].join(","), [0, 0]),
        ("brackets", "[".repeat(4_000_000), [1, 1]),
        (
            "1,000 entries of 100 MB each",
            entries(1000, OCI_MANIFEST, 100 << 20),
            [1, 1],
        ),
        (
            "1,000 entries that are absent",
            entries(1000, OCI_MANIFEST, 100),
            [0, 0],
        ),
    ] {
        let (source, _) = with_image(true);
        source.add_fault(When::get("/referrers/"), page(&text, None));
        move_image(name, &lab, &source, codes);
    }
    // Pages that lead on and on, each with an entry of almost 4 MB.
    let (source, _) = with_image(true);
    for number in (0..40).rev() {
        let when = match number {
            0 => When::get("/referrers/").but_not("page="),
            _ => When::get(&format!("page={number}&")),
        };
        let text = entry(number, &long, 2);
        source.add_fault(when, page(&text, Some(&format!("?page={}&", number + 1))));
    }
    source.add_fault(When::get("page=40&"), page("", None));
    move_image("40 pages of 4 MB", &lab, &source, [0, 0]);
    let (source, _) = with_image(true);
    source.add_fault(When::get("/referrers/"), page("", Some("?again")));
    let said = move_image("a list that loops", &lab, &source, [1, 1]);
    assert!(said.contains("it has too many pages, or repeats a page"), "{said}");
}

#[test]
fn lists_under_a_tag_without_bounds() {
    let lab = Lab::new();
    let index = |entries: &str| format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entries}]}}"#);
    let padding = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"x":"{}"}}"#,
        "x".repeat(100_000_000)
    );
    for (name, text, codes) in [
        (
            "more entries than an index may have",
            index(&entries(10_001, OCI_MANIFEST, 2)),
            [1, 1],
        ),
        (
            "10^4 entries that are absent",
            index(&entries(9999, OCI_MANIFEST, 2)),
            [0, 0],
        ),
        ("a list of 100 MB", padding, [1, 1]),
        (
            "1,000 large entries",
            index(&entries(1000, OCI_MANIFEST, 100 << 20)),
            [1, 1],
        ),
    ] {
        let (source, image) = with_image(false);
        let tag = image.root.digest.replacen(':', "-", 1);
        source
            .store()
            .put_manifest("team/app", Some(&tag), OCI_INDEX, text.into());
        move_image(name, &lab, &source, codes);
    }
    // An image in place of the list.
    let (source, image) = with_image(false);
    let tag = image.root.digest.replacen(':', "-", 1);
    images::small(Style::Oci, "linux/amd64", "b").push(&source, "team/app", &tag);
    move_image("an image in place of a list", &lab, &source, [0, 0]);
    // The image refers to itself, and is in its own list.
    let (source, image) = with_image(false);
    list(&source, "team/app", &image.root, &image.root);
    move_image("an image that refers to itself", &lab, &source, [0, 0]);
}

#[test]
fn referrers_without_bounds() {
    let lab = Lab::new();
    // One manifest of 100 MB, whose entry says that it is small.
    let (source, image) = with_image(true);
    let referrer = refer(&source, "team/app", &image.root, BUNDLE, "large");
    source.add_fault(When::get(&referrer.digest), Action::Body(vec![b' '; 100_000_000]));
    let said = move_image("a referrer of 100 MB", &lab, &source, [1, 1]);
    assert!(said.contains(&referrer.digest), "{said}");
    // Many referrers that are as large as manifests may be, or take much memory for their size.
    for (name, count, more) in [
        ("9 referrers of 15 MB", 9, json!({"text": "x".repeat(15_000_000)})),
        ("65 referrers of 2 MB", 65, json!({"text": "x".repeat(2_000_000)})),
        (
            "100 referrers of 900 annotations",
            100,
            (0..900)
                .map(|n| (format!("{n}"), Value::from("")))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        ),
    ] {
        let (source, image) = with_image(true);
        let mut all = Vec::new();
        for number in 0..count {
            let manifest = json!({
                "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": BUNDLE, "number": number,
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": source.store().put_blob("team/app", "{}"), "size": 2},
                "layers": [], "subject": image.root.descriptor(), "annotations": more,
            });
            let manifest = Document::new(OCI_MANIFEST, manifest.to_string());
            source
                .store()
                .put_manifest("team/app", None, OCI_MANIFEST, manifest.bytes.clone());
            all.push(Value::Object(manifest.descriptor()).to_string());
        }
        source.add_fault(
            When::get("/referrers/").and(&image.root.digest),
            page(&all.join(","), None),
        );
        let code = i32::from(name.contains("MB"));
        move_image(name, &lab, &source, [code, code]);
    }
}
