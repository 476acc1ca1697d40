//! `verify` finds every fault of a bundle, reports each fault once, and names the affected images.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::cli;
use super::support::image::{Layer, Style, platform, single, with_config};
use super::support::images::{linux_and_windows, shared_base, small};
use super::support::layout::{Tar, blob_name, marker, unpack, write_layout, write_members};
use super::support::{Action, Double, When, sha256};
use crate::support::Cli;
use crate::support::cli::Output;

pub(super) fn exported() -> (Cli, Double) {
    exported_with(3 << 20)
}

/// Returns a user with a bundle of an index without one of its platforms, and of two images that share a layer of this size.
pub(super) fn exported_with(size: usize) -> (Cli, Double) {
    let (cli, registry) = (cli(), Double::new());
    linux_and_windows(Style::Oci).push(&registry, "a/multi", "1");
    let [one, two] = &shared_base(2, size)[..] else {
        panic!()
    };
    one.push(&registry, "b/one", "1");
    two.push(&registry, "b/two", "1");
    let names = ["a/multi:1", "b/one:1", "b/two:1"].map(|name| format!("{}/{name}", registry.host()));
    cli.succeed(&["export", &names[0], &names[1], &names[2], "-o", "b.tar"]);
    (cli, registry)
}

pub(super) fn document(cli: &Cli, arguments: &[&str], code: i32) -> Value {
    let arguments = [&["verify", "--json"], arguments].concat();
    let output = cli.run(&arguments).expect_code(code);
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", output.everything()))
}

