//! Whole texts as a user sees them, such as help, messages and reports, compared with the files in `snapshots/`.
//!
//! After an intended change: `INSTA_UPDATE=always cargo test --test cli snapshots`, then read the difference.

use super::support::cli::Output;
use super::support::image::Style;
use super::support::images::{greeting, linux_and_windows};
use super::support::layout::{Tar, blob_name, write_layout};
use super::support::{Action, Auth, Double, Options, When};
use super::{Cli, cli, source};

/// Compares a text with the snapshot of this name. The addresses of the test's registries are replaced by these words.
fn same(name: &str, text: &str, addresses: &[(&Double, &str)]) {
    let mut text = without_times(text);
    for (registry, word) in addresses {
        text = text.replace(&registry.host(), word);
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Replaces durations by `TIME`, and the checksum of a bundle by `SUM`: a bundle contains the address of its registry.
fn without_times(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once(" in ") {
        Some((what, time)) if time.ends_with(" s") && time.len() < 8 => {
            let what = what
                .split_once(", sha256:")
                .map_or(what.to_owned(), |(what, _)| format!("{what}, SUM"));
            format!("{what} in TIME\n")
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// The command, its exit code, and both streams.
fn shown(output: &Output) -> String {
    output.everything()
}

#[test]
fn help_of_each_command() {
    let cli = cli();
    for command in ["", "export", "import", "inspect", "verify", "diff", "limits"] {
        let arguments: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect();
        let help = cli.succeed(&arguments).stdout;
        let name = if command.is_empty() { "mirror" } else { command };
        same(&format!("help_{name}"), &help, &[]);
    }
}

#[test]
fn messages_of_a_wrong_command_line() {
    let cli = cli();
    let mut all = String::new();
    for arguments in [
        &["export", "hello-world"][..],
        &["export", "Not/A/Name", "-o", "b.tar"],
        &["import", "b.tar"],
        &["export", "hello-world", "-o", "b.tar", "--platform", "linux"],
        &["import", "no-such.tar", "-d", "127.0.0.1:1"],
    ] {
        all += &shown(&cli.run(arguments));
        all.push('\n');
    }
    same("messages_wrong_command_line", &all, &[]);
}

#[test]
fn messages_of_registries() {
    let cli = cli();
    let open = source();
    let closed = Double::start(Options::default().auth(Auth::basic("somebody", "secret")));
    let broken = Double::start(Options::default().fault(When::get("/manifests/"), Action::status(500)));
    let addresses = [(&open, "OPEN"), (&closed, "CLOSED"), (&broken, "BROKEN")];
    let mut all = String::new();
    for (registry, image) in [
        (&open, "no/such:1"),
        (&closed, "library/greeting:1.0"),
        (&broken, "a/b:1"),
    ] {
        let image = format!("{}/{image}", registry.host());
        all += &shown(&cli.run(&["export", &image, "-o", "b.tar", "--retries", "0"]));
        all.push('\n');
    }
    let image = format!("{}/library/greeting:1.0", open.host());
    all += &shown(&cli.run(&["export", &image, "-o", "b.tar", "--platform", "linux/mips64"]));
    let home = cli.folder().display().to_string();
    same("messages_of_registries", &all.replace(&home, "HOME"), &addresses);
}

#[test]
fn messages_of_a_damaged_bundle() {
    let (cli, target) = (cli(), Double::new());
    let image = greeting();
    write_layout(&cli.path("b.tar"), &[("docker.io/library/greeting:1.0", &image)]);
    let tar = Tar::open(&cli.path("b.tar"));
    tar.flip(&blob_name(&super::support::image::Image::blobs_of(&image.below)[0]));
    same(
        "messages_damaged_bundle",
        &shown(&import(&cli, &target, &[])),
        &[(&target, "TARGET")],
    );
}

#[test]
fn lines_and_report_of_a_transfer() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    linux_and_windows(Style::Oci).push(&source, "team/app", "1");
    let image = format!("{}/team/app:1", source.host());
    let addresses = [(&source, "SOURCE"), (&target, "TARGET")];
    let export = cli.succeed(&["export", &image, "-o", "b.tar", "-j", "1"]);
    same("lines_of_an_export", &shown(&export), &addresses);
    let plan = import(&cli, &target, &["--dry-run"]);
    same("lines_of_a_dry_run", &shown(&plan), &addresses);
    let done = import(&cli, &target, &["--report", "report.json"]);
    same("lines_of_an_import", &shown(&done), &addresses);
    let mut report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(cli.path("report.json")).unwrap()).unwrap();
    report["tool"]["version"] = "VERSION".into();
    report["seconds"] = 0.into();
    report["lock"]["checksum"] = "SUM".into();
    report["files"][0]["sha256"] = "SUM".into();
    same("report_of_an_import", &format!("{report:#}"), &addresses);
}

fn import(cli: &Cli, target: &Double, flags: &[&str]) -> Output {
    let host = target.host();
    cli.run(&[&["import", "b.tar", "-d", &host, "-j", "1"][..], flags].concat())
}
