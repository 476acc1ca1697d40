//! Names that state a digest: no image gets such a name if it has another digest, wherever the name comes from.

use std::fs::File;

use super::archives::{Layout, Tar, as_ours, descriptor, digest, gzip, path, with};
use super::handmade::{assert_complete, incomplete};
use super::support::cli::Output;
use super::support::layout::unpack;
use super::support::{Cli, Double};
use docker_mirror::{
    Digest,
    testing::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST},
};
use serde_json::{Value, json};

const CONTAINERD: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The ways in which an archive comes to the program.
const WAYS: [&str; 4] = ["file", "folder", "compressed", "pipe"];

pub(super) fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// Imports an archive that comes in this way.
pub(super) fn import(cli: &Cli, way: &str, tar: &[u8], registry: &Double, more: &[&str]) -> Output {
    let host = registry.host();
    let _ = std::fs::remove_dir_all(cli.path("folder"));
    std::fs::write(cli.path("b.tar"), tar).unwrap();
    std::fs::write(cli.path("b.tar.gz"), gzip(tar)).unwrap();
    let bundle = match way {
        "folder" => {
            unpack(&cli.path("b.tar"), &cli.path("folder"));
            "folder"
        }
        "compressed" => "b.tar.gz",
        "pipe" => "-",
        _ => "b.tar",
    };
    let arguments = [&["import", bundle, "-d", &host], more].concat();
    let mut command = cli.command(&arguments);
    command.stdin(File::open(cli.path("b.tar")).unwrap());
    Output::new(&command.output().unwrap(), &arguments)
}

/// The tags of a repository, each with its digest.
fn tags(registry: &Double, repository: &str) -> Vec<(String, String)> {
    let found = registry.store().repository(repository).unwrap_or_default();
    found.tags.into_iter().collect()
}

fn record(images: Value) -> (String, Vec<u8>) {
    let record = json!({"formatVersion": 1, "images": images});
    ("docker-mirror.json".into(), record.to_string().into_bytes())
}

/// Returns a layout with two images: `quay.io/test/good:1`, and one that `list` names, given its descriptor.
fn layout(list: impl FnOnce(&mut Layout, Value)) -> Vec<u8> {
    let mut layout = Layout::default();
    let good = layout.image("amd64", b"good", true);
    layout.name(good, "quay.io/test/good:1");
    let evil = layout.image("amd64", b"evil", true);
    list(&mut layout, evil);
    layout.tar().end()
}

/// Returns an archive in Docker's own format: `team/good:1`, and an image under these names.
fn docker(names: &[&str]) -> Vec<u8> {
    let layer = Tar::default().file("x", b"x").end();
    let config = |os: &str| {
        json!({"os": os, "architecture": "amd64", "rootfs": {"type": "layers",
            "diff_ids": [Digest::sha256(&layer).to_string()]}})
        .to_string()
    };
    let items = json!([{"Config": "good.json", "RepoTags": ["quay.io/test/good:1"], "Layers": ["x.tar"]},
        {"Config": "evil.json", "RepoTags": names, "Layers": ["x.tar"]}]);
    Tar::default()
        .file("x.tar", &layer)
        .file("good.json", config("linux").as_bytes())
        .file("evil.json", config("freebsd").as_bytes())
        .file("manifest.json", items.to_string().as_bytes())
        .end()
}

fn real() -> Digest {
    Digest::sha256(b"a well-known image")
}

