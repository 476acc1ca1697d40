//! Referrers that are indexes: what refers to a manifest below one of them is carried as well.

use serde_json::{Value, json};

use super::super::support::Double;
use super::super::support::image::{Document, Style};
use super::super::support::images::{multi, small};
use super::super::support::layout::{Tar, write_members};
use super::{BUNDLE, OCI_INDEX, OCI_MANIFEST, SBOM, beside, cli, list, listed, names, refer, registry, tag_of};

/// An index of these manifests, which refers to `subject`, if there is one.
fn index_of(registry: &Double, parts: &[&Document], subject: Option<&Document>) -> Document {
    let entries: Vec<_> = parts.iter().map(|part| part.descriptor()).collect();
    let mut index =
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "artifactType": "x/multi", "manifests": entries});
    if let Some(subject) = subject {
        index["subject"] = Value::Object(subject.descriptor());
    }
    let index = Document::new(OCI_INDEX, index.to_string());
    let store = registry.store();
    store.put_manifest("team/app", None, OCI_INDEX, index.bytes.clone());
    if let Some(subject) = subject
        && registry.has_no_referrers()
    {
        list(registry, "team/app", subject, &index);
    }
    index
}

/// A manifest that refers to nothing.
fn part(registry: &Double, text: &str) -> Document {
    let (config, layer) = (
        registry.store().put_blob("team/app", "{}"),
        registry.store().put_blob("team/app", text.to_owned()),
    );
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "x/part",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "x/part", "digest": layer, "size": text.len()}],
    });
    let manifest = Document::new(OCI_MANIFEST, manifest.to_string());
    let store = registry.store();
    store.put_manifest("team/app", None, OCI_MANIFEST, manifest.bytes.clone());
    manifest
}

/// Referrers of an image: an index of a manifest and of another index. Returns what refers to the manifests below it, each with
/// its subject and its tag.
fn put(registry: &Double) -> Vec<(Document, Document, Option<String>)> {
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "image");
    image.push(registry, "team/app", "1");
    let [outer, inner] = ["outer", "inner"].map(|text| part(registry, text));
    let nested = index_of(registry, &[&inner], None);
    let root = index_of(registry, &[&outer, &nested], Some(&image.root));
    let mut all = vec![(image.root.clone(), root, None)];
    for subject in [&outer, &nested, &inner] {
        let signature = refer(registry, "team/app", subject, BUNDLE, &subject.digest);
        all.push((subject.clone(), signature, None));
    }
    let tag = tag_of(&inner, ".sig");
    let signature = beside(registry, "team/app", &inner, "sig", "of a part");
    all.push((inner, signature, Some(tag)));
    // A signature of a signature of a part.
    let first = all[1].1.clone();
    let second = refer(registry, "team/app", &first, BUNDLE, "of a signature");
    all.push((first, second, None));
    all
}

fn expect_all(all: &[(Document, Document, Option<String>)], target: &Double, about: &str) {
    for (subject, referrer, tag) in all {
        let about = format!("{about} {}: {}", referrer.digest, target.transcript());
        let reference = tag.as_ref().unwrap_or(&referrer.digest);
        assert_eq!(
            target.manifest("team/app", reference),
            Some(referrer.bytes.clone()),
            "{about}"
        );
        let is_listed = listed(target, "team/app", subject)
            .iter()
            .any(|entry| entry["digest"] == referrer.digest);
        assert!(is_listed || tag.is_some(), "{about}");
    }
}

#[test]
fn what_refers_to_a_manifest_below_a_referrer_travels_by_every_way() {
    for has_list in [true, false] {
        let (cli, source) = (cli(), registry(has_list));
        let all = put(&source);
        let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
        let about = format!("{has_list} {}{}", out.stderr, source.transcript());
        assert!(out.stderr.contains("6 referrers:"), "{about}");
        cli.succeed(&["verify", "b.tar"]);
        let shown = cli.succeed(&["inspect", "b.tar", "--json", "--lock", "b.lock"]).stdout;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let referrers = &shown["images"][0]["referrers"];
        assert_eq!(referrers.as_array().map(Vec::len), Some(6), "{referrers}");
        cli.succeed(&["export", "--lock", "b.lock", "-o", "again.tar"]);
        let read = |name: &str| std::fs::read(cli.path(name)).unwrap();
        assert!(
            read("again.tar") == read("b.tar"),
            "{about}: the lock gives another bundle"
        );
        cli.succeed(&["diff", "b.lock", "b.tar", "--exit-code"]);
        for way in ["file", "one step", "pipe"] {
            let target = registry(false);
            let host = target.host();
            match way {
                "file" => cli.succeed(&["import", "b.tar", "-d", &host]),
                "pipe" => super::import_piped(&cli, "b.tar", &host),
                _ => cli.succeed(&["-d", &host, &names(&source)]),
            };
            expect_all(&all, &target, &format!("{has_list} {way}"));
            target.forget_requests();
            let again = cli.succeed(&["import", "b.tar", "-d", &host]);
            assert!(super::puts_nothing(&target), "{}{}", again.stderr, target.transcript());
        }
        // A chosen referrer takes along the index that it refers to a manifest of.
        let chosen = ["export", &names(&source), "-o", "c.tar", "--referrers", BUNDLE];
        let out = cli.succeed(&chosen);
        assert!(out.stderr.contains("1 x x/multi"), "{}", out.stderr);
    }
}

#[test]
fn a_layout_without_a_record_keeps_what_refers_to_a_manifest_below_a_referrer() {
    let (cli, source) = (cli(), registry(false));
    let all = put(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let bundle = Tar::open(&cli.path("b.tar"));
    let members = bundle.names().into_iter().filter(|name| *name != "docker-mirror.json");
    let members = members.map(|name| (name.to_owned(), bundle.bytes(name)));
    write_members(&cli.path("c.tar"), members.collect::<Vec<_>>());
    let target = registry(false);
    cli.succeed(&["import", "c.tar", "-d", &target.host()]);
    expect_all(&all, &target, "without a record");
}

#[test]
fn a_manifest_below_a_referrer_that_is_known_already_is_searched_once() {
    // An index that lists the image itself, and a referrer of the image.
    let (cli, source) = (cli(), registry(true));
    let image = small(Style::Oci, "linux/amd64", "a");
    image.push(&source, "team/app", "1");
    let sbom = refer(&source, "team/app", &image.root, SBOM, "SBOM");
    refer(&source, "team/app", &sbom, BUNDLE, "of the SBOM");
    index_of(&source, &[&image.root, &sbom], Some(&image.root));
    let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let asked = source.discovery();
    for document in [&image.root, &sbom] {
        let count = asked
            .iter()
            .filter(|entry| entry.path.ends_with(&document.digest))
            .count();
        assert_eq!(count, 1, "{}{}", out.stderr, source.transcript());
    }
    let target = registry(false);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert_eq!(
        listed(&target, "team/app", &image.root).len(),
        2,
        "{}",
        target.transcript()
    );
    assert_eq!(listed(&target, "team/app", &sbom).len(), 1);
}
