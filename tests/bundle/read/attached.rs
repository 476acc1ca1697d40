//! Layouts of `cosign save` and hauler, in which an annotation marks signatures and attestations beside an image.

use base64::Engine;
use docker_mirror::{
    Kind,
    testing::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST},
};
use serde_json::{Value, json};

use crate::archives::*;

const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";

/// Adds a manifest with one layer of this type, the form of signatures and attestations.
fn artifact(layout: &mut Layout, media_type: &str, payload: &Value) -> Value {
    let layer = layout.document(media_type, payload);
    let config = layout.document(
        OCI_CONFIG,
        &json!({"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}),
    );
    layout.document(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}),
    )
}

fn signature(layout: &mut Layout, subject: &Value) -> Value {
    let payload = json!({"critical": {"image": {"docker-manifest-digest": subject["digest"]}}});
    artifact(layout, SIGNATURE, &payload)
}

fn attestation(layout: &mut Layout, subject: &Value) -> Value {
    let hex = digest(subject).hex().to_owned();
    let statement = json!({"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": hex}}]});
    let payload = base64::engine::general_purpose::STANDARD.encode(statement.to_string());
    artifact(
        layout,
        ENVELOPE,
        &json!({"payloadType": "application/vnd.in-toto+json", "payload": payload}),
    )
}

fn kind(descriptor: &Value, kind: &str, names: Value) -> Value {
    let kind = match kind.contains('/') {
        true => kind.to_owned(),
        false => format!("dev.cosignproject.cosign/{kind}"),
    };
    with(
        descriptor.clone(),
        json!({"annotations": with(names, json!({"kind": kind}))}),
    )
}

/// Adds an image of two platforms, its signature, its attestation, and the signature of one platform.
fn signed(layout: &mut Layout) -> [Value; 4] {
    let (amd64, arm64) = (
        layout.image("amd64", b"amd64", true),
        layout.image("arm64", b"arm64", true),
    );
    let root = layout.document(
        OCI_INDEX,
        &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [amd64.clone(), arm64]}),
    );
    let of_root = signature(layout, &root);
    let attestation = attestation(layout, &root);
    let of_child = signature(layout, &amd64);
    [root, of_root, attestation, of_child]
}

fn tag(subject: &Value, suffix: &str) -> String {
    format!("sha256-{}.{suffix}", digest(subject).hex())
}

#[test]
fn what_cosign_saves_goes_beside_the_image_that_gets_a_name() {
    let mut layout = Layout::default();
    let [root, signature, attestation, of_child] = signed(&mut layout);
    layout.entries = vec![
        kind(&root, "imageIndex", json!({})),
        kind(&signature, "sigs", json!({})),
        kind(&attestation, "atts", json!({})),
    ];
    let child = layout.blobs.clone().into_values().find_map(|bytes| {
        let document: Value = serde_json::from_slice(&bytes).ok()?;
        Some(document["manifests"].as_array()?.first()?.clone())
    });
    let child = child.unwrap();
    let tar = layout.tar().end();
    for name in ["ghcr.io/team/app:1", "@0=ghcr.io/team/app:1"] {
        each_way(&tar, Some(name), |way, bundle| {
            let mut expected = vec![
                format!("ghcr.io/team/app:1@{}", digest(&root)),
                format!("ghcr.io/team/app:{}@{}", tag(&root, "sig"), digest(&signature)),
                format!("ghcr.io/team/app:{}@{}", tag(&root, "att"), digest(&attestation)),
            ];
            expected.sort();
            assert_eq!(whole(bundle), expected, "{way} {name}");
        });
    }
    // It is the image that lacks a name, and no other thing.
    each_way(&tar, None, |way, bundle| {
        let error = bundle.unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{way}");
        let said = text(&error);
        assert!(said.contains("@0") && !said.contains("@1"), "{way}: {said}");
    });
    // A name for the signature itself counts.
    let options = docker_mirror::OpenOptions {
        names: ["ghcr.io/team/app:1", "@1=ghcr.io/team/other:s"]
            .iter()
            .map(|n| n.parse().unwrap())
            .collect(),
        ..options(None)
    };
    let saved = save("b.tar", &tar);
    let bundle = docker_mirror::Bundle::open(std::slice::from_ref(&saved.path), &options);
    assert!(whole(bundle).contains(&format!("ghcr.io/team/other:s@{}", digest(&signature))));

    layout.entries.push(kind(&of_child, "sigs", json!({})));
    each_way(&layout.tar().end(), Some("ghcr.io/team/app:1"), |way, bundle| {
        let expected = format!("ghcr.io/team/app:{}@{}", tag(&child, "sig"), digest(&of_child));
        assert!(whole(bundle).contains(&expected), "{way}");
    });
}

