//! Tells the program which commit it is built from: `DOCKER_MIRROR_COMMIT`, else what a package from a registry of crates says,
//! else git. Without any of them it is built all the same.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=DOCKER_MIRROR_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    // A build for tests is not done again for each commit.
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let given = std::env::var("DOCKER_MIRROR_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    let commit = given.or_else(packaged).or_else(|| is_release.then(git).flatten());
    let commit = commit.filter(|commit| commit.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let shown = match commit {
        Some(commit) => format!("{version} ({})", &commit[..commit.len().min(12)]),
        None => version,
    };
    println!("cargo::rustc-env=DOCKER_MIRROR_VERSION={shown}");
}

/// The commit in a package that cargo made.
fn packaged() -> Option<String> {
    let text = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    rest.split('"').nth(1).map(str::to_owned)
}

fn git() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // A folder inside another repository would get the commit of that one.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::fs::canonicalize(".").ok()?;
    if std::fs::canonicalize(Path::new(&top)).ok()? != here {
        return None;
    }
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["rev-parse", "HEAD"])
}
