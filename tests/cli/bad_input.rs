//! Bad input: one clear message, the right exit code, no incomplete file under the final name, and no tag without its
//! tree.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::cli::{wait_until, was_cut_off};
use super::support::fault::{Action, When};
use super::support::images::{helm_chart, sized};
use super::support::layout::{Tar, blob_name};
use super::support::real::{signal, skipped};
use super::support::{Auth, Double, Gate, Options};
use super::{Cli, cli, source};

/// A bundle of the program's own, in `bundle.tar`.
fn bundle(cli: &Cli) {
    let source = source();
    cli.succeed(&[
        "export",
        &format!("{}/library/greeting:1.0", source.host()),
        "-o",
        "bundle.tar",
    ]);
}

#[test]
fn an_unknown_image() {
    let (cli, source) = (cli(), source());
    for name in ["library/greeting:2.0", "no/such:1"] {
        let image = format!("{}/{name}", source.host());
        cli.run(&["export", &image, "-o", "b.tar"])
            .expect_code(1)
            .says(&[&image, "not"]);
        cli.run(&["-d", "127.0.0.1:1", &image]).expect_code(1).says(&[&image]);
    }
    assert!(!cli.path("b.tar").exists());
}

#[test]
fn no_permission() {
    let cli = cli();
    let closed = Double::start(Options::default().auth(Auth::basic("user", "password")));
    helm_chart().push(&closed, "a/b", "1");
    let image = format!("{}/a/b:1", closed.host());
    cli.run(&["export", &image, "-o", "b.tar"])
        .expect_code(3)
        .says(&[&image, "hint:"]);
    let denied = Double::start(Options::default().fault(
        When::any(),
        Action::error(403, "DENIED", "requested access to the resource is denied"),
    ));
    let image = format!("{}/a/b:1", denied.host());
    cli.run(&["export", &image, "-o", "b.tar"])
        .expect_code(3)
        .says(&[&image, "denied"]);
    bundle(&cli);
    cli.run(&["import", "bundle.tar", "-d", &denied.host()])
        .expect_code(3)
        .says(&[&denied.host(), "denied"]);
    assert!(!cli.path("b.tar").exists());
}

#[test]
fn a_wrong_address() {
    let cli = cli();
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    cli.run(&["export", &format!("{host}/a/b:1"), "-o", "b.tar"])
        .expect_code(1)
        .says(&[&host, "refused"]);
    bundle(&cli);
    cli.run(&["import", "bundle.tar", "-d", &host])
        .expect_code(1)
        .says(&[&host, "refused"]);
    let unknown = "no-such-host.invalid";
    cli.run(&["export", &format!("{unknown}/a/b:1"), "-o", "b.tar"])
        .expect_code(1)
        .says(&[unknown]);
    assert!(!cli.path("b.tar").exists());
}

#[test]
fn a_registry_that_answers_html() {
    let cli = cli();
    let portal = Double::start(Options::default().fault(When::any(), Action::html()));
    let image = format!("{}/a/b:1", portal.host());
    cli.run(&["export", &image, "-o", "b.tar"])
        .expect_code(1)
        .says(&[&portal.host()]);
    let source = source();
    source.add_fault(When::get("/blobs/"), Action::html());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.run(&["export", &image, "-o", "b.tar"])
        .expect_code(1)
        .says(&["sha256:"]);
    assert!(!cli.path("b.tar").exists());
}

#[test]
fn a_truncated_bundle() {
    let (cli, target) = (cli(), Double::new());
    bundle(&cli);
    let whole = std::fs::read(cli.path("bundle.tar")).unwrap();
    for length in [0, 100, 512, 700, 1024, 5000, whole.len() / 2, whole.len() - 1024 - 600] {
        std::fs::write(cli.path("cut.tar"), &whole[..length]).unwrap();
        cli.run(&["import", "cut.tar", "-d", &target.host()])
            .expect_code(5)
            .says(&["cut.tar"]);
    }
    assert!(target.requests().is_empty(), "{}", target.transcript());
}

