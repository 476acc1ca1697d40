//! Every system call with which an export writes, made to fail or followed by a kill: the same command then continues
//! or starts anew, and writes the same bundle.
//!
//! `strace` does this to the real program on the real file system. It counts calls by thread, so the program runs with
//! one worker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::tools::{Export, blob_bytes_sent, noise, put_image, text};
use crate::support::fault::{Action, When};
use crate::support::real::{optional_program, skipped};
use crate::support::{Double, sha256};

/// The calls that create, write, sync, truncate, rename or remove; those with a question mark do not exist on every
/// system.
const CALLS: &str = "?open,openat,write,pwrite64,fsync,fdatasync,ftruncate,fallocate,?rename,renameat,renameat2,?unlink,unlinkat,?copy_file_range";

/// What is done to a call.
const FAULTS: [&str; 5] = [
    "signal=SIGKILL",
    "error=EIO",
    "error=ENOSPC",
    "error=EDQUOT",
    "error=EROFS",
];

/// More calls of one name in one thread are tried only here and there.
const EACH: usize = 16;

/// Exports one bundle under `strace`, which traces only calls about the output.
struct Traced<'a> {
    strace: PathBuf,
    export: &'a Export,
    flags: &'a [&'a str],
}

impl<'a> Traced<'a> {
    /// `None`, with a word about it, where processes cannot be traced.
    fn new(export: &'a Export, flags: &'a [&'a str]) -> Option<Self> {
        let what = "failing system calls";
        let strace = optional_program("strace", what)?;
        let tried = Command::new(&strace).args(["-qq", "-e", "trace=none", "true"]).output();
        if !tried.is_ok_and(|done| done.status.success()) {
            skipped(what, "this machine does not let a test trace processes");
            return None;
        }
        Some(Self { strace, export, flags })
    }

    /// Runs the export in a folder; `rule` is what `strace` does to calls about the output.
    fn run(&self, folder: &Path, rule: &[&str]) -> Output {
        let mut paths = vec![folder.to_owned()];
        // The name in the folder is given as well, since calls that look it up in the working directory have only that.
        for name in [
            "b.tar",
            "b.tar.partial",
            "b.tar.partial.journal",
            "b.tar.partial.journal.new",
        ] {
            paths.extend([name.into(), folder.join(name)]);
        }
        let paths = paths.iter().flat_map(|path| ["-P", path.to_str().unwrap()]);
        self.run_on(folder, &rule.iter().copied().chain(paths).collect::<Vec<_>>())
    }

    fn run_on(&self, folder: &Path, rule: &[&str]) -> Output {
        let plain = self.export.command("b.tar", self.flags);
        let mut command = Command::new(&self.strace);
        command
            .args(["-f", "-qq", "-e", "signal=none"])
            .args(rule)
            .arg(plain.get_program())
            .args(plain.get_args())
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("TOKIO_WORKER_THREADS", "1")
            .current_dir(folder);
        command.output().unwrap()
    }

    /// How often each call is made, at most by one thread.
    fn count(&self, folder: &Path) -> BTreeMap<String, usize> {
        let log = self.export.path("calls.txt");
        self.run(folder, &["-e", &format!("trace={CALLS}"), "-o", log.to_str().unwrap()]);
        let mut threads: BTreeMap<(String, String), usize> = BTreeMap::new();
        for line in std::fs::read_to_string(log).unwrap().lines() {
            let (thread, rest) = line.split_once(' ').unwrap();
            // A call that is interrupted in the log by another thread's call appears twice: as unfinished and as
            // resumed.
            if let Some((name, _)) = rest.trim_start().split_once('(')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            {
                *threads.entry((name.to_owned(), thread.to_owned())).or_default() += 1;
            }
        }
        let mut calls = BTreeMap::new();
        for ((name, _), count) in threads {
            let most: &mut usize = calls.entry(name).or_default();
            *most = count.max(*most);
        }
        calls
    }

    /// Injects faults into the calls, into `all` of them or into each a different one. Each time, `prepare` fills a
    /// folder first, and the same command runs again afterwards.
    fn table(&self, all: bool, prepare: &dyn Fn(&Path), expected: &[u8], code: i32) {
        let fresh = || {
            let folder = tempfile::tempdir().unwrap();
            prepare(folder.path());
            folder
        };
        let old = std::fs::read(fresh().path().join("b.tar")).ok();
        let calls = self.count(fresh().path());
        assert!(calls.contains_key("fsync") && calls["pwrite64"] > 4, "{calls:?}");
        let (mut seen, mut tried) = (0, 0);
        for (call, count) in &calls {
            for number in (1..=*count).filter(|n| *n <= EACH || n % 7 == 0) {
                seen += 1;
                for (place, fault) in FAULTS.iter().enumerate() {
                    if !all && place != seen % FAULTS.len() {
                        continue;
                    }
                    let at = format!("{fault} at {call} number {number}");
                    let folder = fresh();
                    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{fault}:when={number}"));
                    let done = self.run(folder.path(), &["-e", &trace, "-e", &inject]);
                    self.check(folder.path(), &done, &at, old.as_deref(), expected, code);
                    tried += 1;
                }
            }
        }
        assert!(tried >= 20, "{tried} faults");
    }

    fn check(&self, folder: &Path, done: &Output, at: &str, old: Option<&[u8]>, expected: &[u8], code: i32) {
        let bundle = folder.join("b.tar");
        let found = || std::fs::read(&bundle).ok();
        let said = text(done);
        let killed = at.starts_with("signal");
        assert!(!said.contains("panicked"), "{at}: {said}");
        match done.status.code() {
            None => assert!(killed, "{at}: {said}"),
            Some(0) => assert!(
                found().as_deref() == Some(expected),
                "{at}: success without the bundle: {said}"
            ),
            // A place that cannot be written to is a wrong command line, as nothing was done.
            Some(2) => assert!(
                at.contains("openat") && said.contains("error: ") && said.contains("hint: "),
                "{at}: {said}"
            ),
            Some(1 | 6) if !killed && found().as_deref() != Some(expected) => {
                assert!(said.contains("error: ") && said.contains("hint: "), "{at}: {said}");
            }
            Some(other) => assert!(matches!(other, 1 | 6 | 137), "{at}: {said}"),
        }
        if found().as_deref() != Some(expected) {
            assert!(
                found().as_deref() == old,
                "{at}: a bundle that is not whole has the final name"
            );
        }
        let again = self
            .export
            .command("b.tar", self.flags)
            .current_dir(folder)
            .output()
            .unwrap();
        let said = format!("{said}\nagain: {}", text(&again));
        let is_there = said.contains("already exists") && !self.flags.contains(&"--force");
        assert!(again.status.code() == Some(code) || is_there, "{at}: {said}");
        assert!(found().as_deref() == Some(expected), "{at}: another bundle: {said}");
        let left: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["b.tar"], "{at}: {said}");
    }
}

