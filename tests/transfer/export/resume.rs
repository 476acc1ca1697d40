//! Exports that were cut off, and go on.

use std::path::Path;

use super::tools::{Export, blob_bytes_sent, check, noise, put_image};
use crate::support::Double;
use crate::support::fault::{Action, When};

const MIB: usize = 1 << 20;

/// Two images of 12 and 9 MiB.
fn fill(registry: &Double) -> Vec<String> {
    let mut digests = put_image(registry, "a/a", "1", &[noise(1, 10 * MIB), noise(2, 2 * MIB)]);
    digests.extend(put_image(registry, "b/b", "1", &[noise(3, 9 * MIB)]));
    digests
}

/// What an undisturbed export of these images gives.
fn undisturbed(registry: &Double, images: &[&str]) -> Vec<u8> {
    let bytes = Export::new(registry, images).bundle("u.tar", &[]);
    registry.forget_requests();
    bytes
}

/// Cuts an export off when so many bytes of blobs have been sent.
fn cut_off(registry: &Double, after: u64) -> Export {
    let export = Export::new(registry, &["a/a:1", "b/b:1"]);
    export.kill_after(registry, "b.tar", &["-j", "2"], after);
    assert!(export.path("b.tar.partial").exists());
    assert!(!export.path("b.tar").exists());
    registry.forget_requests();
    export
}

#[test]
fn goes_on_inside_a_blob_with_the_same_bytes() {
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    let export = cut_off(&registry, 14 * MIB as u64);
    assert!(
        export.bundle("b.tar", &[]) == expected,
        "the bundle differs from an undisturbed one"
    );
    let total = 21 * MIB as u64;
    // At least 14 MiB were sent. Up to 4 MiB of each of two open slots were not in the journal yet, and bytes in flight
    // are lost.
    assert!(
        blob_bytes_sent(&registry) <= total - 14 * MIB as u64 + 2 * 8 * MIB as u64,
        "{}",
        registry.transcript()
    );
    assert!(
        registry
            .requests_of("GET", "/blobs/")
            .iter()
            .any(|r| !r.header("range").is_empty())
    );
    // The manifests are in the unfinished file.
    assert_eq!(registry.count("GET", "/manifests/"), 0, "{}", registry.transcript());
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    let export = cut_off(&registry, 12 * MIB as u64);
    registry.add_fault(When::get("/blobs/"), Action::IgnoreRange);
    assert!(
        export.bundle("b.tar", &[]) == expected,
        "the bundle differs from an undisturbed one"
    );
}

#[test]
fn bytes_that_changed_between_two_runs_are_fetched_again() {
    let registry = Double::new();
    let digests = fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    let export = cut_off(&registry, 12 * MIB as u64);
    // The first answer to a range has a wrong byte; the digest tells.
    registry.add_fault(
        When::get(&digests[0]).with_header("range").first(1),
        Action::FlipBit(9 * MIB as u64),
    );
    assert!(
        export.bundle("b.tar", &[]) == expected,
        "the bundle differs from an undisturbed one"
    );
}

#[test]
fn an_edited_file_costs_a_transfer_and_nothing_else() {
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    for at in [10, 600, 3000, 20_000, 3 * MIB] {
        let export = cut_off(&registry, 12 * MIB as u64);
        let path = export.path("b.tar.partial");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 0x55;
        std::fs::write(&path, bytes).unwrap();
        assert!(
            export.bundle("b.tar", &[]) == expected,
            "byte {at}: the bundle differs from an undisturbed one"
        );
    }
}

#[test]
fn a_shortened_file_costs_a_transfer_and_nothing_else() {
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    for length in [1, 700, 5000, 5 * MIB as u64] {
        let export = cut_off(&registry, 12 * MIB as u64);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(export.path("b.tar.partial"))
            .unwrap();
        file.set_len(length).unwrap();
        assert!(
            export.bundle("b.tar", &[]) == expected,
            "length {length}: the bundle differs"
        );
    }
}

#[test]
fn an_edited_journal_costs_a_transfer_and_nothing_else() {
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    let everything = |text: &str| {
        // Claims that every slot is whole.
        let slots = text.lines().filter(|l| l.starts_with("b ")).count();
        let sizes = text.lines().filter_map(|l| l.strip_prefix("b ")?.split(' ').nth(1));
        let claims: String = sizes.enumerate().map(|(n, size)| format!("w {n} 0 {size}\n")).collect();
        assert!(slots > 0);
        format!("{text}{claims}")
    };
    let moved = |text: &str| text.replacen("b ", "b 1", 1);
    let torn = |text: &str| text[..text.len() - 3].to_owned();
    let edits: [&dyn Fn(&str) -> String; 3] = [&everything, &moved, &torn];
    for (number, edit) in edits.iter().enumerate() {
        let export = cut_off(&registry, 12 * MIB as u64);
        let path = export.path("b.tar.partial.journal");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, edit(&text)).unwrap();
        assert!(
            export.bundle("b.tar", &[]) == expected,
            "edit {number}: the bundle differs"
        );
    }
}

