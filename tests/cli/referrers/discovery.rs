//! Referrers that an answer of the source hides, or that cannot be carried: every loss is reported.

use serde_json::{Value, json};

use super::super::support::image::{Document, Image, Style};
use super::super::support::images::{multi, small};
use super::super::support::layout::Tar;
use super::super::support::{Action, Canned, Double, When};
use super::{BUNDLE, OCI_INDEX, OCI_MANIFEST, SBOM, beside, cli, list, listed, names, refer, registry, signed, tag_of};

pub(super) fn answer(media_type: &str, body: &str) -> Action {
    let canned = Canned {
        status: 200,
        body: body.as_bytes().to_vec(),
        ..Canned::default()
    };
    Action::Answer(canned.with_header("content-type", media_type))
}

/// A registry with an image of one platform.
fn with_image(has_list: bool) -> (Double, Image) {
    let source = registry(has_list);
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    (source, image)
}

/// Stores a manifest with these fields that refers to the image.
fn put(source: &Double, image: &Image, fields: &Value) -> Document {
    let config = source.store().put_blob("team/app", "{}");
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": BUNDLE, "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "subject": image.root.descriptor(),
    });
    for (key, value) in fields.as_object().unwrap() {
        manifest[key] = value.clone();
    }
    let document = Document::new(OCI_MANIFEST, manifest.to_string());
    let store = source.store();
    store.put_manifest("team/app", None, OCI_MANIFEST, document.bytes.clone());
    if source.has_no_referrers() {
        list(source, "team/app", &image.root, &document);
    }
    document
}

#[test]
fn a_list_of_tags_that_lacks_signatures_hides_none() {
    // A pull-through cache that cannot read the list of its origin returns only the tags that were pulled through it.
    let (cli, source) = (cli(), registry(false));
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "hidden");
    image.push(&source, "team/app", "1");
    refer(&source, "team/app", &image.root, BUNDLE, "signature");
    beside(&source, "team/app", &image.root, "sig", "signature");
    beside(&source, "team/app", &image.below[0], "att", "of a platform");
    let digest = &image.root.digest;
    for tags in [
        json!(["1"]),
        json!(["1", "2"]),
        json!(["1", tag_of(&image.root, ".sig")]),
    ] {
        source.clear_faults();
        source.add_fault(When::get("/tags/list"), tag_list(&tags));
        let body = tags.to_string();
        for name in ["team/app:1".to_owned(), format!("team/app@{digest}")] {
            let name = format!("{}/{name}", source.host());
            let out = cli.succeed(&["export", &name, "-o", "b.tar", "--force", "--fresh"]);
            assert!(out.stderr.contains("3 referrers"), "{body} {name}: {}", out.stderr);
        }
    }
}

#[test]
fn a_wrong_digest_in_the_answer_to_a_head_of_a_tag_hides_no_referrer() {
    let (cli, source) = (cli(), registry(false));
    signed(&source);
    source.add_fault(When::get("/tags/list"), Action::status(404));
    let wrong = format!("sha256:{}", "0".repeat(64));
    source.add_fault(
        When::head("/manifests/sha256-"),
        Action::Header("docker-content-digest", Some(wrong)),
    );
    // The second export has the manifests in its cache.
    for file in ["b.tar", "c.tar"] {
        let out = cli.succeed(&["export", &names(&source), "-o", file]);
        let about = format!("{}{}", out.stderr, source.transcript());
        assert!(out.stderr.contains("5 referrers:"), "{about}");
        assert!(!out.stderr.contains("it is listed and not there"), "{about}");
    }
}

#[test]
fn a_wrong_digest_in_the_answer_of_the_destination_to_a_head_of_a_tag_means_no_other_signature() {
    let (cli, source, target) = (cli(), registry(true), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let import = ["import", "b.tar", "-d", &target.host()];
    cli.succeed(&import);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let head = When::head(&tag_of(&signed.image.root, ".sig"));
    target.add_fault(head, Action::Header("docker-content-digest", Some(wrong)));
    for dry_run in [&["--dry-run"][..], &[]] {
        target.forget_requests();
        cli.succeed(&[&import[..], dry_run].concat()).says(&["1 unchanged"]);
        assert!(super::puts_nothing(&target), "{}", target.transcript());
    }
}

fn tag_list(tags: &Value) -> Action {
    let list = json!({"name": "team/app", "tags": tags});
    answer("application/json", &list.to_string())
}

#[test]
fn a_list_of_tags_hides_neither_what_platforms_alone_have_nor_what_stands_beside_a_listed_signature() {
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "hidden");
    let signature = tag_of(&image.root, ".sig");
    let [first, second] = [&image.below[0], &image.below[1]];
    // What exists beside which manifest, and the tags that a pull-through cache lists.
    for (there, tags) in [
        ([(first, "att"), (second, "sbom")], json!(["1", "2"])),
        ([(first, "sig"), (second, "sig")], json!(["1"])),
        ([(&image.root, "sig"), (&image.root, "att")], json!(["1", signature])),
        ([(&image.root, "sig"), (first, "sbom")], json!(["1", signature])),
    ] {
        let (cli, source) = (cli(), registry(false));
        image.push(&source, "team/app", "1");
        for (subject, suffix) in there {
            beside(&source, "team/app", subject, suffix, suffix);
        }
        source.add_fault(When::get("/tags/list"), tag_list(&tags));
        let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
        assert!(
            out.stderr.contains("2 referrers"),
            "{tags}: {}{}",
            out.stderr,
            source.transcript()
        );
    }
}

