//! Files that commands write beside their output (a want-list, a page, a lock, a report): a command that is killed or
//! fails at any moment leaves the old file or a complete new one, and the same command then succeeds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use super::support::real::{optional_program, skipped};
use super::support::{Cli, Double};
use super::{cli, source};

/// A command that writes a file, the exit code of a successful run, and the text that an earlier file may begin with.
struct Written {
    file: &'static str,
    arguments: Vec<String>,
    code: i32,
    old: &'static str,
}

fn commands(source: &Double, target: &Double) -> Vec<Written> {
    let written = |file, arguments: &[&str], code, old| Written {
        file,
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        code,
        old,
    };
    let (image, host) = (format!("{}/library/greeting:1.0", source.host()), target.host());
    vec![
        written(
            "want.txt",
            &["verify", "--want", "want.txt", "bad.tar"],
            5,
            "docker-mirror want-list 1: 0 blobs\n",
        ),
        written(
            "page.html",
            &["inspect", "--html", "page.html", "b.tar"],
            0,
            "<!doctype html>\n<!-- docker-mirror inspect -->\n",
        ),
        written(
            "images.lock",
            &["inspect", "--lock", "images.lock", "b.tar"],
            0,
            "{\n  \"lockVersion\": 2}",
        ),
        written(
            "report.json",
            &["import", "--report", "report.json", "b.tar", "-d", &host],
            0,
            "",
        ),
        written(
            "export.json",
            &["export", &image, "--report", "export.json", "-o", "-"],
            0,
            "",
        ),
    ]
}

/// Runs a command in a shell that sets limits, or under `strace`.
fn run(cli: &Cli, before: &[&str], written: &Written) -> Output {
    let plain = cli.command(&[]);
    let mut command = Command::new(before[0]);
    command
        .args(&before[1..])
        .arg(env!("CARGO_BIN_EXE_docker-mirror"))
        .args(&written.arguments)
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("TOKIO_WORKER_THREADS", "1")
        .current_dir(cli.folder());
    command.output().unwrap()
}

/// How often each of these calls is made, at most by one thread.
fn count(cli: &Cli, strace: &str, calls: &str, written: &Written) -> BTreeMap<String, usize> {
    let log = cli.path(".calls");
    let trace = format!("trace={calls}");
    run(
        cli,
        &[
            strace,
            "-f",
            "-qq",
            "-e",
            "signal=none",
            "-e",
            &trace,
            "-o",
            log.to_str().unwrap(),
        ],
        written,
    );
    let mut threads: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        if let Some((name, _)) = rest.trim_start().split_once('(')
            && name.chars().all(|c| c.is_ascii_alphanumeric())
        {
            *threads.entry((name.to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, usize> = BTreeMap::new();
    for ((name, _), count) in threads {
        let known = most.entry(name).or_default();
        *known = count.max(*known);
    }
    most
}

struct Trial<'a> {
    cli: &'a Cli,
    written: &'a Written,
    expected: Vec<u8>,
}

impl Trial<'_> {
    /// Runs the command so that it fails or is killed, once with an earlier file and once without, and then
    /// undisturbed.
    fn check(&self, before: &[&str], number: usize) {
        let Written { file, code, old, .. } = self.written;
        let path = self.cli.path(file);
        let old = (number % 2 == 1).then_some(*old);
        let _ = std::fs::remove_file(&path);
        if let Some(old) = old {
            std::fs::write(&path, old).unwrap();
        }
        let done = run(self.cli, before, self.written);
        let at = format!(
            "{file}: {before:?}: {:?}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        assert!(!at.contains("panicked"), "{at}");
        let found = std::fs::read(&path).ok();
        let is_whole = found.as_ref().is_some_and(|found| self.is_expected(found));
        assert!(
            is_whole || found.as_deref() == old.map(str::as_bytes),
            "{at}: half of a file has its name"
        );
        if done.status.code() == Some(*code) && *code == 0 {
            assert!(is_whole, "{at}: a success without the file");
        }
        if !is_whole && done.status.code().is_some() && done.status.code() != Some(137) {
            assert!(at.contains(file), "{at}: the file is not named");
        }
        let again = run(self.cli, &["env"], self.written);
        let said = String::from_utf8_lossy(&again.stderr);
        assert_eq!(again.status.code(), Some(*code), "{at}\nagain: {said}");
        assert!(self.is_expected(&std::fs::read(&path).unwrap()), "{at}\nagain: {said}");
        let left = self
            .cli
            .path(".")
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("tmp")).collect();
        assert!(left.is_empty(), "{at}: temporary files are left: {left:?}");
    }

    /// Returns whether these bytes are those of a successful run. A report states the duration of the run.
    fn is_expected(&self, bytes: &[u8]) -> bool {
        match self.written.file.ends_with(".json") {
            true => serde_json::from_slice::<serde_json::Value>(bytes).is_ok_and(|report| report["images"].is_array()),
            false => bytes == self.expected,
        }
    }
}

#[test]
fn a_file_that_a_command_writes_is_whole_or_as_it_was() {
    let (cli, source, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    let mut bytes = std::fs::read(cli.path("b.tar")).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(cli.path("bad.tar"), bytes).unwrap();
    let strace = optional_program("strace", "failing system calls").filter(|strace| {
        let tried = Command::new(strace).args(["-qq", "-e", "trace=none", "true"]).output();
        tried.is_ok_and(|done| done.status.success())
    });
    for written in commands(&source, &target) {
        let good = run(&cli, &["env"], &written);
        assert_eq!(
            good.status.code(),
            Some(written.code),
            "{}",
            String::from_utf8_lossy(&good.stderr)
        );
        let trial = Trial {
            expected: std::fs::read(cli.path(written.file)).unwrap(),
            cli: &cli,
            written: &written,
        };
        // File size limits of nothing and of 512 bytes: as an error of the write, and as a signal that ends the
        // program.
        for (number, limit) in ["trap '' XFSZ; ulimit -f 0", "trap '' XFSZ; ulimit -f 1", "ulimit -f 1"]
            .iter()
            .enumerate()
        {
            trial.check(&["sh", "-c", &format!("{limit}; exec \"$@\""), "sh"], number);
        }
        match &strace {
            Some(strace) => each_call(&trial, strace),
            None => skipped(
                "failing system calls",
                "this machine does not let a test trace processes",
            ),
        }
    }
}

/// Fails each sync and rename, and kills the program at each write.
fn each_call(trial: &Trial<'_>, strace: &Path) {
    let strace = strace.to_str().unwrap();
    let calls = count(
        trial.cli,
        strace,
        "fsync,?rename,renameat,renameat2,write",
        trial.written,
    );
    let mut number_of_fault = 0;
    for (call, count) in calls {
        let faults: &[&str] = match call.as_str() {
            "write" => &["signal=SIGKILL"],
            _ => &[
                "error=EIO",
                "signal=SIGKILL",
                "error=ENOSPC",
                "error=EROFS",
                "error=EDQUOT",
            ],
        };
        for number in 1..=count.min(5) {
            // A different fault at each call.
            let fault = faults[number_of_fault % faults.len()];
            number_of_fault += 1;
            let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{fault}:when={number}"));
            trial.check(
                &[strace, "-f", "-qq", "-e", "signal=none", "-e", &trace, "-e", &inject],
                number_of_fault,
            );
        }
    }
}
