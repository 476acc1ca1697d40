//! A registry that is silent or fails holds up none of the images of other registries.

use std::process::Child;

use serde_json::Value;

use super::cli;
use super::support::cli::{Output, wait_until, was_cut_off};
use super::support::image::{Image, Style};
use super::support::images::{linux_and_windows, multi, shared_base, small};
use super::support::real::signal;
use super::support::{Action, Cli, Double, Gate, When};

/// Waits until the destination has the tags of all these images.
#[track_caller]
fn wait_for(target: &Double, repositories: &[&str]) {
    wait_until("the healthy images are pushed", || {
        repositories.iter().all(|name| target.manifest(name, "1").is_some())
    });
}

fn end(child: Child, arguments: &[&str]) -> Output {
    Output::new(&child.wait_with_output().unwrap(), arguments)
}

/// Returns a registry that answers the first requests with 503, and holds all later ones at the gate.
fn failing(gate: &Gate) -> Double {
    let registry = Double::new();
    registry.add_fault(When::any().after(2), Action::Hold(gate.clone()));
    registry.add_fault(When::any(), Action::status(503));
    registry
}

#[test]
fn healthy_images_are_pushed_before_a_silent_registry_answers() {
    let (good, other, silent, target) = (Double::new(), Double::new(), Double::new(), Double::new());
    let images: Vec<Image> = shared_base(4, 300_000);
    images[0].push(&good, "team/a", "1");
    images[1].push(&good, "team/b", "1");
    images[2].push(&other, "team/c", "1");
    images[3].push(&silent, "team/d", "1");
    let gate = Gate::closed();
    silent.add_fault(When::any(), Action::Hold(gate.clone()));
    let asked = [
        format!("{}/team/d:1", silent.host()),
        format!("{}/team/a:1", good.host()),
        format!("{}/team/lost:1", silent.host()),
        format!("{}/team/c:1", other.host()),
        format!("{}/team/b:1", good.host()),
    ];
    let host = target.host();
    let mut arguments = vec!["-d", &host, "--report", "report.json"];
    arguments.extend(asked.iter().map(String::as_str));
    let cli = cli();
    let child = cli.spawn(&arguments);
    wait_for(&target, &["team/a", "team/b", "team/c"]);
    assert!(gate.arrived() > 0 && !gate.is_open(), "{}", silent.transcript());
    assert!(target.manifest("team/d", "1").is_none());
    gate.open();
    let output = end(child, &arguments).expect_code(1).says(&[
        &format!(
            "note: 2 images of `{}` are not resolved yet; pushing the resolved images first",
            silent.host()
        ),
        "1 of 5 images failed",
        "team/lost:1",
        "4 new, 1 failed",
    ]);
    wait_for(&target, &["team/d"]);
    // The results and the report have the order of the command line.
    let lines: Vec<String> = ["d", "a", "c", "b"].map(|name| format!("{host}/team/{name}:1@")).into();
    assert_eq!(output.lines().len(), 4, "{}", output.everything());
    assert!(
        output
            .lines()
            .iter()
            .zip(&lines)
            .all(|(line, begin)| line.starts_with(begin)),
        "{}",
        output.everything()
    );
    let report: Value = serde_json::from_slice(&std::fs::read(cli.path("report.json")).unwrap()).unwrap();
    let sources: Vec<&str> = report["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["source"].as_str().unwrap())
        .collect();
    assert_eq!(sources, asked);
    let locked: Vec<&str> = report["lock"]["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["reference"].as_str().unwrap())
        .collect();
    assert_eq!(locked, [&*asked[0], &*asked[1], &*asked[3], &*asked[4]]);
    // The layer that all images share was sent once, and mounted for the late image as well.
    let base = good.store().repository("team/a").unwrap().blobs;
    let shared: Vec<String> = base
        .into_iter()
        .filter(|digest| good.store().content(digest).is_some_and(|blob| blob.len() > 200_000))
        .collect();
    assert_eq!(shared.len(), 1);
    let hex = shared[0].replace("sha256:", "");
    let sent = [&good, &other, &silent].map(|registry| registry.count("GET", &hex));
    assert_eq!(sent.iter().sum::<usize>(), 1, "{}", target.transcript());
}

#[test]
fn healthy_images_are_pushed_although_many_of_a_failing_registry_come_first() {
    let (good, target, gate) = (Double::new(), Double::new(), Gate::closed());
    let sick = failing(&gate);
    linux_and_windows(Style::Oci).push(&good, "team/a", "1");
    let mut asked: Vec<String> = (0..9)
        .map(|number| format!("{}/sick/{number}:1", sick.host()))
        .collect();
    asked.push(format!("{}/team/a:1", good.host()));
    let host = target.host();
    let mut arguments = vec!["-d", &host, "--jobs", "2", "--retries", "2"];
    arguments.extend(asked.iter().map(String::as_str));
    let child = cli().spawn(&arguments);
    wait_for(&target, &["team/a"]);
    assert!(!gate.is_open());
    gate.open();
    let output = end(child, &arguments)
        .expect_code(1)
        .says(&["9 of 10 images failed", &format!("`{}` answered 503", sick.host())]);
    assert_eq!(output.lines().len(), 1, "{}", output.everything());
}

#[test]
fn healthy_images_are_pushed_although_another_repository_of_their_registry_is_silent() {
    let (registry, target, gate) = (Double::new(), Double::new(), Gate::closed());
    for name in ["team/a", "team/b", "team/c"] {
        linux_and_windows(Style::Oci).push(&registry, name, "1");
    }
    registry.add_fault(When::path("/v2/team/b/"), Action::Hold(gate.clone()));
    let asked = ["a", "b", "c"].map(|name| format!("{}/team/{name}:1", registry.host()));
    let host = target.host();
    let mut arguments = vec!["-d", &host];
    arguments.extend(asked.iter().map(String::as_str));
    let child = cli().spawn(&arguments);
    wait_for(&target, &["team/a", "team/c"]);
    assert!(!gate.is_open() && target.manifest("team/b", "1").is_none());
    gate.open();
    end(child, &arguments).expect_code(0);
    wait_for(&target, &["team/b"]);
}

/// Mirrors an image from a registry that holds the requests with this text at a gate, and the same image from a healthy one. `end_of_name`
/// is the tag or digest with its separator.
fn mirror_same_image(image: &Image, held: &str, end_of_name: &str) {
    let (good, silent, target, gate) = (Double::new(), Double::new(), Double::new(), Gate::closed());
    let asked_second = Gate::closed();
    image.push(&silent, "sick/app", "1");
    image.push(&good, "team/app", "1");
    silent.add_fault(When::path(held), Action::Hold(gate.clone()));
    good.add_fault(When::path(held), Action::Hold(asked_second.clone()));
    let asked = [
        format!("{}/sick/app{end_of_name}", silent.host()),
        format!("{}/team/app{end_of_name}", good.host()),
    ];
    let host = target.host();
    let arguments = ["-d", &host, &asked[0], &asked[1]];
    let child = cli().spawn(&arguments);
    // What the healthy registry answered first would not be asked of the silent one.
    wait_until("the silent registry is asked", || gate.arrived() > 0);
    asked_second.open();
    wait_until("the healthy image is pushed", || {
        target.manifest("team/app", image.digest()).is_some()
    });
    assert!(!gate.is_open());
    gate.open();
    end(child, &arguments).expect_code(0);
    assert!(target.manifest("sick/app", image.digest()).is_some());
}

#[test]
fn an_image_is_pushed_although_a_silent_registry_has_its_root() {
    let image = small(Style::Oci, "linux/amd64", "pinned");
    mirror_same_image(&image, "/manifests/", &format!("@{}", image.digest()));
}

#[test]
fn an_image_is_pushed_although_a_silent_registry_has_its_platforms() {
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "children");
    mirror_same_image(&image, "/manifests/sha256:", ":1");
}

#[test]
fn an_image_is_pushed_although_a_silent_registry_has_its_config() {
    mirror_same_image(&small(Style::Oci, "linux/amd64", "config"), "/blobs/", ":1");
}

#[test]
fn an_image_whose_sizes_are_checked_at_a_silent_registry_holds_up_no_other() {
    let (good, silent, target, gate) = (Double::new(), Double::new(), Double::new(), Gate::closed());
    linux_and_windows(Style::Oci).push(&good, "team/a", "1");
    let image = shared_base(1, 300_000).remove(0);
    image.push(&silent, "team/huge", "1");
    // Images above 64 GiB are compared with the blobs of their registry.
    let huge = String::from_utf8(silent.manifest("team/huge", "1").unwrap().to_vec()).unwrap();
    let layer = image.root.json()["layers"][0]["size"].to_string();
    let huge = huge.replace(&layer, &(100_u64 << 30).to_string());
    let media_type = image.root.media_type.clone();
    silent
        .store()
        .put_manifest("team/huge", Some("1"), &media_type, huge.into_bytes().into());
    let base = image.root.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    silent.add_fault(When::path(&base), Action::Hold(gate.clone()));
    image.push(&silent, "team/late", "1");
    silent.add_fault(When::path("/team/late/manifests/1"), Action::Hold(gate.clone()));
    let asked = [
        format!("{}/team/huge:1", silent.host()),
        format!("{}/team/late:1", silent.host()),
        format!("{}/team/a:1", good.host()),
    ];
    let host = target.host();
    let mut arguments = vec!["-d", &host];
    arguments.extend(asked.iter().map(String::as_str));
    let child = cli().spawn(&arguments);
    wait_for(&target, &["team/a"]);
    assert!(!gate.is_open());
    gate.open();
    end(child, &arguments)
        .expect_code(1)
        .says(&["1 of 3 images failed", "team/huge:1"]);
    wait_for(&target, &["team/late"]);
}

#[test]
fn a_run_that_is_ended_while_a_registry_is_silent_leaves_the_healthy_images() {
    let (good, silent, target, gate) = (Double::new(), Double::new(), Double::new(), Gate::closed());
    linux_and_windows(Style::Oci).push(&good, "team/a", "1");
    silent.add_fault(When::any(), Action::Hold(gate.clone()));
    let (host, sick) = (target.host(), format!("{}/team/b:1", silent.host()));
    let healthy = format!("{}/team/a:1", good.host());
    let child = cli().spawn(&["-d", &host, &sick, &healthy]);
    wait_for(&target, &["team/a"]);
    signal("INT", child.id());
    let output = child.wait_with_output().unwrap();
    assert!(
        was_cut_off(output.status),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(target.manifest("team/a", "1").is_some() && !gate.is_open());
}

#[test]
fn an_export_reads_all_manifests_of_healthy_images_while_a_registry_is_silent() {
    let (good, silent, gate) = (Double::new(), Double::new(), Gate::closed());
    let cli: Cli = cli();
    linux_and_windows(Style::Oci).push(&good, "team/a", "1");
    silent.add_fault(When::any(), Action::Hold(gate.clone()));
    let (sick, healthy) = (
        format!("{}/team/b:1", silent.host()),
        format!("{}/team/a:1", good.host()),
    );
    let arguments = ["export", &sick, &healthy, "-o", "b.tar", "--allow-partial"];
    let child = cli.spawn(&arguments);
    // The index, and two linux platforms.
    wait_until("the manifests are read", || {
        good.count("GET", "/manifests/sha256:") >= 2
    });
    assert!(!gate.is_open());
    gate.open();
    end(child, &arguments).expect_code(6);
}
