//! Referrers in files: as bundles list them, and as other programs do.

use serde_json::{Value, json};

use super::super::support::Cli;
use super::super::support::image::Document;
use super::super::support::layout::{Tar, blob_name, write_members};
use super::super::support::referrers::{OCI_INDEX, OCI_MANIFEST, SIMPLE_SIGNING};
use super::{beside, cli, names, registry, signed, tag_of};

#[test]
fn a_bundle_lists_referrers_as_other_programs_look_for_them() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let tar = Tar::open(&cli.path("b.tar"));
    let index = tar.json("index.json");
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 6);
    for document in &signed.belongings {
        let entry = entries.iter().find(|entry| entry["digest"] == document.digest).unwrap();
        let json = document.json();
        assert_eq!(entry["artifactType"], json["artifactType"]);
        assert_eq!(entry["size"], document.bytes.len());
        let annotations = &entry["annotations"];
        assert_eq!(annotations["io.containerd.manifest.subject"], json["subject"]["digest"]);
        assert_eq!(annotations["text"], json["annotations"]["text"]);
        assert!(annotations.get("org.opencontainers.image.ref.name").is_none());
        assert_eq!(tar.blob(&document.digest).unwrap(), document.bytes);
    }
    let entry = &entries[1];
    let name = format!("{}/team/app:{}", source.host(), tag_of(&signed.image.root, ".sig"));
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], name);
    let recorded = &tar.json("docker-mirror.json")["images"][0]["referrers"];
    assert_eq!(recorded.as_array().unwrap().len(), 5, "{recorded}");
    let types = recorded.as_array().unwrap().iter();
    assert_eq!(
        types.filter(|record| record["artifactType"] == SIMPLE_SIGNING).count(),
        1
    );

    // Without them the bundle is what it always was.
    let bare = registry(true);
    signed.image.push(&bare, "team/app", "1");
    cli.succeed(&["export", &names(&source), "-o", "none.tar", "--no-referrers"]);
    let none = Tar::open(&cli.path("none.tar"));
    assert_eq!(none.json("index.json")["manifests"].as_array().unwrap().len(), 1);
    assert!(none.json("docker-mirror.json")["images"][0].get("referrers").is_none());
    assert_eq!(
        source
            .discovery()
            .iter()
            .filter(|entry| entry.path.contains("none"))
            .count(),
        0
    );
}

/// Rewrites the members of a bundle as another program might: without the record, and with a changed index.
fn rewritten(cli: &Cli, change: impl Fn(&mut Vec<Value>, &mut Vec<(String, Vec<u8>)>)) {
    let tar = Tar::open(&cli.path("b.tar"));
    let mut index = tar.json("index.json");
    let mut entries = index["manifests"].as_array().unwrap().clone();
    let members = tar.names().into_iter();
    let members = members.filter(|name| !matches!(*name, "index.json" | "docker-mirror.json" | "manifest.json"));
    let mut members: Vec<_> = members.map(|name| (name.to_owned(), tar.bytes(name))).collect();
    change(&mut entries, &mut members);
    index["manifests"] = entries.into();
    members.push(("index.json".to_owned(), index.to_string().into_bytes()));
    write_members(&cli.path("other.tar"), members);
}

fn is_referrer(entry: &Value) -> bool {
    entry["annotations"].get("io.containerd.manifest.subject").is_some()
}

