//! The output during a run, on terminals of several kinds and widths and in a log.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::support::cli::Output;
use super::support::image::Style;
use super::support::images::{linux_and_windows, sized};
use super::support::{Action, Double, Gate, When};
use super::{Cli, cli};

/// A run on a terminal.
struct OnTerminal {
    child: Child,
    screen: JoinHandle<String>,
}

impl OnTerminal {
    fn start(cli: &Cli, columns: u16, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::start_into(cli, columns, variables, arguments, None)
    }

    /// Starts a run whose results go elsewhere.
    fn start_into(
        cli: &Cli,
        columns: u16,
        variables: &[(&str, &str)],
        arguments: &[&str],
        results: Option<Stdio>,
    ) -> Self {
        let mut command = cli.command(arguments);
        command.envs(variables.iter().copied());
        Self::run(command, columns, results)
    }

    /// Starts a command on a new terminal.
    fn run(mut command: Command, columns: u16, results: Option<Stdio>) -> Self {
        let (master, terminal) = open_terminal(columns);
        command
            .stdout(results.unwrap_or_else(|| terminal.try_clone().unwrap().into()))
            .stderr(terminal);
        let child = command.spawn().unwrap();
        drop(command);
        let mut master = master;
        let screen = spawn(move || {
            let mut bytes = Vec::new();
            // The end is an error: the other side of the terminal was closed.
            let _ = master.read_to_end(&mut bytes);
            String::from_utf8(bytes).unwrap()
        });
        Self { child, screen }
    }

    fn end(mut self) -> String {
        let screen = self.screen.join().unwrap();
        assert!(self.child.wait().unwrap().success(), "{screen}");
        screen
    }
}

/// Opens a terminal of this width: the side of its screen, and the side of the programs on it.
fn open_terminal(columns: u16) -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(name).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&terminal, size).unwrap();
    (File::from(master), terminal)
}

/// A registry that sends the one layer of `team/app:1` slowly.
fn slow() -> (Double, String) {
    let source = Double::new();
    sized(2, "linux/amd64", &[200_000]).push(&source, "team/app", "1");
    source.add_fault(When::get("/blobs/"), Action::Drip(20_000, Duration::from_millis(60)));
    let image = format!("{}/team/app:1", source.host());
    (source, image)
}

/// The lines that were drawn to be drawn over, without their colours.
fn drawn(screen: &str) -> Vec<String> {
    let mut text = screen.to_owned();
    for code in ["\x1b[32m", "\x1b[2m", "\x1b[0m", "\x1b[J"] {
        text = text.replace(code, "");
    }
    let pieces = text
        .split("\x1b[K")
        .map(|piece| piece.rsplit(['\r', '\n', 'A']).next().unwrap_or_default());
    pieces.map(str::to_owned).collect()
}

