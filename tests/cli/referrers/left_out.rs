//! The referrers of an image are carried with the image or not at all: a referrer does not become an image of its own,
//! and the image's tag is pushed last.

use serde_json::{Value, json};

use super::super::support::cli::wait_until;
use super::super::support::image::{Document, Style};
use super::super::support::images::{multi, small};
use super::super::support::layout::{Tar, blob_name};
use super::super::support::referrers::{BUNDLE, OCI_INDEX, OCI_MANIFEST, SBOM, beside, listed, refer};
use super::super::support::{Action, Double, Gate, When, sha256};
use super::{cli, names, registry, signed, tag_of};

fn tags(registry: &Double) -> Vec<String> {
    let repository = registry.store().repository("team/app");
    repository.map_or_else(Vec::new, |it| it.tags.into_keys().collect())
}

#[test]
fn signatures_of_what_is_left_out_are_left_out_by_a_bundle_too() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    let [amd64, arm64] = [&signed.image.below[0], &signed.image.below[1]];
    for child in [amd64, arm64] {
        beside(&source, "team/app", child, "sig", &child.digest);
        beside(&source, "team/app", child, "att", &child.digest);
    }
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let of = |child: &Document| [tag_of(child, ".sig"), tag_of(child, ".att")];
    let cases: [(&[&str], Vec<String>); 4] = [
        (&["--no-referrers"], vec![]),
        (&["--no-referrers", "--only", "*:1"], vec![]),
        (&["--platform", "linux/amd64"], of(amd64).to_vec()),
        (&["--platform", "linux/amd64", "--referrers", "text/nothing"], vec![]),
    ];
    for (flags, mut expected) in cases {
        let target = registry(true);
        let host = target.host();
        let out = cli.succeed(&[&["import", "b.tar", "-d", &host], flags].concat());
        expected.push("1".to_owned());
        expected.sort();
        assert_eq!(tags(&target), expected, "{flags:?}: {}", out.stderr);
    }
}

/// The signature with one more layer, as after a second signing.
fn signed_again(registry: &Double, subject: &Document, first: &Document) -> Document {
    let payload = json!({"critical": {"image": {"docker-manifest-digest": subject.digest}}, "optional": "again"});
    let payload = payload.to_string();
    let layer = registry.store().put_blob("team/app", payload.clone());
    let mut manifest = first.json();
    let mut second = manifest["layers"][0].clone();
    second["digest"] = layer.into();
    second["size"] = payload.len().into();
    second["annotations"]["dev.cosignproject.cosign/signature"] = "again".into();
    manifest["layers"].as_array_mut().unwrap().push(second);
    let config = json!({"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": [
        manifest["layers"][0]["digest"], sha256(payload.as_bytes())]}});
    let config = config.to_string();
    manifest["config"]["digest"] = registry.store().put_blob("team/app", config.clone()).into();
    manifest["config"]["size"] = config.len().into();
    let manifest = Document::new(OCI_MANIFEST, manifest.to_string());
    let store = registry.store();
    store.put_manifest(
        "team/app",
        Some(&tag_of(subject, ".sig")),
        OCI_MANIFEST,
        manifest.bytes.clone(),
    );
    manifest
}

