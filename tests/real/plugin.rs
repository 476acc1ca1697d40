//! The program as a plugin of a real docker command line, which needs no daemon for it.

use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::support::cli::{copy_program, wait_until};
use super::support::images::greeting;
use super::support::{Action, Double, Gate, When, real};

/// The command line of docker, and a folder of its configuration that has the plugin.
struct Docker {
    program: std::path::PathBuf,
    config: TempDir,
}

impl Docker {
    fn with_plugin() -> Option<Self> {
        let program = real::optional_program("docker", "the plugin of docker's command line")?;
        let config = tempfile::tempdir().unwrap();
        let plugins = config.path().join("cli-plugins");
        std::fs::create_dir(&plugins).unwrap();
        copy_program(env!("CARGO_BIN_EXE_docker-mirror"), plugins.join("docker-mirror"));
        Some(Self { program, config })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.config.path()).args(arguments);
        command.current_dir(self.config.path()).env("HOME", self.config.path());
        command
    }

    /// Returns the number before the first dot of the version.
    fn version(&self) -> Option<u32> {
        let output = self.command(&["--version"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.strip_prefix("Docker version ")?.split('.').next()?.parse().ok()
    }
}

#[test]
fn a_signal_to_docker_ends_it() {
    let Some(docker) = Docker::with_plugin() else { return };
    // Earlier versions end alone, and leave the plugin running.
    if docker.version().is_none_or(|version| version < 25) {
        return real::skipped(
            "the end of docker's plugin",
            "this docker opens no socket for its plugins",
        );
    }
    let source = Double::new();
    greeting().push(&source, "library/greeting", "1.0");
    let gate = Gate::closed();
    source.add_fault(When::path("/manifests/"), Action::Hold(gate.clone()));
    let image = format!("{}/library/greeting:1.0", source.host());
    for signal in [Signal::TERM, Signal::INT] {
        let before = gate.arrived();
        let mut command = docker.command(&["mirror", "export", &image, "-o", "b.tar"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let running = command.spawn().unwrap();
        wait_until("the plugin works", || gate.arrived() > before);
        kill_process(Pid::from_child(&running), signal).unwrap();
        let ended = running.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("error: terminated by docker"), "{said}");
        assert_eq!(ended.status.code(), Some(143), "{said}");
    }
    gate.open();
}

#[test]
fn docker_runs_it_as_a_plugin() {
    let Some(docker) = Docker::with_plugin() else { return };
    let config = &docker.config;
    let source = Double::new();
    greeting().push(&source, "library/greeting", "1.0");
    let run = |arguments: &[&str]| -> Output { docker.command(arguments).output().unwrap() };
    let text = |output: &Output| {
        let all = [&output.stdout[..], &output.stderr].concat();
        String::from_utf8_lossy(&all).into_owned()
    };
    let help = text(&run(&["--help"]));
    assert!(
        help.contains("mirror*") || help.contains("mirror "),
        "docker does not list it: {help}"
    );
    let image = format!("{}/library/greeting:1.0", source.host());
    let export = run(&["mirror", "export", &image, "-o", "b.tar"]);
    assert!(export.status.success(), "{}", text(&export));
    assert!(config.path().join("b.tar").is_file());
    let wrong = run(&["mirror", "exprot", &image, "-o", "c.tar"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    let offered = text(&run(&["__complete", "mirror", "ex"]));
    assert!(offered.starts_with("export\tFetch images"), "{offered}");
    let offered = text(&run(&["__complete", "mirror", "import", "b.tar", "--only", ""]));
    assert!(offered.starts_with(&image), "{offered}");
    let usage = text(&run(&["mirror", "import", "--help"]));
    assert!(usage.contains("Usage: docker mirror import "), "{usage}");
}
