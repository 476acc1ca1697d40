//! The want-list and the lock: repairing a damaged bundle costs only the bytes of its damaged blobs, and an export can
//! be repeated exactly.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use docker_mirror::human_bytes;
use serde_json::Value;

use super::cli;
use super::support::image::Style;
use super::support::images::{linux_and_windows, nested, shared_base, sized};
use super::support::layout::{Tar, blob_name};
use super::support::{Action, Allowance, Double, When};
use crate::support::Cli;
use crate::support::cli::{Output, wait_until};

fn exported() -> (Cli, Double) {
    let (cli, registry) = (cli(), Double::new());
    linux_and_windows(Style::Oci).push(&registry, "a/multi", "1");
    nested().push(&registry, "a/nested", "1");
    let [one, two] = &shared_base(2, 200_000)[..] else {
        panic!()
    };
    one.push(&registry, "b/one", "1");
    two.push(&registry, "b/two", "1");
    let names = ["a/multi:1", "a/nested:1", "b/one:1", "b/two:1"].map(|name| format!("{}/{name}", registry.host()));
    cli.succeed(&[
        "export",
        &names[0],
        &names[1],
        &names[2],
        &names[3],
        "-o",
        "b.tar",
        "--no-cache",
    ]);
    (cli, registry)
}

/// A layer and a manifest of the images.
pub(super) fn layer_and_manifest(cli: &Cli) -> (String, String) {
    let document: Value = serde_json::from_str(&cli.succeed(&["inspect", "b.tar", "--json"]).stdout).unwrap();
    let digest = |value: &Value| value["digest"].as_str().unwrap().to_owned();
    let layer = digest(&document["images"][2]["platforms"][0]["layers"][0]);
    (layer, digest(&document["images"][0]["platforms"][0]["manifest"]))
}

#[test]
fn a_damaged_bundle_costs_the_bytes_of_its_bad_blobs() {
    let (cli, registry) = exported();
    let (layer, manifest) = layer_and_manifest(&cli);
    let good = fs::read(cli.path("b.tar")).unwrap();
    let bundle = Tar::open(&cli.path("b.tar"));
    bundle.flip(&blob_name(&layer));
    bundle.flip(&blob_name(&manifest));
    cli.run(&["verify", "b.tar", "--want", "w.txt"]).expect_code(5);
    registry.forget_requests();
    let length = |name: &str| fs::metadata(cli.path(name)).unwrap().len();
    let written = cli.succeed(&["export", "--want", "w.txt", "-o", "s.tar", "--no-cache"]);
    let size = human_bytes(length("s.tar"));
    let sum = super::support::sha256(&fs::read(cli.path("s.tar")).unwrap());
    written.says(&[&format!("wrote s.tar: a supplement with 2 blobs, {size}, {sum}")]);
    let fetched: u64 = ["layer", "manifest"]
        .iter()
        .zip([&layer, &manifest])
        .map(|(_, digest)| bundle.member(&blob_name(digest)).unwrap().size)
        .sum();
    let supplement = Tar::open(&cli.path("s.tar"));
    let blobs = supplement
        .members
        .iter()
        .filter(|member| member.name.starts_with("blobs/"));
    assert_eq!(blobs.clone().count(), 2);
    assert_eq!(blobs.map(|member| member.size).sum::<u64>(), fetched);
    let gets = registry
        .requests()
        .iter()
        .filter(|request| request.method == "GET" && request.path.contains("/blobs/"))
        .count();
    assert!(gets <= 2, "{gets} blobs were fetched");
    // Together they are sound, whichever comes first.
    for order in [["b.tar", "s.tar"], ["s.tar", "b.tar"]] {
        let together = cli.succeed(&["verify", order[0], order[1]]);
        assert!(!together.everything().contains("warning"), "{}", together.everything());
        let target = Double::new();
        let destination = format!("{}/m", target.host());
        let imported = cli.succeed(&[
            "import",
            order[0],
            order[1],
            "-d",
            &destination,
            "--verify",
            "--want",
            "left.txt",
        ]);
        assert_eq!(imported.lines().len(), 4, "{}", imported.everything());
        assert!(
            fs::read_to_string(cli.path("left.txt"))
                .unwrap()
                .starts_with("docker-mirror want-list 1: 0 blobs\n")
        );
    }
    // On its own, a supplement cannot be imported. A second export gives the same bytes, and an earlier bundle can
    // replace the registry.
    cli.run(&["import", "s.tar", "-d", "127.0.0.1:1/m"])
        .expect_code(2)
        .says(&["complete a damaged bundle"]);
    cli.run(&["diff", "s.tar", "s.tar"])
        .expect_code(2)
        .says(&["supplement"]);
    let shown = cli.succeed(&["inspect", "s.tar"]);
    let words = ["a supplement", &layer, &manifest];
    assert!(
        words.iter().all(|words| shown.stdout.contains(words)),
        "{}",
        shown.stdout
    );
    let shown: Value = serde_json::from_str(&cli.succeed(&["inspect", "s.tar", "--json"]).stdout).unwrap();
    assert_eq!(shown["supplement"], true);
    assert_eq!(shown["broken"].as_array().map(Vec::len), Some(0));
    fs::write(cli.path("good.tar"), &good).unwrap();
    registry.forget_requests();
    cli.succeed(&["export", "--want", "w.txt", "-o", "t.tar", "--reuse", "good.tar"]);
    assert!(
        registry
            .requests()
            .iter()
            .all(|request| request.method != "GET" || !request.path.contains("/blobs/"))
    );
    assert!(fs::read(cli.path("s.tar")).unwrap() == fs::read(cli.path("t.tar")).unwrap());
}

