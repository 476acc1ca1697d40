//! Wrong, refused or unbounded answers of registries about referrers: every loss is reported, and the image itself is
//! carried.

use serde_json::{Value, json};

use super::super::support::image::{Document, Image, Style};
use super::super::support::images::{multi, small};
use super::super::support::layout::Tar;
use super::super::support::referrers::{BUNDLE, OCI_INDEX, OCI_MANIFEST, SBOM, refer};
use super::super::support::{Action, Canned, Double, Options, When};
use super::{cli, list, names, registry, signed, tag_of};

/// A registry with an image of one platform.
fn with_image(has_list: bool) -> (Double, Image) {
    let source = registry(has_list);
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    (source, image)
}

/// A page of the list of referrers.
fn page(entries: &[Value], next: Option<&str>) -> Action {
    let body = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    let canned = Canned {
        status: 200,
        body: body.to_string().into_bytes(),
        ..Canned::default()
    };
    let canned = canned.with_header("content-type", OCI_INDEX);
    Action::Answer(match next {
        Some(next) => canned.with_header("link", &format!("<{next}>; rel=\"next\"")),
        None => canned,
    })
}

fn dangling(count: usize) -> Vec<Value> {
    let entry = |number: usize| Document::new(OCI_MANIFEST, format!("{{\"number\":{number}}}")).descriptor();
    (0..count).map(|number| Value::Object(entry(number))).collect()
}

#[test]
fn lists_that_are_wrong_or_have_no_end_are_told() {
    let pages = |count: usize| {
        let last = if count > 1 { Some("?page=2") } else { None };
        (page(&dangling(1), Some("?page=1")), page(&dangling(2)[1..], last))
    };
    for (name, faults, code, words) in [
        (
            "loop",
            vec![page(&[], Some("?page=0"))],
            1,
            "it has too many pages, or repeats a page",
        ),
        (
            "two pages that lead to each other",
            vec![pages(2).1, pages(2).0],
            1,
            "it has too many pages, or repeats a page",
        ),
        (
            "another server",
            vec![page(&[], Some("https://192.0.2.1/v2/x"))],
            1,
            "another server",
        ),
        (
            "one page of 10^5 entries",
            vec![page(&dangling(100_000), None)],
            1,
            "a page has more than",
        ),
        (
            "no JSON",
            vec![Action::Body(b"{".to_vec())],
            1,
            "the answer is no list of referrers",
        ),
        (
            "entries that are none",
            vec![page(&[json!(null), json!({"digest": "x"}), json!([])], None)],
            0,
            "3 entries without a usable digest in the list",
        ),
    ] {
        let (cli, (source, image)) = (cli(), with_image(true));
        // The first is the answer to all that the others do not answer.
        for (number, action) in faults.into_iter().enumerate() {
            let when = match number {
                0 => When::get("/referrers/").but_not("page=1"),
                _ => When::get("page=1"),
            };
            source.add_fault(when, action);
        }
        let out = cli.run(&["export", &names(&source), "-o", "b.tar", "--retries", "0"]);
        let out = out.expect_code(code);
        assert!(out.stderr.contains(words), "{name}: {}", out.stderr);
        assert!(
            code == 0 || out.stderr.contains("--no-referrers"),
            "{name}: {}",
            out.stderr
        );
        assert!(source.discovery().len() < 10, "{name}: {}", source.transcript());
        // In one step the same, and then without.
        let target = registry(false);
        let host = target.host();
        cli.run(&["-d", &host, &names(&source), "--retries", "0"])
            .expect_code(code);
        assert_eq!(target.manifest("team/app", "1").is_some(), code == 0, "{name}");
        cli.succeed(&["-d", &host, &names(&source), "--no-referrers"]);
        assert_eq!(target.manifest("team/app", "1"), Some(image.root.bytes.clone()));
    }
    // The same in a list under a tag: 10^5 entries are more than a manifest may have.
    let (cli, (source, image)) = (cli(), with_image(false));
    let long = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": dangling(100_000)}).to_string();
    let tag = tag_of(&image.root, "");
    source
        .store()
        .put_manifest("team/app", Some(&tag), OCI_INDEX, long.into());
    let out = cli.run(&["export", &names(&source), "-o", "b.tar", "--retries", "0"]);
    out.expect_code(1).says(&["could not be read", "--no-referrers"]);
}

