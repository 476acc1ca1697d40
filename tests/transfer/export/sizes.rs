//! Images that contradict each other about the size of a blob: only the images with the wrong size fail.

use serde_json::{Value, json};

use super::tools::{Export, check, cli, noise, put_image, text};
use crate::support::fault::{Action, When};
use crate::support::{Double, End, sha256};

/// Changes the manifest under a tag, and puts it under the same tag.
fn edit(registry: &Double, repository: &str, change: impl FnOnce(&mut Value)) {
    let mut manifest: Value = serde_json::from_slice(&registry.manifest(repository, "1").unwrap()).unwrap();
    change(&mut manifest);
    let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
    let bytes = manifest.to_string().into();
    registry.store().put_manifest(repository, Some("1"), &media_type, bytes);
}

/// `a` and `c` are right; `b` has the layer of `a`, and states a size that differs by `off` bytes.
fn one_wrong(off: i64) -> Double {
    let registry = Double::new();
    let shared = noise(1, 20_000);
    put_image(&registry, "a", "1", &[shared.clone(), noise(2, 700)]);
    put_image(&registry, "b", "1", &[shared]);
    put_image(&registry, "c", "1", &[noise(3, 900)]);
    edit(&registry, "b", |manifest| {
        manifest["layers"][0]["size"] = json!(20_000 + off);
    });
    registry
}

fn three_images() -> Double {
    let registry = Double::new();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        put_image(&registry, name, "1", &[noise(seed, 700)]);
    }
    registry
}

/// Exports images of which some fail. The messages have all these parts, and the bundle has this number of images, all
/// complete.
fn export_partly(registry: &Double, images: &[&str], more: &[&str], says: &[&str], whole: usize) -> Export {
    let export = Export::new(registry, images);
    let done = export.run("x.tar", &[&["--allow-partial"], more].concat());
    let said = text(&done);
    assert_eq!(done.status.code(), Some(6), "{said}");
    assert!(says.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(check(&export.path("x.tar")), whole, "{said}");
    export
}

/// What is said where `b` fails alone.
const B_ALONE: &[&str] = &["1 of 3 images failed", "/b:1: "];

const ORDERS: [[&str; 3]; 3] = [["a:1", "b:1", "c:1"], ["b:1", "c:1", "a:1"], ["c:1", "b:1", "a:1"]];

#[test]
fn an_image_that_states_a_wrong_size_fails_alone() {
    for off in [5, -5, 1 << 40] {
        let registry = one_wrong(off);
        for images in ORDERS {
            let export = export_partly(&registry, &images, &[], B_ALONE, 2);
            let said = export.fails("y.tar", &[], 1);
            assert!(said.contains("1 of 3 images cannot be resolved"), "{said}");
            let done = export.run("x.tar.gz", &["--allow-partial"]);
            assert!(text(&done).contains("1 of 3 images failed"), "{}", text(&done));
        }
        let alone = Export::new(&registry, &["b:1"]).fails("x.tar", &[], 1);
        assert!(alone.contains("hint: "), "{alone}");
    }
}

#[test]
fn bytes_decide_where_no_registry_states_a_length() {
    for off in [5, -5] {
        let registry = one_wrong(off);
        registry.add_fault(When::path("/blobs/"), Action::Chunked);
        for images in ORDERS {
            for jobs in ["1", "6"] {
                export_partly(&registry, &images, &["--no-cache", "-j", jobs], B_ALONE, 2);
            }
        }
    }
}

#[test]
fn an_image_that_states_a_wrong_size_for_a_config_of_another_fails_alone() {
    let registry = three_images();
    let first: Value = serde_json::from_slice(&registry.manifest("a", "1").unwrap()).unwrap();
    let digest = first["config"]["digest"].as_str().unwrap();
    let config = registry.store().blob("a", digest).unwrap().all();
    registry.store().put_blob("b", config);
    edit(&registry, "b", |manifest| {
        manifest["config"] = first["config"].clone();
        manifest["config"]["size"] = json!(first["config"]["size"].as_u64().unwrap() + 5);
    });
    for images in ORDERS {
        for jobs in ["1", "6"] {
            export_partly(&registry, &images, &["--no-cache", "-j", jobs], B_ALONE, 2);
        }
    }
}

#[test]
fn images_that_are_all_wrong_fail_and_the_others_do_not() {
    let registry = one_wrong(5);
    edit(&registry, "a", |manifest| manifest["layers"][0]["size"] = json!(17));
    export_partly(&registry, &ORDERS[0], &[], &["2 of 3 images failed"], 1);
}

#[test]
fn where_a_registry_withholds_the_blob_all_images_that_name_it_fail() {
    let registry = one_wrong(5);
    let digest = sha256(&noise(1, 20_000));
    registry.add_fault(When::path(&digest), Action::error(404, "BLOB_UNKNOWN", "blob unknown"));
    export_partly(&registry, &ORDERS[0], &[], &["2 of 3 images failed"], 1);
}

#[test]
fn a_manifest_that_indexes_list_with_different_sizes_fails_only_where_that_is_wrong() {
    let registry = Double::new();
    put_image(&registry, "a", "1", &[noise(1, 700)]);
    let child = registry.manifest("a", "1").unwrap();
    let entry = |off: usize| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": sha256(&child),
            "size": child.len() + off,
            "platform": {"os": "linux", "architecture": "amd64"},
        })
    };
    for (tag, off) in [("right", 0), ("wrong", 3)] {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry(off)],
        });
        let media_type = "application/vnd.oci.image.index.v1+json";
        registry
            .store()
            .put_manifest("a", Some(tag), media_type, index.to_string().into());
    }
    for images in [["a:right", "a:wrong"], ["a:wrong", "a:right"]] {
        export_partly(&registry, &images, &[], &["1 of 2 images failed"], 1);
    }
}

