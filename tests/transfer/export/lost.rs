//! Images that fail in a later run, and exports that go on without some.

use std::time::Duration;

use super::tools::{Export, blob_bytes_sent, bytes_written, check, noise, put_image, text};
use crate::support::fault::{Action, When};
use crate::support::real::skipped;
use crate::support::{Double, sha256};

const MIB: usize = 1 << 20;

/// Two images of 12 and 9 MiB.
fn two_images() -> (Double, Export, Vec<u8>) {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 10 * MIB), noise(2, 2 * MIB)]);
    put_image(&registry, "b/b", "1", &[noise(3, 9 * MIB)]);
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let plain = export.bundle("plain.tar", &[]);
    (registry, export, plain)
}

fn config_of(registry: &Double, repository: &str) -> String {
    let manifest: serde_json::Value = serde_json::from_slice(&registry.manifest(repository, "1").unwrap()).unwrap();
    manifest["config"]["digest"].as_str().unwrap().to_owned()
}

fn kill_after(registry: &Double, export: &Export, bytes: usize) {
    export.kill_after(registry, "b.tar", &["-j", "2"], bytes as u64);
}

#[test]
fn an_image_that_fails_in_the_second_run_keeps_its_pin_and_its_bytes() {
    let (registry, export, plain) = two_images();
    kill_after(&registry, &export, 16 * MIB);
    let before = std::fs::read(export.path("b.tar.partial")).unwrap();
    registry.add_fault(
        When::get(&config_of(&registry, "b/b")),
        Action::error(403, "DENIED", "not today"),
    );
    let said = export.fails("b.tar", &[], 3);
    assert!(
        said.contains("1 of 2 images cannot be resolved") && said.contains("not today"),
        "{said}"
    );
    assert!(
        before == std::fs::read(export.path("b.tar.partial")).unwrap(),
        "the unfinished file was touched"
    );
    registry.clear_faults();
    registry.forget_requests();
    // The tag moves meanwhile, and the first run's choice counts.
    put_image(&registry, "b/b", "1", &[noise(9, 1000)]);
    assert!(export.bundle("b.tar", &[]) == plain, "other bytes");
    assert!(
        blob_bytes_sent(&registry) <= (21 - 16 + 2 * 5) * MIB as u64,
        "{}",
        registry.transcript()
    );
}

#[test]
fn a_pin_outlasts_a_run_without_the_image() {
    let (registry, export, plain) = two_images();
    kill_after(&registry, &export, 4 * MIB);
    // It fails, and is left out; then the run ends for another reason.
    registry.add_fault(
        When::get(&config_of(&registry, "b/b")),
        Action::error(403, "DENIED", "not today"),
    );
    export.kill_after(&registry, "b.tar", &["-j", "2", "--allow-partial"], 2 * MIB as u64);
    put_image(&registry, "b/b", "1", &[noise(9, 1000)]);
    let done = export.run("b.tar", &[]);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("b/b:1 has moved"), "{}", text(&done));
    assert!(std::fs::read(export.path("b.tar")).unwrap() == plain, "other bytes");
}

/// Runs an export and returns the number of bytes that it wrote by system calls; `None` if the system does not report
/// them.
fn written_by(export: &Export, flags: &[&str]) -> Option<u64> {
    let mut child = export
        .command("b.tar", flags)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let process = format!("/proc/{}", child.id());
    // An ended process keeps its counts until it is waited for.
    let ended = || {
        let stat = std::fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    };
    while !ended() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let written = bytes_written(child.id());
    child.wait().unwrap();
    written.filter(|bytes| *bytes > 0)
}

#[test]
fn what_is_missing_from_the_start_costs_no_second_write() {
    let (registry, export, _) = two_images();
    registry.add_fault(
        When::path("/v2/b/b/manifests/"),
        Action::error(403, "DENIED", "not today"),
    );
    registry.forget_requests();
    let written = written_by(&export, &["--allow-partial"]);
    assert_eq!(check(&export.path("b.tar")), 1);
    assert!(
        blob_bytes_sent(&registry) < 12 * MIB as u64 + 1000,
        "{}",
        registry.transcript()
    );
    let Some(written) = written else {
        skipped(
            "how much an export writes",
            "this system does not tell what an ended process wrote",
        );
        return;
    };
    let size = std::fs::metadata(export.path("b.tar")).unwrap().len();
    assert!(written <= size + size / 100, "{written} bytes were written for {size}");
}

