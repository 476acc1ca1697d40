//! Bundles that are made to cost much through the commands that only read them: `inspect`, `verify` and `diff`.

use std::fmt::Write as _;

use docker_mirror::{Digest, testing::media_type::OCI_LAYER};

use crate::measured::{Lab, Measured};
use crate::shapes::{self, FOREIGN, Writer, layers};

/// Bytes of a document on standard output, and of a page.
const DOCUMENT: u64 = 96 << 20;
const PAGE: u64 = 48 << 20;

/// Bytes of the lines about layers, of all images together.
const LAYERS: u64 = 12 << 20;

/// Fails if a run exceeds a limit. `more` is the number of bytes of text that it may write in addition to those for
/// each image.
#[track_caller]
fn check(name: &str, mut run: Measured, images: u64, more: u64) -> Measured {
    println!("{}", run.line(name));
    run.text = run.text.saturating_sub(more);
    let faults = run.faults(images);
    assert!(faults.is_empty(), "{name}: {}", faults.join("\n"));
    run
}

/// Runs every command that only reads bundles with a bundle of this many images, and returns how each of them ended.
#[track_caller]
fn look(name: &str, lab: &Lab, bundle: &str, images: u64) -> Vec<Result<i32, i32>> {
    shapes::names(&lab.path("other.tar"), 1, 1, OCI_LAYER, true);
    let length = |name: &str| lab.path(name).metadata().map_or(0, |metadata| metadata.len());
    let commands: &[(&[&str], u64)] = &[
        (&["inspect", "--layers", "--html", "page.html", bundle], LAYERS),
        (&["inspect", "--json", bundle], DOCUMENT),
        (&["verify", "--deep", "--json", "--want", "want.txt", bundle], DOCUMENT),
        (&["diff", "--json", bundle, "other.tar"], DOCUMENT),
        (&["inspect", "--lock", "images.lock", bundle], 0),
    ];
    let mut ends = Vec::new();
    for (arguments, more) in commands {
        let run = check(
            &format!("{name}: {}", arguments.join(" ")),
            lab.run(arguments, None),
            images,
            *more,
        );
        ends.push(run.ended);
    }
    for (file, most) in [("page.html", PAGE), ("want.txt", 32 << 20), ("images.lock", 32 << 20)] {
        assert!(length(file) <= most, "{file} has {} bytes", length(file));
    }
    ends
}

#[test]
fn names_of_one_image_with_very_many_layers() {
    let lab = Lab::new();
    shapes::names(&lab.path("b.tar"), 2000, 10_000, OCI_LAYER, true);
    let ends = look("2,000 names x 10,000 layers", &lab, "b.tar", 2000);
    // The configs describe no layers, and a lock of this many images would be too large to be read.
    assert_eq!(ends, [Ok(0), Ok(0), Ok(5), Ok(0), Ok(1)]);
    shapes::names(&lab.path("b.tar"), 10_000, 10_000, OCI_LAYER, false);
    let ends = look("10,000 names x 10,000 missing layers", &lab, "b.tar", 10_000);
    assert_eq!(ends, [Ok(5); 5]);
    shapes::names(&lab.path("b.tar"), 300, 10_000, FOREIGN, false);
    look("300 names x 10,000 foreign layers", &lab, "b.tar", 300);
}

