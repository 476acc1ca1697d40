use super::*;
use crate::image::test_graph::{TestGraph, attestation, entry, filter};

fn selected(graph: &Graph, root: &Arc<RawManifest>, filter: &PlatformFilter) -> Selection {
    match select(graph, root, filter).unwrap() {
        SelectResult::Selected(selection) => selection,
        SelectResult::Needs(needs) => panic!("needs {needs:?}"),
    }
}

/// Returns the digests that the filtered root lists, in order; of the original root if nothing was dropped.
fn listed(selection: &Selection) -> Vec<Digest> {
    let root = &selection.filtered.as_ref().unwrap_or(&selection.original).root;
    match root.view() {
        View::Index(index) => index
            .entries
            .iter()
            .map(|entry| entry.descriptor.digest.clone())
            .collect(),
        _ => vec![root.digest().clone()],
    }
}

/// Each row has a filter and the names of the entries that stay, for an index with every kind of entry.
#[test]
fn the_filter_decides_by_platform_and_attestations_follow() {
    let mut made = TestGraph::default();
    let names = [
        "amd64",
        "arm64",
        "armv7",
        "windows",
        "artifact",
        "about amd64",
        "about windows",
        "signs arm64",
    ];
    let images = names.map(|name| made.image(name));
    let [
        amd64,
        arm64,
        armv7,
        windows,
        artifact,
        about_amd64,
        about_windows,
        signs_arm64,
    ] = &images;
    // An entry that names its subject with BuildKit's platform `unknown/unknown`, but without BuildKit's type.
    let unknown = entry(signs_arm64, "unknown/unknown").trim_end_matches('}').to_owned()
        + &format!(
            r#"}},"annotations":{{"vnd.docker.reference.type":"signature","vnd.docker.reference.digest":"{}"}}}}"#,
            arm64.digest()
        );
    let armv7_entry =
        entry(armv7, "linux/arm").replace(r#""architecture":"arm""#, r#""architecture":"arm","variant":"v7""#);
    let root = made.index(&[
        attestation(about_amd64, amd64),
        entry(amd64, "linux/amd64"),
        entry(arm64, "linux/arm64"),
        armv7_entry,
        entry(windows, "windows/amd64"),
        attestation(about_windows, windows),
        entry(artifact, ""),
        unknown,
    ]);
    let mut graph = made.graph();
    graph.set_platform(artifact.digest().clone(), None);
    let rows: [(&str, &[&str]); 6] = [
        ("all", &names),
        ("linux/amd64", &["about amd64", "amd64", "artifact"]),
        ("linux/arm64", &["arm64", "artifact", "signs arm64"]),
        ("linux/arm", &["armv7", "artifact"]),
        ("linux/arm/v6", &["artifact"]),
        ("windows/amd64", &["windows", "about windows", "artifact"]),
    ];
    for (wanted, expected) in rows {
        let selection = selected(&graph, &root, &filter(wanted));
        let name_of = |digest: &Digest| names[images.iter().position(|image| image.digest() == digest).unwrap()];
        let mut stays: Vec<&str> = listed(&selection).iter().map(name_of).collect();
        let mut expected = expected.to_vec();
        stays.sort_unstable();
        expected.sort_unstable();
        assert_eq!(stays, expected, "{wanted}");
        assert_eq!(selection.kept.len() + selection.dropped.len(), names.len(), "{wanted}");
        assert_eq!(selection.filtered.is_none(), wanted == "all", "{wanted}");
    }
    let linux = selected(&graph, &root, &PlatformFilter::Linux);
    assert_eq!(
        linux.dropped.len(),
        2,
        "windows and what is about it: {:?}",
        linux.dropped
    );
}

#[test]
fn unknown_content_is_asked_for_level_by_level_and_each_once() {
    let mut made = TestGraph::default();
    let (amd64, bare, other) = (made.image("amd64"), made.image("bare"), made.image("other"));
    let nested = made.index(&[
        entry(&bare, ""),
        entry(&amd64, "linux/amd64"),
        entry(&other, "linux/s390x"),
    ]);
    let root = made.index(&[
        entry(&nested, ""),
        entry(&amd64, "linux/amd64"),
        entry(&amd64, "linux/amd64"),
    ]);
    let wanted = filter("linux/amd64");
    let mut graph = Graph::default();
    let mut rounds = Vec::new();
    let selection = loop {
        match select(&graph, &root, &wanted).unwrap() {
            SelectResult::Selected(selection) => break selection,
            SelectResult::Needs(needs) => {
                let full = made.graph();
                let mut round = Vec::new();
                for need in needs {
                    match need {
                        Need::Manifest(descriptor) => {
                            graph.add(full.manifest(&descriptor.digest).unwrap().clone());
                            round.push(descriptor.digest);
                        }
                        Need::Platform { manifest, config } => {
                            graph.set_platform(
                                manifest,
                                Some(
                                    "windows/amd64"
                                        .parse::<crate::image::platform::PlatformPattern>()
                                        .unwrap()
                                        .platform()
                                        .clone(),
                                ),
                            );
                            round.push(config.digest);
                        }
                    }
                }
                rounds.push(round);
            }
        }
    };
    let config = Digest::sha256(b"bare");
    let digest = |manifest: &Arc<RawManifest>| manifest.digest().clone();
    assert_eq!(
        rounds,
        [vec![digest(&nested), digest(&amd64)], vec![digest(&bare)], vec![config]],
        "and never the manifest of another platform"
    );
    assert_eq!(selection.kept.len(), 3);
    assert_eq!(selection.dropped.len(), 2);
}

#[test]
fn absent_manifests_are_dropped_with_their_attestations_and_empty_nested_indexes() {
    let mut made = TestGraph::default();
    let (amd64, arm64, about) = (made.image("amd64"), made.image("arm64"), made.image("about"));
    let nested = made.index(&[entry(&arm64, "linux/arm64")]);
    let about_nested = made.image("about nested");
    let root = made.index(&[
        entry(&amd64, "linux/amd64"),
        attestation(&about, &arm64),
        entry(&arm64, "linux/arm64"),
        attestation(&about_nested, &nested),
        entry(&nested, ""),
    ]);
    let mut graph = made.graph();
    graph.set_absent(arm64.digest().clone());
    let selection = selected(&graph, &root, &PlatformFilter::All);
    assert_eq!(listed(&selection), [amd64.digest().clone()]);
    assert_eq!(selection.original.below.len(), 1);
    graph.set_absent(amd64.digest().clone());
    let selection = selected(&graph, &root, &PlatformFilter::All);
    assert!(selection.is_empty() && selection.filtered.is_none());
}

#[test]
fn nothing_wanted_is_an_empty_selection() {
    let mut made = TestGraph::default();
    let (amd64, about) = (made.image("amd64"), made.image("about"));
    let root = made.index(&[entry(&amd64, "linux/amd64"), attestation(&about, &amd64)]);
    assert!(selected(&made.graph(), &root, &filter("linux/s390x")).is_empty());
    let only_attestations = made.index(&[attestation(&about, &amd64)]);
    assert!(selected(&made.graph(), &only_attestations, &PlatformFilter::All).is_empty());
    let empty = made.index(&[]);
    assert!(selected(&made.graph(), &empty, &PlatformFilter::All).is_empty());
    let holds_empty = made.index(&[entry(&empty, ""), entry(&amd64, "linux/amd64")]);
    assert_eq!(
        listed(&selected(&made.graph(), &holds_empty, &PlatformFilter::All)).len(),
        2,
        "all is all"
    );
    assert_eq!(
        listed(&selected(&made.graph(), &holds_empty, &PlatformFilter::Linux)).len(),
        1
    );
}

#[test]
fn a_single_image_goes_by_its_config() {
    let mut made = TestGraph::default();
    let image = made.image("x");
    let mut graph = Graph::default();
    let SelectResult::Needs(needs) = select(&graph, &image, &PlatformFilter::Linux).unwrap() else {
        panic!("its platform is not known")
    };
    assert!(matches!(&needs[..], [Need::Platform { .. }]), "{needs:?}");
    graph.set_platform(image.digest().clone(), None);
    assert!(
        !selected(&graph, &image, &filter("linux/arm64")).is_empty(),
        "an unknown platform is carried"
    );
    let windows = Platform {
        os: "windows".to_owned(),
        architecture: "amd64".to_owned(),
        ..Platform::default()
    };
    graph.set_platform(image.digest().clone(), Some(windows));
    let selection = selected(&graph, &image, &PlatformFilter::Linux);
    assert!(selection.is_empty());
    assert_eq!(selection.dropped[0].platform, "windows/amd64");
}

#[test]
fn a_parent_that_contradicts_its_child_is_refused() {
    let mut made = TestGraph::default();
    let amd64 = made.image("amd64");
    let good = entry(&amd64, "linux/amd64");
    let docker = good.replace(
        amd64.media_type(),
        "application/vnd.docker.distribution.manifest.v2+json",
    );
    let as_index = good.replace(amd64.media_type(), "application/vnd.oci.image.index.v1+json");
    let longer = good.replace(r#""size":"#, r#""size":1"#);
    for (text, fine) in [(&good, true), (&docker, true), (&as_index, false), (&longer, false)] {
        let root = made.index(std::slice::from_ref(text));
        let result = select(&made.graph(), &root, &PlatformFilter::Linux);
        assert_eq!(result.is_ok(), fine, "{text}");
        if let Err(error) = result {
            assert_eq!(error.kind(), Kind::Malformed);
        }
    }
}

#[test]
fn indexes_that_nest_too_deep_or_list_too_much_are_refused() {
    let mut made = TestGraph::default();
    let amd64 = made.image("amd64");
    let mut root = made.index(&[entry(&amd64, "linux/amd64")]);
    for _ in 1..MAX_DEPTH {
        root = made.index(&[entry(&root, "")]);
    }
    assert!(!selected(&made.graph(), &root, &PlatformFilter::Linux).is_empty());
    let deeper = made.index(&[entry(&root, "")]);
    assert_eq!(
        select(&made.graph(), &deeper, &PlatformFilter::Linux)
            .unwrap_err()
            .kind(),
        Kind::Malformed
    );
    // Each index lists the next index 20 times: there are few documents, and each document counts once.
    let mut wide = made.index(&[entry(&amd64, "linux/amd64")]);
    for _ in 0..4 {
        wide = made.index(&vec![entry(&wide, ""); 20]);
    }
    let selection = selected(&made.graph(), &wide, &PlatformFilter::Linux);
    assert_eq!((selection.kept.len(), selection.original.below.len()), (1, 5));
    let halves = [MAX_NODES / 2, MAX_NODES / 2 - 1].map(|n| made.index(&vec![entry(&amd64, "linux/amd64"); n]));
    let many = made.index(&halves.map(|half| entry(&half, "")));
    let refused = select(&made.graph(), &many, &PlatformFilter::Linux);
    assert_eq!(refused.unwrap_err().kind(), Kind::Malformed);
}

#[test]
fn an_index_that_is_listed_twice_is_rewritten_and_dropped_in_both_places() {
    let mut made = TestGraph::default();
    let (amd64, windows) = (made.image("amd64"), made.image("windows"));
    let mixed = made.index(&[entry(&amd64, "linux/amd64"), entry(&windows, "windows/amd64")]);
    let other = made.index(&[entry(&windows, "windows/amd64")]);
    let inner = made.index(&[entry(&mixed, "")]);
    let root = made.index(&[
        entry(&mixed, ""),
        entry(&other, ""),
        entry(&inner, ""),
        entry(&other, ""),
    ]);
    let selection = selected(&made.graph(), &root, &PlatformFilter::Linux);
    let filtered = selection.filtered.unwrap();
    let text = std::str::from_utf8(filtered.root.bytes()).unwrap();
    assert!(!text.contains(&other.digest().to_string()) && !text.contains(&mixed.digest().to_string()));
    assert_eq!(text.matches("digest").count(), 2, "{text}");
    assert_eq!(selection.kept.len(), 1);
}
