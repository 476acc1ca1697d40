//! Runs the program as a user would, in an environment without any settings of this machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use tempfile::TempDir;

/// A user with an empty home folder, which is also the working folder.
pub struct Cli {
    home: TempDir,
    program: PathBuf,
    environment: Vec<(String, String)>,
}

/// The output and the exit code of a run.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; `None` if a signal ended the run.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    arguments: String,
}

impl Cli {
    /// Creates a user of the program at this path: `Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))`.
    pub fn new(program: &str) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            program: program.into(),
            environment: Vec::new(),
        }
    }

    /// Returns the working folder, which is also `$HOME`.
    pub fn folder(&self) -> &Path {
        self.home.path()
    }

    /// Returns the path of a file in the working folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Sets an environment variable for all runs.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Writes `~/.docker/config.json` with a login for a registry.
    pub fn log_in(&self, host: &str, user: &str, password: &str) {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.docker_config(&serde_json::json!({"auths": {host: {"auth": auth}}}));
    }

    /// Writes `~/.docker/config.json`.
    pub fn docker_config(&self, json: &serde_json::Value) {
        std::fs::create_dir_all(self.path(".docker")).unwrap();
        std::fs::write(self.path(".docker/config.json"), json.to_string()).unwrap();
    }

    /// Returns the command, ready to be started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.home.path())
            .envs(self.environment.iter().cloned())
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("the program does not start");
        Output::new(&output, arguments)
    }

    /// Runs the program, and fails unless its exit code is 0.
    pub fn succeed(&self, arguments: &[&str]) -> Output {
        self.run(arguments).expect_code(0)
    }

    /// Starts the program, and does not wait for its end.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().expect("the program does not start")
    }

    /// Returns the names of all files in the working folder except hidden files.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }
}

impl Output {
    /// Creates the output of a run with these arguments.
    pub fn new(output: &std::process::Output, arguments: &[&str]) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            arguments: arguments.join(" "),
        }
    }

    /// Returns the arguments, the exit code and both streams, for messages.
    pub fn everything(&self) -> String {
        let code = self.code.map_or("a signal".to_owned(), |code| code.to_string());
        format!(
            "docker-mirror {}\n-> {code}\n--- stdout\n{}--- stderr\n{}",
            self.arguments, self.stdout, self.stderr
        )
    }

    /// Fails unless the run ended with this exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.everything());
        self
    }

    /// Fails unless stderr contains each of these words, ignoring case.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let text = self.stderr.to_lowercase();
        for word in words {
            assert!(
                text.contains(&word.to_lowercase()),
                "no `{word}` in:\n{}",
                self.everything()
            );
        }
        self
    }

    /// Fails if one of these texts appears on either stream.
    #[track_caller]
    pub fn hides(self, secrets: &[&str]) -> Self {
        for secret in secrets {
            assert!(
                !self.everything().contains(secret),
                "`{secret}` in:\n{}",
                self.everything()
            );
        }
        self
    }

    /// Returns the lines of stdout.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// Copies a program that is to be started, in a separate process.
///
/// A copy in this process could be inherited, while open for writing, by a program that another test starts. A file that is
/// open for writing cannot be started (`ETXTBSY`).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let copied = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status().unwrap();
    assert!(copied.success(), "cp: {copied}");
}

/// Returns whether a signal or `--timeout` ended a run.
pub fn was_cut_off(status: std::process::ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(2) || matches!(status.code(), Some(124 | 129 | 143))
}

/// Waits until a condition holds. Fails after a minute, which is far longer than any condition takes.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