#[test]
fn an_edited_bundle() {
    let (cli, target) = (cli(), Double::new());
    bundle(&cli);
    let whole = std::fs::read(cli.path("bundle.tar")).unwrap();
    let names: Vec<String> = Tar::open(&cli.path("bundle.tar"))
        .members
        .iter()
        .filter(|m| m.size > 0)
        .map(|m| m.name.clone())
        .collect();
    for name in names.iter().filter(|name| name.starts_with("blobs/")) {
        std::fs::write(cli.path("edited.tar"), &whole).unwrap();
        Tar::open(&cli.path("edited.tar")).flip(name);
        let target = Double::new();
        let out = cli.run(&["import", "edited.tar", "-d", &target.host()]);
        // The bundle has the index in two forms. The import reads only one of them where the other one is damaged.
        let tags = target.store().repository("library/greeting").unwrap_or_default().tags;
        if out.code == Some(0) {
            let digest = format!("sha256:{}", name.trim_start_matches("blobs/sha256/"));
            let pushed = target.manifest("library/greeting", "1.0").unwrap();
            let pushed = super::support::sha256(&pushed);
            let indexes = [
                super::support::images::greeting().digest().to_string(),
                pushed.to_string(),
            ];
            assert!(indexes.contains(&digest), "{}", out.everything());
        } else {
            assert!(tags.is_empty(), "a tag without its tree");
            out.expect_code(5).says(&[&name.replace("blobs/sha256/", "")]);
        }
    }
    assert!(target.requests().is_empty());
}

#[test]
fn a_blob_that_is_missing_from_the_bundle() {
    let (cli, target) = (cli(), Double::new());
    bundle(&cli);
    let fixture = super::support::images::greeting();
    let victim = fixture.documents_of("linux")[3].json()["layers"][1]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    Tar::open(&cli.path("bundle.tar")).without(&blob_name(&victim), &cli.path("less.tar"));
    cli.run(&["import", "less.tar", "-d", &target.host()])
        .expect_code(5)
        .says(&["less.tar", "greeting", &victim]);
    assert!(target.requests().is_empty(), "{}", target.transcript());
}

#[test]
fn a_file_that_is_no_bundle() {
    let (cli, target) = (cli(), Double::new());
    std::fs::write(cli.path("text.tar"), "this is no tar at all\n".repeat(100)).unwrap();
    std::fs::write(cli.path("empty.tar"), "").unwrap();
    std::fs::write(cli.path("zero.tar"), [0; 10240]).unwrap();
    std::fs::write(cli.path("page.tar"), "<!DOCTYPE html><html></html>").unwrap();
    for (name, code) in [
        ("text.tar", 5),
        ("empty.tar", 5),
        ("zero.tar", 5),
        ("page.tar", 5),
        ("absent.tar", 2),
    ] {
        cli.run(&["import", name, "-d", &target.host()])
            .expect_code(code)
            .says(&[name]);
    }
    let output = cli.run(&["import", "text.tar", "-d", &target.host()]).expect_code(5);
    let output = output.says(&["`text.tar` is not a tar archive", "not an archive of images"]);
    assert!(
        !output.stderr.contains("this is no tar at all"),
        "{}",
        output.everything()
    );
    assert!(target.requests().is_empty(), "{}", target.transcript());
}

#[test]
fn an_existing_output_is_refused_without_force() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    std::fs::write(cli.path("b.tar"), "precious").unwrap();
    cli.run(&["export", &image, "-o", "b.tar"])
        .expect_code(2)
        .says(&["b.tar", "--force"]);
    assert_eq!(std::fs::read(cli.path("b.tar")).unwrap(), b"precious");
    assert!(
        source.requests().is_empty(),
        "it is refused before anything is fetched: {}",
        source.transcript()
    );
    cli.succeed(&["export", &image, "-o", "b.tar", "--force"]);
    assert!(Tar::open(&cli.path("b.tar")).member("index.json").is_some());
}

#[test]
fn force_keeps_the_old_file_until_the_new_one_is_complete() {
    let (cli, source) = (cli(), source());
    source.add_fault(When::get("/blobs/"), Action::status(404));
    std::fs::write(cli.path("b.tar"), "precious").unwrap();
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.run(&["export", &image, "-o", "b.tar", "--force"]).expect_code(1);
    assert_eq!(std::fs::read(cli.path("b.tar")).unwrap(), b"precious");
}

