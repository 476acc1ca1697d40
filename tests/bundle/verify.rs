//! Verification of single bundles through the library: limits, and the lists of other programs.

use docker_mirror::{Bundle, Digest};
use docker_mirror::{
    FaultKind, OpenOptions, Verification, VerifyOptions,
    testing::media_type::{OCI_CONFIG, OCI_MANIFEST},
    verify,
};
use serde_json::{Value, json};

use crate::archives::{Layout, descriptor, path, save};

/// Verifies an archive, with the layers.
fn verified(tar: &[u8], options: &VerifyOptions) -> Verification {
    let saved = save("b.tar", tar);
    let open = OpenOptions {
        continue_after_faults: true,
        allow_none: true,
        ..OpenOptions::default()
    };
    let bundle = Bundle::open(std::slice::from_ref(&saved.path), &open).unwrap();
    verify(&bundle, None, options).unwrap()
}

/// The paths of the config and the layer of an image in `manifest.json`.
type Parts = (String, String);

/// A `manifest.json` of two images.
type List<'a> = dyn Fn(Parts, Parts) -> Value + 'a;

fn kinds(found: &Verification) -> Vec<FaultKind> {
    found.faults.iter().map(|fault| fault.kind).collect()
}

#[test]
fn a_layer_unpacks_to_a_limit() {
    const SIZE: usize = 16 << 20;
    let plain = vec![0; SIZE];
    let packed = zstd::encode_all(plain.as_slice(), 3).unwrap();
    assert!(packed.len() < 4 << 10, "{}", packed.len());
    let mut layout = Layout::default();
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar+zstd", &packed);
    layout.blob(packed);
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&plain).to_string()]}});
    let config = layout.document(OCI_CONFIG, &config);
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
    let manifest = layout.document(OCI_MANIFEST, &manifest);
    layout.name(manifest, "quay.io/test/one:1");
    let tar = layout.tar().end();
    let options = |max_unpacked| VerifyOptions {
        deep: true,
        max_unpacked,
        ..VerifyOptions::default()
    };
    for enough in [None, Some(SIZE as u64)] {
        let found = verified(&tar, &options(enough));
        assert!(found.is_sound(), "{found:?}");
        assert_eq!(found.checked.unpacked_bytes, SIZE as u64);
    }
    let found = verified(&tar, &options(Some(1 << 20)));
    assert_eq!(kinds(&found), [FaultKind::LayerContent], "{found:?}");
    let fault = &found.faults[0];
    for text in ["grows when unpacked", "1100 times its size and 1048576 bytes"] {
        assert!(fault.message.contains(text), "{fault:?}");
    }
    assert_eq!(fault.images.len(), 1, "{fault:?}");
    assert_eq!(found.checked.unpacked_bytes, 0);
    // Without the layers the archive is what it says.
    assert!(verified(&tar, &VerifyOptions::default()).is_sound());
}

#[test]
fn the_list_of_another_program_has_to_name_parts_of_the_images() {
    let paths = |manifest: &Value, layout: &Layout| {
        let digest: Digest = manifest["digest"].as_str().unwrap().parse().unwrap();
        let manifest: Value = serde_json::from_slice(&layout.blobs[&digest]).unwrap();
        let at = |entry: &Value| path(&entry["digest"].as_str().unwrap().parse().unwrap());
        (at(&manifest["config"]), at(&manifest["layers"][0]))
    };
    // As docker writes it since version 25.
    let tar = |list: &List<'_>| {
        let mut layout = Layout::default();
        let (one, two) = (layout.image("amd64", b"one", true), layout.image("amd64", b"two", true));
        let parts = (paths(&one, &layout), paths(&two, &layout));
        layout.name(one, "quay.io/test/one:1");
        layout.name(two, "quay.io/test/two:1");
        let list = list(parts.0, parts.1);
        layout
            .files
            .push(("manifest.json".to_owned(), serde_json::to_vec(&list).unwrap()));
        layout.tar().end()
    };
    let item = |name: &str, config: &str, layers: &[&String]| json!({"Config": config, "RepoTags": [format!("quay.io/test/{name}:1")], "Layers": layers});
    let sound = verified(
        &tar(&|one, two| json!([item("one", &one.0, &[&one.1]), item("two", &two.0, &[&two.1])])),
        &VerifyOptions::default(),
    );
    assert!(sound.is_sound(), "{sound:?}");
    // The list may name fewer images than the index.
    let fewer = verified(
        &tar(&|one, _| json!([item("one", &one.0, &[&one.1])])),
        &VerifyOptions::default(),
    );
    assert!(fewer.is_sound(), "{fewer:?}");
    let absent = "layers/absent.tar".to_owned();
    let wrong: [(&str, &List<'_>); 4] = [
        ("is that of another image", &|one, two| {
            json!([item("one", &two.0, &[&one.1])])
        }),
        ("other layers than its manifest", &|one, two| {
            json!([item("one", &one.0, &[&two.1])])
        }),
        ("other layers than its manifest", &|one, two| {
            json!([item("one", &one.0, &[&one.1, &two.1])])
        }),
        ("is not in the archive", &|one, _| {
            json!([item("one", &one.0, &[&absent])])
        }),
    ];
    for (said, list) in wrong {
        let found = verified(&tar(list), &VerifyOptions::default());
        assert_eq!(kinds(&found), [FaultKind::Document], "{said}: {found:?}");
        let fault = &found.faults[0];
        assert!(fault.message.contains(said), "{said}: {fault:?}");
        assert_eq!(fault.member.as_deref(), Some("manifest.json"), "{fault:?}");
        assert!(
            fault.images.iter().any(|image| &**image == "quay.io/test/one:1"),
            "{fault:?}"
        );
    }
}
