//! `docker-mirror.json` beside `index.json`: what they say of each other.

use std::io::Cursor;

use docker_mirror::{Bundle, Kind, Result, testing::MAX_SIZE};
use serde_json::{Value, json};

use super::archives::{Layout, as_ours, check, digest, gzip, open_bytes, options, text};

/// Returns a bundle that lists images under the first names in `index.json`, and under the second names in the record.
fn bundle(names: &[(&str, Option<&str>)], missing: Value) -> Result<Bundle> {
    let mut layout = Layout::default();
    let mut records = Vec::new();
    for (n, (listed, recorded)) in names.iter().enumerate() {
        let image = layout.image("amd64", &[n as u8], true);
        let mut entry = image.clone();
        entry["annotations"] = json!({"io.containerd.image.name": listed, "org.opencontainers.image.ref.name": listed});
        layout.entries.push(entry);
        if let Some(recorded) = recorded {
            let platform = json!([{"platform": "linux/amd64", "digest": digest(&image).to_string()}]);
            records.push(
                json!({"reference": recorded, "index": "whole", "original": digest(&image).to_string(),
                "kept": platform}),
            );
        }
    }
    if !records.is_empty() {
        let record = json!({"formatVersion": 1, "images": records, "missing": missing});
        layout
            .files
            .push(("docker-mirror.json".into(), record.to_string().into_bytes()));
    }
    open_bytes(&layout.tar().end())
}

#[test]
fn a_name_on_which_the_two_disagree_is_refused() {
    let good = [
        ("quay.io/a/b:1", Some("quay.io/a/b:1")),
        ("quay.io/a/c:1", Some("quay.io/a/c:1")),
    ];
    assert!(bundle(&good, json!([])).unwrap().warnings().is_empty());
    for (listed, recorded) in [("quay.io/a/c:1", "quay.io/a/b:1"), ("quay.io/a/b:1", "quay.io/a/c:1")] {
        let error = bundle(&[(listed, Some(recorded)), good[1]], json!([])).err();
        let error = match error {
            Some(error) => error,
            None => bundle(&[(listed, Some(recorded))], json!([])).unwrap_err(),
        };
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(text(&error).contains(listed), "{}", text(&error));
    }
    let error = bundle(&[("quay.io/a/x:1", Some("quay.io/a/b:1"))], json!([])).unwrap_err();
    for part in [
        "quay.io/a/x:1",
        "quay.io/a/b:1",
        "index.json",
        "docker-mirror.json",
        "copy it again",
    ] {
        assert!(text(&error).contains(part), "{part} in {}", text(&error));
    }
}

#[test]
fn an_image_that_was_added_is_told_and_a_record_that_is_gone_too() {
    let names = [("quay.io/a/b:1", Some("quay.io/a/b:1")), ("quay.io/a/c:1", None)];
    let added = bundle(&names, json!([])).unwrap();
    check(&added).unwrap();
    assert!(
        added.warnings()[0].contains("does not list `quay.io/a/c:1`"),
        "{:?}",
        added.warnings()
    );

    let bare = bundle(&[("quay.io/a/b:1", None)], json!([])).unwrap();
    check(&bare).unwrap();
    assert!(
        bare.warnings()[0].contains("has no `docker-mirror.json`"),
        "{:?}",
        bare.warnings()
    );
}

#[test]
fn images_that_are_missing_are_known() {
    let missing = json!([{"reference": "quay.io/a/gone:1", "reason": "not found"}]);
    let bundle = bundle(&[("quay.io/a/b:1", Some("quay.io/a/b:1"))], missing).unwrap();
    check(&bundle).unwrap();
    assert_eq!(bundle.missing()[0].reference, "quay.io/a/gone:1");
}

#[test]
fn the_record_may_have_as_much_in_a_pipe_as_in_a_file() {
    let mut layout = Layout::default();
    let image = layout.image("amd64", b"x", true);
    layout.name(image.clone(), "quay.io/a/b:1");
    let record = json!({"formatVersion": 1, "images": [{"reference": "quay.io/a/b:1", "index": "whole",
        "original": image["digest"], "kept": []}]});
    for (size, accepted) in [(MAX_SIZE, true), (MAX_SIZE + 1, false)] {
        let mut padded = record.to_string().into_bytes();
        padded.resize(size as usize, b' ');
        layout.files.truncate(1);
        layout.files.push(("docker-mirror.json".into(), padded));
        let tar = as_ours(|| layout.tar().end());
        let from_file = open_bytes(&tar).map(|bundle| check(&bundle));
        let from_pipe = Bundle::from_pipe(Cursor::new(tar), "pipe", &options(None));
        for (way, outcome) in [("file", from_file.map(drop)), ("pipe", from_pipe.map(drop))] {
            match outcome {
                Ok(()) => assert!(accepted, "{way}"),
                Err(error) => {
                    assert!(!accepted, "{way}: {}", text(&error));
                    assert!(
                        text(&error).contains(&format!("at most {MAX_SIZE} are accepted")),
                        "{}",
                        text(&error)
                    );
                }
            }
        }
    }
}

#[test]
fn a_bundle_that_was_cut_off_is_told_to_be() {
    let mut layout = Layout::default();
    let image = layout.image("amd64", b"x", true);
    layout.name(image, "quay.io/a/b:1");
    let tar = as_ours(|| layout.tar().end());
    for cut in (1..tar.len() - 1024).step_by(256) {
        for packed in [tar[..cut].to_vec(), cut_inside(&tar, cut)] {
            let said = match open_bytes(&packed) {
                Ok(bundle) => bundle.warnings().join("; "),
                Err(error) => text(&error),
            };
            assert!(said.contains("truncated"), "{cut}: {said}");
        }
    }
}

/// Returns a compressed archive that is cut off after this much of its content.
fn cut_inside(tar: &[u8], content: usize) -> Vec<u8> {
    let whole = gzip(tar);
    whole[..(whole.len() - 8) * content / tar.len() + 1].to_vec()
}
