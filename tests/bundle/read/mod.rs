//! Reading sound bundles: in every form of packing, with every kind of content.

mod any_tar;
mod attached;
mod documents;
mod doubtful;
mod inside;
mod linked;
mod members;
mod packed;
mod record;
mod unlisted;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::archives;
use crate::archives::{
    Layout, Tar, check, checksum, descriptor, digest, gzip, header, image, named, open, open_bytes, options, path,
    save, text, two_platforms, with,
};
use docker_mirror::{
    Bundle, Choice, Digest, Kind, OpenOptions, Progress,
    testing::{
        Algorithm, Hasher,
        media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST},
    },
};
use serde_json::json;

const TWO: &str = "quay.io/test/two:1";

fn is_shared<T: Send + Sync + 'static>(_: &T) {}

fn digests(bundle: &Bundle, name: &str) -> Vec<String> {
    let tree = bundle.tree(image(bundle, name)).unwrap();
    let manifests = tree.manifests().into_iter().map(|m| m.digest().to_string());
    let blobs = tree.blobs().into_iter().map(|b| b.descriptor.digest.to_string());
    manifests.chain(blobs).collect()
}

#[test]
fn a_tree_has_children_before_parents_and_every_blob() {
    let (layout, index) = two_platforms();
    let bytes = layout.tar().end();
    let saved = save("bundle.tar", &bytes);
    let bundle = open(&saved.path, None).unwrap();
    is_shared(&bundle);
    assert!(bundle.warnings().is_empty(), "{:?}", bundle.warnings());
    let tree = bundle.tree(image(&bundle, TWO)).unwrap();
    assert_eq!(*tree.original.root.digest(), digest(&index));
    assert_eq!(
        (tree.choice, tree.original.below.len(), tree.blobs().len()),
        (Choice::Whole, 2, 4)
    );
    assert_eq!(tree.blobs().iter().filter(|b| b.is_config).count(), 2);
    assert_eq!(tree.configs.len(), 2);
    let labels: Vec<&str> = tree.kept.iter().map(|p| p.platform.as_str()).collect();
    assert_eq!(labels, ["linux/amd64", "linux/arm64"]);
    for blob in tree.blobs() {
        let digest = &blob.descriptor.digest;
        let expected = &layout.blobs[digest];
        assert_eq!(bundle.size_of(digest), Some(expected.len() as u64));
        let mut buffer = vec![0; expected.len() + 10];
        assert_eq!(bundle.read_at(digest, 0, &mut buffer).unwrap(), expected.len());
        assert_eq!(buffer[..expected.len()], expected[..]);
        let end = expected.len() as u64;
        assert_eq!(bundle.read_at(digest, end - 3, &mut buffer).unwrap(), 3);
        assert_eq!(buffer[..3], expected[expected.len() - 3..]);
        assert_eq!(bundle.read_at(digest, end, &mut buffer).unwrap(), 0);
        assert_eq!(bundle.read_at(digest, u64::MAX, &mut buffer).unwrap(), 0);
        let at = bytes.windows(expected.len()).position(|w| w == expected).unwrap();
        let place = bundle.describe(digest);
        assert!(place.contains("bundle.tar"), "{place}");
        assert!(place.contains(&format!("`{}` at offset {at}", path(digest))), "{place}");
    }
    let unknown = Digest::sha256(b"unknown");
    assert_eq!(bundle.size_of(&unknown), None);
    assert_eq!(bundle.verify_blob(&unknown).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(
        bundle.read_at(&unknown, 0, &mut [0]).unwrap_err().kind(),
        Kind::NotFound
    );
}

#[test]
fn a_directory_and_any_packing_read_the_same() {
    let (layout, _) = two_platforms();
    let tar = layout.tar().end();
    let expected = digests(&open_bytes(&tar).unwrap(), TWO);

    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
    for (name, bytes) in &layout.files {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    std::fs::write(directory.path().join("index.json"), layout.index_json()).unwrap();
    for (digest, bytes) in &layout.blobs {
        std::fs::write(directory.path().join(path(digest)), bytes).unwrap();
    }
    let bundle = open(directory.path(), None).unwrap();
    check(&bundle).unwrap();
    assert_eq!(digests(&bundle, TWO), expected);
    assert!(bundle.warnings().is_empty());

    let zstd = zstd::encode_all(tar.as_slice(), 1).unwrap();
    let mut padded = tar.clone();
    padded.resize(padded.len().next_multiple_of(10240), 0);
    for (name, bytes) in [
        ("a.tar.gz", gzip(&tar)),
        ("a.tar", gzip(&padded)),
        ("a.tar.zst", zstd.clone()),
        ("a.gz", zstd),
        ("two.gz", [gzip(&tar[..1000]), gzip(&tar[1000..])].concat()),
    ] {
        let saved = save(name, &bytes);
        let (options, told) = listening(&std::env::temp_dir());
        let bundle = Bundle::open(std::slice::from_ref(&saved.path), &options).unwrap();
        check(&bundle).unwrap();
        assert_eq!(digests(&bundle, TWO), expected, "{name}");
        assert!(bundle.warnings().is_empty());
        let told = told.lock().unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains("is copied to a temporary file") && told[0].contains(name),
            "{told:?}"
        );
        assert!(
            bundle
                .describe(&Digest::sha256(&layout.blobs[layout.blobs.keys().next().unwrap()]))
                .contains(name)
        );
        let error = Bundle::open(std::slice::from_ref(&saved.path), &OpenOptions::default()).unwrap_err();
        assert!(text(&error).contains("compressed"), "{}", text(&error));
    }
    let mut trailing = gzip(&[&tar[..], b"garbage"].concat());
    let bundle = open_bytes(&trailing).unwrap();
    assert!(
        bundle.warnings().iter().any(|w| w.contains("after the end")),
        "{:?}",
        bundle.warnings()
    );
    trailing.extend_from_slice(b"garbage");
    assert!(open_bytes(&trailing).is_err());
}

/// A reader that returns a varying number of bytes, and is interrupted now and then.
struct Drip<'a>(&'a [u8], usize);

