//! "The bundle": an OCI image layout in a tar, the same bytes each time.

use std::collections::HashSet;

use super::support::Double;
use super::support::image::Style;
use super::support::images::{greeting, helm_chart, linux_and_windows, shared_base};
use super::support::layout::Tar;
use super::{cli, source};
use crate::support::Cli;

/// A user who exported the fixture to `b.tar`.
fn exported() -> Cli {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    cli
}

#[test]
fn members_stand_in_the_order_of_the_format() {
    let cli = exported();
    let bundle = Tar::open(&cli.path("b.tar"));
    let files: Vec<&str> = bundle.names().into_iter().filter(|name| !name.ends_with('/')).collect();
    assert_eq!(
        files[..4],
        ["oci-layout", "index.json", "manifest.json", "docker-mirror.json"]
    );
    assert!(
        files[4..].iter().all(|name| name.starts_with("blobs/sha256/")),
        "{files:?}"
    );
    assert_eq!(bundle.json("oci-layout")["imageLayoutVersion"], "1.0.0");
    // Manifests, then configs, then layers by size, the largest first.
    let kind = |name: &str| {
        let digest = name.replace("blobs/sha256/", "sha256:");
        let fixture = greeting();
        let is_manifest = fixture.documents().any(|d| d.digest == digest);
        let named = |field: &str| {
            fixture.documents().any(|d| match field {
                "config" => d.json()["config"]["digest"] == digest.as_str(),
                _ => d.json()["layers"]
                    .as_array()
                    .is_some_and(|l| l.iter().any(|l| l["digest"] == digest.as_str())),
            })
        };
        match (
            is_manifest || !fixture.blobs.contains_key(&digest),
            named("config"),
            named("layers"),
        ) {
            (true, ..) => 0,
            (_, true, _) => 1,
            _ => 2,
        }
    };
    let kinds: Vec<i32> = files[4..].iter().map(|name| kind(name)).collect();
    assert!(kinds.is_sorted(), "{kinds:?}");
    let layers: Vec<u64> = files[4..]
        .iter()
        .filter(|name| kind(name) == 2)
        .map(|name| bundle.member(name).unwrap().size)
        .collect();
    assert!(layers.iter().rev().is_sorted(), "{layers:?}");
}

#[test]
fn every_member_is_what_its_name_says() {
    let cli = exported();
    let bundle = Tar::open(&cli.path("b.tar"));
    for name in bundle.names() {
        if let Some(hex) = name.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
            assert!(bundle.blob(&format!("sha256:{hex}")).is_some());
        }
    }
}

#[test]
fn header_fields_are_fixed() {
    for member in Tar::open(&exported().path("b.tar")).members {
        assert_eq!((member.owner, member.time), ((0, 0), 0), "{}", member.name);
        assert!(member.kind.is_file() || member.kind.is_dir(), "{}", member.name);
        assert_eq!(
            member.mode & 0o7777,
            if member.kind.is_dir() { 0o755 } else { 0o644 },
            "{}",
            member.name
        );
    }
}

#[test]
fn two_exports_are_the_same_bytes() {
    let (cli, source) = (cli(), source());
    helm_chart().push(&source, "charts/x", "1");
    let images = ["library/greeting:1.0", "charts/x:1"].map(|name| format!("{}/{name}", source.host()));
    cli.succeed(&["export", &images[0], &images[1], "-o", "a.tar", "-j", "1"]);
    let other = super::cli();
    other.succeed(&["export", &images[0], &images[1], "-o", "b.tar", "-j", "16"]);
    let (a, b) = (
        std::fs::read(cli.path("a.tar")).unwrap(),
        std::fs::read(other.path("b.tar")).unwrap(),
    );
    assert!(a == b, "two exports differ");
}

#[test]
fn a_blob_is_there_once_however_many_images_share_it() {
    let (cli, source) = (cli(), Double::new());
    let mut names = Vec::new();
    for (n, image) in shared_base(4, 50_000).iter().enumerate() {
        image.push(&source, &format!("a/image{n}"), "1");
        names.push(format!("{}/a/image{n}:1", source.host()));
    }
    let mut arguments = vec!["export", "-o", "b.tar"];
    arguments.extend(names.iter().map(String::as_str));
    cli.succeed(&arguments);
    let bundle = Tar::open(&cli.path("b.tar"));
    let names = bundle.names();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    let base = super::support::store::sha256(&super::support::image::noise(1, 50_000));
    assert_eq!(
        source.count("GET", &format!("/blobs/{base}")),
        1,
        "{}",
        source.transcript()
    );
    assert_eq!(bundle.json("index.json")["manifests"].as_array().unwrap().len(), 4);
}

#[test]
fn the_docker_manifest_names_one_platform_of_each_image() {
    let (cli, source) = (cli(), source());
    helm_chart().push(&source, "charts/x", "1");
    linux_and_windows(Style::Docker).push(&source, "a/docker", "2");
    let names = ["library/greeting:1.0", "charts/x:1", "a/docker:2"].map(|name| format!("{}/{name}", source.host()));
    cli.succeed(&["export", &names[0], &names[1], &names[2], "-o", "b.tar"]);
    let bundle = Tar::open(&cli.path("b.tar"));
    let manifest = bundle.json("manifest.json");
    let items = manifest.as_array().unwrap();
    assert_eq!(items.len(), 2, "a chart is no image: {manifest}");
    for name in [&names[0], &names[2]] {
        let item = items
            .iter()
            .find(|item| item["RepoTags"] == serde_json::json!([name]))
            .expect("no such item");
        let config = bundle.json(item["Config"].as_str().unwrap());
        assert_eq!(
            (&config["os"], &config["architecture"]),
            (&"linux".into(), &"amd64".into())
        );
        let layers = item["Layers"].as_array().unwrap();
        assert_eq!(layers.len(), config["rootfs"]["diff_ids"].as_array().unwrap().len());
        assert!(
            layers
                .iter()
                .all(|layer| bundle.member(layer.as_str().unwrap()).is_some())
        );
    }
}

#[test]
fn nothing_but_the_bundle_is_left() {
    assert_eq!(exported().files(), ["b.tar"]);
}