#[test]
fn lists_of_many_platforms_are_read_up_to_a_number_and_what_is_left_out_is_named_up_to_one() {
    let (cli, source) = (cli(), registry(true));
    let platforms: Vec<String> = (0..12).map(|number| format!("linux/p{number}")).collect();
    let platforms: Vec<&str> = platforms.iter().map(String::as_str).collect();
    let image = multi(Style::Oci, &platforms, "many");
    image.push(&source, "team/app", "1");
    // They are too large to be fetched at all.
    let large = |from: usize| {
        let mut entries = dangling(from + 1000);
        entries.iter_mut().for_each(|entry| entry["size"] = json!(100 << 20));
        page(&entries[from..], None)
    };
    source.add_fault(When::get("/referrers/").and(&image.root.digest), large(1000));
    source.add_fault(When::get("/referrers/").but_not(&image.root.digest), large(0));
    let out = cli.run(&["export", &names(&source), "-o", "b.tar"]).expect_code(1);
    out.says(&[
        "more than 10000 manifests refer to it; the others are not searched",
        "1000 more manifests that refer to it are left out and not named",
        "without some referrers",
    ]);
    assert!(Tar::open(&cli.path("b.tar")).blob(&image.root.digest).is_some());
}

#[test]
fn a_manifest_that_is_listed_for_another_one_is_left_out() {
    let (cli, (source, image)) = (cli(), with_image(true));
    let other = small(Style::Oci, "linux/amd64", "other");
    other.push(&source, "team/app", "other");
    let foreign = refer(&source, "team/app", &other.root, BUNDLE, "signature of another image");
    let own = refer(&source, "team/app", &image.root, BUNDLE, "signature");
    let entries = [&foreign, &own, &other.root].map(|document| Value::Object(document.descriptor()));
    source.add_fault(When::get("/referrers/").and(&image.root.digest), page(&entries, None));
    let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let wrong = out
        .stderr
        .matches("is listed for another subject than its manifest states")
        .count();
    assert_eq!(wrong, 2, "{}", out.stderr);
    let tar = Tar::open(&cli.path("b.tar"));
    assert!(tar.blob(&own.digest).is_some() && tar.blob(&foreign.digest).is_none());
}

/// Puts a manifest as it stands, which refers to the image.
fn put(source: &Double, image: &Image, manifest: &Value) -> Document {
    let mut manifest = manifest.clone();
    manifest["subject"] = Value::Object(image.root.descriptor());
    let document = Document::new(OCI_MANIFEST, manifest.to_string());
    let store = source.store();
    store.put_manifest("team/app", None, OCI_MANIFEST, document.bytes.clone());
    document
}