#[test]
fn a_damaged_filtered_index_is_made_again_from_the_original() {
    let (cli, _registry) = exported();
    let bundle = Tar::open(&cli.path("b.tar"));
    let target = Double::new();
    cli.succeed(&["import", "b.tar", "-d", &format!("{}/m", target.host())]);
    let record = bundle.json("docker-mirror.json");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let records = record["images"].as_array().unwrap().iter();
    let filtered: Vec<String> = records.filter_map(|image| text(&image["filtered"])).collect();
    assert_eq!(filtered.len(), 2, "{record}");
    // An index that was left out, or whose bytes are wrong, costs nothing.
    bundle.without(&blob_name(&filtered[0]), &cli.path("less.tar"));
    filtered.iter().for_each(|digest| bundle.flip(&blob_name(digest)));
    for path in ["less.tar", "b.tar"] {
        let found = cli.succeed(&["verify", path, "--json"]).stdout;
        let found: Value = serde_json::from_str(&found).unwrap();
        let replaced = found["replaced"].as_array().unwrap().iter();
        let replaced: Vec<&str> = replaced.filter_map(|fault| fault["digest"].as_str()).collect();
        assert!(replaced.contains(&filtered[0].as_str()), "{found}");
        assert_eq!(found["wanted"].as_array().map(Vec::len), Some(0), "{found}");
        cli.succeed(&["verify", path])
            .says(&["made again from the original index"]);
        let again = Double::new();
        cli.succeed(&["import", path, "-d", &format!("{}/m", again.host())]);
        for name in ["m/a/multi", "m/a/nested"] {
            assert!(again.manifest(name, "1").is_some(), "{path}");
            assert_eq!(again.manifest(name, "1"), target.manifest(name, "1"), "{path}");
        }
    }
    // Without the original there is nothing to make it from; the want-list has only what a registry has.
    let original = record["images"][0]["original"].as_str().unwrap();
    bundle.flip(&blob_name(original));
    cli.run(&["verify", "b.tar", "--want", "w.txt"])
        .expect_code(5)
        .says(&["no registry has it", "export --want w.txt"]);
    let list = fs::read_to_string(cli.path("w.txt")).unwrap();
    assert!(list.contains(original) && !list.contains(&filtered[0]), "{list}");
    cli.succeed(&["export", "--want", "w.txt", "-o", "s.tar", "--no-cache"]);
    cli.succeed(&["verify", "b.tar", "s.tar"]);
}

