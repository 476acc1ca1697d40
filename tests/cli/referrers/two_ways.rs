//! Referrers that a registry finds in two ways, and bundles that differ only in their referrers.

use serde_json::{Value, json};

use super::super::support::image::Style;
use super::super::support::images::small;
use super::super::support::layout::Tar;
use super::super::support::referrers::SIMPLE_SIGNING;
use super::{
    BUNDLE, OCI_MANIFEST, SBOM, beside, cli, import_piped, listed, names, puts_nothing, refer, registry, tag_of,
};

#[test]
fn a_manifest_with_a_subject_and_a_tag_of_cosign_travels_by_both() {
    for source_lists in [true, false] {
        let (cli, source) = (cli(), registry(source_lists));
        let image = small(Style::Oci, "linux/amd64", "a");
        image.push(&source, "team/app", "1");
        let signature = refer(&source, "team/app", &image.root, BUNDLE, "signature");
        let tag = tag_of(&image.root, ".sig");
        let store = source.store();
        store.put_manifest("team/app", Some(&tag), OCI_MANIFEST, signature.bytes.clone());
        for file in ["b.tar", "b.tar.zst"] {
            let out = cli.succeed(&["export", &names(&source), "-o", file]);
            assert!(out.stderr.contains("1 referrer:"), "{}", out.stderr);
        }
        let entries = Tar::open(&cli.path("b.tar")).json("index.json")["manifests"].clone();
        let entries = entries.as_array().unwrap().iter();
        let entries: Vec<&Value> = entries.filter(|entry| entry["digest"] == signature.digest).collect();
        let annotation = |entry: &Value, name: &str| entry["annotations"][name].clone();
        assert_eq!(entries.len(), 2, "{entries:?}");
        let name = format!("{}/team/app:{tag}", source.host());
        assert_eq!(annotation(entries[0], "org.opencontainers.image.ref.name"), name);
        let subject = annotation(entries[1], "io.containerd.manifest.subject");
        assert_eq!(subject, image.root.digest);
        let shown = cli.succeed(&["inspect", "b.tar", "--lock", "b.lock"]).stdout;
        assert_eq!(shown.matches("referrer ").count(), 1, "{shown}");
        cli.succeed(&["export", "--lock", "b.lock", "-o", "again.tar"]);
        let read = |name: &str| std::fs::read(cli.path(name)).unwrap();
        assert!(read("again.tar") == read("b.tar"), "the lock gives another bundle");
        for target_lists in [true, false] {
            for way in ["b.tar", "b.tar.zst", "pipe", "one step"] {
                let target = registry(target_lists);
                let host = target.host();
                match way {
                    "pipe" => import_piped(&cli, "b.tar", &host),
                    "one step" => cli.succeed(&["-d", &host, &names(&source)]),
                    file => cli.succeed(&["import", file, "-d", &host]),
                };
                let about = format!("{source_lists} {target_lists} {way}: {}", target.transcript());
                for reference in [&tag, &signature.digest] {
                    assert_eq!(
                        target.manifest("team/app", reference),
                        Some(signature.bytes.clone()),
                        "{about}"
                    );
                }
                let list = listed(&target, "team/app", &image.root);
                let digests: Vec<&Value> = list.iter().map(|entry| &entry["digest"]).collect();
                match target_lists {
                    true => assert!(digests.is_empty(), "{about}"),
                    false => assert_eq!(digests, [&json!(signature.digest)], "{about}"),
                }
                target.forget_requests();
                cli.succeed(&["import", "b.tar", "-d", &host]);
                assert!(puts_nothing(&target), "{about} {}", target.transcript());
            }
        }
        // One way alone is missing at the destination: that is made good.
        let target = registry(source_lists);
        image.push(&target, "team/app", "1");
        refer(&target, "team/app", &image.root, BUNDLE, "signature");
        cli.succeed(&["import", "b.tar", "-d", &target.host()]);
        assert_eq!(target.manifest("team/app", &tag), Some(signature.bytes.clone()));
    }
}

