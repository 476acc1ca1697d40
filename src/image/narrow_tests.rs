use super::*;
use crate::image::manifest::View;
use crate::image::test_graph::{TestGraph, attestation, entry, filter};
use crate::image::tree::{Choice, PlatformRecord};

#[test]
fn two_filters_in_a_row_are_one_and_attestations_follow_their_image() {
    let mut made = TestGraph::default();
    let names = ["amd64", "arm64", "s390x"];
    let images = names.map(|name| made.image(name));
    let attested = names.map(|name| made.image(&format!("about {name}")));
    let mut entries: Vec<String> = images
        .iter()
        .zip(names)
        .map(|(i, n)| entry(i, &format!("linux/{n}")))
        .collect();
    entries.extend(attested.iter().zip(&images).map(|(a, i)| attestation(a, i)));
    let root = made.index(&entries);
    let tree = made.tree("team/app:1", &root);
    assert_eq!(tree.kept.len(), 6);

    let all = narrow(tree.clone(), &PlatformFilter::All).unwrap();
    assert_eq!((all.choice, all.filtered.is_some()), (Choice::Whole, false));
    let two = narrow(tree.clone(), &filter("linux/amd64,linux/arm64")).unwrap();
    assert_eq!(
        (two.choice, two.kept.len(), two.dropped.len()),
        (Choice::Filtered, 4, 2)
    );
    let one = narrow(two, &filter("linux/amd64")).unwrap();
    let direct = narrow(tree.clone(), &filter("linux/amd64")).unwrap();
    assert_eq!(one.pushed().root.bytes(), direct.pushed().root.bytes());
    assert_eq!(one.kept, direct.kept);
    assert_eq!((one.kept.len(), one.original.below.len()), (2, 2));
    assert_eq!(one.original.root.digest(), root.digest());
    let error = narrow(tree, &filter("windows/amd64")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.hint().unwrap().contains("linux/s390x"));
}

#[test]
fn nested_indexes_shrink_from_within_or_go_as_a_whole() {
    let mut made = TestGraph::default();
    let (amd64, arm64, other) = (made.image("amd64"), made.image("arm64"), made.image("other"));
    let both = made.index(&[entry(&amd64, "linux/amd64"), entry(&arm64, "linux/arm64")]);
    let about = made.image("about");
    let gone = made.index(&[entry(&other, "linux/s390x"), attestation(&about, &other)]);
    let about_gone = made.image("about gone");
    let empty = made.index(&[]);
    let root = made.index(&[
        entry(&both, ""),
        attestation(&about_gone, &gone),
        entry(&gone, ""),
        entry(&empty, ""),
    ]);
    let whole = narrow(made.tree("team/app:1", &root), &PlatformFilter::All).unwrap();
    assert_eq!(
        (whole.choice, whole.dropped.len()),
        (Choice::Whole, 0),
        "all is all, empty indexes too"
    );
    let pinned = format!("team/app@{}", root.digest());
    let tree = narrow(made.tree(&pinned, &root), &filter("linux/amd64")).unwrap();
    assert_eq!(tree.choice, Choice::Sparse, "it is pinned by digest");
    // Kept: amd64. Dropped: arm64, the index `gone` with its attestation, and the empty index. What is inside `gone` is told
    // by `gone` alone, since a bundle without it cannot tell either.
    assert_eq!((tree.kept.len(), tree.dropped.len()), (1, 4));
    for (lost, label) in [(&gone, "index"), (&about_gone, "attestation"), (&empty, "index")] {
        let lost = tree.dropped.iter().find(|d| d.digest == *lost.digest());
        assert_eq!(lost.unwrap().platform, label);
    }
    let filtered = tree.filtered.as_ref().unwrap();
    let View::Index(index) = filtered.root.view() else {
        panic!()
    };
    assert_eq!(index.entries.len(), 1);
    let inner = &index.entries[0].descriptor;
    assert_ne!(inner.digest, *both.digest());
    assert_eq!(filtered.below.len(), 2);
    assert_eq!(filtered.below[0].digest(), amd64.digest(), "children first");
    assert_eq!(filtered.below[1].descriptor(), inner);
    assert_eq!(
        tree.original.below.iter().map(|m| m.digest()).collect::<Vec<_>>(),
        [amd64.digest(), both.digest()]
    );
}

#[test]
fn a_single_image_goes_by_what_was_found_out_about_it() {
    let mut made = TestGraph::default();
    let image = made.image("x");
    let mut tree = made.tree("team/app:1", &image);
    assert!(
        narrow(tree.clone(), &filter("linux/arm64")).is_ok(),
        "nothing is known about it"
    );
    tree.kept = [PlatformRecord {
        platform: "linux/amd64/v3".to_owned(),
        digest: image.digest().clone(),
    }]
    .into();
    assert!(narrow(tree.clone(), &filter("linux/amd64")).is_ok());
    assert!(narrow(tree, &filter("linux/arm64")).is_err());
}
