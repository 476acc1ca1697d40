//! `--report`: every field of it, and that the file never describes another run.

use std::path::Path;

use serde_json::{Value, json};

use super::handmade::{Maker, digest, noise};
use super::support::cli::wait_until;
use super::support::fault::{Action, When};
use super::support::{Cli, Double, End, sha256};

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

fn write(cli: &Cli, maker: &Maker, name: &str) {
    std::fs::copy(maker.write().path, cli.path(name)).unwrap();
}

fn read(cli: &Cli) -> Value {
    let mut report: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
    // What every report begins with.
    for name in ["reportVersion", "tool", "command", "exitCode", "seconds"] {
        assert!(report.as_object_mut().unwrap().remove(name).is_some(), "no `{name}`");
    }
    report
}

/// Checks the parts of a report about the files and their contents, removes them, and returns the images of the lock.
fn take_files_and_lock(cli: &Cli, report: &mut Value) -> Vec<Value> {
    let report = report.as_object_mut().unwrap();
    for file in report.remove("files").unwrap().as_array().unwrap() {
        let bytes = std::fs::read(cli.path(file["path"].as_str().unwrap())).unwrap();
        assert_eq!(file["bytes"], bytes.len(), "{file:#}");
        assert_eq!(
            format!("sha256:{}", file["sha256"].as_str().unwrap()),
            sha256(&bytes),
            "{file:#}"
        );
    }
    let lock = report.remove("lock").unwrap();
    assert_eq!(lock["lockVersion"], 2, "{lock:#}");
    lock["images"].as_array().unwrap().clone()
}

fn amount(blobs: u64, bytes: usize) -> Value {
    json!({"blobs": blobs, "bytes": bytes})
}

/// Counts and bytes of what was uploaded, mounted and skipped.
fn counts(uploaded: (u64, usize), mounted: (u64, usize), skipped: (u64, usize)) -> Value {
    json!({"uploaded": amount(uploaded.0, uploaded.1), "mounted": amount(mounted.0, mounted.1),
        "skipped": amount(skipped.0, skipped.1)})
}

const NONE: (u64, usize) = (0, 0);

/// Returns the length of the config of an image for amd64 with this number of layers: all digests have the same length.
fn config(layers: usize) -> usize {
    let all: Vec<&[u8]> = [&b"a"[..], b"b"].into_iter().take(layers).collect();
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &all);
    maker.config_size(&image)
}

fn platform(name: &str, image: &Value) -> Value {
    json!({"platform": name, "digest": digest(image)})
}

