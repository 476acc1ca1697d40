//! Platforms and indexes: which entries of an index are kept, and which bytes the tag gets.

use serde_json::Value;

use super::support::image::{Image, Style, attestation, index};
use super::support::images::{
    greeting, helm_chart, linux_and_windows, multi, nested, schema1, small, windows_only, with_foreign_layer,
    with_foreign_layer_at, without_platforms,
};
use super::support::layout::{Tar, blob_name};
use super::support::{Double, Options, sha256};
use super::{Cli, cli, digest_in};

/// Pushes an image to a new registry and exports the image to `b.tar`.
fn export(cli: &Cli, image: &Image, flags: &[&str]) -> (Double, super::support::cli::Output) {
    let source = Double::new();
    image.push(&source, "a/b", "1");
    let name = format!("{}/a/b:1", source.host());
    let mut arguments = vec!["export", &name, "-o", "b.tar", "--force"];
    arguments.extend(flags);
    let out = cli.succeed(&arguments);
    (source, out)
}

fn platforms_of(index: &Value) -> Vec<String> {
    let entries = index["manifests"].as_array().unwrap();
    let text = |e: &Value| {
        let p = &e["platform"];
        let variant = p["variant"].as_str().map(|v| format!("/{v}")).unwrap_or_default();
        format!(
            "{}/{}{variant}",
            p["os"].as_str().unwrap(),
            p["architecture"].as_str().unwrap()
        )
    };
    entries.iter().map(text).collect()
}

/// The index that goes under the name of the only image of `b.tar`.
fn root(cli: &Cli) -> (String, Value) {
    let bundle = Tar::open(&cli.path("b.tar"));
    let digest = bundle.json("index.json")["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let json = serde_json::from_slice(&bundle.blob(&digest).unwrap()).unwrap();
    (digest, json)
}

#[test]
fn every_linux_platform_and_no_other() {
    let cli = cli();
    let (_source, _) = export(&cli, &greeting(), &[]);
    let linux = [
        "linux/amd64",
        "linux/arm64/v8",
        "linux/arm/v7",
        "linux/arm/v6",
        "linux/386",
        "linux/ppc64le",
        "linux/s390x",
        "linux/riscv64",
    ];
    let kept = platforms_of(&root(&cli).1);
    assert_eq!(kept[..8], linux);
    let bundle = Tar::open(&cli.path("b.tar"));
    for document in greeting().documents_of("linux") {
        assert_eq!(bundle.blob(&document.digest).unwrap(), document.bytes);
    }
    for document in greeting().documents_of("windows") {
        assert!(bundle.member(&blob_name(&document.digest)).is_none());
    }
}

#[test]
fn an_attestation_is_kept_exactly_with_what_it_describes() {
    let cli = cli();
    export(&cli, &greeting(), &[]);
    let index = root(&cli).1;
    let entries = index["manifests"].as_array().unwrap();
    let digests: Vec<&Value> = entries.iter().map(|e| &e["digest"]).collect();
    let about: Vec<&Value> = entries
        .iter()
        .map(|e| &e["annotations"]["vnd.docker.reference.digest"])
        .filter(|d| !d.is_null())
        .collect();
    assert_eq!(about.len(), 8);
    assert!(about.iter().all(|subject| digests.contains(subject)));
    export(&cli, &greeting(), &["--platform", "linux/arm64"]);
    assert_eq!(platforms_of(&root(&cli).1), ["linux/arm64/v8", "unknown/unknown"]);
}

#[test]
fn nothing_dropped_leaves_the_index_byte_for_byte() {
    let cli = cli();
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64/v8"], "whole");
    let (_, out) = export(&cli, &image, &[]);
    assert_eq!(digest_in(out.lines()[0]), image.digest());
    assert_eq!(
        Tar::open(&cli.path("b.tar")).blob(image.digest()).unwrap(),
        image.root.bytes
    );
    let (_, out) = export(&cli, &greeting(), &["--platform", "all"]);
    assert_eq!(digest_in(out.lines()[0]), greeting().digest());
    let bundle = Tar::open(&cli.path("b.tar"));
    for document in greeting().documents() {
        assert_eq!(bundle.blob(&document.digest).unwrap(), document.bytes);
    }
}

#[test]
fn something_dropped_by_tag_removes_list_entries_and_keeps_the_rest() {
    let cli = cli();
    let image = greeting();
    let (_, out) = export(&cli, &image, &[]);
    let (digest, filtered) = root(&cli);
    assert_eq!(digest_in(out.lines()[0]), digest);
    assert_ne!(digest, image.digest());
    let mut expected = image.root.json();
    let kept: Vec<String> = image.documents_of("linux").into_iter().map(|d| d.digest).collect();
    let list = expected["manifests"].as_array_mut().unwrap();
    list.retain(|entry| kept.iter().any(|digest| entry["digest"] == *digest));
    assert_eq!(filtered, expected, "order, unknown fields and annotations stay");
    let bundle = Tar::open(&cli.path("b.tar"));
    let text = String::from_utf8(bundle.blob(&digest).unwrap()).unwrap();
    assert!(text.contains("1.5"), "numbers stay as they were: {text}");
    // Both digests are recorded in the bundle, and shown.
    let record = bundle.json("docker-mirror.json");
    assert_eq!(record["images"][0]["original"], image.digest());
    assert_eq!(record["images"][0]["filtered"], digest);
    out.says(&[image.digest(), &digest]);
}

#[test]
fn the_record_lists_platforms_kept_and_dropped() {
    let cli = cli();
    export(&cli, &linux_and_windows(Style::Oci), &[]);
    let record = Tar::open(&cli.path("b.tar")).json("docker-mirror.json");
    let names = |list: &Value| -> Vec<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|p| p["platform"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&record["images"][0]["kept"]), ["linux/amd64", "linux/arm64/v8"]);
    assert_eq!(names(&record["images"][0]["dropped"]), ["windows/amd64"]);
    assert!(record["formatVersion"].is_u64());
}

