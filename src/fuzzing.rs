//! Entry points of the fuzz targets in `fuzz/`: one function per parser of input from outside.
//!
//! Each function checks the properties that hold for any input. This module is compiled for the fuzz targets and for
//! tests alone; a test replays the kept inputs without a fuzzer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::bundle::read::{Bundle, OpenOptions};
use crate::image::config::Config;
use crate::image::destination::Destination;
use crate::image::digest::Digest;
use crate::image::filter::{EntryAction, rewrite};
use crate::image::manifest::{Entry, RawManifest, View};
use crate::image::media_type;
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::image::select::{Graph, Need, SelectResult, select};

pub use crate::registry::fuzzing::{challenge, content_range, link};

/// Image references and destinations: the text form of a parsed value parses to the same value.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(destination) = text.parse::<Destination>() {
        let source: Reference = "quay.io/a/b:1".parse().expect("a good name");
        // A name that is too long is rejected. A host without a dot is a host only at the start of a destination, so its
        // text form does not parse to the same reference.
        if let Ok(place) = destination.place(&source, &Digest::sha256(b"")) {
            assert_eq!(place.host(), destination.host());
            if place.host().contains(['.', ':']) {
                assert_eq!(place.to_string().parse::<Reference>().ok(), Some(place));
            }
        }
    }
    let Ok(found) = text.parse::<Reference>() else { return };
    let shown = found.to_string();
    assert_eq!(
        shown.parse::<Reference>().ok().as_ref(),
        Some(&found),
        "{text:?} {shown:?}"
    );
    assert!(found.name().len() <= 255 && found.tag().is_none_or(|tag| tag.len() <= 128));
    assert!(
        shown.bytes().all(|b| b.is_ascii_graphic()),
        "a name that can drive a terminal: {shown:?}"
    );
    assert!(
        !found
            .repository()
            .split('/')
            .any(|part| part.is_empty() || part == "..")
    );
}

/// Manifests, indexes and image configs, and the removal of platforms from an index.
///
/// The first byte of the input picks the declared media type.
pub fn manifest(data: &[u8]) {
    let Some((first, text)) = data.split_first() else {
        return;
    };
    let _ = Config::parse(text);
    let declared = match first % 4 {
        0 => None,
        1 => Some(media_type::OCI_INDEX),
        2 => Some(media_type::OCI_MANIFEST),
        _ => Some("text/plain; charset=utf-8"),
    };
    let Ok(manifest) = RawManifest::new(Bytes::copy_from_slice(text), declared, None).map(Arc::new) else {
        return;
    };
    assert_eq!(manifest.bytes(), text, "bytes are kept as they came");
    assert_eq!(*manifest.digest(), Digest::sha256(text));
    for blob in manifest.blobs() {
        assert!(i64::try_from(blob.size).is_ok(), "a size that no registry can store");
    }
    let View::Index(index) = manifest.view() else { return };
    let only = PlatformFilter::from_flags(&["linux/amd64,linux/arm/v7"]).expect("good patterns");
    for filter in [PlatformFilter::Linux, PlatformFilter::All, only] {
        let wanted = |entry: &Entry| entry.platform.as_ref().is_none_or(|platform| filter.matches(platform));
        let keep: Vec<bool> = index.entries.iter().map(wanted).collect();
        for replaced in [None, keep.iter().position(|kept| *kept)] {
            filtered(&manifest, &keep, replaced);
        }
        select_without_children(manifest.clone(), &filter);
    }
}

/// Checks that the selection of platforms ends,
/// even if an index lists manifests that do not exist.
fn select_without_children(root: Arc<RawManifest>, filter: &PlatformFilter) {
    let mut graph = Graph::default();
    while let Ok(SelectResult::Needs(needs)) = select(&graph, &root, filter) {
        assert!(!needs.is_empty(), "an outcome without a selection states what it needs");
        for need in needs {
            match need {
                Need::Manifest(descriptor) => graph.set_absent(descriptor.digest),
                Need::Platform { manifest, .. } => graph.set_platform(manifest, None),
            }
        }
    }
}

