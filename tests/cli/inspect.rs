//! The output of `inspect` and `diff` about bundles, without a registry.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use super::reports::Schema;
use super::support::image::Style;
use super::support::images::{helm_chart, nested, shared_base, small, with_foreign_layer};
use super::support::layout::{Tar, unpack, write_layout};
use super::support::{Action, Double, When, referrers};
use super::verify::exported_with;
use super::{cli, source};
use crate::support::Cli;
use crate::support::cli::Output;

fn exported() -> (Cli, Double) {
    exported_with(50_000)
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", output.everything()))
}

#[test]
fn inspect_shows_each_image_with_its_platforms_and_sizes() {
    let (cli, registry) = exported();
    let shown = cli.succeed(&["inspect", "b.tar", "--layers"]);
    let record = Tar::open(&cli.path("b.tar")).json("docker-mirror.json");
    let image = &record["images"][0];
    for text in [
        format!("{}/a/multi:1\n", registry.host()),
        format!("  digest     {}\n", image["filtered"].as_str().unwrap()),
        format!(
            "  original   {} (the index is filtered)\n",
            image["original"].as_str().unwrap()
        ),
        "  platforms  linux/amd64, linux/arm64/v8\n  dropped    windows/amd64\n".to_owned(),
        "of it shared with other images".to_owned(),
        "3 images, 4 platforms, 6 manifests".to_owned(),
        "storing each blob once saves 48.".to_owned(),
        "    layer  sha256:".to_owned(),
    ] {
        assert!(shown.stdout.contains(&text), "no `{text}` in:\n{}", shown.stdout);
    }
    let only = cli.succeed(&["inspect", "b.tar", "--only", "*/b/two:1"]);
    assert!(only.stdout.contains("1 image, 1 platform"), "{}", only.stdout);
    let arm = cli.succeed(&["inspect", "b.tar", "--platform", "linux/arm64"]);
    // The digest is that of the bundle, and nothing that is in the bundle counts as dropped.
    for text in [
        format!("  digest     {}\n", image["filtered"].as_str().unwrap()),
        "  platforms  linux/arm64/v8\n  dropped    windows/amd64\n".to_owned(),
    ] {
        assert!(arm.stdout.contains(&text), "no `{text}` in:\n{}", arm.stdout);
    }
    assert!(
        arm.stdout.contains("1 image, 1 platform"),
        "images without the platform are left away: {}",
        arm.stdout
    );
}

#[test]
fn the_document_has_every_digest_and_size() {
    let (cli, _registry) = exported();
    let document = json(&cli.succeed(&["inspect", "b.tar", "--json"]));
    assert_eq!(document["inspectVersion"], 1);
    let images = document["images"].as_array().unwrap();
    assert_eq!(images.len(), 3);
    let (multi, one) = (&images[0], &images[1]);
    assert_eq!(
        (multi["index"].as_str(), &multi["digest"]),
        (Some("filtered"), &multi["filtered"])
    );
    assert_eq!(multi["dropped"][0]["platform"], "windows/amd64");
    assert_eq!(multi["platforms"].as_array().unwrap().len(), 2);
    assert_eq!(multi["shared"], Value::Null);
    assert_eq!(multi["sharedBytes"], 0);
    assert!(one["sharedBytes"].as_u64().unwrap() >= 50_000);
    // All that the bundle has is accounted for.
    let bundle = Tar::open(&cli.path("b.tar"));
    let blobs = bundle.members.iter().filter(|member| member.name.starts_with("blobs/"));
    let total = &document["total"];
    assert_eq!(
        total["bytes"].as_u64().unwrap(),
        blobs.clone().map(|member| member.size).sum::<u64>()
    );
    let pieces = total["blobs"].as_u64().unwrap() + total["manifests"].as_u64().unwrap();
    assert_eq!(pieces, blobs.count() as u64);
    assert_eq!(total["unreferencedBlobs"], 0);
    let separate: u64 = images.iter().map(|image| image["bytes"].as_u64().unwrap()).sum();
    assert_eq!(total["separateBytes"].as_u64().unwrap(), separate);
}