#[test]
fn a_name_with_the_digest_of_another_image_fails_alone_wherever_it_stands() {
    let (real, long) = (real(), format!("sha512:{}", "ab".repeat(64)));
    let (pinned, both) = (format!("quay.io/test/x@{real}"), format!("quay.io/test/x:1@{real}"));
    let tagged = format!("quay.io/test/x:{}", real.image_tag());
    let list = format!("quay.io/test/x:{}", real.referrers_tag());
    let by_sha512 = format!("quay.io/test/x:1@{long}");
    let upper = format!("quay.io/test/x:1@sha256:{}", real.hex().to_uppercase());
    let unknown = "quay.io/test/x:1@sha384:ab";
    let annotated = |annotations: Value| {
        layout(|layout, evil| layout.entries.push(with(evil, json!({"annotations": annotations}))))
    };
    let named = |name: &str| annotated(json!({ REF_NAME: name }));
    let recorded = |listed: &str, reference: &str| {
        layout(|layout, evil| {
            let image = |name: &str, digest: &Value| json!({"reference": name, "index": "whole", "original": digest, "kept": []});
            let good = &layout.entries[0]["digest"];
            let images = json!([image("quay.io/test/good:1", good), image(reference, &evil["digest"])]);
            layout.files.push(record(images));
            layout.name(evil, listed);
        })
    };
    // docker lists images beside an `index.json` that has no names.
    let beside = layout(|layout, evil| {
        let manifest: Value = serde_json::from_slice(&layout.blobs[&digest(&evil)]).unwrap();
        let items = json!([{"Config": path(&digest(&manifest["config"])), "RepoTags": [&both], "Layers": []}]);
        layout.files.push(("manifest.json".into(), items.to_string().into()));
        layout.entries.push(evil);
    });
    // The tag of a signature is a name as well.
    let signature = |stated: &dyn Fn(&str) -> String, more: Value| {
        layout(|layout, evil| {
            let good = layout.entries[0]["digest"].as_str().unwrap().to_owned();
            let tag = good.replacen(':', "-", 1);
            let name = format!("quay.io/test/good:{tag}.sig@{}", stated(&good));
            let mut annotations = more;
            annotations[REF_NAME] = json!(name);
            layout.entries.push(with(evil, json!({ "annotations": annotations })));
        })
    };
    let option = |which: &str, name: &str| vec!["--name".to_owned(), format!("{which}{name}")];
    let cases: Vec<(&str, Vec<u8>, Vec<String>)> = vec![
        ("by digest alone", named(&pinned), vec![]),
        ("by tag and digest", named(&both), vec![]),
        ("by sha512", named(&by_sha512), vec![]),
        ("in upper case", named(&upper), vec![]),
        ("by an unknown algorithm", named(unknown), vec![]),
        ("without a host", named(&format!("alpine@{real}")), vec![]),
        (
            "by containerd's annotation",
            annotated(json!({ CONTAINERD: both })),
            vec![],
        ),
        (
            "by the annotation behind a good one",
            annotated(json!({CONTAINERD: "quay.io/test/x:1", REF_NAME: both})),
            vec![],
        ),
        (
            "by a bad annotation before a good one",
            annotated(json!({CONTAINERD: upper, REF_NAME: "quay.io/test/x:1"})),
            vec![],
        ),
        ("by the record", recorded("quay.io/test/x:1", &both), vec![]),
        (
            "by the index beside a record",
            recorded(&both, "quay.io/test/x:1"),
            vec![],
        ),
        ("by RepoTags", docker(&[&both]), vec![]),
        ("by one of two RepoTags", docker(&["quay.io/test/y:1", &pinned]), vec![]),
        ("by RepoTags beside an index", beside, vec![]),
        ("as a signature", signature(&|_| real.to_string(), json!({})), vec![]),
        (
            "as a signature of its image",
            signature(&str::to_owned, json!({})),
            vec![],
        ),
        (
            "as a signature by cosign's annotation",
            signature(&|_| real.to_string(), json!({"kind": "dev.cosignproject.cosign/sigs"})),
            vec![],
        ),
        ("by the tag of an image without a tag", named(&tagged), vec![]),
        (
            "by this tag in containerd's annotation",
            annotated(json!({ CONTAINERD: tagged })),
            vec![],
        ),
        ("by this tag in the record", recorded(&tagged, &tagged), vec![]),
        ("by this tag in RepoTags", docker(&[&tagged]), vec![]),
        (
            "by this tag alone",
            annotated(json!({ REF_NAME: real.image_tag() })),
            option("", "quay.io/test/x"),
        ),
        ("as what refers to another", named(&list), vec![]),
        (
            "as what refers to another, by this tag alone",
            annotated(json!({ REF_NAME: real.referrers_tag() })),
            option("", "quay.io/test/x"),
        ),
    ];
    let cli = cli();
    for (case, tar, options) in cases {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        for way in WAYS {
            let registry = Double::new();
            let output = import(&cli, way, &tar, &registry, &options);
            let everything = format!("{case}, {way}: {}", output.everything());
            // A name that no image may have, or one that is of another image.
            let code = if ["in upper case", "by an unknown algorithm"].contains(&case) {
                1
            } else {
                5
            };
            assert_eq!(output.code, Some(code), "{everything}");
            assert!(
                output.stderr.contains("image @1") || output.stderr.contains("no usable name"),
                "{everything}"
            );
            assert!(output.stderr.contains("--name @1=REPOSITORY:TAG"), "{everything}");
            assert!(tags(&registry, "test/x").is_empty(), "{everything}");
            assert!(tags(&registry, "library/alpine").is_empty(), "{everything}");
            assert_eq!(tags(&registry, "test/good").len(), 1, "{everything}");
            assert_eq!(incomplete(&registry, "test/good", "1", false), Ok(()), "{everything}");
        }
    }
}