#[test]
fn two_bundles_of_an_image_that_was_signed_again_between_them_bring_its_signatures() {
    let (cli, source) = (cli(), registry(true));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let sig = tag_of(&image.root, ".sig");
    let first = beside(&source, "team/app", &image.root, "sig", "first");
    cli.succeed(&["export", &names(&source), "-o", "first.tar"]);
    let both = signed_again(&source, &image.root, &first);
    cli.succeed(&["export", &names(&source), "-o", "both.tar"]);
    beside(&source, "team/app", &image.root, "sig", "other");
    cli.succeed(&["export", &names(&source), "-o", "other.tar"]);
    // One of them has all signatures of the other.
    for order in [["first.tar", "both.tar"], ["both.tar", "first.tar"]] {
        let target = registry(true);
        cli.succeed(&["import", order[0], order[1], "-d", &target.host()]);
        assert_eq!(target.manifest("team/app", &sig), Some(both.bytes.clone()), "{order:?}");
        assert!(target.manifest("team/app", "1").is_some());
    }
    // Each has one that the other lacks.
    let target = registry(true);
    let import = ["import", "first.tar", "other.tar", "-d", &target.host()];
    let out = cli.run(&import).expect_code(1);
    out.says(&["stays as it is", "--merge-signatures"]);
    assert_eq!(target.manifest("team/app", &sig), Some(first.bytes.clone()));
    let target = registry(true);
    cli.succeed(&[
        "import",
        "first.tar",
        "other.tar",
        "-d",
        &target.host(),
        "--merge-signatures",
    ]);
    let merged: Value = serde_json::from_slice(&target.manifest("team/app", &sig).unwrap()).unwrap();
    assert_eq!(merged["layers"].as_array().unwrap().len(), 2);
}

#[test]
fn the_tag_of_a_platform_comes_after_its_image() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    for way in ["import", "one step"] {
        let target = registry(true);
        let (host, image) = (target.host(), names(&source));
        let arguments = match way {
            "import" => vec!["import", "b.tar", "-d", &host, "--platform-tags"],
            _ => vec!["-d", &host, &image, "--platform-tags"],
        };
        cli.succeed(&arguments);
        let puts = super::puts(&target);
        let place = |tag: &str| {
            puts.iter()
                .position(|path| path.ends_with(&format!("/manifests/{tag}")))
                .unwrap()
        };
        let signature = place(&tag_of(&signed.image.root, ".sig"));
        for platform in ["1_amd64", "1_arm64"] {
            assert!(
                signature < place("1") && place("1") < place(platform),
                "{way}: {puts:?}"
            );
        }
        // An image that fails takes its platforms along.
        let target = registry(true);
        target.add_fault(When::put(".sig"), Action::status(403));
        let host = target.host();
        let mut arguments = arguments.clone();
        let at = arguments.iter().position(|it| *it == "-d").unwrap() + 1;
        arguments[at] = &host;
        arguments.extend(["--referrers", "require"]);
        let out = cli.run(&arguments).expect_code(1);
        let out = out.says(&["not pushed, since its image"]);
        assert_eq!(tags(&target), Vec::<String>::new(), "{way}: {}", out.stderr);
    }
}

#[test]
fn an_image_is_taken_for_no_list_and_no_signature() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let other = multi(Style::Oci, &["linux/amd64", "linux/s390x"], "other");
    let target = registry(false);
    let list = tag_of(&signed.image.root, "");
    other.push(&target, "team/app", &list);
    let out = cli.run(&["import", "b.tar", "-d", &target.host()]).expect_code(1);
    out.says(&["is no list of referrers"]);
    assert_eq!(target.manifest("team/app", &list), Some(other.root.bytes.clone()));

    let target = registry(true);
    let sig = tag_of(&signed.image.root, ".sig");
    let other = small(Style::Oci, "linux/amd64", "other");
    other.push(&target, "team/app", &sig);
    let import = ["import", "b.tar", "-d", &target.host(), "--merge-signatures"];
    for dry_run in [&["--dry-run"][..], &[], &["--dry-run"], &[]] {
        let out = cli.run(&[&import[..], dry_run].concat()).expect_code(1);
        out.says(&["is no signature that another one can be added to"]);
    }
    assert_eq!(target.manifest("team/app", &sig), Some(other.root.bytes.clone()));

    // What did not go is not counted.
    let target = registry(true);
    other.push(&target, "team/app", "1");
    let import = ["import", "b.tar", "-d", &target.host(), "--on-existing", "skip"];
    let out = cli.run(&import);
    assert!(!out.everything().contains("5 referrers"), "{}", out.everything());
}