#[test]
fn every_form_of_a_bundle_says_the_same() {
    let (cli, _registry) = exported();
    let without_place = |output: Output| {
        let mut document = json(&output);
        for image in document["images"].as_array_mut().unwrap() {
            image["archive"] = Value::Null;
        }
        document
    };
    let expected = without_place(cli.succeed(&["inspect", "b.tar", "--json"]));
    unpack(&cli.path("b.tar"), &cli.path("folder"));
    let bytes = fs::read(cli.path("b.tar")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    fs::write(cli.path("b.tar.gz"), gzip.finish().unwrap()).unwrap();
    for path in ["folder", "b.tar.gz"] {
        assert_eq!(
            without_place(cli.succeed(&["inspect", path, "--json"])),
            expected,
            "{path}"
        );
    }
    // Only the front of a pipe, or of a file that is compressed as a whole, is read, and nothing is written.
    assert_eq!(cli.files(), ["b.tar", "b.tar.gz", "folder"]);
    let mut child = cli
        .command(&["inspect", "-", "--json"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(&bytes);
    let piped = Output::new(&child.wait_with_output().unwrap(), &["inspect", "-"]).expect_code(0);
    assert_eq!(without_place(piped), expected);
}

#[test]
fn what_cannot_be_used_is_shown_with_the_reason() {
    let (cli, _registry) = exported();
    let bundle = Tar::open(&cli.path("b.tar"));
    let document = json(&cli.succeed(&["inspect", "b.tar", "--json"]));
    let layer = document["images"][2]["platforms"][0]["layers"][1]["digest"]
        .as_str()
        .unwrap();
    bundle.without(&super::support::layout::blob_name(layer), &cli.path("cut.tar"));
    let shown = cli
        .run(&["inspect", "cut.tar"])
        .expect_code(5)
        .says(&["b/two:1", layer, "missing"]);
    assert!(shown.stdout.contains("2 images"), "{}", shown.everything());
    let document = json(&cli.run(&["inspect", "cut.tar", "--json"]).expect_code(5));
    assert!(document["broken"][0]["image"].as_str().unwrap().ends_with("b/two:1"));
    std::fs::write(cli.path("text.tar"), "no archive").unwrap();
    let document = json(&cli.run(&["inspect", "text.tar", "--json"]));
    assert_eq!(document["broken"].as_array().unwrap().len(), 1, "{document}");
    // Of what is not there nothing is said but that.
    std::fs::create_dir(cli.path("empty")).unwrap();
    for arguments in [
        &["inspect", "absent.tar"][..],
        &["inspect", "b.tar", "absent.tar"],
        &["inspect", "empty"],
    ] {
        let refused = cli.run(arguments).expect_code(2);
        assert_eq!(refused.stdout, "", "{}", refused.everything());
    }
}

#[test]
fn foreign_archives_are_shown_too() {
    let cli = cli();
    let image = nested();
    write_layout(
        &cli.path("f.tar"),
        &[("quay.io/a/nested:1", &image), ("quay.io/a/same:1", &image)],
    );
    let document = json(&cli.succeed(&["inspect", "f.tar", "--json"]));
    assert_eq!(document["total"]["images"], 2);
    assert_eq!(document["images"][0]["digest"], document["images"][1]["digest"]);
    // Two names of one image share nothing with another image.
    assert_eq!(document["images"][0]["sharedBytes"], 0);
    assert_eq!(document["images"][0]["indexes"].as_array().unwrap().len(), 3);
}

#[test]
fn a_reader_learns_what_was_not_read_and_what_an_artifact_is() {
    let (cli, _registry) = exported();
    let shown = cli.succeed(&["inspect", "b.tar", "--html", "page.html"]);
    let shown = shown.says(&["no layer was read", "docker-mirror verify b.tar", "SHA-256"]);
    assert!(!shown.stdout.contains("no layer was read"), "{}", shown.stdout);
    let size = fs::metadata(cli.path("b.tar")).unwrap().len();
    let page = fs::read_to_string(cli.path("page.html")).unwrap();
    for text in [
        format!("<span class=\"name\">b.tar</span> ({size} bytes)"),
        "layers were not read".to_owned(),
        format!("Made by docker-mirror {}", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(page.contains(&text), "no `{text}`");
    }
    cli.run(&["inspect", "b.tar", "--platform", "linux/s390x"])
        .expect_code(1)
        .says(&["linux/s390x", "linux/amd64"]);
    write_layout(&cli.path("chart.tar"), &[("quay.io/a/chart:1", &helm_chart())]);
    let shown = cli.succeed(&["inspect", "chart.tar", "--html", "chart.html"]);
    let artifact = "artifact application/vnd.cncf.helm.config.v1+json";
    assert!(
        shown.stdout.contains(&format!("  platforms  {artifact}\n")),
        "{}",
        shown.stdout
    );
    assert!(fs::read_to_string(cli.path("chart.html")).unwrap().contains(artifact));
}

#[test]
fn a_script_can_tell_a_difference_from_a_side_that_cannot_be_compared() {
    let (cli, _registry) = exported();
    write_layout(
        &cli.path("nameless.tar"),
        &[("1.27", &small(Style::Oci, "linux/amd64", "x"))],
    );
    let hint = "docker-mirror inspect nameless.tar --name REPOSITORY:TAG --lock nameless.tar.lock";
    cli.run(&["diff", "nameless.tar", "b.tar"]).expect_code(1).says(&[hint]);
    cli.run(&["diff", "nameless.tar", "b.tar", "--exit-code"])
        .expect_code(2);
    cli.run(&["inspect", "nameless.tar", "--lock", "x.lock"])
        .expect_code(2)
        .says(&["error: the lock was not written"]);
    let lock = "n.lock";
    cli.succeed(&["inspect", "nameless.tar", "--name", "quay.io/a/b:1", "--lock", lock]);
    cli.run(&["diff", lock, "b.tar", "--exit-code"]).expect_code(1);
}

#[test]
fn diff_says_what_came_went_and_moved() {
    let (cli, registry) = exported();
    small(Style::Oci, "linux/amd64", "new").push(&registry, "a/new", "1");
    let moved = shared_base(3, 50_000).remove(2);
    moved.push(&registry, "b/two", "1");
    let names = ["a/multi:1", "a/new:1", "b/two:1"].map(|name| format!("{}/{name}", registry.host()));
    let all = ["--platform", "all", "-o", "new.tar"];
    cli.succeed(&[&["export", &names[0], &names[1], &names[2]], &all[..]].concat());
    let shown = cli.succeed(&["diff", "b.tar", "new.tar"]);
    for text in [
        format!("+ {} sha256:", names[1]),
        format!("- {}/b/one:1 sha256:", registry.host()),
        format!("~ {} sha256:", names[2]),
        "    platforms added: windows/amd64\n".to_owned(),
        "1 image added, 1 removed, 2 changed, 0 unchanged\n".to_owned(),
    ] {
        assert!(shown.stdout.contains(&text), "no `{text}` in:\n{}", shown.stdout);
    }
    let document = json(
        &cli.run(&["diff", "b.tar", "new.tar", "--json", "--exit-code"])
            .expect_code(1),
    );
    assert_eq!(document["diffVersion"], 1);
    let tags: Vec<bool> = document["changed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["moved"] == true)
        .collect();
    assert_eq!(tags, [true, true]);
    // A lock stands for its bundle, and so does a folder.
    cli.succeed(&["inspect", "b.tar", "--lock", "b.lock"]);
    unpack(&cli.path("b.tar"), &cli.path("folder"));
    for (old, new) in [
        ("b.tar", "b.lock"),
        ("b.lock", "b.tar"),
        ("folder", "b.lock"),
        ("b.tar", "b.tar"),
    ] {
        let same = cli.succeed(&["diff", old, new, "--exit-code"]);
        assert!(
            same.stdout
                .starts_with("0 images added, 0 removed, 0 changed, 3 unchanged\n"),
            "{}",
            same.everything()
        );
    }
    // A damaged image of one side was neither added nor removed, and about a file that is no bundle only that is
    // reported.
    let held = json(&cli.succeed(&["inspect", "b.tar", "--json"]));
    let layer = held["images"][1]["platforms"][0]["layers"][1]["digest"]
        .as_str()
        .unwrap();
    Tar::open(&cli.path("b.tar")).without(&super::support::layout::blob_name(layer), &cli.path("cut.tar"));
    for (old, new) in [("b.tar", "cut.tar"), ("cut.tar", "b.lock")] {
        let shown = cli
            .run(&["diff", old, new])
            .expect_code(5)
            .says(&["b/one:1", "missing"]);
        let totals =
            "0 images added, 0 removed, 0 changed, 2 unchanged\n0 blobs (0 bytes) came, 0 blobs (0 bytes) went, ";
        assert!(shown.stdout.starts_with(totals), "{}", shown.everything());
    }
    fs::write(cli.path("text.tar"), "no archive").unwrap();
    for (old, new) in [("b.tar", "text.tar"), ("text.tar", "b.lock")] {
        let refused = cli.run(&["diff", old, new]).expect_code(5).says(&["text.tar"]);
        assert_eq!(refused.stdout, "", "{}", refused.everything());
    }
    let by_lock = json(&cli.succeed(&["diff", "b.lock", "new.tar", "--json"]));
    assert_eq!(by_lock, document);
    cli.run(&["diff", "b.tar", "absent.tar"])
        .expect_code(2)
        .says(&["absent.tar", "does not exist"]);
    cli.run(&["diff", "-", "-"]).expect_code(2).says(&["only one side"]);
}

#[test]
fn a_verbose_import_says_what_bundles_hold_before_the_first_request() {
    let (cli, registry) = exported();
    let closed = Double::new();
    closed.add_fault(When::any(), Action::error(403, "DENIED", "no"));
    let shown = cli.run(&["import", "-v", "b.tar", "-d", &closed.host()]).expect_code(3);
    let refused = shown.stderr.find("DENIED").unwrap();
    for text in [
        "/a/multi:1 sha256:",
        ": linux/amd64, linux/arm64/v8; 2 layers, ",
        "/b/one:1 sha256:",
        ": linux/amd64; 2 layers, ",
    ] {
        let at = shown
            .stderr
            .find(text)
            .unwrap_or_else(|| panic!("no `{text}`: {}", shown.everything()));
        assert!(at < refused, "`{text}` comes late: {}", shown.everything());
    }
    drop(registry);
}

#[test]
fn archives_of_other_programs_and_pipes_are_compared_too() {
    let cli = cli();
    let (one, two) = (
        small(Style::Oci, "linux/amd64", "one"),
        small(Style::Oci, "linux/amd64", "two"),
    );
    write_layout(
        &cli.path("old.tar"),
        &[("quay.io/a/moved:1", &one), ("quay.io/a/same:1", &one)],
    );
    write_layout(
        &cli.path("new.tar"),
        &[("quay.io/a/moved:1", &two), ("quay.io/a/same:1", &one)],
    );
    cli.succeed(&["inspect", "old.tar", "--lock", "old.lock"]);
    for (old, input) in [("old.tar", None), ("old.lock", None), ("-", Some("old.tar"))] {
        let mut command = cli.command(&["diff", old, "new.tar", "--exit-code"]);
        if let Some(name) = input {
            command.stdin(fs::File::open(cli.path(name)).unwrap());
        }
        let shown = Output::new(&command.output().unwrap(), &["diff", old]).expect_code(1);
        let moved = format!("~ quay.io/a/moved:1 {} -> {}\n", one.digest(), two.digest());
        assert!(shown.stdout.starts_with(&moved), "{}", shown.everything());
        assert!(
            shown
                .stdout
                .contains("0 images added, 0 removed, 1 changed, 1 unchanged"),
            "{}",
            shown.stdout
        );
    }
}

/// The names of all fields of a document.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                fields(value, found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_of_the_documents_is_described() {
    let (cli, registry) = exported();
    let signed = small(Style::Oci, "linux/amd64", "signed");
    signed.push(&registry, "a/signed", "1");
    referrers::refer(&registry, "a/signed", &signed.root, referrers::BUNDLE, "signature");
    with_foreign_layer().push(&registry, "a/foreign", "1");
    let names =
        ["a/signed:1", "a/foreign:1", "a/multi:1", "a/absent:1"].map(|name| format!("{}/{name}", registry.host()));
    let export = [
        "export",
        &names[0],
        &names[1],
        &names[2],
        &names[3],
        "-o",
        "n.tar",
        "--allow-partial",
    ];
    cli.run(&export).expect_code(6);
    let shown = cli.succeed(&["inspect", "n.tar", "--layers"]);
    assert!(shown.stdout.contains("  referrer   sha256:"), "{}", shown.stdout);
    assert!(
        shown.stdout.contains(&format!("  {} sha256:", referrers::BUNDLE)),
        "{}",
        shown.stdout
    );
    fs::copy(cli.path("b.tar"), cli.path("sound.tar")).unwrap();
    let bundle = Tar::open(&cli.path("b.tar"));
    let mut blobs = bundle.members.iter().filter(|member| member.name.starts_with("blobs/"));
    blobs.by_ref().take(3).for_each(|blob| bundle.flip(&blob.name));
    blobs.take(1).for_each(|blob| bundle.flip_header(&blob.name));
    let (mut found, schema) = (BTreeSet::new(), Schema::named("inspect.schema.json"));
    for arguments in [
        &["inspect", "n.tar", "--json"][..],
        &["inspect", "b.tar", "--json"],
        &["verify", "b.tar", "n.tar", "--deep", "--json"],
        &["diff", "sound.tar", "n.tar", "--json"],
        &["diff", "n.tar", "sound.tar", "--json"],
    ] {
        let output = cli.run(arguments);
        assert!(output.code != Some(2), "{}", output.everything());
        let document = json(&output);
        assert_eq!(schema.check_as(arguments[0], &document), [""; 0], "{document:#}");
        fields(&document, &mut found);
    }
    cli.succeed(&["inspect", "n.tar", "--lock", "n.lock"]);
    fields(
        &serde_json::from_slice(&fs::read(cli.path("n.lock")).unwrap()).unwrap(),
        &mut found,
    );
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/inspect.md")).unwrap();
    let words: BTreeSet<&str> = guide.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let untold: Vec<&String> = found.iter().filter(|name| !words.contains(name.as_str())).collect();
    assert!(found.len() > 40 && untold.is_empty(), "{untold:?} of {found:?}");
}

#[test]
fn files_that_are_no_locks_or_pages_are_not_replaced() {
    let (cli, registry) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", registry.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    let before = fs::read(cli.path("b.tar")).unwrap();
    for (flag, file) in [
        ("--lock", "b.tar"),
        ("--html", "b.tar"),
        ("--lock", "."),
        ("--html", "no/folder"),
        ("--lock", "-"),
    ] {
        cli.run(&["inspect", "b.tar", flag, file])
            .expect_code(2)
            .says(&[flag, file]);
    }
    cli.run(&["verify", "b.tar", "--want", "b.tar"])
        .expect_code(2)
        .says(&["is no want-list"]);
    assert_eq!(fs::read(cli.path("b.tar")).unwrap(), before);
    // An earlier one is.
    for _ in 0..2 {
        cli.succeed(&["inspect", "b.tar", "--lock", "l.json", "--html", "p.html"]);
    }
    assert_eq!(cli.files(), ["b.tar", "l.json", "p.html"]);
}

#[test]
fn a_lock_has_all_platforms_of_the_bundle() {
    let (cli, _registry) = exported();
    cli.run(&["inspect", "b.tar", "--platform", "linux/amd64", "--lock", "b.lock"])
        .expect_code(2)
        .says(&["--lock", "--platform"]);
    assert!(!cli.path("b.lock").exists());
}
