//! From one `docker-registry` to another: plain, with a password, with TLS.

use super::support::image::{Image, Style};
use super::support::images::{greeting, helm_chart, linux_and_windows, shared_base, sized};
use super::support::real::{PASSWORD, RealRegistry, Setup, USER};
use super::{Cli, cli, has_linux};

const PLAIN: Setup = Setup {
    login: false,
    tls: false,
};

/// Two registries, the first with the fixture as `library/greeting:1.0`.
fn pair(source: Setup, target: Setup, what: &str) -> Option<(RealRegistry, RealRegistry)> {
    let source = RealRegistry::start(source, what)?;
    let target = RealRegistry::start(target, what)?;
    source.client().push(&greeting(), "library/greeting", "1.0");
    Some((source, target))
}

/// A user who knows both registries.
fn user(source: &RealRegistry, target: &RealRegistry) -> Cli {
    let mut cli = cli();
    let auth = |host: String| (host, serde_json::json!({"username": USER, "password": PASSWORD}));
    let auths: serde_json::Map<_, _> = [auth(source.host()), auth(target.host())].into_iter().collect();
    cli.docker_config(&serde_json::json!({"auths": auths}));
    if source.uses_tls() {
        cli.set("SSL_CERT_FILE", source.authority_file().to_str().unwrap());
    }
    if target.uses_tls() {
        cli.set("SSL_CERT_FILE", target.authority_file().to_str().unwrap());
    }
    cli
}

fn both_ways(source: &RealRegistry, target: &RealRegistry) {
    let cli = user(source, target);
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "bundle.tar"]);
    let out = cli.succeed(&["import", "bundle.tar", "-d", &format!("{}/mirror", target.host())]);
    let digest = has_linux(&target.client(), &greeting(), "mirror/library/greeting", "1.0");
    let host = target.host();
    assert_eq!(out.lines(), [format!("{host}/mirror/library/greeting:1.0@{digest}")]);
    out.hides(&[PASSWORD]);

    let out = cli.succeed(&["-d", &format!("{}/one-step", target.host()), &image]);
    let again = has_linux(&target.client(), &greeting(), "one-step/library/greeting", "1.0");
    assert_eq!(again, digest);
    assert_eq!(out.lines(), [format!("{host}/one-step/library/greeting:1.0@{digest}")]);

    // Everything is there: nothing changes, and it ends well.
    let again = cli.succeed(&["import", "bundle.tar", "-d", &format!("{}/mirror", target.host())]);
    assert!(again.stdout.contains(&digest));
}

#[test]
fn plain() {
    let Some((source, target)) = pair(PLAIN, PLAIN, "docker-registry, plain") else {
        return;
    };
    both_ways(&source, &target);
}

#[test]
fn with_a_password() {
    let closed = Setup { login: true, ..PLAIN };
    let Some((source, target)) = pair(closed, closed, "docker-registry with htpasswd") else {
        return;
    };
    both_ways(&source, &target);
    let stranger = cli();
    let image = format!("{}/library/greeting:1.0", source.host());
    stranger
        .run(&["export", &image, "-o", "b.tar"])
        .expect_code(3)
        .says(&[&image, "hint:"]);
    stranger.log_in(&source.host(), USER, "wrong password");
    stranger
        .run(&["export", &image, "-o", "b.tar"])
        .expect_code(3)
        .says(&[&image])
        .hides(&["wrong password"]);
    assert!(!stranger.path("b.tar").exists());
}

#[test]
fn with_tls() {
    let tls = Setup { tls: true, ..PLAIN };
    let Some((source, target)) = pair(PLAIN, tls, "docker-registry with TLS") else {
        return;
    };
    // An address of this machine may use http or https: the program detects the scheme, and keeps it.
    both_ways(&source, &target);
    let stranger = cli();
    let image = format!("{}/library/greeting:1.0", source.host());
    stranger
        .run(&["-d", &target.host(), &image])
        .expect_code(1)
        .says(&[&target.host(), "certificate"]);
}

#[test]
fn with_tls_and_a_password_on_both_sides() {
    let both = Setup { login: true, tls: true };
    let plain_password = Setup { login: true, ..PLAIN };
    let Some((source, target)) = pair(both, plain_password, "docker-registry with TLS and htpasswd") else {
        return;
    };
    both_ways(&source, &target);
}

#[test]
fn docker_types_charts_and_shared_layers() {
    let Some((source, target)) = pair(PLAIN, PLAIN, "docker-registry with many kinds of images") else {
        return;
    };
    let cli = cli();
    let docker = linux_and_windows(Style::Docker);
    let chart = helm_chart();
    source.client().push(&docker, "a/docker", "2");
    source.client().push(&chart, "charts/x", "0.1.0");
    let mut names = vec![
        format!("{}/a/docker:2", source.host()),
        format!("{}/charts/x:0.1.0", source.host()),
    ];
    let shared = shared_base(3, 200_000);
    for (n, image) in shared.iter().enumerate() {
        source.client().push(image, &format!("shared/image{n}"), "1");
        names.push(format!("{}/shared/image{n}:1", source.host()));
    }
    let mut arguments = vec!["export", "-o", "b.tar"];
    arguments.extend(names.iter().map(String::as_str));
    cli.succeed(&arguments);
    let out = cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert_eq!(out.lines().len(), 5);
    let client = target.client();
    assert_eq!(client.manifest("charts/x", "0.1.0").unwrap(), chart.root.bytes);
    for (digest, bytes) in &chart.blobs {
        assert_eq!(client.blob("charts/x", digest).unwrap(), bytes[..]);
    }
    has_linux(&client, &docker, "a/docker", "2");
    for (n, image) in shared.iter().enumerate() {
        let repository = format!("shared/image{n}");
        assert_eq!(client.manifest(&repository, "1").unwrap(), image.root.bytes);
        for digest in Image::blobs_of(std::slice::from_ref(&image.root)) {
            assert_eq!(client.blob(&repository, &digest).unwrap(), image.blobs[&digest]);
        }
    }
}

#[test]
fn a_pinned_image_of_which_platforms_are_dropped() {
    let Some((source, target)) = pair(PLAIN, PLAIN, "docker-registry and a sparse index") else {
        return;
    };
    let cli = cli();
    let image = format!("{}/library/greeting:1.0@{}", source.host(), greeting().digest());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    // This registry refuses an index whose children are absent.
    cli.run(&["import", "b.tar", "-d", &target.host()])
        .expect_code(1)
        .says(&[greeting().digest(), "does not exist"]);
    has_linux(&target.client(), &greeting(), "library/greeting", "1.0");
    cli.succeed(&["-d", &format!("{}/whole", target.host()), &image, "--platform", "all"]);
    let stored = target.client().manifest("whole/library/greeting", greeting().digest());
    assert_eq!(stored.unwrap(), greeting().root.bytes);
}

#[test]
fn a_corrupt_bundle_leaves_nothing_visible() {
    let Some((_, target)) = pair(PLAIN, PLAIN, "docker-registry and a corrupt bundle") else {
        return;
    };
    let cli = cli();
    let image = sized(11, "linux/amd64", &[2_000_000]);
    let victim = image.root.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    super::support::layout::write_layout(&cli.path("b.tar"), &[("docker.io/a/b:1", &image)]);
    let tar = super::support::layout::Tar::open(&cli.path("b.tar"));
    tar.flip(&super::support::layout::blob_name(&victim));
    cli.run(&["import", "b.tar", "-d", &target.host()])
        .expect_code(5)
        .says(&[&victim]);
    assert!(target.client().blob("a/b", &victim).is_none());
    assert!(target.client().tags("a/b").is_empty());
}
