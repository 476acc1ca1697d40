//! The static binary of a release, and the image that contains it: in an empty environment.
//!
//! `tests/static` builds the release and names its folder in `DOCKER_MIRROR_DIST`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::support::Double;
use super::support::cli::copy_program;
use super::support::images::greeting;
use super::support::real::{Engine, RealRegistry, Setup, optional_program, program, skipped};

/// Returns the file of a release whose name ends with `end`. Reports and returns `None` if there is no release.
fn release_file(end: &str, what: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("DOCKER_MIRROR_DIST") else {
        skipped(what, "`tests/static` builds a release and tests it");
        return None;
    };
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = files.find(|path| path.to_string_lossy().ends_with(end));
    Some(found.unwrap_or_else(|| panic!("the release has no file *{end}")))
}

/// A root folder with only the program and a writable folder.
struct Root(TempDir);

impl Root {
    fn new(binary: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_program(binary, folder.path().join("docker-mirror"));
        fs::create_dir(folder.path().join("files")).unwrap();
        Self(folder)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let chroot = program("chroot", "a static binary in an empty root").unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user"])
            .arg(chroot)
            .arg(self.0.path());
        command.arg("/docker-mirror").args(arguments).env_clear();
        command.output().unwrap()
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}\n{stderr}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn runs_in_an_empty_root_against_plain_and_tls_registries() {
    let what = "a static binary in an empty root";
    let Some(binary) = release_file("-x86_64-linux", what) else {
        return;
    };
    let root = Root::new(&binary);
    assert!(root.succeed(&["--version"]).starts_with("docker-mirror "));
    let source = Double::new();
    greeting().push(&source, "library/greeting", "1.0");
    let image = format!("{}/library/greeting:1.0", source.host());
    root.succeed(&["export", &image, "-o", "/files/bundle.tar"]);
    let setup = Setup {
        tls: true,
        ..Setup::default()
    };
    for setup in [Setup::default(), setup] {
        let Some(target) = RealRegistry::start(setup, what) else {
            return;
        };
        let destination = format!("{}/mirror", target.host());
        let mut arguments = vec!["import", "/files/bundle.tar", "-d", &destination];
        if target.uses_tls() {
            fs::copy(target.authority_file(), root.0.path().join("files/authority.pem")).unwrap();
            // Without any authority on the machine, the message says what to do.
            let refused = root.run(&arguments);
            assert!(!refused.status.success());
            let stderr = String::from_utf8_lossy(&refused.stderr);
            assert!(stderr.contains("--ca-file"), "{stderr}");
            arguments.extend(["--ca-file", "/files/authority.pem"]);
        }
        root.succeed(&arguments);
        super::has_linux(&target.client(), &greeting(), "mirror/library/greeting", "1.0");
    }
}

#[test]
fn the_binary_of_another_processor_makes_the_same_bundle() {
    let what = "the release for aarch64";
    let Some(binary) = release_file("-aarch64-linux", what) else {
        return;
    };
    let Some(emulator) = optional_program("qemu-aarch64-static", what) else {
        return;
    };
    let (source, target) = (Double::new(), Double::new());
    greeting().push(&source, "library/greeting", "1.0");
    let image = format!("{}/library/greeting:1.0", source.host());
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &Path, emulated: &[&str], arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(emulated).args(arguments).current_dir(folder.path());
        let output = command.env_clear().env("HOME", folder.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let path = binary.display().to_string();
    let emulated = |arguments: &[&str]| run(&emulator, &[&path], arguments);
    assert!(emulated(&["--version"]).starts_with("docker-mirror "));
    emulated(&["export", &image, "-o", "arm.tar"]);
    emulated(&["import", "arm.tar", "-d", &target.host()]);
    assert!(target.manifest("library/greeting", "1.0").is_some());
    let here = Path::new(env!("CARGO_BIN_EXE_docker-mirror"));
    run(here, &[], &["export", &image, "-o", "here.tar"]);
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("arm.tar") == bytes("here.tar"));
}

#[test]
fn docker_loads_and_runs_the_image() {
    let what = "the image of a release under docker";
    let Some(image) = release_file("-image.tar", what) else {
        return;
    };
    let Some(engine) = Engine::start(what) else { return };
    let loaded = engine.succeed(&["load", "-i", &image.display().to_string()]);
    let name = loaded.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(name.starts_with("localhost/docker-mirror:"), "{loaded}");
    let source = Double::new();
    greeting().push(&source, "library/greeting", "1.0");
    let work = tempfile::tempdir().unwrap();
    let volume = format!("{}:/bundle", work.path().display());
    let greeting = format!("{}/library/greeting:1.0", source.host());
    let said = engine.succeed(&["run", "--rm", "--network", "none", &name, "--version"]);
    assert!(said.starts_with("docker-mirror "), "{said}");
    engine.succeed(&[
        "run",
        "--rm",
        "--network",
        "host",
        "-v",
        &volume,
        &name,
        "export",
        &greeting,
        "-o",
        "bundle.tar",
    ]);
    assert!(work.path().join("bundle.tar").exists());
}

#[test]
fn podman_loads_the_image() {
    let what = "the image of a release under podman";
    let Some(image) = release_file("-image.tar", what) else {
        return;
    };
    let Some(podman) = optional_program("podman", what) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (root, run) = (at("root"), at("run"));
    let common = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
    let podman = |arguments: &[&str]| Command::new(&podman).args(common).args(arguments).output().unwrap();
    let loaded = podman(&["load", "-i", &image.display().to_string()]);
    let said = String::from_utf8_lossy(&loaded.stdout).into_owned() + &String::from_utf8_lossy(&loaded.stderr);
    assert!(loaded.status.success(), "{said}");
    assert!(said.contains("localhost/docker-mirror:"), "{said}");
    let listed = podman(&["image", "ls", "--format", "{{.Repository}}"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("localhost/docker-mirror"));
    // What a rootless or nested podman leaves behind belongs to it.
    let _ = podman(&["system", "reset", "--force"]);
}
