//! A filtered index is accepted only if it was made from its original.

use super::archives::{Layout, as_ours, digest, with};
use super::handmade::assert_complete;
use super::identity::{cli, import};
use super::support::image::{Entry, Style, attestation, index};
use super::support::images::{linux_and_windows, nested, small, without_platforms};
use super::support::{Double, Options};
use docker_mirror::testing::media_type::OCI_INDEX;
use serde_json::{Value, json};

const NAME: &str = "quay.io/test/x:1";

/// What a bundle says of an image of which platforms were dropped.
struct Told {
    /// The digest of the original index.
    original: Value,
    /// The entry of the smaller one.
    smaller: Value,
    kept: Vec<Value>,
    dropped: Vec<Value>,
}

fn manifests(layout: &Layout, index: &Value) -> Vec<Value> {
    let document: Value = serde_json::from_slice(&layout.blobs[&digest(index)]).unwrap();
    document["manifests"].as_array().unwrap().clone()
}

fn platform(entry: &Value) -> Value {
    json!({"platform": "linux/amd64", "digest": entry["digest"]})
}

/// Returns a bundle of this program with a good image, `quay.io/test/good:1`, and the image that `make` adds.
fn bundle(choice: &str, make: impl Fn(&mut Layout) -> Told) -> Vec<u8> {
    let mut layout = Layout::default();
    let good = layout.image("amd64", b"good", true);
    layout.name(good.clone(), "quay.io/test/good:1");
    let told = make(&mut layout);
    let record = json!({"formatVersion": 1, "images": [
        {"reference": "quay.io/test/good:1", "index": "whole", "original": good["digest"], "kept": [platform(&good)]},
        {"reference": NAME, "index": choice, "original": told.original["digest"], "filtered": told.smaller["digest"],
            "kept": told.kept.iter().map(platform).collect::<Vec<_>>(),
            "dropped": told.dropped.iter().map(platform).collect::<Vec<_>>()}]});
    layout
        .files
        .push(("docker-mirror.json".into(), record.to_string().into_bytes()));
    layout.name(
        match choice {
            "sparse" => told.original,
            _ => told.smaller,
        },
        NAME,
    );
    as_ours(|| layout.tar().end())
}

/// Returns an original index of three platforms, of which the last is absent, and its three entries.
fn original(layout: &mut Layout) -> (Value, [Value; 3]) {
    let mut elsewhere = Layout::default();
    let entries = [
        layout.image("amd64", b"amd64", true),
        layout.image("arm64", b"arm64", true),
        elsewhere.image("s390x", b"s390x", true),
    ];
    (layout.index(&entries), entries)
}

fn told(layout: &mut Layout, smaller: impl FnOnce(&mut Layout, &[Value; 3]) -> Value) -> Told {
    let (original, entries) = original(layout);
    let smaller = smaller(layout, &entries);
    let [amd64, arm64, s390x] = entries;
    Told {
        original,
        smaller,
        kept: vec![amd64, arm64],
        dropped: vec![s390x],
    }
}

/// An attestation about this entry.
fn about(layout: &mut Layout, subject: &Value) -> Value {
    let text = format!("about {subject}");
    with(
        layout.image("unknown", text.as_bytes(), true),
        json!({"annotations": {"vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": subject["digest"]}}),
    )
}

