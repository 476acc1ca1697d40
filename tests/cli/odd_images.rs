//! Images that say less than most: carried as they are, and told.

use serde_json::{Value, json};

use super::support::Double;
use super::support::image::{Entry, Image, Layer, Style, index, with_config};
use super::support::layout::{Tar, write_layout};
use super::{Cli, cli};

/// Returns an image whose config names no operating system, as programs write it that build images from scratch.
fn without_os(os: Option<&str>) -> Image {
    let layer = Layer::files(&[("hello", b"hello")]);
    let mut config = json!({"architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}});
    if let Some(os) = os {
        config["os"] = json!(os);
    }
    with_config(Style::Oci, Style::Oci.config(), config.to_string().into(), &[layer])
}

fn listed(cli: &Cli, bundle: &str) -> Vec<Value> {
    let tar = Tar::open(&cli.path(bundle));
    match tar.member("manifest.json") {
        Some(_) => tar.json("manifest.json").as_array().unwrap().clone(),
        None => Vec::new(),
    }
}

#[test]
fn an_image_that_names_no_os_is_listed_for_docker_load() {
    for os in [None, Some("")] {
        let (cli, source) = (cli(), Double::new());
        without_os(os).push(&source, "a/noos", "1");
        let image = format!("{}/a/noos:1", source.host());
        cli.succeed(&["export", &image, "-o", "b.tar"]);
        let items = listed(&cli, "b.tar");
        assert_eq!(items.len(), 1, "{os:?}");
        assert_eq!(items[0]["RepoTags"], json!([image]));
        // An index of this one image is no other thing.
        index(Style::Oci, &[without_os(os).into()]).push(&source, "a/index", "1");
        cli.succeed(&["export", &format!("{}/a/index:1", source.host()), "-o", "c.tar"]);
        assert_eq!(listed(&cli, "c.tar").len(), 1, "{os:?}");
    }
}

#[test]
fn a_signature_is_not_listed_for_docker_load() {
    let (cli, source) = (cli(), Double::new());
    let mut layer = Layer::files(&[("x", b"x")]);
    layer.media_type = Some("application/vnd.dev.cosign.simplesigning.v1+json".to_owned());
    let config = json!({"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}});
    with_config(Style::Oci, Style::Oci.config(), config.to_string().into(), &[layer]).push(&source, "a/b", "s.sig");
    cli.succeed(&["export", &format!("{}/a/b:s.sig", source.host()), "-o", "b.tar"]);
    assert!(listed(&cli, "b.tar").is_empty());
}

#[test]
fn an_index_that_lists_nothing_is_carried_as_it_is() {
    let (cli, source) = (cli(), Double::new());
    let empty = index(Style::Oci, &[]);
    empty.push(&source, "a/empty", "1");
    let image = format!("{}/a/empty:1", source.host());
    for (n, flags) in [&[][..], &["--platform", "all"], &["--platform", "linux/arm64"]]
        .into_iter()
        .enumerate()
    {
        let bundle = format!("{n}.tar");
        let output = cli.succeed(&[&["export", &image, "-o", &bundle], flags].concat());
        assert!(
            output.stderr.contains("lists nothing; it is carried as it is"),
            "{}",
            output.everything()
        );
        let target = Double::new();
        cli.succeed(&[&["import", &bundle, "-d", &target.host()], flags].concat());
        assert_eq!(target.manifest("a/empty", "1").unwrap(), empty.root.bytes);
    }
    let target = Double::new();
    cli.succeed(&["-d", &target.host(), &image]);
    assert_eq!(target.manifest("a/empty", "1").unwrap(), empty.root.bytes);
}

#[test]
fn a_config_is_not_read_where_the_index_states_the_platform() {
    for config in [
        "no JSON",
        "",
        "[]",
        r#"{"os":7}"#,
        r#"{"os":"linux","os":"windows"}"#,
        r#"{"os":"linux","rootfs":{"diff_ids":["x"]}}"#,
        r#"{"os":"\ud800"}"#,
    ] {
        let layer = Layer::files(&[("x", b"x")]);
        let broken = || {
            with_config(
                Style::Oci,
                Style::Oci.config(),
                config.to_owned().into(),
                std::slice::from_ref(&layer),
            )
        };
        let mut entry = Entry::from(broken());
        entry.platform = json!({"os": "linux", "architecture": "amd64"});
        let (cli, source, target) = (cli(), Double::new(), Double::new());
        index(Style::Oci, &[entry]).push(&source, "a/stated", "1");
        let image = format!("{}/a/stated:1", source.host());
        cli.succeed(&["export", &image, "-o", "b.tar"]);
        cli.succeed(&["import", "b.tar", "-d", &format!("{}/m", target.host())]);
        cli.succeed(&["-d", &format!("{}/n", target.host()), &image]);
        for repository in ["m/a/stated", "n/a/stated"] {
            assert!(target.manifest(repository, "1").is_some(), "{config}");
        }
        // Where nothing else says what it runs on, it is refused on every path.
        broken().push(&source, "a/single", "1");
        let image = format!("{}/a/single:1", source.host());
        cli.run(&["export", &image, "-o", "c.tar"]).expect_code(1);
        cli.run(&["-d", &target.host(), &image]).expect_code(1);
        write_layout(&cli.path("d.tar"), &[("docker.io/a/single:1", &broken())]);
        cli.run(&["import", "d.tar", "-d", &target.host()]).expect_code(5);
    }
}

#[test]
fn only_the_known_types_of_layers_may_be_absent() {
    let (cli, source) = (cli(), Double::new());
    for media_type in ["application/x.foreign.y", "application/vnd.acme.nondistributable.v1"] {
        let mut layer = Layer::files(&[("x", b"x")]);
        layer.media_type = Some(media_type.to_owned());
        let digest = super::support::sha256(&layer.bytes);
        let config =
            json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}});
        let mut image = with_config(Style::Oci, Style::Oci.config(), config.to_string().into(), &[layer]);
        image.blobs.remove(&digest);
        write_layout(&cli.path("b.tar"), &[("docker.io/a/b:1", &image)]);
        cli.run(&["import", "b.tar", "-d", &source.host()])
            .expect_code(5)
            .says(&["missing"]);
    }
}
