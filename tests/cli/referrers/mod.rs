//! "What belongs to an image travels with it": signatures, attestations, SBOMs and all else that refers to its manifests.

mod bad_input;
mod contradictions;
mod discovery;
mod edited_bundles;
mod layouts;
mod left_out;
mod lists_by_name;
mod locked;
mod losses;
mod lost_blobs;
mod mirrors;
mod odd_answers;
mod referrer_indexes;
mod refusals;
mod requests;
mod sha512;
mod two_ways;

use serde_json::Value;

use super::cli;
use super::support::image::{Document, Image, Style};
use super::support::images::{multi, small};
use super::support::layout::Tar;
use super::support::referrers::{BUNDLE, OCI_INDEX, OCI_MANIFEST, SBOM, beside, list, listed, refer, referrers_tag};
use super::support::{Action, Cli, Double, Options, When};

/// A registry with the list of referrers, or without it.
fn registry(has_list: bool) -> Double {
    Double::start(Options {
        no_referrers: !has_list,
        ..Options::default()
    })
}

/// An image of two platforms with all that can belong to it.
struct Signed {
    image: Image,
    belongings: Vec<Document>,
    signature: Document,
}

/// Puts it into `team/app` as `1`.
fn signed(registry: &Double) -> Signed {
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "signed");
    image.push(registry, "team/app", "1");
    let (root, child) = (&image.root, &image.below[0]);
    let of_root = refer(registry, "team/app", root, BUNDLE, "signature of the index");
    let of_child = refer(registry, "team/app", child, BUNDLE, "signature of a platform");
    let sbom = refer(registry, "team/app", child, SBOM, "SBOM of a platform");
    let of_sbom = refer(registry, "team/app", &sbom, BUNDLE, "signature of the SBOM");
    let signature = beside(registry, "team/app", root, "sig", "by the source");
    Signed {
        belongings: vec![of_root, of_child, sbom, of_sbom],
        signature,
        image,
    }
}

fn tag_of(document: &Document, end: &str) -> String {
    format!("{}{end}", referrers_tag(&document.digest))
}

impl Signed {
    /// Says what of it is not in a repository, or not found there by what it refers to.
    fn missing(&self, registry: &Double, repository: &str) -> Vec<String> {
        let mut missing = Vec::new();
        for document in &self.belongings {
            let text = document.json()["annotations"]["text"].to_string();
            if registry.manifest(repository, &document.digest).as_ref() != Some(&document.bytes) {
                missing.push(text.clone());
            }
            let subject = &document.json()["subject"]["digest"];
            let subjects = self
                .image
                .below
                .iter()
                .chain([&self.image.root])
                .chain(&self.belongings);
            let subject = subjects.into_iter().find(|there| subject == &there.digest).unwrap();
            let entries = listed(registry, repository, subject);
            let entry = entries.iter().find(|entry| entry["digest"] == document.digest);
            match entry {
                Some(entry) => assert_eq!(
                    (&entry["artifactType"], &entry["annotations"]["text"]),
                    (
                        &document.json()["artifactType"],
                        &document.json()["annotations"]["text"]
                    )
                ),
                None if registry.has_no_referrers() => missing.push(format!("{text} is not listed")),
                None => {}
            }
        }
        let tag = tag_of(&self.image.root, ".sig");
        if registry.manifest(repository, &tag).as_ref() != Some(&self.signature.bytes) {
            missing.push(tag);
        }
        missing
    }
}

fn names(source: &Double) -> String {
    format!("{}/team/app:1", source.host())
}

fn puts(registry: &Double) -> Vec<String> {
    registry
        .requests_of("PUT", "/manifests/")
        .iter()
        .map(|put| put.path.clone())
        .collect()
}