#[test]
fn every_field_of_what_went_well() {
    let (cli, target) = (cli(), Double::new());
    let host = target.host();
    let base = noise(1, 5000);
    let mut maker = Maker::default();
    // One that is there already, and one whose tag holds something else.
    let there = maker.image("linux/amd64", &[b"there"]);
    maker.name("docker.io/team/there:1", &there);
    let mut before = maker.clone();
    let old = before.image("linux/amd64", &[b"old"]);
    before.name("docker.io/team/moved:1", &old);
    write(&cli, &before, "before.tar");
    cli.succeed(&["import", "before.tar", "-d", &host]);
    // The base counts for the first image; it is mounted into the repository of the other image.
    let first = maker.image("linux/amd64", &[&base, b"first"]);
    maker.name("docker.io/team/first:1", &first);
    let moved = maker.image("linux/amd64", &[&base, b"new"]);
    maker.name("docker.io/team/moved:1", &moved);
    let foreign = maker.image_with_foreign(b"own", b"foreign");
    maker.name("docker.io/team/foreign:1", &foreign);
    let kept = [maker.image("linux/amd64", &[b"kept"])];
    let dropped = [maker.image("linux/s390x", &[b"dropped"])];
    let (original, filtered) = maker.name_sparse("docker.io/team/filtered:1", &kept, &dropped);
    maker.lacks("docker.io/team/gone:1", "not found");
    maker.lacks("docker.io/team/first:1", "it is in the other bundle");
    write(&cli, &maker, "b.tar");
    let rebuilt = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/archives/skopeo-docker-archive.tar");
    let arguments = [
        "import",
        "b.tar",
        rebuilt.to_str().unwrap(),
        "-d",
        &host,
        "--index",
        "filtered",
    ];
    let arguments = [&arguments[..], &["-j", "1", "--report", "r.json"]].concat();

    let single = |name: &str, image: &Value, outcome: &str, counts: Value| {
        json!({"source": format!("docker.io/team/{name}:1"), "destination": format!("{host}/team/{name}:1"),
            "outcome": outcome, "original": digest(image), "pushed": digest(image), "index": "whole",
            "pinnedDigestMissing": false, "counts": counts, "kept": [platform("linux/amd64", image)]})
    };
    let mut expected = vec![
        single("there", &there, "unchanged", counts(NONE, NONE, (2, config(1) + 5))),
        single("first", &first, "pushed", counts((3, config(2) + 5005), NONE, NONE)),
        single("moved", &moved, "pushed", counts((2, config(2) + 3), (1, 5000), NONE)),
        single(
            "foreign",
            &foreign,
            "pushed",
            counts((2, maker.config_size(&foreign) + 3), NONE, NONE),
        ),
        single("filtered", &kept[0], "pushed", counts((2, config(1) + 4), NONE, NONE)),
    ];
    expected[2]["replaced"] = digest(&old).into();
    expected[3]["leftOut"] = json!([{"digest": sha256(b"foreign"),
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "reason": "not in the archive; it may not be distributed"}]);
    expected[4]["original"] = original.as_str().into();
    expected[4]["pushed"] = filtered.as_str().into();
    expected[4]["index"] = "filtered".into();
    expected[4]["dropped"] = json!([platform("linux/s390x", &dropped[0])]);

    for dry_run in [true, false] {
        let said = match dry_run {
            true => cli.succeed(&[&arguments[..], &["--dry-run"]].concat()),
            false => cli.succeed(&arguments),
        };
        let mut report = read(&cli);
        if !dry_run {
            let locked = take_files_and_lock(&cli, &mut report);
            let names =
                |images: &[Value], name: &str| images.iter().map(|image| image[name].clone()).collect::<Vec<_>>();
            let images = report["images"].as_array().unwrap();
            assert_eq!(names(&locked, "reference"), names(images, "source"));
            assert_eq!(names(&locked, "original"), names(images, "original"));
        }
        let images = report["images"].as_array().unwrap();
        assert_eq!(images.len(), 6, "{report:#}");
        for (image, expected) in images.iter().zip(&expected) {
            let mut expected = expected.clone();
            if dry_run && expected["outcome"] == "pushed" {
                expected["outcome"] = "planned".into();
            }
            assert_eq!(*image, expected, "{image:#}\n{expected:#}");
        }
        // Its digests depend on the compression here, and are checked elsewhere.
        let mut built = images[5].clone();
        let (pushed, original) = (built["pushed"].take(), built["original"].take());
        assert!(pushed.is_string() && pushed == original, "{report:#}");
        let uploaded = built["counts"]["uploaded"].clone();
        assert!(uploaded["blobs"].as_u64().unwrap() >= 2, "{report:#}");
        built["counts"].take();
        assert_eq!(built["kept"][0]["digest"].take(), pushed);
        let source = built["source"].take();
        let source = source.as_str().unwrap().split_once('/').unwrap().1;
        assert_eq!(
            built,
            json!({"source": null, "destination": format!("{host}/{source}"),
                "outcome": if dry_run { "planned" } else { "pushed" }, "original": null, "pushed": null, "index": "whole",
                "pinnedDigestMissing": false, "rebuilt": true, "counts": null,
                "kept": [{"platform": "linux/amd64", "digest": null}]}),
        );
        let sum =
            |way: &str, what: &str| -> u64 { images.iter().map(|i| i["counts"][way][what].as_u64().unwrap()).sum() };
        let total = ["uploaded", "mounted", "skipped"].map(|way| {
            (
                way.to_owned(),
                json!({"blobs": sum(way, "blobs"), "bytes": sum(way, "bytes")}),
            )
        });
        let total: Value = total.into_iter().collect::<serde_json::Map<_, _>>().into();
        let warnings = report["warnings"].clone();
        let texts: Vec<&str> = warnings
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w.as_str().unwrap())
            .collect();
        // Four names that are not in the record of their bundle, and the archive without manifests.
        assert_eq!(texts.len(), 5, "{report:#}");
        assert!(
            texts[0].contains("does not list `docker.io/team/there:1`"),
            "{report:#}"
        );
        assert!(texts[4].contains("has no OCI manifests"), "{report:#}");
        texts
            .iter()
            .for_each(|text| assert!(said.stderr.contains(text), "{}", said.everything()));
        let missing = json!([{"reference": "docker.io/team/gone:1", "reason": "not found"}]);
        assert_eq!(
            report,
            json!({"dryRun": dry_run, "images": images, "total": total, "missing": missing, "warnings": warnings}),
        );
        assert!(
            !said.stderr.contains("it is in the other bundle"),
            "{}",
            said.everything()
        );
    }
}

