//! Archives whose `manifest.json` lists more images than their `index.json`, as docker 25.0.0 wrote them.

use docker_mirror::{
    Digest,
    testing::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST},
};
use serde_json::{Value, json};

use crate::archives::*;

/// Adds an image of one layer as docker 25 writes it. Returns its descriptor and its item of `manifest.json`. Without
/// `with_manifest`, only the config and the layer are added.
fn image(layout: &mut Layout, content: &str, tags: Value, with_manifest: bool) -> (Value, Value) {
    let layer = Tar::default().file("file", content.as_bytes()).end();
    let diff_id = layout.blob(layer.clone());
    let config = layout.document(
        OCI_CONFIG,
        &json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]}}),
    );
    let item = json!({"Config": path(&digest(&config)), "RepoTags": tags, "Layers": [path(&diff_id)]});
    let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config,
        "layers": [descriptor(OCI_LAYER, &layer)]});
    let bytes = serde_json::to_vec(&document).unwrap();
    if with_manifest {
        layout.blob(bytes.clone());
    }
    (descriptor(OCI_MANIFEST, &bytes), item)
}

fn finish(mut layout: Layout, items: &[&Value]) -> Vec<u8> {
    let items = serde_json::to_vec(items).unwrap();
    layout.files.push(("manifest.json".into(), items));
    layout.tar().end()
}

#[test]
fn images_that_only_one_of_the_two_lists_are_found() {
    let mut layout = Layout::default();
    let (listed, first) = image(&mut layout, "listed", json!(["quay.io/a/listed:1"]), true);
    let (unlisted, second) = image(
        &mut layout,
        "unlisted",
        json!(["quay.io/a/unlisted:1", "quay.io/a/unlisted:2"]),
        true,
    );
    let (_, third) = image(&mut layout, "without", json!(["quay.io/a/without:1"]), false);
    layout.name(listed.clone(), "quay.io/a/listed:1");
    each_way(&finish(layout, &[&first, &second, &third]), None, |way, bundle| {
        let bundle = bundle.unwrap();
        let warnings = bundle.warnings().join("; ");
        assert!(
            warnings.contains("3 of the images that `manifest.json` lists are not in `index.json`"),
            "{warnings}"
        );
        let rebuilt: Vec<&str> = bundle
            .images()
            .iter()
            .filter(|i| i.rebuilt)
            .map(|i| i.name.repository())
            .collect();
        // Its manifest is there, so that it keeps its digest.
        assert_eq!(rebuilt, ["a/without"], "{way}");
        let found = whole(Ok(bundle));
        assert_eq!(found.len(), 4, "{way}: {found:?}");
        assert_eq!(found[0], format!("quay.io/a/listed:1@{}", digest(&listed)));
        assert_eq!(found[1], format!("quay.io/a/unlisted:1@{}", digest(&unlisted)));
        assert_eq!(found[2], format!("quay.io/a/unlisted:2@{}", digest(&unlisted)));
    });
}

#[test]
fn an_index_of_nothing_leaves_all_to_the_other() {
    for index in [
        r#"{"schemaVersion":2,"manifests":null}"#,
        r#"{"schemaVersion":2,"manifests":[]}"#,
        "",
    ] {
        let mut layout = Layout::default();
        let (root, item) = image(&mut layout, "x", Value::Null, true);
        let items = serde_json::to_vec(&[item]).unwrap();
        let mut tar = Tar::default().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        if !index.is_empty() {
            tar = tar.file("index.json", index.as_bytes());
        }
        tar = layout
            .blobs
            .iter()
            .fold(tar, |tar, (digest, bytes)| tar.file(&path(digest), bytes));
        let tar = tar.file("manifest.json", &items).end();
        each_way(&tar, Some("quay.io/a/b:1"), |way, bundle| {
            assert_eq!(
                whole(bundle),
                [format!("quay.io/a/b:1@{}", digest(&root))],
                "{way} {index}"
            );
        });
        each_way(&tar, Some("@0=quay.io/a/b:2"), |way, bundle| {
            assert_eq!(
                whole(bundle),
                [format!("quay.io/a/b:2@{}", digest(&root))],
                "{way} {index}"
            );
        });
        each_way(&tar, None, |way, bundle| {
            let said = text(&bundle.unwrap_err());
            assert!(
                said.contains("it has no name") && said.contains("--name"),
                "{way}: {said}"
            );
        });
    }
}

