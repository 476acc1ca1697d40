//! Archives with good and faulty images: the good images are imported, and each faulty one is reported on its own.

use super::archives::{Layout, Tar, descriptor, digest, path};
use super::handmade::assert_complete;
use super::support::cli::Output;
use super::support::{Cli, Double};
use docker_mirror::{
    Digest,
    testing::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST},
};
use serde_json::{Value, json};

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// Runs `import` with `--report`. Returns the output, and the images of the report.
fn import(cli: &Cli, registry: &Double, more: &[&str]) -> (Output, Vec<Value>) {
    let host = registry.host();
    let arguments = [&["import", "b.tar", "-d", &host, "--report", "r.json"], more].concat();
    let output = cli.run(&arguments);
    let report: Value = std::fs::read(cli.path("r.json"))
        .map(|bytes| serde_json::from_slice(&bytes).unwrap())
        .unwrap_or_default();
    let _ = std::fs::remove_file(cli.path("r.json"));
    (output, report["images"].as_array().cloned().unwrap_or_default())
}

/// The message of the image that the report calls so.
fn fault(images: &[Value], source: &str) -> String {
    let image = images.iter().find(|image| image["source"] == source);
    let image = image.unwrap_or_else(|| panic!("no {source} in {images:#?}"));
    assert_eq!(image["outcome"], "failed", "{source}");
    image["error"]["message"].as_str().unwrap().to_owned()
}

fn tagged(registry: &Double) -> Vec<String> {
    let mut all = Vec::new();
    for name in registry.store().repositories() {
        let found = registry.store().repository(&name).unwrap();
        all.extend(found.tags.keys().map(|tag| format!("{name}:{tag}")));
    }
    all.sort();
    all
}

fn layer(content: &str) -> Vec<u8> {
    Tar::default().file("x", content.as_bytes()).end()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| Digest::sha256(layer).to_string()).collect();
    json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}})
        .to_string()
        .into_bytes()
}

/// Returns a docker-archive with one good image, and one image with each kind of fault.
fn docker() -> Vec<u8> {
    let (a, b, c) = (layer("a"), layer("b"), layer("c"));
    let items = json!([
        {"Config": "lacks.json", "RepoTags": ["team/lacks:1"], "Layers": ["a.tar", "gone.tar"]},
        {"Config": "good.json", "RepoTags": ["team/good:1"], "Layers": ["a.tar"]},
        {"Config": "other.json", "RepoTags": null, "Layers": ["b.tar"]},
        {"Config": 7},
        {"Config": "other.json", "RepoTags": ["team/UPPER:1"], "Layers": ["b.tar"]},
        {"Config": "edited.json", "RepoTags": ["team/edited:1", "team/edited:2"], "Layers": ["c.tar"]},
        {"Config": "nowhere.json", "RepoTags": ["team/nowhere:1"], "Layers": []},
    ]);
    Tar::default()
        .file("a.tar", &a)
        .file("b.tar", &b)
        .file("c.tar", &c)
        .file("lacks.json", &config(&[&a, b"gone"]))
        .file("good.json", &config(&[&a]))
        .file("other.json", &config(&[&b]))
        .file("edited.json", &config(&[b"another"]))
        .file("manifest.json", items.to_string().as_bytes())
        .end()
}

#[test]
fn one_bad_image_of_a_docker_archive_does_not_keep_the_others_back() {
    let (cli, registry) = (cli(), Double::new());
    std::fs::write(cli.path("b.tar"), docker()).unwrap();
    let (output, images) = import(&cli, &registry, &[]);
    let output = output.expect_code(1).says(&["7 of 8 images failed"]);
    assert_eq!(images.len(), 8, "{}", output.everything());
    assert_eq!(tagged(&registry), ["team/good:1"]);
    assert_complete(&registry, "team/good", "1", false);
    assert_eq!(
        registry.store().repositories(),
        ["team/good"],
        "nothing is sent for others"
    );
    for (source, parts) in [
        (
            "docker.io/team/lacks:1",
            &["manifest.json", "`gone.tar` is not in the archive"][..],
        ),
        ("docker.io/team/edited:1", &["`c.tar` at offset", "the config says"]),
        ("docker.io/team/edited:2", &["the config says"]),
        ("docker.io/team/nowhere:1", &["`nowhere.json` is not in the archive"]),
        ("b.tar:@2", &["image @2 (sha256:", "linux/amd64", "it has no name"]),
        ("b.tar:@3", &["its entry 3 is no image"]),
        ("b.tar:@4", &["no usable name", "lower-case"]),
    ] {
        let message = fault(&images, source);
        for part in parts {
            assert!(message.contains(part), "{source}: {message}");
        }
        assert!(output.stderr.contains(&message), "{message} in {}", output.everything());
    }
    output.says(&["--name @2=REPOSITORY:TAG"]);
}

