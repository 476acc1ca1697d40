//! `verify` finds every fault of a bundle, reports each fault once, and names the affected images.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use super::cli;
use super::support::image::{Layer, Style, platform, single, with_config};
use super::support::images::{linux_and_windows, shared_base, small};
use super::support::layout::{Tar, blob_name, marker, unpack, write_layout, write_members};
use super::support::{Double, sha256};
use crate::support::Cli;
use crate::support::cli::Output;

fn exported() -> (Cli, Double) {
    let (cli, registry) = (cli(), Double::new());
    linux_and_windows(Style::Oci).push(&registry, "a/multi", "1");
    let [one, two] = &shared_base(2, 3 << 20)[..] else {
        panic!()
    };
    one.push(&registry, "b/one", "1");
    two.push(&registry, "b/two", "1");
    let names = ["a/multi:1", "b/one:1", "b/two:1"].map(|name| format!("{}/{name}", registry.host()));
    cli.succeed(&["export", &names[0], &names[1], &names[2], "-o", "b.tar"]);
    (cli, registry)
}

fn document(cli: &Cli, arguments: &[&str], code: i32) -> Value {
    let arguments = [&["verify", "--json"], arguments].concat();
    let output = cli.run(&arguments).expect_code(code);
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", output.everything()))
}

/// Returns the digests of the layers of an image in a bundle, and of one of its manifests.
fn pieces(cli: &Cli, image: &str) -> (Vec<String>, String) {
    let output = cli.succeed(&["inspect", "b.tar", "--json", "--only", &format!("*{image}")]);
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    let platform = &document["images"][0]["platforms"][0];
    let text = |value: &Value| value["digest"].as_str().unwrap().to_owned();
    let layers = platform["layers"].as_array().unwrap().iter().map(text).collect();
    (layers, text(&platform["manifest"]))
}

#[test]
fn a_sound_bundle_is_said_to_be_sound_with_its_own_sum() {
    let (cli, _registry) = exported();
    let bytes = fs::read(cli.path("b.tar")).unwrap();
    let sum = sha256(&bytes).replace("sha256:", "");
    let shown = cli.succeed(&["verify", "b.tar", "--deep"]);
    assert_eq!(
        shown.lines().first(),
        Some(&&*format!("{sum}  b.tar")),
        "{}",
        shown.everything()
    );
    assert!(
        shown.lines().last().unwrap().starts_with("SOUND: "),
        "{}",
        shown.everything()
    );
    let found = document(&cli, &["b.tar", "--deep"], 0);
    assert_eq!((&found["verifyVersion"], &found["sound"]), (&json!(1), &json!(true)));
    assert_eq!(
        found["files"],
        json!([{"path": "b.tar", "bytes": bytes.len(), "sha256": sum}])
    );
    let bundle = Tar::open(&cli.path("b.tar"));
    let blobs = bundle.members.iter().filter(|member| member.name.starts_with("blobs/"));
    let checked = &found["checked"];
    assert_eq!(checked["members"], bundle.members.len());
    assert_eq!(
        (&checked["blobs"], &checked["images"]),
        (&json!(blobs.clone().count()), &json!(3))
    );
    assert_eq!(checked["bytes"], blobs.map(|member| member.size).sum::<u64>());
    assert_eq!(checked["layersUnpacked"], 5);
    // A folder, a pipe, and a bundle that is compressed as a whole.
    unpack(&cli.path("b.tar"), &cli.path("folder"));
    let folder = document(&cli, &["folder", "--deep"], 0);
    assert_eq!((&folder["checked"], &folder["files"]), (checked, &json!([])));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let compressed = gzip.finish().unwrap();
    fs::write(cli.path("b.tgz"), &compressed).unwrap();
    for deep in [&[][..], &["--deep"]] {
        let found = document(&cli, &[&["b.tgz"], deep].concat(), 0);
        assert_eq!(found["files"][0]["sha256"], sha256(&compressed).replace("sha256:", ""));
        assert_eq!(found["checked"]["blobs"], checked["blobs"], "{found}");
        let arguments = [&["verify", "-", "--json"], deep].concat();
        let mut child = cli.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let piped = Output::new(&child.wait_with_output().unwrap(), &arguments).expect_code(0);
        let piped: Value = serde_json::from_str(&piped.stdout).unwrap();
        assert_eq!(piped["files"][0]["sha256"], sum, "{piped}");
        assert_eq!(piped["checked"], found["checked"]);
    }
    assert_eq!(cli.files(), ["b.tar", "b.tgz", "folder"]);
}