/// Checks that a rewritten index lists exactly the kept entries, in the original order.
fn filtered(manifest: &RawManifest, keep: &[bool], replaced: Option<usize>) {
    let View::Index(index) = manifest.view() else { return };
    let mut expected = Vec::new();
    let mut actions = Vec::new();
    for (i, (entry, kept)) in index.entries.iter().zip(keep).enumerate() {
        let mut descriptor = entry.descriptor.clone();
        actions.push(if !kept {
            EntryAction::Drop
        } else if replaced == Some(i) {
            descriptor.digest = Digest::sha256(b"other");
            descriptor.size = 5;
            EntryAction::Replace(descriptor.clone())
        } else {
            EntryAction::Keep
        });
        if *kept {
            expected.push((descriptor, entry.platform.clone(), entry.annotations.clone()));
        }
    }
    let bytes = rewrite(manifest.bytes(), &actions).expect("an index that was read can be written");
    let again = RawManifest::new(bytes.into(), Some(manifest.media_type()), None).expect("and can be read again");
    assert_eq!(again.media_type(), manifest.media_type());
    let View::Index(again) = again.view() else {
        panic!("an index stays an index")
    };
    let found: Vec<_> = again
        .entries
        .iter()
        .map(|entry| {
            (
                entry.descriptor.clone(),
                entry.platform.clone(),
                entry.annotations.clone(),
            )
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(again.subject, index.subject);
}

/// Archives: bundles of this program and foreign tar files.
///
/// Each input is read unchanged, and again with corrected header checksums: otherwise a changed header is rejected at its
/// checksum and reaches no further code.
pub fn bundle(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for the archive");
    open(data, folder.path());
    let corrected = with_checksums(data);
    if corrected != data {
        open(&corrected, folder.path());
    }
}

fn open(data: &[u8], folder: &Path) {
    let path: PathBuf = folder.join("input.tar");
    std::fs::write(&path, data).expect("an archive on disk");
    let options = OpenOptions {
        names: vec!["quay.io/given/name:1".parse().expect("a good name")],
        temp_dir: Some(folder.to_owned()),
        // The limit keeps decompression bombs from slowing the fuzzer down.
        max_unpacked: Some(1 << 20),
        ..OpenOptions::default()
    };
    let Ok(bundle) = Bundle::open(&[path], &options) else {
        return;
    };
    assert!(!bundle.images().is_empty(), "a bundle without images is an error");
    for image in bundle.images() {
        let Ok(tree) = bundle.tree(image) else { continue };
        for manifest in tree.manifests() {
            assert_eq!(manifest.digest().same_algorithm(manifest.bytes()), *manifest.digest());
        }
        for blob in tree.blobs() {
            let digest = &blob.descriptor.digest;
            assert_eq!(bundle.size_of(digest), Some(blob.descriptor.size));
            let _ = bundle.verify_blob(digest);
        }
    }
    for referrer in bundle.referrers() {
        let _ = bundle.referrer_tree(referrer);
    }
}

/// Writes the correct checksum into every block that looks like a tar header.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let mut corrected = data.to_vec();
    for block in corrected.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[CHECKSUM].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replays every input in `fuzz/seeds/TARGET`:
    /// valid seeds for a fuzzer, and inputs that once exposed a bug.
    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            assert!(data.len() <= 64 << 10, "{}: seeds are small", path.display());
            if std::panic::catch_unwind(|| run(&data)).is_err() {
                panic!("{} breaks a promise", path.display());
            }
            count += 1;
        }
        assert!(count > 3, "{} has too few inputs", folder.display());
    }

    #[test]
    fn kept_inputs_break_no_promise() {
        replay("reference", reference);
        replay("manifest", manifest);
        replay("bundle", bundle);
        replay("challenge", challenge);
        replay("content_range", content_range);
        replay("link", link);
    }

    #[test]
    fn good_seeds_are_read_to_the_end() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/bundle");
        for name in ["layout.tar", "docker.tar", "layout.tar.gz", "pax.tar"] {
            let temp = tempfile::tempdir().unwrap();
            let options = OpenOptions {
                names: Vec::new(),
                temp_dir: Some(temp.path().to_owned()),
                ..OpenOptions::default()
            };
            let bundle = Bundle::open(&[folder.join(name)], &options).unwrap();
            assert!(!bundle.tree(&bundle.images()[0]).unwrap().blobs().is_empty(), "{name}");
        }
    }
}