#[test]
fn only_good_ones_that_were_chosen_are_a_success() {
    let (cli, registry) = (cli(), Double::new());
    std::fs::write(cli.path("b.tar"), docker()).unwrap();
    let (output, images) = import(&cli, &registry, &["--only", "team/edited"]);
    output.expect_code(5);
    assert_eq!(images.len(), 2);
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
    let (output, images) = import(&cli, &registry, &["--only", "team/good:*"]);
    output.expect_code(0);
    assert_eq!(images.len(), 1);
    assert_eq!(tagged(&registry), ["team/good:1"]);
    let (output, images) = import(&cli, &registry, &["--only", "*@2", "--only", "team/good"]);
    output.expect_code(1);
    assert_eq!(images.len(), 2);
    let (output, _) = import(&cli, &registry, &["--only", "team/none"]);
    output.expect_code(1).says(&["no image of the bundle matches"]);
    // With `--fail-fast` nothing is tried behind what is known to be wrong.
    let fresh = Double::new();
    let (output, _) = import(&cli, &fresh, &["--fail-fast"]);
    output.expect_code(1);
    assert!(fresh.requests().is_empty(), "{}", fresh.transcript());
}

#[test]
fn names_make_good_images_of_nameless_ones() {
    let (cli, registry) = (cli(), Double::new());
    std::fs::write(cli.path("b.tar"), docker()).unwrap();
    let names = [
        "--name",
        "@2=team/two:1",
        "--name",
        "@4=team/four:1",
        "--name",
        "@4=team/four:2",
    ];
    let (output, images) = import(&cli, &registry, &names);
    output.expect_code(5);
    assert_eq!(images.len(), 9);
    assert_eq!(
        tagged(&registry),
        ["team/four:1", "team/four:2", "team/good:1", "team/two:1"]
    );
    for (repository, tag) in [("team/two", "1"), ("team/four", "2")] {
        assert_complete(&registry, repository, tag, false);
    }
    // A faulty image also gets the name from the user; a name without a place applies to the image without a usable
    // name.
    let (output, images) = import(&cli, &registry, &["--name", "@0=team/zero:1", "--name", "team/any"]);
    output.expect_code(5);
    assert!(fault(&images, "docker.io/team/zero:1").contains("gone.tar"));
    assert!(tagged(&registry).contains(&"team/any:latest".to_owned()));
}

/// Returns a layout with `manifest.json`, as `docker save` writes it, with one good image and several faulty ones.
fn layout() -> Vec<u8> {
    let mut layout = Layout::default();
    let good = layout.image("amd64", b"good", false);
    layout.name(good, "quay.io/test/good:1");
    let corrupt = layout.image("amd64", b"corrupt", false);
    layout.blobs.get_mut(&digest(&corrupt)).unwrap()[3] ^= 1;
    layout.name(corrupt, "quay.io/test/corrupt:1");
    let mut image = |config: &[u8], layers: &[&[u8]], name: Option<&str>| {
        layout.blob(config);
        for bytes in layers {
            layout.blob(*bytes);
        }
        let layers: Vec<Value> = layers.iter().map(|layer| descriptor(OCI_LAYER, layer)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, config),
            "layers": layers});
        let manifest = layout.document(OCI_MANIFEST, &manifest);
        match name {
            Some(name) => layout.name(manifest, name),
            None => layout.entries.push(manifest),
        }
    };
    let (a, b) = (layer("a"), layer("b"));
    let contradicting = config(&[&a]);
    image(&vec![b' '; (4 << 20) + 1], &[], Some("quay.io/test/large:1"));
    image(&contradicting, &[&b], Some("quay.io/test/contradicts:1"));
    image(&config(&[&b]), &[&b], None);
    let config_path = path(&Digest::sha256(&contradicting));
    let items = json!([{"Config": config_path, "RepoTags": ["quay.io/test/contradicts:1"],
        "Layers": [path(&Digest::sha256(&b))]}]);
    layout
        .files
        .push(("manifest.json".into(), items.to_string().into_bytes()));
    layout.tar().end()
}

