//! Folders and lists of archives with an unreadable part: the other archives are imported, and the part is reported.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

use super::archives::{Layout, gzip, single};
use super::support::cli::{Output, copy_program};
use super::support::{Cli, Double};
use super::tags;

const NOBODY: u32 = 65534;

/// A user with `stick/good.tar`, which holds `quay.io/team/app:1`.
fn stick() -> Cli {
    let cli = Cli::new(env!("CARGO_BIN_EXE_docker-mirror"));
    std::fs::create_dir(cli.path("stick")).unwrap();
    write(
        &cli,
        "stick/good.tar",
        &single("quay.io/team/app:1", "good").tar().end(),
    );
    cli
}

fn write(cli: &Cli, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(cli.path(name).parent().unwrap()).unwrap();
    std::fs::write(cli.path(name), bytes).unwrap();
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

/// A file or folder at a path of a stick, in some way that is no archive.
type Fault<'a> = &'a dyn Fn(&Cli, &str);

#[test]
fn what_is_no_archive_does_not_keep_the_others_back() {
    let whole = single("quay.io/team/other:1", "other").tar().end();
    let bytes = |bytes: &[u8]| {
        let bytes = bytes.to_vec();
        move |cli: &Cli, name: &str| write(cli, name, &bytes)
    };
    // Cut inside the second header: a bundle with more bytes fails image by image.
    let cut = whole[..1024 + 100].to_vec();
    let mut damaged = whole.clone();
    damaged[1024 + 10] ^= 1;
    let faults: &[(&str, &str, Fault<'_>)] = &[
        (
            "._good.tar",
            "AppleDouble",
            &bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X        "),
        ),
        (
            "notes.tar",
            "is not a tar archive but a text",
            &bytes(&b"no archive\n".repeat(100)),
        ),
        ("page.tar", "a web page", &bytes(b"<!DOCTYPE html><html></html>")),
        ("empty.tar", "is empty", &bytes(b"")),
        ("zeros.tar", "not an image archive", &bytes(&[0; 10240])),
        ("cut.tar", "the file is truncated", &bytes(&cut)),
        ("cut.tar.gz", "truncated", &bytes(&gzip(&whole)[..200])),
        ("damaged.tar", "no tar header", &bytes(&damaged)),
        (
            "files.tar",
            "docker export",
            &bytes(&super::archives::Tar::default().file("etc/passwd", b"root").end()),
        ),
        (
            "exported.tar",
            "docker export",
            &bytes(
                &super::archives::Tar::default()
                    .file("bin/sh", b"x")
                    .file("etc/hostname", b"x")
                    .end(),
            ),
        ),
        (
            "half.tar",
            "an image layout has a file `oci-layout`",
            &bytes(
                &super::archives::Tar::default()
                    .file("index.json", br#"{"schemaVersion":2,"manifests":[]}"#)
                    .file(&format!("blobs/sha256/{}", "0".repeat(64)), b"x")
                    .end(),
            ),
        ),
        (
            "chart.tar",
            "it is a Helm chart",
            &bytes(
                &super::archives::Tar::default()
                    .file("web/Chart.yaml", b"name: web\n")
                    .end(),
            ),
        ),
        (
            "old.tar",
            "docker before 1.10",
            &bytes(
                &super::archives::Tar::default()
                    .file("repositories", b"{}")
                    .file("0123/json", b"{}")
                    .file("0123/layer.tar", b"x")
                    .end(),
            ),
        ),
        (
            "imgpkg.tar",
            "written by imgpkg",
            &bytes(
                &super::archives::Tar::default()
                    .file(
                        "manifest.json",
                        br#"[{"Image":{"Refs":[],"Layers":[]}},{"ImageIndex":{"Refs":[]}}]"#,
                    )
                    .file("sha256-0123.tar.gz", b"x")
                    .end(),
            ),
        ),
        ("packed.tar", "zip", &bytes(b"PK\x03\x04")),
        ("layout.tar", "holds no image", &bytes(&Layout::default().tar().end())),
        ("layout", "holds no image", &|cli, name| {
            write(cli, &format!("{name}/oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
            write(
                cli,
                &format!("{name}/index.json"),
                br#"{"schemaVersion":2,"manifests":[]}"#,
            );
        }),
        ("json", "index.json", &|cli, name| {
            write(cli, &format!("{name}/oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
            write(cli, &format!("{name}/index.json"), b"{");
        }),
        ("pipe.tar", "not a regular file", &|cli, name| fifo(&cli.path(name))),
        ("link.tar", "symbolic link", &|cli, name| {
            symlink("nowhere", cli.path(name)).unwrap()
        }),
    ];
    for (name, says, make) in faults {
        // What cannot be opened or unpacked is not known to be damaged.
        let code = if ["link.tar", "packed.tar", "imgpkg.tar"].contains(name) {
            1
        } else {
            5
        };
        let cli = stick();
        let path = format!("stick/{name}");
        make(&cli, &path);
        let registry = Double::new();
        let said = |output: Output| {
            let output = output
                .expect_code(code)
                .says(&[&path, says, "1 file or folder could not be read"]);
            assert_eq!(tags(&registry, "m/team/app"), ["1"], "{}", output.everything());
        };
        said(cli.run(&["import", "stick", "-d", &format!("{}/m", registry.host())]));
        // A pipe that is named is read, when somebody writes to it.
        if *name == "pipe.tar" {
            continue;
        }
        let registry = Double::new();
        let host = format!("{}/m", registry.host());
        let output = cli
            .run(&["import", &path, "stick/good.tar", "-d", &host])
            .says(&[&path]);
        // A missing file is wrong usage, and nothing is imported.
        let (code, there): (_, &[&str]) = if *name == "link.tar" { (2, &[]) } else { (code, &["1"]) };
        let output = output.expect_code(code);
        assert_eq!(tags(&registry, "m/team/app"), there, "{}", output.everything());
    }
}

#[test]
fn a_folder_that_cannot_be_read_does_not_keep_the_others_back() {
    let cli = stick();
    let registry = Double::new();
    std::fs::create_dir(cli.path("stick/private")).unwrap();
    std::fs::set_permissions(cli.path("stick/private"), PermissionsExt::from_mode(0o0)).unwrap();
    let program = cli.path("program");
    copy_program(env!("CARGO_BIN_EXE_docker-mirror"), &program);
    let mut command = std::process::Command::new(program);
    command
        .args(["import", "stick", "-d", &format!("{}/m", registry.host())])
        .env_clear()
        .env("HOME", cli.folder())
        .current_dir(cli.folder());
    // The permissions of a file mean nothing to root.
    if rustix::process::geteuid().is_root() {
        chown(cli.folder(), Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = Output::new(&command.output().unwrap(), &["import", "stick"]);
    let output = output
        .expect_code(1)
        .says(&["stick/private", "permission denied", "1 file or folder"]);
    assert_eq!(tags(&registry, "m/team/app"), ["1"], "{}", output.everything());
}

#[test]
fn hidden_and_system_folders_are_not_searched() {
    let cli = stick();
    let withdrawn = single("quay.io/team/withdrawn:1", "withdrawn").tar().end();
    let folders = [
        ".Trash-1000/files",
        ".Trashes/501",
        "$RECYCLE.BIN/S-1-5-21",
        "RECYCLER",
        "System Volume Information",
        ".Spotlight-V100",
        ".fseventsd",
        "lost+found",
        "Lost+Found",
        "found.000",
        "__MACOSX",
        "#recycle",
        "@eaDir",
        ".cache",
        "below/.snapshot",
    ];
    for folder in folders {
        write(&cli, &format!("stick/{folder}/old.tar"), &withdrawn);
    }
    write(
        &cli,
        "stick/found/new.tar",
        &single("quay.io/team/new:1", "new").tar().end(),
    );
    let registry = Double::new();
    let host = registry.host();
    let output = cli.succeed(&["import", "stick", "-d", &host]);
    assert_eq!(tags(&registry, "team/app"), ["1"], "{}", output.everything());
    assert_eq!(tags(&registry, "team/new"), ["1"], "{}", output.everything());
    assert!(registry.store().repository("team/withdrawn").is_none());
    assert!(!output.stderr.contains("not searched"), "{}", output.everything());
    let output = cli.succeed(&["import", "-v", "stick", "-d", &host]);
    for folder in folders {
        let top = folder
            .trim_end_matches("/files")
            .trim_end_matches("/501")
            .trim_end_matches("/S-1-5-21");
        assert!(
            output
                .stderr
                .contains(&format!("`stick/{top}` is a hidden or system folder")),
            "{folder}: {}",
            output.everything()
        );
    }
    // The user may mean one.
    cli.succeed(&["import", "stick/.Trash-1000", "-d", &host]);
    assert_eq!(tags(&registry, "team/withdrawn"), ["1"]);
    std::fs::create_dir(cli.path("trash")).unwrap();
    write(&cli, "trash/lost+found/old.tar", &withdrawn);
    cli.run(&["import", "trash", "-d", &host]).expect_code(2).says(&[
        "neither an image layout",
        "hint: hidden and system folders",
        "trash/lost+found",
    ]);
}

#[test]
fn a_name_of_two_images_fails_by_itself() {
    let cli = stick();
    write(
        &cli,
        "stick/newer.tar",
        &single("quay.io/team/app:1", "newer").tar().end(),
    );
    let mut both = single("quay.io/team/third:1", "third");
    let image = both.image("amd64", b"fourth", true);
    both.name(image, "quay.io/team/fourth:1");
    write(&cli, "stick/third.tar", &both.tar().end());
    let registry = Double::new();
    let output = cli.run(&["import", "stick", "-d", &registry.host()]);
    let output = output.expect_code(1).says(&[
        "1 of 3 images failed",
        "two images are called `quay.io/team/app:1`",
        "stick/good.tar",
        "stick/newer.tar",
        "hint: import the bundles one after the other",
    ]);
    assert!(registry.store().repository("team/app").is_none());
    for repository in ["team/third", "team/fourth"] {
        assert_eq!(tags(&registry, repository), ["1"], "{}", output.everything());
    }
}

#[test]
fn the_report_names_what_could_not_be_read() {
    let cli = stick();
    write(&cli, "stick/notes.tar", b"no archive\n");
    let registry = Double::new();
    let host = registry.host();
    let arguments = ["import", "stick", "-d", &host, "--report", "r.json"];
    cli.run(&arguments).expect_code(5);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
    assert_eq!(report["images"].as_array().unwrap().len(), 1);
    let broken = &report["brokenArchives"];
    assert_eq!(broken.as_array().unwrap().len(), 1, "{report:#}");
    assert_eq!(broken[0]["path"], "stick/notes.tar");
    assert_eq!(broken[0]["error"]["kind"], "malformed");
    assert!(
        broken[0]["error"]["hint"]
            .as_str()
            .unwrap()
            .contains("not an archive of images")
    );

    registry.forget_requests();
    cli.run(&[&arguments[..], &["--fail-fast"]].concat())
        .expect_code(5)
        .says(&["stick/notes.tar"]);
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
}

#[test]
fn nothing_is_sent_where_nothing_can_be_read() {
    let (cli, registry) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
    write(&cli, "stick/notes.tar", b"no archive\n");
    write(&cli, "stick/page.tar", b"<html>");
    let output = cli.run(&["import", "stick", "-d", &registry.host()]).expect_code(5);
    let output = output.says(&["2 files cannot be read", "stick/notes.tar", "stick/page.tar"]);
    // Each of them has a line of its own.
    let together = |line: &str| line.contains("notes.tar") && line.contains("page.tar");
    assert!(!output.stderr.lines().any(together), "{}", output.everything());
    assert!(registry.requests().is_empty());
}

#[test]
fn a_link_out_of_a_searched_folder_is_named_and_not_followed() {
    let cli = stick();
    write(
        &cli,
        "secret/private.tar",
        &single("quay.io/team/private:1", "private").tar().end(),
    );
    symlink("../secret/private.tar", cli.path("stick/link.tar")).unwrap();
    symlink("good.tar", cli.path("stick/same.tar")).unwrap();
    let registry = Double::new();
    let host = registry.host();
    cli.run(&["import", "stick", "-d", &host]).expect_code(5).says(&[
        "`stick/link.tar` is a link that leads out of the folder",
        "hint: name the file",
    ]);
    assert_eq!(tags(&registry, "team/app"), ["1"]);
    assert!(registry.store().repository("team/private").is_none());
    // The user may mean it.
    cli.succeed(&["import", "stick/link.tar", "-d", &host]);
    assert_eq!(tags(&registry, "team/private"), ["1"]);
}

#[test]
fn documents_of_other_programs_do_not_make_a_folder_a_layout() {
    for (name, content) in [
        ("manifest.json", r#"{"name":"web app","icons":[]}"#),
        ("manifest.json", r#"["a","b"]"#),
        ("index.json", r#"{"title":"an index"}"#),
        ("index.json", "[]"),
        ("index.json", "no JSON"),
    ] {
        let cli = stick();
        write(&cli, &format!("stick/{name}"), content.as_bytes());
        let registry = Double::new();
        let output = cli.succeed(&["import", "stick", "-d", &registry.host()]);
        assert_eq!(tags(&registry, "team/app"), ["1"], "{}", output.everything());
    }
}