#[test]
fn a_full_disk() {
    let (cli, source) = (cli(), Double::new());
    sized(5, "linux/amd64", &[400_000, 300_000]).push(&source, "a/b", "1");
    let image = format!("{}/a/b:1", source.host());
    std::fs::create_dir(cli.path("small")).unwrap();
    // A file system of 200 KiB in a mount namespace, which ends with the command.
    let script = "mount -t tmpfs -o size=200k none small && \"$@\"; code=$?; ls small >seen; exit $code";
    let probe = Command::new("unshare")
        .args([
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs -o size=200k none \"$1\"",
            "sh",
        ])
        .arg(cli.path("small"))
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        return skipped("a full disk", "a small file system cannot be mounted here");
    }
    let program = env!("CARGO_BIN_EXE_docker-mirror");
    let output = Command::new("unshare")
        .args([
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            program,
            "export",
            &image,
            "-o",
            "small/b.tar",
        ])
        .env("HOME", cli.folder())
        .current_dir(cli.folder())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("small/b.tar") && stderr.contains("free") && stderr.contains("hint:"),
        "{stderr}"
    );
    let seen = std::fs::read_to_string(cli.path("seen")).unwrap();
    assert!(
        !seen.lines().any(|name| name == "b.tar"),
        "a half file under the final name: {seen}"
    );
}

#[test]
fn a_disk_that_fills_up_on_the_way() {
    let (cli, source) = (cli(), Double::new());
    sized(5, "linux/amd64", &[400_000, 300_000]).push(&source, "a/b", "1");
    // A limit on the size of a file appears as a failed write, like a full disk, which the check of free space cannot
    // foresee.
    let script = "trap '' XFSZ; ulimit -f 400; exec \"$@\"";
    let image = format!("{}/a/b:1", source.host());
    let output = Command::new("sh")
        .args([
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_docker-mirror"),
            "export",
            &image,
            "-o",
            "b.tar",
        ])
        .env("HOME", cli.folder())
        .current_dir(cli.folder())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("b.tar") && stderr.contains("hint:"), "{stderr}");
    assert!(!cli.path("b.tar").exists());
}

#[test]
fn a_folder_that_cannot_be_written() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.run(&["export", &image, "-o", "no/such/folder/b.tar"])
        .expect_code(2)
        .says(&["no/such/folder"]);
    cli.run(&["export", &image, "-o", "/proc/b.tar"])
        .expect_code(1)
        .says(&["/proc/b.tar"]);
}

