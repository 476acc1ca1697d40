//! "Names": what a reference means, and where it goes.

use super::support::Double;
use super::support::image::Style;
use super::support::images::{helm_chart, small};
use super::support::layout::{Tar, write_layout};
use super::{cli, digest_in};

/// A bundle with images of these names, each of its own content.
fn bundle(cli: &super::Cli, names: &[&str]) {
    let images: Vec<_> = names
        .iter()
        .map(|name| small(Style::Oci, "linux/amd64", name))
        .collect();
    let pairs: Vec<_> = names.iter().copied().zip(&images).collect();
    write_layout(&cli.path("names.tar"), &pairs);
}

#[test]
fn host_is_replaced_path_kept_prefix_before_it() {
    let (cli, target) = (cli(), Double::new());
    let names = [
        "docker.io/library/hello-world:latest",
        "docker.io/area51/jenkins:latest",
        "quay.io/a/b:1",
    ];
    bundle(&cli, &names);
    let out = cli.succeed(&["import", "names.tar", "-d", &format!("{}/mirror", target.host())]);
    assert_eq!(
        target.store().repositories(),
        ["mirror/a/b", "mirror/area51/jenkins", "mirror/library/hello-world"]
    );
    let starts = ["library/hello-world:latest", "area51/jenkins:latest", "a/b:1"];
    for (line, start) in out.lines().iter().zip(starts) {
        assert!(
            line.starts_with(&format!("{}/mirror/{start}@sha256:", target.host())),
            "{line}"
        );
    }
    cli.succeed(&["import", "names.tar", "-d", &target.host()]);
    assert!(target.manifest("library/hello-world", "latest").is_some());
}

#[test]
fn keep_host_puts_the_source_into_the_path() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    helm_chart().push(&source, "a/b", "1");
    let image = format!("{}/a/b:1", source.host());
    let host = source.host().replace(':', "-");
    cli.succeed(&["-d", &format!("{}/m", target.host()), "--keep-host", &image]);
    assert_eq!(target.store().repositories(), [format!("m/{host}/a/b")]);
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    cli.succeed(&["import", "b.tar", "-d", &format!("{}/n", target.host()), "--keep-host"]);
    assert!(target.manifest(&format!("n/{host}/a/b"), "1").is_some());
}

#[test]
fn two_sources_under_one_name_are_refused_before_anything_is_sent() {
    let (cli, target) = (cli(), Double::new());
    bundle(&cli, &["quay.io/a/b:1", "ghcr.io/a/b:1"]);
    cli.run(&["import", "names.tar", "-d", &target.host()])
        .expect_code(2)
        .says(&[
            "quay.io/a/b:1",
            "ghcr.io/a/b:1",
            &format!("{}/a/b:1", target.host()),
            "--keep-host",
        ]);
    assert!(target.requests().is_empty(), "{}", target.transcript());
    cli.succeed(&["import", "names.tar", "-d", &target.host(), "--keep-host"]);

    let (one, other) = (Double::new(), Double::new());
    small(Style::Oci, "linux/amd64", "one").push(&one, "a/b", "1");
    small(Style::Oci, "linux/amd64", "other").push(&other, "a/b", "1");
    let images = [&one, &other].map(|registry| format!("{}/a/b:1", registry.host()));
    target.forget_requests();
    cli.run(&["-d", &target.host(), &images[0], &images[1]])
        .expect_code(2)
        .says(&[&images[0], &images[1]]);
    assert_eq!(
        target.count("POST", "") + target.count("PUT", ""),
        0,
        "{}",
        target.transcript()
    );
}

#[test]
fn an_image_by_digest_alone_gets_a_tag() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    let digest = helm_chart().push(&source, "a/b", "1");
    // Not the tag under which a registry lists what refers to the image.
    let tag = format!("{}-image", digest.replace(':', "-"));
    let image = format!("{}/a/b@{digest}", source.host());
    cli.succeed(&["-d", &target.host(), &image]);
    assert_eq!(target.store().repository("a/b").unwrap().tags[&tag], digest);
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    cli.succeed(&["import", "b.tar", "-d", &format!("{}/p", target.host())]);
    assert_eq!(target.store().repository("p/a/b").unwrap().tags[&tag], digest);
}