/// An image of three small layers, and its export.
fn small() -> (Double, Export, Vec<u8>) {
    let registry = Double::new();
    put_image(
        &registry,
        "a/a",
        "1",
        &[noise(1, 3000), noise(2, 70_000), noise(3, 512)],
    );
    let export = Export::new(&registry, &["a/a:1"]);
    let plain = export.bundle("plain.tar", &[]);
    (registry, export, plain)
}

#[test]
fn an_export_to_a_file_system_that_cannot_shorten_files_leaves_nothing_behind() {
    let (_registry, export, _) = small();
    for flags in [&["-j", "1"][..], &["-j", "1", "--gzip"]] {
        let Some(traced) = Traced::new(&export, flags) else {
            return;
        };
        for code in ["EPERM", "EOPNOTSUPP", "ENOSYS"] {
            let folder = tempfile::tempdir().unwrap();
            let inject = format!("inject=ftruncate:error={code}");
            let done = traced.run(folder.path(), &["-e", "trace=ftruncate", "-e", &inject]);
            let said = text(&done);
            assert_eq!(done.status.code(), Some(1), "{code} {flags:?}: {said}");
            assert!(
                said.contains("hint: this file system cannot do"),
                "{code} {flags:?}: {said}"
            );
            let left = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 0, "{code} {flags:?}: {said}");
        }
    }
}