#[test]
fn a_name_of_the_user_with_another_digest_is_a_wrong_command_line() {
    let given = |layout: &mut Layout, evil: Value| layout.entries.push(evil);
    let real = real();
    let cli = cli();
    for name in [
        format!("quay.io/test/x:1@{real}"),
        format!("@1=quay.io/test/x@{real}"),
        format!("@1=quay.io/test/x:{}", real.image_tag()),
        format!("@1=quay.io/test/x:{}", real.referrers_tag()),
    ] {
        for way in WAYS {
            let registry = Double::new();
            import(&cli, way, &layout(given), &registry, &["--name", &name])
                .expect_code(2)
                .says(&[
                    "--name ",
                    "image @1",
                    "its digest is sha256:",
                    "a name without a digest",
                ]);
            assert!(registry.requests().is_empty(), "{way}: {}", registry.transcript());
        }
    }
}

#[test]
fn a_list_of_what_refers_to_an_image_holds_nothing_else() {
    // An index of which one entry refers to another manifest, and one whose entry is not there.
    let cli = cli();
    let real = real();
    let referrer = |layout: &mut Layout, subject: &Digest| {
        let config = descriptor(OCI_CONFIG, b"{}");
        layout.blob(*b"{}");
        layout.document(
            OCI_MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [],
            "artifactType": "a/b", "subject": {"mediaType": OCI_MANIFEST, "digest": subject.to_string(), "size": 7}}),
        )
    };
    let tar = layout(|layout, evil| {
        let entries = [referrer(layout, &real), evil];
        let index = layout.index(&entries);
        layout.name(index, &format!("quay.io/test/x:{}", real.referrers_tag()));
        let entries = [referrer(layout, &Digest::sha256(b"other"))];
        let index = layout.index(&entries);
        layout.name(index, &format!("quay.io/test/y:{}", real.referrers_tag()));
    });
    for way in WAYS {
        let registry = Double::new();
        import(&cli, way, &tar, &registry, &[])
            .expect_code(5)
            .says(&["2 of 3 images failed", "is no such list"]);
        for repository in ["test/x", "test/y"] {
            assert!(
                tags(&registry, repository).is_empty(),
                "{way}: {}",
                registry.transcript()
            );
        }
        assert_complete(&registry, "test/good", "1", false);
    }
}

#[test]
fn a_bundle_of_our_own_with_a_false_name_fails_alone_in_a_single_pass() {
    let both = format!("quay.io/test/x:1@{}", real());
    let tar = as_ours(|| layout(|layout, evil| layout.name(evil, &both)));
    let (cli, registry) = (cli(), Double::new());
    // No temporary file can be made: it is read as it comes.
    let mut command = cli.command(&["import", "-", "-d", &registry.host()]);
    std::fs::write(cli.path("b.tar"), &tar).unwrap();
    command.env("TMPDIR", cli.path("nowhere"));
    command.stdin(File::open(cli.path("b.tar")).unwrap());
    Output::new(&command.output().unwrap(), &["import", "-"])
        .expect_code(5)
        .says(&["1 of 2 images failed", "its digest is sha256:", "--name @1="]);
    assert_complete(&registry, "test/good", "1", false);
    assert!(tags(&registry, "test/x").is_empty());
}