#[test]
fn a_tag_that_states_the_digest_of_another_image_is_refused() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    let real = helm_chart().push(&source, "a/b", "1").replace(':', "-");
    let evil = small(Style::Oci, "linux/amd64", "evil");
    let good = format!("{}/a/b:1", source.host());
    for tag in [format!("{real}-image"), real.clone()] {
        let digest = evil.push(&source, "a/b", &tag);
        let image = format!("{}/a/b:{tag}", source.host());
        for arguments in [
            vec!["-d", &target.host(), &image, &good],
            vec!["export", &image, &good, "-o", "b.tar", "--allow-partial", "--force"],
            // A list of images gives the destination another tag.
            vec!["-d", &target.host(), "--images", "list.txt"],
        ] {
            let renamed = format!("{}/a/b@{digest} => a/b:{tag}\n{good}\n", source.host());
            std::fs::write(cli.path("list.txt"), renamed).unwrap();
            let output =
                cli.run(&arguments)
                    .says(&[&tag, &format!("but its digest is {digest}"), "1 of 2 images failed"]);
            let tags = target.store().repository("a/b").unwrap_or_default().tags;
            assert!(!tags.contains_key(&tag), "{}", output.everything());
        }
    }
}

#[test]
fn tag_and_digest_pulls_by_digest_and_keeps_the_tag() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    let digest = small(Style::Oci, "linux/amd64", "old").push(&source, "a/b", "1");
    small(Style::Oci, "linux/amd64", "new").push(&source, "a/b", "1");
    let out = cli.succeed(&["-d", &target.host(), &format!("{}/a/b:1@{digest}", source.host())]);
    assert_eq!(digest_in(out.lines()[0]), digest);
    assert_eq!(target.store().repository("a/b").unwrap().tags["1"], digest);
    assert_eq!(source.count("*", "/manifests/1"), 0, "{}", source.transcript());
}

#[test]
fn names_in_a_bundle_are_whole() {
    let (cli, source) = (cli(), Double::new());
    helm_chart().push(&source, "a/b", "latest");
    cli.succeed(&["export", &format!("{}/a/b", source.host()), "-o", "b.tar"]);
    let index = Tar::open(&cli.path("b.tar")).json("index.json");
    let annotations = &index["manifests"][0]["annotations"];
    let name = format!("{}/a/b:latest", source.host());
    assert_eq!(annotations["org.opencontainers.image.ref.name"], name);
    assert_eq!(annotations["io.containerd.image.name"], name);
}

#[test]
fn the_same_image_twice_is_one() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    helm_chart().push(&source, "a/b", "latest");
    let (short, long) = (
        format!("{}/a/b", source.host()),
        format!("{}/a/b:latest", source.host()),
    );
    let out = cli.succeed(&["-d", &target.host(), &short, &long]);
    assert_eq!(out.lines().len(), 1, "{}", out.everything());
    let out = cli.succeed(&["export", &short, &long, "-o", "b.tar"]);
    assert_eq!(out.lines().len(), 1, "{}", out.everything());
}

#[test]
fn a_mapping_that_meets_no_image_is_told_with_the_images() {
    let (cli, target) = (cli(), Double::new());
    bundle(&cli, &["docker.io/library/nginx:1", "quay.io/a/b:1"]);
    let import = ["import", "names.tar", "-d", &target.host(), "--map"];
    cli.succeed(&[&import[..], &["foo=bar"]].concat()).says(&[
        "warning: no image is below the source of the mapping `docker.io/library/foo=bar`; the images are \
         `docker.io/library/nginx:1`, `quay.io/a/b:1`",
    ]);
    cli.succeed(&[&import[..], &["nginx=web"]].concat()).hides(&["warning"]);
}