#[test]
fn layouts_of_other_programs_keep_their_referrers_in_each_of_three_ways() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let expect_all = |way: &str| {
        let target = registry(false);
        let out = cli.succeed(&["import", "other.tar", "-d", &target.host()]);
        let missing = signed.missing(&target, "team/app");
        assert_eq!(
            missing,
            Vec::<String>::new(),
            "{way}: {}{}",
            out.stderr,
            target.transcript()
        );
        let tags: Vec<String> = target
            .store()
            .repository("team/app")
            .unwrap()
            .tags
            .into_keys()
            .collect();
        assert!(!tags.iter().any(|tag| tag == "sbom"), "{way}: {tags:?}");
    };
    // The manifests say it themselves (oras).
    rewritten(&cli, |entries, _| {
        for entry in entries.iter_mut().filter(|entry| is_referrer(entry)) {
            entry.as_object_mut().unwrap().remove("annotations");
            entry.as_object_mut().unwrap().remove("artifactType");
        }
    });
    expect_all("by their own field");
    rewritten(&cli, |_, _| ());
    expect_all("by annotation");
    // A list under the tag that registries without the API have (regctl).
    rewritten(&cli, |entries, members| {
        let (referrers, others): (Vec<Value>, Vec<Value>) = entries.iter().cloned().partition(is_referrer);
        *entries = others;
        for entry in &referrers {
            let subject = &entry["annotations"]["io.containerd.manifest.subject"];
            let of_subject: Vec<&Value> = referrers
                .iter()
                .filter(|other| &other["annotations"]["io.containerd.manifest.subject"] == subject)
                .collect();
            let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": of_subject});
            let list = Document::new(OCI_INDEX, list.to_string());
            let mut listed = list.descriptor();
            let tag = subject.as_str().unwrap().replacen(':', "-", 1);
            listed.insert(
                "annotations".to_owned(),
                json!({"org.opencontainers.image.ref.name": tag}),
            );
            if !entries.contains(&Value::Object(listed.clone())) {
                entries.push(Value::Object(listed));
                members.push((blob_name(&list.digest), list.bytes.to_vec()));
            }
        }
    });
    expect_all("by a tag that lists them");
    // What cosign saves, beside an image of a name.
    rewritten(&cli, |entries, _| {
        for entry in entries.iter_mut() {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].clone();
            if name.as_str().is_some_and(|name| name.ends_with(".sig")) {
                entry["annotations"] = json!({"kind": "dev.cosignproject.cosign/sigs"});
            }
        }
    });
    expect_all("as cosign saves it");
    // A tag alone, beside an image with its full name.
    rewritten(&cli, |entries, _| {
        for entry in entries.iter_mut() {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].clone();
            if let Some((_, tag)) = name
                .as_str()
                .and_then(|name| name.rsplit_once(':'))
                .filter(|(_, it)| it.ends_with(".sig"))
            {
                entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
            }
        }
    });
    expect_all("by a tag without a repository");
    // The same without names: the tag of the signature is in the repository of the name that the user gives to the
    // image.
    rewritten(&cli, |entries, _| {
        for (number, entry) in entries.iter_mut().enumerate() {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].clone();
            match (number, name.as_str()) {
                (0, _) => entry["annotations"] = json!({"kind": "dev.cosignproject.cosign/imageIndex"}),
                (_, Some(_)) => entry["annotations"] = json!({"kind": "dev.cosignproject.cosign/sigs"}),
                _ => {}
            }
        }
    });
    for (way, more) in [("named", "new/name:2"), ("named with a host", "example.com/new/name:2")] {
        let target = registry(false);
        let arguments = ["import", "other.tar", "-d", &target.host(), "--name", more];
        let out = cli.succeed(&arguments);
        let missing = signed.missing(&target, "new/name");
        assert_eq!(
            missing,
            Vec::<String>::new(),
            "{way}: {}{}",
            out.stderr,
            target.transcript()
        );
        let mut tags: Vec<String> = target
            .store()
            .repository("new/name")
            .unwrap()
            .tags
            .into_keys()
            .collect();
        tags.retain(|tag| !tag.starts_with("sha256-"));
        assert_eq!(tags, ["2"], "{way}");
    }
    // Bare tags (regctl): the user names the repository, and the signature that it already has there stays.
    rewritten(&cli, |entries, _| {
        for entry in entries.iter_mut() {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].clone();
            if let Some(tag) = name.as_str().and_then(|name| name.rsplit(':').next()) {
                entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
            }
        }
    });
    let target = registry(false);
    cli.succeed(&["import", "other.tar", "-d", &target.host(), "--name", "new/name"]);
    let missing = signed.missing(&target, "new/name");
    assert_eq!(missing, Vec::<String>::new(), "{}", target.transcript());
    let target = registry(false);
    signed.image.push(&target, "new/name", "1");
    let own = beside(&target, "new/name", &signed.image.root, "sig", "by the site");
    let out = cli.run(&["import", "other.tar", "-d", &target.host(), "--name", "new/name"]);
    out.expect_code(1).says(&["stays as it is"]);
    let tag = tag_of(&signed.image.root, ".sig");
    assert_eq!(target.manifest("new/name", &tag), Some(own.bytes));
}