#[test]
fn the_original_index_is_always_in_the_bundle() {
    let cli = cli();
    let image = greeting();
    for flags in [&[][..], &["--index", "filtered"], &["--index", "sparse"]] {
        export(&cli, &image, flags);
        let bundle = Tar::open(&cli.path("b.tar"));
        assert_eq!(bundle.blob(image.digest()).unwrap(), image.root.bytes, "{flags:?}");
    }
}

#[test]
fn pinned_by_digest_keeps_the_sparse_original() {
    let (cli, source) = (cli(), Double::new());
    let image = linux_and_windows(Style::Oci);
    image.push(&source, "a/b", "1");
    let pinned = format!("{}/a/b@{}", source.host(), image.digest());
    let out = cli.succeed(&["export", &pinned, "-o", "b.tar"]);
    assert_eq!(digest_in(out.lines()[0]), image.digest());
    let target = Double::start(Options {
        accept_sparse: true,
        ..Options::default()
    });
    let out = cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert_eq!(digest_in(out.lines()[0]), image.digest());
    assert_eq!(target.manifest("a/b", image.digest()).unwrap(), image.root.bytes);
    let stored = target.store().repository("a/b").unwrap();
    assert_eq!(stored.manifests.len(), 3, "the index and two linux children");
}

#[test]
fn pinned_and_refused_puts_the_filtered_one_under_the_tag_and_says_so() {
    let (cli, source) = (cli(), Double::new());
    let image = linux_and_windows(Style::Oci);
    image.push(&source, "a/b", "1");
    let pinned = format!("{}/a/b:1@{}", source.host(), image.digest());
    cli.succeed(&["export", &pinned, "-o", "b.tar"]);
    for one_step in [false, true] {
        let target = Double::new();
        let out = match one_step {
            false => cli.run(&["import", "b.tar", "-d", &target.host()]),
            true => cli.run(&["-d", &target.host(), &pinned]),
        };
        out.expect_code(1)
            .says(&[image.digest(), "does not exist", "--platform all"]);
        let tagged = target
            .manifest("a/b", "1")
            .expect("the filtered index is under the tag");
        let json: Value = serde_json::from_slice(&tagged).unwrap();
        assert_eq!(platforms_of(&json), ["linux/amd64", "linux/arm64/v8"]);
        assert!(target.manifest("a/b", image.digest()).is_none());
    }
}