#[test]
fn everything_that_refers_to_an_image_travels_by_every_way_between_every_kind_of_registry() {
    for source_lists in [true, false] {
        let (cli, source) = (cli(), registry(source_lists));
        let signed = signed(&source);
        let said = cli.succeed(&["export", &names(&source), "-o", "b.tar"]).stderr;
        assert!(
            said.contains(&format!("5 referrers: 1 x {SBOM}")) && said.contains(&format!("3 x {BUNDLE}")),
            "{said}"
        );
        cli.succeed(&["export", &names(&source), "-o", "b.tar.zst"]);
        for target_lists in [true, false] {
            for way in ["file", "compressed", "pipe", "one step"] {
                let target = registry(target_lists);
                let destination = format!("{}/m", target.host());
                match way {
                    "file" => cli.succeed(&["import", "b.tar", "-d", &destination]),
                    "compressed" => cli.succeed(&["import", "b.tar.zst", "-d", &destination]),
                    "one step" => cli.succeed(&["-d", &destination, &names(&source)]),
                    _ => import_piped(&cli, "b.tar", &destination),
                };
                let missing = signed.missing(&target, "m/team/app");
                let about = format!("{source_lists} {target_lists} {way}: {}", target.transcript());
                assert_eq!(missing, Vec::<String>::new(), "{about}");
                // Nothing becomes visible by the tag before what belongs to it.
                let puts = puts(&target);
                assert!(puts.last().unwrap().ends_with("/manifests/1"), "{about}");
                let place = |digest: &str| puts.iter().position(|path| path.ends_with(digest));
                for pair in signed.belongings.windows(2).skip(2) {
                    assert!(place(&pair[0].digest) < place(&pair[1].digest), "{about}");
                }
                if way == "file" {
                    target.forget_requests();
                    let again = cli.succeed(&["import", "b.tar", "-d", &destination]);
                    assert!(puts_nothing(&target), "{}{}", again.stderr, target.transcript());
                }
            }
        }
    }
}

fn puts_nothing(registry: &Double) -> bool {
    registry.requests_of("PUT", "").is_empty() && registry.requests_of("POST", "").is_empty()
}

fn import_piped(cli: &Cli, bundle: &str, destination: &str) -> super::support::cli::Output {
    let arguments = ["import", "-", "-d", destination];
    let mut command = cli.command(&arguments);
    command.stdin(std::fs::File::open(cli.path(bundle)).unwrap());
    let output = command.output().unwrap();
    super::support::cli::Output::new(&output, &arguments).expect_code(0)
}

#[test]
fn a_user_chooses_which_types_travel() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar", "--referrers", "*spdx*"]);
    let record = Tar::open(&cli.path("b.tar")).json("docker-mirror.json");
    let record = record["images"][0]["referrers"].as_array().unwrap().clone();
    assert_eq!(record.len(), 1);
    assert_eq!(record[0]["digest"], signed.belongings[2].digest);
    // On import the same.
    cli.succeed(&["export", &names(&source), "-o", "all.tar"]);
    let target = registry(false);
    let destination = target.host();
    cli.succeed(&[
        "import",
        "all.tar",
        "-d",
        &destination,
        "--referrers",
        "*simplesigning*",
    ]);
    assert_eq!(signed.missing(&target, "team/app").len(), 8);
    let target = registry(false);
    let destination = target.host();
    let out = cli.succeed(&["import", "all.tar", "-d", &destination, "--no-referrers"]);
    assert!(out.stderr.contains("referrers are not carried"), "{}", out.stderr);
    // What is required has to be there.
    small(Style::Oci, "linux/amd64", "unsigned").push(&source, "team/bare", "1");
    let bare = format!("{}/team/bare:1", source.host());
    cli.succeed(&["export", &bare, "-o", "bare.tar"]);
    let out = cli
        .run(&["export", &bare, "-o", "c.tar", "--referrers", "require"])
        .expect_code(1);
    assert!(out.stderr.contains("no signature"), "{}", out.stderr);
    let out = cli
        .run(&["import", "bare.tar", "-d", &destination, "--referrers", "require"])
        .expect_code(1);
    assert!(out.stderr.contains("no signature"), "{}", out.stderr);
}