#[test]
fn a_broken_referrer_is_a_loss_that_is_named_and_the_image_goes() {
    let config = |digest: &str, size: u64| json!({"mediaType": "application/x", "digest": digest, "size": size});
    let of_image = |image: &Image| image.root.json()["layers"][0].clone();
    type Make = Box<dyn Fn(&Double, &Image) -> (Document, &'static str)>;
    let contradiction: Make = Box::new(move |source, image| {
        let mut layer = of_image(image);
        layer["size"] = json!(layer["size"].as_u64().unwrap() + 1);
        let empty = config(&source.store().put_blob("team/app", "{}"), 2);
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": empty, "layers": [layer]});
        (put(source, image, &manifest), "another size")
    });
    let itself: Make = Box::new(move |source, image| {
        let digest = source.store().put_blob("team/app", "{}");
        let layers = [config(&digest, 3)];
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config(&digest, 2), "layers": layers});
        (put(source, image, &manifest), "another size")
    });
    let impossible: Make = Box::new(move |source, image| {
        let digest = source.store().put_blob("team/app", "{}");
        let layer = config(&super::super::support::sha256(b"x"), 1 << 50);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config(&digest, 2), "layers": [layer]});
        (put(source, image, &manifest), "impossible size")
    });
    let malformed: Make = Box::new(move |source, image| {
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": 7, "layers": "none"});
        (put(source, image, &manifest), "")
    });
    // It says that it has 100 MB, and has more than the registry says.
    let huge: Make = Box::new(move |source, image| {
        let referrer = refer(source, "team/app", &image.root, SBOM, "large");
        let mut entry = referrer.descriptor();
        entry.insert("size".to_owned(), json!(100 << 20));
        source.add_fault(
            When::get("/referrers/").and(&image.root.digest),
            page(&[Value::Object(entry)], None),
        );
        (referrer, "has 104857600 bytes")
    });
    let huger: Make = Box::new(move |source, image| {
        let referrer = refer(source, "team/app", &image.root, SBOM, "large");
        source.add_fault(When::get(&referrer.digest), Action::Body(vec![b' '; 17 << 20]));
        (referrer, "it has more than")
    });
    for (name, make) in [
        ("contradiction", contradiction),
        ("contradiction in itself", itself),
        ("impossible", impossible),
        ("malformed", malformed),
        ("huge", huge),
        ("huger", huger),
    ] {
        let (cli, (source, image)) = (cli(), with_image(true));
        let good = refer(&source, "team/app", &image.root, BUNDLE, "signature");
        let (broken, words) = make(&source, &image);
        let is_listed = name != "huge";
        let say = |out: &super::super::support::cli::Output| {
            let named = format!("left out {}", broken.digest);
            assert!(
                out.stderr.contains(&named) && out.stderr.contains(words),
                "{name}: {}",
                out.stderr
            );
            assert!(out.stderr.contains("without some referrers"), "{name}: {}", out.stderr);
        };
        let out = cli.run(&[
            "export",
            &names(&source),
            "-o",
            "b.tar",
            "--report",
            "r.json",
            "--retries",
            "0",
        ]);
        let out = out.expect_code(1);
        say(&out);
        let report: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
        assert_eq!(report["images"][0]["referrersLost"], true, "{name}: {report}");
        assert_eq!(report["images"][0]["outcome"], "exported", "{name}: {report}");
        let tar = Tar::open(&cli.path("b.tar"));
        assert!(tar.blob(&image.root.digest).is_some(), "{name}");
        assert_eq!(tar.blob(&good.digest).is_some(), is_listed, "{name}");
        cli.run(&["export", &names(&source), "-o", "c.tar", "--dry-run", "--retries", "0"])
            .expect_code(1);
        let target = registry(true);
        let out = cli
            .run(&["-d", &target.host(), &names(&source), "--retries", "0"])
            .expect_code(1);
        say(&out);
        assert_eq!(
            target.manifest("team/app", "1"),
            Some(image.root.bytes.clone()),
            "{name}"
        );
        assert_eq!(target.manifest("team/app", &good.digest).is_some(), is_listed, "{name}");
        cli.succeed(&["export", &names(&source), "-o", "d.tar", "--no-referrers"]);
    }
}

#[test]
fn a_registry_that_refuses_to_tell_is_no_registry_that_has_nothing() {
    let limited = || Action::error(403, "DENIED", "You have exceeded a secondary rate limit");
    for (when, action, words, code) in [
        (When::get("/referrers/"), Action::status(429), "429", 4),
        (When::get("/referrers/"), limited(), "secondary rate limit", 4),
        (When::path(".att"), Action::status(429), "429", 4),
        (When::path(".sbom"), Action::status(401), "wants credentials", 3),
        (When::path(".sig"), Action::status(503), "503", 1),
    ] {
        let (cli, source) = (cli(), registry(true));
        let signed = signed(&source);
        for suffix in ["att", "sbom"] {
            super::beside(&source, "team/app", &signed.image.root, suffix, suffix);
        }
        source.add_fault(when, action);
        let image = names(&source);
        let out = cli
            .run(&["export", &image, "-o", "b.tar", "--retries", "0"])
            .expect_code(code);
        out.says(&["could not be read", words, "--no-referrers"]);
        let target = registry(true);
        let host = target.host();
        let out = cli.run(&["-d", &host, &image, "--retries", "0"]).expect_code(code);
        out.says(&["could not be read", words, "--no-referrers"]);
        assert_eq!(target.manifest("team/app", "1"), None);
    }
    // GitHub's registry throttles with a 403: the request is repeated, and then everything is carried.
    let (cli, source) = (cli(), registry(true));
    signed(&source);
    source.add_fault(When::get("/referrers/").first(1), limited());
    let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    assert!(out.stderr.contains("5 referrers"), "{}", out.stderr);
}