#[test]
fn what_hauler_keeps_under_one_name_is_told_apart() {
    let mut layout = Layout::default();
    let [root, signature, attestation, _] = signed(&mut layout);
    let names = |name: &str| json!({"org.opencontainers.image.ref.name": name, "io.containerd.image.name": format!("ghcr.io/{name}")});
    let other = layout.image("amd64", b"other", true);
    let sbom = artifact(&mut layout, "text/spdx+json", &json!({"spdxVersion": "SPDX-2.3"}));
    let referrer = layout.document(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": sbom, "layers": [], "subject": root}),
    );
    layout.entries = vec![
        kind(&signature, "sigs", names("team/app:1")),
        kind(&root, "imageIndex", names("team/app:1")),
        kind(&attestation, "dev.hauler/atts", names("team/app:1")),
        kind(&other, "dev.hauler/image", names("team/other:2")),
        kind(&sbom, "sboms", names("team/other:2")),
        kind(&referrer, "dev.cosignproject.cosign/referrers/0", names("team/app:1")),
    ];
    each_way(&layout.tar().end(), None, |way, bundle| {
        let mut expected = vec![
            format!("ghcr.io/team/app:1@{}", digest(&root)),
            format!("ghcr.io/team/app:{}@{}", tag(&root, "sig"), digest(&signature)),
            format!("ghcr.io/team/app:{}@{}", tag(&root, "att"), digest(&attestation)),
            format!("ghcr.io/team/other:2@{}", digest(&other)),
            format!("ghcr.io/team/other:{}@{}", tag(&other, "sbom"), digest(&sbom)),
        ];
        expected.sort();
        let bundle = bundle.unwrap();
        assert_eq!(bundle.referrers().len(), 1, "{way}");
        assert_eq!(whole(Ok(bundle)), expected, "{way}");
    });
}

/// A store of hauler: every entry has the name of the image, and its kind says what it is. An attachment of a platform
/// has the platform's digest in its kind, and a referrer its own digest; newer versions also state the subject in an
/// annotation. If the image is pinned, its digest is in the name of every entry.
#[test]
fn what_hauler_keeps_of_platforms_is_told_apart() {
    for (authority, is_annotated, is_pinned) in [
        ("dev.hauler", true, false),
        ("dev.hauler", false, false),
        ("dev.hauler", true, true),
        ("dev.hauler", false, true),
        ("dev.cosignproject.cosign", true, false),
        ("dev.cosignproject.cosign", false, false),
        ("dev.cosignproject.cosign", false, true),
    ] {
        let mut layout = Layout::default();
        let [root, signature, attestation, of_child] = signed(&mut layout);
        let child = layout.image("amd64", b"amd64", true);
        // Nothing in an SBOM tells what it is about.
        let sbom = artifact(&mut layout, "text/spdx+json", &json!({"spdxVersion": "SPDX-2.3"}));
        let empty = layout.document("application/vnd.oci.empty.v1+json", &json!({}));
        let mut referrers = Vec::new();
        for (number, subject) in [&root, &child].into_iter().enumerate() {
            referrers.push(layout.document(
                OCI_MANIFEST,
                &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x", "config": empty,
                    "layers": [empty], "subject": subject, "annotations": {"number": number.to_string()}}),
            ));
        }
        // A referrer may be an index.
        referrers.push(layout.document(
            OCI_INDEX,
            &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "artifactType": "application/x", "manifests": [],
                "subject": root}),
        ));
        let pinned = format!("team/app@{}", digest(&root));
        let name = if is_pinned { &pinned } else { "team/app:1" };
        let entry = |of: &Value, kind_of: &str, subject: Option<&Value>| {
            let mut names = json!({
                "org.opencontainers.image.ref.name": name,
                "io.containerd.image.name": format!("ghcr.io/{name}"),
                "hauler.dev/original-ref": format!("ghcr.io/{name}"),
            });
            if let Some(subject) = subject.filter(|_| is_annotated) {
                names["hauler.dev/subject-digest"] = subject["digest"].clone();
            }
            kind(of, &format!("{authority}/{kind_of}"), names)
        };
        let hex = |of: &Value| digest(of).hex().to_owned();
        layout.entries = vec![
            entry(&of_child, &format!("sigs/{}", hex(&child)), Some(&child)),
            entry(&signature, "sigs", Some(&root)),
            entry(&root, "imageIndex", None),
            entry(&attestation, "atts", Some(&root)),
            entry(&sbom, &format!("sboms/{}", hex(&child)), Some(&child)),
        ];
        for (referrer, subject) in referrers.iter().zip([&root, &child, &root]) {
            layout
                .entries
                .push(entry(referrer, &format!("referrers/{}", hex(referrer)), Some(subject)));
        }
        // A name that the user gives for an image without one changes nothing.
        for given in [None, Some("example.com/other:1")] {
            let bare = given.map(|_| layout.image("arm64", b"bare", true));
            layout.entries.extend(bare.clone());
            each_way(&layout.tar().end(), given, |way, bundle| {
                let about = format!("{authority} {is_annotated} {is_pinned} {given:?} {way}");
                let mut expected = vec![
                    format!("ghcr.io/team/app:{}@{}", tag(&root, "sig"), digest(&signature)),
                    format!("ghcr.io/team/app:{}@{}", tag(&root, "att"), digest(&attestation)),
                    format!("ghcr.io/team/app:{}@{}", tag(&child, "sig"), digest(&of_child)),
                    format!("ghcr.io/team/app:{}@{}", tag(&child, "sbom"), digest(&sbom)),
                ];
                expected.push(format!("ghcr.io/{name}@{}", digest(&root)));
                expected.extend(bare.iter().map(|bare| format!("example.com/other:1@{}", digest(bare))));
                expected.sort();
                let bundle = bundle.unwrap();
                assert_eq!(bundle.broken().len(), 0, "{about}: {:?}", bundle.broken());
                let mut subjects: Vec<_> = bundle.referrers().iter().map(|it| it.subject.clone()).collect();
                subjects.sort();
                let mut wanted = vec![digest(&root), digest(&root), digest(&child)];
                wanted.sort();
                assert_eq!(subjects, wanted, "{about}");
                assert_eq!(whole(Ok(bundle)), expected, "{about}");
            });
        }
    }
}

