//! Archives that other programs wrote, read unchanged: names, digests and every blob.

use crate::archives;
use crate::archives::{
    Layout, Tar, check, descriptor, digest, fixture, gzip, image, open, open_bytes, path, text, with,
};
use docker_mirror::{
    Bundle, Choice, Digest, Kind,
    testing::{
        View,
        media_type::{OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST},
    },
};
use serde_json::{Value, json};

const HELLO_1: &str = "sha256:6f7f57a9aecae3dc8087a0669af436966f91233ec15700dab711bfc3c6dddaf4";
const HELLO_2: &str = "sha256:d0234c10fc982714c19840eb5e5d065bfa043937ac0ea1133323d2b60fed8323";
const MULTI: &str = "sha256:0248d91f118e70d0a78f1ea4dc8cdae5f89474248dd062b7375773ee04a7e5ff";
/// Digest of the rebuilt image of an uncompressed docker-archive of `hello:2.0`, whichever program wrote the archive.
const REBUILT: &str = "sha256:47316bc212e3c09a4ec9a48d351ae17bf2bff64aeb55a4b8a7284e578cf32abe";
const DIFF_1: &str = "sha256:fa433fc99bb2e1f5885a0ee974bc14bb6d2670c99d283d277103d83a1784f833";
const DIFF_2: &str = "sha256:b870c93903165baf1ccbaceb1336762eeaebdcbfb7da58238deac99acd9e3553";
const GZIP_1: &str = "sha256:178c52353d75cb8717f2fdf67512c8be405eed080affc8b1912698233c5fef1a";
const GZIP_2: &str = "sha256:2bc5d45c6ca5c00477899f4f7b1a4fad86013bc32349bc7778b100fdd39abe75";
const CONFIG_2: &str = "sha256:07d12d460e15463794e34a69cee6e95185f9140878667cdcf285d98f3403be15";

/// Builds every tree, compares every blob with its digest, and returns `NAME@DIGEST` of every image.
fn images(file: &str, name: Option<&str>) -> Vec<String> {
    let bundle = open(&fixture(file), name).unwrap();
    check(&bundle).unwrap();
    list(&bundle)
}

fn list(bundle: &Bundle) -> Vec<String> {
    let mut images: Vec<String> = bundle
        .images()
        .iter()
        .map(|i| format!("{}@{}", i.name, i.root.digest))
        .collect();
    images.sort();
    images
}

/// Media types and digests of the layers of an image.
fn layers(bundle: &Bundle, name: &str) -> Vec<(String, String)> {
    let tree = bundle.tree(image(bundle, name)).unwrap();
    let View::Image(image) = tree.original.root.view() else {
        panic!("an image manifest")
    };
    image
        .layers
        .iter()
        .map(|l| (l.media_type.to_string(), l.digest.to_string()))
        .collect()
}

#[test]
fn oci_archives_keep_their_digests() {
    let hello = |digest: &str, tag: &str| vec![format!("quay.io/fixture/hello:{tag}@{digest}")];
    assert_eq!(images("skopeo-oci-archive.tar", None), hello(HELLO_1, "1.0"));
    assert_eq!(images("ctr-export.tar", None), hello(HELLO_1, "1.0"));
    let podman = "sha256:2a4a879ea4a7692a3529b3fa4020a424fa9f4486d29b9eeb6045db13b7fef07a";
    assert_eq!(images("podman-oci-archive.tar", None), hello(podman, "2.0"));
    assert_eq!(
        images("crane-oci-annotated.tar", None),
        [format!("127.0.0.1:5917/fixture/multi:1@{MULTI}")]
    );
}