impl std::io::Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(5) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let count = (self.1 * 37 % 700 + 1).min(self.0.len()).min(buffer.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

/// Returns options with a folder for temporary files, and the messages that opening a bundle with them emits.
fn listening(folder: &Path) -> (OpenOptions, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let options = OpenOptions {
        temp_dir: Some(folder.to_owned()),
        progress: Progress::new(move |event| listener.lock().unwrap().push(format!("{event:?}"))),
        ..OpenOptions::default()
    };
    (options, told)
}

#[test]
fn a_pipe_is_spooled() {
    let (layout, _) = two_platforms();
    let tar = layout.tar().end();
    let expected = digests(&open_bytes(&tar).unwrap(), TWO);
    let directory = tempfile::tempdir().unwrap();
    let (options, told) = listening(directory.path());
    for bytes in [&tar, &gzip(&tar)] {
        let bundle = Bundle::from_reader(Drip(bytes, 0), "-", &options).unwrap();
        check(&bundle).unwrap();
        assert_eq!(digests(&bundle, TWO), expected);
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert!(told.len() == 1 && told[0].contains("from a pipe"), "{told:?}");
        // The copy has no name, so that nothing stays behind even after a kill.
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
    let error = Bundle::from_reader(Drip(&tar[..tar.len() / 2], 0), "-", &options).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    let error = Bundle::from_reader(&b""[..], "-", &options).unwrap_err();
    assert!(text(&error).contains("`-` is empty"), "{}", text(&error));
    assert!(Bundle::from_reader(Drip(&tar, 0), "-", &OpenOptions::default()).is_err());
}

#[test]
fn a_named_pipe_is_read_once() {
    let (layout, _) = two_platforms();
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, layout.tar().end()).unwrap()
    });
    let bundle = open(&pipe, None).unwrap();
    writer.join().unwrap();
    check(&bundle).unwrap();
}