#[test]
fn a_destination_that_takes_no_referrers_gets_the_image_and_the_loss_is_named() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    type Refusal = (&'static str, fn(&Value) -> bool, usize);
    let refusals: [Refusal; 4] = [
        ("subject", |manifest| manifest.get("subject").is_some(), 4),
        ("artifactType", |manifest| manifest.get("artifactType").is_some(), 4),
        (
            "empty configs",
            |manifest| manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json",
            4,
        ),
        (
            "signatures",
            |manifest| {
                manifest["layers"][0]["mediaType"]
                    .as_str()
                    .is_some_and(|kind| kind.contains("cosign"))
            },
            1,
        ),
    ];
    for (name, refuses, lost) in refusals {
        for has_list in [true, false] {
            for way in ["import", "one step"] {
                let target = Double::start(Options {
                    refuses: Some(refuses),
                    no_referrers: !has_list,
                    ..Options::default()
                });
                let (host, image) = (target.host(), names(&source));
                let arguments = match way {
                    "import" => ["import", "b.tar", "-d", &host, "--report", "r.json"],
                    _ => ["-d", &host, &image, "--report", "r.json", "--no-cache"],
                };
                let out = cli.run(&arguments).expect_code(1);
                let about = format!("{name} {has_list} {way}: {}{}", out.stderr, target.transcript());
                assert_eq!(
                    target.manifest("team/app", "1"),
                    Some(signed.image.root.bytes.clone()),
                    "{about}"
                );
                let report: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
                let image = &report["images"][0];
                assert_eq!(image["referrersLost"], true, "{about}");
                assert_eq!(
                    image["leftOutReferrers"].as_array().unwrap().len(),
                    lost,
                    "{about} {report}"
                );
                let carried = image["referrers"].as_object();
                let carried = carried.map_or(0, |carried| carried.values().filter_map(Value::as_u64).sum());
                assert_eq!(carried, 5 - lost as u64, "{about} {report}");
                for left in image["leftOutReferrers"].as_array().unwrap() {
                    let digest = left["digest"].as_str().unwrap();
                    assert!(out.stderr.contains(&format!("left out {digest}")), "{about}");
                    assert_eq!(target.manifest("team/app", digest), None, "{about}");
                }
            }
        }
    }
}