#[test]
fn what_the_destination_has_already_stays() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let target = registry(false);
    // The site signed the image itself, by both ways, before the signatures of the source come.
    signed.image.push(&target, "team/app", "1");
    let own = refer(&target, "team/app", &signed.image.root, BUNDLE, "by the site");
    let sig = beside(&target, "team/app", &signed.image.root, "sig", "by the site");
    let host = target.host();
    let import = ["import", "b.tar", "-d", &host];
    let would = cli.run(&[&import[..], &["--dry-run"]].concat()).expect_code(1);
    would.says(&[
        "stays as it is",
        "would be at the destination without some referrers",
        &tag_of(&signed.image.root, ".sig"),
    ]);
    cli.succeed(&[&import[..], &["--dry-run", "--merge-signatures"]].concat());
    let required = ["--referrers", "require"];
    for dry_run in [&["--dry-run"][..], &[]] {
        let out = cli.run(&[&import[..], &required, dry_run].concat()).expect_code(1);
        out.says(&["stays as it is", "omit `--referrers require`"]);
    }
    let out = cli.run(&import).expect_code(1);
    // The same again is no new image.
    target.forget_requests();
    let again = cli.run(&import).expect_code(1);
    let again = again.says(&["stays as it is", "1 unchanged", "4 referrers"]);
    assert!(!again.stderr.contains("1 new"), "{}", again.stderr);
    assert!(puts_nothing(&target), "{}", target.transcript());
    let entries = listed(&target, "team/app", &signed.image.root);
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(entries[0]["digest"], own.digest);
    let tag = tag_of(&signed.image.root, ".sig");
    assert_eq!(target.manifest("team/app", &tag), Some(sig.bytes.clone()));
    assert!(
        out.stderr.contains("stays as it is") && out.stderr.contains(&tag),
        "{}",
        out.stderr
    );
    assert!(target.requests_of("DELETE", "").is_empty());
    // The same if the signature is asked for by name.
    let by_name = format!("{}/team/app:{tag}", source.host());
    let out = cli.run(&["-d", &target.host(), &by_name]).expect_code(1);
    assert!(out.stderr.contains("is not overwritten"), "{}", out.stderr);
    assert_eq!(target.manifest("team/app", &tag), Some(sig.bytes.clone()));

    // On demand the tag has both, as after a second signing, and then nothing is left to be done.
    for _ in 0..2 {
        target.forget_requests();
        cli.succeed(&["import", "b.tar", "-d", &target.host(), "--merge-signatures"]);
        let merged: serde_json::Value = serde_json::from_slice(&target.manifest("team/app", &tag).unwrap()).unwrap();
        let layers = merged["layers"].as_array().unwrap();
        let both = [
            sig.json()["layers"][0].clone(),
            signed.signature.json()["layers"][0].clone(),
        ];
        assert_eq!(*layers, both);
        let config = merged["config"]["digest"].as_str().unwrap();
        let config = target.store().blob("team/app", config).unwrap().all();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!((&ids[0], &ids[1]), (&both[0]["digest"], &both[1]["digest"]));
    }
    assert!(puts_nothing(&target), "{}", target.transcript());
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
}

#[test]
fn a_signature_that_cannot_be_read_is_no_absent_one() {
    for (when, action, code, words) in [
        (When::get("/referrers/"), Action::status(403), 3, "403"),
        (When::get("/referrers/"), Action::status(401), 3, "wants credentials"),
        (When::get("/referrers/"), Action::status(500), 1, "500"),
        (When::path(".sig"), Action::status(403), 3, "403"),
    ] {
        let (cli, source) = (cli(), registry(true));
        signed(&source);
        source.add_fault(when, action);
        let image = names(&source);
        let out = cli.run(&["export", &image, "-o", "b.tar", "--retries", "0"]);
        let said = out.expect_code(code).stderr;
        assert!(said.contains("could not be read") && said.contains(words), "{said}");
        assert!(said.contains("--no-referrers"), "{said}");
        cli.succeed(&["export", &image, "-o", "b.tar", "--no-referrers", "--fresh"]);
    }
    // What is no list means that there is none.
    for action in [Action::html(), Action::status(400), Action::status(406)] {
        let (cli, source) = (cli(), registry(true));
        let signed = signed(&source);
        list(&source, "team/app", &signed.image.root, &signed.belongings[0]);
        source.add_fault(When::get("/referrers/"), action);
        let said = cli.succeed(&["export", &names(&source), "-o", "b.tar"]).stderr;
        assert!(said.contains("2 referrers"), "{said}");
    }
}