/// Returns a bundle of this program without linux/arm64, and the digests of the original and of the filtered index.
fn filtered(choice: &str) -> (Layout, Digest, Digest, Digest) {
    let mut layout = Layout::default();
    let amd64 = layout.image("amd64", b"hello amd64\n", true);
    let mut elsewhere = Layout::default();
    let arm64 = elsewhere.image("arm64", b"hello arm64\n", true);
    let original = layout.index(&[amd64.clone(), arm64.clone()]);
    let smaller = layout.index(std::slice::from_ref(&amd64));
    layout.name(
        if choice == "sparse" {
            original.clone()
        } else {
            smaller.clone()
        },
        TWO,
    );
    let record = json!({"formatVersion": 1, "images": [{"reference": TWO, "index": choice,
        "original": original["digest"], "filtered": smaller["digest"],
        "kept": [{"platform": "linux/amd64", "digest": amd64["digest"]}],
        "dropped": [{"platform": "linux/arm64", "digest": arm64["digest"]}]}],
        "missing": [{"reference": "quay.io/test/gone:1", "reason": "not found"}]});
    layout
        .files
        .push(("docker-mirror.json".into(), serde_json::to_vec(&record).unwrap()));
    (layout, digest(&original), digest(&smaller), digest(&arm64))
}

#[test]
fn dropped_platforms_are_recorded() {
    for (choice, expected) in [("filtered", Choice::Filtered), ("sparse", Choice::Sparse)] {
        let (layout, original, smaller, arm64) = filtered(choice);
        let bundle = open_bytes(&layout.tar().end()).unwrap();
        check(&bundle).unwrap();
        assert!(bundle.warnings().is_empty(), "{:?}", bundle.warnings());
        assert_eq!(bundle.missing()[0].reference, "quay.io/test/gone:1");
        let tree = bundle.tree(image(&bundle, TWO)).unwrap();
        assert_eq!(tree.choice, expected);
        assert_eq!(*tree.original.root.digest(), original);
        assert_eq!(*tree.filtered.as_ref().unwrap().root.digest(), smaller);
        assert_eq!(
            (tree.original.below.len(), tree.filtered.as_ref().unwrap().below.len()),
            (1, 1)
        );
        assert_eq!(tree.dropped[0].digest, arm64);
        assert_eq!(tree.dropped[0].platform, "linux/arm64");
        assert_eq!(tree.kept.len(), 1);
    }
}

#[test]
fn what_was_dropped_stays_so_where_another_image_has_it() {
    let (mut layout, _, _, arm64) = filtered("filtered");
    let other = layout.image("arm64", b"hello arm64\n", true);
    assert_eq!(digest(&other), arm64);
    layout.name(other, "quay.io/test/arm:1");
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    let tree = bundle.tree(image(&bundle, TWO)).unwrap();
    assert_eq!(tree.original.below.len(), 1);
    // The record does not know the second image, which is told.
    assert!(
        bundle.warnings()[0].contains("does not list `quay.io/test/arm:1`"),
        "{:?}",
        bundle.warnings()
    );
}

#[test]
fn a_record_excuses_only_what_it_lists() {
    // The original index, which is not listed under the name, has to be there.
    let (mut layout, original, ..) = filtered("filtered");
    layout.blobs.remove(&original);
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    let error = bundle.tree(image(&bundle, TWO)).unwrap_err();
    assert!(text(&error).contains("1 blob is missing"), "{}", text(&error));
    // The filtered index is made again from the original one.
    let (mut layout, _, smaller, _) = filtered("sparse");
    layout.blobs.remove(&smaller);
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    let tree = bundle.tree(image(&bundle, TWO)).unwrap();
    assert_eq!(tree.filtered.unwrap().root.digest().to_string(), smaller.to_string());
    let (mut layout, ..) = filtered("filtered");
    let record = String::from_utf8(layout.files.pop().unwrap().1).unwrap();
    let record = record.replace("\"dropped\"", "\"ignored\"");
    layout.files.push(("docker-mirror.json".into(), record.into_bytes()));
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    let error = bundle.tree(image(&bundle, TWO)).unwrap_err();
    assert!(text(&error).contains("1 blob is missing"), "{}", text(&error));
}

