//! Documents in which a field appears twice, or under another spelling: programs differ in which of the fields they
//! read, so no such image is carried whole. Export, the one-step mirror and import refuse the same documents.

use serde_json::json;

use super::cli;
use super::support::cli::Output;
use super::support::layout::{blob_name, marker, write_members};
use super::support::{Cli, Double, sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;

/// What is wrong with an image; all else about it is as it should be.
#[derive(Clone, Copy)]
enum Wrong {
    /// The text between the braces of the image's manifest; `$config`, `$layer` and `$other` stand for valid
    /// descriptors.
    Manifest(&'static str),
    /// The same of the index above it; `$image` is the good manifest.
    Index(&'static str),
    /// Its config.
    Config(&'static str),
}

const CASES: &[Wrong] = &[
    Wrong::Manifest(r#""config":$config,"layers":[$layer],"layers":[$other]"#),
    Wrong::Manifest(r#""config":$config,"layers":[$layer],"Layers":[$other]"#),
    Wrong::Manifest(r#""LAYERS":[$other],"config":$config,"layers":[$layer]"#),
    Wrong::Manifest(r#""config":$config,"layers":[$layer],"layer\u017f":[$other]"#),
    Wrong::Manifest("\"config\":$config,\"layers\":[$layer],\"layer\u{17f}\":[$other]"),
    Wrong::Manifest(r#""config":$config,"Layers":[$other]"#),
    Wrong::Manifest(r#""config":$config,"Config":$other,"layers":[$layer]"#),
    Wrong::Manifest(r#""config":$config,"layers":[$layer],"Manifests":[$other]"#),
    Wrong::Manifest(r#""config":$config,"layers":[$layer],"MediaType":"application/vnd.oci.image.index.v1+json""#),
    Wrong::Manifest(r#""config":$config,"layers":[{"digest":"$evil","Digest":"$good","size":5}]"#),
    Wrong::Manifest(r#""config":$config,"layers":[{"digest":"$good","\u0064igest":"$evil","size":5}]"#),
    Wrong::Manifest(r#""config":$config,"layers":[{"digest":"$good","size":5,"\u017fize":5}]"#),
    Wrong::Index(r#""manifests":[$image],"Config":$config,"Layers":[$other]"#),
    Wrong::Index(r#""manifests":[$image],"config":$config,"layers":[$other]"#),
    Wrong::Index(r#""manifests":[$image],"Manifests":[$image]"#),
    Wrong::Index(r#""manifests":[$image],"manifest\u017f":[$image]"#),
    Wrong::Index(r#""manifests":[{"platform":{"os":"linux","architecture":"amd64","OS":"windows"},$members}]"#),
    Wrong::Index(r#""manifests":[{"platform":{"os":"linux","architecture":"amd64"},"Platform":{},$members}]"#),
    Wrong::Index(r#""manifests":[{"Digest":"$evil",$members}]"#),
    Wrong::Config(r#"{"os":"linux","OS":"windows","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#),
    Wrong::Config(r#"{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]},"RootF\u017f":{"diff_ids":["x"]}}"#),
    Wrong::Config(r#"{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[],"Diff_IDs":[]}}"#),
];

/// The blobs and manifests of an image; manifests have their types, and children come first.
struct Made {
    blobs: Vec<Vec<u8>>,
    manifests: Vec<(&'static str, Vec<u8>)>,
}

fn made(wrong: Wrong) -> Made {
    let config = match wrong {
        Wrong::Config(text) => text,
        _ => CONFIG,
    };
    let descriptor = |media_type: &str, bytes: &[u8]| {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#,
            sha256(bytes),
            bytes.len()
        )
    };
    let fill = |text: &str, image: &str| {
        text.replace(
            "$config",
            &descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        )
        .replace(
            "$layer",
            &descriptor("application/vnd.oci.image.layer.v1.tar", b"layer"),
        )
        .replace(
            "$other",
            &descriptor("application/vnd.oci.image.layer.v1.tar", b"other"),
        )
        .replace("$good", &sha256(b"layer"))
        .replace("$evil", &sha256(b"other"))
        .replace("$image", image)
        .replace("$members", image.trim_matches(['{', '}']))
    };
    let document = |media_type: &str, members: &str| {
        format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}",{members}}}"#).into_bytes()
    };
    let members = match wrong {
        Wrong::Manifest(members) => members,
        _ => r#""config":$config,"layers":[$layer]"#,
    };
    let mut manifests = vec![(MANIFEST, document(MANIFEST, &fill(members, "")))];
    if let Wrong::Index(members) = wrong {
        let image = descriptor(MANIFEST, &manifests[0].1);
        manifests.push((INDEX, document(INDEX, &fill(members, &image))));
    }
    Made {
        blobs: vec![config.as_bytes().to_vec(), b"layer".to_vec(), b"other".to_vec()],
        manifests,
    }
}

impl Made {
    fn put(&self, registry: &Double) -> String {
        for blob in &self.blobs {
            registry.store().put_blob("odd/image", blob.clone());
        }
        for (media_type, bytes) in &self.manifests {
            registry
                .store()
                .put_manifest("odd/image", Some("1"), media_type, bytes.clone().into());
        }
        format!("{}/odd/image:1", registry.host())
    }

    /// A bundle with the image, and its root once more under a second name.
    fn bundle(&self, cli: &Cli) -> &'static str {
        let (media_type, root) = self.manifests.last().unwrap();
        let entry = |name: &str| {
            json!({"mediaType": media_type, "digest": sha256(root), "size": root.len(),
                "annotations": {"org.opencontainers.image.ref.name": name}})
        };
        let index = json!({"schemaVersion": 2, "manifests": [entry("odd.example/a:1"), entry("odd.example/b:1")]});
        save(
            cli,
            &index.to_string(),
            self.blobs.iter().chain(self.manifests.iter().map(|m| &m.1)),
        );
        "odd.tar"
    }
}

fn save<'a>(cli: &Cli, index: &str, blobs: impl Iterator<Item = &'a Vec<u8>>) {
    let mut members = vec![marker(), ("index.json".to_owned(), index.as_bytes().to_vec())];
    members.extend(blobs.map(|blob| (blob_name(&sha256(blob)), blob.clone())));
    write_members(&cli.path("odd.tar"), members);
}

/// Says what is wrong with the document, and nothing else.
#[track_caller]
fn is_refused(output: Output) {
    let reasons = ["field `", "it has both `manifests` and `config` or `layers`"];
    let is_named = reasons.iter().any(|reason| output.stderr.contains(reason));
    assert!(is_named, "{}", output.everything());
}

#[test]
fn nothing_is_taken_from_a_registry_whose_documents_say_two_things() {
    for wrong in CASES {
        let (cli, source, destination) = (cli(), Double::new(), Double::new());
        let image = made(*wrong).put(&source);
        let export = cli.run(&["export", &image, "-o", "b.tar", "--platform", "all"]);
        is_refused(export.expect_code(1).says(&[&image]));
        assert!(!cli.path("b.tar").exists());
        let mirror = cli.run(&["-d", &destination.host(), &image, "--platform", "all"]);
        is_refused(mirror.expect_code(1).says(&[&image]));
        assert!(destination.requests().is_empty(), "{}", destination.transcript());
    }
}

#[test]
fn nothing_is_imported_whose_documents_say_two_things() {
    for wrong in CASES {
        let (cli, destination) = (cli(), Double::new());
        let bundle = made(*wrong).bundle(&cli);
        let import = cli.run(&["import", bundle, "-d", &destination.host()]);
        is_refused(import.expect_code(5).says(&["odd.tar"]));
        assert!(destination.requests().is_empty(), "{}", destination.transcript());
    }
}

#[test]
fn nothing_is_imported_whose_index_says_two_things() {
    let good = made(Wrong::Manifest(r#""config":$config,"layers":[$layer]"#));
    let root = &good.manifests[0].1;
    let members = format!(
        r#""mediaType":"{MANIFEST}","digest":"{}","size":{}"#,
        sha256(root),
        root.len()
    );
    let name = r#""annotations":{"org.opencontainers.image.ref.name":"odd.example/a:1"}"#;
    let other = r#""annotations":{"org.opencontainers.image.ref.name":"odd.example/b:1"}"#;
    let twice = r#""annotations":{"org.opencontainers.image.ref.name":"odd.example/a:1","org.opencontainers.image.ref.name":"odd.example/b:1"}"#;
    let entry = |members: &str| format!("{{{members}}}");
    let evil = format!(r#""Digest":"{}""#, sha256(b"other"));
    for list in [
        format!(
            r#""manifests":[{}],"Manifests":[]"#,
            entry(&format!("{members},{name}"))
        ),
        format!(r#""manifests":[{}]"#, entry(&format!("{members},{name},{other}"))),
        format!(r#""manifests":[{}]"#, entry(&format!("{members},{twice}"))),
        format!(r#""manifests":[{}]"#, entry(&format!("{members},{name},{evil}"))),
    ] {
        let (cli, destination) = (cli(), Double::new());
        let index = format!(r#"{{"schemaVersion":2,{list}}}"#);
        save(&cli, &index, good.blobs.iter().chain([root]));
        let import = cli.run(&["import", "odd.tar", "-d", &destination.host()]);
        import.expect_code(5).says(&["index.json", "field `"]);
        assert!(destination.requests().is_empty(), "{}", destination.transcript());
    }
    let (cli, destination) = (cli(), Double::new());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        entry(&format!("{members},{name}"))
    );
    save(&cli, &index, good.blobs.iter().chain([root]));
    cli.succeed(&["import", "odd.tar", "-d", &destination.host()]);
}
