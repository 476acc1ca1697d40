//! Standard output and standard error that are never read: the program still reacts to a signal and to `--timeout`.

use std::io::Write;
use std::process::{Child, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};

use super::cli;
use super::support::cli::wait_until;
use super::support::images::sized;
use super::support::{Cli, Double};

/// Returns a full pipe and its reading end, from which nothing is read. While the end is open, writers block.
fn full_pipe() -> (std::io::PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[0; 4096]).is_ok() {}
    while writer.write(&[0]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer.into())
}

/// A run that nobody listens to, and what keeps its pipes open.
struct Unheard {
    what: String,
    child: Child,
    _unread: Vec<std::io::PipeReader>,
}

impl Unheard {
    fn start(cli: &Cli, arguments: &[&str], out: bool, err: bool) -> Self {
        let mut command = cli.command(arguments);
        let mut unread = Vec::new();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if out {
            let (reader, writer) = full_pipe();
            command.stdout(writer);
            unread.push(reader);
        }
        if err {
            let (reader, writer) = full_pipe();
            command.stderr(writer);
            unread.push(reader);
        }
        Self {
            what: format!("{} (stdout {out}, stderr {err})", arguments.join(" ")),
            child: command.spawn().unwrap(),
            _unread: unread,
        }
    }

    fn kill(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code, once it has ended.
    fn ended(mut self) -> std::process::ExitStatus {
        wait_until(&self.what, || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

#[test]
fn signals_and_the_end_of_time_end_a_run_that_nobody_reads() {
    let (source, bundled) = (Double::new(), cli());
    let many: Vec<usize> = (1..=600).collect();
    for (tag, layers) in [("few", &many[..2]), ("many", &many[..])] {
        sized(1, "linux/amd64", layers).push(&source, "a/b", tag);
        let image = format!("{}/a/b:{tag}", source.host());
        bundled.succeed(&["export", &image, "-o", tag]);
    }
    let (few, many) = (bundled.path("few"), bundled.path("many"));
    let cli = cli();
    let mut runs = Vec::new();
    for (out, err) in [(true, false), (false, true), (true, true)] {
        for signal in [Some(Signal::TERM), Some(Signal::INT), None] {
            for verbose in [true, false] {
                let registry = Double::new();
                let host = registry.host();
                let bundle = if verbose { &many } else { &few };
                let mut arguments = vec!["import", bundle.to_str().unwrap(), "-d", &host];
                if verbose {
                    // More lines than the queue holds, so that the work itself blocks on the output.
                    arguments.push("-vv");
                }
                if signal.is_none() {
                    arguments.extend(["--timeout", "8"]);
                }
                runs.push((Unheard::start(&cli, &arguments, out, err), signal, verbose, registry));
            }
        }
    }
    for (run, signal, verbose, registry) in &runs {
        let Some(signal) = signal else { continue };
        wait_until(&run.what, || match verbose {
            true => registry.requests().len() >= 400,
            false => registry.count("PUT", "/manifests/few") > 0,
        });
        run.kill(*signal);
    }
    for (run, ..) in runs {
        let what = run.what.clone();
        assert!(crate::support::cli::was_cut_off(run.ended()), "{what}");
    }
}