#[test]
fn every_fault_is_named_once_with_its_place_and_its_images() {
    let (cli, registry) = exported();
    let (one, two) = (pieces(&cli, "b/one:1").0, pieces(&cli, "b/two:1").0);
    let manifest = pieces(&cli, "a/multi:1").1;
    let bundle = Tar::open(&cli.path("b.tar"));
    // Damages a layer of two images and a manifest, and removes a layer of one image.
    bundle.flip(&blob_name(&one[0]));
    bundle.flip(&blob_name(&manifest));
    bundle.without(&blob_name(&two[1]), &cli.path("bad.tar"));
    let bad = Tar::open(&cli.path("bad.tar"));
    let name = |image: &str| format!("{}/{image}", registry.host());
    let found = document(&cli, &["bad.tar", "--want", "w.txt", "--deep"], 5);
    let faults = found["faults"].as_array().unwrap();
    assert_eq!((faults.len(), &found["sound"]), (3, &json!(false)), "{found}");
    let of = |digest: &str| {
        let found: Vec<&Value> = faults.iter().filter(|fault| fault["digest"] == digest).collect();
        assert_eq!(found.len(), 1, "{digest}: {faults:?}");
        found[0]
    };
    let shared = of(&one[0]);
    assert_eq!(
        (&shared["kind"], &shared["images"]),
        (&json!("damaged"), &json!([name("b/one:1"), name("b/two:1")]))
    );
    let member = bad.member(&blob_name(&one[0])).unwrap();
    assert_eq!(
        (&shared["offset"], &shared["member"], &shared["file"]),
        (&json!(member.offset), &json!(member.name), &json!("bad.tar"))
    );
    assert_eq!(
        (&of(&manifest)["kind"], &of(&manifest)["images"]),
        (&json!("damaged"), &json!([name("a/multi:1")]))
    );
    assert_eq!(
        (&of(&two[1])["kind"], &of(&two[1])["images"]),
        (&json!("missing"), &json!([name("b/two:1")]))
    );
    assert_eq!(found["wanted"].as_array().unwrap().len(), 3);
    let want = fs::read_to_string(cli.path("w.txt")).unwrap();
    assert_eq!(want.lines().count(), 5, "{want}");
    assert!(
        want.contains(&format!("\n{} {} {}\n", one[0], member.size, name("b/one:1"))),
        "{want}"
    );
    let shown = cli.run(&["verify", "bad.tar"]).expect_code(5);
    assert_eq!(
        shown.lines().iter().filter(|line| line.starts_with("FAULT ")).count(),
        3,
        "{}",
        shown.everything()
    );
    assert!(
        shown
            .lines()
            .last()
            .unwrap()
            .starts_with("DAMAGED: 3 faults; to fetch again: 3 blobs"),
        "{}",
        shown.everything()
    );
    // The same out of a pipe, and from a folder.
    unpack(&cli.path("bad.tar"), &cli.path("folder"));
    assert_eq!(document(&cli, &["folder"], 5)["wanted"], found["wanted"]);
    let mut child = cli
        .command(&["verify", "-", "--json"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child
        .stdin
        .take()
        .unwrap()
        .write_all(&fs::read(cli.path("bad.tar")).unwrap());
    let piped = Output::new(&child.wait_with_output().unwrap(), &["verify", "-"]).expect_code(5);
    assert_eq!(
        serde_json::from_str::<Value>(&piped.stdout).unwrap()["wanted"],
        found["wanted"]
    );
}

#[test]
fn another_bundle_makes_up_for_what_one_has_wrong() {
    let (cli, _registry) = exported();
    fs::copy(cli.path("b.tar"), cli.path("good.tar")).unwrap();
    let (layers, manifest) = pieces(&cli, "b/one:1");
    let bundle = Tar::open(&cli.path("b.tar"));
    bundle.flip(&blob_name(&layers[0]));
    bundle.flip(&blob_name(&manifest));
    let found = document(&cli, &["b.tar", "good.tar"], 0);
    assert_eq!(found["replaced"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(found["files"].as_array().unwrap().len(), 2);
}

#[test]
fn configs_and_layers_that_do_not_belong_together_are_found() {
    let cli = cli();
    let other = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [sha256(b"another content")]}});
    let layer = Layer::files(&[("a", b"b")]);
    let config_type = "application/vnd.oci.image.config.v1+json";
    let wrong = with_config(
        Style::Oci,
        config_type,
        other.to_string().into(),
        std::slice::from_ref(&layer),
    );
    let count = with_config(
        Style::Oci,
        config_type,
        other.to_string().into(),
        &[layer.clone(), Layer::noise(1, 9)],
    );
    let good = single(Style::Oci, &platform("linux/amd64"), &[layer], &["/a"]);
    write_layout(
        &cli.path("f.tar"),
        &[
            ("q.io/a/wrong:1", &wrong),
            ("q.io/a/count:1", &count),
            ("q.io/a/good:1", &good),
        ],
    );
    let kinds = |found: &Value| -> Vec<String> {
        let faults = found["faults"].as_array().unwrap().iter();
        faults
            .map(|fault| {
                format!(
                    "{} {}",
                    fault["kind"].as_str().unwrap(),
                    fault["images"][0].as_str().unwrap()
                )
            })
            .collect()
    };
    assert_eq!(kinds(&document(&cli, &["f.tar"], 5)), ["layerCount q.io/a/count:1"]);
    let deep = document(&cli, &["f.tar", "--deep"], 5);
    assert_eq!(
        kinds(&deep),
        ["layerCount q.io/a/count:1", "layerContent q.io/a/wrong:1"],
        "{deep}"
    );
}

#[test]
fn more_faults_than_anybody_reads_are_counted() {
    let (cli, folder) = (cli(), "many");
    let image = small(Style::Oci, "linux/amd64", "x");
    write_layout(&cli.path("f.tar"), &[("q.io/a/b:1", &image)]);
    unpack(&cli.path("f.tar"), &cli.path(folder));
    for number in 0..1100 {
        fs::write(cli.path(&format!("{folder}/blobs/sha256/{number:064x}")), "x").unwrap();
    }
    let found = document(&cli, &[folder], 5);
    assert_eq!(
        (found["faults"].as_array().unwrap().len(), &found["moreFaults"]),
        (1000, &json!(100))
    );
    let shown = cli.run(&["verify", folder]).expect_code(5);
    assert!(shown.stdout.contains("\n100 more faults are not shown\n"));
    assert!(shown.stdout.contains("\nDAMAGED: 1100 faults\n"));
}

#[test]
fn what_is_no_bundle_is_not_sound_and_what_is_not_there_is_not_damaged() {
    let cli = cli();
    fs::write(cli.path("text.tar"), "no archive").unwrap();
    let found = document(&cli, &["text.tar"], 5);
    assert_eq!(found["faults"].as_array().unwrap().len(), 1, "{found}");
    fs::create_dir(cli.path("empty")).unwrap();
    for paths in [&["absent.tar"][..], &["text.tar", "absent.tar"], &["empty"]] {
        let refused = cli.run(&[&["verify"], paths].concat()).expect_code(2);
        assert!(!refused.everything().contains("DAMAGED"), "{}", refused.everything());
    }
}

#[test]
fn what_is_not_supported_is_not_called_damaged() {
    let cli = cli();
    fs::create_dir(cli.path("skopeo")).unwrap();
    fs::write(cli.path("skopeo/version"), "Directory Transport Version: 1.1\n").unwrap();
    let (_, marker) = marker();
    let newer = json!({"formatVersion": 99, "images": []});
    let documents: [(&str, Vec<u8>); 3] = [
        ("oci-layout", marker.clone()),
        ("index.json", br#"{"schemaVersion":2,"manifests":[]}"#.to_vec()),
        ("docker-mirror.json", newer.to_string().into_bytes()),
    ];
    write_members(&cli.path("newer.tar"), documents.clone());
    let layout = br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec();
    let changed = documents.map(|(name, bytes)| (name, if name == "oci-layout" { layout.clone() } else { bytes }));
    write_members(&cli.path("layout.tar"), changed);
    for (path, words) in [
        ("skopeo", "skopeo copy --all dir:skopeo"),
        ("newer.tar", "update docker-mirror"),
        ("layout.tar", "unknown layout version"),
    ] {
        let commands = [
            vec!["verify", path],
            vec!["inspect", path],
            vec!["diff", path, path],
            vec!["import", path, "-d", "127.0.0.1:1/m"],
        ];
        for command in commands {
            let refused = cli.run(&command).expect_code(2).says(&[words]).everything();
            assert!(!refused.to_lowercase().contains("damaged"), "{command:?}: {refused}");
        }
    }
}

/// Makes an archive whose last member is a sparse blob of this size.
fn with_sparse_blob(cli: &Cli, bundle: &str, digest: &str, size: u64, target: &str) {
    Tar::open(&cli.path(bundle)).without(&blob_name(digest), &cli.path(target));
    append_sparse(&cli.path(target), &blob_name(digest), size);
}

/// Puts a sparse member of this size at the end of an archive.
fn append_sparse(archive: &Path, name: &str, size: u64) {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = fs::read(archive).unwrap();
    while bytes.ends_with(&[0; 512]) {
        bytes.truncate(bytes.len() - 512);
    }
    bytes.extend_from_slice(header.as_bytes());
    let length = bytes.len() as u64 + size + 1024;
    fs::write(archive, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(archive)
        .unwrap()
        .set_len(length)
        .unwrap();
}

/// Creates a file of this size without data; returns false if the file system does not support sparse files.
fn is_sparse(path: &Path, size: u64) -> bool {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).is_err()
}

#[test]
fn a_sparse_file_of_which_nobody_states_the_size_is_a_fault_before_it_is_read() {
    const SIZE: u64 = 1 << 40;
    let (cli, registry) = exported();
    let name = format!("{}/b/one:1", registry.host());
    unpack(&cli.path("b.tar"), &cli.path("folder"));
    let digest = format!("sha256:{}", "a".repeat(64));
    if !is_sparse(&cli.path(&format!("folder/{}", blob_name(&digest))), SIZE) {
        return;
    }
    // A blob that no manifest names.
    for deep in [&[][..], &["--deep"]] {
        let found = document(&cli, &[&["folder"], deep].concat(), 5);
        let faults = found["faults"].as_array().unwrap();
        assert_eq!((faults.len(), &faults[0]["digest"]), (1, &json!(digest)), "{found}");
        assert!(faults[0]["message"].as_str().unwrap().contains("sparse"), "{found}");
    }
    let target = Double::new();
    let host = target.host();
    cli.succeed(&["import", "folder", "-d", &host, "--report", "r.json"]);
    cli.succeed(&["inspect", "folder"]);
    // A bundle with a tail of holes.
    fs::copy(cli.path("b.tar"), cli.path("tail.tar")).unwrap();
    fs::File::options()
        .write(true)
        .open(cli.path("tail.tar"))
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    document(&cli, &["tail.tar"], 0);
    cli.succeed(&["import", "tail.tar", "-d", &host, "--report", "s.json"]);
    // A layer in Docker's own format, whose size is not stated anywhere; in a folder and in a tar.
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]}});
    let items = json!([{"Config": "c.json", "RepoTags": ["quay.io/a/b:1"], "Layers": ["l.tar"]}]);
    let documents = [("c.json", config.to_string()), ("manifest.json", items.to_string())];
    fs::create_dir(cli.path("docker")).unwrap();
    for (name, text) in &documents {
        fs::write(cli.path(&format!("docker/{name}")), text).unwrap();
    }
    assert!(is_sparse(&cli.path("docker/l.tar"), SIZE));
    let members = documents.map(|(name, text)| (name.to_owned(), text.into_bytes()));
    write_members(&cli.path("docker.tar"), members);
    append_sparse(&cli.path("docker.tar"), "l.tar", SIZE);
    for bundle in ["docker", "docker.tar"] {
        for command in [
            &["inspect"][..],
            &["verify"],
            &["import", "-d", &host],
            &["import", "--verify", "-d", &host],
        ] {
            let output = cli.run(&[command, &[bundle]].concat());
            assert_ne!(output.code, Some(0), "{}", output.everything());
            assert!(output.everything().contains("sparse file"), "{}", output.everything());
        }
    }
    cli.succeed(&["export", &name, "--reuse", "folder", "-o", "again.tar"]);
}

