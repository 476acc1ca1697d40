//! Archives that are broken, or made to harm: each has a name, a generator, and what must come of it.
//!
//! Nothing may panic, nothing wrong may pass, and a message names the file, the member and, for a fault of the tar itself,
//! the offset.

mod content_faults;
mod files;
mod folders;
mod image_faults;
mod imported;
mod listing_faults;
mod random_damage;
mod tar_faults;

use crate::archives::*;
use docker_mirror::bundle::read::Bundle;
use docker_mirror::error::Result;
use docker_mirror::image::digest::Digest;
use docker_mirror::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use serde_json::{Value, json};

/// What must come of an archive.
enum Expect {
    /// It is not opened; the message holds all of these.
    Open(&'static [&'static str]),
    /// It is opened, and a tree is refused.
    Tree(&'static [&'static str]),
    /// Trees are given out, and a blob turns out wrong when it is read.
    Blob(&'static [&'static str]),
    /// Trees are given out, blobs are right, and the import refuses it before anything is sent.
    Refused(&'static [&'static str]),
    /// It is read, with a warning that holds this.
    Warning(&'static str),
    /// It is read without a word.
    Fine,
}
use Expect::{Blob, Fine, Open, Refused, Tree, Warning};

type Case = (&'static str, fn() -> Vec<u8>, Expect);

/// A good layout with one image of one platform.
fn good() -> Layout {
    let mut layout = Layout::default();
    let image = layout.image("amd64", b"hello\n", true);
    layout.name(image, "quay.io/test/one:1");
    layout
}

/// A good archive with something behind its last member.
fn with_member(add: impl Fn(Tar) -> Tar) -> Vec<u8> {
    add(good().tar()).end()
}

/// A header that is changed before its checksum is made.
fn patched(name: &str, size: u64, kind: u8, patch: impl Fn(&mut [u8; 512])) -> [u8; 512] {
    let mut block = header(name.as_bytes(), size, kind, b"");
    patch(&mut block);
    checksum(&mut block);
    block
}

/// A layout with one image whose manifest is this document; `$config`, `$layer` stand for good descriptors.
fn manifest(edit: impl Fn(&mut Value)) -> Vec<u8> {
    let mut layout = Layout::default();
    let config = layout.document(OCI_CONFIG, &json!({"os": "linux", "architecture": "amd64"}));
    let layer = Tar::default().file("x", b"x").end();
    let layer_descriptor = descriptor(OCI_LAYER, &layer);
    layout.blob(layer);
    let mut document =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer_descriptor]});
    edit(&mut document);
    let manifest = layout.document(OCI_MANIFEST, &document);
    layout.name(manifest, "quay.io/test/one:1");
    layout.tar().end()
}

/// A layout with one image whose manifest is these bytes.
fn raw_manifest(media_type: &str, bytes: &[u8]) -> Vec<u8> {
    let mut layout = Layout::default();
    let entry = descriptor(media_type, bytes);
    layout.blob(bytes);
    layout.name(entry, "quay.io/test/one:1");
    layout.tar().end()
}

/// The good layout with a config of these bytes.
fn config(bytes: &[u8]) -> Vec<u8> {
    let mut layout = Layout::default();
    layout.blob(bytes);
    let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, bytes), "layers": []});
    let entry = layout.document(OCI_MANIFEST, &document);
    layout.name(entry, "quay.io/test/one:1");
    layout.tar().end()
}

/// A docker-archive of one layer; `edit` changes `manifest.json` and the config, `links` adds members.
fn docker(edit: impl Fn(&mut Value, &mut Value), links: impl Fn(Tar) -> Tar) -> Vec<u8> {
    let layer = Tar::default().file("x", b"x").end();
    let mut config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer).to_string()]}});
    let mut items = json!([{"Config": "config.json", "RepoTags": ["quay.io/test/one:1"], "Layers": ["a/layer.tar"]}]);
    edit(&mut items, &mut config);
    let tar = Tar::default()
        .file("config.json", &serde_json::to_vec(&config).unwrap())
        .file("a/layer.tar", &layer);
    links(tar)
        .file("manifest.json", &serde_json::to_vec(&items).unwrap())
        .end()
}

fn nothing(tar: Tar) -> Tar {
    tar
}

/// Indexes in indexes.
fn nested(depth: usize, width: usize) -> Vec<u8> {
    let mut layout = Layout::default();
    let mut entry = layout.image("amd64", b"deep\n", true);
    for _ in 0..depth {
        let entries = vec![entry; width];
        entry = layout.index(&entries);
    }
    layout.name(entry, "quay.io/test/one:1");
    layout.tar().end()
}

fn first_blob(layout: &Layout, is: impl Fn(&[u8]) -> bool) -> Digest {
    layout.blobs.iter().find(|(_, bytes)| is(bytes)).unwrap().0.clone()
}

