//! Referrers that cannot be carried: the image goes without them, and what is left out is named.

use serde_json::{Value, json};

use super::super::support::image::{Document, Style};
use super::super::support::images::small;
use super::super::support::layout::Tar;
use super::super::support::{Action, When};
use super::{BUNDLE, OCI_INDEX, OCI_MANIFEST, SBOM, beside, cli, names, refer, registry, signed, tag_of};

#[test]
fn the_image_goes_where_a_registry_refuses_what_belongs_to_it() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let refused = &signed.belongings[1].digest;
    for action in [
        Action::error(400, "MANIFEST_INVALID", "unknown manifest class"),
        Action::error(403, "DENIED", "no artifacts here"),
        Action::status(415),
    ] {
        let target = registry(true);
        target.add_fault(When::put(refused), action);
        let out = cli.run(&["import", "b.tar", "-d", &target.host(), "--report", "r.json"]);
        let said = out.expect_code(1).stderr;
        assert!(said.contains(&format!("left out {refused}")), "{said}");
        assert!(said.contains("are at the destination without some referrers"), "{said}");
        assert_eq!(target.manifest("team/app", "1"), Some(signed.image.root.bytes.clone()));
        let report = std::fs::read_to_string(cli.path("r.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["images"][0]["referrersLost"], true);
        assert_eq!(report["images"][0]["leftOutReferrers"][0]["digest"], *refused);
        assert_eq!(report["images"][0]["referrers"][BUNDLE], 2);
    }
}

#[test]
fn lists_without_end_and_manifests_without_bounds_are_cut_and_told() {
    // A chain that is longer than any honest one, and a list that is.
    let (cli, source) = (cli(), registry(true));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let mut subject = image.root.clone();
    for number in 0..6 {
        subject = refer(&source, "team/app", &subject, BUNDLE, &format!("link {number}"));
    }
    let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    assert!(out.stderr.contains("4 referrers"), "{}", out.stderr);
    out.says(&["is longer than 4", "1 manifest that refers to it left out"]);
    let required = ["export", &names(&source), "-o", "d.tar", "--referrers", "require"];
    cli.run(&required).expect_code(1).says(&["is longer than 4"]);
    let source = registry(false);
    image.push(&source, "team/app", "1");
    let entry = |number: usize| {
        let document = Document::new(OCI_MANIFEST, format!("{{\"number\":{number}}}"));
        Value::Object(document.descriptor())
    };
    let entries: Vec<Value> = (0..1001).map(entry).collect();
    let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).to_string();
    let tag = tag_of(&image.root, "");
    source
        .store()
        .put_manifest("team/app", Some(&tag), OCI_INDEX, list.into());
    let out = cli.succeed(&["export", &names(&source), "-o", "c.tar"]);
    assert!(out.stderr.contains("more than 1000"), "{}", out.stderr);
    // A manifest that is larger than any registry takes is left out; a large layer is none of that.
    let (cli, source) = (super::cli(), registry(true));
    image.push(&source, "team/app", "1");
    let large = refer(&source, "team/app", &image.root, SBOM, "large");
    let fault = When::get(&large.digest);
    source.add_fault(fault, Action::Body(vec![b' '; 40 << 20]));
    let out = cli.run(&["export", &names(&source), "-o", "b.tar", "--retries", "0"]);
    let out = out.expect_code(1);
    assert!(out.stderr.contains(&large.digest), "{}", out.stderr);
    assert!(Tar::open(&cli.path("b.tar")).blob(&image.root.digest).is_some());
}

#[test]
fn a_signature_whose_tag_cannot_be_read_is_lost_by_each_import_and_by_a_dry_run() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let tag = tag_of(&signed.image.root, ".sig");
    for (action, is_loss) in [
        (Action::error(400, "UNSUPPORTED", "no"), true),
        (Action::error(403, "DENIED", "no"), true),
        (Action::error(405, "UNSUPPORTED", "no"), true),
        (Action::status(500), false),
        (Action::html(), false),
    ] {
        for (has_list, has_other) in [(true, false), (false, false), (true, true)] {
            let target = registry(has_list);
            let host = target.host();
            let import = ["import", "b.tar", "-d", &host, "--retries", "0"];
            cli.succeed(&[&import[..], &["--no-referrers"]].concat());
            if has_other {
                beside(&target, "team/app", &signed.image.root, "sig", "by the site");
            }
            // With another signature, HEAD works, so that only what the tag has is unknown.
            let when = match has_other {
                true => When::get(&tag),
                false => When::path(&tag),
            };
            target.add_fault(when, action.clone());
            for flags in [&["--dry-run"][..], &[], &[], &["--dry-run"], &["--merge-signatures"]] {
                let out = cli.run(&[&import[..], flags].concat());
                let about = format!("{action:?} {has_list} {has_other} {flags:?}: {}", out.stderr);
                assert_eq!(out.code, Some(1), "{about}");
                let digest = &signed.signature.digest;
                let said = match is_loss {
                    true => out.stderr.contains(&format!("left out {digest}")),
                    false => out.stderr.contains("1 of 1 images failed") && out.stderr.contains("--no-referrers"),
                };
                assert!(said, "{about}");
            }
            assert!(target.requests_of("PUT", &tag).is_empty(), "{}", target.transcript());
        }
    }
}

#[test]
fn a_referrer_that_is_listed_and_cannot_be_read_is_put_again() {
    let (cli, source, target) = (cli(), registry(true), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let import = ["import", "b.tar", "-d", &target.host()];
    cli.succeed(&import);
    let digest = &signed.belongings[0].digest;
    for refused in [When::head(digest), When::get(&format!("/manifests/{digest}"))] {
        target.add_fault(refused, Action::status(403));
    }
    target.forget_requests();
    cli.succeed(&import);
    assert_eq!(target.requests_of("PUT", digest).len(), 1, "{}", target.transcript());
}

#[test]
fn a_signature_by_its_own_name_overwrites_no_tag_that_cannot_be_read() {
    let (cli, source, target) = (cli(), registry(true), registry(true));
    let signed = signed(&source);
    let tag = tag_of(&signed.image.root, ".sig");
    let own = beside(&target, "team/app", &signed.image.root, "sig", "by the site");
    target.add_fault(When::head(&tag), Action::status(403));
    target.add_fault(When::get(&tag), Action::status(403));
    let by_name = format!("{}/team/app:{tag}", source.host());
    let out = cli.run(&["-d", &target.host(), &by_name, "--retries", "0"]);
    let out = out.expect_code(3).says(&["cannot tell what"]);
    assert!(!out.stderr.contains("--on-existing overwrite"), "{}", out.stderr);
    assert_eq!(target.manifest("team/app", &tag), Some(own.bytes));
}