#[test]
fn names_of_one_index_with_very_many_platforms() {
    let lab = Lab::new();
    let mut writer = Writer::new(&lab.path("b.tar"));
    let labels: Vec<String> = (0..150).map(|n| format!(r#""{n}":"{}""#, "v".repeat(100))).collect();
    let config = writer.config(&format!(r#","config":{{"Labels":{{{}}}}}"#, labels.join(",")));
    let mut entries = Vec::new();
    for n in 0..1000 {
        let image = writer.image(&config, &layers(FOREIGN, 2, &n.to_string(), ""));
        let platform = format!(r#""os":"linux","architecture":"{}{n}""#, "a".repeat(100));
        entries.push(format!(r#"{{{image},"platform":{{{platform}}}}}"#));
    }
    let index = writer.index(&entries.join(","));
    (0..3000).for_each(|_| writer.name(&index, ""));
    writer.end();
    look("3,000 names x 1,000 platforms", &lab, "b.tar", 3000);
}

#[test]
fn indexes_that_share_a_manifest_of_missing_layers() {
    let lab = Lab::new();
    let mut writer = Writer::new(&lab.path("b.tar"));
    let config = writer.config("");
    let image = writer.image(&config, &layers(OCI_LAYER, 10_000, "", ""));
    for n in 0..1000 {
        let index = writer.index(&format!(
            r#"{{{image},"platform":{{"os":"linux","architecture":"amd64"}},"annotations":{{"x":"{n}"}}}}"#
        ));
        writer.name(&index, "");
    }
    writer.end();
    look("1,000 indexes x 10,000 missing layers", &lab, "b.tar", 1000);
}

#[test]
fn differences_of_very_many_images() {
    let lab = Lab::new();
    for (bundle, salt) in [("old.tar", "a"), ("new.tar", "b")] {
        let mut writer = Writer::new(&lab.path(bundle));
        let config = writer.config("");
        let mut entries = Vec::new();
        for n in 0..150 {
            let image = writer.image(&config, &layers(FOREIGN, 20, &format!("{salt}{n}"), ""));
            entries.push(format!(
                r#"{{{image},"platform":{{"os":"linux","architecture":"{salt}{n}"}}}}"#
            ));
        }
        let entries = entries.join(",");
        for n in 0..10 {
            let index = writer.index(&format!(
                r#"{entries},{{{},"annotations":{{"x":"{n}"}}}}"#,
                last(&entries)
            ));
            (0..100).for_each(|_| writer.name(&index, ""));
        }
        writer.end();
    }
    for arguments in [
        &["diff", "old.tar", "new.tar"][..],
        &["diff", "--json", "old.tar", "new.tar"],
    ] {
        check(&arguments.join(" "), lab.run(arguments, None), 1000, DOCUMENT);
    }
}

/// The fields of the last descriptor of a list, without its platform.
fn last(entries: &str) -> &str {
    let last = &entries[entries.rfind("{\"mediaType").unwrap() + 1..];
    &last[..last.find(",\"platform").unwrap()]
}

/// A digest that is that of nothing.
fn digest(n: usize) -> String {
    Digest::sha256(n.to_string().as_bytes()).to_string()
}

/// Returns a JSON list between these texts, with as many elements as the largest lock can hold.
fn filled(start: &str, element: impl Fn(usize) -> String, end: &str) -> String {
    let mut text = start.to_owned();
    for n in 0.. {
        let element = element(n);
        if text.len() + element.len() + end.len() + 2 > 32 << 20 {
            break;
        }
        text.push_str(if n == 0 { "" } else { "," });
        text.push_str(&element);
    }
    text + end
}

#[test]
fn locks_and_want_lists_of_the_largest_size() {
    let lab = Lab::new();
    let root = digest(0);
    let head = format!(r#"{{"lockVersion":2,"dockerManifest":true,"checksum":"{root}","#);
    let image = |name: usize, lists: &str| {
        format!(r#"{{"reference":"a.io/a:{name}","index":"whole","original":"{root}","kept":[],{lists}}}"#)
    };
    let open = format!(
        r#"{head}"images":[{}"#,
        image(0, r#""manifests":[],"blobs":["#).trim_end_matches('}')
    );
    let piece = |n: usize| format!(r#"{{"digest":"{}","size":0,"mediaType":""}}"#, digest(n));
    let locks = [
        ("blobs", filled(&open, piece, "]}]}")),
        (
            "images",
            filled(
                &format!(r#"{head}"images":["#),
                |n| image(n, r#""manifests":[],"blobs":[]"#),
                "]}",
            ),
        ),
        (
            "missing images",
            filled(
                &format!(r#"{head}"images":[],"missing":["#),
                |_| r#"{"reference":"","reason":""}"#.to_owned(),
                "]}",
            ),
        ),
        ("nothing but brackets", "{\"lock\":".to_owned() + &"[".repeat(1 << 20)),
        (
            "a name of 30 MB",
            format!(
                r#"{head}"images":[],"missing":[{{"reference":"{}"#,
                "\u{1b}".repeat(30 << 20)
            ),
        ),
    ];
    for (name, text) in locks {
        std::fs::write(lab.path("images.lock"), text).unwrap();
        for (arguments, code) in [
            (&["diff", "images.lock", "images.lock"][..], 2),
            (&["export", "--lock", "images.lock", "-o", "b.tar"], 2),
        ] {
            let run = check(
                &format!("lock, {name}: {}", arguments.join(" ")),
                lab.run(arguments, None),
                1,
                0,
            );
            assert_eq!(run.ended, Ok(code), "{name}: {}", run.stderr);
        }
    }
    let mut lines: Vec<String> = (0..400_000).map(digest).collect();
    lines.sort_unstable();
    let mut list = String::from("docker-mirror want-list 1: 400000 blobs\n");
    lines.iter().for_each(|line| writeln!(list, "{line} 1 a/b").unwrap());
    let long = "docker-mirror want-list 1: 1 blob\n".to_owned() + &"a ".repeat(15 << 20);
    let sums = "docker-mirror want-list 1: 0 blobs\ncheck ".to_owned() + &"a ".repeat(15 << 20);
    for (name, text) in [("many lines", list), ("a long line", long), ("long sums", sums)] {
        std::fs::write(lab.path("want.txt"), text).unwrap();
        let run = lab.run(&["export", "--want", "want.txt", "-o", "b.tar"], None);
        let run = check(&format!("want-list, {name}"), run, 1, 0);
        assert_eq!(run.ended, Ok(2), "{name}: {}", run.stderr);
    }
}

#[test]
fn ordinary_images_go_on_beside_those_that_take_all_memory() {
    let lab = Lab::new();
    let mut writer = Writer::new(&lab.path("b.tar"));
    let config = writer.config("");
    // Large images of two sizes, so that they fill the memory budget almost exactly.
    let large = [(22, 10_000), (50, 2000)];
    let mut names = 0;
    for (images, layers_of) in large {
        for n in 0..images {
            let image = writer.image(&config, &layers(FOREIGN, layers_of, &format!("{n}/"), ""));
            writer.name(&image, "");
            names += 1;
        }
    }
    for n in 0..150 {
        let blobs: Vec<String> = (0..10)
            .map(|layer| {
                format!(
                    "{{{}}}",
                    writer.blob(OCI_LAYER, format!("layer {n} {layer}").as_bytes())
                )
            })
            .collect();
        let image = writer.image(&config, &blobs.join(","));
        writer.name(&image, "");
    }
    writer.end();
    let is_ordinary = |name: &str| name.rsplit(':').next().and_then(|tag| tag.parse().ok()) >= Some(names);
    let registry = crate::support::Double::new();
    let destination = format!("{}/m", registry.host());
    let arguments = [
        "import",
        "b.tar",
        "-d",
        &destination,
        "--dry-run",
        "--report",
        "report.json",
    ];
    let run = check(
        "72 large and 150 ordinary images: import",
        lab.run(&arguments, None),
        222,
        0,
    );
    let report = std::fs::read(lab.path("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let of_memory = report["images"].as_array().unwrap().iter().filter(|image| {
        let error = image["error"]["message"].as_str().unwrap_or_default();
        error.contains("too large to handle")
    });
    let refused: Vec<&str> = of_memory.filter_map(|image| image["source"].as_str()).collect();
    assert!(!refused.is_empty(), "{}", run.stderr);
    assert!(!refused.iter().any(|name| is_ordinary(name)), "{refused:?}");
    let run = check(
        "72 large and 150 ordinary images: inspect",
        lab.run(&["inspect", "b.tar"], None),
        222,
        0,
    );
    assert_eq!(run.ended, Ok(1));
    let refused: Vec<&str> = run.stderr.lines().filter_map(|line| line.split('`').nth(1)).collect();
    assert!(
        !refused.is_empty() && !refused.iter().any(|name| is_ordinary(name)),
        "{}",
        run.stderr
    );
}

#[test]
fn an_index_in_an_index_of_a_bundle_that_is_looked_at() {
    let lab = Lab::new();
    let mut writer = Writer::new(&lab.path("b.tar"));
    let config = writer.config("");
    let mut root = writer.image(&config, "");
    for n in 0..200 {
        root = writer.index(&format!(r#"{{{root},"annotations":{{"x":"{n}"}}}}"#));
        (0..5).for_each(|_| writer.name(&root, ""));
    }
    writer.end();
    look("indexes in indexes", &lab, "b.tar", 1000);
}
