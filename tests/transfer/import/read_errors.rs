//! Bundles on a disk with unreadable parts. `strace` makes the reads of one file fail.

use std::process::{Command, Stdio};

use super::archives::{Layout, single};
use super::handmade::noise;
use super::support::cli::Output;
use super::support::real::{optional_program, skipped};
use super::support::{Cli, Double};
use super::tags;

/// Number of reads of one file by one thread that succeed: more than the scan of the headers takes, fewer than the
/// large layer.
const SOUND: usize = 60;

/// A user with `bad.tar`, which holds a large image.
fn user() -> (Cli, Layout) {
    let cli = Cli::new(env!("CARGO_BIN_EXE_docker-mirror"));
    let mut layout = Layout::default();
    let large = layout.image("amd64", &noise(1, 24 << 20), false);
    layout.name(large, "quay.io/team/large:1");
    std::fs::write(cli.path("bad.tar"), layout.tar().end()).unwrap();
    (cli, layout)
}

/// Imports while reads of `bad.tar` fail; `None` if a test may not trace processes.
fn import(cli: &Cli, error: &str, bundles: &[&str], host: &str) -> Option<Output> {
    let what = "reads that fail";
    let strace = optional_program("strace", what)?;
    let probe = Command::new(&strace).args(["-qq", "-e", "trace=none", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        skipped(what, "this machine does not let a test trace processes");
        return None;
    }
    let plain = cli.command(&[&["import"], bundles, &["-d", host]].concat());
    let rule = format!("inject=read,pread64:error={error}:when={SOUND}+");
    let output = Command::new(strace)
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "signal=none",
            "-P",
            "bad.tar",
            "-P",
        ])
        .arg(cli.path("bad.tar"))
        .args(["-e", &rule])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("TOKIO_WORKER_THREADS", "1")
        .current_dir(cli.folder())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Some(Output::new(&output, bundles))
}

#[test]
fn an_image_that_cannot_be_read_fails_alone_with_what_to_do() {
    for (error, says) in [
        ("EIO", "hint: the disk or its cable has errors"),
        ("ENXIO", "hint: the disk is no longer there"),
        ("ESTALE", "hint: the network file system lost the file"),
    ] {
        let (cli, _) = user();
        let registry = Double::new();
        std::fs::write(cli.path("good.tar"), single("quay.io/team/app:1", "good").tar().end()).unwrap();
        let Some(output) = import(&cli, error, &["bad.tar", "good.tar"], &registry.host()) else {
            return;
        };
        let output = output
            .expect_code(1)
            .says(&["1 of 2 images failed", "team/large:1", "bad.tar", "offset", says]);
        assert_eq!(tags(&registry, "team/app"), ["1"], "{}", output.everything());
        assert!(tags(&registry, "team/large").is_empty());
    }
}

#[test]
fn a_copy_of_a_blob_in_another_bundle_is_read_instead() {
    let (cli, mut layout) = user();
    let registry = Double::new();
    let small = layout.image("amd64", b"small", true);
    layout.name(small, "quay.io/team/small:1");
    std::fs::write(cli.path("copy.tar"), layout.tar().end()).unwrap();
    let Some(output) = import(&cli, "EIO", &["bad.tar", "copy.tar"], &registry.host()) else {
        return;
    };
    let output = output.expect_code(0);
    for repository in ["team/large", "team/small"] {
        assert_eq!(tags(&registry, repository), ["1"], "{}", output.everything());
    }
}