#[test]
fn in_one_step_only_the_image_that_states_a_wrong_size_stays_away() {
    for off in [5, -5] {
        let (registry, target) = (one_wrong(off), Double::new());
        for images in ORDERS {
            let images: Vec<String> = images
                .iter()
                .map(|name| format!("{}/{name}", registry.host()))
                .collect();
            let mut arguments = vec!["-d".to_owned(), target.host()];
            arguments.extend(images);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            cli()
                .run(&arguments)
                .expect_code(1)
                .says(&["1 of 3 images failed", "/b:1"]);
            assert!(target.manifest("a", "1").is_some() && target.manifest("c", "1").is_some());
            assert!(target.manifest("b", "1").is_none());
        }
    }
}

#[test]
fn an_image_that_lists_a_manifest_of_another_as_a_layer_of_a_wrong_size_fails_alone() {
    let registry = three_images();
    let manifest = registry.manifest("a", "1").unwrap();
    let digest = registry.store().put_blob("b", manifest);
    edit(&registry, "b", |manifest| {
        manifest["layers"][0]["digest"] = json!(digest);
        manifest["layers"][0]["size"] = json!(7);
    });
    for images in ORDERS {
        export_partly(&registry, &images, &[], B_ALONE, 2);
    }
}

/// `a` and `c` are right; the other images state impossible sizes. Returns the names of all images.
fn absurd() -> (Double, Vec<String>) {
    let registry = Double::new();
    put_image(&registry, "a", "1", &[noise(1, 700)]);
    put_image(&registry, "c", "1", &[noise(3, 900)]);
    let mut names = vec!["a:1".to_owned()];
    let sizes = [10_000_000_000_000, 1 << 60, i64::MAX as u64, u64::MAX];
    for (number, size) in sizes.into_iter().enumerate() {
        for (kind, pointers) in [
            ("config", &["/config/size"][..]),
            ("layer", &["/layers/0/size"]),
            ("layers", &["/layers/0/size", "/layers/1/size"]),
        ] {
            let repository = format!("{kind}{number}");
            let layers = [noise(10 + number as u64, 700), noise(20 + number as u64, 700)];
            put_image(&registry, &repository, "1", &layers);
            edit(&registry, &repository, |manifest| {
                for pointer in pointers {
                    *manifest.pointer_mut(pointer).unwrap() = json!(size);
                }
            });
            names.push(format!("{repository}:1"));
        }
    }
    names.push("c:1".to_owned());
    (registry, names)
}

#[test]
fn images_of_impossible_sizes_fail_alone() {
    let (registry, names) = absurd();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let export = Export::new(&registry, &names);
    for output in ["x.tar", "x.tar.gz", "-"] {
        let done = export.run(output, &["--allow-partial"]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(6), "{said}");
        assert!(said.contains("12 of 14 images failed"), "{output}: {said}");
        if output == "-" {
            std::fs::write(export.path("x.pipe.tar"), &done.stdout).unwrap();
        }
        match output {
            "x.tar.gz" => assert!(export.path(output).exists(), "{said}"),
            "-" => assert_eq!(check(&export.path("x.pipe.tar")), 2, "{said}"),
            _ => assert_eq!(check(&export.path(output)), 2, "{said}"),
        }
        let said = export.fails(&format!("y{output}"), &[], 1);
        assert!(said.contains("12 of 14 images cannot be resolved"), "{output}: {said}");
    }
    let done = export.run("z.tar", &["--allow-partial", "--dry-run"]);
    let said = text(&done);
    assert_eq!(done.status.code(), Some(6), "{said}");
    assert!(
        said.contains("12 of 14 images failed; the bundle would be made without them"),
        "{said}"
    );
    // In one step the others arrive all the same.
    let target = Double::new();
    let images = names.iter().map(|name| format!("{}/{name}", registry.host()));
    let arguments: Vec<String> = ["-d".to_owned(), target.host()].into_iter().chain(images).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = cli().run(&arguments).expect_code(1);
    said.says(&["12 of 14 images failed"]);
    assert!(target.manifest("a", "1").is_some() && target.manifest("c", "1").is_some());
}

#[test]
fn a_registry_that_confirms_a_size_beyond_the_whole_disk_loses_that_image_alone() {
    let registry = Double::new();
    put_image(&registry, "a", "1", &[noise(1, 700)]);
    let layers = put_image(&registry, "b", "1", &[noise(2, 700)]);
    edit(&registry, "b", |manifest| {
        manifest["layers"][0]["size"] = json!(1u64 << 46)
    });
    let blob = || When::path(&layers[0]);
    registry.add_fault(blob(), Action::ContentLength((1 << 46) - 700));
    registry.add_fault(blob(), Action::Cut(600, End::Stall));
    let export = Export::new(&registry, &["a:1", "b:1"]);
    for output in ["x.tar", "x.tar.gz"] {
        let done = export.run(output, &["--allow-partial", "--retries", "0"]);
        let said = text(&done);
        assert!(said.contains("1 of 2 images failed"), "{said}");
        assert!(said.contains("/b:1: the image has 64.0 TiB"), "{said}");
        assert!(export.path(output).exists(), "{said}");
    }
    // Where it is the only one, there is nothing else to export.
    let said = Export::new(&registry, &["b:1"]).fails("x.tar", &["--allow-partial"], 1);
    assert!(said.contains("the bundle ") && said.contains("hint: "), "{said}");
}