#[test]
fn what_another_writer_drops_from_a_list_is_added_again_by_the_next_import() {
    let (cli, source) = (cli(), registry(false));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let signature = refer(&source, "team/app", &image.root, BUNDLE, "signature");
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let target = registry(false);
    let import = ["import", "b.tar", "-d", &target.host()];
    cli.succeed(&import);
    // The other writer has read the list before this import, and writes it after.
    let empty = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string();
    let tag = tag_of(&image.root, "");
    target
        .store()
        .put_manifest("team/app", Some(&tag), OCI_INDEX, empty.into());
    let other = refer(&target, "team/app", &image.root, SBOM, "of the other writer");
    cli.succeed(&import).says(&["0 new, 1 pushed again, 0 failed"]);
    let there = listed(&target, "team/app", &image.root);
    let there: Vec<&Value> = there.iter().map(|entry| &entry["digest"]).collect();
    assert_eq!(there, [&json!(other.digest), &json!(signature.digest)]);
}

#[test]
fn what_another_writer_drops_before_the_tag_of_the_image_is_in_place_is_added_again() {
    let (cli, source) = (cli(), registry(false));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let signature = refer(&source, "team/app", &image.root, BUNDLE, "signature");
    let ours = beside(&source, "team/app", &image.root, "sig", "by the source");
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    for merges in [true, false] {
        let target = registry(false);
        // The push waits with its last write, while another one that found neither tag writes both.
        let gate = Gate::closed();
        target.add_fault(When::put("/manifests/1"), Action::Hold(gate.clone()));
        let mut arguments = vec!["import", "b.tar", "-d"];
        let host = target.host();
        arguments.push(&host);
        arguments.extend(merges.then_some("--merge-signatures"));
        let (out, theirs) = std::thread::scope(|scope| {
            let import = scope.spawn(|| cli.run(&arguments));
            wait_until("the tag is put", || gate.arrived() > 0);
            let list = tag_of(&image.root, "");
            target.store().change("team/app", |it| it.tags.remove(&list));
            let referrer = refer(&target, "team/app", &image.root, SBOM, "of the other");
            let theirs = (
                referrer,
                beside(&target, "team/app", &image.root, "sig", "by the other"),
            );
            gate.open();
            (import.join().unwrap(), theirs)
        });
        let out = out.expect_code(if merges { 0 } else { 1 });
        let about = format!("{}{}", out.stderr, target.transcript());
        let there = listed(&target, "team/app", &image.root);
        let there: Vec<&Value> = there.iter().map(|entry| &entry["digest"]).collect();
        assert_eq!(there, [&json!(theirs.0.digest), &json!(signature.digest)], "{about}");
        let held = target.manifest("team/app", &tag_of(&image.root, ".sig")).unwrap();
        let held: Value = serde_json::from_slice(&held).unwrap();
        let layers = [&theirs.1, &ours].map(|signature| signature.json()["layers"][0].clone());
        assert_eq!(
            *held["layers"].as_array().unwrap(),
            layers[..if merges { 2 } else { 1 }],
            "{about}"
        );
        assert_eq!(out.stderr.contains("stays as it is"), !merges, "{about}");
    }
}

#[test]
fn what_another_writer_adds_to_a_tag_while_two_signatures_are_merged_stays() {
    let (cli, source, target) = (cli(), registry(false), registry(false));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let ours = beside(&source, "team/app", &image.root, "sig", "by the source");
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    // The destination has all blobs, so that the only upload is that of the config of both signatures.
    image.push(&target, "team/app", "1");
    for text in ["by the source", "by the site"] {
        beside(&target, "team/app", &image.root, "sig", text);
    }
    let gate = Gate::closed();
    target.add_fault(When::post("/blobs/uploads/"), Action::Hold(gate.clone()));
    let host = target.host();
    let import = ["import", "b.tar", "-d", &host, "--merge-signatures"];
    let (out, theirs) = std::thread::scope(|scope| {
        let import = scope.spawn(|| cli.run(&import));
        wait_until("the config is pushed", || gate.arrived() > 0);
        let theirs = beside(&target, "team/app", &image.root, "sig", "by the other");
        gate.open();
        (import.join().unwrap(), theirs)
    });
    let out = out.expect_code(0);
    let held = target.manifest("team/app", &tag_of(&image.root, ".sig")).unwrap();
    let held: Value = serde_json::from_slice(&held).unwrap();
    let layers = [&theirs, &ours].map(|signature| signature.json()["layers"][0].clone());
    let about = format!("{}{}", out.stderr, target.transcript());
    assert_eq!(*held["layers"].as_array().unwrap(), layers, "{about}");
}

