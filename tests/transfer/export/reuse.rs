//! `--reuse`: blobs that an earlier bundle has.

use super::tools::{Export, blob_bytes_sent, check, noise, put_image, text};
use crate::support::cli::wait_until;
use crate::support::fault::{Action, When};
use crate::support::{Double, Gate, sha256};

const MIB: usize = 1 << 20;

/// Two versions of an image with a common base; `old.tar` has the first version.
fn two_versions() -> (Double, Export, Vec<u8>) {
    let registry = Double::new();
    let base = noise(1, 4 * MIB);
    put_image(&registry, "a/a", "1", &[base.clone(), noise(3, 1000)]);
    let old = Export::new(&registry, &["a/a:1"]);
    let bytes = old.bundle("old.tar", &[]);
    put_image(&registry, "a/a", "2", &[base, noise(2, MIB)]);
    let export = Export::new(&registry, &["a/a:2"]);
    std::fs::write(export.path("old.tar"), bytes).unwrap();
    let plain = export.bundle("plain.tar", &[]);
    registry.forget_requests();
    (registry, export, plain)
}

#[test]
fn pipes_and_compressed_bundles_take_blobs_from_earlier_ones_too() {
    let (registry, export, plain) = two_versions();
    for flag in ["", "--gzip", "--zstd"] {
        registry.forget_requests();
        let mut flags = vec!["--reuse", "old.tar"];
        flags.extend((!flag.is_empty()).then_some(flag));
        let done = export.run("-", &flags);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{said}");
        assert!(said.contains("1 blob, 4.0 MiB came from earlier bundles"), "{said}");
        let mut unpacked = Vec::new();
        match flag {
            "--gzip" => {
                let mut decoder = flate2::read::GzDecoder::new(done.stdout.as_slice());
                std::io::Read::read_to_end(&mut decoder, &mut unpacked).unwrap();
            }
            "--zstd" => unpacked = zstd::decode_all(done.stdout.as_slice()).unwrap(),
            _ => unpacked = done.stdout,
        }
        assert!(unpacked == plain, "{flag}: other bytes");
        assert_eq!(
            registry.count("GET", &sha256(&noise(1, 4 * MIB))),
            0,
            "{}",
            registry.transcript()
        );
    }
    let done = export.run("b.tar", &["--reuse", "old.tar"]);
    assert!(
        text(&done).contains("1 blob, 4.0 MiB came from earlier bundles"),
        "{}",
        text(&done)
    );
    assert!(std::fs::read(export.path("b.tar")).unwrap() == plain);
}

#[test]
fn a_damaged_earlier_bundle_costs_a_transfer_and_nothing_else() {
    let (registry, export, plain) = two_versions();
    let mut damaged = std::fs::read(export.path("old.tar")).unwrap();
    let at = damaged.len() - MIB;
    damaged[at] ^= 1;
    std::fs::write(export.path("old.tar"), damaged).unwrap();
    for output in ["b.tar", "-"] {
        registry.forget_requests();
        let done = export.run(output, &["--reuse", "old.tar"]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success() && said.contains("fetching it instead"), "{said}");
        assert!(said.contains("0 blobs, 0 bytes came from earlier bundles"), "{said}");
        let bytes = match output {
            "-" => done.stdout,
            _ => std::fs::read(export.path(output)).unwrap(),
        };
        assert!(bytes == plain, "{output}: other bytes");
        assert_eq!(
            registry.count("GET", &sha256(&noise(1, 4 * MIB))),
            1,
            "{}",
            registry.transcript()
        );
    }
}

#[test]
fn an_earlier_bundle_that_gets_shorter_while_it_is_read_is_left_alone() {
    let (registry, export, plain) = two_versions();
    // Opened at the start; cut while the manifests are fetched.
    let gate = Gate::closed();
    registry.add_fault(When::path("/manifests/"), Action::Hold(gate.clone()));
    let child = export
        .command("b.tar", &["--reuse", "old.tar", "--no-cache"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("a manifest is asked for", || gate.arrived() > 0);
    let old = std::fs::OpenOptions::new()
        .write(true)
        .open(export.path("old.tar"))
        .unwrap();
    old.set_len(MIB as u64).unwrap();
    gate.open();
    let done = child.wait_with_output().unwrap();
    let said = text(&done);
    assert!(done.status.success() && said.contains("fetching it instead"), "{said}");
    assert!(std::fs::read(export.path("b.tar")).unwrap() == plain, "other bytes");
}

#[test]
fn two_earlier_bundles_with_one_name_for_two_images() {
    let registry = Double::new();
    let (one, two) = (noise(1, 2 * MIB), noise(2, 3 * MIB));
    let export = Export::new(&registry, &["a/a:1"]);
    for (name, layer) in [("old1.tar", &one), ("old2.tar", &two)] {
        put_image(&registry, "a/a", "1", std::slice::from_ref(layer));
        export.bundle(name, &["--no-cache"]);
    }
    put_image(&registry, "a/a", "1", &[one, two]);
    registry.forget_requests();
    export.bundle("b.tar", &["--reuse", "old1.tar", "--reuse", "old2.tar", "--no-cache"]);
    check(&export.path("b.tar"));
    assert!(blob_bytes_sent(&registry) < 1000, "{}", registry.transcript());
}

#[test]
fn an_earlier_bundle_that_is_compressed_or_not_there_is_refused_with_a_hint() {
    let (registry, export, _) = two_versions();
    export.bundle("old.tar.gz", &[]);
    registry.forget_requests();
    let done = export.run("b.tar", &["--reuse", "old.tar.gz"]);
    let said = text(&done);
    assert!(!done.status.success(), "{said}");
    assert!(said.contains("compressed") && said.contains("gzip -dk"), "{said}");
    let said = export.fails("b.tar", &["--reuse", "no-such.tar"], 2);
    assert!(said.contains("`--reuse`: `no-such.tar` does not exist"), "{said}");
    assert_eq!(registry.requests().len(), 0, "the network was used first");
    assert!(!export.path("b.tar.partial").exists());
}

#[test]
fn what_an_earlier_bundle_lacks_of_a_continued_export_is_fetched() {
    let (registry, export, plain) = two_versions();
    export.kill_after(&registry, "b.tar", &[], 2 * MIB as u64);
    registry.forget_requests();
    assert!(export.bundle("b.tar", &["--reuse", "old.tar"]) == plain, "other bytes");
    assert_eq!(
        registry.count("GET", &sha256(&noise(1, 4 * MIB))),
        0,
        "{}",
        registry.transcript()
    );
}