#[test]
fn every_field_of_what_did_not() {
    let (cli, target) = (cli(), Double::new());
    let host = target.host();
    let mut maker = Maker::default();
    let old = maker.clone().image("linux/amd64", &[b"old"]);
    let mut before = Maker::default();
    before.image("linux/amd64", &[b"old"]);
    before.name("docker.io/team/left:1", &old);
    write(&cli, &before, "before.tar");
    cli.succeed(&["import", "before.tar", "-d", &host]);
    let left = maker.image("linux/amd64", &[b"new"]);
    maker.name("docker.io/team/left:1", &left);
    let corrupt = maker.image("linux/amd64", &[&noise(3, 900)]);
    maker.name("docker.io/team/corrupt:1", &corrupt);
    let lacking = maker.image("linux/amd64", &[b"lost"]);
    maker.name("docker.io/team/lacking:1", &lacking);
    maker.remove(&sha256(b"lost"));
    let (wrong, config_size) = (sha256(&noise(3, 900)), config(1));
    maker.corrupt(&wrong);
    write(&cli, &maker, "b.tar");
    let arguments = [
        "import",
        "b.tar",
        "-d",
        &host,
        "--on-existing",
        "skip",
        "--report",
        "r.json",
    ];
    cli.run(&arguments).expect_code(5);
    let mut report = read(&cli);
    take_files_and_lock(&cli, &mut report);
    let messages = [1, 2].map(|n| {
        report["images"][n]["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    });
    assert!(
        messages[0].contains(&wrong) && messages[0].contains("other bytes"),
        "{report:#}"
    );
    assert!(messages[1].contains(&sha256(b"lost")), "{report:#}");
    let hints = [1, 2].map(|n| report["images"][n]["error"]["hint"].clone());
    assert!(hints.iter().all(Value::is_string), "{report:#}");
    let destination = |name: &str| format!("{host}/team/{name}:1");
    assert_eq!(
        report,
        json!({"dryRun": false, "total": counts((1, config_size), NONE, NONE), "images": [
            {"source": "docker.io/team/left:1", "destination": destination("left"), "outcome": "leftAlone",
                "original": digest(&left), "pushed": digest(&old), "index": "whole", "pinnedDigestMissing": false,
                "counts": counts(NONE, NONE, NONE), "kept": [platform("linux/amd64", &left)]},
            {"source": "docker.io/team/corrupt:1", "destination": destination("corrupt"), "outcome": "failed",
                "original": digest(&corrupt), "pinnedDigestMissing": false, "counts": counts((1, config_size), NONE, NONE),
                "kept": [platform("linux/amd64", &corrupt)],
                "error": {"kind": "integrity", "message": messages[0], "hint": hints[0]}},
            {"source": "docker.io/team/lacking:1", "outcome": "failed", "pinnedDigestMissing": false,
                "counts": counts(NONE, NONE, NONE), "kept": [],
                "error": {"kind": "malformed", "message": messages[1], "hint": hints[1]}},
        ]}),
        "{report:#}"
    );
}

#[test]
fn a_run_that_fails_at_once_does_not_leave_the_report_of_an_earlier_one() {
    let (cli, target) = (cli(), Double::new());
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &[b"app"]);
    maker.name("docker.io/team/app:1", &image);
    write(&cli, &maker, "b.tar");
    let host = target.host();
    let none = counts(NONE, NONE, NONE);
    for (bundle, destination, more, code, kind) in [
        ("nowhere.tar", host.as_str(), None, 2, "usage"),
        ("b.tar", "127.0.0.1:1", None, 1, "network"),
        ("b.tar", host.as_str(), Some(["--only", "x"]), 1, "notFound"),
        ("b.tar", host.as_str(), Some(["--platform", "x"]), 2, "usage"),
    ] {
        cli.succeed(&["import", "b.tar", "-d", &host, "--report", "r.json"]);
        assert_eq!(read(&cli)["images"][0]["source"], "docker.io/team/app:1");
        let arguments = [
            "import",
            bundle,
            "-d",
            destination,
            "--report",
            "r.json",
            "--retries",
            "0",
        ];
        let more: Vec<&str> = more.into_iter().flatten().collect();
        let said = cli.run(&[&arguments[..], &more].concat()).expect_code(code);
        let report = read(&cli);
        let error = &report["error"];
        assert_eq!(error["kind"], kind, "{report:#}");
        assert!(
            said.stderr.contains(error["message"].as_str().unwrap()),
            "{}",
            said.everything()
        );
        let expected = json!({"dryRun": false, "images": [], "total": none, "error": error});
        assert_eq!(report, expected, "{report:#}");
    }
}

#[test]
fn while_a_run_goes_on_and_when_it_was_ended_the_report_says_that_there_is_none() {
    for signal in ["TERM", "KILL"] {
        let (cli, target) = (cli(), Double::new());
        let mut maker = Maker::default();
        let image = maker.image("linux/amd64", &[b"app"]);
        maker.name("docker.io/team/app:1", &image);
        write(&cli, &maker, "b.tar");
        let host = target.host();
        let arguments = ["import", "b.tar", "-d", &host, "--report", "r.json"];
        cli.succeed(&arguments);
        target.store().change("team/app", |r| *r = Default::default());
        target.add_fault(When::put("/manifests/"), Action::End(End::Stall));
        target.forget_requests();
        let mut child = cli.spawn(&arguments);
        wait_until("the manifest is on its way", || target.count("PUT", "/manifests/") > 0);
        let unfinished = |report: &Value| {
            assert_eq!(report["error"]["kind"], "cancelled", "{report:#}");
            assert_eq!(report["images"], json!([]));
        };
        unfinished(&read(&cli));
        let kill = std::process::Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), (signal == "TERM").then_some(143), "{signal}");
        unfinished(&read(&cli));
        assert!(target.manifest("team/app", "1").is_none());
    }
}