/// Returns the digests of the layers of an image in a bundle, and of one of its manifests.
pub(super) fn pieces(cli: &Cli, image: &str) -> (Vec<String>, String) {
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
    assert_eq!(
        (&checked["unreferencedBlobs"], &checked["unreferencedBytes"]),
        (&json!(0), &json!(0))
    );
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
fn blobs_that_nothing_refers_to_are_counted_and_are_no_fault() {
    let (cli, _registry) = exported();
    let bundle = Tar::open(&cli.path("b.tar"));
    let strays: [&[u8]; 2] = [b"left over", b"by another program"];
    let members = bundle.members.iter();
    let members = members.map(|member| (member.name.clone(), bundle.bytes(&member.name)));
    let strays = strays.map(|bytes| (blob_name(&sha256(bytes)), bytes.to_vec()));
    write_members(&cli.path("stray.tar"), members.chain(strays));
    unpack(&cli.path("stray.tar"), &cli.path("folder"));
    let said = "note: 2 blobs (27 bytes) belong to no image: nothing in the bundle refers to them";
    for path in ["stray.tar", "folder", "-"] {
        for flags in [&[][..], &["--json"]] {
            let arguments = [&["verify", path], flags].concat();
            let mut command = cli.command(&arguments);
            command.stdin(fs::File::open(cli.path("stray.tar")).unwrap());
            let shown = Output::new(&command.output().unwrap(), &arguments).expect_code(0);
            if flags.is_empty() {
                assert_eq!(shown.stderr.matches(said).count(), 1, "{}", shown.everything());
                assert!(
                    shown.stdout.contains("\nSOUND: ") || shown.stdout.starts_with("SOUND: "),
                    "{}",
                    shown.everything()
                );
                continue;
            }
            let found: Value = serde_json::from_str(&shown.stdout).unwrap();
            let checked = &found["checked"];
            let counted = (&checked["unreferencedBlobs"], &checked["unreferencedBytes"]);
            assert_eq!(counted, (&json!(2), &json!(27)), "{path}: {found}");
        }
    }
    // A damaged manifest hides what it refers to, so that nothing is said to be left over.
    bundle.flip(&blob_name(&pieces(&cli, "a/multi:1").1));
    let found = document(&cli, &["b.tar"], 5);
    assert_eq!(found["checked"]["unreferencedBlobs"], 0, "{found}");
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
fn a_config_that_is_no_json_is_named_as_the_blob_it_is() {
    let cli = cli();
    let config_type = "application/vnd.oci.image.config.v1+json";
    let broken = with_config(Style::Oci, config_type, "no JSON".into(), &[Layer::noise(1, 9)]);
    let good = small(Style::Oci, "linux/amd64", "good");
    write_layout(
        &cli.path("f.tar"),
        &[("q.io/a/broken:1", &broken), ("q.io/a/good:1", &good)],
    );
    let digest = sha256(b"no JSON");
    let place = Tar::open(&cli.path("f.tar"))
        .member(&blob_name(&digest))
        .unwrap()
        .offset;
    for deep in [&[][..], &["--deep"]] {
        let found = document(&cli, &[&["f.tar"], deep].concat(), 5);
        assert_eq!(found["faults"].as_array().unwrap().len(), 1, "{found}");
        let fault = &found["faults"][0];
        for (field, value) in [
            ("kind", json!("config")),
            ("member", json!(blob_name(&digest))),
            ("offset", json!(place)),
            ("digest", json!(digest)),
            ("images", json!(["q.io/a/broken:1"])),
        ] {
            assert_eq!(fault[field], value, "{field}: {found}");
        }
    }
    let shown = cli.run(&["verify", "f.tar"]).expect_code(5);
    let line = shown.stdout.lines().find(|line| line.starts_with("FAULT ")).unwrap();
    assert!(
        line.contains(&blob_name(&digest)) && line.contains("q.io/a/broken:1"),
        "{line}"
    );
}

#[test]
fn encrypted_layers_are_checked_as_they_are_and_counted() {
    let cli = cli();
    let diff_ids = json!([sha256(b"the content that only the key shows")]);
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let layer = Layer {
        media_type: Some("application/vnd.oci.image.layer.v1.tar+gzip+encrypted".to_owned()),
        ..Layer::noise(1, 500)
    };
    let bytes = sha256(&layer.bytes);
    let config_type = "application/vnd.oci.image.config.v1+json";
    let image = with_config(Style::Oci, config_type, config.to_string().into(), &[layer]);
    write_layout(&cli.path("f.tar"), &[("q.io/a/secret:1", &image)]);
    let found = document(&cli, &["f.tar", "--deep"], 0);
    let checked = &found["checked"];
    let layers = (&checked["layersUnpacked"], &checked["layersNotUnpacked"]);
    assert_eq!(layers, (&json!(0), &json!(1)), "{found}");
    assert_eq!(found["warnings"], json!(["1 layer was not unpacked: encrypted"]));
    let verdict = "SOUND: every blob matches its digest, and every image is complete; not unpacked: 1 layer; 1 warning";
    let shown = cli.succeed(&["verify", "f.tar", "--deep"]);
    assert_eq!(shown.lines().last(), Some(&verdict), "{}", shown.everything());
    // Its bytes have a digest as those of any layer.
    Tar::open(&cli.path("f.tar")).flip(&blob_name(&bytes));
    let found = document(&cli, &["f.tar", "--deep"], 5);
    assert_eq!(
        (&found["faults"][0]["kind"], &found["faults"][0]["digest"]),
        (&json!("damaged"), &json!(bytes))
    );
}

#[test]
fn an_unfinished_export_is_called_one_by_every_command_that_reads_it() {
    let (cli, registry) = exported();
    let names = ["b/one:1", "b/two:1"].map(|name| format!("{}/{name}", registry.host()));
    let (layers, _) = pieces(&cli, "b/two:1");
    registry.add_fault(When::path(&layers[1]), Action::error(404, "BLOB_UNKNOWN", "gone"));
    cli.run(&["export", &names[0], &names[1], "-o", "u.tar", "--no-cache"])
        .expect_code(1);
    let target = Double::new();
    let host = target.host();
    let said = "`u.tar.partial` is an export that is not finished: run it again, which completes the file";
    for arguments in [
        &["verify", "u.tar.partial"][..],
        &["verify", "u.tar.partial", "--json"],
        &["inspect", "u.tar.partial"],
        &["inspect", "u.tar.partial", "--json"],
        &["diff", "u.tar.partial", "b.tar"],
        &["diff", "b.tar", "u.tar.partial"],
        &["import", "u.tar.partial", "-d", &host],
        &["import", "u.tar.partial", "-d", &host, "--verify"],
    ] {
        let shown = cli.run(arguments).expect_code(5);
        assert_eq!(shown.everything().matches(said).count(), 1, "{}", shown.everything());
        // To copy the file again, or to fetch blobs for it, would not help.
        if arguments[0] == "verify" {
            assert!(!shown.stderr.contains("hint:"), "{}", shown.everything());
        }
    }
    assert!(target.requests().is_empty(), "{}", target.transcript());
    // Of a bundle with its final name nothing of that is said.
    cli.succeed(&["verify", "b.tar"]).hides(&["not finished"]);
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

#[test]
fn a_list_of_nothing_replaces_an_earlier_one_and_is_told() {
    let (cli, _registry) = exported();
    let (layer, _) = super::want::layer_and_manifest(&cli);
    let bundle = Tar::open(&cli.path("b.tar"));
    let sound = fs::read(cli.path("b.tar")).unwrap();
    let target = Double::new();
    let destination = format!("{}/m", target.host());
    let verify = &["verify", "b.tar", "--want", "w.txt"][..];
    for command in [verify, &["import", "b.tar", "-d", &destination, "--want", "w.txt"]] {
        bundle.flip(&blob_name(&layer));
        cli.run(verify).expect_code(5).hides(&["has no blob"]);
        fs::write(cli.path("b.tar"), &sound).unwrap();
        cli.succeed(command)
            .says(&["note: nothing has to be fetched again: the want-list `w.txt` has no blob"]);
        cli.succeed(&["export", "--want", "w.txt", "-o", "s.tar"])
            .says(&["nothing has to be fetched", "no supplement was written"]);
        assert!(!cli.path("s.tar").exists());
    }
    fs::write(cli.path("cut.tar"), "").unwrap();
    cli.run(&["verify", "cut.tar", "--want", "w.txt"])
        .expect_code(5)
        .says(&["note: nothing of what is wrong can be fetched"]);
}

#[test]
fn a_wrong_blob_that_no_image_uses_is_no_fault_beside_a_supplement() {
    let (cli, _registry) = exported();
    let bundle = Tar::open(&cli.path("b.tar"));
    let (layers, _) = pieces(&cli, "b/one:1");
    // The name of a member is damaged: its image lacks the blob, and nothing refers to the other name.
    let renamed = |name: &str| match name == blob_name(&layers[0]) {
        true => blob_name(&sha256(b"another blob")),
        false => name.to_owned(),
    };
    let members = bundle
        .members
        .iter()
        .map(|it| (renamed(&it.name), bundle.bytes(&it.name)));
    write_members(&cli.path("e.tar"), members.collect::<Vec<_>>());
    assert!(
        document(&cli, &["e.tar", "--want", "w.txt"], 5)["faults"]
            .as_array()
            .unwrap()
            .len()
            > 1
    );
    cli.succeed(&["export", "--want", "w.txt", "-o", "s.tar"]);
    let found = document(&cli, &["e.tar", "s.tar"], 0);
    assert_eq!(found["replaced"].as_array().unwrap().len(), 1, "{found}");
    let target = Double::new();
    cli.succeed(&["import", "e.tar", "s.tar", "-d", &target.host()]);
}
