//! Import: everything is checked before the first request, blobs are sent in the right order, nothing twice and nothing
//! wrong.

use std::fs::File;

use super::support::cli::{Output, wait_until};
use super::support::fault::{Action, When};
use super::support::image::{Image, Style};
use super::support::images::{greeting, linux_and_windows, multi, shared_base, sized};
use super::support::layout::{Tar, append, blob_name, write_layout};
use super::support::{Double, Entry, Gate, Options};
use super::{Cli, cli};

/// A bundle of the program's own, with the fixture.
fn bundle(cli: &Cli) -> String {
    let source = super::source();
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "bundle.tar"]);
    "bundle.tar".to_owned()
}

fn digest_of(entry: &Entry) -> String {
    entry.path.rsplit('/').next().unwrap().to_owned()
}

#[test]
fn blobs_then_children_then_index_then_tag() {
    let (cli, target) = (cli(), Double::new());
    cli.succeed(&["import", &bundle(&cli), "-d", &target.host()]);
    let requests = target.requests();
    let puts: Vec<&Entry> = requests
        .iter()
        .filter(|e| e.method == "PUT" && e.path.contains("/manifests/"))
        .collect();
    assert_eq!(
        digest_of(puts.last().unwrap()),
        "1.0",
        "the tag is last: {}",
        target.transcript()
    );
    let index_digest = target.store().repository("library/greeting").unwrap().tags["1.0"].clone();
    let fixture = greeting();
    let children: Vec<String> = fixture.documents_of("linux").into_iter().map(|d| d.digest).collect();
    for put in &puts[..puts.len() - 1] {
        let digest = digest_of(put);
        assert!(
            children.contains(&digest) || digest == index_digest,
            "{digest} is neither child nor index"
        );
    }
    // The registry double refuses a manifest whose blobs are missing: each PUT was accepted at once, which proves the
    // order.
    assert!(puts.iter().all(|put| put.status == 201), "{}", target.transcript());
}

#[test]
fn a_blob_that_is_there_is_not_sent() {
    let (cli, target) = (cli(), Double::new());
    let file = bundle(&cli);
    let fixture = greeting();
    let documents = fixture.documents_of("linux");
    let all = Image::blobs_of(&documents);
    let (present, absent) = all.split_at(all.len() / 2);
    for digest in present {
        target
            .store()
            .put_blob("library/greeting", fixture.blobs[digest].clone());
    }
    cli.succeed(&["import", &file, "-d", &target.host()]);
    let sent: Vec<String> = target
        .requests_of("PUT", "digest=")
        .iter()
        .map(|e| e.query.split("digest=").nth(1).unwrap().replace("%3A", ":"))
        .collect();
    assert_eq!(sent.len(), absent.len(), "{}", target.transcript());
    assert!(sent.iter().all(|digest| absent.contains(digest)));
}

#[test]
fn a_tag_that_holds_the_digest_is_not_touched() {
    let (cli, target) = (cli(), Double::new());
    let file = bundle(&cli);
    let first = cli.succeed(&["import", &file, "-d", &target.host()]);
    target.forget_requests();
    let again = cli.succeed(&["import", &file, "-d", &target.host()]);
    assert_eq!(first.stdout, again.stdout);
    for method in ["PUT", "POST", "PATCH"] {
        assert_eq!(target.count(method, ""), 0, "{}", target.transcript());
    }
    assert_eq!(target.count("*", "/blobs/"), 0, "{}", target.transcript());
}

#[test]
fn every_blob_is_checked_before_the_first_request() {
    let (cli, target) = (cli(), Double::new());
    let whole = bundle(&cli);
    let tar = Tar::open(&cli.path(&whole));
    let fixture = greeting();
    for digest in Image::blobs_of(&fixture.documents_of("linux")) {
        tar.without(&blob_name(&digest), &cli.path("less.tar"));
        cli.run(&["import", "less.tar", "-d", &target.host()])
            .expect_code(5)
            .says(&[&digest]);
    }
    let child = &fixture.documents_of("linux")[0].digest;
    tar.without(&blob_name(child), &cli.path("less.tar"));
    cli.run(&["import", "less.tar", "-d", &target.host()])
        .expect_code(5)
        .says(&[child]);
    assert!(target.requests().is_empty(), "{}", target.transcript());
}