#[test]
fn a_bundle_that_is_cut_near_its_front_says_that_more_is_missing() {
    let (cli, _registry) = exported();
    let bundle = Tar::open(&cli.path("b.tar"));
    let first = bundle
        .members
        .iter()
        .find(|member| member.name.starts_with("blobs/"))
        .unwrap();
    let bytes = fs::read(cli.path("b.tar")).unwrap();
    fs::write(cli.path("cut.tar"), &bytes[..first.offset as usize - 512]).unwrap();
    let found = cli.run(&["verify", "cut.tar"]).expect_code(5);
    let found = found.says(&["copy the file again"]);
    assert!(
        found
            .stdout
            .contains("is unknown and may be damaged or missing as well"),
        "{}",
        found.stdout
    );
    let target = Double::new();
    let destination = format!("{}/m", target.host());
    cli.run(&["import", "cut.tar", "-d", &destination])
        .expect_code(5)
        .says(&["docker-mirror verify cut.tar --want"]);
}

#[test]
fn a_broken_header_costs_the_bytes_of_its_blob() {
    let (cli, registry) = exported();
    let document: Value = serde_json::from_str(&cli.succeed(&["inspect", "b.tar", "--json"]).stdout).unwrap();
    let layer = |image: usize, layer: usize| {
        let layer = &document["images"][image]["platforms"][0]["layers"][layer]["digest"];
        layer.as_str().unwrap().to_owned()
    };
    // The header of a layer that two images share, the header of another layer, and a byte of a third: all three faults
    // are found.
    let (shared, own, flipped) = (layer(2, 0), layer(2, 1), layer(3, 1));
    let bundle = Tar::open(&cli.path("b.tar"));
    bundle.flip_header(&blob_name(&shared));
    bundle.flip_header(&blob_name(&own));
    bundle.flip(&blob_name(&flipped));
    let bytes = fs::read(cli.path("b.tar")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    fs::write(cli.path("b.tar.gz"), gzip.finish().unwrap()).unwrap();
    let mut wanted = Vec::new();
    for (path, input) in [("b.tar", None), ("b.tar.gz", None), ("-", Some(&bytes))] {
        let mut command = cli.command(&["verify", path, "--json"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let _ = input.map(|bytes| stdin.write_all(bytes));
        drop(stdin);
        let found = Output::new(&child.wait_with_output().unwrap(), &["verify", path]).expect_code(5);
        let found: Value = serde_json::from_str(&found.stdout).unwrap();
        let faults: Vec<String> = found["faults"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fault| match fault["kind"].as_str().unwrap() {
                "tar" => format!("tar {}", fault["offset"]),
                kind => format!("{kind} {}", fault["digest"].as_str().unwrap()),
            })
            .collect();
        let header = |digest: &str| bundle.member(&blob_name(digest)).unwrap().offset - 512;
        let mut expected = vec![
            format!("tar {}", header(&shared)),
            format!("tar {}", header(&own)),
            format!("damaged {flipped}"),
            format!("missing {shared}"),
            format!("missing {own}"),
        ];
        expected.sort();
        let mut sorted = faults.clone();
        sorted.sort();
        assert_eq!(sorted, expected, "{path}: {found}");
        assert_eq!(found["files"][0]["sha256"].as_str().map(str::len), Some(64), "{path}");
        wanted.push(found["wanted"].clone());
    }
    assert!(
        wanted
            .iter()
            .all(|list| *list == wanted[0] && list.as_array().unwrap().len() == 3)
    );
    // By itself it is refused, at the first fault.
    let target = Double::new();
    let destination = format!("{}/m", target.host());
    cli.run(&["import", "b.tar", "-d", &destination])
        .expect_code(5)
        .says(&["checksum", "at offset"]);
    assert_eq!(target.requests().len(), 0);
    cli.run(&["verify", "b.tar", "--want", "w.txt"]).expect_code(5);
    registry.forget_requests();
    cli.succeed(&["export", "--want", "w.txt", "-o", "s.tar", "--no-cache"]);
    // A bundle that a supplement completes is sound: `verify` accepts what `import` accepts.
    let found = cli.succeed(&["verify", "b.tar", "s.tar", "--json"]).stdout;
    let found: Value = serde_json::from_str(&found).unwrap();
    let kinds = found["replaced"].as_array().unwrap().iter().map(|fault| &fault["kind"]);
    assert_eq!(kinds.filter(|kind| *kind == "tar").count(), 2, "{found}");
    cli.succeed(&["verify", "s.tar", "b.tar"])
        .says(&["note: ", "together with the supplement nothing is missing"]);
    let destination = format!("{}/m", target.host());
    cli.succeed(&["import", "b.tar", "s.tar", "-d", &destination, "--verify"]);
    for order in [["b.tar", "s.tar"], ["s.tar", "b.tar"]] {
        let target = Double::new();
        let destination = format!("{}/m", target.host());
        let done = cli.succeed(&["import", order[0], order[1], "-d", &destination]);
        assert_eq!(done.lines().len(), 4, "{}", done.everything());
        done.says(&["checksum", "the rest of the archive is read anyway"]);
    }
}

#[test]
fn a_supplement_that_was_interrupted_goes_on_inside_a_blob() {
    const SIZE: usize = 9 << 20;
    let (cli, registry) = (cli(), Double::new());
    sized(1, "linux/amd64", &[SIZE, 5000]).push(&registry, "a/large", "1");
    let name = format!("{}/a/large:1", registry.host());
    cli.succeed(&["export", &name, "-o", "b.tar", "--no-cache"]);
    let bundle = Tar::open(&cli.path("b.tar"));
    let layers = bundle.members.iter().filter(|member| member.size >= 5000);
    layers.for_each(|layer| bundle.flip(&layer.name));
    cli.run(&["verify", "b.tar", "--want", "w.txt"]).expect_code(5);
    let export = ["export", "--want", "w.txt", "-o", "s.tar", "--no-cache", "-j", "1"];
    cli.succeed(&export);
    let expected = fs::read(cli.path("s.tar")).unwrap();
    fs::remove_file(cli.path("s.tar")).unwrap();
    let allowance = Allowance::new(6 << 20);
    registry.add_fault(When::get("/blobs/"), Action::Allow(allowance.clone()));
    let mut child = cli.spawn(&export);
    let is_kept = || fs::read(cli.path("s.tar.partial")).is_ok_and(|bytes| bytes.len() > 5 << 20);
    wait_until("most of the allowance is written", || allowance.is_spent() && is_kept());
    child.kill().unwrap();
    child.wait().unwrap();
    registry.clear_faults();
    registry.forget_requests();
    cli.succeed(&export);
    assert!(fs::read(cli.path("s.tar")).unwrap() == expected, "the bytes differ");
    let ranges = registry.requests_of("GET", "/blobs/");
    assert!(
        ranges.iter().any(|request| !request.header("range").is_empty()),
        "{}",
        registry.transcript()
    );
    assert_eq!(cli.files(), ["b.tar", "s.tar", "w.txt"]);
    // A file that is complete is not replaced.
    cli.run(&export).expect_code(2).says(&["s.tar", "--force"]);
}

#[test]
fn an_import_that_fails_says_what_is_wanted() {
    let (cli, _registry) = exported();
    let (layer, _) = layer_and_manifest(&cli);
    Tar::open(&cli.path("b.tar")).flip(&blob_name(&layer));
    let target = Double::new();
    let destination = format!("{}/m", target.host());
    cli.run(&["import", "b.tar", "-d", &destination, "--want", "w.txt"])
        .expect_code(5)
        .says(&["export --want w.txt"]);
    let target = Double::new();
    cli.run(&["import", "b.tar", "-d", &format!("{}/m", target.host())])
        .expect_code(5)
        .says(&["docker-mirror verify b.tar --want"]);
    assert!(fs::read_to_string(cli.path("w.txt")).unwrap().contains(&layer));
    let target = Double::new();
    let destination = format!("{}/m", target.host());
    cli.run(&["import", "b.tar", "-d", &destination, "--verify"])
        .expect_code(5)
        .says(&["DAMAGED", &layer]);
    assert_eq!(target.requests().len(), 0, "nothing is sent of what is damaged");
    cli.run(&["import", "-", "-d", &destination, "--verify"])
        .expect_code(2)
        .says(&["can be read once"]);
}

#[test]
fn a_want_list_that_is_wrong_is_refused_with_the_line() {
    let (cli, registry) = exported();
    let (layer, _) = layer_and_manifest(&cli);
    let bundle = Tar::open(&cli.path("b.tar"));
    bundle.flip(&blob_name(&layer));
    cli.run(&["verify", "b.tar", "--want", "w.txt"]).expect_code(5);
    let text = fs::read_to_string(cli.path("w.txt")).unwrap();
    // In whatever encoding a person's editor saves it.
    let encoded: Vec<u8> = format!("\u{feff}{}", text.replace('\n', "\r\n"))
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    fs::write(cli.path("typed.txt"), encoded).unwrap();
    cli.succeed(&["export", "--want", "typed.txt", "-o", "typed.tar"]);
    fs::write(cli.path("bad.txt"), [0xff, 0xff, 0xfe]).unwrap();
    cli.run(&["export", "--want", "bad.txt", "-o", "s.tar"])
        .expect_code(2)
        .says(&["`bad.txt` is not text"]);
    for (content, words) in [
        (
            text.replace("want-list 1", "want-list 7"),
            &["line 1", "version `7`"][..],
        ),
        (
            text.lines().take(2).collect::<Vec<_>>().join("\n"),
            &["line 2", "cut off"],
        ),
        // One of sixteen changed lines has the right digit by chance.
        (text.replace("b/one", "b/two"), &["changed or mistyped"]),
        ("hello\n".to_owned(), &["line 1", "no want-list"]),
        (String::new(), &["line 1", "empty"]),
    ] {
        fs::write(cli.path("bad.txt"), content).unwrap();
        cli.run(&["export", "--want", "bad.txt", "-o", "s.tar"])
            .expect_code(2)
            .says(&["bad.txt"])
            .says(words);
    }
    registry.add_fault(When::path(&layer), Action::error(404, "BLOB_UNKNOWN", "gone"));
    cli.run(&["export", "--want", "w.txt", "-o", "s.tar"])
        .expect_code(1)
        .says(&["line 2", "no longer has", &layer]);
    assert!(
        !cli.files().iter().any(|name| name.starts_with("s.tar")),
        "{:?}",
        cli.files()
    );
    cli.run(&["export", "--want", "w.txt", "hello", "-o", "s.tar"])
        .expect_code(2);
    // A list of one blob that is gone has nothing else to fetch.
    cli.run(&["export", "--want", "w.txt", "-o", "s.tar", "--allow-partial"])
        .expect_code(1)
        .says(&["line 2", "no longer has"]);
}

#[test]
fn what_is_gone_is_left_out_of_a_supplement_only_if_that_is_allowed() {
    let (cli, registry) = exported();
    let (layer, manifest) = layer_and_manifest(&cli);
    let bundle = Tar::open(&cli.path("b.tar"));
    for digest in [&layer, &manifest] {
        bundle.flip(&blob_name(digest));
    }
    cli.run(&["verify", "b.tar", "--want", "w.txt"]).expect_code(5);
    let listed = fs::read_to_string(cli.path("w.txt")).unwrap();
    let count = listed.lines().count() - 2;
    assert!(count >= 2, "{listed}");
    registry.add_fault(When::path(&layer), Action::error(404, "BLOB_UNKNOWN", "gone"));
    for output in ["s.tar", "s.tar.gz"] {
        cli.run(&["export", "--want", "w.txt", "-o", output])
            .expect_code(1)
            .says(&["no longer has", "--allow-partial"]);
        let fetched = match count - 1 {
            1 => "1 blob".to_owned(),
            fetched => format!("{fetched} blobs"),
        };
        cli.run(&["export", "--want", "w.txt", "-o", output, "--allow-partial"])
            .expect_code(6)
            .says(&[
                "warning: ",
                "no longer has",
                &layer,
                &format!("a supplement with {fetched} of {count}"),
            ]);
    }
    let written = Tar::open(&cli.path("s.tar"));
    assert!(written.members.iter().any(|member| member.name == blob_name(&manifest)));
    assert!(!written.members.iter().any(|member| member.name == blob_name(&layer)));
    // Once the blob is back, the same list makes the whole supplement.
    registry.clear_faults();
    cli.succeed(&["export", "--want", "w.txt", "-o", "s.tar", "--force"]);
    cli.succeed(&["verify", "b.tar", "s.tar"]);
}

#[test]
fn the_record_states_the_platforms_of_an_index_that_cannot_be_read() {
    let (cli, _registry) = exported();
    let bundle = Tar::open(&cli.path("b.tar"));
    let record = bundle.json("docker-mirror.json");
    let images = record["images"].as_array().unwrap();
    let of_index = images
        .iter()
        .find(|image| image["kept"].as_array().is_some_and(|kept| kept.len() > 1))
        .unwrap();
    let root = of_index["original"].as_str().unwrap().to_owned();
    let child = of_index["kept"][0]["digest"].as_str().unwrap().to_owned();
    let layer = bundle.json(&blob_name(&child))["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    // All of what is damaged is in the first list, though the index above it is damaged as well.
    for digest in [&root, &layer] {
        bundle.flip(&blob_name(digest));
    }
    if let Some(filtered) = of_index["filtered"].as_str() {
        bundle.flip(&blob_name(filtered));
    }
    let output = cli.run(&["verify", "b.tar", "--want", "w.txt"]).expect_code(5);
    let listed = fs::read_to_string(cli.path("w.txt")).unwrap();
    assert!(
        listed.contains(&root) && listed.contains(&layer),
        "{listed}\n{}",
        output.everything()
    );
    assert!(!output.stdout.contains("is unknown"), "{}", output.everything());
    // What a damaged manifest of a platform lists is in no record.
    bundle.flip(&blob_name(&child));
    let output = cli.run(&["verify", "b.tar"]).expect_code(5);
    let unknown = "what 1 damaged or missing manifest lists is unknown";
    assert!(output.stdout.contains(unknown), "{}", output.everything());
}

#[test]
fn a_supplement_replaces_no_bundle_and_no_list() {
    let (cli, registry) = exported();
    let (layer, manifest) = layer_and_manifest(&cli);
    let bundle = Tar::open(&cli.path("b.tar"));
    bundle.flip(&blob_name(&layer));
    cli.run(&["verify", "b.tar", "--want", "w.txt"]).expect_code(5);
    bundle.flip(&blob_name(&manifest));
    cli.run(&["verify", "b.tar", "--want", "both.txt"]).expect_code(5);
    fs::write(cli.path("notes.txt"), "mine\n").unwrap();
    fs::copy(cli.path("b.tar"), cli.path("cut.tar")).unwrap();
    // With a damaged list of images, the number of images in the bundle is unknown.
    Tar::open(&cli.path("cut.tar")).flip_header("index.json");
    let images = "is a bundle of 4 images, which a supplement does not replace";
    let before: Vec<Vec<u8>> = ["b.tar", "w.txt", "notes.txt", "cut.tar"]
        .map(|name| fs::read(cli.path(name)).unwrap())
        .into();
    registry.forget_requests();
    for (output, force, code, words, hint) in [
        ("b.tar", false, 2, images, "hint: a supplement is a file of its own"),
        (
            "b.tar",
            true,
            2,
            images,
            "`import b.tar supplement.tar` takes each blob",
        ),
        (
            "cut.tar",
            true,
            2,
            "is a bundle, which a supplement does not replace",
            "-o supplement.tar",
        ),
        (
            "w.txt",
            false,
            2,
            "`w.txt` is the want-list itself",
            "-o supplement.tar",
        ),
        ("./w.txt", true, 2, "is the want-list itself", "-o supplement.tar"),
        (
            "notes.txt",
            false,
            2,
            "the output `notes.txt` already exists",
            "hint: give `--force`",
        ),
    ] {
        let mut arguments = vec!["export", "--want", "w.txt", "-o", output];
        arguments.extend(force.then_some("--force"));
        let refused = cli.run(&arguments).expect_code(code).says(&[words, hint]);
        // What the file is comes first.
        let first = refused.stderr.lines().next().unwrap_or_default();
        assert!(
            first.starts_with(&format!("error: the output `{output}` ")),
            "{}",
            refused.everything()
        );
    }
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
    for (name, bytes) in ["b.tar", "w.txt", "notes.txt", "cut.tar"].iter().zip(before) {
        assert!(fs::read(cli.path(name)).unwrap() == bytes, "{name} was changed");
    }
    cli.succeed(&["export", "--want", "w.txt", "-o", "s.tar", "--no-cache"]);
    let made = fs::read(cli.path("s.tar")).unwrap();
    cli.run(&["export", "--want", "both.txt", "-o", "s.tar", "--no-cache"])
        .expect_code(2)
        .says(&["error: the output `s.tar` already exists", "`--force`"]);
    assert!(fs::read(cli.path("s.tar")).unwrap() == made);
    cli.succeed(&["export", "--want", "both.txt", "-o", "s.tar", "--no-cache", "--force"]);
    cli.succeed(&["verify", "b.tar", "s.tar"]);
}

#[test]
fn the_same_lock_gives_the_same_bytes_whatever_the_tags_say_now() {
    let (cli, registry) = exported();
    cli.succeed(&["inspect", "b.tar", "--lock", "l.json"]);
    // All tags move.
    for name in ["a/multi", "a/nested", "b/one", "b/two"] {
        shared_base(9, 300).remove(8).push(&registry, name, "1");
    }
    registry.forget_requests();
    cli.succeed(&["export", "--lock", "l.json", "-o", "again.tar", "--no-cache"]);
    assert!(
        fs::read(cli.path("b.tar")).unwrap() == fs::read(cli.path("again.tar")).unwrap(),
        "the bytes differ"
    );
    let tags = registry
        .requests()
        .iter()
        .filter(|request| request.path.ends_with("/manifests/1"))
        .count();
    assert_eq!(tags, 0, "a tag was asked for");
    // What the registry no longer has is named with its line.
    let (layer, _) = layer_and_manifest(&cli);
    registry.add_fault(When::path(&layer), Action::error(404, "BLOB_UNKNOWN", "gone"));
    let line = fs::read_to_string(cli.path("l.json"))
        .unwrap()
        .lines()
        .position(|line| line.contains(&layer))
        .unwrap()
        + 1;
    cli.run(&["export", "--lock", "l.json", "-o", "third.tar", "--no-cache", "--fresh"])
        .expect_code(1)
        .says(&["l.json", &format!("line {line}"), &layer]);
    let text = fs::read_to_string(cli.path("l.json")).unwrap();
    fs::write(cli.path("bad.json"), text.replacen("windows/amd64", "windows/arm64", 1)).unwrap();
    cli.run(&["export", "--lock", "bad.json", "-o", "x.tar"])
        .says(&["bad.json", "line", "edited or damaged"]);
    cli.run(&["export", "--lock", "l.json", "hello", "-o", "x.tar"])
        .expect_code(2);
}
