//! Registries, and the stores, caches and proxies around them, that answer oddly: what can be known to be right is taken.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use super::support::fault::{Action, Canned, When};
use super::support::image::{Document, Image, Layer, Style, index, platform, single};
use super::support::images::{greeting, multi};
use super::support::{Cli, Double, sha256};
use super::{cli, source};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The fixture of a registry in which nothing is odd, as a bundle.
fn expected(cli: &Cli) -> Vec<u8> {
    let registry = source();
    let image = format!("{}/library/greeting:1.0", registry.host());
    cli.succeed(&["export", &image, "-o", "expected.tar", "--no-cache"]);
    layers_of(&std::fs::read(cli.path("expected.tar")).unwrap())
}

/// What of a bundle does not depend on the address of the registry: everything behind its own documents.
fn layers_of(bundle: &[u8]) -> Vec<u8> {
    let mut archive = tar::Archive::new(bundle);
    let mut all = Vec::new();
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let name = member.path().unwrap().to_string_lossy().into_owned();
        if name.starts_with("blobs/") {
            all.extend(name.bytes());
            std::io::Read::read_to_end(&mut member, &mut all).unwrap();
        }
    }
    all
}

fn export(cli: &Cli, registry: &Double) -> super::support::cli::Output {
    let image = format!("{}/library/greeting:1.0", registry.host());
    cli.run(&["export", &image, "-o", "b.tar", "--force", "--no-cache"])
}

/// A store's refusal of a signed address, as S3 words it.
fn expired(status: u16) -> Action {
    let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code>\
        <Message>Request has expired</Message><RequestId>NEVER-THE-SAME</RequestId></Error>";
    Action::Answer(Canned {
        status,
        headers: vec![("content-type".into(), "application/xml".into())],
        body: body.into(),
    })
}

#[test]
fn a_fresh_address_is_asked_for_where_a_signed_one_has_expired() {
    let cli = cli();
    let bytes = expected(&cli);
    for status in [400, 401, 403, 410] {
        for path in ["/blobs/", "/manifests/"] {
            let store = source();
            // Each address fails once. A bundle needs more than twenty of them.
            for digest in greeting().blobs.keys() {
                store.add_fault(When::get(digest).first(1), expired(status));
            }
            store.add_fault(When::get("/manifests/").first(1), expired(status));
            let registry = source();
            registry.add_fault(
                When::path(path),
                Action::redirect(307, &format!("{}{{target}}", store.url())),
            );
            let output = export(&cli, &registry).expect_code(0);
            assert!(!output.stderr.contains("AccessDenied"), "{}", output.everything());
            assert!(layers_of(&std::fs::read(cli.path("b.tar")).unwrap()) == bytes);
        }
    }
}

#[test]
fn a_store_that_goes_on_refusing_is_named_and_no_login_is_asked_for() {
    let (cli, store, registry) = (cli(), Double::new(), source());
    store.add_fault(When::any(), expired(403));
    registry.add_fault(
        When::get("/blobs/"),
        Action::redirect(307, &format!("{}{{target}}?X-Amz-Signature=s3cret", store.url())),
    );
    let output = export(&cli, &registry)
        .expect_code(3)
        .says(&[
            &format!(
                "`{}`, to which `{}` had redirected, answered 403",
                store.host(),
                registry.host()
            ),
            "AccessDenied: Request has expired",
            "the signed address may have expired",
        ])
        .hides(&["NEVER-THE-SAME", "s3cret"]);
    assert!(!output.stderr.contains("log in"), "{}", output.everything());
    for digest in greeting().blobs.keys() {
        let asked = registry.count("GET", &format!("/blobs/{digest}"));
        assert!(asked <= 3, "{}", registry.transcript());
    }
}