#[test]
fn a_name_with_the_digest_of_its_own_image_is_taken() {
    let cli = cli();
    for way in WAYS {
        let registry = Double::new();
        let mut own = String::new();
        let tar = layout(|layout, image| {
            own = digest(&image).to_string();
            let both = format!("quay.io/test/x:1@{own}");
            layout.entries.push(with(
                image,
                json!({"annotations": {CONTAINERD: both, REF_NAME: format!("quay.io/test/x@{own}")}}),
            ));
        });
        import(&cli, way, &tar, &registry, &[]).expect_code(0);
        assert_eq!(tags(&registry, "test/x"), [("1".to_owned(), own.clone())]);
        // Whoever looks at the image and gives it another name may have it.
        let fresh = Double::new();
        let tar = layout(|layout, image| layout.name(image, &format!("quay.io/test/x@{}", real())));
        import(&cli, way, &tar, &fresh, &["--name", "@1=quay.io/test/y:1"]).expect_code(0);
        assert_eq!(tags(&fresh, "test/y"), [("1".to_owned(), own.clone())]);
        let fresh = Double::new();
        let name = format!("@1=quay.io/test/y@{own}");
        import(&cli, way, &tar, &fresh, &["--name", &name]).expect_code(0);
        assert_eq!(tags(&fresh, "test/y")[0].1, own);
        let tag = own.parse::<Digest>().unwrap().image_tag();
        let fresh = Double::new();
        let tar = layout(|layout, image| layout.name(image, &format!("quay.io/test/x:{tag}")));
        import(&cli, way, &tar, &fresh, &[]).expect_code(0);
        assert_eq!(tags(&fresh, "test/x"), [(tag, own.clone())]);
    }
}

#[test]
fn of_two_entries_of_one_name_the_one_that_is_proved_is_taken_and_the_other_is_told() {
    let cli = cli();
    for first in ["good", "evil"] {
        let mut layout = Layout::default();
        let (good, evil) = (
            layout.image("amd64", b"good", true),
            layout.image("amd64", b"evil", true),
        );
        let name = format!("quay.io/test/x:1@{}", digest(&good));
        let entries = if first == "good" {
            [good.clone(), evil]
        } else {
            [evil, good.clone()]
        };
        for entry in entries {
            layout.name(entry, &name);
        }
        let tar = layout.tar().end();
        for way in WAYS {
            let registry = Double::new();
            import(&cli, way, &tar, &registry, &[])
                .expect_code(5)
                .says(&["1 of 2 images failed", &name]);
            assert_eq!(tags(&registry, "test/x"), [("1".to_owned(), digest(&good).to_string())]);
            assert_complete(&registry, "test/x", "1", false);
        }
        // A good one in another archive does not hide the false one.
        let mut second = Layout::default();
        let evil = second.image("amd64", b"evil", true);
        second.name(evil, &name);
        std::fs::write(cli.path("c.tar"), second.tar().end()).unwrap();
        layout.entries.retain(|entry| digest(entry) == digest(&good));
        let registry = Double::new();
        import(&cli, "file", &layout.tar().end(), &registry, &["c.tar"]).expect_code(5);
        assert_eq!(tags(&registry, "test/x").len(), 1);
    }
}

#[test]
fn a_bare_digest_is_no_name_and_that_of_the_image() {
    let (cli, registry) = (cli(), Double::new());
    let tar = layout(|layout, image| layout.name(image, &real().to_string()));
    for flags in [&[][..], &["--name", "team/x:2"]] {
        let output = import(&cli, "file", &tar, &registry, flags).expect_code(5);
        output.says(&["it is called `sha256:", "but its digest is"]);
    }
    assert!(registry.store().repository("team/x").is_none());
    let tar = layout(|layout, image| {
        let own = digest(&image).to_string();
        layout.name(image, &own);
    });
    import(&cli, "file", &tar, &registry, &[])
        .expect_code(1)
        .says(&["it has no name"]);
    assert!(registry.store().repository("library/sha256").is_none());
    import(&cli, "file", &tar, &registry, &["--name", "team/x:2"]).expect_code(0);
    assert_eq!(tags(&registry, "team/x")[0].0, "2");
}

