//! Indexes without an image for linux: refused, unless the user chose their platforms.

use super::archives::{Layout, with};
use super::handmade::{Maker, assert_complete, registries, request};
use super::support::image::Style;
use super::support::images::multi;
use super::support::{Cli, Double};
use docker_mirror::import::{self as library, Selection};
use docker_mirror::{Event, Progress};
use serde_json::{Value, json};

const ATTESTATION: &str = "vnd.docker.reference.type";

fn on(layout: &mut Layout, platform: Value) -> Value {
    let text = platform.to_string();
    with(
        layout.image("amd64", text.as_bytes(), true),
        json!({"platform": platform}),
    )
}

fn attestation(layout: &mut Layout, subject: &str) -> Value {
    let entry = on(layout, json!({"os": "unknown", "architecture": "unknown"}));
    with(
        entry,
        json!({"annotations": {ATTESTATION: "attestation-manifest", "vnd.docker.reference.digest": subject}}),
    )
}

/// Imports the image that `root` describes. Returns the exit code, followed by the messages.
fn import(layout: &mut Layout, root: Value, more: &[&str]) -> (Double, String) {
    let (cli, registry) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
    layout.name(root, "quay.io/test/x:1");
    std::fs::write(cli.path("b.tar"), layout.tar().end()).unwrap();
    let output = cli.run(&[&["import", "b.tar", "-d", &registry.host()], more].concat());
    (registry, format!("{:?} {}", output.code, output.stderr))
}

