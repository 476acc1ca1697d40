//! A registry that is silent or fails holds up none of the images of other registries.

use std::process::Child;

use serde_json::Value;

use super::cli;
use super::support::cli::{Output, wait_until, was_cut_off};
use super::support::image::{Image, Style};
use super::support::images::{linux_and_windows, multi, nested, shared_base, without_platforms};
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
        &format!("note: 2 images of `{}` cannot be resolved yet", silent.host()),
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

#[test]
fn healthy_images_are_pushed_although_a_silent_repository_holds_the_same_documents() {
    let (good, silent, target, gate) = (Double::new(), Double::new(), Double::new(), Gate::closed());
    let image = linux_and_windows(Style::Oci);
    let plain = without_platforms();
    for registry in [&good, &silent] {
        for (name, image) in [("pinned", &image), ("children", &nested()), ("configs", &plain)] {
            image.push(registry, &format!("team/{name}"), "1");
        }
    }
    // Two repositories of one registry. The held requests leave some of the places of the registry free.
    let small = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "tagged");
    small.push(&good, "team/tagged", "1");
    small.push(&good, "sick/tagged", "1");
    let held = || Action::Hold(gate.clone());
    silent.add_fault(When::path("/team/pinned/"), held());
    silent.add_fault(When::path("/team/children/manifests/sha256:"), held());
    silent.add_fault(When::path("/team/configs/blobs/"), held());
    good.add_fault(When::path("/sick/tagged/manifests/sha256:"), held());
    let asked_of = |registry: &Double, first: &str| {
        let host = registry.host();
        [
            format!("{host}/{first}/pinned@{}", image.digest()),
            format!("{host}/{first}/children:1"),
            format!("{host}/{first}/configs:1"),
        ]
    };
    let mut asked = Vec::from(asked_of(&silent, "team"));
    asked.push(format!("{}/sick/tagged:1", good.host()));
    let host = target.host();
    // The silent registry is asked first, and its images have names of their own at the destination.
    let maps = ["pinned", "children", "configs"].map(|name| format!("{}/team/{name}=sick/{name}", silent.host()));
    let mut arguments = vec!["-d", &host];
    arguments.extend(maps.iter().flat_map(|map| ["--map", map]));
    let healthy = asked_of(&good, "team");
    asked.extend(healthy);
    asked.push(format!("{}/team/tagged:1", good.host()));
    arguments.extend(asked.iter().map(String::as_str));
    let child = cli().spawn(&arguments);
    wait_for(&target, &["team/children", "team/configs", "team/tagged"]);
    wait_until("the image without a tag is pushed", || {
        target.manifest("team/pinned", image.digest()).is_some()
    });
    assert!(!gate.is_open() && target.manifest("sick/children", "1").is_none());
    gate.open();
    end(child, &arguments).expect_code(0);
    wait_for(&target, &["sick/children", "sick/configs", "sick/tagged"]);
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
    let huge = huge.replace(&format!("\"size\":{layer}"), &format!("\"size\":{}", 100_u64 << 30));
    assert!(huge.contains(&(100_u64 << 30).to_string()));
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
