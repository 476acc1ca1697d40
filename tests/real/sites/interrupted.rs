//! An import over a slow line that is interrupted again and again.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::cli;
use super::support::Double;
use super::support::cli::wait_until;
use super::support::distribution::{Distribution, built_by_go};
use super::support::images::sized;
use super::support::proxy::Proxy;
use super::support::real::program;

/// Distribution signs the offset of a session into its URL, so that a session can be continued only from the end of an
/// answered request.
fn nothing_is_sent_twice(registry: Option<PathBuf>, signals: [Signal; 3]) {
    let Some(registry) = registry else { return };
    let (cli, source) = (cli(), Double::new());
    let layers = [7_000_000, 5_000_000, 3_000_000, 400_000];
    sized(1, "linux/amd64", &layers).push(&source, "a/b", "1");
    cli.succeed(&["export", &format!("{}/a/b:1", source.host()), "-o", "b.tar"]);
    let target = Distribution::at(&registry, &registry, |_| Default::default());
    let line = Proxy::slow(&target.host(), 1_000_000);
    let host = line.host();
    let arguments = ["import", "b.tar", "-d", &host];
    for signal in signals {
        let before = line.record().len();
        let mut child = cli.spawn(&arguments);
        wait_until("something is under way", || line.record().len() > before + 2_000_000);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert!(crate::support::cli::was_cut_off(status) || signal == Signal::KILL);
        // Bytes on the line when the connections were closed reach the registry a moment later.
        std::thread::sleep(Duration::from_millis(200));
    }
    let interrupted = line.record().len();
    cli.succeed(&arguments);
    let size: usize = layers.iter().sum();
    let twice = line.record().len() - size;
    assert!(
        twice < interrupted / 10,
        "{twice} of {interrupted} bytes were sent again"
    );
}

#[test]
fn nothing_is_sent_twice_to_distribution_2() {
    let registry = program("docker-registry", "interrupted imports");
    nothing_is_sent_twice(registry, [Signal::INT, Signal::TERM, Signal::INT]);
}

#[test]
fn nothing_is_sent_twice_to_distribution_3() {
    let registry = built_by_go("registry", "interrupted imports");
    nothing_is_sent_twice(registry, [Signal::INT, Signal::TERM, Signal::KILL]);
}