/// Sends what the registry holds under a digest in another form.
fn encode(registry: &Double, bytes: &[u8], encoding: &str, stated: bool) {
    let mut packed = GzEncoder::new(Vec::new(), Compression::new(6));
    packed.write_all(bytes).unwrap();
    let packed = match encoding {
        "gzip" => packed.finish().unwrap(),
        "deflate" => {
            let mut packed = ZlibEncoder::new(Vec::new(), Compression::new(6));
            packed.write_all(bytes).unwrap();
            packed.finish().unwrap()
        }
        _ => zstd::encode_all(bytes, 3).unwrap(),
    };
    let digest = sha256(bytes);
    registry.add_fault(When::get(&digest), Action::Body(packed));
    if stated {
        registry.add_fault(
            When::get(&digest),
            Action::Header("content-encoding", Some(encoding.to_owned())),
        );
    }
}

#[test]
fn what_a_proxy_compressed_without_being_asked_is_unpacked() {
    let cli = cli();
    let bytes = expected(&cli);
    let image = greeting();
    for encoding in ["gzip", "deflate", "zstd"] {
        for chunked in [false, true] {
            for stripped in [false, true] {
                let registry = source();
                for document in image.documents() {
                    encode(&registry, &document.bytes, encoding, true);
                }
                for document in image.documents() {
                    let config = &document.json()["config"]["digest"];
                    if let Some(config) = config.as_str() {
                        encode(&registry, &image.blobs[config], encoding, true);
                    }
                }
                if chunked {
                    registry.add_fault(When::get("/v2/"), Action::Chunked);
                }
                if stripped {
                    registry.add_fault(When::get("/v2/"), Action::Header("docker-content-digest", None));
                }
                export(&cli, &registry).expect_code(0);
                let found = layers_of(&std::fs::read(cli.path("b.tar")).unwrap());
                assert!(found == bytes, "{encoding}, chunked: {chunked}, stripped: {stripped}");
            }
        }
    }
}

#[test]
fn a_manifest_that_a_proxy_compressed_by_its_tag_is_unpacked() {
    let (cli, registry) = (cli(), source());
    let root = greeting().root;
    let mut packed = GzEncoder::new(Vec::new(), Compression::new(6));
    packed.write_all(&root.bytes).unwrap();
    let packed = packed.finish().unwrap();
    registry.add_fault(When::get("/manifests/1.0"), Action::Body(packed));
    for stated in [Some("gzip"), Some("x-gzip"), None] {
        registry.add_fault(
            When::get("/manifests/1.0"),
            Action::Header("content-encoding", stated.map(str::to_owned)),
        );
        registry.add_fault(
            When::get("/manifests/1.0"),
            Action::Header("docker-content-digest", None),
        );
        let output = export(&cli, &registry).expect_code(0);
        assert!(output.stdout.contains(&root.digest) || output.stderr.contains(&root.digest));
    }
}

#[test]
fn layers_are_unpacked_only_where_a_proxy_packed_them() {
    let layers = [
        // Noise, text that shrinks, and a layer that is compressed by itself.
        Layer::noise(1, 300_000),
        Layer::plain(vec![b'a'; 3 << 20]),
        Layer::files(&[("x", b"y")]),
    ];
    let mut layers = layers.to_vec();
    for layer in &mut layers[..2] {
        layer.media_type = Some("application/vnd.oci.image.layer.v1.tar".to_owned());
    }
    let image = single(Style::Oci, &platform("linux/amd64"), &layers, &["/x"]);
    for chunked in [false, true] {
        let (cli, registry, target) = (cli(), Double::new(), Double::new());
        image.push(&registry, "a/b", "1");
        encode(&registry, &layers[0].bytes, "gzip", true);
        encode(&registry, &layers[1].bytes, "zstd", true);
        // Only labelled, as some file servers do by the first bytes.
        let digest = sha256(&layers[2].bytes);
        registry.add_fault(
            When::get(&digest),
            Action::Header("content-encoding", Some("x-gzip".to_owned())),
        );
        if chunked {
            registry.add_fault(When::get("/blobs/"), Action::Chunked);
        }
        let name = format!("{}/a/b:1", registry.host());
        cli.succeed(&["export", &name, "-o", "b.tar"]);
        cli.succeed(&["-d", &target.host(), &name]);
        for layer in &layers {
            let held = target.store().blob("a/b", &sha256(&layer.bytes)).unwrap();
            assert!(held.all() == layer.bytes);
        }
    }
}