#[test]
fn layers_that_may_not_be_distributed_may_be_absent() {
    let mut layout = Layout::default();
    let config = layout.document(OCI_CONFIG, &json!({"os": "windows", "architecture": "amd64"}));
    let foreign = descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"base");
    let own = descriptor(OCI_LAYER, b"own");
    layout.blob(&b"own"[..]);
    let document = json!({"schemaVersion": 2, "config": config, "layers": [foreign, own]});
    let manifest = layout.document(OCI_MANIFEST, &document);
    layout.name(manifest, TWO);
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    let tree = bundle.tree(image(&bundle, TWO)).unwrap();
    assert_eq!(tree.left_out.len(), 1);
    assert_eq!(tree.left_out[0].digest, Digest::sha256(b"base"));
    assert_eq!(tree.blobs().len(), 2);
    layout.blob(&b"base"[..]);
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    let tree = bundle.tree(image(&bundle, TWO)).unwrap();
    assert_eq!((tree.left_out.len(), tree.blobs().len()), (0, 3));
}

#[test]
fn referrers_without_a_name_are_kept_aside() {
    let (mut layout, index) = two_platforms();
    let signature = |layout: &mut Layout, text: &str, subject: bool| {
        let empty = layout.document("application/vnd.oci.empty.v1+json", &json!({}));
        let layer = descriptor("application/vnd.example.signature", text.as_bytes());
        layout.blob(text.as_bytes());
        let mut document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": empty, "layers": [layer]});
        if subject {
            document["subject"] = json!({"mediaType": OCI_INDEX, "digest": index["digest"], "size": index["size"]});
        }
        layout.document(OCI_MANIFEST, &document)
    };
    let by_annotation = signature(&mut layout, "one", false);
    layout.entries.push(with(
        by_annotation.clone(),
        json!({"annotations": {"io.containerd.manifest.subject": index["digest"]}}),
    ));
    let by_field = signature(&mut layout, "two", true);
    layout.entries.push(by_field.clone());
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    assert_eq!(bundle.images().len(), 1);
    let found: Vec<&Digest> = bundle.referrers().iter().map(|r| &r.root.digest).collect();
    assert_eq!(found, [&digest(&by_annotation), &digest(&by_field)]);
    for referrer in bundle.referrers() {
        assert_eq!(referrer.subject, digest(&index));
        let variant = bundle.referrer_tree(referrer).unwrap();
        assert_eq!(*variant.root.digest(), referrer.root.digest);
    }
    layout.blobs.remove(&Digest::sha256(b"two"));
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    bundle.referrer_tree(&bundle.referrers()[0]).unwrap();
    let error = bundle.referrer_tree(&bundle.referrers()[1]).unwrap_err();
    assert!(text(&error).contains("1 blob is missing"), "{}", text(&error));
}