#[test]
fn what_another_writer_drops_again_after_it_was_added_again_is_added_once_more() {
    let (cli, source, target) = (cli(), registry(false), registry(false));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let ours = beside(&source, "team/app", &image.root, "sig", "by the source");
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    // The first time before the tag of the image is in place, and the second time after the signature was merged.
    let tag = tag_of(&image.root, ".sig");
    let gates = [Gate::closed(), Gate::closed()];
    target.add_fault(When::put("/manifests/1"), Action::Hold(gates[0].clone()));
    target.add_fault(When::head(&tag).nth(3), Action::Hold(gates[1].clone()));
    let host = target.host();
    let import = ["import", "b.tar", "-d", &host, "--merge-signatures"];
    let (out, theirs) = std::thread::scope(|scope| {
        let import = scope.spawn(|| cli.run(&import));
        let drop_ours = |gate: &Gate, text: &str| {
            wait_until("the tag is read", || gate.arrived() > 0);
            let theirs = beside(&target, "team/app", &image.root, "sig", text);
            gate.open();
            theirs
        };
        drop_ours(&gates[0], "by another");
        let theirs = drop_ours(&gates[1], "by the other");
        (import.join().unwrap(), theirs)
    });
    let out = out.expect_code(0);
    let held = target.manifest("team/app", &tag).unwrap();
    let held: Value = serde_json::from_slice(&held).unwrap();
    let layers = [&theirs, &ours].map(|signature| signature.json()["layers"][0].clone());
    let about = format!("{}{}", out.stderr, target.transcript());
    assert_eq!(*held["layers"].as_array().unwrap(), layers, "{about}");
}

#[test]
fn a_signature_whose_image_fails_is_not_pushed_alone() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    let image = names(&source);
    for (number, platform) in ["linux/amd64", "linux/arm64"].into_iter().enumerate() {
        beside(&source, "team/app", &signed.image.below[number], "sig", platform);
        let file = format!("{number}.tar");
        cli.succeed(&["export", &image, "-o", &file, "--platform", platform]);
    }
    // Two indexes of one name.
    let target = registry(true);
    let out = cli
        .run(&["import", "0.tar", "1.tar", "-d", &target.host()])
        .expect_code(1);
    out.says(&["two images are called", "1 of 1 images failed"]);
    assert_eq!(tags(&target), Vec::<String>::new(), "{}", target.transcript());
    // An image that lacks a layer.
    let bundle = Tar::open(&cli.path("0.tar"));
    let layer = signed.image.below[0].json()["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    bundle.without(&blob_name(&layer), &cli.path("lacking.tar"));
    let out = cli.run(&["import", "lacking.tar", "-d", &target.host()]);
    assert_ne!(out.code, Some(0), "{}", out.stderr);
    assert_eq!(
        tags(&target),
        Vec::<String>::new(),
        "{}{}",
        out.stderr,
        target.transcript()
    );
    // Each image is named once where a pattern matches none.
    let out = cli
        .run(&["import", "0.tar", "-d", &target.host(), "--only", "*.sig"])
        .expect_code(1);
    assert_eq!(out.stderr.matches("team/app:1").count(), 1, "{}", out.stderr);
}
