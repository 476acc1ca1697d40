//! A few megabytes that are made to cost gigabytes: many names, layers, annotations, records and bundles.

use std::io::Write;

use docker_mirror::testing::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

use crate::measured::{Lab, Measured};
use crate::shapes::{self, FOREIGN};
use crate::support::{Double, Options, images};

/// Fails where a run is above a ceiling; prints what it took.
#[track_caller]
fn check(name: &str, run: &Measured, images: u64) {
    println!("{}", run.line(name));
    let faults = run.faults(images);
    assert!(faults.is_empty(), "{name}: {}", faults.join("\n"));
}

/// Imports a bundle of this many images, dry or not, and with a report.
#[track_caller]
fn import(name: &str, lab: &Lab, arguments: &[&str], images: u64) -> Measured {
    // It takes manifests whose layers it does not have.
    let registry = Double::start(Options {
        unchecked: true,
        ..Options::default()
    });
    let destination = format!("{}/m", registry.host());
    let mut all = vec!["import", "-d", &destination, "--report", "report.json"];
    all.extend(arguments);
    let run = lab.run(&all, None);
    check(name, &run, images);
    run
}

/// Maximum number of bytes that each further image of a bundle may take in one heap: its manifests of 0.7 KiB with their
/// content, its place in the bundle and its plan.
const IMPORTED: u64 = 5100;

/// Maximum number of bytes that each further image may take in one heap while an export is planned: its manifests of 0.7 KiB with
/// their content, its name, its place in the bundle and in the documents of the bundle.
const EXPORTED: u64 = 4600;

/// Returns how many bytes each further image takes: by the peaks of a run with 500 and of one with 2,500 images.
/// `prepare` returns the arguments of a run with this many images.
fn bytes_for_each_image(lab: &Lab, prepare: impl Fn(usize) -> String) -> u64 {
    let [few, many] = [500, 2500].map(|images| {
        // In one heap, memory that one thread frees serves the others, so that the peak does not depend on the threads.
        let line = format!(
            "export MALLOC_ARENA_MAX=1; exec '{}' {} --plain-http -j 4 --dry-run",
            env!("CARGO_BIN_EXE_docker-mirror"),
            prepare(images)
        );
        let run = lab.run_command(lab.shell(&line), None);
        check(&format!("{images} small images, dry"), &run, images as u64);
        assert_eq!(run.ended, Ok(0), "{}", run.stderr);
        run.peak
    });
    let each = many.saturating_sub(few) / 2000;
    println!("{each} bytes for each image");
    each
}

#[test]
fn memory_for_each_image_of_an_import() {
    let lab = Lab::new();
    let registry = Double::new();
    let each = bytes_for_each_image(&lab, |images| {
        shapes::images(&lab.path("b.tar"), images);
        format!("import -d {}/m b.tar", registry.host())
    });
    assert!(each <= IMPORTED, "{each} bytes for each image");
}

#[test]
fn memory_for_each_image_of_an_export() {
    let lab = Lab::new();
    let registry = Double::new();
    let each = bytes_for_each_image(&lab, |images| {
        let names: String = (0..images)
            .map(|n| {
                // None of the manifests is in the cache after the first run.
                let repository = format!("of-{images}/image-{n}");
                shapes::push_image(registry.store(), &repository);
                format!("{}/{repository}:1\n", registry.host())
            })
            .collect();
        std::fs::write(lab.path("images.txt"), names).unwrap();
        "export --images images.txt -o b.tar --platform all".to_owned()
    });
    assert!(each <= EXPORTED, "{each} bytes for each image");
}

#[test]
fn names_of_an_image_whose_layers_are_missing() {
    let lab = Lab::new();
    shapes::names(&lab.path("b.tar"), 10_000, 10_000, OCI_LAYER, false);
    let run = import("10,000 names x 10,000 missing layers", &lab, &["b.tar"], 10_000);
    assert_eq!(run.ended, Ok(5));
}

#[test]
fn names_of_an_image_whose_layers_are_there() {
    let lab = Lab::new();
    shapes::names(&lab.path("b.tar"), 2000, 10_000, OCI_LAYER, true);
    let run = import("2,000 names x 10,000 layers, dry", &lab, &["b.tar", "--dry-run"], 2000);
    assert_eq!(run.ended, Ok(0), "{}", run.stderr);
    shapes::names(&lab.path("c.tar"), 300, 300, OCI_LAYER, true);
    let run = import("300 names x 300 layers", &lab, &["c.tar"], 300);
    assert_eq!(run.ended, Ok(0), "{}", run.stderr);
}