#[test]
fn bundles_share_their_blobs() {
    let (layout, _) = two_platforms();
    let mut first = layout.clone();
    let mut second = layout.clone();
    // Every blob but the root is in one of the two only.
    for (i, digest) in layout.blobs.keys().enumerate() {
        if *digest != archives::digest(&layout.entries[0]) {
            [&mut first, &mut second][i % 2].blobs.remove(digest);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["a.tar", "b.tar"]
        .iter()
        .map(|name| directory.path().join(name))
        .collect();
    std::fs::write(&paths[0], first.tar().end()).unwrap();
    std::fs::write(&paths[1], second.tar().end()).unwrap();
    let alone = open(&paths[0], None).unwrap();
    assert!(alone.tree(&alone.images()[0]).is_err());
    let bundle = Bundle::open(&paths, &options(None)).unwrap();
    check(&bundle).unwrap();
    assert_eq!(bundle.images().len(), 1);
    // The same bundle found in a folder, and a file that is named twice.
    check(&open(directory.path(), None).unwrap()).unwrap();
    let twice = Bundle::open(&[paths[0].clone(), paths[1].clone(), paths[0].clone()], &options(None)).unwrap();
    check(&twice).unwrap();

    // If two bundles disagree about the size of a blob, the right one is used.
    for order in [[0, 1], [1, 0]] {
        let mut broken = layout.clone();
        let (_, bytes) = broken.blobs.iter_mut().next().unwrap();
        bytes.push(0);
        std::fs::write(&paths[order[0]], broken.tar().end()).unwrap();
        std::fs::write(&paths[order[1]], layout.tar().end()).unwrap();
        check(&Bundle::open(&paths, &options(None)).unwrap()).unwrap();
    }

    // One name with two digests.
    let mut other = Layout::default();
    let another = other.image("amd64", b"another\n", true);
    other.name(another, TWO);
    std::fs::write(&paths[0], other.tar().end()).unwrap();
    std::fs::write(&paths[1], layout.tar().end()).unwrap();
    let error = Bundle::open(&paths, &options(None)).unwrap_err();
    assert!(
        text(&error).contains("a.tar") && text(&error).contains("b.tar"),
        "{}",
        text(&error)
    );
}

#[test]
fn members_above_8_gib_are_read_by_offset() {
    const SIZE: u64 = 9 << 30;
    // Hashing nine gigabytes of zeros would take too long for a test; only the position of the bytes matters here.
    let big: Digest = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
    let (layout, _) = two_platforms();
    for pax in [false, true] {
        let mut block = header(path(&big).as_bytes(), 0, b'0', b"");
        let mut tar = Tar::default();
        if pax {
            tar = tar.pax(b'x', &[("size", &SIZE.to_string())]);
        } else {
            block[124..136].fill(0);
            block[124] = 0x80;
            block[128..136].copy_from_slice(&SIZE.to_be_bytes());
            checksum(&mut block);
        }
        let front = tar.raw(&block).0;
        let back = layout.tar().end();
        let saved = save("bundle.tar", &front);
        let file = File::options().write(true).open(&saved.path).unwrap();
        let start = front.len() as u64;
        file.write_all_at(b"first", start).unwrap();
        file.write_all_at(b"last", start + SIZE - 4).unwrap();
        file.write_all_at(&back, start + SIZE).unwrap();
        let bundle = open(&saved.path, None).unwrap();
        check(&bundle).unwrap();
        assert_eq!(bundle.size_of(&big), Some(SIZE));
        let mut buffer = [0; 10];
        assert_eq!(bundle.read_at(&big, 0, &mut buffer).unwrap(), 10);
        assert_eq!(&buffer[..6], b"first\0");
        assert_eq!(bundle.read_at(&big, SIZE - 4, &mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"last");
    }
}

#[test]
fn sha512_blobs_have_long_names() {
    let content = b"a layer under another algorithm";
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(content);
    let layer = hasher.finish();
    let mut layout = Layout::default();
    let config = layout.document(OCI_CONFIG, &json!({"os": "linux", "architecture": "amd64"}));
    let layers = json!([{"mediaType": OCI_LAYER, "digest": layer.to_string(), "size": content.len()}]);
    let manifest = layout.document(
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "config": config, "layers": layers}),
    );
    layout.name(manifest, "quay.io/test/long:1");
    let gnu = layout.tar().file(&path(&layer), content).end();
    let pax = layout
        .tar()
        .pax(b'x', &[("path", &path(&layer))])
        .file("short", content)
        .end();
    for bytes in [gnu, pax] {
        let bundle = open_bytes(&bytes).unwrap();
        check(&bundle).unwrap();
        assert_eq!(bundle.size_of(&layer), Some(content.len() as u64));
    }
}

#[test]
fn a_name_without_need_is_refused() {
    let (layout, index) = two_platforms();
    let saved = save("bundle.tar", &layout.tar().end());
    let error = open(&saved.path, Some("quay.io/own/name:1")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    for part in ["--name quay.io/own/name:1", "has no effect", TWO, "--map"] {
        assert!(text(&error).contains(part), "{part} in {}", text(&error));
    }
    let bundle = open(&saved.path, Some(TWO)).unwrap();
    assert_eq!(bundle.images()[0].name.to_string(), TWO);
    // A digest that has a name is not listed again for an entry without one.
    let mut layout = layout;
    layout.entries.push(index);
    let bundle = open_bytes(&layout.tar().end()).unwrap();
    assert_eq!(bundle.images().len(), 1);
    // Two names for one image are two images.
    let again = named(layout.entries[1].clone(), "quay.io/test/two:2");
    layout.entries.push(again);
    assert_eq!(open_bytes(&layout.tar().end()).unwrap().images().len(), 2);
}