#[test]
fn an_archive_without_names_asks_for_one() {
    for file in [
        "skopeo-oci-archive-nameless.tar",
        "skopeo-docker-archive-nameless.tar",
        "docker-20-nameless.tar",
        "crane-oci.tar",
    ] {
        let error = open(&fixture(file), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{file}");
        assert!(text(&error).contains("--name"), "{file}: {}", text(&error));
        assert!(text(&error).contains(file), "{file}: {}", text(&error));
    }
    assert_eq!(
        images("skopeo-oci-archive-nameless.tar", Some("quay.io/a/b:c")),
        [format!("quay.io/a/b:c@{HELLO_1}")]
    );
    assert_eq!(
        images("crane-oci.tar", Some("a:b")),
        [format!("docker.io/library/a:b@{MULTI}")]
    );
    assert_eq!(
        images("docker-20-nameless.tar", Some("a:b")),
        [format!("docker.io/library/a:b@{REBUILT}")]
    );
}

#[test]
fn tags_alone_go_behind_the_given_repository() {
    let error = open(&fixture("umoci-layout.tar"), None).unwrap_err();
    assert!(text(&error).contains("only a tag, `1.0`"), "{}", text(&error));
    assert!(text(&error).contains("--name REPOSITORY"), "{}", text(&error));
    assert_eq!(
        images("umoci-layout.tar", Some("quay.io/u/hello")),
        [
            format!("quay.io/u/hello:1.0@{HELLO_1}"),
            format!("quay.io/u/hello:2.0@{HELLO_2}")
        ]
    );
    // One name for two images cannot be meant.
    let error = open(&fixture("umoci-layout.tar"), Some("quay.io/u/hello:own")).unwrap_err();
    assert!(text(&error).contains("two images are called"), "{}", text(&error));
}

#[test]
fn docker_archives_of_all_programs_give_one_manifest() {
    let expected = [format!("quay.io/fixture/hello:2.0@{REBUILT}")];
    for file in [
        "skopeo-docker-archive.tar",
        "podman-docker-archive.tar",
        "docker-20.tar",
    ] {
        assert_eq!(images(file, None), expected, "{file}");
        let bundle = open(&fixture(file), None).unwrap();
        assert!(bundle.images()[0].rebuilt);
        assert!(
            bundle.warnings().iter().any(|w| w.contains("digests are new")),
            "{file}"
        );
        assert_eq!(
            layers(&bundle, "quay.io/fixture/hello:2.0"),
            [
                (OCI_LAYER.to_owned(), DIFF_1.to_owned()),
                (OCI_LAYER.to_owned(), DIFF_2.to_owned())
            ]
        );
        let tree = bundle.tree(&bundle.images()[0]).unwrap();
        let View::Image(manifest) = tree.original.root.view() else {
            panic!()
        };
        assert_eq!(manifest.config.digest.to_string(), CONFIG_2);
        assert_eq!(manifest.config.media_type, OCI_CONFIG);
        assert_eq!(tree.original.root.media_type(), OCI_MANIFEST);
        assert_eq!(tree.kept[0].platform, "linux/amd64");
    }
    assert_eq!(
        images("crane-legacy.tar", None),
        [format!("127.0.0.1:5917/fixture/hello:2.0@{REBUILT}")]
    );
}

#[test]
fn linked_layers_are_found() {
    let bundle = open(&fixture("docker-20-links.tar"), None).unwrap();
    check(&bundle).unwrap();
    let plain = |digest: &str| (OCI_LAYER.to_owned(), digest.to_owned());
    assert_eq!(
        layers(&bundle, "quay.io/fixture/links:1"),
        [plain(DIFF_1), plain(DIFF_2)]
    );
    assert_eq!(bundle.images().len(), 2);

    let bundle = open(&fixture("podman-multi.tar"), None).unwrap();
    check(&bundle).unwrap();
    assert_eq!(layers(&bundle, "quay.io/fixture/hello:1.0"), [plain(DIFF_1)]);
    assert_eq!(
        layers(&bundle, "quay.io/fixture/hello:2.0"),
        [plain(DIFF_1), plain(DIFF_2)]
    );
}

#[test]
fn compressed_layers_stay_as_they_are() {
    let bundle = open(&fixture("crane-tarball.tar"), None).unwrap();
    check(&bundle).unwrap();
    let gzipped = |digest: &str| (OCI_LAYER_GZIP.to_owned(), digest.to_owned());
    assert_eq!(
        layers(&bundle, "127.0.0.1:5917/fixture/hello:2.0"),
        [gzipped(GZIP_1), gzipped(GZIP_2)]
    );
}

#[test]
fn a_sparse_archive_of_containerd_gives_the_platforms_that_it_has() {
    let bundle = open(&fixture("ctr-sparse.tar"), None).unwrap();
    check(&bundle).unwrap();
    assert_eq!(list(&bundle), [format!("quay.io/fixture/multi:1@{MULTI}")]);
    let tree = bundle.tree(&bundle.images()[0]).unwrap();
    assert_eq!(tree.choice, Choice::Filtered);
    assert_eq!(tree.original.root.digest().to_string(), MULTI);
    let filtered = tree.filtered.as_ref().unwrap();
    assert_ne!(filtered.root.digest().to_string(), MULTI);
    let View::Index(index) = filtered.root.view() else {
        panic!()
    };
    assert_eq!(index.entries.len(), 1);
    let platforms =
        |records: &[docker_mirror::PlatformRecord]| records.iter().map(|r| r.platform.clone()).collect::<Vec<_>>();
    assert_eq!(platforms(&tree.kept), ["linux/amd64"]);
    assert_eq!(platforms(&tree.dropped), ["linux/arm64"]);
    assert_eq!(tree.original.below.len(), 1);
    // The whole image fills the gap when it is given along.
    let both = [fixture("ctr-sparse.tar"), fixture("crane-oci.tar")];
    let bundle = Bundle::open(&both, &archives::options(Some("quay.io/fixture/multi:1"))).unwrap();
    let tree = bundle.tree(&bundle.images()[0]).unwrap();
    assert_eq!(
        (tree.choice, tree.filtered.is_none(), bundle.images().len()),
        (Choice::Whole, true, 1)
    );
}

#[test]
fn the_files_of_a_container_are_no_image() {
    let error = open(&fixture("docker-export.tar"), None).unwrap_err();
    assert!(text(&error).contains("docker save"), "{}", text(&error));
}

/// Returns the archive that `docker save` of version 25 and later writes with the graph drivers: an OCI layout with
/// uncompressed layers, and a `manifest.json`. `listed` are the layers that the OCI manifest lists.
fn docker_25(listed: &[usize]) -> (Vec<u8>, [Digest; 3]) {
    let mut layout = Layout::default();
    let plain: Vec<Vec<u8>> = (0..3)
        .map(|i| Tar::default().file("file", format!("layer {i}").as_bytes()).end())
        .collect();
    let digests: Vec<Digest> = plain.iter().map(|layer| layout.blob(layer.clone())).collect();
    let ids: Vec<String> = digests.iter().map(ToString::to_string).collect();
    let config = layout.document(
        OCI_CONFIG,
        &json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}),
    );
    let layers: Vec<Value> = listed.iter().map(|i| descriptor(OCI_LAYER, &plain[*i])).collect();
    let manifest = layout.document(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}),
    );
    layout.entries.push(with(
        manifest,
        json!({"annotations": {"io.containerd.image.name": "docker.io/library/save:25",
            "org.opencontainers.image.ref.name": "25"}}),
    ));
    let paths: Vec<String> = digests.iter().map(path).collect();
    let items = json!([{"Config": path(&digest(&config)), "RepoTags": ["save:25"], "Layers": paths}]);
    layout
        .files
        .push(("manifest.json".into(), serde_json::to_vec(&items).unwrap()));
    layout.files.push(("repositories".into(), b"{}".to_vec()));
    (layout.tar().end(), digests.try_into().unwrap())
}