#[test]
fn an_index_without_linux_is_neither_pushed_nor_tagged() {
    let windows = json!({"os": "windows", "architecture": "amd64", "os.version": "10.0.20348.1"});
    let foreign = |layout: &mut Layout| vec![on(layout, windows.clone()), on(layout, json!({"os": "freebsd"}))];
    let attestations = |layout: &mut Layout| vec![attestation(layout, &format!("sha256:{}", "a".repeat(64)))];
    let unknown = |layout: &mut Layout| vec![on(layout, json!({"os": "unknown", "architecture": "unknown"}))];
    let nested = |layout: &mut Layout| {
        let empty = layout.index(&[]);
        vec![empty]
    };
    type Entries<'a> = &'a dyn Fn(&mut Layout) -> Vec<Value>;
    let cases: [(Entries<'_>, &str, bool); 4] = [
        (
            &foreign,
            "its platforms: windows/amd64 (10.0.20348.1), freebsd/unknown",
            true,
        ),
        (&attestations, "nothing but attestations", false),
        (&unknown, "its platforms: unknown/unknown", true),
        (&nested, "all manifests of its index are missing", false),
    ];
    for (entries, why, all) in cases {
        let mut layout = Layout::default();
        let entries = entries(&mut layout);
        let index = layout.index(&entries);
        let (registry, said) = import(&mut layout.clone(), index.clone(), &[]);
        for part in ["Some(1)", "`quay.io/test/x:1`", "no linux platform", why] {
            assert!(said.contains(part), "no {part} in {said}");
        }
        assert!(registry.requests().is_empty(), "{}", registry.transcript());
        let (registry, said) = import(&mut layout, index, &["--platform", "all"]);
        assert_eq!(said.starts_with("Some(0)"), all, "{said}");
        if all {
            assert_complete(&registry, "test/x", "1", false);
        } else {
            assert!(registry.requests().is_empty(), "{}", registry.transcript());
        }
    }
}

#[test]
fn an_index_that_lists_nothing_is_imported_as_it_is() {
    for flags in [&[][..], &["--platform", "all"], &["--platform", "linux/amd64"]] {
        let mut layout = Layout::default();
        let index = layout.index(&[]);
        let (registry, said) = import(&mut layout, index.clone(), flags);
        assert!(said.starts_with("Some(0)"), "{said}");
        let digest = index["digest"].as_str().unwrap();
        assert_eq!(
            crate::support::sha256(&registry.manifest("test/x", "1").unwrap()),
            digest
        );
    }
}

#[test]
fn a_platform_that_is_asked_for_by_name_is_imported_alone() {
    let mut layout = Layout::default();
    let windows = on(&mut layout, json!({"os": "windows", "architecture": "amd64"}));
    let index = layout.index(&[windows]);
    let (registry, said) = import(&mut layout.clone(), index.clone(), &["--platform", "windows/amd64"]);
    assert!(said.starts_with("Some(0)"), "{said}");
    assert_complete(&registry, "test/x", "1", false);
    let (registry, said) = import(&mut layout, index, &["--platform", "linux/amd64"]);
    assert!(said.starts_with("Some(1)"), "{said}");
    assert!(registry.requests().is_empty());
}

#[test]
fn what_was_chosen_for_a_bundle_of_our_own_is_imported() {
    let (cli, source, target) = (
        Cli::new(env!("CARGO_BIN_EXE_docker-mirror")),
        Double::new(),
        Double::new(),
    );
    multi(Style::Oci, &["windows/amd64"], "w").push(&source, "team/w", "1");
    let name = format!("{}/team/w:1", source.host());
    cli.run(&["export", &name, "-o", "b.tar"]).expect_code(1);
    cli.succeed(&["export", &name, "-o", "b.tar", "--platform", "all"]);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    assert_complete(&target, "team/w", "1", false);
}

#[test]
fn linux_in_any_spelling_artifacts_and_single_images_are_taken_as_they_are() {
    let strange = |layout: &mut Layout| {
        vec![
            on(layout, json!({"os": "LINUX", "architecture": "amd64"})),
            on(layout, json!({"os": "windows", "architecture": "amd64"})),
        ]
    };
    let empty = |layout: &mut Layout| vec![on(layout, json!({"os": "", "architecture": ""}))];
    let artifacts = |layout: &mut Layout| {
        vec![
            layout.document("application/vnd.example.thing+json", &json!({"thing": 1})),
            layout.document("application/vnd.example.thing+json", &json!({"thing": 2})),
        ]
    };
    type Entries<'a> = &'a dyn Fn(&mut Layout) -> Vec<Value>;
    let cases: [Entries<'_>; 3] = [&strange, &empty, &artifacts];
    for entries in cases {
        let mut layout = Layout::default();
        let entries = entries(&mut layout);
        let index = layout.index(&entries);
        let digest = index["digest"].as_str().unwrap().to_owned();
        let (registry, said) = import(&mut layout, index, &[]);
        assert!(said.starts_with("Some(0)"), "{said}");
        let found = registry.store().repository("test/x").unwrap();
        assert_eq!(found.tags["1"], digest, "byte for byte");
    }
    // The user who saved it chose this platform.
    let mut layout = Layout::default();
    let config = layout.document(
        docker_mirror::testing::media_type::OCI_CONFIG,
        &json!({"os": "windows", "architecture": "amd64"}),
    );
    let image = layout.document(
        docker_mirror::testing::media_type::OCI_MANIFEST,
        &json!({"schemaVersion": 2, "config": config, "layers": []}),
    );
    let (registry, said) = import(&mut layout, image, &[]);
    assert!(said.starts_with("Some(0)"), "{said}");
    assert_complete(&registry, "test/x", "1", false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_tags_counts_images_and_not_the_tags_of_their_platforms() {
    let (mut maker, registry) = (Maker::default(), Double::new());
    for name in ["docker.io/team/a:1", "docker.io/team/b:1"] {
        let children = ["linux/amd64", "linux/arm64"].map(|platform| maker.image(platform, &[name.as_bytes()]));
        let index = maker.index(&children);
        maker.name(name, &index);
    }
    let told = std::sync::Arc::new(std::sync::Mutex::new((0, 0)));
    let listener = told.clone();
    let progress = Progress::new(move |event| {
        let mut told = listener.lock().unwrap();
        match event {
            Event::Phase { images, .. } => told.0 += images,
            Event::Step(_) => told.1 += 1,
            _ => {}
        }
    });
    let mut wanted = request(&registry);
    wanted.platform_tags = true;
    let bundle = maker.open().bundle;
    let report = library::import(bundle, Selection::default(), wanted, &registries(), progress)
        .await
        .unwrap();
    assert!(
        !report.failed() && registry.manifest("mirror/team/a", "1_arm64").is_some(),
        "{report:?}"
    );
    assert_eq!(*told.lock().unwrap(), (2, 2));
}
