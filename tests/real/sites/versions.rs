//! Other registries than Debian's: distribution 3, and zot.

use super::support::daemon::Daemon;
use super::support::distribution::{Distribution, built_by_go};
use super::support::http::Client;
use super::{both_ways, cli, fill};

#[test]
fn distribution_3() {
    let what = "distribution 3";
    let Some(third) = built_by_go("registry", what) else {
        return;
    };
    let start = || Distribution::at(&third, &third, |_| Default::default());
    let (source, target) = (start(), start());
    fill(&source.client());
    both_ways(&cli(), &source.host(), &target.host(), &[], &target.client());
    let Some(second) = Distribution::start(what, |_| Default::default()) else {
        return;
    };
    both_ways(&cli(), &source.host(), &second.host(), &[], &second.client());
}

#[test]
fn zot() {
    let what = "zot";
    let Some(program) = built_by_go("zot", what) else {
        return;
    };
    let Some(source) = Distribution::start(what, |_| Default::default()) else {
        return;
    };
    fill(&source.client());
    let start = || {
        Daemon::start(&program, |folder, port| {
            let config = serde_json::json!({
                "distSpecVersion": "1.1.1",
                "storage": {"rootDirectory": folder.join("storage")},
                "http": {"address": "127.0.0.1", "port": port.to_string(), "compat": ["docker2s2"]},
                "log": {"level": "warn"},
            });
            let file = folder.join("config.json");
            std::fs::write(&file, config.to_string()).unwrap();
            vec!["serve".to_owned(), file.display().to_string()]
        })
    };
    let target = start();
    both_ways(
        &cli(),
        &source.host(),
        &target.host(),
        &[],
        &Client::new(&target.host()),
    );
}