#[test]
fn the_index_mode_can_be_chosen_on_export_and_on_import() {
    let cli = cli();
    let image = linux_and_windows(Style::Oci);
    let sparse = || {
        Double::start(Options {
            accept_sparse: true,
            ..Options::default()
        })
    };
    // Chosen on export.
    let (_, out) = export(&cli, &image, &["--index", "sparse"]);
    assert_eq!(digest_in(out.lines()[0]), image.digest());
    let target = sparse();
    let out = cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert_eq!(digest_in(out.lines()[0]), image.digest());
    // Overridden on import, both ways.
    let out = cli.succeed(&[
        "import",
        "b.tar",
        "-d",
        &format!("{}/x", target.host()),
        "--index",
        "filtered",
    ]);
    let filtered = digest_in(out.lines()[0]).to_owned();
    assert_ne!(filtered, image.digest());
    let (_, out) = export(&cli, &image, &[]);
    assert_eq!(digest_in(out.lines()[0]), filtered);
    let out = cli.succeed(&[
        "import",
        "b.tar",
        "-d",
        &format!("{}/y", target.host()),
        "--index",
        "sparse",
    ]);
    assert_eq!(digest_in(out.lines()[0]), image.digest());
    // A digest-pinned image, filtered on demand.
    let source = Double::new();
    image.push(&source, "a/b", "1");
    let pinned = format!("{}/a/b@{}", source.host(), image.digest());
    let out = cli.succeed(&["export", &pinned, "-o", "b.tar", "--force", "--index", "filtered"]);
    assert_eq!(digest_in(out.lines()[0]), filtered);
}

#[test]
fn an_index_without_linux_is_an_error_for_that_image() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    windows_only().push(&source, "a/windows", "1");
    small(Style::Oci, "windows/amd64", "single").push(&source, "a/single", "1");
    for name in ["a/windows:1", "a/single:1"] {
        let image = format!("{}/{name}", source.host());
        cli.run(&["export", &image, "-o", "b.tar"])
            .expect_code(1)
            .says(&[&image, "linux"]);
        cli.run(&["-d", &target.host(), &image])
            .expect_code(1)
            .says(&[&image, "linux"]);
    }
    assert!(target.store().repositories().is_empty(), "{}", target.transcript());
    let image = format!("{}/a/windows:1", source.host());
    cli.succeed(&["export", &image, "-o", "b.tar", "--platform", "all"]);
}

#[test]
fn a_single_linux_manifest_is_taken_as_it_is() {
    let cli = cli();
    for style in [Style::Oci, Style::Docker] {
        let image = small(style, "linux/s390x", "single");
        let (_, out) = export(&cli, &image, &[]);
        assert_eq!(digest_in(out.lines()[0]), image.digest());
        let index = Tar::open(&cli.path("b.tar")).json("index.json");
        assert_eq!(index["manifests"][0]["mediaType"], image.root.media_type);
    }
}

#[test]
fn docker_media_types_are_never_converted() {
    let (cli, target) = (cli(), Double::new());
    let image = linux_and_windows(Style::Docker);
    export(&cli, &image, &[]);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    let stored = target.store().repository("a/b").unwrap();
    assert_eq!(stored.manifests[&stored.tags["1"]].media_type, Style::Docker.index());
    let children: Vec<_> = stored
        .manifests
        .values()
        .filter(|m| m.media_type == Style::Docker.manifest())
        .collect();
    assert_eq!(children.len(), 2);
    for child in children {
        let original = image
            .below
            .iter()
            .find(|d| d.digest == child.digest)
            .expect("a changed manifest");
        assert_eq!(original.bytes, child.bytes);
    }
}

#[test]
fn charts_and_other_artifacts_travel_verbatim() {
    let (cli, target) = (cli(), Double::new());
    let chart = helm_chart();
    export(&cli, &chart, &[]);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert_eq!(target.manifest("a/b", "1").unwrap(), chart.root.bytes);
    for (digest, bytes) in &chart.blobs {
        assert_eq!(target.store().blob("a/b", digest).unwrap().all(), bytes);
    }
}