#[test]
fn names_of_an_image_of_foreign_layers() {
    let lab = Lab::new();
    shapes::names(&lab.path("b.tar"), 200, 10_000, FOREIGN, false);
    let run = import(
        "200 names x 10,000 foreign layers, dry",
        &lab,
        &["b.tar", "--dry-run"],
        200,
    );
    assert_eq!(run.ended, Ok(0), "{}", run.stderr);
    shapes::names(&lab.path("c.tar"), 20, 10_000, FOREIGN, false);
    let run = import("20 names x 10,000 foreign layers", &lab, &["c.tar"], 20);
    assert_eq!(run.ended, Ok(0), "{}", run.stderr);
}

#[test]
fn annotations_of_an_index_under_several_names() {
    let lab = Lab::new();
    shapes::annotations(&lab.path("b.tar"), 8, 10_000, 140);
    let arguments = ["b.tar", "--dry-run"];
    let run = import("8 names x 1.4 million annotations, dry", &lab, &arguments, 8);
    assert_eq!(run.ended, Ok(0), "{}", run.stderr);
}

#[test]
fn manifests_of_four_megabytes() {
    let lab = Lab::new();
    shapes::large_manifests(&lab.path("b.tar"), 40, 4 << 20);
    let run = import("40 manifests of 4 MB, dry", &lab, &["b.tar", "--dry-run"], 40);
    // Some of them are taken.
    assert_eq!(run.ended, Ok(1));
    assert!(run.stderr.contains("too large to handle"), "{}", run.stderr);
    shapes::large_manifests(&lab.path("c.tar"), 12, 3_900_000);
    let run = import("12 manifests of 4 MB", &lab, &["c.tar"], 12);
    assert_eq!(run.ended, Ok(0), "{}", run.stderr);
}

#[test]
fn eight_bundles_at_once() {
    let lab = Lab::new();
    let names: Vec<String> = (0..8).map(|n| format!("{n}.tar")).collect();
    let mut arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        shapes::large_index(&lab.path(name), 2000, 15 << 20);
    }
    // All bundles call their images the same, which is an error; only their number matters here.
    import("8 bundles with an index of 15 MB", &lab, &arguments, 16_000);
    for name in &names[1..] {
        shapes::missing_images(&lab.path(name), 10_000, 4600);
    }
    shapes::names(&lab.path(&names[0]), 2000, 10_000, OCI_LAYER, false);
    arguments.push("--dry-run");
    import("8 bundles with a record of 46 MB", &lab, &arguments, 16_000);
}

#[test]
fn claims_of_a_record_that_are_many_or_long() {
    let lab = Lab::new();
    shapes::records(&lab.path("b.tar"), 100, 10_000);
    let arguments = ["b.tar", "--dry-run"];
    let run = import("100 records of one index, dry", &lab, &arguments, 100);
    assert!(run.stderr.contains("too large to handle"), "{}", run.stderr);
    shapes::records(&lab.path("b.tar"), 10, 10_000);
    let run = import("10 records of one index, dry", &lab, &arguments, 10);
    assert_eq!(run.ended, Ok(0), "{}", run.stderr);
    shapes::missing_images(&lab.path("b.tar"), 10_000, 4600);
    let run = import("10,000 claims of missing images", &lab, &["b.tar"], 10_000);
    assert_eq!(run.ended, Ok(0), "{}", run.stderr);
}

#[test]
fn names_in_an_archive_of_docker() {
    let lab = Lab::new();
    shapes::docker_archive(&lab.path("b.tar"), 10_000, 10_000);
    import(
        "docker-archive: 10,000 names x 10,000 layers, dry",
        &lab,
        &["b.tar", "--dry-run"],
        10_000,
    );
}

#[test]
fn signatures_of_many_images_of_one_repository() {
    let lab = Lab::new();
    let [few, many] = [500, 4000].map(|images| {
        shapes::signed(&lab.path("b.tar"), images);
        let run = lab.run(&["inspect", "b.tar"], None);
        check(
            &format!("{images} signed images of one repository"),
            &run,
            images as u64,
        );
        assert_eq!(run.ended, Ok(0), "{}", run.stderr);
        run.busy
    });
    // Eight times the images; the square would be sixty-four.
    assert!(many < 24 * few, "{many:?} after {few:?}");
}

