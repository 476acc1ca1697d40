//! Unusual but valid answers about referrers: every referrer that can be carried is carried once, and every search
//! ends.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::super::support::image::{Document, Image, Style};
use super::super::support::images::{multi, small};
use super::super::support::{Action, Canned, Double, When};
use super::{BUNDLE, OCI_INDEX, OCI_MANIFEST, SBOM, beside, cli, list, listed, names, refer, registry, tag_of};

/// A registry with an image of one platform and a signature of it.
fn with_signature(has_list: bool) -> (Double, Image, Document) {
    let source = registry(has_list);
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let signature = refer(&source, "team/app", &image.root, BUNDLE, "signature");
    (source, image, signature)
}

fn answer(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Canned {
    let canned = Canned {
        status,
        body: body.into(),
        ..Canned::default()
    };
    canned.with_header("content-type", media_type)
}

fn index(entries: &[Value]) -> String {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).to_string()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn odd_lists_of_referrers_are_read_and_what_is_no_list_means_the_tags() {
    let changed = |signature: &Document, key: &str, value: Value| {
        let mut entry = signature.descriptor();
        entry.insert(key.to_owned(), value);
        answer(200, OCI_INDEX, index(&[Value::Object(entry)]))
    };
    type Make = Box<dyn Fn(&Document) -> Canned>;
    // Whether only the list has the signature; otherwise only the tag has it.
    let table: [(&str, bool, Make); 15] = [
        (
            "a size that is too small",
            true,
            Box::new(move |it| changed(it, "size", json!(1))),
        ),
        (
            "a size that is too large",
            true,
            Box::new(move |it| changed(it, "size", json!(1 << 20))),
        ),
        (
            "a negative size",
            true,
            Box::new(move |it| changed(it, "size", json!(-1))),
        ),
        ("no size", true, Box::new(move |it| changed(it, "size", json!(null)))),
        (
            "another type",
            true,
            Box::new(move |it| changed(it, "mediaType", json!("text/plain"))),
        ),
        (
            "no type",
            true,
            Box::new(move |it| changed(it, "mediaType", json!(null))),
        ),
        (
            "no artifact type",
            true,
            Box::new(move |it| changed(it, "artifactType", json!(null))),
        ),
        (
            "a wrong artifact type",
            true,
            Box::new(move |it| changed(it, "artifactType", json!([7]))),
        ),
        (
            "twice the same",
            true,
            Box::new(|it| {
                let entry = Value::Object(it.descriptor());
                answer(200, OCI_INDEX, index(&[entry.clone(), entry]))
            }),
        ),
        (
            "compressed",
            true,
            Box::new(|it| {
                let body = gzip(&index(&[Value::Object(it.descriptor())]));
                answer(200, OCI_INDEX, body).with_header("content-encoding", "gzip")
            }),
        ),
        ("no body", false, Box::new(|_| answer(200, OCI_INDEX, ""))),
        (
            "204",
            false,
            Box::new(|_| Canned {
                status: 204,
                ..Canned::default()
            }),
        ),
        (
            "a page",
            false,
            Box::new(|_| answer(200, "text/html", "<!doctype html><p>Welcome")),
        ),
        ("nothing in it", false, Box::new(|_| answer(200, OCI_INDEX, index(&[])))),
        (
            "null in it",
            false,
            Box::new(|_| answer(200, OCI_INDEX, r#"{"schemaVersion":2,"manifests":null}"#)),
        ),
    ];
    for (name, by_list, make) in table {
        let (cli, (source, image, signature)) = (cli(), with_signature(true));
        let lists = When::get("/referrers/").and(&image.root.digest);
        source.add_fault(lists, Action::Answer(make(&signature)));
        if !by_list {
            list(&source, "team/app", &image.root, &signature);
        }
        let target = registry(false);
        let out = cli.run(&["-d", &target.host(), &names(&source), "--retries", "0"]);
        let about = format!("{name}: {}{}", out.stderr, source.transcript());
        assert_eq!(out.code, Some(0), "{about}");
        assert!(out.stderr.contains("1 referrer:"), "{about}");
        let found = listed(&target, "team/app", &image.root);
        assert_eq!(found.len(), 1, "{about}");
        assert_eq!(found[0]["digest"], signature.digest, "{about}");
        assert_eq!(found[0]["size"], signature.bytes.len(), "{about}");
        assert_eq!(found[0]["artifactType"], BUNDLE, "{about}");
    }
}

#[test]
fn what_the_destination_says_instead_of_a_list_means_the_list_under_the_tag() {
    let (cli, (source, image, signature)) = (cli(), with_signature(true));
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    for canned in [
        Canned {
            status: 204,
            ..Canned::default()
        },
        answer(200, OCI_INDEX, ""),
        answer(200, "text/html", "<!doctype html><p>Welcome"),
        answer(200, OCI_INDEX, index(&[])),
        Canned::error(400, "UNSUPPORTED", "no such API"),
        Canned::error(406, "UNSUPPORTED", "no such API"),
    ] {
        let target = registry(false);
        let about = format!("{canned:?}");
        target.add_fault(When::get("/referrers/"), Action::Answer(canned));
        let out = cli.run(&["import", "b.tar", "-d", &target.host(), "--retries", "0"]);
        assert_eq!(out.code, Some(0), "{about}: {}{}", out.stderr, target.transcript());
        let found = listed(&target, "team/app", &image.root);
        assert_eq!(
            (found.len(), &found[0]["digest"]),
            (1, &json!(signature.digest)),
            "{about}"
        );
    }
}

#[test]
fn a_list_under_a_tag_with_duplicates_and_a_signature_that_is_an_index_are_carried() {
    let (cli, (source, image, signature)) = (cli(), with_signature(false));
    let entry = Value::Object(signature.descriptor());
    let twice = index(&[entry.clone(), entry.clone(), entry]);
    let store = source.store();
    store.put_manifest("team/app", Some(&tag_of(&image.root, "")), OCI_INDEX, twice.into());
    // The tag of cosign holds an index of two signatures.
    let parts = ["first", "second"].map(|text| beside(&source, "team/app", &image.root, "sig", text));
    let both = Document::new(
        OCI_INDEX,
        index(&parts.each_ref().map(|part| Value::Object(part.descriptor()))),
    );
    let tag = tag_of(&image.root, ".sig");
    store.put_manifest("team/app", Some(&tag), OCI_INDEX, both.bytes.clone());
    let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    assert!(out.stderr.contains("2 referrers:"), "{}", out.stderr);
    for way in ["file", "one step"] {
        let target = registry(false);
        let host = target.host();
        match way {
            "file" => cli.succeed(&["import", "b.tar", "-d", &host]),
            _ => cli.succeed(&["-d", &host, &names(&source)]),
        };
        assert_eq!(listed(&target, "team/app", &image.root).len(), 1, "{way}");
        assert_eq!(target.manifest("team/app", &tag), Some(both.bytes.clone()), "{way}");
        for part in &parts {
            assert_eq!(
                target.manifest("team/app", &part.digest),
                Some(part.bytes.clone()),
                "{way}"
            );
        }
    }
}

#[test]
fn manifests_that_refer_to_themselves_or_to_each_other_are_carried_once() {
    // A list of referrers that lists its own subject, for an image and for a signature.
    let (cli, (source, image, signature)) = (cli(), with_signature(true));
    for document in [&image.root, &signature] {
        let entries = [&signature, &image.root].map(|document| Value::Object(document.descriptor()));
        let lists = When::get("/referrers/").and(&document.digest);
        source.add_fault(lists, Action::Answer(answer(200, OCI_INDEX, index(&entries))));
    }
    let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    assert!(out.stderr.contains("1 referrer:"), "{}", out.stderr);
    assert!(source.discovery().len() < 10, "{}", source.transcript());
    // The tags of cosign of two images hold the other one.
    let source = registry(true);
    let images = ["a", "b"].map(|text| small(Style::Oci, "linux/amd64", text));
    for (number, image) in images.iter().enumerate() {
        image.push(&source, "team/app", &number.to_string());
        let other = &images[1 - number].root;
        source.store().put_manifest(
            "team/app",
            Some(&tag_of(other, ".sig")),
            OCI_MANIFEST,
            image.root.bytes.clone(),
        );
        refer(&source, "team/app", &image.root, SBOM, "SBOM");
    }
    let both = [0, 1].map(|number| format!("{}/team/app:{number}", source.host()));
    for count in [1, 2] {
        let chosen: Vec<&str> = both.iter().take(count).map(String::as_str).collect();
        cli.succeed(&[&["export", "-o", "c.tar", "--force"][..], &chosen].concat());
        for way in ["file", "one step"] {
            let target = registry(false);
            let host = target.host();
            match way {
                "file" => cli.succeed(&["import", "c.tar", "-d", &host]),
                _ => cli.succeed(&[&["-d", &host][..], &chosen].concat()),
            };
            let about = format!("{count} {way}: {}", target.transcript());
            for (number, image) in images.iter().enumerate() {
                let other = &images[1 - number].root;
                let held = target.manifest("team/app", &tag_of(other, ".sig"));
                assert_eq!(held, Some(image.root.bytes.clone()), "{number} {about}");
                assert_eq!(listed(&target, "team/app", &image.root).len(), 1, "{number} {about}");
            }
        }
    }
}

#[test]
fn an_image_that_refers_to_another_one_and_a_platform_that_is_an_image_of_its_own_travel_with_all_that_refers_to_them()
{
    for has_list in [true, false] {
        let (cli, source) = (cli(), registry(has_list));
        let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "odd");
        let platform = &image.below[0];
        image.push(&source, "team/app", "1");
        let store = source.store();
        store.put_manifest("team/app", Some("amd64"), OCI_MANIFEST, platform.bytes.clone());
        // An image with a tag of its own that refers to the platform.
        let mut other = small(Style::Oci, "linux/amd64", "other");
        let mut manifest = other.root.json();
        manifest["subject"] = Value::Object(platform.descriptor());
        other.root = Document::new(OCI_MANIFEST, manifest.to_string());
        other.push(&source, "team/app", "other");
        if !has_list {
            list(&source, "team/app", platform, &other.root);
        }
        let mut all = vec![(platform.clone(), other.root.clone())];
        let mut add = |subject: &Document, text: &str| {
            let referrer = refer(&source, "team/app", subject, BUNDLE, text);
            all.push((subject.clone(), referrer.clone()));
            referrer
        };
        add(&image.root, "of the index");
        add(&other.root, "of the other image");
        let mut last = add(platform, "of the platform");
        for number in 2..=4 {
            last = add(&last, &format!("link {number}"));
        }
        beside(&source, "team/app", platform, "sig", "of the platform");
        let named = ["1", "amd64", "other"].map(|tag| format!("{}/team/app:{tag}", source.host()));
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        cli.succeed(&[&["export", "-o", "b.tar"][..], &named].concat());
        cli.succeed(&["verify", "b.tar"]);
        for way in ["file", "one step"] {
            let target = registry(false);
            let host = target.host();
            match way {
                "file" => cli.succeed(&["import", "b.tar", "-d", &host]),
                _ => cli.succeed(&[&["-d", &host][..], &named].concat()),
            };
            let about = format!("{has_list} {way}: {}", target.transcript());
            for (subject, referrer) in &all {
                let there = listed(&target, "team/app", subject);
                let count = there.iter().filter(|entry| entry["digest"] == referrer.digest).count();
                assert_eq!(count, 1, "{} {about}", referrer.digest);
                let held = target.manifest("team/app", &referrer.digest);
                assert_eq!(held, Some(referrer.bytes.clone()), "{about}");
            }
            assert!(
                target.manifest("team/app", &tag_of(platform, ".sig")).is_some(),
                "{about}"
            );
        }
    }
}