#[test]
fn a_blob_of_another_size_is_found_before_the_first_request() {
    let (cli, target) = (cli(), Double::new());
    let image = sized(3, "linux/amd64", &[1000, 2000]);
    let victim = image.root.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    let mut shorter = image.clone();
    shorter.blobs.insert(victim.clone(), image.blobs[&victim].slice(..999));
    write_layout(&cli.path("b.tar"), &[("docker.io/library/x:1", &shorter)]);
    cli.run(&["import", "b.tar", "-d", &target.host()])
        .expect_code(5)
        .says(&[victim.trim_start_matches("sha256:"), "999", "1000"]);
    assert!(target.requests().is_empty(), "{}", target.transcript());
}

#[test]
fn a_corrupt_blob_never_ends_in_a_finished_upload() {
    let (cli, target) = (cli(), Double::new());
    let file = bundle(&cli);
    let fixture = greeting();
    let victim = fixture.documents_of("linux")[0].json()["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    Tar::open(&cli.path(&file)).flip(&blob_name(&victim));
    cli.run(&["import", &file, "-d", &target.host()])
        .expect_code(5)
        .says(&[&victim]);
    let stored = target.store().repository("library/greeting").unwrap_or_default();
    assert!(!stored.blobs.contains(&victim));
    assert!(stored.tags.is_empty(), "no tag without its tree");
    // Not even tried: the registry did not have to refuse it.
    let tried = target.requests_of("PUT", "digest=");
    assert!(
        tried.iter().all(|e| e.status == 201 || e.status == 0),
        "{}",
        target.transcript()
    );
}

#[test]
fn a_corrupt_large_blob_is_found_while_it_is_sent() {
    let (cli, target) = (cli(), Double::new());
    let image = sized(4, "linux/amd64", &[3_000_000]);
    let victim = image.root.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    write_layout(&cli.path("b.tar"), &[("docker.io/library/x:1", &image)]);
    Tar::open(&cli.path("b.tar")).flip(&blob_name(&victim));
    cli.run(&["import", "b.tar", "-d", &target.host()])
        .expect_code(5)
        .says(&[&victim]);
    assert!(target.store().content(&victim).is_none());
    let created = target.requests_of("PUT", "digest=");
    assert!(
        created
            .iter()
            .all(|e| !e.query.contains(victim.trim_start_matches("sha256:")) || e.status != 201)
    );
    assert!(target.manifest("library/x", "1").is_none());
}

#[test]
fn a_blob_goes_up_once_and_is_mounted_elsewhere() {
    let (cli, target) = (cli(), Double::new());
    let images = shared_base(5, 100_000);
    let names: Vec<String> = (0..5).map(|n| format!("docker.io/shared/image{n}:1")).collect();
    let pairs: Vec<(&str, &Image)> = names.iter().map(String::as_str).zip(&images).collect();
    write_layout(&cli.path("b.tar"), &pairs);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    let base = super::support::sha256(&super::support::image::noise(1, 100_000));
    let encoded = base.replace(':', "%3A");
    let uploads = target
        .requests_of("PUT", "digest=")
        .into_iter()
        .filter(|e| e.query.contains(&base) || e.query.contains(&encoded))
        .count();
    assert_eq!(uploads, 1, "{}", target.transcript());
    for n in 0..5 {
        assert!(target.store().blob(&format!("shared/image{n}"), &base).is_some());
    }
}

#[test]
fn several_images_arrive_in_the_order_of_the_bundle() {
    let (cli, target) = (cli(), Double::new());
    let images = [
        linux_and_windows(Style::Docker),
        multi(Style::Oci, &["linux/amd64"], "b"),
        greeting(),
    ];
    let names = ["docker.io/z/z:1", "docker.io/a/a:1", "docker.io/m/m:1"];
    let pairs: Vec<(&str, &Image)> = names.into_iter().zip(&images).collect();
    write_layout(&cli.path("b.tar"), &pairs);
    let out = cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    let order: Vec<bool> = out
        .lines()
        .iter()
        .zip(["/z/z:1@", "/a/a:1@", "/m/m:1@"])
        .map(|(line, part)| line.contains(part))
        .collect();
    assert_eq!(order, [true; 3], "{}", out.everything());
}

#[test]
fn a_destination_that_says_yes_to_everything_is_found_out() {
    let cli = cli();
    let file = bundle(&cli);
    let target = Double::start(Options::default().fault(When::any(), Action::html()));
    let out = cli.run(&["import", &file, "-d", &target.host()]).expect_code(1);
    assert!(out.stdout.is_empty(), "{}", out.everything());
}

#[test]
fn the_bundle_is_not_unpacked() {
    let (cli, target) = (cli(), Double::new());
    let file = bundle(&cli);
    let before = cli.files();
    cli.succeed(&["import", &file, "-d", &target.host()]);
    assert_eq!(cli.files(), before);
    // Also with nowhere to unpack to.
    let mut bare = super::cli();
    bare.set("TMPDIR", "/nonexistent");
    bare.succeed(&[
        "import",
        cli.path(&file).to_str().unwrap(),
        "-d",
        &format!("{}/again", target.host()),
    ]);
}

#[test]
fn members_that_nobody_knows_are_passed_over() {
    let (cli, target) = (cli(), Double::new());
    let image = sized(9, "linux/amd64", &[10]);
    write_layout(&cli.path("plain.tar"), &[("docker.io/library/x:1", &image)]);
    let plain = Tar::open(&cli.path("plain.tar"));
    let mut builder = tar::Builder::new(File::create(cli.path("b.tar")).unwrap());
    append(&mut builder, "README", b"hello");
    for member in &plain.members {
        append(&mut builder, &member.name, &plain.bytes(&member.name));
    }
    builder.finish().unwrap();
    drop(builder);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert!(target.manifest("library/x", "1").is_some());
}

#[test]
fn a_standard_input_through_which_nothing_comes_is_told() {
    use std::io::BufRead as _;

    let cli = cli();
    for command in [
        &["import", "-", "-d", "127.0.0.1:1"][..],
        &["inspect", "-"],
        &["verify", "-"],
    ] {
        let mut child = cli
            .command(command)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut messages = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let is_told = messages
            .by_ref()
            .map(Result::unwrap)
            .any(|line| line.contains("nothing comes through standard input yet"));
        assert!(is_told, "{command:?} ended without a word");
        drop(child.stdin.take());
        assert!(!child.wait().unwrap().success(), "{command:?}");
    }
}

#[test]
fn the_hint_about_a_damaged_bundle_needs_no_second_reading() {
    let (cli, target, gate) = (cli(), Double::new(), Gate::closed());
    let file = bundle(&cli);
    let victim = greeting().documents_of("linux")[0].json()["layers"][0]["digest"].clone();
    let victim = victim.as_str().unwrap();
    Tar::open(&cli.path(&file)).flip(&blob_name(victim));
    target.add_fault(When::any(), Action::Hold(gate.clone()));
    let host = target.host();
    let arguments = ["import", &file, "-d", &host];
    let child = cli.spawn(&arguments);
    wait_until("the registry is asked", || gate.arrived() > 0);
    std::fs::remove_file(cli.path(&file)).unwrap();
    gate.open();
    Output::new(&child.wait_with_output().unwrap(), &arguments)
        .expect_code(5)
        .says(&[
            victim,
            "hint: `docker-mirror verify bundle.tar --want want.txt` lists what is damaged",
        ]);
}