#[test]
fn answers_that_hide_referrers_are_told() {
    type Make = Box<dyn Fn(&Double, &Image)>;
    // How many are carried, the exit code, and what is said.
    let table: [(&str, bool, usize, i32, &str, Make); 6] = [
        (
            "the API answers 404 for a manifest without referrers",
            true,
            1,
            0,
            "",
            Box::new(|source, image| {
                let unknown = Action::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
                source.add_fault(When::get("/referrers/").and(&image.root.digest), unknown);
                refer(source, "team/app", &image.below[0], BUNDLE, "of a platform");
            }),
        ),
        (
            "a list that is cut off",
            true,
            0,
            1,
            "could not be read",
            Box::new(|source, _| {
                source.add_fault(
                    When::get("/referrers/"),
                    answer(OCI_INDEX, r#"{"schemaVersion":2,"manifests":[{"#),
                );
            }),
        ),
        (
            "a tag that is listed and not there",
            false,
            0,
            0,
            "it is listed and not there",
            Box::new(|source, image| {
                let signature = beside(source, "team/app", &image.root, "sig", "signature");
                source
                    .store()
                    .change("team/app", |it| it.manifests.remove(&signature.digest));
            }),
        ),
        (
            "an entry with an unusable digest",
            true,
            0,
            0,
            "1 entry without a usable digest in the list",
            Box::new(|source, image| {
                let digest = format!("sha256:{}", "A".repeat(64));
                let entry = json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 2});
                let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).to_string();
                let lists = When::get("/referrers/").and(&image.root.digest);
                source.add_fault(lists, answer(OCI_INDEX, &list));
            }),
        ),
        (
            "an image in place of the list",
            false,
            0,
            0,
            "holds an image, which is no list of referrers",
            Box::new(|source, image| {
                small(Style::Oci, "linux/amd64", "other").push(source, "team/app", &tag_of(&image.root, ""));
            }),
        ),
        (
            "the image itself in place of the list",
            false,
            0,
            0,
            "holds the image itself",
            Box::new(|source, image| {
                image.push(source, "team/app", &tag_of(&image.root, ""));
            }),
        ),
    ];
    for (name, has_list, carried, code, words, make) in table {
        let (cli, source) = (cli(), registry(has_list));
        let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "told");
        image.push(&source, "team/app", "1");
        make(&source, &image);
        let out = cli.run(&["export", &names(&source), "-o", "b.tar", "--retries", "0"]);
        let out = out.expect_code(code);
        assert!(out.stderr.contains(words), "{name}: {}", out.stderr);
        assert_eq!(
            out.stderr.contains("1 referrer:"),
            carried == 1,
            "{name}: {}",
            out.stderr
        );
        // If signatures are required, a listed referrer that does not exist is an error.
        if words.contains("list") && code == 0 && !words.contains("holds") {
            let required = ["export", &names(&source), "-o", "c.tar", "--referrers", "require"];
            cli.run(&required).expect_code(1).says(&[words]);
        }
    }
}

