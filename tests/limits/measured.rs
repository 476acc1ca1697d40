//! A run of the program in a child process, with what it took.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{WaitId, WaitIdOptions};
use tempfile::TempDir;
use wait4::Wait4;

use crate::support::Cli;

/// Memory in bytes below which every run stays.
pub(crate) const CEILING: u64 = 256 << 20;

/// Time after which a run counts as hanging, even on a slow machine: the longest run takes some ten seconds of
/// processor time.
const HANGS: Duration = Duration::from_secs(300);

/// Number of bytes of text that any run may write, and further bytes for each image.
const TEXT: u64 = 64 << 10;
const TEXT_OF_IMAGE: u64 = 2 << 10;

/// Bytes of a report for each image, and for all images together.
const REPORT_OF_IMAGE: u64 = 640 << 10;
const REPORT: u64 = 160 << 20;

/// What a run took, and how it ended.
#[derive(Debug)]
pub(crate) struct Measured {
    /// The exit code, or the signal that ended it.
    pub(crate) ended: Result<i32, i32>,
    pub(crate) was_hung: bool,
    /// Peak of its resident memory in bytes.
    pub(crate) peak: u64,
    /// Time of the processors.
    pub(crate) busy: Duration,
    /// Characters at the start of the text that control a terminal, forge a line or change the direction of writing.
    raw: Vec<char>,
    /// The first part of stderr.
    pub(crate) stderr: String,
    /// Bytes on stdout and stderr.
    pub(crate) text: u64,
    /// Bytes of its report, if it has written one.
    pub(crate) report: u64,
}

/// A user whose runs are measured.
pub(crate) struct Lab {
    cli: Cli,
    outputs: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self {
            cli: Cli::new(env!("CARGO_BIN_EXE_docker-mirror")),
            outputs: tempfile::tempdir().unwrap(),
        }
    }

    /// The folder in which runs work, and a path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.cli.path(name)
    }

    /// Runs the program to its end. `input` is the content of a pipe at its standard input.
    pub(crate) fn run(&self, arguments: &[&str], input: Option<&Path>) -> Measured {
        let command = self.cli.command(arguments);
        self.run_command(command, input)
    }

    /// A line for a shell, in this user's folder and environment.
    pub(crate) fn shell(&self, line: &str) -> std::process::Command {
        let own = self.cli.command(&[]);
        let environment = own.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let mut command = std::process::Command::new("sh");
        command.args(["-c", line]).env_clear().envs(environment);
        command.current_dir(self.path("")).stdin(Stdio::null());
        command
    }

    /// Runs a command of this user to its end.
    pub(crate) fn run_command(&self, mut command: std::process::Command, input: Option<&Path>) -> Measured {
        let mut output = tempfile::Builder::new();
        let output = output.suffix(".txt");
        let files = ["out", "err"].map(|name| output.prefix(name).tempfile_in(self.outputs.path()).unwrap());
        let _ = std::fs::remove_file(self.path("report.json"));
        command.stdout(files[0].reopen().unwrap());
        command.stderr(files[1].reopen().unwrap());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().unwrap();
        let writer = input.map(|path| {
            let (mut from, mut to) = (File::open(path).unwrap(), child.stdin.take().unwrap());
            // A child that ends early closes the pipe.
            std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)))
        });
        let (was_hung, seen) = watch(&child, HANGS);
        if was_hung {
            child.kill().unwrap();
        }
        let used = child.wait4().unwrap();
        let own = peak_of("self");
        writer.into_iter().for_each(|writer| writer.join().unwrap());
        let length = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        let raw = files.iter().flat_map(|file| raw_text(file.path())).collect();
        let mut stderr = Vec::new();
        File::open(files[1].path())
            .unwrap()
            .take(TEXT)
            .read_to_end(&mut stderr)
            .unwrap();
        Measured {
            ended: used.status.code().ok_or(used.status.signal().unwrap_or_default()),
            was_hung,
            // The system counts a child from the moment when it is a copy of this process. A count up to that size says
            // nothing about the child; the observed peak lacks only the child's last moment.
            peak: if used.rusage.maxrss > own {
                used.rusage.maxrss
            } else {
                seen
            },
            busy: used.rusage.utime + used.rusage.stime,
            raw,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            text: files.iter().map(|file| length(file.path())).sum(),
            report: length(&self.path("report.json")),
        }
    }
}

/// Returns the unescaped characters in the first bytes of a file. Bytes that are not text count as one of them. A
/// bundle that was requested on standard output is not text.
pub(crate) fn raw_text(path: &Path) -> Vec<char> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().take(2 << 20).read_to_end(&mut bytes).unwrap();
    if bytes.get(257..262) == Some(b"ustar") {
        return Vec::new();
    }
    // The last character may be cut.
    let bytes = &bytes[..bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1)];
    let is_raw = |c: &char| (docker_mirror::is_unsafe(*c) && *c != '\n') || *c == '\u{fffd}';
    String::from_utf8_lossy(bytes).chars().filter(is_raw).take(10).collect()
}

/// Waits until a child has ended, without reaping it. Returns whether it takes too long, and the observed peak of its
/// memory.
fn watch(child: &Child, limit: Duration) -> (bool, u64) {
    let (begun, mut seen) = (Instant::now(), 0);
    let id = rustix::process::Pid::from_child(child);
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while rustix::process::waitid(WaitId::Pid(id), how).unwrap().is_none() {
        if is_started(child.id()) {
            seen = peak_of(&child.id().to_string()).max(seen);
        }
        if begun.elapsed() > limit {
            return (true, seen);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    (false, seen)
}

/// Returns whether a child runs its own program. For a moment after its start, it still has the memory of this process.
fn is_started(child: u32) -> bool {
    let program = |process: &str| std::fs::read_link(format!("/proc/{process}/exe")).ok();
    program(&child.to_string()) != program("self")
}

/// Returns the peak of the resident memory of a process in bytes; 0 if the process has ended.
fn peak_of(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or_default() << 10
}

impl Measured {
    /// Returns the limits that a run with this many images exceeded, and an end without an exit code of the program's
    /// own.
    pub(crate) fn faults(&self, images: u64) -> Vec<String> {
        let mut faults = Vec::new();
        if self.was_hung {
            faults.push(format!("did not end within {HANGS:?}"));
        }
        if !matches!(self.ended, Ok(0..=6)) || self.stderr.contains("panicked") {
            faults.push(format!("ended with {:?}", self.ended));
        }
        if !self.raw.is_empty() {
            faults.push(format!("writes {:?} as they are", self.raw));
        }
        for (what, is, most) in [
            ("memory", self.peak, CEILING),
            ("text", self.text, TEXT + images * TEXT_OF_IMAGE),
            ("report", self.report, (TEXT + images * REPORT_OF_IMAGE).min(REPORT)),
        ] {
            if is > most {
                faults.push(format!("takes {is} bytes of {what}, where {most} are allowed"));
            }
        }
        if !faults.is_empty() {
            faults.push(self.stderr.chars().take(1000).collect());
        }
        faults
    }

    /// One line for people who want to see the numbers.
    pub(crate) fn line(&self, name: &str) -> String {
        let code = match self.ended {
            Ok(code) => format!("exit {code}"),
            Err(signal) => format!("signal {signal}"),
        };
        format!(
            "{name}: {code}, {} MiB, {:.1} s busy, text {} KiB, report {} KiB",
            self.peak >> 20,
            self.busy.as_secs_f32(),
            self.text >> 10,
            self.report >> 10
        )
    }
}
