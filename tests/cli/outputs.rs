//! Outputs over which no finished bundle can be renamed: found before anything is fetched.

use std::process::{Command, Stdio};

use super::support::cli::Output;
use super::support::real::skipped;
use super::{cli, source};

#[test]
fn an_output_that_is_a_mount_point_is_refused_before_anything_is_fetched() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    for name in ["real.tar", "out.tar"] {
        std::fs::write(cli.path(name), "precious").unwrap();
    }
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
            .current_dir(cli.folder());
        command.env("HOME", cli.folder()).stdin(Stdio::null());
        command
    };
    let mount = "mount --bind real.tar out.tar";
    if !unshare(mount)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        return skipped("an output that is a mount point", "nothing can be mounted here");
    }
    for flags in [&[][..], &["--force"], &["--force", "--gzip"], &["--gzip"]] {
        let program = env!("CARGO_BIN_EXE_docker-mirror");
        let arguments = [&[program, "export", &image, "-o", "out.tar"], flags].concat();
        let output = unshare(&format!("{mount} && \"$@\""))
            .args(&arguments)
            .output()
            .unwrap();
        Output::new(&output, &arguments).expect_code(2).says(&[
            "`out.tar` is a mount point",
            "hint: mount the folder",
            "-o -",
        ]);
        assert_eq!(std::fs::read(cli.path("real.tar")).unwrap(), b"precious");
        assert!(!cli.path("out.tar.partial").exists());
    }
    assert!(source.requests().is_empty(), "{}", source.transcript());
}

#[test]
fn a_pipe_or_link_in_place_of_the_output_is_named_as_such() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, cli.path("pipe.tar"), mode).unwrap();
    std::os::unix::fs::symlink("elsewhere.tar", cli.path("link.tar")).unwrap();
    for output in ["pipe.tar", "link.tar", "/dev/stdout", "/dev/null"] {
        for flags in [&[][..], &["--force"]] {
            cli.run(&[&["export", &image, "-o", output], flags].concat())
                .expect_code(2)
                .says(&["not an ordinary file", "-o -"]);
        }
    }
    assert!(source.requests().is_empty(), "{}", source.transcript());
}