/// The good layout in which one blob's bytes are others.
fn swapped(is: impl Fn(&[u8]) -> bool, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut layout = good();
    let digest = first_blob(&layout, is);
    change(layout.blobs.get_mut(&digest).unwrap());
    layout.tar().end()
}

fn is_layer(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

fn is_manifest(bytes: &[u8]) -> bool {
    let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
    document["layers"].is_array()
}

fn flip(bytes: &mut [u8]) {
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
}

fn unmarked() -> Vec<u8> {
    good().tar().0
}

fn big_index(entries: usize) -> Vec<u8> {
    let entry = descriptor(OCI_MANIFEST, b"x");
    let list = vec![entry; entries];
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list})).unwrap()
}

fn run(cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for (name, generate, expect) in cases {
        let saved = save("bundle.tar", &generate());
        let opened = open(&saved.path, None);
        let error = match (&expect, opened) {
            (Open(parts), Err(e)) => has(&text(&e), parts),
            (Open(_), Ok(bundle)) => Some(format!("was opened: {bundle:?} {:?}", bundle.warnings())),
            (_, Err(e)) => Some(format!("was not opened: {}", text(&e))),
            (Tree(parts), Ok(bundle)) => match trees(&bundle) {
                Ok(()) => Some("gave trees".to_owned()),
                Err(e) => has(&text(&e), parts),
            },
            (Blob(parts), Ok(bundle)) => match trees(&bundle).and_then(|()| check(&bundle)) {
                Ok(()) => Some("was read".to_owned()),
                Err(e) if trees(&bundle).is_err() => Some(format!("gave no trees: {}", text(&e))),
                Err(e) => has(&text(&e), parts),
            },
            (Warning(part), Ok(bundle)) => match check(&bundle) {
                Err(e) => Some(format!("was refused: {}", text(&e))),
                Ok(()) => has(&bundle.warnings().join("; "), &[part]),
            },
            (Fine | Refused(_), Ok(bundle)) => match check(&bundle) {
                Err(e) => Some(format!("was refused: {}", text(&e))),
                Ok(()) if !bundle.warnings().is_empty() => Some(format!("warned: {:?}", bundle.warnings())),
                Ok(()) => None,
            },
        };
        if let Some(error) = error {
            wrong.push(format!("{name}: {error}"));
        }
        wrong.extend(imported::faults(name, generate, &expect));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn has(text: &str, parts: &[&str]) -> Option<String> {
    let all = parts.iter().all(|part| text.contains(part)) && !text.contains('\u{1b}');
    (!all).then(|| format!("said: {text}"))
}

fn trees(bundle: &Bundle) -> Result<()> {
    bundle
        .images()
        .iter()
        .try_for_each(|image| bundle.tree(image).map(drop))
}

#[test]
fn faults_of_the_tar() {
    run(tar_faults::cases());
}

#[test]
fn faults_of_the_listing() {
    run(listing_faults::cases());
}

#[test]
fn faults_of_the_content() {
    run(content_faults::cases());
}

#[test]
fn odd_images() {
    run(image_faults::cases());
    // Deeper than the registry of the tests reads.
    check_bytes(&image_faults::deep_json(100_000)).unwrap();
}

#[test]
fn sizes_that_cannot_be_summed_up_are_refused_before_the_layers_of_a_pipe_come() {
    let ran = imported::once(&as_ours(image_faults::endless), imported::From::Pipe);
    let said = ran.said().unwrap();
    assert!(said.contains("sum up to an impossible number"), "{said}");
    assert!(ran.registry.requests().is_empty(), "{}", ran.registry.transcript());
}

#[test]
fn addresses_in_an_archive_are_never_asked() {
    const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let content = save("layer", b"not to be read");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let urls = [
        format!("file://{}", content.path.display()),
        format!("http://{}/layer", listener.local_addr().unwrap()),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ];
    for (media_type, whole) in [(FOREIGN, true), (OCI_LAYER, false)] {
        let (archive, layer) = image_faults::elsewhere(media_type, b"not to be read", &urls);
        for from in [imported::From::File, imported::From::Pipe] {
            let ran = imported::once(&archive, from);
            assert_eq!(ran.said().is_none(), whole, "{:?}", ran.said());
            assert_eq!(ran.tags().is_empty(), !whole);
            assert!(ran.registry.store().content(&layer.to_string()).is_none());
            if whole {
                let report = ran.result.unwrap();
                assert_eq!(report.images[0].left_out[0].digest, layer, "{report:?}");
            } else {
                assert!(ran.said().unwrap().contains(&layer.to_string()));
                assert_eq!(ran.changes(), 0);
            }
        }
    }
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn every_case_that_a_table_lists_is_there() {
    let all = [
        tar_faults::cases(),
        listing_faults::cases(),
        content_faults::cases(),
        image_faults::cases(),
    ];
    let names: Vec<&str> = all.iter().flatten().map(|case| case.0).collect();
    imported::check_tables(&names);
}
