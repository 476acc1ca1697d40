//! The parts of a CI system that the files of `docs/ci` need: folders, variables, shells, and a way to cancel a job.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use tempfile::TempDir;

use super::files::{PASSWORD, Pipeline, Stage};
use crate::support::cli::wait_until;

/// How a job ends.
pub(super) enum Attempt<'a> {
    ToItsEnd,
    /// With SIGTERM to all its processes, once this holds.
    CancelledWhen(&'a dyn Fn() -> bool),
}

/// What came of a job.
pub(super) struct Job {
    pub(super) success: bool,
    pub(super) output: String,
}

impl Job {
    #[track_caller]
    pub(super) fn expect_success(self) {
        assert!(self.success, "{}", self.output);
    }
}

/// The folders of a pipeline.
pub(super) struct Runner<'a> {
    pipeline: &'a Pipeline,
    images: &'a str,
    destination: &'a str,
    folder: TempDir,
}

impl<'a> Runner<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, images: &'a str, destination: &'a str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "handed-over"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self {
            pipeline,
            images,
            destination,
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a job in a new workspace with the kept and handed-over paths, and afterwards keeps and hands over the paths
    /// of the file.
    pub(super) fn run(&self, stage: &Stage, attempt: Attempt<'_>) -> Job {
        let workspace = self.path("workspace");
        let _ = fs::remove_dir_all(&workspace);
        fs::create_dir(&workspace).unwrap();
        // A checkout brings the list of images.
        fs::write(workspace.join("images.txt"), self.images).unwrap();
        copy(&self.path("handed-over"), &workspace);
        let kept = self.path(if std::ptr::eq(stage, &self.pipeline.fetch) {
            "fetch"
        } else {
            "push"
        });
        if kept.exists() {
            copy(&kept, &workspace);
        }
        let job = self.shells(stage, &workspace, attempt);
        fs::create_dir_all(&kept).unwrap();
        self.take(&stage.kept, &workspace, &kept);
        if job.success {
            self.take(&stage.handed_over, &workspace, &self.path("handed-over"));
        }
        job
    }

    /// Copies paths of the workspace; paths below the home stay where they are.
    fn take(&self, paths: &[String], workspace: &Path, to: &Path) {
        for path in paths.iter().filter(|path| !path.starts_with("{home}")) {
            let from = workspace.join(path);
            if from.exists() {
                copy(&from, &to.join(path));
            }
        }
    }

    fn shells(&self, stage: &Stage, workspace: &Path, attempt: Attempt<'_>) -> Job {
        let added_path = self.path("added-path");
        fs::write(&added_path, "").unwrap();
        let mut job = Job {
            success: true,
            output: String::new(),
        };
        let last = stage.scripts.len() - 1;
        for (number, script) in stage.scripts.iter().enumerate() {
            let script = self.prelude(stage, workspace, &added_path) + &self.filled(script, workspace);
            let (mut log, output) = std::io::pipe().unwrap();
            let mut child = Command::new("bash")
                .args(["-e", "-o", "pipefail", "-c", &script])
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("HOME", self.path("home"))
                .env("GITHUB_PATH", &added_path)
                .current_dir(workspace)
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(output.try_clone().unwrap())
                .stderr(output)
                .spawn()
                .unwrap();
            // The log ends when all processes of the job have ended, as for a real runner: bash ends on the signal, and
            // a process that it started may still write to the workspace.
            let log = thread::spawn(move || {
                let mut text = Vec::new();
                log.read_to_end(&mut text).unwrap();
                String::from_utf8_lossy(&text).into_owned()
            });
            if let (Attempt::CancelledWhen(now), true) = (&attempt, number == last) {
                wait_until("the moment of the interruption", || {
                    now() || child.try_wait().unwrap().is_some()
                });
                let group = format!("-{}", child.id());
                let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
            }
            job.success = child.wait().unwrap().success();
            let log = log.join().unwrap();
            let name = &self.pipeline.name;
            assert!(!log.contains(PASSWORD), "{name}: the log shows the password:\n{log}");
            job.output += &format!("$ {script}\n{log}\n");
            if !job.success {
                break;
            }
        }
        job
    }

    /// Sets the variables, as a system does before the script begins.
    fn prelude(&self, stage: &Stage, workspace: &Path, added_path: &Path) -> String {
        let mut text = String::new();
        let (tool, sum) = super::tool();
        let own = [("TOOL_URL", format!("file://{}", tool.display())), ("TOOL_SHA256", sum)];
        for (name, value) in self.pipeline.environment.iter().chain(&stage.environment) {
            let own = own.iter().find(|(own, _)| own == name).map(|(_, value)| value);
            let value = self.filled(own.unwrap_or(value), workspace);
            text += &format!("export {name}=\"{value}\"\n");
        }
        // A container has the program on its PATH; the other systems download it.
        let folder = tool.parent().unwrap().display();
        let fetches = stage.scripts.iter().any(|script| script.contains("TOOL_URL"));
        if !fetches {
            text += &format!("PATH=\"{folder}:$PATH\"\n");
        }
        let added = fs::read_to_string(added_path).unwrap();
        for line in added.lines() {
            text += &format!("PATH=\"{line}:$PATH\"\n");
        }
        text
    }

    /// Returns the text with the names of this pipeline in place of the names of the file.
    fn filled(&self, text: &str, workspace: &Path) -> String {
        text.replace("docker.example.com", self.destination)
            .replace("{workspace}", &workspace.display().to_string())
            .replace("{home}", &self.path("home").display().to_string())
    }
}

/// Copies a file or a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}