#[test]
fn after_a_power_cut_only_what_was_synced_counts() {
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    let export = cut_off(&registry, 12 * MIB as u64);
    // Another boot wrote the journal, and the bytes never reached the disk.
    let path = export.path("b.tar.partial.journal");
    let text = std::fs::read_to_string(&path).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
    header["boot"] = "another".into();
    std::fs::write(&path, format!("{header}\n{rest}")).unwrap();
    let file = export.path("b.tar.partial");
    let length = std::fs::metadata(&file).unwrap().len();
    std::fs::write(&file, vec![0; length as usize]).unwrap();
    assert!(
        export.bundle("b.tar", &[]) == expected,
        "the bundle differs from an undisturbed one"
    );
}

#[test]
fn another_commands_unfinished_file_is_not_overwritten() {
    let registry = Double::new();
    fill(&registry);
    let export = cut_off(&registry, 12 * MIB as u64);
    let before = std::fs::read(export.path("b.tar.partial")).unwrap();
    let run = |flags: &[&str], image: &str| {
        export
            .cli
            .command(&["export"])
            .arg(format!("{}/{image}", registry.host()))
            .args(["-o", "b.tar"])
            .args(flags)
            .output()
            .unwrap()
    };
    put_image(&registry, "c/c", "1", &[noise(77, 5000)]);
    let refused = run(&[], "c/c:1");
    let said = super::tools::text(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("b.tar.partial") && said.contains("--fresh") && said.contains("b/b:1"),
        "{said}"
    );
    assert!(before == std::fs::read(export.path("b.tar.partial")).unwrap());
    assert!(run(&["--fresh"], "c/c:1").status.success());
    assert_eq!(check(&export.path("b.tar")), 1);
}

#[test]
fn a_file_of_another_version_is_not_overwritten() {
    let registry = Double::new();
    fill(&registry);
    let export = cut_off(&registry, 12 * MIB as u64);
    let journal = export.path("b.tar.partial.journal");
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, text.replace("\"journalVersion\":1", "\"journalVersion\":99")).unwrap();
    let said = export.fails("b.tar", &[], 2);
    assert!(said.contains("version") && said.contains("--fresh"), "{said}");
    export.bundle("b.tar", &["--fresh"]);
}

/// Nobody can go on with such a bundle, so nobody loses anything.
#[test]
fn a_bundle_whose_journal_is_lost_or_unreadable_is_begun_anew() {
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    let lost: &dyn Fn(&Path) = &|journal| std::fs::remove_file(journal).unwrap();
    let empty: &dyn Fn(&Path) = &|journal| std::fs::write(journal, b"").unwrap();
    let zeros: &dyn Fn(&Path) = &|journal| std::fs::write(journal, [0; 4096]).unwrap();
    for damage in [lost, empty, zeros] {
        let export = cut_off(&registry, 12 * MIB as u64);
        damage(&export.path("b.tar.partial.journal"));
        let done = export.run("b.tar", &[]);
        let said = super::tools::text(&done);
        assert!(done.status.success(), "{said}");
        assert!(
            said.contains("cannot be continued") && said.contains("starting anew"),
            "{said}"
        );
        assert!(std::fs::read(export.path("b.tar")).unwrap() == expected, "{said}");
    }
}

#[test]
fn a_file_that_is_no_bundle_of_ours_is_not_overwritten() {
    let (registry, export) = super::tools::one_image();
    for foreign in [&b"precious"[..], &[0; 3 << 20]] {
        std::fs::write(export.path("b.tar.partial"), foreign).unwrap();
        let said = export.fails("b.tar", &[], 2);
        assert!(said.contains("no journal") && said.contains("--fresh"), "{said}");
        assert!(std::fs::read(export.path("b.tar.partial")).unwrap() == foreign);
    }
    assert_eq!(registry.requests().len(), 0, "the network was used first");
}

#[test]
fn a_foreign_file_beside_a_journal_of_ours_is_not_overwritten() {
    let registry = Double::new();
    fill(&registry);
    let export = cut_off(&registry, 12 * MIB as u64);
    std::fs::write(export.path("b.tar.partial"), "#!/usr/bin/python3\n").unwrap();
    let said = export.fails("b.tar", &[], 2);
    assert!(
        said.contains("no bundle of this program") && said.contains("--fresh"),
        "{said}"
    );
    assert_eq!(
        std::fs::read(export.path("b.tar.partial")).unwrap(),
        b"#!/usr/bin/python3\n"
    );
}