#[test]
fn a_list_is_written_over_what_was_read_and_three_times_at_most() {
    let (cli, (source, image)) = (cli(), with_image(false));
    let signature = refer(&source, "team/app", &image.root, BUNDLE, "signature");
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let tag = tag_of(&image.root, "");
    let (get, put) = (|| When::get(&tag), || When::put(&tag));
    let changed = || Action::error(412, "DENIED", "the tag holds something else");
    let lost = || {
        Action::Answer(Canned {
            status: 201,
            ..Canned::default()
        })
    };
    let (strong, weak) = (Some("\"one\""), Some("W/\"one\""));
    // The ETag that is sent, the answer to the writes, the number of writes, and the exit code.
    for (etag, answer, times, writes, code) in [
        (strong, None, 0, 1, 0),
        (None, None, 0, 1, 0),
        // A weak one matches nothing, as RFC 9110 says.
        (weak, None, 0, 1, 0),
        (strong, Some(changed()), 1, 2, 0),
        (strong, Some(changed()), 2, 3, 0),
        (strong, Some(changed()), 100, 3, 1),
        // A tag that may not be moved is refused in the same way.
        (None, Some(changed()), 100, 3, 1),
        // Another writer came between, which shows when it is read again.
        (None, Some(lost()), 2, 3, 0),
        (None, Some(lost()), 100, 3, 1),
    ] {
        let is_refused = matches!(answer, Some(Action::Answer(Canned { status: 412, .. })));
        let target = registry(false);
        image.push(&target, "team/app", "other");
        let own = refer(&target, "team/app", &image.root, SBOM, "by the site");
        if let Some(etag) = etag {
            target.add_fault(get(), Action::Header("etag", Some(etag.to_owned())));
        }
        if let Some(answer) = answer {
            target.add_fault(put().first(times), answer);
        }
        let out = cli.run(&["import", "b.tar", "-d", &target.host()]).expect_code(code);
        let puts = target.requests_of("PUT", &tag);
        let about = format!("{etag:?} {times}: {}{}", out.stderr, target.transcript());
        assert_eq!(puts.len(), writes, "{about}");
        let condition = etag.filter(|etag| !etag.starts_with('W')).unwrap_or_default();
        assert!(puts.iter().all(|put| put.header("if-match") == condition), "{about}");
        assert_eq!(
            target.manifest("team/app", "1"),
            Some(image.root.bytes.clone()),
            "{about}"
        );
        assert!(target.manifest("team/app", &signature.digest).is_some(), "{about}");
        let listed: Vec<Value> = super::listed(&target, "team/app", &image.root);
        let listed: Vec<&Value> = listed.iter().map(|entry| &entry["digest"]).collect();
        match code {
            0 => assert_eq!(listed, [&json!(own.digest), &json!(signature.digest)], "{about}"),
            _ => {
                assert_eq!(listed, [&json!(own.digest)], "{about}");
                assert!(out.stderr.contains("other programs changed the list"), "{about}");
                let said = out.stderr.contains("the tag holds something else");
                assert_eq!(said, is_refused, "{about}");
            }
        }
        assert!(target.requests_of("DELETE", "").is_empty(), "{about}");
    }
    // A registry that confirms another subject, or none, does not add the referrer to its list.
    for confirmed in [&signature.digest, "yes", ""] {
        let target = registry(false);
        let header = Action::Header("oci-subject", Some(confirmed.to_owned()));
        target.add_fault(When::put(&signature.digest), header);
        cli.succeed(&["import", "b.tar", "-d", &target.host()]);
        assert_eq!(super::listed(&target, "team/app", &image.root).len(), 1, "{confirmed}");
    }
}

#[test]
fn an_image_under_the_tag_of_a_list_lists_nothing_and_stays() {
    for has_list in [true, false] {
        let (cli, (source, image)) = (cli(), with_image(has_list));
        let other = small(Style::Oci, "linux/amd64", "other");
        let tag = tag_of(&image.root, "");
        other.push(&source, "team/app", &tag);
        cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
        // The tag at the destination is not overwritten, and its signature stays.
        let (signed, target) = (registry(true), registry(false));
        image.push(&signed, "team/app", "1");
        let signature = refer(&signed, "team/app", &image.root, BUNDLE, "signature");
        other.push(&target, "team/app", &tag);
        let out = cli.run(&["-d", &target.host(), &names(&signed)]).expect_code(1);
        out.says(&["which is no list of referrers", &signature.digest]);
        assert_eq!(target.manifest("team/app", &tag), Some(other.root.bytes.clone()));
        assert_eq!(target.manifest("team/app", "1"), Some(image.root.bytes.clone()));
        assert!(target.manifest("team/app", &signature.digest).is_some());
    }
    // A list that the API and the tag both have: each referrer is carried once.
    let (cli, (source, image)) = (cli(), with_image(true));
    let signature = refer(&source, "team/app", &image.root, BUNDLE, "signature");
    list(&source, "team/app", &image.root, &signature);
    let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    assert!(out.stderr.contains("1 referrer:"), "{}", out.stderr);
}