#[test]
fn what_turns_out_to_be_missing_is_moved_and_nothing_is_fetched_twice() {
    let (registry, export, _) = two_images();
    let large = crate::support::sha256(&noise(1, 10 * MIB));
    registry.add_fault(When::path(&large), Action::error(403, "DENIED", "not today"));
    registry.forget_requests();
    let done = export.run("b.tar", &["--allow-partial"]);
    assert_eq!(done.status.code(), Some(6), "{}", text(&done));
    assert_eq!(check(&export.path("b.tar")), 1);
    // The layer of the other image was at the offset behind the layer that failed.
    assert!(
        blob_bytes_sent(&registry) < 11 * MIB as u64 + 2000,
        "{}",
        registry.transcript()
    );
    assert!(!export.path("b.tar.partial.journal").exists());
}

#[test]
fn what_is_missing_is_the_same_whatever_the_order() {
    let (registry, export, _) = two_images();
    put_image(&registry, "c/c", "1", &[noise(4, 1000)]);
    registry.add_fault(When::path("/v2/b/b/"), Action::error(403, "DENIED", "not today"));
    registry.add_fault(When::path("/v2/z/z/"), Action::error(403, "DENIED", "not today"));
    let one = Export::new(&registry, &["a/a:1", "z/z:1", "c/c:1", "b/b:1"]);
    let other = Export::new(&registry, &["b/b:1", "c/c:1", "a/a:1", "z/z:1", "b/b:1"]);
    drop(export);
    for export in [&one, &other] {
        assert_eq!(export.run("b.tar", &["--allow-partial"]).status.code(), Some(6));
    }
    let read = |export: &Export| std::fs::read(export.path("b.tar")).unwrap();
    assert!(read(&one) == read(&other), "two exports of the same images differ");
}

#[test]
fn a_manifest_whose_bytes_do_not_tell_its_type_goes_on_with_the_same_bytes() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 8 * MIB)]);
    let manifest = String::from_utf8(registry.manifest("a/a", "1").unwrap().to_vec()).unwrap();
    let silent = manifest.replacen(r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#, "", 1);
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    registry
        .store()
        .put_manifest("a/a", Some("1"), docker, silent.into_bytes().into());
    let export = Export::new(&registry, &["a/a:1"]);
    let plain = export.bundle("plain.tar", &["--no-cache"]);
    export.kill_after(&registry, "b.tar", &["--no-cache"], 3 * MIB as u64);
    assert!(export.bundle("b.tar", &["--no-cache"]) == plain, "other bytes");
}

/// An unfinished export of `a:1` and `b:1`, of which the first image lacks a layer. The registry no longer has that
/// image.
fn unfinished() -> (Double, Export) {
    let registry = Double::new();
    let layers = put_image(&registry, "a", "1", &[noise(1, 20_000), noise(2, 700)]);
    put_image(&registry, "b", "1", &[noise(3, 700)]);
    registry.add_fault(When::get(&layers[1]), Action::status(500));
    let export = Export::new(&registry, &["a:1", "b:1"]);
    export.fails("x.tar", &["--retries", "0", "--no-cache"], 1);
    registry.clear_faults();
    registry.store().change("a", |repository| {
        repository.tags.clear();
        repository.manifests.clear();
        repository.blobs.clear();
    });
    registry.forget_requests();
    (registry, export)
}

#[test]
fn an_image_whose_tag_moved_and_that_is_gone_is_taken_as_it_is_now() {
    for flags in [&["--no-cache"][..], &["--no-cache", "--allow-partial"]] {
        let (registry, export) = unfinished();
        put_image(&registry, "a", "1", &[noise(4, 700)]);
        let done = export.run("x.tar", flags);
        let said = text(&done);
        assert!(done.status.success(), "{said}");
        assert!(said.contains("its tag has moved to sha256:"), "{said}");
        assert!(said.contains("this image is taken as it is now"), "{said}");
        assert_eq!(check(&export.path("x.tar")), 2, "{said}");
        // The blobs of the other image are not fetched again, and the bundle is the same as without a failure.
        let layer = sha256(&noise(3, 700));
        assert_eq!(registry.count("GET", &layer), 0, "{}", registry.transcript());
        let plain = export.bundle("plain.tar", &["--no-cache"]);
        assert!(
            std::fs::read(export.path("x.tar")).unwrap() == plain,
            "other bytes: {said}"
        );
    }
}

#[test]
fn an_image_that_is_gone_with_its_tag_is_told_how_to_start_anew() {
    let (registry, export) = unfinished();
    for _ in 0..2 {
        let said = export.fails("x.tar", &["--retries", "0", "--no-cache"], 1);
        assert!(said.contains("`--fresh` starts anew"), "{said}");
    }
    put_image(&registry, "a", "1", &[noise(4, 700)]);
    export.bundle("x.tar", &["--no-cache"]);
    assert_eq!(check(&export.path("x.tar")), 2);
}