#[test]
fn a_broken_signature_under_a_tag_is_a_loss_and_the_image_goes() {
    let schema_1 = "application/vnd.docker.distribution.manifest.v1+json";
    let large = format!(r#"{{"schemaVersion":2,"x":"{}"}}"#, "y".repeat(17 << 20));
    for (media_type, body) in [
        (OCI_MANIFEST, "nonsense"),
        (schema_1, r#"{"schemaVersion":1}"#),
        (OCI_MANIFEST, &large),
    ] {
        let (cli, (source, image)) = (cli(), with_image(true));
        let good = refer(&source, "team/app", &image.root, BUNDLE, "signature");
        let tag = tag_of(&image.root, ".sig");
        let body = body.to_owned().into();
        let digest = source.store().put_manifest("team/app", Some(&tag), media_type, body);
        let target = registry(true);
        let (host, image_name) = (target.host(), names(&source));
        for arguments in [["export", "-o", "b.tar", &image_name], ["--jobs", "2", "-d", &host]] {
            let mut arguments = arguments.to_vec();
            if arguments[0] != "export" {
                arguments.push(&image_name);
            }
            let out = cli.run(&arguments).expect_code(1);
            out.says(&[&format!("left out {digest}"), &tag, "without some referrers"]);
        }
        let tar = Tar::open(&cli.path("b.tar"));
        assert!(tar.blob(&image.root.digest).is_some() && tar.blob(&good.digest).is_some());
        assert_eq!(target.manifest("team/app", "1"), Some(image.root.bytes.clone()));
        cli.run(&["export", "-o", "c.tar", &image_name, "--referrers", "require"])
            .expect_code(1);
    }
}

#[test]
fn referrers_that_are_too_large_together_are_left_out_the_largest_first() {
    let (cli, (source, image)) = (cli(), with_image(true));
    let sizes = [9 << 20, 8 << 20, 10];
    let all = sizes.map(|size| put(&source, &image, &json!({"padding": "x".repeat(size)})));
    let out = cli.run(&["export", &names(&source), "-o", "b.tar"]).expect_code(1);
    out.says(&[
        &format!("left out {}", all[0].digest),
        "more than 16 MiB together",
        "2 referrers",
    ]);
    let tar = Tar::open(&cli.path("b.tar"));
    let there = all.each_ref().map(|referrer| tar.blob(&referrer.digest).is_some());
    assert_eq!(there, [false, true, true]);
}

#[test]
fn annotations_that_other_programs_cannot_read_are_in_no_list() {
    for fields in [
        json!({"annotations": {"a": 5}}),
        json!({"annotations": {"a": {"b": "c"}}}),
        json!({"annotations": [1]}),
        json!({"annotations": "x"}),
        json!({"artifactType": 5}),
        json!({"subject": "x"}),
    ] {
        let (cli, (source, image)) = (cli(), with_image(false));
        let good = refer(&source, "team/app", &image.root, BUNDLE, "signature");
        let broken = put(&source, &image, &fields);
        let out = cli.run(&["export", &names(&source), "-o", "b.tar"]).expect_code(1);
        out.says(&[&format!("left out {}", broken.digest), "without some referrers"]);
        let index = Tar::open(&cli.path("b.tar")).json("index.json");
        let entries = index["manifests"].as_array().unwrap();
        assert_eq!(
            (entries.len(), &entries[1]["digest"]),
            (2, &json!(good.digest)),
            "{fields}"
        );
    }
    // Large annotations stay in the manifest: copied to a list, they would make the list too large for its readers.
    let (cli, (source, image)) = (cli(), with_image(true));
    put(
        &source,
        &image,
        &json!({"annotations": {"a": "x".repeat(20_000), "b": "c"}}),
    );
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let index = Tar::open(&cli.path("b.tar")).json("index.json");
    assert_eq!(
        index["manifests"][1]["annotations"].as_object().unwrap().len(),
        1,
        "{index}"
    );
    let target = registry(false);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    let entries = listed(&target, "team/app", &image.root);
    assert_eq!((entries.len(), entries[0].get("annotations")), (1, None));
}

#[test]
fn a_chosen_referrer_takes_along_what_it_refers_to_and_a_pattern_for_nothing_is_told() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    let image = names(&source);
    let chosen = ["--referrers", "*sigstore*", "--referrers", "text/*"];
    let out = cli.succeed(&[&["export", &image, "-o", "b.tar", "--dry-run"][..], &chosen].concat());
    assert!(!out.stderr.contains("`--referrers *sigstore*`"), "{}", out.stderr);
    // A dry run lists what would go along.
    out.says(&[
        "4 referrers",
        &format!("3 x {BUNDLE}"),
        &format!("1 x {SBOM}"),
        "`--referrers text/*` chose nothing",
    ]);
    let target = registry(false);
    cli.succeed(&[&["-d", &target.host(), &image][..], &chosen].concat());
    let missing = signed.missing(&target, "team/app");
    assert_eq!(missing, [tag_of(&signed.image.root, ".sig")]);
}

#[test]
fn a_warning_that_several_images_give_is_shown_once_and_counted() {
    let (cli, source) = (cli(), registry(false));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", &tag_of(&image.root, ""));
    let names: Vec<String> = (1..=5).map(|n| format!("{}/team/app:{n}", source.host())).collect();
    for n in 1..=5 {
        image.push(&source, "team/app", &n.to_string());
    }
    let mut arguments = vec!["export", "-o", "b.tar"];
    arguments.extend(names.iter().map(String::as_str));
    let out = cli.succeed(&arguments).says(&["4 repeated warnings are not shown"]);
    assert_eq!(
        out.stderr.matches("holds the image itself").count(),
        1,
        "{}",
        out.stderr
    );
}