#[test]
fn an_entry_that_names_nothing_provable_fails_alone() {
    let upper = format!("sha256:{}", "AB".repeat(32));
    let cases = [
        json!({"digest": "md5:d41d8cd98f00b204e9800998ecf8427e"}),
        json!({"digest": upper}),
        json!({"digest": "sha256:ab"}),
        json!({"digest": null}),
        json!({"digest": ["a"]}),
        json!({"size": -1}),
        json!({"size": "many"}),
        json!({"mediaType": 7}),
    ];
    let cli = cli();
    for change in cases {
        let write = || layout(|layout, image| layout.name(with(image, change.clone()), "quay.io/test/x:1"));
        for (way, tar) in [("file", write()), ("pipe", write()), ("pipe", as_ours(write))] {
            let registry = Double::new();
            let output = import(&cli, way, &tar, &registry, &[]);
            let everything = format!("{change}, {way}: {}", output.everything());
            assert_eq!(output.code, Some(5), "{everything}");
            for part in ["quay.io/test/x:1", "entry @1", "1 of 2 images failed"] {
                assert!(output.stderr.contains(part), "no {part}: {everything}");
            }
            assert_complete(&registry, "test/good", "1", false);
        }
    }
}

#[test]
fn an_entry_of_the_record_that_cannot_be_used_fails_its_image_alone() {
    let cli = cli();
    let good =
        |digest: &Value| json!({"reference": "quay.io/test/x:1", "index": "whole", "original": digest, "kept": []});
    type Entries<'a> = &'a dyn Fn(&Value) -> Vec<Value>;
    let cases: [(&str, Entries<'_>); 4] = [
        ("cannot be used", &|digest| {
            vec![with(good(digest), json!({"original": "md5:ab"}))]
        }),
        ("cannot be used", &|digest| {
            vec![with(good(digest), json!({"kept": [{"platform": 1}]}))]
        }),
        ("lists it twice", &|digest| {
            vec![
                good(digest),
                with(good(digest), json!({"original": real().to_string()})),
            ]
        }),
        ("says that", &|digest| {
            vec![with(good(digest), json!({"original": real().to_string()}))]
        }),
    ];
    for (said, entries) in cases {
        let tar = layout(|layout, image| {
            let first = with(
                good(&layout.entries[0]["digest"]),
                json!({"reference": "quay.io/test/good:1"}),
            );
            let mut images = vec![first];
            images.extend(entries(&image["digest"]));
            layout.files.push(record(json!(images)));
            layout.name(image, "quay.io/test/x:1");
        });
        for way in WAYS {
            let registry = Double::new();
            import(&cli, way, &tar, &registry, &[]).expect_code(5).says(&[
                "1 of 2 images failed",
                "quay.io/test/x:1",
                said,
            ]);
            assert_complete(&registry, "test/good", "1", false);
            assert!(tags(&registry, "test/x").is_empty());
        }
    }
}

#[test]
fn a_manifest_that_is_made_anew_does_not_keep_the_digest_in_its_name() {
    // The manifest lists a layer that its config lacks, so that the manifest is rebuilt from `manifest.json`.
    let mut layout = Layout::default();
    let (right, wrong) = (
        Tar::default().file("a", b"a").end(),
        Tar::default().file("b", b"b").end(),
    );
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers",
        "diff_ids": [Digest::sha256(&right).to_string()]}});
    let config = layout.document(OCI_CONFIG, &config);
    for layer in [&right, &wrong] {
        layout.blob(layer.clone());
    }
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config,
        "layers": [descriptor(OCI_LAYER, &wrong)]});
    let manifest = layout.document(OCI_MANIFEST, &manifest);
    let items = json!([{"Config": path(&digest(&config)), "RepoTags": ["quay.io/test/x:1"],
        "Layers": [path(&Digest::sha256(&right))]}]);
    layout.files.push(("manifest.json".into(), items.to_string().into()));
    layout.name(manifest.clone(), &format!("quay.io/test/x@{}", digest(&manifest)));
    let (cli, registry) = (cli(), Double::new());
    import(&cli, "file", &layout.tar().end(), &registry, &[])
        .expect_code(5)
        .says(&["its digest is"]);
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
}
