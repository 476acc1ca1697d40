//! A bundle from a pipe: read once from front to end, and each blob is sent as it arrives.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::handmade::assert_complete;
use super::support::cli::Output;
use super::support::fault::{Action, When};
use super::support::image::{Image, Style};
use super::support::images::{multi, shared_base, sized};
use super::support::layout::{Tar, blob_name, write_layout};
use super::support::{Cli, Double, End, Options};

/// More than is kept of a blob that comes out of a pipe.
const LARGE: usize = 40 << 20;

pub(crate) fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// Exports these images as `team/NAME:1` to `bundle.tar`.
pub(crate) fn bundle(cli: &Cli, images: &[(&str, &Image)]) -> Tar {
    let source = Double::new();
    let mut arguments = vec!["export".to_owned(), "-o".to_owned(), "bundle.tar".to_owned()];
    for (name, image) in images {
        image.push(&source, &format!("team/{name}"), "1");
        arguments.push(format!("{}/team/{name}:1", source.host()));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    cli.succeed(&arguments);
    Tar::open(&cli.path("bundle.tar"))
}

/// Runs `cat FILE | docker-mirror import - -d REGISTRY ...`, without a folder for temporary files.
pub(super) fn pipe(cli: &Cli, file: &str, registry: &Double, more: &[&str]) -> Output {
    pipe_with(cli, file, registry, more, &cli.path("nowhere"))
}

pub(super) fn pipe_with(cli: &Cli, file: &str, registry: &Double, more: &[&str], temp_dir: &Path) -> Output {
    let host = registry.host();
    let arguments = [&["import", "-", "-d", &host], more].concat();
    let mut child = cli
        .command(&arguments)
        .env("TMPDIR", temp_dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut file = File::open(cli.path(file)).unwrap();
    let feeder = std::thread::spawn(move || {
        let mut buffer = vec![0; 100_000];
        loop {
            let got = file.read(&mut buffer).unwrap();
            // Whoever reads no more has found something.
            if got == 0 || input.write_all(&buffer[..got]).is_err() {
                return;
            }
        }
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Output::new(&output, &arguments)
}

/// Every upload that ended well, by the digest that it stated.
pub(super) fn uploads(registry: &Double) -> Vec<String> {
    let puts = registry.requests_of("PUT", "digest=");
    let done = puts.iter().filter(|put| put.status == 201);
    let mut digests: Vec<String> = done
        .map(|put| put.query.split("digest=").nth(1).unwrap().replace("%3A", ":"))
        .collect();
    digests.sort();
    digests
}

pub(super) fn layer(image: &Image, n: usize) -> String {
    image.root.json()["layers"][n]["digest"].as_str().unwrap().to_owned()
}

fn blobs(images: &[&Image]) -> Vec<String> {
    let mut all: Vec<String> = images.iter().flat_map(|i| i.blobs.keys().cloned()).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn a_bundle_of_our_own_is_pushed_in_one_pass_without_a_temporary_file() {
    let (cli, target) = (cli(), Double::new());
    let (large, small) = (
        sized(1, "linux/amd64", &[LARGE, 3 << 20, 1000]),
        sized(2, "linux/arm64", &[5, 20 << 20]),
    );
    bundle(&cli, &[("large", &large), ("small", &small)]);
    let output = pipe(&cli, "bundle.tar", &target, &[]).expect_code(0);
    assert!(!output.stderr.contains("temporary"), "{}", output.everything());
    assert_complete(&target, "team/large", "1", false);
    assert_complete(&target, "team/small", "1", false);
    assert_eq!(uploads(&target), blobs(&[&large, &small]), "each blob once");
    // What a file would have said.
    let other = Double::new();
    let file = cli.succeed(&["import", "bundle.tar", "-d", &other.host()]);
    assert_eq!(
        output.stdout.replace(&target.host(), ""),
        file.stdout.replace(&other.host(), "")
    );
    // All of it is read a second time, and nothing asked but the tags.
    target.forget_requests();
    let again = pipe(&cli, "bundle.tar", &target, &[]).expect_code(0);
    assert_eq!(again.stdout, output.stdout);
    assert_eq!(target.count("*", "/blobs/"), 0, "{}", target.transcript());
}

#[test]
fn memory_does_not_grow_with_the_bundle() {
    let (cli, target) = (cli(), Double::new());
    let size = 160 << 20;
    let image = sized(1, "linux/amd64", &[size, 8 << 20, 8 << 20, 8 << 20]);
    let tar = bundle(&cli, &[("x", &image)]);
    let behind = tar.member(&blob_name(&layer(&image, 0))).unwrap().offset + size as u64;
    let host = target.host();
    let arguments = ["import", "-", "-d", &host];
    let mut child = cli.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut file = File::open(cli.path("bundle.tar")).unwrap();
    std::io::copy(&mut (&mut file).take(behind), &mut input).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    std::io::copy(&mut file, &mut input).unwrap();
    drop(input);
    Output::new(&child.wait_with_output().unwrap(), &arguments).expect_code(0);
    assert_complete(&target, "team/x", "1", false);
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 72 << 10, "{peak} KiB");
}

#[test]
fn a_base_that_many_share_crosses_once_and_is_mounted() {
    let (cli, target) = (cli(), Double::new());
    let images = shared_base(6, 20 << 20);
    let names: Vec<String> = (0..images.len()).map(|n| format!("app{n}")).collect();
    let named: Vec<(&str, &Image)> = names.iter().map(String::as_str).zip(&images).collect();
    bundle(&cli, &named);
    pipe(&cli, "bundle.tar", &target, &[]).expect_code(0);
    let base = layer(&images[0], 0);
    assert_eq!(uploads(&target).iter().filter(|digest| **digest == base).count(), 1);
    for name in &names {
        assert_complete(&target, &format!("team/{name}"), "1", false);
    }
}

#[test]
fn flags_work_as_with_a_file() {
    let (cli, target) = (cli(), Double::new());
    let both = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "both");
    let other = sized(7, "linux/amd64", &[100_000]);
    bundle(&cli, &[("both", &both), ("other", &other)]);
    let planned = pipe(&cli, "bundle.tar", &target, &["--dry-run"]).expect_code(0);
    assert_eq!(planned.lines().len(), 2, "{}", planned.everything());
    assert!(planned.stdout.contains("to send, 0 "), "{}", planned.everything());
    assert_eq!(target.count("PUT", "") + target.count("POST", ""), 0);
    pipe(
        &cli,
        "bundle.tar",
        &target,
        &["--only", "*/both", "--platform", "linux/arm64", "--index", "filtered"],
    )
    .expect_code(0);
    assert_complete(&target, "team/both", "1", false);
    assert!(
        target
            .store()
            .repository("team/other")
            .is_none_or(|found| found.tags.is_empty())
    );
    let index = target.manifest("team/both", "1").unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    pipe(&cli, "bundle.tar", &target, &["--only", "*/other", "--dry-run"]).expect_code(0);
    let map = format!("{}=else/where", cli_source(&planned));
    pipe(&cli, "bundle.tar", &target, &["--only", "*/other", "--map", &map]).expect_code(0);
    assert_complete(&target, "else/where/other", "1", false);
}

/// Returns the host and the first part of the path at the start of the first line of a plan.
fn cli_source(planned: &Output) -> String {
    let source = planned.lines()[0].split(" -> ").next().unwrap();
    source.rsplit_once('/').unwrap().0.to_owned()
}

#[test]
fn what_does_not_begin_with_its_manifests_is_copied_and_the_copy_is_gone() {
    let (cli, target) = (cli(), Double::new());
    let image = sized(3, "linux/amd64", &[3 << 20, 1000]);
    write_layout(&cli.path("b.tar"), &[("docker.io/library/x:1", &image)]);
    pipe(&cli, "b.tar", &target, &[])
        .expect_code(1)
        .says(&["nowhere", "manifests do not come first", "TMPDIR"]);
    assert!(target.requests().is_empty());
    let folder = cli.path("room");
    std::fs::create_dir(&folder).unwrap();
    pipe_with(&cli, "b.tar", &target, &[], &folder).expect_code(0).says(&[
        "temporary file",
        "room",
        "manifests do not come first",
    ]);
    assert_complete(&target, "library/x", "1", false);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_bundle_of_our_own_that_lacks_a_config_says_so_and_needs_no_room() {
    let (cli, target) = (cli(), Double::new());
    let image = sized(3, "linux/amd64", &[100_000, 1000]);
    let tar = bundle(&cli, &[("x", &image)]);
    let config = image.root.json()["config"]["digest"].as_str().unwrap().to_owned();
    tar.without(&blob_name(&config), &cli.path("less.tar"));
    let output = pipe(&cli, "less.tar", &target, &[])
        .expect_code(5)
        .says(&["1 blob is missing", &config, "team/x"]);
    assert!(!output.stderr.contains("come first"), "{}", output.everything());
    assert!(target.requests().is_empty());
}

#[test]
fn a_wrapped_bundle_of_our_own_needs_no_copy_either() {
    let (cli, target) = (cli(), Double::new());
    let image = sized(3, "linux/amd64", &[LARGE / 2, 1000]);
    bundle(&cli, &[("x", &image)]);
    let bytes = std::fs::read(cli.path("bundle.tar")).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    std::fs::write(cli.path("b.tar.gz"), encoder.finish().unwrap()).unwrap();
    pipe(&cli, "b.tar.gz", &target, &[]).expect_code(0);
    assert_complete(&target, "team/x", "1", false);
}

#[test]
fn a_compressed_bundle_that_does_not_fit_when_unpacked_is_read_as_it_is_unpacked() {
    let limited = |cli: &Cli, file: &str, target: &Double| {
        // A limit on the size of a file appears as a failed write, like a full disk.
        let output = Command::new("sh")
            .args([
                "-c",
                "ulimit -f 512; exec \"$0\" \"$@\"",
                env!("CARGO_BIN_EXE_docker-mirror"),
            ])
            .args(["import", file, "-d", &target.host()])
            .env("HOME", cli.folder())
            .env("TMPDIR", cli.folder())
            .current_dir(cli.folder())
            .output()
            .unwrap();
        Output::new(&output, &["import", file])
    };
    let (cli, target) = (cli(), Double::new());
    let image = sized(3, "linux/amd64", &[3 << 20, 1000]);
    bundle(&cli, &[("x", &image)]);
    let pack = |from: &str, to: &str| {
        let bytes = std::fs::read(cli.path(from)).unwrap();
        std::fs::write(cli.path(to), zstd::encode_all(bytes.as_slice(), 1).unwrap()).unwrap();
    };
    pack("bundle.tar", "b.tar.zst");
    limited(&cli, "b.tar.zst", &target).expect_code(0).says(&[
        "b.tar.zst",
        "cannot write a temporary file",
        "as it is unpacked",
    ]);
    assert_complete(&target, "team/x", "1", false);

    // So it is where there is no folder for temporary files.
    let target = Double::new();
    let arguments = ["import", "b.tar.zst", "-d", &target.host()];
    let output = cli
        .command(&arguments)
        .env("TMPDIR", cli.path("nowhere"))
        .output()
        .unwrap();
    Output::new(&output, &arguments)
        .expect_code(0)
        .says(&["nowhere", "as it is unpacked"]);
    assert_complete(&target, "team/x", "1", false);

    // Another program's archive has to be copied first, so that the disk is the cause.
    let target = Double::new();
    write_layout(&cli.path("foreign.tar"), &[("docker.io/library/x:1", &image)]);
    pack("foreign.tar", "f.tar.zst");
    limited(&cli, "f.tar.zst", &target)
        .expect_code(1)
        .says(&["temporary file", "TMPDIR"])
        .hides(&["as it is unpacked"]);
    assert!(target.requests().is_empty());
}

#[test]
fn a_corrupt_blob_never_ends_in_an_upload_or_a_tag() {
    for size in [1000, LARGE] {
        let (cli, target) = (cli(), Double::new());
        let (bad, good) = (sized(1, "linux/amd64", &[size]), sized(2, "linux/amd64", &[2000]));
        let tar = bundle(&cli, &[("bad", &bad), ("good", &good)]);
        let victim = layer(&bad, 0);
        tar.flip(&blob_name(&victim));
        pipe(&cli, "bundle.tar", &target, &[]).expect_code(5).says(&[
            "team/bad",
            &blob_name(&victim),
            "at offset",
            "other bytes",
        ]);
        assert!(target.store().content(&victim).is_none());
        assert!(target.store().repository("team/bad").unwrap().tags.is_empty());
        assert_complete(&target, "team/good", "1", false);
    }
}

#[test]
fn what_does_not_come_fails_its_images_alone() {
    let (cli, target) = (cli(), Double::new());
    let (bad, good) = (
        sized(1, "linux/amd64", &[3 << 20, 500]),
        sized(2, "linux/amd64", &[2000]),
    );
    let tar = bundle(&cli, &[("bad", &bad), ("good", &good)]);
    let victim = layer(&bad, 0);
    tar.without(&blob_name(&victim), &cli.path("less.tar"));
    pipe(&cli, "less.tar", &target, &[])
        .expect_code(5)
        .says(&["team/bad", "missing from the bundle", &victim]);
    assert!(target.store().repository("team/bad").unwrap().tags.is_empty());
    assert_complete(&target, "team/good", "1", false);

    // Cut off in the middle of the largest blob, which comes before all other layers.
    let bytes = std::fs::read(cli.path("bundle.tar")).unwrap();
    let member = tar.member(&blob_name(&victim)).unwrap();
    std::fs::write(cli.path("cut.tar"), &bytes[..(member.offset + 1_000_000) as usize]).unwrap();
    let fresh = Double::new();
    pipe(&cli, "cut.tar", &fresh, &[])
        .expect_code(5)
        .says(&["truncated", "copy it again"]);
    assert!(fresh.store().content(&victim).is_none());
    assert_eq!(fresh.count("PUT", "/manifests/"), 0);
}

#[test]
fn a_broken_upload_goes_on_from_where_the_registry_is() {
    let (cli, target) = (cli(), Double::new());
    let image = sized(1, "linux/amd64", &[LARGE]);
    bundle(&cli, &[("x", &image)]);
    let cut = Action::CutRequest(30 << 20, End::Reset);
    target.add_fault(When::patch("/blobs/uploads/").first(1), cut);
    pipe(&cli, "bundle.tar", &target, &[]).expect_code(0);
    assert_complete(&target, "team/x", "1", false);
    let patches = target.requests_of("PATCH", "");
    assert_eq!(patches.len(), 2, "{}", target.transcript());
    assert_eq!(
        patches[1].header("content-range").split('-').next().unwrap(),
        (30 << 20).to_string()
    );
}

#[test]
fn an_upload_whose_bytes_have_gone_by_fails_with_advice_and_small_ones_are_sent_again() {
    let (cli, target) = (cli(), Double::new());
    let (large, small) = (sized(1, "linux/amd64", &[LARGE]), sized(2, "linux/amd64", &[4 << 20]));
    bundle(&cli, &[("large", &large), ("small", &small)]);
    let cut = |after| Action::CutRequest(after, End::Reset);
    target.add_fault(When::patch("/team/large/").first(1), cut(30 << 20));
    let digest = layer(&small, 0).replace(':', "%3A");
    target.add_fault(When::put("/blobs/uploads/").and(&digest).first(1), cut(3 << 20));
    // Nothing is left of a session that broke.
    target.add_fault(When::get("/blobs/uploads/"), Action::ForgetUpload);
    pipe(&cli, "bundle.tar", &target, &[]).expect_code(1).says(&[
        "team/large",
        &layer(&large, 0),
        "no longer available from the pipe",
        "as a file",
        "run the import again",
    ]);
    assert_complete(&target, "team/small", "1", false);
    assert!(target.store().repository("team/large").unwrap().tags.is_empty());
    target.clear_faults();
    pipe(&cli, "bundle.tar", &target, &[]).expect_code(0);
    assert_complete(&target, "team/large", "1", false);
}

#[test]
fn a_registry_that_wants_uploads_otherwise_gets_them_from_a_pipe_too() {
    let image = sized(1, "linux/amd64", &[LARGE, 6 << 20]);
    let limited = Options {
        max_body: Some(5 << 20),
        ..Options::default()
    };
    let put = When::put("/blobs/uploads/")
        .with_header("content-length")
        .without_header("content-range");
    let no_put = Options::default().fault(put.first(1), Action::error(404, "NOT_FOUND", "no such page"));
    for options in [limited, no_put] {
        let (cli, target) = (cli(), Double::start(options));
        bundle(&cli, &[("x", &image)]);
        pipe(&cli, "bundle.tar", &target, &[]).expect_code(0);
        assert_complete(&target, "team/x", "1", false);
    }
}

#[test]
fn one_job_is_enough_and_refused_mounts_do_not_stop_what_fits_into_memory() {
    let (cli, target) = (cli(), Double::new());
    target.add_fault(When::post("mount="), Action::IgnoreMount);
    let images = shared_base(4, 8 << 20);
    let names: Vec<String> = (0..images.len()).map(|n| format!("app{n}")).collect();
    let named: Vec<(&str, &Image)> = names.iter().map(String::as_str).zip(&images).collect();
    bundle(&cli, &named);
    pipe(&cli, "bundle.tar", &target, &["-j", "1"]).expect_code(0);
    for name in &names {
        assert_complete(&target, &format!("team/{name}"), "1", false);
    }
}
