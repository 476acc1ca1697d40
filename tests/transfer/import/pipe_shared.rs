//! A large blob that comes out of a pipe once and is needed in several repositories, some of which cannot mount it.

use std::process::Stdio;
use std::time::Duration;

use super::handmade::assert_complete;
use super::pipe::{bundle, cli, layer, pipe, pipe_with, uploads};
use super::support::cli::Output;
use super::support::fault::{Action, When};
use super::support::image::Image;
use super::support::images::shared_base;
use super::support::{Cli, Double, Options};

const REFUSALS: [fn() -> Action; 3] = [
    || Action::IgnoreMount,
    || Action::error(404, "NAME_UNKNOWN", "project not found"),
    || Action::error(405, "UNSUPPORTED", "no mounts"),
];

/// Exports `count` images on a base of this size, as `team/app0:1` and so on. Returns the digest of the base.
fn apps(cli: &Cli, count: u64, base: usize) -> String {
    let images = shared_base(count, base);
    let names: Vec<String> = (0..images.len()).map(|n| format!("app{n}")).collect();
    let named: Vec<(&str, &Image)> = names.iter().map(String::as_str).zip(&images).collect();
    bundle(cli, &named);
    layer(&images[0], 0)
}

fn room(cli: &Cli) -> std::path::PathBuf {
    let folder = cli.path("room");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn assert_empty(folder: &std::path::Path) {
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn where_mounts_are_refused_one_run_is_enough() {
    let cli = cli();
    let base = apps(&cli, 4, 20 << 20);
    let folder = room(&cli);
    for refusal in REFUSALS {
        for jobs in ["1", "6"] {
            let target = Double::start(Options::default().fault(When::post("mount="), refusal()));
            let said = pipe_with(&cli, "bundle.tar", &target, &["-v", "-j", jobs], &folder).expect_code(0);
            said.says(&[&base, "needed in 4 repositories", "temporary file", "room"]);
            assert_empty(&folder);
            for n in 0..4 {
                assert_complete(&target, &format!("team/app{n}"), "1", false);
            }
            assert_eq!(uploads(&target).iter().filter(|digest| **digest == base).count(), 4);
        }
    }
}

#[test]
fn a_repository_that_refuses_a_blob_takes_it_from_no_other() {
    let (cli, target) = (cli(), Double::new());
    let base = apps(&cli, 3, 20 << 20);
    let folder = room(&cli);
    // After some of it was sent.
    let digest = base.replace(':', "%3A");
    let refused = When::put("/team/app0/").and(&digest);
    target.add_fault(refused, Action::error(403, "DENIED", "not yours"));
    let said = pipe_with(&cli, "bundle.tar", &target, &[], &folder).expect_code(3);
    said.says(&["1 of 3 images failed", "team/app0", "not yours"]);
    assert_complete(&target, "team/app1", "1", false);
    assert_complete(&target, "team/app2", "1", false);
    assert_empty(&folder);
}

#[test]
fn without_a_place_for_it_the_advice_is_to_take_a_file() {
    let (cli, target) = (cli(), Double::new());
    target.add_fault(When::post("mount="), Action::IgnoreMount);
    apps(&cli, 3, 20 << 20);
    let said = pipe(&cli, "bundle.tar", &target, &[]).expect_code(1);
    let said = said.says(&[
        "no longer available from the pipe",
        "nowhere",
        "hint: save the bundle to a file and import that",
        "TMPDIR",
    ]);
    assert_eq!(said.lines().len(), 1, "{}", said.everything());
    assert_complete(&target, "team/app0", "1", false);
}

#[test]
fn memory_stays_bounded_and_the_file_is_gone() {
    let (cli, target) = (cli(), Double::new());
    target.add_fault(When::post("mount="), Action::IgnoreMount);
    apps(&cli, 2, 120 << 20);
    let folder = room(&cli);
    let host = target.host();
    let arguments = ["import", "-", "-d", &host];
    let mut child = cli
        .command(&arguments)
        .env("TMPDIR", &folder)
        .stdin(Stdio::from(std::fs::File::open(cli.path("bundle.tar")).unwrap()))
        .spawn()
        .unwrap();
    let (mut peak, mut open) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        let process = format!("/proc/{}", child.id());
        // For a moment after its start, the child still has the memory of this process.
        let program = std::fs::read_link(format!("{process}/exe")).ok();
        if program == std::fs::read_link("/proc/self/exe").ok() {
            continue;
        }
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now: u64 = line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap());
        peak = peak.max(now);
        for file in std::fs::read_dir(format!("{process}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let leads = std::fs::read_link(file.path()).unwrap_or_default();
            if leads.starts_with(&folder) {
                open = open.max(std::fs::metadata(file.path()).map_or(0, |there| there.len()));
            }
        }
        assert_empty(&folder);
        std::thread::sleep(Duration::from_millis(2));
    }
    Output::new(&child.wait_with_output().unwrap(), &arguments).expect_code(0);
    for n in 0..2 {
        assert_complete(&target, &format!("team/app{n}"), "1", false);
    }
    assert!(peak > 0 && peak < 72 << 10, "{peak} KiB");
    assert!(
        open > 100 << 20,
        "the bytes were to be seen in a file without a name: {open}"
    );
}

#[test]
fn blobs_that_only_one_repository_needs_and_those_of_a_dry_run_are_not_put_away() {
    let (cli, target) = (cli(), Double::new());
    apps(&cli, 1, 20 << 20);
    let folder = room(&cli);
    let said = pipe_with(&cli, "bundle.tar", &target, &["-v"], &folder).expect_code(0);
    assert!(!said.stderr.contains("temporary file"), "{}", said.everything());
    let cli = super::pipe::cli();
    apps(&cli, 2, 20 << 20);
    let folder = room(&cli);
    let said = pipe_with(&cli, "bundle.tar", &Double::new(), &["-v", "--dry-run"], &folder).expect_code(0);
    assert!(!said.stderr.contains("temporary file"), "{}", said.everything());
}

/// Runs `import -` with a limit of 100 blocks for each file: every write beyond fails, as on a full disk.
fn without_room(cli: &Cli, file: &str, target: &Double) -> Output {
    let host = target.host();
    let arguments = ["import", "-", "-d", &host];
    let mut limited = std::process::Command::new("sh");
    let plain = cli.command(&arguments);
    limited
        .args(["-c", "ulimit -f 100; exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env("HOME", cli.folder())
        .env("TMPDIR", room(cli))
        .current_dir(cli.folder())
        .stdin(std::fs::File::open(cli.path(file)).unwrap());
    Output::new(&limited.output().unwrap(), &arguments)
}

#[test]
fn where_there_is_no_room_the_advice_names_it() {
    let (cli, target) = (cli(), Double::new());
    // A blob that may be needed again.
    target.add_fault(When::post("mount="), Action::IgnoreMount);
    apps(&cli, 2, 20 << 20);
    let said = without_room(&cli, "bundle.tar", &target).expect_code(1);
    said.says(&[
        "1 of 2 images failed",
        "no longer available",
        "temporary file",
        "hint: save the bundle to a file",
        "TMPDIR",
    ]);
    assert_complete(&target, "team/app0", "1", false);
    // Where mounts work, nobody notices.
    let target = Double::new();
    without_room(&cli, "bundle.tar", &target).expect_code(0);
    assert_complete(&target, "team/app1", "1", false);
    // An archive that has to be copied as a whole.
    let image = super::support::images::sized(3, "linux/amd64", &[3 << 20]);
    super::support::layout::write_layout(&cli.path("b.tar"), &[("docker.io/library/x:1", &image)]);
    let target = Double::new();
    let said = without_room(&cli, "b.tar", &target).expect_code(1);
    said.says(&[
        "cannot write a temporary file in",
        "room",
        "hint: set TMPDIR to a directory with more room",
    ]);
    assert!(target.requests().is_empty(), "{}", target.transcript());
    assert_empty(&cli.path("room"));
}
