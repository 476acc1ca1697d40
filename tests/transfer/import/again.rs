//! A run that was ended in the middle of an upload, and the next one.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;

use super::handmade::{Maker, assert_complete, noise};
use super::support::cli::wait_until;
use super::support::fault::{Action, When};
use super::support::real::{RealRegistry, Setup};
use super::support::{Cli, Double, End, sha256};

const LARGE: usize = 8 << 20;

/// Writes an image with a large layer as `team/app:1` to `b.tar`. Returns the digest of the layer.
fn app(cli: &Cli) -> String {
    let layer = noise(9, LARGE);
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &[&layer]);
    maker.name("docker.io/team/app:1", &image);
    fs::copy(maker.write().path, cli.path("b.tar")).unwrap();
    sha256(&layer)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Number of bytes of the layer at the registry when an import is killed: a piece, and a part of the next one.
const KEPT: u64 = (1 << 20) + CUT;
const CUT: u64 = 200 << 10;

/// Kills an import when the registry has the first part of the layer.
fn killed(cli: &Cli, target: &Double, digest: &str, more: &[&str]) {
    let cut = || Action::CutRequest(CUT, End::Stall);
    target.add_fault(When::patch("/blobs/uploads/").after(1), cut());
    target.add_fault(When::put("/blobs/uploads/").and(&digest.replace(':', "%3A")), cut());
    let host = target.host();
    let child = cli.spawn(&[&["import", "b.tar", "-d", &host], more].concat());
    wait_until("the registry has the first part", || {
        target.requests().iter().any(|request| request.bytes_in == CUT)
    });
    kill(child);
    target.clear_faults();
    target.forget_requests();
}

fn sent(target: &Double) -> u64 {
    target.requests().iter().map(|e| e.bytes_in).sum()
}

#[test]
fn the_next_run_goes_on_where_the_registry_is() {
    let (cli, target) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
    let digest = app(&cli);
    killed(&cli, &target, &digest, &[]);
    let folder = cli.path(".cache/docker-mirror/uploads");
    let kept: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert_complete(&target, "team/app", "1", false);
    let patches = target.requests_of("PATCH", "");
    let first = patches[0].header("content-range");
    assert!(first.starts_with(&format!("{KEPT}-")), "{}", target.transcript());
    assert!(sent(&target) < LARGE as u64 - KEPT + 10_000, "{}", target.transcript());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "forgotten when it is done");
}

#[test]
fn what_the_registry_does_not_know_any_more_or_does_not_say_is_sent_anew() {
    for fault in [Action::ForgetUpload, Action::ZeroStatus] {
        let (cli, target) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
        let digest = app(&cli);
        killed(&cli, &target, &digest, &[]);
        target.add_fault(When::get("/blobs/uploads/"), fault);
        cli.succeed(&["import", "b.tar", "-d", &target.host()]);
        assert_complete(&target, "team/app", "1", false);
        assert!(sent(&target) > LARGE as u64, "{}", target.transcript());
    }
}

#[test]
fn bytes_of_an_earlier_run_that_are_wrong_are_sent_again() {
    let (cli, target) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
    let digest = app(&cli);
    killed(&cli, &target, &digest, &[]);
    // The session grows by a stranger's bytes.
    let kept = fs::read_dir(cli.path(".cache/docker-mirror/uploads")).unwrap().next();
    let text = fs::read_to_string(kept.unwrap().unwrap().path()).unwrap();
    let address = text.lines().nth(1).unwrap();
    let talk = |head: String, body: &[u8]| {
        let mut stranger = TcpStream::connect(target.host()).unwrap();
        write!(stranger, "{head}Host: x\r\nConnection: close\r\n\r\n").unwrap();
        stranger.write_all(body).unwrap();
        let mut answer = String::new();
        stranger.read_to_string(&mut answer).unwrap();
        answer
    };
    let path = |address: &str| address.split_once(&target.host()).unwrap().1.to_owned();
    let status = talk(format!("GET {} HTTP/1.1\r\n", path(address)), b"");
    let now = status.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    let (start, end) = (KEPT, KEPT + 999);
    let range = format!("Content-Length: 1000\r\nContent-Range: {start}-{end}\r\n");
    let answer = talk(format!("PATCH {} HTTP/1.1\r\n{range}", path(now)), &[7; 1000]);
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    target.forget_requests();
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert_complete(&target, "team/app", "1", false);
    let patches = target.requests_of("PATCH", "");
    assert!(
        patches[0]
            .header("content-range")
            .starts_with(&format!("{}-", KEPT + 1000)),
        "{}",
        target.transcript()
    );
}

#[test]
fn nothing_is_kept_where_that_is_not_wanted() {
    let (cli, target) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
    let digest = app(&cli);
    killed(&cli, &target, &digest, &["--no-cache"]);
    assert!(!cli.path(".cache/docker-mirror/uploads").exists());
}

/// Its sessions carry a signed offset that is right only after a completed request, so that an interrupted upload
/// starts again. The second run must end as if there had been no first run.
#[test]
fn a_real_registry_ends_complete() {
    let Some(registry) = RealRegistry::start(Setup::default(), "a run that was killed") else {
        return;
    };
    let cli = Cli::new(env!("CARGO_BIN_EXE_docker-mirror"));
    app(&cli);
    let host = registry.host();
    for _ in 0..3 {
        let child = cli.spawn(&["import", "b.tar", "-d", &host]);
        let uploads = cli.path(".cache/docker-mirror/uploads");
        wait_until("the upload has begun", || {
            fs::read_dir(&uploads).is_ok_and(|found| found.count() > 0)
        });
        kill(child);
    }
    let imported = cli.succeed(&["import", "b.tar", "-d", &host]);
    assert_eq!(imported.lines().len(), 1);
    let again = cli.succeed(&["import", "b.tar", "-d", &host]);
    assert!(!again.stderr.contains(" uploaded"), "{}", again.everything());
}