#[test]
fn nested_indexes_are_filtered_at_every_level() {
    let (cli, target) = (cli(), Double::new());
    export(&cli, &nested(), &[]);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    let stored = target.store().repository("a/b").unwrap();
    let root: Value = serde_json::from_slice(&stored.manifests[&stored.tags["1"]].bytes).unwrap();
    let entries = root["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "the index of windows alone is gone: {root}");
    let inner = &stored.manifests[entries[0]["digest"].as_str().unwrap()].bytes;
    assert_eq!(entries[0]["size"], inner.len());
    assert_eq!(platforms_of(&serde_json::from_slice(inner).unwrap()), ["linux/amd64"]);
}

#[test]
fn each_side_tells_the_same_of_what_was_dropped() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    nested().push(&source, "a/nested", "1");
    greeting().push(&source, "a/greeting", "1");
    let names = ["a/nested:1", "a/greeting:1"].map(|name| format!("{}/{name}", source.host()));
    let export = ["export", &names[0], &names[1], "-o", "b.tar", "--force"];
    // The index of windows alone is not in the bundle, so that nobody who reads the bundle knows what it lists.
    let windows = platforms_of(&greeting().root.json());
    let windows = windows
        .iter()
        .filter(|platform| platform.starts_with("windows/"))
        .count();
    let sum = format!("2 images: {} platforms and 1 nested index left out", windows + 1);
    cli.succeed(&export).says(&[&sum]);
    let of_nested = "a/nested:1: left out windows/amd64, 1 nested index; ";
    cli.succeed(&[&export[..], &["-v"]].concat()).says(&[of_nested]);
    cli.succeed(&["import", "b.tar", "-d", &target.host(), "-v"])
        .says(&[of_nested]);
    let record = Tar::open(&cli.path("b.tar")).json("docker-mirror.json");
    let inspected = cli.succeed(&["inspect", "b.tar", "--json"]).stdout;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    for image in 0..2 {
        let dropped = &record["images"][image]["dropped"];
        assert_eq!(*dropped, inspected["images"][image]["dropped"]);
    }
    let labels = record["images"][1]["dropped"].as_array().unwrap().iter();
    let labels: Vec<_> = labels.map(|dropped| dropped["platform"].as_str().unwrap()).collect();
    assert_eq!(labels, ["windows/amd64", "index"]);
    let shown = cli.succeed(&["inspect", "b.tar", "--html", "page.html"]).stdout;
    let page = std::fs::read_to_string(cli.path("page.html")).unwrap();
    for text in [shown, page] {
        assert!(text.contains("windows/amd64, 1 nested index"), "{text}");
    }
    // Where nothing is left, the error tells the platforms inside too, since the export has read that index.
    cli.run(&["export", &names[0], "-o", "c.tar", "--platform", "linux/s390x"])
        .expect_code(1)
        .says(&["windows/arm64"]);
}

#[test]
fn entries_without_a_platform_are_judged_by_their_config() {
    let cli = cli();
    let image = without_platforms();
    export(&cli, &image, &[]);
    let entries = root(&cli).1["manifests"].as_array().unwrap().clone();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["digest"], image.root.json()["manifests"][0]["digest"]);
}

#[test]
fn platforms_can_be_chosen() {
    let cli = cli();
    export(
        &cli,
        &greeting(),
        &["--platform", "linux/arm", "--platform", "linux/amd64"],
    );
    let images: Vec<String> = platforms_of(&root(&cli).1)
        .into_iter()
        .filter(|p| p != "unknown/unknown")
        .collect();
    assert_eq!(images, ["linux/amd64", "linux/arm/v7", "linux/arm/v6"]);
    export(&cli, &greeting(), &["--platform", "windows/amd64"]);
    assert!(
        platforms_of(&root(&cli).1)
            .iter()
            .all(|p| p == "windows/amd64" || p == "unknown/unknown")
    );
}

