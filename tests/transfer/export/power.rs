//! Power cuts, and what a second one must not cost.

use std::path::Path;

use super::tools::{Export, blob_bytes_sent, noise, put_image};
use crate::support::fault::{Action, When};
use crate::support::{Allowance, Double};

const MIB: usize = 1 << 20;

/// Makes the journal that of another boot, as it is after a power cut.
fn other_boot(journal: &Path, more: impl Fn(&str) -> String) {
    let text = std::fs::read_to_string(journal).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
    header["boot"] = "another".into();
    std::fs::write(journal, format!("{header}\n{rest}{}", more(rest))).unwrap();
}

/// Kills an export once so many bytes of blobs were sent.
fn killed(registry: &Double, export: &Export, after: u64) {
    export.kill_after(registry, "b.tar", &["-j", "2"], after);
}

#[test]
fn power_cut_twice_keeps_synced_bytes() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 12 * MIB), noise(2, 9 * MIB)]);
    let export = Export::new(&registry, &["a/a:1"]);
    let plain = export.bundle("plain.tar", &[]);
    killed(&registry, &export, 14 * MIB as u64);
    let journal = export.path("b.tar.partial.journal");
    // All that was written had reached the disk when the power went.
    other_boot(&journal, |rest| format!("s {}\n", rest.lines().count()));
    killed(&registry, &export, 2 * MIB as u64);
    // Nothing was synced since, but by the start of that run.
    other_boot(&journal, |_| String::new());
    registry.forget_requests();
    assert!(export.bundle("b.tar", &[]) == plain, "other bytes");
    let sent = blob_bytes_sent(&registry);
    // Of the 14 MiB of the first run, up to 4 MiB of each of two open slots were not in the journal yet, and some bytes
    // were in flight.
    assert!(sent <= (21 - 14 + 2 * 5) * MIB as u64, "{}", registry.transcript());
}

#[test]
fn what_the_program_synced_survives_a_power_cut() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 170 * MIB)]);
    let export = Export::new(&registry, &["a/a:1"]);
    let journal = export.path("b.tar.partial.journal");
    // What is written is synced every 128 MiB.
    registry.add_fault(When::get("/blobs/"), Action::Allow(Allowance::new(150 * MIB as u64)));
    let synced = || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        text.lines().any(|line| line.starts_with("s "))
    };
    export.kill_when("b.tar", &[], synced);
    registry.clear_faults();
    other_boot(&journal, |_| String::new());
    // What was written later than the sync is lost.
    registry.forget_requests();
    export.bundle("b.tar", &[]);
    super::tools::check(&export.path("b.tar"));
    let sent = blob_bytes_sent(&registry);
    assert!(sent <= (170 - 128 + 4) * MIB as u64, "{}", registry.transcript());
}