#[test]
fn an_export_into_a_pipe_draws_nothing_beside_its_reader() {
    let (_source, image) = slow();
    let (cli, arguments) = (cli(), ["export", &image, "-o", "-"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let run = OnTerminal::start_into(&cli, 80, XTERM, &arguments, Some(writer.into()));
    let mut bundle = Vec::new();
    reader.read_to_end(&mut bundle).unwrap();
    let screen = run.end();
    assert!(
        !screen.contains("\x1b[K") && screen.contains("fetching 2 blobs"),
        "{screen:?}"
    );
    // A file has no reader.
    let file = File::create(cli.path("b.tar")).unwrap();
    let screen = OnTerminal::start_into(&cli, 80, XTERM, &arguments, Some(file.into())).end();
    assert!(screen.contains("\x1b[K"), "{screen:?}");
    assert_eq!(bundle, std::fs::read(cli.path("b.tar")).unwrap());
}

#[test]
fn two_ends_of_a_pipe_on_one_terminal_draw_nothing() {
    let (_source, image) = slow();
    let (cli, target) = (cli(), Double::new());
    let mut command = cli.command(&[]);
    let program = command.get_program().to_owned();
    let environment: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    let script = format!("\"$0\" export {image} -o - | \"$0\" import - -d {}", target.host());
    command = Command::new("sh");
    command
        .args(["-c", &script])
        .arg(program)
        .env_clear()
        .envs(environment)
        .envs(XTERM.iter().copied())
        .current_dir(cli.folder());
    let screen = OnTerminal::run(command, 80, None).end();
    assert!(
        !screen.contains("\x1b[K") && screen.contains("wrote the bundle") && screen.contains("1 new, 0 failed"),
        "{screen:?}"
    );
}

#[test]
fn a_terminal_is_told_what_it_is_not_for() {
    let cli = cli();
    let (_screen, terminal) = open_terminal(80);
    let arguments = [
        "export",
        "127.0.0.1:1/a/b:1",
        "-o",
        "b.tar",
        "--username",
        "ann",
        "--password-stdin",
    ];
    let asked = cli.command(&arguments).stdin(terminal).output().unwrap();
    Output::new(&asked, &arguments)
        .expect_code(2)
        .says(&["standard input, which is a terminal", "hint: "]);
    let screen = OnTerminal::start(&cli, 80, XTERM, &["man"]).end();
    assert!(screen.contains("`docker-mirror man | man -l -`"), "{screen}");
}

const XTERM: &[(&str, &str)] = &[("TERM", "xterm-256color")];

#[test]
fn progress_fits_into_terminals_of_all_widths() {
    let (_source, image) = slow();
    let cli = cli();
    let runs: Vec<(u16, OnTerminal)> = [200, 120, 80, 60, 40, 20, 10, 4, 1]
        .into_iter()
        .map(|columns| {
            let output = format!("{columns}.tar");
            let arguments = ["export", &image, "-o", &output];
            (columns, OnTerminal::start(&cli, columns, XTERM, &arguments))
        })
        .collect();
    for (columns, run) in runs {
        let screen = run.end();
        for line in drawn(&screen) {
            let width = line.chars().count();
            assert!(
                width < usize::from(columns),
                "{width} of {columns} columns: `{line}` in {screen:?}"
            );
        }
        assert!(screen.contains(&format!("wrote {columns}.tar: 1 image, ")), "{screen}");
        if columns >= 80 {
            assert!(screen.contains("Resolving  0/1  images"), "{screen:?}");
            assert!(screen.contains("Fetching  ") && screen.contains("/195."), "{screen:?}");
            assert!(
                screen.contains("KiB/s") && screen.contains("\r\n  team/app\x1b[K"),
                "{screen:?}"
            );
        }
        if columns == 10 {
            assert!(screen.contains(" %\x1b[K"), "{screen:?}");
        }
    }
}

#[test]
fn no_escapes_where_they_are_not_wanted() {
    let (_source, image) = slow();
    let cli = cli();
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let plain: &[&str] = &["fetching 2 blobs, 195.", "wrote "];
    let cases: &[Case] = &[
        (&[("TERM", "dumb")], &[], plain, &["\x1b", "\r\r"]),
        (&[("TERM", "")], &[], plain, &["\x1b"]),
        (&[("TERM", "xterm"), ("CI", "true")], &[], plain, &["\x1b"]),
        (&[("TERM", "xterm"), ("CI", "false")], &[], &["\x1b[K"], &[]),
        (&[("TERM", "xterm"), ("NO_COLOR", "1")], &[], &["\x1b[K"], &["\x1b[32m"]),
        (&[("TERM", "xterm"), ("NO_COLOR", "")], &[], &["\x1b[32m"], &[]),
        (&[("TERM", "xterm")], &["--color", "never"], &["\x1b[K"], &["\x1b[32m"]),
        (&[("TERM", "dumb")], &["--color", "always"], plain, &["\x1b[K"]),
        (&[("TERM", "xterm")], &["-q"], &["@sha256:"], &["\x1b", "wrote"]),
    ];
    let run = |(number, (variables, flags, ..)): (usize, &Case)| {
        let output = format!("{number}.tar");
        let arguments = [&["export", &image, "-o", &output], *flags].concat();
        OnTerminal::start(&cli, 80, variables, &arguments)
    };
    let runs: Vec<OnTerminal> = cases.iter().enumerate().map(run).collect();
    for (run, (variables, flags, wanted, unwanted)) in runs.into_iter().zip(cases) {
        let screen = run.end();
        for text in *wanted {
            assert!(
                screen.contains(text),
                "{variables:?} {flags:?}: no {text:?} in {screen:?}"
            );
        }
        for text in *unwanted {
            assert!(
                !screen.contains(text),
                "{variables:?} {flags:?}: {text:?} in {screen:?}"
            );
        }
    }
}

#[test]
fn words_at_the_start_of_messages_have_colours_if_they_are_wanted() {
    let cli = cli();
    let arguments = ["import", "no-such.tar", "-d", "127.0.0.1:1", "--color"];
    let colored = cli.run(&[&arguments[..], &["always"]].concat());
    assert!(
        colored.stderr.starts_with("\x1b[1;31merror:\x1b[0m "),
        "{}",
        colored.everything()
    );
    let plain = cli.run(&[&arguments[..], &["auto"]].concat());
    assert!(!plain.stderr.contains('\x1b'), "{}", plain.everything());
}

#[test]
fn two_hundred_images_are_a_log_of_few_lines() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    let names: Vec<String> = (0..200).map(|number| format!("team/svc{number:03}")).collect();
    for name in &names {
        linux_and_windows(Style::Oci).push(&source, name, "1");
    }
    let images: Vec<String> = names.iter().map(|name| format!("{}/{name}:1", source.host())).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let host = target.host();
    let export = [&["export", "-o", "b.tar"][..], &images].concat();
    for (arguments, end) in [
        (&export[..], "wrote b.tar: 200 images, "),
        (&["import", "b.tar", "-d", &host][..], "200 new, 0 failed in "),
        (&["import", "b.tar", "-d", &host], "0 new, 200 unchanged, 0 failed in "),
    ] {
        let output = cli.succeed(arguments);
        let lines = output.stderr.lines().count() + output.stdout.lines().count();
        assert!((200..230).contains(&lines), "{lines} lines: {}", output.everything());
        assert!(output.stderr.contains(end), "no `{end}` in {}", output.everything());
        // The export alone leaves something out, and nobody asked for it.
        let sum = "note: 200 images: 200 platforms left out by default (`--platform all` keeps them)";
        let is_told = arguments[0] == "export";
        assert_eq!(output.stderr.contains(sum), is_told, "{}", output.everything());
        assert_eq!(output.stderr.contains("left out"), is_told, "{}", output.everything());
    }
    // Where the results go to a file, the log has the images.
    let results = File::create(cli.path("results")).unwrap();
    let mut command = cli.command(&["import", "b.tar", "-d", &host, "--keep-host"]);
    let output = command.stdout(results).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        log.lines().filter(|line| line.starts_with("pushed ")).count(),
        200,
        "{log}"
    );
}

#[test]
fn the_first_line_comes_before_the_first_answer() {
    let (cli, source) = (cli(), Double::new());
    let gate = Gate::closed();
    source.add_fault(When::path("/manifests/"), Action::Hold(gate.clone()));
    let images: Vec<String> = (0..200)
        .map(|number| format!("{}/a/b:{number}", source.host()))
        .collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let mut child = cli.spawn(&[&["export", "-o", "b.tar"][..], &images].concat());
    let mut first = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert_eq!(first, "resolving 200 images\n");
    child.kill().unwrap();
    child.wait().unwrap();
    gate.open();
}