#[test]
fn a_signature_with_a_bare_tag_goes_beside_the_image_that_gets_a_name() {
    let mut layout = Layout::default();
    let [root, signature, _, of_child] = signed(&mut layout);
    let child = layout.image("amd64", b"amd64", true);
    let named = |of: &Value, tag: &str| {
        with(
            of.clone(),
            json!({"annotations": {"org.opencontainers.image.ref.name": tag}}),
        )
    };
    layout.entries = vec![
        named(&signature, &tag(&root, "sig")),
        named(&root, "1"),
        named(&of_child, &tag(&child, "sig")),
    ];
    let tar = layout.tar().end();
    for (given, image) in [
        ("ghcr.io/team/app", "ghcr.io/team/app:1"),
        ("ghcr.io/team/app:2", "ghcr.io/team/app:2"),
    ] {
        each_way(&tar, Some(given), |way, bundle| {
            let mut expected = vec![
                format!("{image}@{}", digest(&root)),
                format!("ghcr.io/team/app:{}@{}", tag(&root, "sig"), digest(&signature)),
                format!("ghcr.io/team/app:{}@{}", tag(&child, "sig"), digest(&of_child)),
            ];
            expected.sort();
            assert_eq!(whole(bundle), expected, "{given} {way}");
        });
    }
    // Without a name each of the three lacks one.
    each_way(&tar, None, |way, bundle| {
        assert_eq!(bundle.unwrap_err().kind(), Kind::Usage, "{way}");
    });
}

#[test]
fn a_signature_whose_image_is_not_told_fails_alone() {
    let mut layout = Layout::default();
    let [root, _, _, _] = signed(&mut layout);
    let other = layout.image("amd64", b"other", true);
    let absent = with(root.clone(), json!({"digest": format!("sha256:{}", "a".repeat(64))}));
    let orphan = signature(&mut layout, &absent);
    layout.name(root, "ghcr.io/team/app:1");
    layout.name(other, "ghcr.io/team/other:1");
    layout.entries.push(kind(&orphan, "sigs", json!({})));
    each_way(&layout.tar().end(), None, |way, bundle| {
        let bundle = bundle.unwrap();
        assert_eq!(bundle.images().len(), 2, "{way}");
        let said = text(&bundle.broken()[0].error);
        assert!(
            said.contains("entry @2") && said.contains("sha256:aaaa"),
            "{way}: {said}"
        );
        assert!(said.contains("--name @2=REPOSITORY:sha256-HEX.sig"), "{way}: {said}");
    });
}
