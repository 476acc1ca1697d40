//! What is said and left when an export ends early.

use std::process::{Command, Stdio};

use super::tools::{Export, check, noise, one_image, text};
use crate::support::cli::wait_until;
use crate::support::fault::{Action, When};
use crate::support::{Allowance, Double};

const MIB: usize = 1 << 20;

/// The registry sends 2 MiB of blobs and then no more.
fn stop_after_two_mib(registry: &Double) -> Allowance {
    let allowance = Allowance::new(2 * MIB as u64);
    registry.add_fault(When::get("/blobs/"), Action::Allow(allowance.clone()));
    allowance
}

#[test]
fn a_bundle_that_cannot_go_on_is_not_said_to() {
    let (registry, export) = one_image();
    for output in ["-", "b.tar.gz"] {
        for (signal, flags) in [(Some("-INT"), &[][..]), (None, &["--timeout", "1"])] {
            let allowance = stop_after_two_mib(&registry);
            let child = export
                .command(output, flags)
                .stderr(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            if let Some(signal) = signal {
                wait_until("a part is sent", || allowance.is_spent());
                let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
                assert!(killed.unwrap().success());
            }
            let done = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(crate::support::cli::was_cut_off(done.status), "{said}");
            assert!(
                said.contains("starts anew") && !said.contains("where this one stopped"),
                "{said}"
            );
            assert!(
                !export.path("b.tar.gz.partial").exists(),
                "{output}: something was left behind"
            );
            registry.clear_faults();
        }
    }
    export.bundle("b.tar.gz", &[]);
    let failing = Export::new(&registry, &["a/a:1", "no/such:1"]);
    let done = failing.run("-", &[]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("--allow-partial") && !said.contains("go on"), "{said}");
    let said = failing.fails("b.tar", &[], 1);
    assert!(said.contains("nothing was fetched"), "{said}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_killed_compressed_export_starts_anew_and_overwrites_nothing_else() {
    let (registry, export) = one_image();
    for output in ["b.tar.gz", "b.tar.zst"] {
        let allowance = stop_after_two_mib(&registry);
        let partial = export.path(&format!("{output}.partial"));
        let begun = || allowance.is_spent() && std::fs::metadata(&partial).is_ok_and(|m| m.len() > 0);
        export.kill_when(output, &[], begun);
        registry.clear_faults();
        assert!(partial.exists());
        let done = export.run(output, &[]);
        assert!(
            done.status.success() && text(&done).contains("starting anew"),
            "{}",
            text(&done)
        );
        // The unfinished file of a plain export can still be continued by that export.
        std::fs::remove_file(export.path(output)).unwrap();
        for foreign in [
            noise(1, 1000),
            gzip(b"precious"),
            zstd::encode_all(&b"precious"[..], 1).unwrap(),
        ] {
            std::fs::write(&partial, &foreign).unwrap();
            let said = export.fails(output, &[], 2);
            assert!(said.contains("--fresh"), "{said}");
            assert_eq!(std::fs::read(&partial).unwrap(), foreign);
        }
        export.bundle(output, &["--fresh"]);
    }
}

#[test]
fn a_limit_of_the_size_of_files_is_told_as_such() {
    let (registry, export) = one_image();
    for output in ["b.tar", "b.tar.gz"] {
        let done = Command::new("sh")
            .args(["-c", "ulimit -f 4096; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_docker-mirror"))
            .args(["export", &format!("{}/a/a:1", registry.host()), "-o"])
            .arg(export.path(output))
            .env("HOME", export.cli.folder())
            .output()
            .unwrap();
        let said = text(&done);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("ulimit -f") && !said.contains("make room"), "{said}");
        export.bundle(output, &[]);
    }
    check(&export.path("b.tar"));
}

#[test]
fn a_link_in_the_place_of_the_unfinished_file_is_not_followed() {
    let (registry, export) = one_image();
    let precious = export.path("precious");
    std::fs::write(&precious, b"precious").unwrap();
    for output in ["b.tar", "b.tar.gz"] {
        std::os::unix::fs::symlink(&precious, export.path(&format!("{output}.partial"))).unwrap();
        let said = export.fails(output, &["--fresh"], 2);
        assert!(said.contains(".partial"), "{said}");
    }
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    assert_eq!(registry.requests().len(), 0);
}
