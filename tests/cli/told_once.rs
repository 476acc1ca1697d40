//! A cause that hits all images is told once, whatever the registry answers: the words of a host apart from the name of the image.

use super::cli;
use super::support::cli::Output;
use super::support::fault::{Action, Canned, When};
use super::support::images::sized;
use super::support::{Cli, Double, Options};

const IMAGES: u64 = 4;

/// Images with different digests and sizes.
fn fill(registry: &Double) {
    for number in 0..IMAGES {
        sized(number, "linux/amd64", &[40 + number as usize]).push(registry, &format!("team/app{number}"), "1");
    }
}

fn export(cli: &Cli, registry: &Double, retries: &str) -> Output {
    let images: Vec<String> = (0..IMAGES)
        .map(|number| format!("{}/team/app{number}:1", registry.host()))
        .collect();
    let mut arguments = vec!["export", "-o", "b.tar", "--force", "--no-cache", "--retries", retries];
    arguments.extend(images.iter().map(String::as_str));
    cli.run(&arguments)
}

/// Checks that standard error has one line about the cause of all images, with these words.
#[track_caller]
fn told_once(name: &str, output: Output, host: &str, words: &str) -> Output {
    let output = output.expect_code(1);
    let line = format!("  {IMAGES} images: ");
    let groups: Vec<&str> = output.stderr.lines().filter(|text| text.starts_with(&line)).collect();
    let said = groups.len() == 1 && groups[0].contains(words) && groups[0].contains(host);
    assert!(said, "{name}: {}", output.everything());
    let notes = |text: &&str| text.starts_with("note: ") || text.starts_with("warning: ");
    let lines = output.stderr.lines().filter(|text| !notes(text)).count();
    assert!(lines <= 7, "{name}: {lines} lines: {}", output.everything());
    output
}

#[test]
fn every_refusal_of_a_source_is_told_once() {
    let cli = cli();
    for status in [
        400, 402, 406, 407, 409, 410, 412, 418, 422, 423, 428, 451, 495, 496, 501, 505, 511, 525, 526,
    ] {
        let registry = Double::start(Options::default().fault(When::get("/manifests/"), Action::status(status)));
        fill(&registry);
        told_once(
            &status.to_string(),
            export(&cli, &registry, "0"),
            &registry.host(),
            &format!("answered {status}"),
        )
        .says(&["hint: "]);
        registry.clear_faults();
        registry.add_fault(
            When::get("/manifests/"),
            Action::error(status, "UNKNOWN", "no such luck"),
        );
        let output = export(&cli, &registry, "0");
        told_once(&status.to_string(), output, &registry.host(), "UNKNOWN: no such luck");
    }
}

