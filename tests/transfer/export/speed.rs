//! The number of parallel requests and their order: counted, not timed.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use super::tools::{Export, check, noise, put_image};
use crate::support::fault::{Action, When};
use crate::support::{Double, Entry, Gate};

const MIB: usize = 1 << 20;

fn small_layers(registry: &Double, count: u64) -> Export {
    let layers: Vec<Vec<u8>> = (0..count).map(|n| noise(n + 1, 1000 + n as usize)).collect();
    put_image(registry, "a/a", "1", &layers);
    Export::new(registry, &["a/a:1"])
}

#[test]
fn sixteen_connections_at_first_unless_told_otherwise() {
    let registry = Double::new();
    let export = small_layers(&registry, 24);
    for (flags, expected) in [(&[][..], 16), (&["-j", "2"], 2), (&["-j", "6"], 6), (&["-j", "9"], 9)] {
        registry.clear_faults();
        // The config comes first, by itself.
        let together = Action::Hold(Gate::meeting_of(expected));
        registry.add_fault(When::get("/blobs/").after(1), together);
        registry.forget_requests();
        export.bundle("b.tar", flags);
        assert_eq!(registry.peak(), expected, "{flags:?}");
        std::fs::remove_file(export.path("b.tar")).unwrap();
    }
}

#[test]
fn one_huge_layer_comes_over_several_connections_at_the_same_time() {
    let registry = Double::new();
    let layer = noise(7, 100 * MIB);
    let digests = put_image(&registry, "a/a", "1", &[layer]);
    registry.add_fault(When::get(&digests[0]), Action::Hold(Gate::meeting_of(2)));
    let export = Export::new(&registry, &["a/a:1"]);
    registry.forget_requests();
    export.bundle("b.tar", &[]);
    check(&export.path("b.tar"));
    let parts = registry.requests_of("GET", &digests[0]);
    assert!(
        parts.len() >= 2 && parts.iter().all(|part| part.status == 206),
        "{}",
        registry.transcript()
    );
    assert!(registry.peak() >= 2, "one after the other: {}", registry.transcript());
    // Each byte once.
    let sent: u64 = parts.iter().map(|part| part.bytes_out).sum();
    assert_eq!(sent, 100 * MIB as u64, "{}", registry.transcript());
}

#[test]
fn largest_first() {
    let registry = Double::new();
    let sizes = [300, 90_000, 5000, 70_000, 40];
    let layers: Vec<Vec<u8>> = sizes.iter().map(|size| noise(*size as u64, *size)).collect();
    let mut wanted: Vec<(usize, String)> = sizes
        .into_iter()
        .zip(put_image(&registry, "a/a", "1", &layers))
        .collect();
    wanted.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    Export::new(&registry, &["a/a:1"]).bundle("b.tar", &["-j", "1"]);
    let asked = registry.requests_of("GET", "/blobs/");
    // The config comes before the plan.
    let asked: Vec<String> = asked.iter().skip(1).map(|r| r.path.clone()).collect();
    let wanted: Vec<String> = wanted
        .iter()
        .map(|(_, digest)| format!("/v2/a/a/blobs/{digest}"))
        .collect();
    assert_eq!(asked, wanted);
}

#[test]
fn a_config_is_fetched_once() {
    let registry = Double::new();
    let export = small_layers(&registry, 1);
    let manifest: serde_json::Value = serde_json::from_slice(&registry.manifest("a/a", "1").unwrap()).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    let plain = export.bundle("b.tar", &[]);
    assert_eq!(registry.count("GET", &config), 1, "{}", registry.transcript());
    registry.forget_requests();
    assert!(export.run("-", &[]).stdout == plain);
    assert_eq!(registry.count("GET", &config), 1, "{}", registry.transcript());
}

#[test]
fn a_registry_that_throttles_gets_fewer_requests_at_a_time_and_then_more_again() {
    for throttled in [Action::status(503), Action::throttled(None)] {
        let registry = Double::new();
        let export = small_layers(&registry, 60);
        // The config comes first, by itself.
        registry.add_fault(When::get("/blobs/").after(1).first(2), throttled.clone());
        // The other four requests that were in flight at the refusal are answered once the program has received it.
        let heard = Gate::closed();
        registry.add_fault(When::get("/blobs/").after(3).first(4), Action::Hold(heard.clone()));
        registry.add_fault(When::get("/blobs/").after(7), Action::Delay(Duration::from_millis(120)));
        // By then so many went well that there are six at a time again.
        let six = Action::Hold(Gate::meeting_of(6));
        registry.add_fault(When::get("/blobs/").after(30), six);
        registry.forget_requests();
        let mut run = export
            .command("b.tar", &["-j", "6"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(run.stderr.take().unwrap()).lines() {
            said.push(line.unwrap());
            // Failures of the same kind at the same time are told once.
            if said.iter().any(|line| line.contains("trying again")) {
                heard.open();
            }
        }
        assert!(run.wait().unwrap().success(), "{said:#?}");
        let asked = registry.requests_of("GET", "/blobs/");
        // How many were being answered when this one came, itself among them.
        let open = |number: usize| {
            let at = asked[number].begun;
            let is_open = |entry: &&Entry| entry.begun <= at && entry.ended.is_none_or(|ended| ended > at);
            asked.iter().filter(is_open).count()
        };
        // After the config and the six requests that were in flight at the refusal. Four of these succeeded; with an
        // unchanged limit, four further requests would follow at once, beside the two that are repeated.
        let soon = (7..11).map(open).max().unwrap();
        let later = (30..asked.len()).map(open).max().unwrap();
        // Three places, and one more for those that went well.
        assert!((1..=4).contains(&soon), "{soon} at a time after it throttled");
        assert_eq!(later, 6, "it never gets to six again");
    }
}

#[test]
fn the_help_says_what_compression_costs() {
    let text = super::tools::cli().succeed(&["export", "--help"]).stdout;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("random access is lost"), "{text}");
}