#[test]
fn a_comparison_lists_the_referrers_that_came_went_and_were_made_anew() {
    let (cli, source) = (cli(), registry(true));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let sbom = refer(&source, "team/app", &image.root, SBOM, "SBOM");
    refer(&source, "team/app", &image.root, BUNDLE, "signature");
    let before = beside(&source, "team/app", &image.root, "sig", "first");
    let export = |name: &str| {
        cli.succeed(&["export", &names(&source), "-o", &format!("{name}.tar")]);
        let lock = format!("{name}.lock");
        cli.succeed(&["inspect", &format!("{name}.tar"), "--lock", &lock]);
    };
    export("old");
    let gone = |repository: &mut super::super::support::store::Repository| repository.manifests.remove(&sbom.digest);
    source.store().change("team/app", gone);
    let came = refer(&source, "team/app", &image.root, BUNDLE, "another signature");
    let now = beside(&source, "team/app", &image.root, "sig", "second");
    export("new");
    let compare = |old: &str, new: &str| {
        let out = cli.run(&["diff", old, new, "--json", "--exit-code"]);
        let document: Value = serde_json::from_str(&out.stdout).unwrap();
        (out.code, document["changed"].clone())
    };
    let digests = |list: &Value| {
        let list = list.as_array().unwrap().iter();
        let mut digests: Vec<String> = list.map(|it| it["digest"].as_str().unwrap().to_owned()).collect();
        digests.sort();
        digests
    };
    let sorted = |digests: [&String; 2]| {
        let mut digests = digests.map(Clone::clone);
        digests.sort();
        digests.to_vec()
    };
    let (code, changed) = compare("old.tar", "new.tar");
    assert_eq!((code, changed.as_array().unwrap().len()), (Some(1), 1), "{changed}");
    let change = &changed[0];
    assert_eq!(change["moved"], false, "{change}");
    let state = |digest: &str, kind: &str| json!([{"digest": digest, "artifactType": kind}]);
    assert_eq!(change["referrersAdded"], state(&came.digest, BUNDLE));
    assert_eq!(change["referrersRemoved"], state(&sbom.digest, SBOM));
    let anew = json!([{"oldDigest": before.digest, "newDigest": now.digest, "artifactType": SIMPLE_SIGNING}]);
    assert_eq!(change["referrersChanged"], anew);
    // A lock does not tell what its manifests are, but which there are.
    for (old, new) in [
        ("old.lock", "new.tar"),
        ("old.tar", "new.lock"),
        ("old.lock", "new.lock"),
    ] {
        let (code, changed) = compare(old, new);
        assert_eq!(code, Some(1), "{old} {new}: {changed}");
        let lists = ["referrersAdded", "referrersRemoved"].map(|list| digests(&changed[0][list]));
        let expected = [
            sorted([&came.digest, &now.digest]),
            sorted([&sbom.digest, &before.digest]),
        ];
        assert_eq!(lists, expected, "{old} {new}: {changed}");
    }
    for (old, new) in [("old.tar", "old.tar"), ("old.lock", "old.tar"), ("new.tar", "new.lock")] {
        assert_eq!(compare(old, new), (Some(0), json!([])), "{old} {new}");
    }
    let said = cli.succeed(&["diff", "old.tar", "new.tar"]).stdout;
    for line in [
        format!("    referrers added: {BUNDLE} {}", came.digest),
        format!("    referrers removed: {SBOM} {}", sbom.digest),
        format!(
            "    referrers changed: {SIMPLE_SIGNING} {} -> {}",
            before.digest, now.digest
        ),
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
    // Signatures that an export leaves out are a difference, too.
    cli.succeed(&["export", &names(&source), "-o", "bare.tar", "--no-referrers"]);
    let (_, changed) = compare("new.tar", "bare.tar");
    assert_eq!(changed[0]["referrersRemoved"].as_array().unwrap().len(), 3, "{changed}");
    let (_, changed) = compare("bare.tar", "new.tar");
    assert_eq!(changed[0]["referrersAdded"].as_array().unwrap().len(), 3, "{changed}");
}

#[test]
fn a_referrer_belongs_to_the_repository_that_has_it_and_not_to_another_one_with_the_same_image() {
    let (cli, source) = (cli(), registry(true));
    let image = small(Style::Oci, "linux/amd64", "a");
    for repository in ["team/one", "team/two"] {
        image.push(&source, repository, "1");
    }
    let signature = refer(&source, "team/one", &image.root, BUNDLE, "signature");
    let [one, two] = ["one", "two"].map(|name| format!("{}/team/{name}:1", source.host()));
    cli.succeed(&["export", &one, &two, "-o", "b.tar"]);
    let shown: Value = serde_json::from_str(&cli.succeed(&["inspect", "b.tar", "--json"]).stdout).unwrap();
    let counts = [0, 1].map(|at| shown["images"][at]["referrers"].as_array().map_or(0, Vec::len));
    assert_eq!(counts, [1, 0], "{shown}");
    // An import pushes what a one-step mirror pushes.
    let (imported, mirrored) = (registry(true), registry(true));
    cli.succeed(&["import", "b.tar", "-d", &imported.host()]);
    cli.succeed(&["-d", &mirrored.host(), &one, &two]);
    for target in [imported, mirrored] {
        let there = ["team/one", "team/two"].map(|name| target.manifest(name, &signature.digest).is_some());
        assert_eq!(there, [true, false], "{}", target.transcript());
    }
    // The lock of the bundle makes the same bundle.
    cli.succeed(&["inspect", "b.tar", "--lock", "b.lock"]);
    cli.succeed(&["export", "--lock", "b.lock", "-o", "again.tar"]);
    let [first, again] = ["b.tar", "again.tar"].map(|name| std::fs::read(cli.path(name)).unwrap());
    assert!(first == again);
}