#[test]
fn a_body_that_unpacks_to_more_than_its_blob_has_is_refused() {
    let (cli, registry) = (cli(), Double::new());
    let image = single(
        Style::Oci,
        &platform("linux/amd64"),
        &[Layer::files(&[("x", b"y")])],
        &[],
    );
    image.push(&registry, "a/b", "1");
    let config = image.root.json()["config"]["digest"].as_str().unwrap().to_owned();
    let bomb = zstd::encode_all(&vec![b' '; 64 << 20][..], 3).unwrap();
    for path in [config.as_str(), "/manifests/"] {
        registry.clear_faults();
        registry.add_fault(When::get(path), Action::Body(bomb.clone()));
        registry.add_fault(When::get(path), Action::Header("content-encoding", Some("zstd".into())));
        let name = format!("{}/a/b:1", registry.host());
        cli.run(&["export", &name, "-o", "b.tar", "--retries", "0", "--no-cache"])
            .expect_code(1);
    }
}

#[test]
fn a_label_that_contradicts_a_manifest_of_a_known_digest_is_told_once_and_does_not_count() {
    let cli = cli();
    let bytes = expected(&cli);
    for label in [DOCKER_MANIFEST, OCI_INDEX, "application/vnd.example+json"] {
        let (registry, target) = (source(), Double::new());
        registry.add_fault(
            When::get("/manifests/sha256:"),
            Action::Header("content-type", Some(label.to_owned())),
        );
        let output = export(&cli, &registry).expect_code(0);
        let warnings = output.stderr.lines().filter(|line| line.contains("Content-Type"));
        assert_eq!(warnings.count(), 1, "{}", output.everything());
        assert!(layers_of(&std::fs::read(cli.path("b.tar")).unwrap()) == bytes);
        // A mirror of this kind is used, and told of as often.
        let origin = source();
        let image = format!("{}/library/greeting:1.0", origin.host());
        let mirror = format!("{}=http://{}", origin.host(), registry.host());
        let output = cli
            .run(&["-d", &target.host(), &image, "--mirror", &mirror, "--no-cache"])
            .expect_code(0);
        let warnings = output.stderr.lines().filter(|line| line.contains("warning:"));
        assert_eq!(warnings.count(), 1, "{}", output.everything());
        assert!(origin.requests().is_empty(), "{}", origin.transcript());
        for document in greeting().documents_of("linux") {
            let repository = target.store().repository("library/greeting").unwrap();
            assert_eq!(repository.manifests[&document.digest].media_type, document.media_type);
        }
    }
}

#[test]
fn a_tag_whose_label_is_of_the_same_kind_is_what_it_says_itself() {
    for (style, label) in [(Style::Oci, DOCKER_MANIFEST), (Style::Docker, OCI_MANIFEST)] {
        let (cli, registry, target) = (cli(), Double::new(), Double::new());
        let image = single(style, &platform("linux/amd64"), &[Layer::files(&[("x", b"y")])], &[]);
        image.push(&registry, "a/b", "1");
        registry.add_fault(
            When::path("/manifests/"),
            Action::Header("content-type", Some(label.to_owned())),
        );
        let name = format!("{}/a/b:1", registry.host());
        cli.run(&["-d", &target.host(), &name])
            .expect_code(0)
            .says(&["Content-Type"]);
        let repository = target.store().repository("a/b").unwrap();
        assert_eq!(repository.manifests[&image.root.digest].media_type, style.manifest());
    }
}

/// An index of two images, whose entries have another type than these.
fn renamed(style: Style, listed: &str) -> Image {
    let mut image = multi(style, &["linux/amd64", "linux/arm64"], "x");
    let mut root = image.root.json();
    for entry in root["manifests"].as_array_mut().unwrap() {
        entry["mediaType"] = json!(listed);
    }
    image.root = Document::new(style.index(), root.to_string());
    image
}

