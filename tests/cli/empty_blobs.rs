//! A blob that its manifest states as empty is never fetched, but its digest is checked: in an export to a file and to
//! a pipe, in the one-step mirror, and in an import.

use serde_json::json;

use super::support::fault::{Action, When};
use super::support::layout::{blob_name, marker, write_members};
use super::support::{Double, Options, sha256};
use super::{Cli, cli, digest_in, source};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The digests of an empty blob.
const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const EMPTY_512: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

/// Returns a manifest of a config and two layers; `broken` says which of them is stated as empty.
fn manifest(config: &[u8], broken: &str, digest: &str) -> Vec<u8> {
    let part = |name: &str, media_type: &str, bytes: &[u8]| match name == broken {
        true => json!({"mediaType": media_type, "digest": digest, "size": 0}),
        false => json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()}),
    };
    let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": part("config", CONFIG, config),
        "layers": [part("first", LAYER, b"one layer"), part("second", LAYER, b"another layer")]});
    document.to_string().into_bytes()
}

/// Adds an image to a registry with all blobs that its manifest names, whatever sizes the manifest states.
fn put(registry: &Double, repository: &str, broken: &str, digest: &str) {
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;
    for bytes in [&config[..], b"one layer", b"another layer", b"the real bytes", b""] {
        registry.store().put_blob(repository, bytes.to_vec());
    }
    let manifest = manifest(config, broken, digest);
    registry
        .store()
        .put_manifest(repository, Some("1"), MANIFEST, manifest.into());
}

/// A registry that takes every upload for what it is said to be.
fn trusting() -> Double {
    Double::start(Options::default().fault(When::put("/blobs/uploads/"), Action::status(201)))
}

#[test]
fn an_image_with_an_empty_blob_of_another_digest_fails_alone() {
    let wrong = sha256(b"the real bytes");
    for broken in ["config", "first", "second"] {
        let (cli, source) = (cli(), source());
        put(&source, "bad/image", broken, &wrong);
        let bad = format!("{}/bad/image:1", source.host());
        let good = format!("{}/library/greeting:1.0", source.host());
        cli.run(&["export", &bad, &good, "-o", "b.tar"])
            .expect_code(1)
            .says(&[&bad, &wrong, "empty"]);
        assert!(!cli.path("b.tar").exists());
        let export = cli.run(&["export", &bad, &good, "-o", "b.tar", "--allow-partial"]);
        export.expect_code(6).says(&[&bad, &wrong, "empty"]);
        let destination = Double::new();
        cli.succeed(&["import", "b.tar", "-d", &destination.host()]);
        let piped = cli.run(&["export", &bad, "-o", "-"]);
        assert_eq!(piped.stdout.len(), 0, "{broken}");
        piped.expect_code(1).says(&[&bad, &wrong, "empty"]);

        let destination = trusting();
        cli.run(&["-d", &destination.host(), &bad])
            .expect_code(1)
            .says(&[&bad, &wrong, "empty"]);
        assert!(destination.manifest("bad/image", "1").is_none(), "{broken}");
        assert_eq!(
            destination.count("POST", "bad/image"),
            0,
            "{}",
            destination.transcript()
        );
    }
}

#[test]
fn a_bundle_with_an_empty_blob_under_another_digest_is_not_imported() {
    let wrong = sha256(b"the real bytes");
    for broken in ["config", "first", "second"] {
        let cli = cli();
        let path = bundle(&cli, broken, &wrong);
        let destination = trusting();
        cli.run(&["import", &path, "-d", &destination.host()])
            .expect_code(5)
            .says(&[&wrong, "empty"]);
        assert!(destination.manifest("bad/image", "1").is_none(), "{broken}");
        assert_eq!(destination.count("POST", ""), 0, "{}", destination.transcript());
        let piped = std::process::Stdio::from(std::fs::File::open(cli.path(&path)).unwrap());
        let import = cli
            .command(&["import", "-", "-d", &destination.host()])
            .stdin(piped)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&import.stderr);
        assert!(!import.status.success() && said.contains(&wrong), "{said}");
        assert_eq!(destination.count("POST", ""), 0, "{}", destination.transcript());
    }
}

#[test]
fn an_empty_blob_of_the_right_digest_is_carried() {
    for digest in [EMPTY, EMPTY_512] {
        let (cli, source) = (cli(), Double::new());
        put(&source, "good/image", "second", digest);
        let image = format!("{}/good/image:1", source.host());
        let export = cli.succeed(&["export", &image, "-o", "b.tar"]);
        assert!(!digest_in(export.lines()[0]).is_empty());
        let (imported, mirrored) = (Double::new(), Double::new());
        cli.succeed(&["import", "b.tar", "-d", &imported.host()]);
        cli.succeed(&["-d", &mirrored.host(), &image]);
        for destination in [imported, mirrored] {
            assert!(destination.manifest("good/image", "1").is_some(), "{digest}");
        }
    }
}

/// A bundle of one image, with an empty member under the wrong digest.
fn bundle(cli: &Cli, broken: &str, digest: &str) -> String {
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = manifest(config, broken, digest);
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "digest": sha256(&manifest),
        "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": "bad.example/bad/image:1"}}]});
    let mut members = vec![marker(), ("index.json".to_owned(), index.to_string().into_bytes())];
    for bytes in [&manifest[..], config, b"one layer", b"another layer"] {
        members.push((blob_name(&sha256(bytes)), bytes.to_vec()));
    }
    members.push((blob_name(digest), Vec::new()));
    write_members(&cli.path("bad.tar"), members);
    "bad.tar".to_owned()
}