#[test]
fn an_unlisted_image_without_a_name_does_not_keep_the_listed_one_back() {
    let mut layout = Layout::default();
    let (listed, first) = image(&mut layout, "listed", json!(["quay.io/a/listed:1"]), true);
    let (_, second) = image(&mut layout, "unlisted", Value::Null, true);
    layout.name(listed, "quay.io/a/listed:1");
    let tar = finish(layout, &[&second, &first]);
    each_way(&tar, None, |way, bundle| {
        let bundle = bundle.unwrap();
        assert_eq!(bundle.images().len(), 1, "{way}");
        let broken = &bundle.broken()[0];
        assert!(
            broken.label.ends_with(":@1") && text(&broken.error).contains("it has no name"),
            "{way}: {broken:?}"
        );
    });
    each_way(&tar, Some("@1=quay.io/a/other:1"), |way, bundle| {
        assert_eq!(whole(bundle).len(), 2, "{way}")
    });
}

#[test]
fn the_index_counts_where_the_two_disagree_on_a_name() {
    let mut layout = Layout::default();
    let (listed, _) = image(&mut layout, "listed", json!(["quay.io/a/b:1"]), true);
    let (_, item) = image(&mut layout, "other", json!(["quay.io/a/b:1"]), true);
    layout.name(listed.clone(), "quay.io/a/b:1");
    each_way(&finish(layout, &[&item]), None, |way, bundle| {
        let bundle = bundle.unwrap();
        let warnings = bundle.warnings().join("; ");
        assert!(
            warnings.contains("call different images `quay.io/a/b:1`"),
            "{way}: {warnings}"
        );
        assert_eq!(whole(Ok(bundle)), [format!("quay.io/a/b:1@{}", digest(&listed))]);
    });
}

#[test]
fn an_unlisted_image_that_is_not_whole_fails_alone() {
    let mut layout = Layout::default();
    let (listed, first) = image(&mut layout, "listed", json!(["quay.io/a/listed:1"]), true);
    let (_, mut second) = image(&mut layout, "other", json!(["quay.io/a/other:1"]), false);
    second["Layers"] = json!([path(&Digest::sha256(b"absent"))]);
    layout.name(listed, "quay.io/a/listed:1");
    each_way(&finish(layout, &[&first, &second]), None, |way, bundle| {
        let bundle = bundle.unwrap();
        assert_eq!((bundle.images().len(), bundle.broken().len()), (1, 1), "{way}");
        assert!(
            text(&bundle.broken()[0].error).contains("is not in the archive"),
            "{way}"
        );
    });
}

#[test]
fn further_names_of_a_listed_image_count() {
    let mut layout = Layout::default();
    let tags = json!(["quay.io/a/one:1", "quay.io/a/one:latest", "quay.io/a/moved:1"]);
    let (one, first) = image(&mut layout, "one", tags, true);
    let (other, second) = image(&mut layout, "other", json!(["quay.io/a/moved:1"]), true);
    layout.name(one.clone(), "quay.io/a/one:1");
    layout.name(other.clone(), "quay.io/a/moved:1");
    each_way(&finish(layout, &[&first, &second]), None, |way, bundle| {
        let expected = [
            format!("quay.io/a/moved:1@{}", digest(&other)),
            format!("quay.io/a/one:1@{}", digest(&one)),
            format!("quay.io/a/one:latest@{}", digest(&one)),
        ];
        assert_eq!(whole(bundle), expected, "{way}");
    });
}