#[test]
fn one_bad_image_of_a_layout_does_not_keep_the_others_back() {
    let (cli, registry) = (cli(), Double::new());
    std::fs::write(cli.path("b.tar"), layout()).unwrap();
    let (output, images) = import(&cli, &registry, &[]);
    let output = output.expect_code(1).says(&["4 of 5 images failed"]);
    assert_eq!(tagged(&registry), ["test/good:1"], "{}", output.everything());
    assert_complete(&registry, "test/good", "1", false);
    assert_eq!(
        registry.store().repositories(),
        ["test/good"],
        "nothing is sent for others"
    );
    for (source, part) in [
        ("quay.io/test/corrupt:1", "has other bytes"),
        ("quay.io/test/large:1", "at most 4194304"),
        ("quay.io/test/contradicts:1", "the config says"),
        ("b.tar:@4", "it has no name"),
    ] {
        let message = fault(&images, source);
        assert!(message.contains(part), "{source}: {message}");
    }
    // The same from a pipe.
    let fresh = Double::new();
    let host = fresh.host();
    let arguments = ["import", "-", "-d", &host];
    let mut command = cli.command(&arguments);
    command.stdin(std::fs::File::open(cli.path("b.tar")).unwrap());
    Output::new(&command.output().unwrap(), &arguments)
        .expect_code(1)
        .says(&["4 of 5 images failed", "standard input:@4"]);
    assert_eq!(tagged(&fresh), ["test/good:1"]);
}

#[test]
fn a_whole_image_in_another_archive_makes_up_for_a_broken_one() {
    let (cli, registry) = (cli(), Double::new());
    let item = json!([{"Config": "c.json", "RepoTags": ["team/x:1"], "Layers": ["a.tar"]},
        {"Config": "d.json", "RepoTags": ["team/y:1"], "Layers": ["b.tar"]}]);
    let (a, b) = (layer("a"), layer("b"));
    let with = |a: &[u8], b: &[u8]| {
        Tar::default()
            .file("a.tar", a)
            .file("b.tar", b)
            .file("c.json", &config(&[&layer("a")]))
            .file("d.json", &config(&[&layer("b")]))
            .file("manifest.json", item.to_string().as_bytes())
            .end()
    };
    std::fs::write(cli.path("b.tar"), with(&a, b"damaged")).unwrap();
    std::fs::write(cli.path("c.tar"), with(b"damaged", &b)).unwrap();
    let (output, images) = import(&cli, &registry, &["c.tar"]);
    output.expect_code(0);
    assert_eq!(images.len(), 2);
    assert_eq!(tagged(&registry), ["team/x:1", "team/y:1"]);
    // Within one archive nobody knows which of the two is meant.
    let twice = json!([{"Config": "c.json", "RepoTags": ["team/x:1", "team/z:1"], "Layers": ["a.tar"]},
        {"Config": "d.json", "RepoTags": ["team/x:1"], "Layers": ["a.tar"]}]);
    let tar = Tar::default()
        .file("a.tar", &a)
        .file("c.json", &config(&[&a]))
        .file("d.json", &config(&[&b]))
        .file("manifest.json", twice.to_string().as_bytes())
        .end();
    std::fs::write(cli.path("b.tar"), tar).unwrap();
    let fresh = Double::new();
    import(&cli, &fresh, &[]).0.expect_code(5).says(&["the config says"]);
    assert_eq!(tagged(&fresh), ["team/z:1"]);
}