#[test]
fn a_lock_pins_what_refers_to_an_image_and_a_comparison_sees_it() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let shown = cli.succeed(&["inspect", "b.tar", "--lock", "b.lock"]).stdout;
    assert_eq!(shown.matches("referrer ").count(), 5, "{shown}");
    assert!(
        shown.contains("2 layers") && !shown.contains("that no image names"),
        "{shown}"
    );
    cli.succeed(&["export", "--lock", "b.lock", "-o", "again.tar"]);
    let read = |name: &str| std::fs::read(cli.path(name)).unwrap();
    assert!(read("again.tar") == read("b.tar"), "the lock gives another bundle");
    // A signature that comes later is no part of it.
    super::refer(&source, "team/app", &signed.image.root, super::BUNDLE, "later");
    cli.succeed(&["export", "--lock", "b.lock", "-o", "third.tar"]);
    assert!(
        read("third.tar") == read("b.tar"),
        "the lock gives another bundle later"
    );
    cli.succeed(&["export", &names(&source), "-o", "new.tar"]);
    for (old, new, came) in [
        ("b.tar", "new.tar", 2),
        ("b.lock", "new.tar", 2),
        ("b.lock", "b.tar", 0),
    ] {
        let said = cli.run(&["diff", old, new, "--json"]).stdout;
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["came"]["pieces"], came, "{old} {new}: {said}");
    }
}

#[test]
fn what_a_layout_lists_and_does_not_hold_is_told() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    // A list under the tag of the image, with one referrer in the layout and one that is missing.
    let absent = Document::new(OCI_MANIFEST, "{\"absent\": true}");
    rewritten(&cli, |entries, members| {
        let listed: Vec<Value> = entries
            .iter()
            .filter(|entry| entry["digest"] == signed.belongings[0].digest)
            .cloned()
            .chain([Value::Object(absent.descriptor())])
            .collect();
        entries.retain(|entry| !is_referrer(entry));
        let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed});
        let list = Document::new(OCI_INDEX, list.to_string());
        let mut entry = list.descriptor();
        let tag = tag_of(&signed.image.root, "");
        entry.insert("annotations".into(), json!({"org.opencontainers.image.ref.name": tag}));
        entries.push(Value::Object(entry));
        members.push((blob_name(&list.digest), list.bytes.to_vec()));
    });
    let target = registry(true);
    let out = cli.succeed(&["import", "other.tar", "-d", &target.host()]);
    out.says(&[
        &format!("{}, listed as referring to", absent.digest),
        "does not contain it",
    ]);
    // An annotation that names the image, at a manifest that states another subject.
    let child = &signed.image.below[0].digest;
    rewritten(&cli, |entries, _| {
        for entry in entries
            .iter_mut()
            .filter(|entry| entry["digest"] == signed.belongings[0].digest)
        {
            entry["annotations"]["io.containerd.manifest.subject"] = child.as_str().into();
        }
    });
    let out = cli.succeed(&["import", "other.tar", "-d", &target.host()]);
    out.says(&[&format!(
        "is listed as referring to {child}, and its manifest states {}",
        signed.image.root.digest
    )]);
}