#[test]
fn a_smaller_index_that_was_not_made_from_its_original_fails_alone() {
    type Make = fn(&mut Layout) -> Told;
    let cases: [(&str, Make); 14] = [
        ("another image", |layout| {
            told(layout, |layout, _| {
                let evil = layout.image("amd64", b"evil", true);
                layout.index(&[evil])
            })
        }),
        ("another image among the right ones", |layout| {
            told(layout, |layout, entries| {
                let evil = layout.image("arm64", b"evil", true);
                layout.index(&[entries[0].clone(), evil])
            })
        }),
        ("another image under the platform of a right one", |layout| {
            told(layout, |layout, entries| {
                let evil = layout.image("amd64", b"evil", true);
                layout.index(&[with(
                    entries[0].clone(),
                    json!({"digest": evil["digest"], "size": evil["size"]}),
                )])
            })
        }),
        ("platforms that are exchanged", |layout| {
            told(layout, |layout, entries| {
                let exchanged = with(entries[1].clone(), json!({"platform": entries[0]["platform"]}));
                layout.index(&[exchanged])
            })
        }),
        ("another order", |layout| {
            told(layout, |layout, entries| {
                layout.index(&[entries[1].clone(), entries[0].clone()])
            })
        }),
        ("an entry twice", |layout| {
            told(layout, |layout, entries| {
                layout.index(&[entries[0].clone(), entries[1].clone(), entries[1].clone()])
            })
        }),
        ("an annotation of an entry", |layout| {
            told(layout, |layout, entries| {
                let more = with(entries[1].clone(), json!({"annotations": {"more": "x"}}));
                layout.index(&[entries[0].clone(), more])
            })
        }),
        ("an annotation of the index", |layout| {
            told(layout, |layout, entries| {
                let more = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entries[0], entries[1]],
                    "annotations": {"more": "x"}});
                layout.document(OCI_INDEX, &more)
            })
        }),
        ("other white space", |layout| {
            told(layout, |layout, entries| {
                let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entries[0], entries[1]]});
                let text = serde_json::to_vec_pretty(&index).unwrap();
                let descriptor = super::archives::descriptor(OCI_INDEX, &text);
                layout.blob(text);
                descriptor
            })
        }),
        ("no entries", |layout| told(layout, |layout, _| layout.index(&[]))),
        ("another real index as its original", |layout| {
            let mut told = told(layout, |layout, entries| layout.index(&entries[..2]));
            let others = [
                layout.image("amd64", b"other", true),
                layout.image("arm64", b"other", true),
            ];
            told.original = layout.index(&others);
            told
        }),
        ("an image as its original", |layout| {
            let mut told = told(layout, |layout, entries| layout.index(&entries[..2]));
            told.original = told.kept[0].clone();
            told
        }),
        ("itself as its original", |layout| {
            let mut told = told(layout, |layout, entries| layout.index(&entries[..2]));
            told.original = told.smaller.clone();
            told
        }),
        ("an attestation of what is not there", |layout| {
            let (_, entries) = original(layout);
            let about = about(layout, &entries[2]);
            let original = layout.index(&[entries[0].clone(), entries[2].clone(), about.clone()]);
            let smaller = layout.index(&[entries[0].clone(), about.clone()]);
            Told {
                original,
                smaller,
                kept: vec![entries[0].clone(), about],
                dropped: vec![entries[2].clone()],
            }
        }),
    ];
    let cli = cli();
    for (case, make) in cases {
        for choice in ["filtered", "sparse"] {
            let tar = bundle(choice, make);
            for (way, accept_sparse) in [("file", false), ("folder", true), ("compressed", false), ("pipe", true)] {
                let registry = Double::start(Options {
                    accept_sparse,
                    ..Options::default()
                });
                let output = import(&cli, way, &tar, &registry, &[]);
                let everything = format!("{case}, {choice}, {way}: {}", output.everything());
                assert_eq!(output.code, Some(5), "{everything}");
                for part in ["1 of 2 images failed", NAME] {
                    assert!(output.stderr.contains(part), "no {part}: {everything}");
                }
                assert!(registry.store().repository("test/x").is_none(), "{everything}");
                assert_complete(&registry, "test/good", "1", false);
            }
        }
    }
}

#[test]
fn a_nested_index_that_was_replaced_by_another_fails() {
    let make = |evil: bool| {
        move |layout: &mut Layout| {
            let mut elsewhere = Layout::default();
            let (amd64, arm64) = (
                layout.image("amd64", b"amd64", true),
                layout.image("arm64", b"arm64", true),
            );
            let s390x = elsewhere.image("s390x", b"s390x", true);
            let other = layout.image("amd64", b"evil", true);
            let nested = layout.index(&[amd64.clone(), s390x.clone()]);
            let original = layout.index(&[nested.clone(), arm64.clone()]);
            let less = layout.index(std::slice::from_ref(if evil { &other } else { &amd64 }));
            let replaced = with(nested, json!({"digest": less["digest"], "size": less["size"]}));
            let smaller = layout.index(&[replaced, arm64.clone()]);
            Told {
                original,
                smaller,
                kept: vec![amd64, arm64],
                dropped: vec![s390x],
            }
        }
    };
    let cli = cli();
    for way in ["file", "pipe"] {
        for (evil, code) in [(false, 0), (true, 5)] {
            let registry = Double::new();
            import(&cli, way, &bundle("filtered", make(evil)), &registry, &[]).expect_code(code);
            assert_eq!(registry.store().repository("test/x").is_some(), !evil);
        }
    }
}