#[test]
fn docker_25_is_read_as_oci() {
    let (tar, digests) = docker_25(&[0, 1, 2]);
    let bundle = open_bytes(&tar).unwrap();
    check(&bundle).unwrap();
    assert!(!bundle.images()[0].rebuilt);
    let found: Vec<String> = layers(&bundle, "docker.io/library/save:25")
        .into_iter()
        .map(|(_, d)| d)
        .collect();
    assert_eq!(found, digests.map(|d| d.to_string()));
    assert!(bundle.warnings().is_empty(), "{:?}", bundle.warnings());
}

#[test]
fn a_wrong_layer_list_of_docker_25_0_0_is_made_anew() {
    for listed in [&[2, 1, 0][..], &[0, 1], &[]] {
        let (tar, digests) = docker_25(listed);
        let bundle = open_bytes(&tar).unwrap();
        check(&bundle).unwrap();
        assert!(bundle.images()[0].rebuilt, "{listed:?}");
        let found: Vec<String> = layers(&bundle, "docker.io/library/save:25")
            .into_iter()
            .map(|(_, d)| d)
            .collect();
        assert_eq!(found, digests.map(|d| d.to_string()), "{listed:?}");
        assert!(bundle.warnings().iter().any(|w| w.contains("does not fit its config")));
    }
}