#[test]
fn an_unfinished_file_that_was_emptied_or_cut_is_begun_anew_and_told() {
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    for left in [None, Some(0), Some(100), Some(1000)] {
        let export = cut_off(&registry, 12 * MIB as u64);
        let partial = export.path("b.tar.partial");
        match left {
            None => std::fs::remove_file(&partial).unwrap(),
            Some(length) => {
                let file = std::fs::OpenOptions::new().write(true).open(&partial).unwrap();
                file.set_len(length).unwrap();
            }
        }
        let done = export.run("b.tar", &[]);
        let said = super::tools::text(&done);
        assert!(
            done.status.success() && said.contains("is lost; starting anew"),
            "{left:?}: {said}"
        );
        assert!(std::fs::read(export.path("b.tar")).unwrap() == expected, "{said}");
    }
}

#[test]
fn an_unfinished_export_is_no_earlier_bundle() {
    let registry = Double::new();
    fill(&registry);
    let export = cut_off(&registry, 12 * MIB as u64);
    let said = export.fails("c.tar", &["--reuse", "b.tar.partial"], 2);
    assert!(said.contains("hint: `b.tar.partial` is an unfinished export"), "{said}");
}

#[test]
fn tags_stay_where_the_first_run_found_them() {
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    let export = cut_off(&registry, 12 * MIB as u64);
    put_image(&registry, "a/a", "1", &[noise(99, 1000)]);
    let done = export.run("b.tar", &[]);
    let said = super::tools::text(&done);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("a/a:1 has moved"), "{said}");
    assert!(
        std::fs::read(export.path("b.tar")).unwrap() == expected,
        "the bundle differs from an undisturbed one"
    );
    // Anew, the tag counts as it is now.
    let fresh = export.bundle("b.tar", &["--fresh", "--force"]);
    assert!(fresh.len() < expected.len());
}

#[test]
fn an_image_that_failed_joins_the_others_in_the_next_run() {
    let registry = Double::new();
    let digests = fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    for broken in [
        "/v2/a/a/manifests/",
        "/v2/b/b/manifests/",
        digests[0].as_str(),
        digests[2].as_str(),
    ] {
        let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
        registry.add_fault(When::path(broken), Action::error(403, "DENIED", "not today"));
        let said = export.fails("b.tar", &[], 3);
        assert!(said.contains("1 of 2 images "), "{said}");
        registry.clear_faults();
        registry.forget_requests();
        assert!(
            export.bundle("b.tar", &[]) == expected,
            "{broken}: the bundle differs from an undisturbed one"
        );
        // The blobs of the first run are not fetched again; without a manifest, that run fetched nothing.
        assert!(
            broken.contains("/manifests/") || blob_bytes_sent(&registry) <= 13 * MIB as u64,
            "{}",
            registry.transcript()
        );
    }
}

#[test]
fn failed_images_are_left_out_where_that_is_allowed() {
    let registry = Double::new();
    let digests = fill(&registry);
    for (broken, left) in [(&digests[0], "b/b"), (&digests[1], "b/b"), (&digests[2], "a/a")] {
        let fault = registry.add_fault(When::path(broken), Action::error(403, "DENIED", "not today"));
        let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
        let done = export.run("b.tar", &["--allow-partial"]);
        let said = super::tools::text(&done);
        assert_eq!(done.status.code(), Some(6), "{said}");
        assert!(said.contains("not today") && said.contains("missing"), "{said}");
        assert_eq!(check(&export.path("b.tar")), 1);
        let bundle =
            docker_mirror::Bundle::open(&[export.path("b.tar")], &docker_mirror::OpenOptions::default()).unwrap();
        assert!(bundle.images()[0].name.to_string().contains(left));
        assert_eq!(bundle.missing().len(), 1);
        // Each blob was fetched once: what was there was moved inside the file.
        for digest in digests.iter().filter(|d| *d != broken) {
            assert!(registry.count("GET", digest) <= 1, "{}", registry.transcript());
        }
        drop(fault);
        registry.clear_faults();
        registry.forget_requests();
    }
}

#[test]
fn killed_at_random_moments() {
    // The bundle does not depend on when the first runs were killed. The benchmark checks this on real registries, and
    // more often.
    let registry = Double::new();
    fill(&registry);
    let expected = undisturbed(&registry, &["a/a:1", "b/b:1"]);
    for round in 0..6u64 {
        let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
        for kill in 0..2 {
            let after = crate::support::fault::scatter(round, kill) % (9 * MIB as u64) + 1;
            export.kill_after(&registry, "b.tar", &[], after);
        }
        assert!(
            export.bundle("b.tar", &[]) == expected,
            "round {round}: the bundle differs from an undisturbed one"
        );
    }
}