#[test]
fn an_index_may_call_a_manifest_by_the_other_name_of_its_kind() {
    for (style, listed) in [(Style::Oci, DOCKER_MANIFEST), (Style::Docker, OCI_MANIFEST)] {
        let (cli, registry) = (cli(), Double::new());
        let image = renamed(style, listed);
        image.push(&registry, "a/b", "1");
        let name = format!("{}/a/b:1", registry.host());
        cli.succeed(&["export", &name, "-o", "b.tar"]);
        let (two, one, pipe) = (Double::new(), Double::new(), Double::new());
        cli.succeed(&["import", "b.tar", "-d", &two.host()]);
        cli.succeed(&["-d", &one.host(), &name]);
        let mut command = cli.command(&["import", "-", "-d", &pipe.host()]);
        command.stdin(std::fs::File::open(cli.path("b.tar")).unwrap());
        assert!(command.status().unwrap().success());
        for target in [two, one, pipe] {
            assert_eq!(sha256(&target.manifest("a/b", "1").unwrap()), image.root.digest);
            let repository = target.store().repository("a/b").unwrap();
            for document in &image.below {
                assert_eq!(repository.manifests[&document.digest].media_type, style.manifest());
            }
        }
    }
    // An index is no image, whatever it is called.
    let (cli, registry) = (cli(), Double::new());
    renamed(Style::Oci, OCI_INDEX).push(&registry, "a/b", "1");
    let name = format!("{}/a/b:1", registry.host());
    cli.run(&["export", &name, "-o", "b.tar"]).expect_code(1);
}

#[test]
fn a_manifest_without_a_type_of_its_own_has_the_one_under_which_it_is_listed() {
    let mut image = multi(Style::Docker, &["linux/amd64"], "x");
    let mut child = image.below[0].json();
    child.as_object_mut().unwrap().remove("mediaType");
    image.below[0] = Document::new(OCI_MANIFEST, child.to_string());
    let entry = |media_type: &str, document: &Document| {
        let mut entry = Value::Object(document.descriptor());
        entry["mediaType"] = json!(media_type);
        entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
        entry
    };
    for listed in [OCI_MANIFEST, DOCKER_MANIFEST] {
        let root = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry(listed, &image.below[0])]});
        image.root = Document::new(OCI_INDEX, root.to_string());
        let (cli, registry, target) = (cli(), Double::new(), Double::new());
        image.push(&registry, "a/b", "1");
        let label = if listed == OCI_MANIFEST {
            DOCKER_MANIFEST
        } else {
            OCI_MANIFEST
        };
        registry.add_fault(
            When::get("/manifests/sha256:"),
            Action::Header("content-type", Some(label.to_owned())),
        );
        cli.succeed(&["-d", &target.host(), &format!("{}/a/b:1", registry.host())]);
        let repository = target.store().repository("a/b").unwrap();
        assert_eq!(repository.manifests[&image.below[0].digest].media_type, listed);
    }
}

/// An image whose manifest states no type.
fn untyped() -> Image {
    let mut image = single(
        Style::Oci,
        &platform("linux/amd64"),
        &[Layer::files(&[("x", b"y")])],
        &[],
    );
    let mut root = image.root.json();
    root.as_object_mut().unwrap().remove("mediaType");
    image.root = Document::new(OCI_MANIFEST, root.to_string());
    image
}

#[test]
fn the_fields_of_a_manifest_decide_where_its_label_is_of_no_known_type() {
    let image = untyped();
    for label in [
        "application/vnd.api+json",
        "application/problem+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.artifact.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.oci.image.manifest.v2+json",
        "text/plain",
    ] {
        let (cli, registry) = (cli(), Double::new());
        image.push(&registry, "a/b", "1");
        registry.add_fault(
            When::path("/manifests/"),
            Action::Header("content-type", Some(label.to_owned())),
        );
        let name = format!("{}/a/b:1", registry.host());
        let (two, one) = (Double::new(), Double::new());
        cli.succeed(&["export", &name, "-o", "b.tar", "--force"]);
        cli.succeed(&["import", "b.tar", "-d", &two.host()]);
        cli.succeed(&["-d", &one.host(), &name]);
        // What was kept of that does not spoil a later export, when the label is right.
        registry.clear_faults();
        let later = Double::new();
        cli.succeed(&["-d", &later.host(), &name]);
        for target in [two, one, later] {
            let repository = target.store().repository("a/b").unwrap();
            assert_eq!(
                repository.manifests[&image.root.digest].media_type, OCI_MANIFEST,
                "{label}"
            );
            for digest in image.blobs.keys() {
                assert!(target.store().blob("a/b", digest).is_some(), "{label}: {digest}");
            }
        }
    }
}