#[test]
fn bodies_of_a_source_that_cannot_be_used_are_told_once() {
    let cli = cli();
    let cut = || Action::Body(br#"{"schemaVersion":2,"mediaType":"application/vnd"#.to_vec());
    let no_digest = || Action::Header("docker-content-digest", None);
    for (name, path, actions, words) in [
        ("reset", "/manifests/", vec![Action::reset(20)], ""),
        (
            "cut off",
            "/manifests/",
            vec![cut()],
            "sends manifests that are cut off",
        ),
        (
            "cut off, without a digest",
            "/manifests/",
            vec![cut(), no_digest()],
            "sends manifests that are cut off",
        ),
        (
            "no manifest",
            "/manifests/",
            vec![Action::Body(b"[]".to_vec()), no_digest()],
            "cannot be used: it is not a JSON object",
        ),
        (
            "another kind",
            "/manifests/",
            vec![
                Action::Header("content-type", Some("application/vnd.oci.image.index.v1+json".into())),
                no_digest(),
            ],
            "but it was announced as",
        ),
        (
            "a redirect to nowhere",
            "/manifests/",
            vec![Action::redirect(307, "ftp://127.0.0.1{target}")],
            "which is not http",
        ),
        (
            "another length",
            "/blobs/",
            vec![Action::Body(b"other bytes, and more of them".repeat(40))],
            "sends another length of a blob than its manifest promises",
        ),
        (
            "other bytes",
            "/blobs/",
            vec![Action::FlipBit(3)],
            "sends blobs with other bytes than their digests promise",
        ),
        ("blobs that break off", "/blobs/", vec![Action::reset(0)], ""),
    ] {
        let registry = Double::new();
        fill(&registry);
        for action in actions {
            registry.add_fault(When::get(path), action);
        }
        told_once(name, export(&cli, &registry, "1"), &registry.host(), words).says(&["error: 4 of 4 images"]);
    }
}

#[test]
fn a_manifest_that_is_cut_off_once_is_asked_for_again() {
    let (cli, registry) = (cli(), Double::new());
    fill(&registry);
    registry.add_fault(
        When::get("/manifests/").first(1),
        Action::Body(b"{\"schemaVersion\":2".to_vec()),
    );
    registry.add_fault(
        When::get("/manifests/").first(1),
        Action::Header("docker-content-digest", None),
    );
    export(&cli, &registry, "1").expect_code(0);
}

#[test]
fn every_refusal_of_a_destination_is_told_once() {
    let (cli, source) = (cli(), Double::new());
    fill(&source);
    export(&cli, &source, "0").expect_code(0);
    let upload = || When::post("/blobs/uploads/");
    let manifest = || When::put("/manifests/");
    let located = |location: &[u8]| {
        let location = String::from_utf8(location.to_vec()).unwrap();
        Action::Answer(Canned {
            status: 301,
            headers: vec![("location".into(), location)],
            body: Vec::new(),
        })
    };
    for (name, faults, words, hint) in [
        ("413", vec![(upload(), Action::status(413))], "answered 413", "hint: "),
        (
            "409",
            vec![(upload(), Action::error(409, "CONFLICT", "no"))],
            "answered 409",
            "",
        ),
        (
            "no page",
            vec![(upload(), Action::status(404))],
            "answered 404",
            "hint: ",
        ),
        (
            "a redirect",
            vec![(upload(), Action::redirect(301, "https://other.example{target}"))],
            "redirects uploads (301) to `https://other.example`",
            "hint: name the registry by the address that it redirects to",
        ),
        (
            "a redirect to nowhere",
            vec![(upload(), Action::status(301))],
            "redirects without saying where to",
            "hint: ",
        ),
        (
            "a redirect in UTF-8",
            vec![(upload(), located("https://other.example/h\u{fc}lle".as_bytes()))],
            "redirects uploads (301) to `https://other.example`",
            "hint: ",
        ),
        (
            "lost blobs",
            vec![(When::path("/blobs/uploads/"), Action::Lose)],
            "loses blobs that it accepts",
            "hint: the registry loses what it accepts",
        ),
        (
            "no word on blobs",
            vec![
                (When::put("/blobs/uploads/"), Action::Status(204)),
                (When::head("/blobs/"), Action::status(400)),
            ],
            "answered 204 in place of 201",
            "hint: run the same command again",
        ),
        (
            "a kind of manifests",
            vec![(manifest(), Action::error(400, "MANIFEST_INVALID", "manifest invalid"))],
            "MANIFEST_INVALID: manifest invalid",
            "hint: the registry does not take this kind of manifest",
        ),
        (
            "a size",
            vec![(manifest(), Action::status(413))],
            "answered 413",
            "hint: the manifest is larger",
        ),
    ] {
        let target = Double::new();
        for (when, action) in faults {
            target.add_fault(when, action);
        }
        let host = target.host();
        let output = cli.run(&["import", "b.tar", "-d", &host, "--retries", "0", "--no-cache"]);
        told_once(
            name,
            output,
            if words.starts_with("answered") { &host } else { "" },
            words,
        )
        .says(&[hint]);
    }
}

#[test]
fn the_names_of_images_that_are_absent_are_all_told() {
    let (cli, registry) = (cli(), Double::new());
    fill(&registry);
    registry.add_fault(
        When::get("/manifests/"),
        Action::error(404, "MANIFEST_UNKNOWN", "unknown"),
    );
    let output = export(&cli, &registry, "0").expect_code(1);
    for number in 0..IMAGES {
        let words = format!("there is no tag `1` in `{}/team/app{number}`", registry.host());
        assert!(output.stderr.contains(&words), "{}", output.everything());
    }
}

#[test]
fn a_tag_under_a_label_of_another_kind_is_what_its_digest_says() {
    let (cli, registry) = (cli(), Double::new());
    fill(&registry);
    let label = "application/vnd.oci.image.index.v1+json".to_owned();
    registry.add_fault(When::get("/manifests/"), Action::Header("content-type", Some(label)));
    let output = export(&cli, &registry, "0").expect_code(0);
    assert_eq!(
        output.stderr.matches("`Content-Type`").count(),
        1,
        "{}",
        output.everything()
    );
}

#[test]
fn a_mirror_that_lacks_or_damages_content_is_told_once_with_a_count() {
    let (cli, origin) = (cli(), Double::new());
    fill(&origin);
    let lacks = Double::start(Options::default().fault(When::any(), Action::error(404, "NAME_UNKNOWN", "no")));
    let damages = Double::start(Options::default().fault(When::get("/blobs/"), Action::FlipBit(3)));
    let without_blobs =
        Double::start(Options::default().fault(When::get("/blobs/"), Action::error(404, "BLOB_UNKNOWN", "no")));
    fill(&damages);
    fill(&without_blobs);
    for (mirror, words, count) in [
        (&lacks, "does not have all that is asked for", Some("did not have ")),
        (
            &without_blobs,
            "does not have all that is asked for",
            Some("did not have "),
        ),
        (
            &damages,
            "sends blobs with other bytes than their digests promise",
            None,
        ),
    ] {
        let images: Vec<String> = (0..IMAGES)
            .map(|number| format!("{}/team/app{number}:1", origin.host()))
            .collect();
        let flag = format!("{}=http://{}", origin.host(), mirror.host());
        let mut arguments = vec![
            "export",
            "-o",
            "m.tar",
            "--force",
            "--fresh",
            "--no-cache",
            "--mirror",
            &flag,
        ];
        arguments.extend(images.iter().map(String::as_str));
        let output = cli.run(&arguments).expect_code(0);
        let told = |words: &str| {
            output
                .stderr
                .lines()
                .filter(|line| line.contains(&mirror.host()) && line.contains(words))
                .count()
        };
        assert_eq!(told(words), 1, "{}", output.everything());
        let counted = count.map_or(0, told);
        assert_eq!(counted, usize::from(count.is_some()), "{}", output.everything());
        assert_eq!(told(""), 1 + counted, "{}", output.everything());
    }
}

#[test]
fn a_blob_that_its_registry_does_not_give_is_named_once() {
    let (cli, registry, target) = (cli(), Double::new(), Double::new());
    fill(&registry);
    registry.add_fault(When::get("/blobs/"), Action::error(404, "BLOB_UNKNOWN", "no"));
    let image = format!("{}/team/app0:1", registry.host());
    let output = cli.run(&["-d", &target.host(), &image, "--no-cache"]).expect_code(1);
    let line = output
        .stderr
        .lines()
        .find(|line| line.contains("cannot read blob"))
        .unwrap_or_default();
    assert_eq!(line.matches("blob sha256:").count(), 1, "{}", output.everything());
}