#[test]
fn all_that_is_missing_is_told_though_there_are_two_manifests() {
    let (tar, digests) = docker_25(&[0, 1, 2]);
    // Overwrites the names of two layers in their headers, so that the layers are not found.
    let mut tar = tar;
    for digest in &digests[..2] {
        let name = path(digest);
        let at = (0..tar.len())
            .step_by(512)
            .find(|at| tar[*at..].starts_with(name.as_bytes()))
            .unwrap();
        tar[at] = b'x';
        let header: &mut [u8; 512] = (&mut tar[at..at + 512]).try_into().unwrap();
        archives::checksum(header);
    }
    let bundle = open_bytes(&tar).unwrap();
    let error = bundle.tree(&bundle.images()[0]).unwrap_err();
    assert!(text(&error).contains("2 blobs are missing"), "{}", text(&error));
}

#[test]
fn all_layers_that_a_docker_archive_lacks_are_told() {
    let config = |n: u8| {
        let ids = [1, 2, 3].map(|layer| Digest::sha256(&[n, layer]).to_string());
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}}).to_string()
    };
    let item = |n: u8| {
        json!({"Config": format!("{n}.json"), "RepoTags": [format!("a/b:{n}")],
        "Layers": [format!("{n}/one.tar"), format!("{n}/two.tar"), format!("{n}/three.tar")]})
    };
    let tar = Tar::default()
        .file("1.json", config(1).as_bytes())
        .file("2.json", config(2).as_bytes())
        .file("1/two.tar", b"x")
        .file("manifest.json", json!([item(1), item(2)]).to_string().as_bytes())
        .end();
    let error = text(&open_bytes(&tar).unwrap_err());
    for part in [
        "2 images",
        "a/b:1",
        "a/b:2",
        "1/one.tar",
        "1/three.tar",
        "2/one.tar",
        "2/two.tar",
        "2/three.tar",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert!(!error.contains("1/two.tar"), "{error}");
}

#[test]
fn buildkit_with_and_without_a_name() {
    let mut layout = Layout::default();
    let amd64 = layout.image("amd64", b"a", true);
    let attestation = layout.image("unknown", b"attestation", false);
    let attestation = with(
        attestation,
        json!({"platform": {"os": "unknown", "architecture": "unknown"}, "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": amd64["digest"]}}),
    );
    let index = layout.index(&[amd64, attestation]);
    let mut named_layout = layout.clone();
    named_layout.entries.push(with(
        index.clone(),
        json!({"annotations": {"io.containerd.image.name": "docker.io/me/app:1", "org.opencontainers.image.ref.name": "1"}}),
    ));
    let bundle = open_bytes(&named_layout.tar().end()).unwrap();
    assert_eq!(list(&bundle), [format!("docker.io/me/app:1@{}", digest(&index))]);
    let tree = bundle.tree(&bundle.images()[0]).unwrap();
    assert_eq!(tree.choice, Choice::Whole);
    let labels: Vec<&str> = tree.kept.iter().map(|p| p.platform.as_str()).collect();
    assert_eq!(labels, ["linux/amd64", "attestation"]);
    layout.entries.push(index);
    assert_eq!(open_bytes(&layout.tar().end()).unwrap_err().kind(), Kind::Usage);
}

