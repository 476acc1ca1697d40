//! "Same lock, same bytes": a lock exports signatures and other referrers by their digests alone.

use std::fs;

use super::super::support::{Action, Cli, Double, When};
use super::{BUNDLE, SBOM, beside, cli, names, refer, registry, signed};

/// Asserts that a registry was asked for digests only: for no tag, no list of tags and no list of referrers.
fn assert_only_digests(source: &Double, about: &str) {
    for request in source.requests() {
        let by_digest = ["/manifests/sha256:", "/blobs/sha256:"];
        let is_right = request.path == "/v2/" || by_digest.iter().any(|by| request.path.contains(by));
        assert!(is_right, "{about}: {} {}", request.method, request.target());
    }
}

/// Exports an image with its referrers as `b.tar`, with the lock `inspected.lock` and the report `b.json`. One of the
/// referrers also has a tag of cosign. Then the source changes: other signatures come, and one is signed again.
fn locked(cli: &Cli, source: &Double) -> super::Signed {
    let signed = signed(source);
    let twin = &signed.belongings[1];
    let tag = super::tag_of(&signed.image.below[0], ".att");
    source
        .store()
        .put_manifest("team/app", Some(&tag), super::OCI_MANIFEST, twin.bytes.clone());
    cli.succeed(&["export", &names(source), "-o", "b.tar", "--report", "b.json"]);
    cli.succeed(&["inspect", "b.tar", "--lock", "inspected.lock"]);
    refer(source, "team/app", &signed.image.root, BUNDLE, "a later signature");
    refer(source, "team/app", &signed.image.below[1], SBOM, "a later SBOM");
    beside(source, "team/app", &signed.image.below[0], "sig", "a later signature");
    beside(source, "team/app", &signed.image.root, "sig", "signed again");
    beside(source, "team/app", &signed.image.below[0], "att", "another attestation");
    source.forget_requests();
    signed
}

#[test]
fn later_signatures_change_nothing_and_no_tag_or_list_is_asked_for() {
    for has_list in [true, false] {
        let (cli, source) = (cli(), registry(has_list));
        locked(&cli, &source);
        let expected = fs::read(cli.path("b.tar")).unwrap();
        for (number, lock) in ["inspected.lock", "b.json"].into_iter().enumerate() {
            let about = format!("{has_list} {lock}");
            let file = format!("{number}.tar");
            cli.succeed(&["export", "--lock", lock, "-o", &file, "--no-cache"]);
            assert!(
                fs::read(cli.path(&file)).unwrap() == expected,
                "{about}: the bytes differ"
            );
            assert_only_digests(&source, &about);
            let piped = cli
                .command(&["export", "--lock", lock, "-o", "-", "--no-cache"])
                .output()
                .unwrap();
            assert!(piped.stdout == expected, "{about}: the bytes in a pipe differ");
            assert_only_digests(&source, &about);
            // The result is complete, so that another run writes nothing.
            cli.succeed(&["export", "--lock", lock, "-o", &file, "--no-cache"])
                .says(&["up to date"]);
            cli.succeed(&["export", "--lock", lock, "-o", "c.tar", "--dry-run", "--no-cache"]);
            assert_only_digests(&source, &about);
        }
    }
}

#[test]
fn an_unfinished_export_of_a_lock_continues_without_a_tag() {
    let (cli, source) = (cli(), registry(true));
    let signed = locked(&cli, &source);
    // The tag of the image moves as well, which the second run does not look at.
    super::small(super::Style::Oci, "linux/amd64", "moved").push(&source, "team/app", "1");
    let layer = signed.image.below[0].json()["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    for missing in [&layer, &signed.image.below[0].digest] {
        source.add_fault(When::path(missing), Action::error(404, "BLOB_UNKNOWN", "gone"));
        let export = ["export", "--lock", "inspected.lock", "-o", "again.tar", "--no-cache"];
        let refused = cli.run(&export).expect_code(1);
        assert!(!refused.stderr.contains("moved"), "{}", refused.everything());
    }
    source.clear_faults();
    let done = cli.succeed(&["export", "--lock", "inspected.lock", "-o", "again.tar", "--no-cache"]);
    assert!(!done.stderr.contains("moved"), "{}", done.everything());
    assert!(fs::read(cli.path("again.tar")).unwrap() == fs::read(cli.path("b.tar")).unwrap());
    assert_only_digests(&source, "resumed");
}

#[test]
fn a_signature_that_is_gone_fails_the_image_with_the_line_of_the_lock() {
    let (cli, source) = (cli(), registry(true));
    let signed = locked(&cli, &source);
    let lock = fs::read_to_string(cli.path("inspected.lock")).unwrap();
    let blob = signed.belongings[0].json()["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    for gone in [&blob, &signed.belongings[2].digest, &signed.signature.digest] {
        source.add_fault(When::path(gone), Action::error(404, "BLOB_UNKNOWN", "gone"));
        let line = 1 + lock.lines().position(|line| line.contains(gone.as_str())).unwrap();
        let line = format!("`inspected.lock`, line {line}");
        for output in ["gone.tar", "gone.tar.zst"] {
            // Nothing of the run before is taken over.
            let _ = fs::remove_file(cli.path("gone.tar.partial"));
            let arguments = ["export", "--lock", "inspected.lock", "-o", output, "--no-cache"];
            let refused = cli.run(&arguments).expect_code(1);
            let refused = refused.says(&[
                &line,
                gone,
                "team/app:1",
                "what refers to it (signatures, attestations)",
            ]);
            // A lock is exported whole, so the hint to omit signatures would lead nowhere.
            assert!(!refused.stderr.contains("--no-referrers"), "{}", refused.everything());
            assert!(!cli.path(output).exists(), "{output}");
        }
        source.clear_faults();
    }
    for flags in [["--no-referrers", "--no-cache"], ["--referrers", "require"]] {
        let arguments = ["export", "--lock", "inspected.lock", "-o", "x.tar", flags[0], flags[1]];
        cli.run(&arguments).expect_code(2).says(&["--lock", flags[0]]);
    }
}