#[test]
fn what_the_record_says_of_platforms_is_found_out_anew() {
    let make = |layout: &mut Layout| {
        let mut told = told(layout, |layout, entries| layout.index(&entries[..1]));
        // The record claims platforms that the bundle lacks, and more dropped platforms than the index lists.
        told.kept = vec![json!({"digest": format!("sha256:{}", "a".repeat(64))})];
        told.dropped.extend(manifests(layout, &told.original));
        told.dropped
            .push(json!({"digest": format!("sha256:{}", "b".repeat(64))}));
        told
    };
    let cli = cli();
    for way in ["file", "folder", "compressed", "pipe"] {
        let registry = Double::new();
        import(&cli, way, &bundle("filtered", make), &registry, &["--report", "r.json"]).expect_code(0);
        let report: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
        let platforms = |key: &str| -> Vec<String> {
            let list = report["images"][1][key].as_array().unwrap();
            list.iter()
                .map(|p| p["platform"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(report["images"][1]["source"], NAME);
        assert_eq!(platforms("kept"), ["linux/amd64"], "{way}: {report:#}");
        assert_eq!(
            platforms("dropped"),
            ["linux/arm64", "linux/s390x"],
            "{way}: {report:#}"
        );
        assert_complete(&registry, "test/x", "1", false);
    }
}

#[test]
fn what_the_record_says_of_a_whole_image_is_found_out_anew() {
    let mut layout = Layout::default();
    let entries = [layout.image("amd64", b"a", true), layout.image("arm64", b"b", true)];
    let root = layout.index(&entries);
    layout.name(root.clone(), NAME);
    let lie = json!([{"platform": "windows/arm64", "digest": root["digest"]}]);
    let record = json!({"formatVersion": 1, "images": [{"reference": NAME, "index": "whole",
        "original": root["digest"], "kept": lie, "dropped": lie}],
        "missing": [{"reference": NAME, "reason": "x"}, {"reference": "test/gone\u{1b}[2J", "reason": "y\nerror: z"}]});
    layout
        .files
        .push(("docker-mirror.json".into(), record.to_string().into_bytes()));
    let (cli, registry) = (cli(), Double::new());
    let output = import(&cli, "file", &layout.tar().end(), &registry, &["--report", "r.json"]).expect_code(0);
    let report: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
    let image = &report["images"][0];
    assert_eq!(image["kept"][0]["platform"], "linux/amd64");
    assert_eq!(image["kept"][1]["platform"], "linux/arm64");
    assert!(image["dropped"].is_null(), "{image}");
    // The list of missing images cannot be verified: it is reported as the bundle's claim.
    assert_eq!(report["missing"].as_array().unwrap().len(), 1, "{report:#}");
    assert!(
        output.stderr.contains("the bundle says that `test/gone"),
        "{}",
        output.everything()
    );
    assert!(!output.stderr.contains('\u{1b}') && !output.stderr.contains("\nerror: z"));
}

#[test]
fn what_an_export_made_smaller_is_taken() {
    let twice = {
        // One manifest for two variants, of which one is kept.
        let arm = small(Style::Oci, "linux/arm/v6", "arm");
        let mut v7 = Entry::from(arm.clone());
        v7.platform = json!({"os": "linux", "architecture": "arm", "variant": "v7"});
        index(
            Style::Oci,
            &[arm.into(), v7, small(Style::Oci, "linux/amd64", "amd64").into()],
        )
    };
    let described = {
        let (linux, windows) = (
            small(Style::Oci, "linux/amd64", "l"),
            small(Style::Oci, "windows/amd64", "w"),
        );
        let about = [attestation(&windows), attestation(&linux)];
        let [first, second] = about;
        index(Style::Oci, &[first, linux.into(), windows.into(), second])
    };
    let cli = cli();
    for (name, image, platform) in [
        ("flat", linux_and_windows(Style::Docker), "linux/amd64,linux/arm64"),
        ("nested", nested(), "linux/amd64"),
        ("nested-two", nested(), "linux/amd64,linux/arm64"),
        ("unstated", without_platforms(), "linux/amd64"),
        ("twice", twice, "linux/arm/v7"),
        ("described", described, "linux/amd64"),
    ] {
        let source = Double::new();
        image.push(&source, "team/app", "1");
        let pinned = format!("{}/team/app@{}", source.host(), image.digest());
        for (reference, choice) in [
            (format!("{}/team/app:1", source.host()), "filtered"),
            (pinned, "sparse"),
        ] {
            cli.succeed(&["export", &reference, "-o", "own.tar", "--force", "--platform", platform]);
            let tar = std::fs::read(cli.path("own.tar")).unwrap();
            for way in ["file", "folder", "pipe"] {
                let target = Double::start(Options {
                    accept_sparse: true,
                    ..Options::default()
                });
                let output = import(&cli, way, &tar, &target, &["--report", "r.json"]);
                assert_eq!(output.code, Some(0), "{name}, {choice}, {way}: {}", output.everything());
                let report: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
                let record = super::support::layout::Tar::open(&cli.path("own.tar")).json("docker-mirror.json");
                assert_eq!(report["images"][0]["index"], choice, "{name}");
                assert_eq!(report["images"][0]["kept"], record["images"][0]["kept"], "{name}");
                let tag = target
                    .store()
                    .repository("team/app")
                    .unwrap()
                    .tags
                    .into_keys()
                    .next()
                    .unwrap();
                assert_complete(&target, "team/app", &tag, choice == "sparse");
            }
        }
    }
}