/// Returns a tarball as kaniko's `--tar-path` writes it, in which layers are named by the digests of their compressed
/// bytes.
fn kaniko(layer_name: impl Fn(&Digest) -> String, diff_id: Option<&str>) -> Vec<u8> {
    let plain = Tar::default().file("x", b"kaniko").end();
    let layer = gzip(&plain);
    let diff_id = diff_id.map_or_else(|| Digest::sha256(&plain).to_string(), str::to_owned);
    let config = serde_json::to_vec(
        &json!({"os": "linux", "architecture": "arm64", "rootfs": {"type": "layers",
        "diff_ids": [diff_id]}}),
    )
    .unwrap();
    let config_name = Digest::sha256(&config).to_string();
    let layer_name = layer_name(&Digest::sha256(&layer));
    let items =
        json!([{"Config": config_name, "RepoTags": ["quay.io/k/k:1", "quay.io/k/k:2"], "Layers": [layer_name]}]);
    Tar::default()
        .file(&config_name, &config)
        .file(&layer_name, &layer)
        .file("manifest.json", &serde_json::to_vec(&items).unwrap())
        .end()
}

#[test]
fn kaniko_tarballs() {
    let good = |digest: &Digest| format!("{}.tar.gz", digest.hex());
    let bundle = open_bytes(&kaniko(good, None)).unwrap();
    check(&bundle).unwrap();
    assert_eq!(bundle.images().len(), 2);
    assert_eq!(bundle.images()[0].root, bundle.images()[1].root);
    // A layer has the name of another digest, but the content that the config names.
    let other = |_: &Digest| format!("{}.tar.gz", "a".repeat(64));
    check(&open_bytes(&kaniko(other, None)).unwrap()).unwrap();
    // A config that says something else about the layer's content.
    let error = open_bytes(&kaniko(good, Some(DIFF_1))).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(
        text(&error).contains(DIFF_1) && text(&error).contains("offset"),
        "{}",
        text(&error)
    );
}

#[test]
fn several_archives_at_once_and_in_a_directory() {
    let paths = [fixture("skopeo-oci-archive.tar"), fixture("docker-20.tar")];
    let bundle = Bundle::open(&paths, &archives::options(None)).unwrap();
    check(&bundle).unwrap();
    assert_eq!(bundle.images().len(), 2);

    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("below")).unwrap();
    std::fs::copy(&paths[0], directory.path().join("a.tar")).unwrap();
    std::fs::copy(&paths[1], directory.path().join("below/b.tar")).unwrap();
    std::fs::write(directory.path().join("c.tar.partial"), b"x").unwrap();
    std::fs::write(directory.path().join("notes.txt"), b"x").unwrap();
    let found = open(directory.path(), None).unwrap();
    check(&found).unwrap();
    assert_eq!(list(&found), list(&bundle));
    assert!(found.warnings().iter().any(|w| w.contains("c.tar.partial")));
}

#[test]
fn a_config_that_is_named_after_another_digest_is_taken_as_it_is() {
    let layer = Tar::default().file("x", b"x").end();
    let config = json!({"os": "linux", "architecture": "amd64", "config": {"Env": ["EDITED=1"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer).to_string()]}});
    let archive = |name: &str| {
        let items = json!([{"Config": name, "RepoTags": ["quay.io/a/b:1"], "Layers": ["l/layer.tar"]}]);
        Tar::default()
            .file(name, config.to_string().as_bytes())
            .file("l/layer.tar", &layer)
            .file("manifest.json", items.to_string().as_bytes())
            .end()
    };
    let right = open_bytes(&archive("config.json")).unwrap();
    for name in [format!("{}.json", "a".repeat(64)), format!("sha256:{}", "a".repeat(64))] {
        let bundle = open_bytes(&archive(&name)).unwrap();
        check(&bundle).unwrap();
        assert_eq!(bundle.images()[0].root, right.images()[0].root);
        let told = bundle.warnings().join("; ");
        assert!(
            told.contains(&name) && told.contains("is not what its name says"),
            "{told}"
        );
    }
    // A blob is what its name says, or it is damaged.
    let error = open_bytes(&archive(&format!("blobs/sha256/{}", "a".repeat(64)))).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{}", text(&error));
}
