//! An image whose digests are all SHA-512: every way carries it, and every command that shows or verifies it supports
//! it.

use serde_json::json;

use super::cli;
use super::support::store::digest_like;
use super::support::{Double, referrers::OCI_MANIFEST, sha256};

/// Puts an image of one platform into a registry, and gives its digest.
fn put(registry: &Double) -> String {
    let store = registry.store();
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = digest_like("sha512:", bytes);
        store.keep(&digest, bytes.to_vec().into());
        store.change("team/long", |repository| repository.blobs.insert(digest.clone()));
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let layer = [b'x'; 3000];
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [sha256(&layer)]}})
    .to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": blob("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [blob("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let digest = digest_like("sha512:", manifest.as_bytes());
    store.put_manifest_as("team/long", &digest, Some("1"), OCI_MANIFEST, manifest.into());
    digest
}

#[test]
fn an_image_by_sha512_travels_by_every_way_and_is_looked_at() {
    let (cli, source) = (cli(), Double::new());
    let digest = put(&source);
    let names = [
        "team/long:1".to_owned(),
        format!("team/long@{digest}"),
        format!("team/long:1@{digest}"),
    ];
    for name in &names {
        let image = format!("{}/{name}", source.host());
        cli.succeed(&["export", &image, "-o", "b.tar", "--force"]);
        for way in ["b.tar", "-", "one step"] {
            let target = Double::new();
            let destination = format!("{}/m", target.host());
            let output = match way {
                "one step" => cli.succeed(&["-d", &destination, &image]),
                "-" => {
                    let mut command = cli.command(&["import", "-", "-d", &destination]);
                    let output = command
                        .stdin(std::fs::File::open(cli.path("b.tar")).unwrap())
                        .output()
                        .unwrap();
                    super::support::cli::Output::new(&output, &["import", "-"]).expect_code(0)
                }
                file => cli.succeed(&["import", "--verify", file, "-d", &destination]),
            };
            let known = if name.contains('@') {
                digest.clone()
            } else {
                super::digest_in(output.lines()[0]).to_owned()
            };
            assert_eq!(
                target.manifest("m/team/long", &known),
                source.manifest("team/long", "1"),
                "{name} {way}: {}",
                output.everything()
            );
            let blobs = |registry: &Double, repository: &str| registry.store().repository(repository).unwrap().blobs;
            assert_eq!(
                blobs(&target, "m/team/long"),
                blobs(&source, "team/long"),
                "{name} {way}"
            );
        }
        cli.succeed(&["verify", "--deep", "b.tar"]);
        cli.succeed(&["diff", "b.tar", "b.tar"]);
        let shown = cli.succeed(&["inspect", "--json", "--lock", "images.lock", "b.tar"]);
        assert!(shown.stdout.contains("sha512:"), "{}", shown.everything());
        cli.succeed(&["export", "--lock", "images.lock", "-o", "again.tar", "--force"]);
        let bytes = ["b.tar", "again.tar"].map(|file| std::fs::read(cli.path(file)).unwrap());
        assert!(bytes[0] == bytes[1], "{name}: a lock makes another bundle");
    }
    // A layer that was damaged is asked for again by its digest.
    let mut bytes = std::fs::read(cli.path("b.tar")).unwrap();
    let at = bytes
        .windows(3000)
        .position(|window| window.iter().all(|byte| *byte == b'x'))
        .unwrap();
    bytes[at + 1500] ^= 1;
    std::fs::write(cli.path("bad.tar"), &bytes).unwrap();
    cli.run(&["verify", "--want", "want.txt", "bad.tar"]).expect_code(5);
    let want = std::fs::read_to_string(cli.path("want.txt")).unwrap();
    assert!(want.contains("sha512:"), "{want}");
    cli.succeed(&["export", "--want", "want.txt", "-o", "piece.tar"]);
    let target = Double::new();
    cli.succeed(&["import", "bad.tar", "piece.tar", "-d", &target.host()]);
    assert!(
        target.store().repository("team/long").is_some(),
        "{}",
        target.transcript()
    );
}