#[test]
fn what_is_listed_wrongly_is_left_out_and_named() {
    let (cli, source) = (cli(), registry(false));
    let signed = signed(&source);
    let root = &signed.image.root;
    // Another subject, one that is not there, and an image.
    list(&source, "team/app", root, &signed.belongings[1]);
    list(&source, "team/app", root, &Document::new(OCI_MANIFEST, "{}"));
    list(&source, "team/app", root, &signed.image.below[0]);
    let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    assert!(out.stderr.contains("5 referrers"), "{}", out.stderr);
    let wrong = out
        .stderr
        .matches("is listed for another subject than its manifest states")
        .count();
    assert_eq!(wrong, 1, "{}", out.stderr);
    assert!(out.stderr.contains("it is listed and not there"), "{}", out.stderr);
    // Where signatures are required, one that is not there is an error.
    let required = ["export", &names(&source), "-o", "c.tar", "--referrers", "require"];
    cli.run(&required)
        .expect_code(1)
        .says(&["it is listed and not there", "--referrers require"]);
    // A tag that holds an image lists nothing.
    let (cli, source) = (super::cli(), registry(false));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    image.push(&source, "team/app", &tag_of(&image.root, ""));
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
}

#[test]
fn a_list_of_referrers_is_never_overwritten() {
    let (cli, source, target) = (cli(), registry(false), registry(false));
    let signed = signed(&source);
    let root = &signed.image.root;
    let digest = &root.digest;
    // An image that is pinned by its digest has a tag that lists nothing, however often it is mirrored.
    let image = format!("{}/team/app@{digest}", source.host());
    for _ in 0..2 {
        cli.succeed(&["-d", &target.host(), &image]);
        assert_eq!(signed.missing(&target, "team/app"), Vec::<String>::new());
        assert_eq!(
            target.manifest("team/app", &tag_of(root, "-image")),
            Some(root.bytes.clone())
        );
    }
    // A list that is asked for by name does not replace the one that is there.
    refer(&target, "team/app", root, SBOM, "by the site");
    let before = listed(&target, "team/app", root);
    let list = format!("{}/team/app:{}", source.host(), tag_of(root, ""));
    let out = cli.run(&["-d", &target.host(), &list]).expect_code(1);
    assert!(out.stderr.contains("this tag is no image"), "{}", out.stderr);
    assert_eq!(listed(&target, "team/app", root), before);
    // An earlier version put the image itself there: that is said, and the image goes all the same.
    let other = registry(false);
    signed.image.push(&other, "team/app", &tag_of(root, ""));
    let out = cli.run(&["-d", &other.host(), &names(&source)]).expect_code(1);
    assert!(out.stderr.contains("holds the image itself"), "{}", out.stderr);
    assert_eq!(other.manifest("team/app", "1"), Some(root.bytes.clone()));
}

#[test]
fn a_referrer_that_is_asked_for_by_name_is_found_by_its_subject() {
    let (cli, source, target) = (cli(), registry(true), registry(false));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let sbom = refer(&source, "team/app", &image.root, SBOM, "SBOM");
    source
        .store()
        .put_manifest("team/app", Some("sbom"), OCI_MANIFEST, sbom.bytes.clone());
    let named = format!("{}/team/app:sbom", source.host());
    cli.succeed(&["-d", &target.host(), &named]);
    assert_eq!(
        listed(&target, "team/app", &image.root).len(),
        1,
        "{}",
        target.transcript()
    );
    // Together with the image, and out of a file.
    cli.succeed(&["export", &names(&source), &named, "-o", "b.tar"]);
    let target = registry(false);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert_eq!(listed(&target, "team/app", &image.root).len(), 1);
    assert_eq!(target.manifest("team/app", "sbom"), Some(sbom.bytes));
}

