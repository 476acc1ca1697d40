//! Referrers of a manifest that is known by its SHA-512 digest, which is too long for a tag.

use serde_json::{Value, json};

use super::super::support::image::{Document, Image, Style};
use super::super::support::images::small;
use super::super::support::layout::Tar;
use super::super::support::store::digest_like;
use super::super::support::{Action, Cli, Double, When};
use super::{BUNDLE, OCI_MANIFEST, beside, cli, import_piped, listed, refer, registry, tag_of};

/// An image with a signature in two ways.
struct Long {
    root: Document,
    referrer: Document,
    signature: Document,
}

/// Puts it into `team/long`.
fn put(registry: &Double) -> Long {
    let Image { root, .. } = {
        let image = small(Style::Oci, "linux/amd64", "long");
        image.push(registry, "team/long", "1");
        image
    };
    let digest = digest_like("sha512:", &root.bytes);
    let root = Document { digest, ..root };
    let store = registry.store();
    store.put_manifest_as("team/long", &root.digest, Some("1"), OCI_MANIFEST, root.bytes.clone());
    Long {
        referrer: refer(registry, "team/long", &root, BUNDLE, "signature"),
        signature: beside(registry, "team/long", &root, "sig", "signature"),
        root,
    }
}

fn expect_all(long: &Long, target: &Double, repository: &str, about: &str) {
    let about = format!("{about}: {}", target.transcript());
    let held = |reference: &str| target.manifest(repository, reference);
    assert_eq!(
        held(&tag_of(&long.root, ".sig")),
        Some(long.signature.bytes.clone()),
        "{about}"
    );
    assert_eq!(
        held(&long.referrer.digest),
        Some(long.referrer.bytes.clone()),
        "{about}"
    );
    if target.has_no_referrers() {
        let entries = listed(target, repository, &long.root);
        let digests: Vec<&Value> = entries.iter().map(|entry| &entry["digest"]).collect();
        assert_eq!(digests, [&json!(long.referrer.digest)], "{about}");
    }
}

/// Writes the bundle anew as another program would: without the documents of this one, and with tags alone as names, except for
/// the name of the image where it `keeps_name`.
fn write_with_tags_alone(cli: &Cli, long: &Long, keeps_name: bool, file: &str) {
    let tar = Tar::open(&cli.path("b.tar"));
    let mut index = tar.json("index.json");
    let entries = index["manifests"].as_array_mut().unwrap();
    entries.retain(|entry| entry["digest"] != long.referrer.digest);
    for entry in entries.iter_mut() {
        let tag = match entry["digest"] == long.root.digest {
            true if keeps_name => continue,
            true => "1".to_owned(),
            false => tag_of(&long.root, ".sig"),
        };
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    }
    let list = json!({"schemaVersion": 2, "mediaType": super::OCI_INDEX, "manifests": [long.referrer.descriptor()]});
    let list = Document::new(super::OCI_INDEX, list.to_string());
    let mut entry = list.descriptor();
    entry.insert(
        "annotations".into(),
        json!({"org.opencontainers.image.ref.name": tag_of(&long.root, "")}),
    );
    entries.push(Value::Object(entry));
    let names = tar.names().into_iter();
    let names = names.filter(|name| !matches!(*name, "index.json" | "docker-mirror.json" | "manifest.json"));
    let mut members: Vec<_> = names.map(|name| (name.to_owned(), tar.bytes(name))).collect();
    let blob = format!("blobs/{}", list.digest.replacen(':', "/", 1));
    members.push((blob, list.bytes.to_vec()));
    members.push(("index.json".to_owned(), index.to_string().into_bytes()));
    super::super::support::layout::write_members(&cli.path(file), members);
}

#[test]
fn what_refers_to_a_manifest_by_sha512_travels_by_every_way() {
    for source_lists in [true, false] {
        let (cli, source) = (cli(), registry(source_lists));
        let long = put(&source);
        let image = format!("{}/team/long:1@{}", source.host(), long.root.digest);
        let out = cli.succeed(&["export", &image, "-o", "b.tar"]);
        assert!(out.stderr.contains("2 referrers"), "{}", out.stderr);
        cli.succeed(&["verify", "--deep", "b.tar"]);
        cli.succeed(&["inspect", "b.tar", "--lock", "b.lock"]);
        cli.succeed(&["export", "--lock", "b.lock", "-o", "again.tar"]);
        let read = |name: &str| std::fs::read(cli.path(name)).unwrap();
        assert!(read("again.tar") == read("b.tar"), "the lock gives another bundle");
        write_with_tags_alone(&cli, &long, false, "tags.tar");
        write_with_tags_alone(&cli, &long, true, "named.tar");
        for target_lists in [true, false] {
            for way in ["file", "pipe", "one step", "tags alone", "named.tar"] {
                let target = registry(target_lists);
                let host = target.host();
                let import = match way {
                    "tags alone" => vec!["import", "tags.tar", "-d", &host, "--name", "team/long"],
                    "named.tar" => vec!["import", way, "-d", &host],
                    _ => vec!["import", "b.tar", "-d", &host],
                };
                match way {
                    "pipe" => import_piped(&cli, "b.tar", &host),
                    "one step" => cli.succeed(&["-d", &host, &image]),
                    _ => cli.succeed(&import),
                };
                let about = format!("{source_lists} {target_lists} {way}");
                expect_all(&long, &target, "team/long", &about);
                cli.succeed(&import);
                expect_all(&long, &target, "team/long", &about);
            }
        }
        // A registry that knows SHA-256 alone lists what refers to the other digest all the same.
        let target = registry(false);
        let unknown = Action::error(400, "DIGEST_INVALID", "unsupported digest algorithm");
        target.add_fault(When::put("/manifests/sha512:"), unknown);
        cli.run(&["import", "b.tar", "-d", &target.host()]).expect_code(1);
        expect_all(&long, &target, "team/long", "without SHA-512");
    }
}
