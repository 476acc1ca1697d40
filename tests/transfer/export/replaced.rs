//! Other files in place of the export's own files: the export neither writes to them nor gives them its final name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::tools::{Export, noise, put_image, text};
use crate::support::cli::wait_until;
use crate::support::fault::{Action, When};
use crate::support::{Double, Gate};

/// What nobody may write to, in `precious` of the export's folder.
const PRECIOUS: &[u8] = b"precious";

fn small() -> (Double, Export) {
    let registry = Double::new();
    let layers = put_image(&registry, "a/a", "1", &[noise(1, 100_000)]);
    assert_eq!(layers.len(), 1);
    let export = Export::new(&registry, &["a/a:1"]);
    fs::write(export.path("precious"), PRECIOUS).unwrap();
    (registry, export)
}

/// Runs an export into `out/b.tar`, calls a function when its files exist and its layer has not arrived, and returns
/// how the export ended.
fn meanwhile(
    flags: &[&str],
    prepare: &dyn Fn(&Export),
    act: &dyn Fn(&Export),
) -> (Export, Double, std::process::Output) {
    let (registry, export) = small();
    fs::create_dir(export.path("out")).unwrap();
    prepare(&export);
    let gate = Gate::closed();
    registry.add_fault(When::get("/blobs/").after(1), Action::Hold(gate.clone()));
    let mut child = export
        .command("out/b.tar", flags)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The layer is requested once the journal exists and the front is written.
    wait_until("the layer is asked for", || gate.arrived() > 0);
    assert!(child.try_wait().unwrap().is_none());
    act(&export);
    gate.open();
    let done = child.wait_with_output().unwrap();
    registry.clear_faults();
    (export, registry, done)
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

#[test]
fn what_is_put_in_the_place_of_the_unfinished_file_gets_neither_bytes_nor_the_name() {
    let link: &dyn Fn(&Export) = &|export| {
        remove(&export.path("out/b.tar.partial"));
        symlink(export.path("precious"), export.path("out/b.tar.partial")).unwrap();
    };
    let second_name: &dyn Fn(&Export) = &|export| {
        remove(&export.path("out/b.tar.partial"));
        fs::hard_link(export.path("precious"), export.path("out/b.tar.partial")).unwrap();
    };
    let other_file: &dyn Fn(&Export) = &|export| {
        remove(&export.path("out/b.tar.partial"));
        fs::write(export.path("out/b.tar.partial"), "other").unwrap();
    };
    let gone: &dyn Fn(&Export) = &|export| remove(&export.path("out/b.tar.partial"));
    for act in [link, second_name, other_file, gone] {
        let (export, _registry, done) = meanwhile(&[], &|_| (), act);
        let said = text(&done);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(
            said.contains("was moved or replaced") && said.contains("b.tar.partial"),
            "{said}"
        );
        assert!(export.path("out/b.tar").symlink_metadata().is_err(), "{said}");
        assert_eq!(fs::read(export.path("precious")).unwrap(), PRECIOUS);
    }
}

#[test]
fn a_link_in_the_place_of_the_output_is_found_and_stays() {
    for flags in [&[][..], &["--force"]] {
        let (export, _registry, done) = meanwhile(flags, &|_| (), &|export| {
            symlink(export.path("precious"), export.path("out/b.tar")).unwrap();
        });
        let said = text(&done);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("b.tar"), "{said}");
        assert!(export.path("out/b.tar").is_symlink(), "{said}");
        assert_eq!(fs::read(export.path("precious")).unwrap(), PRECIOUS);
        // What was fetched is kept.
        remove(&export.path("out/b.tar"));
        export.bundle("out/b.tar", &[]);
    }
}

#[test]
fn a_folder_that_is_replaced_is_found() {
    for link in [false, true] {
        let (export, _registry, done) = meanwhile(&[], &|_| (), &|export| {
            fs::rename(export.path("out"), export.path("moved")).unwrap();
            fs::create_dir(export.path("elsewhere")).unwrap();
            if link {
                symlink("elsewhere", export.path("out")).unwrap();
            } else {
                fs::create_dir(export.path("out")).unwrap();
            }
        });
        let said = text(&done);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("`out` was moved or replaced"), "{said}");
        assert_eq!(fs::read_dir(export.path("out")).unwrap().count(), 0, "{said}");
    }
}

#[test]
fn the_journal_that_is_replaced_on_the_way_is_not_written_to() {
    let (export, _registry, done) = meanwhile(&[], &|_| (), &|export| {
        remove(&export.path("out/b.tar.partial.journal"));
        fs::hard_link(export.path("precious"), export.path("out/b.tar.partial.journal")).unwrap();
    });
    assert!(done.status.success(), "{}", text(&done));
    assert_eq!(fs::read(export.path("precious")).unwrap(), PRECIOUS);
}

/// Leaves an unfinished export of `a/a:1` in the folder.
fn unfinished() -> (Double, Export, Vec<u8>) {
    let (registry, export) = small();
    let plain = export.bundle("plain.tar", &[]);
    registry.add_fault(When::get("/blobs/").after(1), Action::error(403, "DENIED", "not today"));
    export.fails("b.tar", &[], 3);
    registry.clear_faults();
    (registry, export, plain)
}

#[test]
fn an_unfinished_file_with_a_second_name_is_not_written_to() {
    for flags in [&[][..], &["--fresh"]] {
        let (_registry, export, _) = unfinished();
        let before = fs::read(export.path("b.tar.partial")).unwrap();
        fs::hard_link(export.path("b.tar.partial"), export.path("second")).unwrap();
        let said = export.fails("b.tar", flags, 2);
        assert!(said.contains("2 names") && said.contains("hint: "), "{said}");
        assert!(fs::read(export.path("second")).unwrap() == before, "{said}");
    }
}

#[test]
fn a_journal_that_is_not_ours_is_not_read_and_not_written_to() {
    let put_link: &dyn Fn(&Export) = &|export| {
        fs::rename(export.path("b.tar.partial.journal"), export.path("journal")).unwrap();
        symlink("journal", export.path("b.tar.partial.journal")).unwrap();
    };
    let put_second_name: &dyn Fn(&Export) =
        &|export| fs::hard_link(export.path("b.tar.partial.journal"), export.path("journal")).unwrap();
    let put_pipe: &dyn Fn(&Export) = &|export| {
        fs::rename(export.path("b.tar.partial.journal"), export.path("journal")).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, export.path("b.tar.partial.journal"), mode).unwrap();
    };
    for put in [put_link, put_second_name, put_pipe] {
        let (_registry, export, plain) = unfinished();
        put(&export);
        let before = fs::read(export.path("journal")).unwrap();
        let done = export.run("b.tar", &[]);
        let said = text(&done);
        assert!(done.status.success(), "{said}");
        assert!(said.contains("starting anew"), "{said}");
        assert!(fs::read(export.path("b.tar")).unwrap() == plain, "{said}");
        assert!(fs::read(export.path("journal")).unwrap() == before, "{said}");
    }
}