#[test]
fn a_signature_of_an_index_stays_in_the_bundle_where_the_index_loses_platforms() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    let only = ["--platform", "linux/amd64"];
    let image = names(&source);
    let export = ["export", &image, "-o", "b.tar"];
    cli.succeed(&[&export[..], &only].concat()).says(&[
        "5 referrers",
        &format!("2 of them refer to the unfiltered index {}", signed.image.root.digest),
        "`import --index sparse`",
    ]);
    let root = &signed.image.root.digest;
    // The bundle has all of it, and says so of each.
    let words = format!("it signs the unfiltered index {root}");
    let shown = cli.succeed(&["inspect", "b.tar"]).stdout;
    assert_eq!(shown.matches(&words).count(), 2, "{shown}");
    let shown = cli.succeed(&["inspect", "b.tar", "--json"]).stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let referrers = shown["images"][0]["referrers"].as_array().unwrap();
    let reasons = referrers
        .iter()
        .filter(|it| it["reason"].as_str().unwrap().contains(&words));
    let mut of_index: Vec<&str> = reasons.map(|it| it["digest"].as_str().unwrap()).collect();
    let mut expected = [signed.belongings[0].digest.as_str(), signed.signature.digest.as_str()];
    of_index.sort_unstable();
    expected.sort_unstable();
    assert_eq!((referrers.len(), of_index), (5, expected.to_vec()), "{shown}");
    for (index, there) in [("filtered", false), ("sparse", true)] {
        let target = Double::start(Options {
            accept_sparse: true,
            ..Options::default()
        });
        let out = cli.succeed(&[
            "import",
            "b.tar",
            "-d",
            &target.host(),
            "--index",
            index,
            "--report",
            "r.json",
        ]);
        let of_root = &signed.belongings[0].digest;
        assert_eq!(target.manifest("team/app", of_root).is_some(), there, "{index}");
        assert_eq!(
            target
                .manifest("team/app", &tag_of(&signed.image.root, ".sig"))
                .is_some(),
            there
        );
        // Those of a platform that is there always go.
        assert!(
            target.manifest("team/app", &signed.belongings[3].digest).is_some(),
            "{index}"
        );
        assert_eq!(out.stderr.contains(&words), !there, "{}", out.stderr);
        let report: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
        let left = report["images"][0]["leftOutReferrers"].as_array();
        let left = left.map_or(0, |left| {
            left.iter()
                .filter(|it| it["reason"].as_str().unwrap().contains(&words))
                .count()
        });
        assert_eq!(left, if there { 0 } else { 2 }, "{report}");
        // In one step the same.
        let target = Double::start(Options {
            accept_sparse: true,
            ..Options::default()
        });
        let host = target.host();
        let step = cli.succeed(&[&["-d", &host, &image, "--index", index][..], &only].concat());
        assert_eq!(target.manifest("team/app", of_root).is_some(), there, "{index}");
        assert!(
            target.manifest("team/app", &signed.belongings[3].digest).is_some(),
            "{index}"
        );
        assert_eq!(step.stderr.contains(&words), !there, "{}", step.stderr);
    }
    // A registry that takes no sparse index gets the filtered one.
    let target = Double::new();
    let out = cli
        .run(&["import", "b.tar", "-d", &target.host(), "--index", "sparse"])
        .expect_code(1);
    assert!(out.stderr.contains("which was not accepted"), "{}", out.stderr);
}

#[test]
fn what_belongs_to_an_image_is_chosen_and_renamed_with_it() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    small(Style::Oci, "linux/amd64", "other").push(&source, "team/other", "1");
    let other = format!("{}/team/other:1", source.host());
    cli.succeed(&["export", &names(&source), &other, "-o", "b.tar"]);
    let target = registry(false);
    cli.succeed(&["import", "b.tar", "-d", &target.host(), "--only", "*/other:1"]);
    assert_eq!(target.store().repositories(), ["team/other"]);
    cli.succeed(&["import", "b.tar", "-d", &target.host(), "--only", "*/app:1"]);
    assert_eq!(signed.missing(&target, "team/app"), Vec::<String>::new());
    let target = registry(false);
    let digest = &signed.image.root.digest;
    let name = format!("{digest}=example.com/new/name:2");
    cli.succeed(&["import", "b.tar", "-d", &target.host(), "--name", &name]);
    assert_eq!(
        signed.missing(&target, "new/name"),
        Vec::<String>::new(),
        "{}",
        target.transcript()
    );
}