#[test]
fn a_platform_that_an_image_lacks_is_told() {
    let cli = cli();
    let wanted = ["--platform", "linux/amd64,linux/loong64", "--platform", "linux/arm/v5"];
    let (_registry, output) = export(&cli, &greeting(), &wanted);
    let output = output.says(&["has no platform `linux/loong64`, `linux/arm/v5`"]);
    assert!(!output.stderr.contains("`linux/amd64`"), "{}", output.everything());
    let (_registry, output) = export(&cli, &greeting(), &["--platform", "linux/amd64"]);
    assert!(!output.stderr.contains("has no platform"), "{}", output.everything());

    // The same where the images come out of a bundle.
    let to = Double::new();
    cli.succeed(&[
        "import",
        "b.tar",
        "-d",
        &to.host(),
        "--platform",
        "linux/amd64,linux/mips64le",
    ])
    .says(&["has no platform `linux/mips64le`"]);
    cli.run(&["import", "b.tar", "-d", &to.host(), "--platform", "linux/mips64le"])
        .expect_code(1)
        .says(&["no platform of the image is `linux/mips64le`"]);
}

#[test]
fn the_same_child_twice_stays_twice_and_is_fetched_once() {
    let cli = cli();
    let child = small(Style::Oci, "linux/arm64", "twice");
    let mut again: super::support::image::Entry = child.clone().into();
    again.platform["variant"] = "v8".into();
    let image = index(Style::Oci, &[child.clone().into(), again, attestation(&child)]);
    let (source, out) = export(&cli, &image, &[]);
    assert_eq!(digest_in(out.lines()[0]), image.digest());
    assert_eq!(
        source.count("GET", &format!("/manifests/{}", child.digest())),
        1,
        "{}",
        source.transcript()
    );
    assert_eq!(sha256(&child.root.bytes), child.digest());
}

#[test]
fn schema_1_is_refused_by_name() {
    let (cli, source) = (cli(), Double::new());
    schema1().push(&source, "a/old", "1");
    let image = format!("{}/a/old:1", source.host());
    cli.run(&["export", &image, "-o", "b.tar"])
        .expect_code(1)
        .says(&[&image, "schema 1"]);
    assert!(!cli.path("b.tar").exists());
}

#[test]
fn a_layer_that_only_its_vendor_hands_out_is_left_out_and_told() {
    let (cli, target) = (cli(), Double::new());
    let image = with_foreign_layer();
    let (_source, out) = export(&cli, &image, &[]);
    let foreign = image.root.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    out.says(&["left out", &foreign]);
    let record = Tar::open(&cli.path("b.tar")).json("docker-mirror.json");
    assert_eq!(record["images"][0]["leftOut"][0]["digest"], foreign);
    cli.succeed(&["import", "b.tar", "-d", &target.host()])
        .says(&["left out", &foreign]);
    assert_eq!(target.manifest("a/b", "1").unwrap(), image.root.bytes);
}

#[test]
fn the_address_of_a_foreign_layer_is_never_asked() {
    let (cli, target, vendor) = (cli(), Double::new(), Double::new());
    let image = with_foreign_layer_at(&format!("{}/layer", vendor.url()));
    let (source, _) = export(&cli, &image, &[]);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    let reference = format!("{}/a/b:1", source.host());
    cli.succeed(&["-d", &Double::new().host(), &reference]);
    assert!(vendor.requests().is_empty(), "{}", vendor.transcript());
}

/// An export and an import that leave out the same platforms make the same index.
#[test]
fn export_and_import_leave_out_platforms_alike() {
    let (cli, image) = (cli(), greeting());
    for platform in ["linux/arm64", "linux/arm", "windows/amd64", "linux/amd64,linux/s390x"] {
        let choice = ["--platform", platform];
        let digests: Vec<String> = [(&choice[..], &[][..]), (&["--platform", "all"][..], &choice[..])]
            .into_iter()
            .map(|(at_export, at_import)| {
                let target = Double::new();
                export(&cli, &image, at_export);
                let host = target.host();
                let out = cli.succeed(&[&["import", "b.tar", "-d", &host][..], at_import].concat());
                let bytes = target.manifest("a/b", "1").unwrap();
                assert_eq!(sha256(&bytes), digest_in(out.lines()[0]));
                sha256(&bytes)
            })
            .collect();
        assert_eq!(digests[0], digests[1], "{platform}");
        assert_ne!(digests[0], image.digest(), "{platform}");
    }
}