#[test]
fn an_entry_of_an_archive_of_no_known_type_does_not_hide_layers() {
    let (cli, registry, target) = (cli(), Double::new(), Double::new());
    let image = untyped();
    image.push(&registry, "a/b", "1");
    let name = format!("{}/a/b:1", registry.host());
    cli.succeed(&["export", &name, "-o", "b.tar"]);
    // The index of the bundle, with another type of the same length.
    let mut bundle = std::fs::read(cli.path("b.tar")).unwrap();
    let known = b"vnd.oci.image.manifest.v1+json";
    let at = bundle.windows(known.len()).position(|window| window == known).unwrap();
    bundle[at..at + known.len()].copy_from_slice(b"vnd.oci.image.manifest.v9+json");
    std::fs::write(cli.path("c.tar"), bundle).unwrap();
    cli.succeed(&["import", "c.tar", "-d", &target.host()]);
    for digest in image.blobs.keys() {
        assert!(target.store().blob("a/b", digest).is_some(), "{digest}");
    }
}

#[test]
fn an_index_that_lists_nothing_is_carried_as_it_is() {
    let (cli, registry) = (cli(), Double::new());
    let image = index(Style::Oci, &[]);
    image.push(&registry, "a/b", "1");
    let name = format!("{}/a/b:1", registry.host());
    for flags in [&[][..], &["--platform", "all"], &["--platform", "linux/amd64"]] {
        let (two, one) = (Double::new(), Double::new());
        let all = |arguments: &[&str]| cli.succeed(&[arguments, flags].concat());
        all(&["export", &name, "-o", "b.tar", "--force"]);
        all(&["import", "b.tar", "-d", &two.host()]);
        all(&["-d", &one.host(), &name]);
        for target in [two, one] {
            assert_eq!(target.manifest("a/b", "1").unwrap(), image.root.bytes);
        }
    }
}

#[test]
fn a_build_cache_is_called_one() {
    let (cli, registry) = (cli(), Double::new());
    let layer = Layer::files(&[("x", b"y")]);
    let config = json!({"layers": [], "records": []}).to_string();
    let entry = |media_type: &str, bytes: &[u8]| {
        registry.store().put_blob("team/app", bytes.to_vec());
        Value::Object(Document::new(media_type, bytes.to_vec()).descriptor())
    };
    let root = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        entry("application/vnd.oci.image.layer.v1.tar+gzip", &layer.bytes),
        entry("application/vnd.buildkit.cacheconfig.v0", config.as_bytes()),
    ]});
    let root = root.to_string();
    registry
        .store()
        .put_manifest("team/app", Some("cache"), OCI_INDEX, root.clone().into());
    let name = format!("{}/team/app:cache", registry.host());
    for flags in [&[][..], &["--platform", "all"]] {
        let export = [&["export", &name, "-o", "b.tar"], flags].concat();
        let one_step = [&["-d", "127.0.0.1:1", &name], flags].concat();
        for arguments in [export, one_step] {
            cli.run(&arguments)
                .expect_code(1)
                .says(&["it is a build cache", "hint: build caches in this form are not carried"]);
        }
    }
    // The same in a folder, as BuildKit writes it for `type=local`.
    let folder = cli.path("cache");
    std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8]| std::fs::write(folder.join("blobs").join(sha256(bytes).replace(':', "/")), bytes).unwrap();
    put(&layer.bytes);
    put(config.as_bytes());
    put(root.as_bytes());
    let mut entry = Value::Object(Document::new(OCI_INDEX, root).descriptor());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    cli.run(&["import", "cache", "-d", "127.0.0.1:1", "--name", "team/app:cache"])
        .expect_code(1)
        .says(&["it is a build cache"]);
}