#[test]
fn an_index_whose_configs_tell_the_platforms() {
    let lab = Lab::new();
    shapes::no_platforms(&lab.path("b.tar"), 9999);
    let run = import(
        "10,000 configs, of which none is wanted",
        &lab,
        &["b.tar", "--dry-run", "--platform", "linux/arm64"],
        1,
    );
    assert_eq!(run.ended, Ok(1));
    import(
        "10,000 configs, all wanted, dry",
        &lab,
        &["b.tar", "--dry-run", "--platform", "linux/amd64"],
        1,
    );
}

#[test]
fn the_front_of_a_bundle_in_a_pipe() {
    let lab = Lab::new();
    for (name, bytes) in [
        ("front of 47 MB in a pipe", 47 << 20),
        ("front of 50 MB in a pipe", 50 << 20),
    ] {
        let bundle = shapes::large_front(&lab.path("b.tar"), bytes);
        let registry = Double::new();
        let destination = format!("{}/m", registry.host());
        let run = lab.run(&["import", "-d", &destination, "-"], Some(&bundle));
        check(name, &run, 1);
    }
}

#[test]
fn the_largest_window_of_a_decoder_beside_all_that_is_parsed() {
    let lab = Lab::new();
    let registry = Double::new();
    let destination = format!("{}/m", registry.host());
    for (planned, large) in [(8, 16), (0, 5)] {
        let bundle = shapes::large_window(&lab.path("b.tar"), planned, large);
        let path = bundle.to_str().unwrap();
        let images = (planned + large) as u64;
        for (source, dry_run) in [("-", true), ("-", false), (path, true)] {
            let mut arguments = vec!["import", "-d", &destination, source];
            arguments.extend(dry_run.then_some("--dry-run"));
            let run = lab.run(&arguments, (source == "-").then_some(&bundle));
            check(
                &format!("window of 128 MiB, {images} images, {arguments:?}"),
                &run,
                images,
            );
            // From a pipe, some images may also exceed the memory; otherwise all failures have the same reason.
            let code = match (planned, source) {
                (0, _) => 0,
                (_, "-") => 1,
                _ => 5,
            };
            assert_eq!(run.ended, Ok(code), "{}", run.stderr);
        }
        for command in ["inspect", "verify"] {
            let run = lab.run(&[command, "-"], Some(&bundle));
            // Up to a thousand faults are listed, each with its images.
            check(&format!("window of 128 MiB, {images} images, {command}"), &run, 1100);
        }
    }
}

#[test]
fn a_journal_of_64_megabytes() {
    let (lab, registry) = (Lab::new(), Double::new());
    images::greeting().push(&registry, "library/greeting", "1.0");
    // An image with a missing blob keeps the bundle unfinished.
    let config = shapes::fields(OCI_CONFIG, b"not there");
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{{config}}},"layers":[{{{}}}]}}"#,
        shapes::fields(OCI_LAYER, b"nor this")
    );
    let index = shapes::fields(OCI_MANIFEST, text.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{{index},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    registry.store().put_manifest("a/b", None, OCI_MANIFEST, text.into());
    registry.store().put_manifest("a/b", Some("1"), OCI_INDEX, index.into());
    let names = ["library/greeting:1.0", "a/b:1"].map(|name| format!("{}/{name}", registry.host()));
    let arguments = ["export", &names[0], &names[1], "-o", "b.tar"];
    let run = lab.run(&arguments, None);
    assert_eq!(run.ended, Ok(1), "{}", run.stderr);
    let path = lab.path("b.tar.partial.journal");
    let journal = std::fs::read_to_string(&path).unwrap();
    let (_, lines) = journal.split_once('\n').unwrap();
    assert!(!lines.is_empty(), "nothing was written");
    // A file that is ours, with many lines that are, and one without an end.
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    let block = lines.repeat((1 << 20) / lines.len());
    (0..64).for_each(|_| file.write_all(block.as_bytes()).unwrap());
    let run = lab.run(&arguments, None);
    check("journal of 64 MB of lines", &run, 2);
    std::fs::write(&path, &journal).unwrap();
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    let block = "x".repeat(1 << 20);
    (0..64).for_each(|_| file.write_all(block.as_bytes()).unwrap());
    check("journal with a line of 64 MB", &lab.run(&arguments, None), 2);
    let mut file = std::fs::File::create(&path).unwrap();
    (0..64).for_each(|_| file.write_all(block.as_bytes()).unwrap());
    check(
        "journal that begins with a line of 64 MB",
        &lab.run(&arguments, None),
        2,
    );
}