#[test]
fn a_blob_of_a_size_that_nobody_states_is_a_fault_before_a_byte_of_it_is_read() {
    const SIZE: u64 = 1 << 40;
    let (cli, registry) = exported();
    let (layers, manifest) = pieces(&cli, "b/one:1");
    let name = format!("{}/b/one:1", registry.host());
    for digest in [&layers[1], &manifest] {
        let path = blob_name(digest);
        unpack(&cli.path("b.tar"), &cli.path("folder"));
        let file = fs::File::create(cli.path(&format!("folder/{path}"))).unwrap();
        // The disk of this machine may refuse a file of this size; reading it would take minutes.
        file.set_len(SIZE).unwrap();
        with_sparse_blob(&cli, "b.tar", digest, SIZE, "sparse.tar");
        for bundle in ["folder", "sparse.tar"] {
            for deep in [&[][..], &["--deep"]] {
                let found = document(&cli, &[&[bundle], deep].concat(), 5);
                let faults = found["faults"].as_array().unwrap();
                assert_eq!(faults.len(), 1, "{found}");
                let fault = &faults[0];
                assert_eq!((&fault["kind"], &fault["digest"]), (&json!("size"), &json!(digest)));
                assert_eq!(fault["images"], json!([name]));
                assert!(fault["message"].as_str().unwrap().contains(&SIZE.to_string()));
                assert_eq!(found["wanted"].as_array().unwrap().len(), 1);
                // The other blobs are read.
                assert!(found["checked"]["bytes"].as_u64().unwrap() > 3 << 20, "{found}");
            }
            // A bundle that has the right blob completes the images, in any order.
            for both in [["b.tar", bundle], [bundle, "b.tar"]] {
                let found = document(&cli, &both, 0);
                assert_eq!(found["replaced"].as_array().unwrap().len(), 1, "{found}");
            }
            let target = Double::new();
            cli.run(&["import", "--verify", bundle, "-d", &target.host()])
                .expect_code(5);
            assert_eq!(target.requests().len(), 0);
            cli.run(&["import", bundle, "-d", &target.host()]).expect_code(5);
            cli.succeed(&["import", "b.tar", bundle, "-d", &target.host()]);
            for looks in [&["inspect"][..], &["diff", "b.tar"]] {
                let output = cli.run(&[looks, &[bundle]].concat());
                assert!(output.everything().contains("hint:"), "{}", output.everything());
            }
            cli.succeed(&["export", &name, "--reuse", bundle, "-o", "again.tar"]);
        }
        fs::remove_dir_all(cli.path("folder")).unwrap();
    }
}