#[test]
fn a_new_export_goes_on_after_any_failed_call() {
    let (_registry, export, plain) = small();
    let Some(traced) = Traced::new(&export, &["-j", "1"]) else {
        return;
    };
    traced.table(true, &|_| (), &plain, 0);
}

#[test]
fn an_export_that_replaces_a_bundle_goes_on_after_any_failed_call() {
    let (_registry, export, plain) = small();
    let Some(traced) = Traced::new(&export, &["-j", "1", "--force"]) else {
        return;
    };
    let old = |folder: &Path| std::fs::write(folder.join("b.tar"), b"old").unwrap();
    traced.table(false, &old, &plain, 0);
}

#[test]
fn an_export_that_moves_what_an_earlier_run_left_goes_on_after_any_failed_call() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 3000), noise(2, 70_000)]);
    put_image(&registry, "b/b", "1", &[noise(3, 40_000), noise(4, 900)]);
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let plain = export.bundle("plain.tar", &[]);
    let Some(traced) = Traced::new(&export, &["-j", "1"]) else {
        return;
    };
    // The first run exports only one of the images, and does not fetch all of it.
    let first = Export::new(&registry, &["b/b:1"]);
    registry.add_fault(
        When::path(&sha256(&noise(4, 900))),
        Action::error(403, "DENIED", "not today"),
    );
    first.fails("b.tar", &["-j", "1", "--no-cache"], 3);
    registry.clear_faults();
    let left = ["b.tar.partial", "b.tar.partial.journal"].map(|name| (name, std::fs::read(first.path(name)).unwrap()));
    let put = |folder: &Path| {
        for (name, bytes) in &left {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    };
    traced.table(false, &put, &plain, 0);
}

#[test]
fn an_export_that_leaves_an_image_out_goes_on_after_any_failed_call() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 3000)]);
    let bad = put_image(&registry, "b/b", "1", &[noise(3, 40_000)]);
    registry.add_fault(When::path(&bad[0]), Action::error(403, "DENIED", "not today"));
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let flags = ["-j", "1", "--allow-partial"];
    assert_eq!(export.run("plain.tar", &flags).status.code(), Some(6));
    let plain = std::fs::read(export.path("plain.tar")).unwrap();
    let Some(traced) = Traced::new(&export, &flags) else {
        return;
    };
    traced.table(false, &|_| (), &plain, 6);
}

#[test]
fn a_compressed_export_starts_anew_after_any_failed_call() {
    let (_registry, export, _) = small();
    let flags = ["-j", "1", "--gzip"];
    let plain = export.bundle("compressed.tar", &flags);
    let Some(traced) = Traced::new(&export, &flags) else {
        return;
    };
    traced.table(false, &|_| (), &plain, 0);
}

/// The system reports a failed write only once, so that the next sync of the same file succeeds.
#[test]
fn a_sync_that_fails_on_the_way_ends_the_run_and_nothing_it_covers_is_trusted() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 200 << 20)]);
    let export = Export::new(&registry, &["a/a:1"]);
    let plain = export.bundle("plain.tar", &[]);
    let Some(traced) = Traced::new(&export, &[]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    registry.add_fault(
        When::get("/blobs/"),
        Action::Drip(1 << 20, std::time::Duration::from_millis(5)),
    );
    let path = folder.path().join("b.tar.partial");
    let rule = [
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:error=EIO:when=1",
        "-P",
        path.to_str().unwrap(),
    ];
    let done = traced.run_on(folder.path(), &rule);
    registry.clear_faults();
    let said = text(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(
        said.contains("b.tar.partial") && said.contains("did not reach the disk"),
        "{said}"
    );
    registry.forget_requests();
    let again = export
        .command("b.tar", &[])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", text(&again));
    assert!(
        std::fs::read(folder.path().join("b.tar")).unwrap() == plain,
        "another bundle"
    );
    assert!(blob_bytes_sent(&registry) >= 200 << 20, "{}", registry.transcript());
}