/// Starts an export whose first blob stalls, sends a signal once it stalls, and returns exit code and messages.
fn interrupted(cli: &Cli, name: &str) -> (std::process::ExitStatus, String) {
    let source = Double::new();
    sized(6, "linux/amd64", &[200_000, 100_000]).push(&source, "a/b", "1");
    let fault = source.add_fault(When::get("/blobs/"), Action::stall(1000));
    let child = cli.spawn(&["export", &format!("{}/a/b:1", source.host()), "-o", "b.tar"]);
    wait_until("the first blob is asked for", || fault.seen() > 0);
    signal(name, child.id());
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn control_c_leaves_no_half_file_under_the_final_name() {
    for name in ["INT", "TERM"] {
        let cli = cli();
        let (status, stderr) = interrupted(&cli, name);
        assert!(was_cut_off(status), "{stderr}");
        assert!(
            stderr.contains("error:") && stderr.contains("same command again"),
            "{stderr}"
        );
        assert!(!cli.path("b.tar").exists());
    }
}

#[test]
fn control_c_leaves_no_tag_without_its_tree() {
    let (cli, target) = (cli(), Double::new());
    bundle(&cli);
    let fault = target.add_fault(When::put("/manifests/"), Action::End(super::support::End::Stall));
    let child = cli.spawn(&["import", "bundle.tar", "-d", &target.host()]);
    wait_until("the first manifest is put", || fault.seen() > 0);
    signal("INT", child.id());
    let output = child.wait_with_output().unwrap();
    assert!(
        was_cut_off(output.status),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        target
            .store()
            .repository("library/greeting")
            .unwrap_or_default()
            .tags
            .is_empty()
    );
    target.clear_faults();
    cli.succeed(&["import", "bundle.tar", "-d", &target.host()]);
}

#[test]
fn control_c_of_an_upload_is_answered_before_the_upload_ends() {
    let (cli, target) = (cli(), Double::new());
    bundle(&cli);
    let gate = Gate::closed();
    target.add_fault(When::put("/blobs/uploads/"), Action::Hold(gate.clone()));
    let mut child = cli.spawn(&["import", "bundle.tar", "-d", &target.host()]);
    wait_until("a blob is sent", || gate.arrived() > 0);
    signal("INT", child.id());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.find(|line| line.starts_with("stopping: ") || line.starts_with("error: "));
    gate.open();
    let rest: Vec<String> = lines.collect();
    assert!(
        first
            .as_ref()
            .is_some_and(|line| line.contains("a second Ctrl-C ends at once")),
        "{first:?} {rest:?}"
    );
    assert!(
        rest.iter().any(|line| line.contains("interrupted (Ctrl-C)")),
        "{rest:?}"
    );
    assert!(was_cut_off(child.wait().unwrap()));
}

#[test]
fn a_second_control_c_of_an_upload_ends_at_once() {
    let (cli, target) = (cli(), Double::new());
    bundle(&cli);
    let gate = Gate::closed();
    target.add_fault(When::put("/blobs/uploads/"), Action::Hold(gate.clone()));
    // Signals of the first second count as one Ctrl-C, and the upload is waited for until the fifth. A machine that stands still
    // between the two gets another chance.
    let ends_at_once = |_| {
        let arrived = gate.arrived();
        let mut child = cli.spawn(&["import", "bundle.tar", "-d", &target.host()]);
        wait_until("a blob is sent", || gate.arrived() > arrived);
        while child.try_wait().unwrap().is_none() {
            signal("INT", child.id());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            was_cut_off(output.status) && said.contains("error: interrupted (Ctrl-C)"),
            "{said}"
        );
        said.contains("stopped at once: the requests in flight were not waited for")
    };
    let is_ended = (0..10).any(ends_at_once);
    gate.open();
    assert!(is_ended, "{}", target.transcript());
}

#[test]
fn one_of_many_images_fails_and_the_others_are_tried() {
    let (cli, source, target) = (cli(), source(), Double::new());
    helm_chart().push(&source, "charts/x", "1");
    let names = ["library/greeting:1.0", "no/such:1", "charts/x:1", "also/absent:2"];
    let names = names.map(|name| format!("{}/{name}", source.host()));
    let out = cli.run(&["-d", &target.host(), &names[0], &names[1], &names[2], &names[3]]);
    let out = out.expect_code(1).says(&[&names[1], &names[3], "2 of 4"]);
    assert_eq!(out.lines().len(), 2, "{}", out.everything());
    assert!(target.manifest("library/greeting", "1.0").is_some() && target.manifest("charts/x", "1").is_some());

    let out = cli.run(&["export", &names[0], &names[1], &names[2], &names[3], "-o", "b.tar"]);
    out.expect_code(1)
        .says(&[&names[1], &names[3], "2 of 4", "--allow-partial"]);
    assert!(!cli.path("b.tar").exists(), "no bundle gets its final name");

    let out = cli.run(&[
        "export",
        &names[0],
        &names[1],
        &names[2],
        &names[3],
        "-o",
        "b.tar",
        "--allow-partial",
    ]);
    let out = out.says(&[&names[1], &names[3]]).expect_code(6);
    assert_eq!(out.lines().len(), 2, "{}", out.everything());
    let record = Tar::open(&cli.path("b.tar")).json("docker-mirror.json");
    let missing: Vec<&str> = record["missing"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["reference"].as_str().unwrap())
        .collect();
    assert_eq!(
        missing,
        [&names[3], &names[1]],
        "in the order of their names, whatever the command's order"
    );
}

#[test]
fn one_of_many_images_of_a_bundle_fails_and_the_others_are_pushed() {
    let (cli, source, target) = (cli(), source(), Double::new());
    helm_chart().push(&source, "charts/x", "1");
    let names = ["library/greeting:1.0", "charts/x:1"].map(|name| format!("{}/{name}", source.host()));
    cli.succeed(&["export", &names[0], &names[1], "-o", "b.tar"]);
    target.add_fault(When::put("/v2/library/greeting/"), Action::error(403, "DENIED", "no"));
    let out = cli
        .run(&["import", "b.tar", "-d", &target.host()])
        .expect_code(3)
        .says(&["library/greeting:1.0", "1 of 2"]);
    assert_eq!(out.lines().len(), 1, "{}", out.everything());
    assert!(target.manifest("charts/x", "1").is_some());
    assert!(target.manifest("library/greeting", "1.0").is_none());
}

#[test]
fn messages_do_not_steer_the_terminal() {
    let cli = cli();
    let body = "\u{1b}[2Jgone\u{7}";
    let source = Double::start(Options::default().fault(When::any(), Action::error(403, "DENIED", body)));
    let out = cli
        .run(&["export", &format!("{}/a/b:1", source.host()), "-o", "b.tar"])
        .expect_code(3);
    assert!(!out.everything().contains('\u{1b}') && !out.everything().contains('\u{7}'));
    assert!(!Path::new("b.tar").exists());
}
