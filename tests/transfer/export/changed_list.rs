//! Lists that are wrong, corrected, or the same once more.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use super::tools::{Export, blob_bytes_sent, check, noise, put_image, text};
use crate::support::fault::{Action, When};
use crate::support::{Double, Gate};

const MIB: usize = 1 << 20;

/// Images `a/a:1` to `c/c:1` of 8, 6 and 4 MiB.
fn three_images() -> Double {
    let registry = Double::new();
    for (number, name) in ["a/a", "b/b", "c/c"].iter().enumerate() {
        put_image(&registry, name, "1", &[noise(number as u64, (8 - 2 * number) * MIB)]);
    }
    registry
}

/// The same user asks for other images.
fn ask(export: &Export, registry: &Double, images: &[&str], flags: &[&str]) -> std::process::Output {
    let images: Vec<String> = images
        .iter()
        .map(|image| format!("{}/{image}", registry.host()))
        .collect();
    let mut command = export.cli.command(&["export", "-o", "b.tar"]);
    command.args(images).args(flags).output().unwrap()
}

#[test]
fn an_image_that_cannot_be_resolved_is_told_at_once_and_nothing_is_fetched() {
    let registry = three_images();
    let export = Export::new(&registry, &["a/a:1", "b/typo:1"]);
    let gate = Gate::closed();
    registry.add_fault(When::path("/v2/a/a/manifests/"), Action::Hold(gate.clone()));
    let mut child = export
        .command("b.tar", &[])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.find(|line| !line.starts_with("resolving ")).unwrap();
    assert!(first.starts_with("error: ") && first.contains("b/typo:1"), "{first}");
    assert!(!gate.is_open());
    gate.open();
    let rest: Vec<String> = lines.collect();
    let said = rest.join("\n");
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(
        said.contains("1 of 2 images cannot be resolved; nothing was fetched"),
        "{said}"
    );
    assert!(said.contains("hint: correct the names"), "{said}");
    // Its config was asked for its platform.
    assert!(blob_bytes_sent(&registry) < 1000, "{}", registry.transcript());
    for name in ["b.tar", "b.tar.partial", "b.tar.partial.journal"] {
        assert!(!export.path(name).exists(), "{name}");
    }
    // Into a pipe it is the same; with leave to do so, the rest is exported.
    let piped = export.run("-", &[]);
    assert_eq!(
        (piped.status.code(), piped.stdout.len()),
        (Some(1), 0),
        "{}",
        text(&piped)
    );
    assert!(text(&piped).contains("nothing was fetched"), "{}", text(&piped));
    let partial = export.run("b.tar", &["--allow-partial"]);
    assert_ne!(partial.status.code(), Some(0), "{}", text(&partial));
    assert_eq!(check(&export.path("b.tar")), 1);
}

#[test]
fn a_corrected_list_takes_over_what_is_there() {
    let registry = three_images();
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let expected = Export::new(&registry, &["a/a:1", "c/c:1"]).bundle("plain.tar", &[]);
    export.kill_after(&registry, "b.tar", &["-j", "1"], 7 * MIB as u64);
    // The tag moves meanwhile; the digest that the first run resolved is kept, as for an unchanged list.
    put_image(&registry, "a/a", "1", &[noise(9, 1000)]);
    registry.forget_requests();
    let done = ask(&export, &registry, &["a/a:1", "c/c:1"], &["-j", "1"]);
    let said = text(&done);
    assert!(done.status.success(), "{said}");
    let host = registry.host();
    let note = format!("is of another list of images (added: {host}/c/c:1; removed: {host}/b/b:1)");
    assert_eq!(said.matches(&note).count(), 1, "{said}");
    assert!(std::fs::read(export.path("b.tar")).unwrap() == expected, "other bytes");
    let fetched = blob_bytes_sent(&registry);
    // Of 12 MiB, 7 were sent. Up to 4 MiB of an open slot were not in the journal yet when the run was killed.
    assert!(
        fetched <= (12 - 7 + 4) * MIB as u64,
        "{fetched}: {}",
        registry.transcript()
    );
}

#[test]
fn an_unfinished_file_of_which_nothing_is_needed_is_not_thrown_away() {
    let registry = three_images();
    let export = Export::new(&registry, &["a/a:1"]);
    export.kill_after(&registry, "b.tar", &[], 4 * MIB as u64);
    let before = std::fs::read(export.path("b.tar.partial")).unwrap();
    let refused = ask(&export, &registry, &["c/c:1"], &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(
        text(&refused).contains("belongs to another export"),
        "{}",
        text(&refused)
    );
    assert!(std::fs::read(export.path("b.tar.partial")).unwrap() == before);
    // For other platforms, the blobs are the same.
    let done = export.run("b.tar", &["--platform", "linux/amd64"]);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("other platforms or options"), "{}", text(&done));
}

#[test]
fn the_same_export_again_is_up_to_date() {
    let registry = three_images();
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let bytes = export.bundle("b.tar", &[]);
    let inode = |name: &str| std::fs::metadata(export.path(name)).unwrap().ino();
    let first = inode("b.tar");
    registry.forget_requests();
    let again = export.run("b.tar", &[]);
    assert!(again.status.success(), "{}", text(&again));
    assert!(text(&again).contains("`b.tar` is up to date"), "{}", text(&again));
    assert_eq!(
        String::from_utf8_lossy(&again.stdout).lines().count(),
        2,
        "{}",
        text(&again)
    );
    let layers = registry
        .requests_of("GET", "/blobs/")
        .iter()
        .filter(|get| get.bytes_out > 4096)
        .count();
    assert_eq!(layers, 0, "{}", registry.transcript());
    assert_eq!(inode("b.tar"), first);
    // Made anew, it takes its blobs from the old file.
    registry.forget_requests();
    let forced = export.run("b.tar", &["--force"]);
    assert!(forced.status.success(), "{}", text(&forced));
    assert!(
        text(&forced).contains("2 blobs, 14.0 MiB came from earlier bundles"),
        "{}",
        text(&forced)
    );
    let layers = registry
        .requests_of("GET", "/blobs/")
        .iter()
        .filter(|get| get.bytes_out > 4096)
        .count();
    assert_eq!(layers, 0, "{}", registry.transcript());
    assert!(std::fs::read(export.path("b.tar")).unwrap() == bytes && inode("b.tar") != first);
    // Anything else under the name is not this bundle.
    let is_there = |output: std::process::Output| {
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("already exists"), "{}", text(&output));
    };
    is_there(export.run("b.tar", &["--no-docker-manifest"]));
    is_there(ask(&export, &registry, &["a/a:1"], &[]));
    for (at, length) in [
        (0, bytes.len() - 512),
        (600, bytes.len()),
        (bytes.len() - 8, bytes.len()),
    ] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        std::fs::write(export.path("b.tar"), &other[..length]).unwrap();
        is_there(export.run("b.tar", &[]));
    }
    std::fs::write(export.path("b.tar"), &bytes).unwrap();
    put_image(&registry, "b/b", "1", &[noise(9, 1000)]);
    is_there(export.run("b.tar", &[]));
}
