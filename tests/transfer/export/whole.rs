//! Exports that nothing disturbs.

use super::tools::{Export, blob_bytes_sent, check, noise, put_image, text};
use crate::support::fault::{Action, When};
use crate::support::{Double, Options};

const MIB: usize = 1 << 20;

#[test]
fn same_images_same_bytes_in_any_order() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 3 * MIB), noise(2, 1000)]);
    put_image(&registry, "b/b", "1", &[noise(2, 1000), noise(3, 2 * MIB)]);
    let one = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let other = Export::new(&registry, &["b/b:1", "a/a:1", "b/b:1"]);
    let bytes = one.bundle("b.tar", &[]);
    assert!(
        bytes == other.bundle("c.tar", &["-j", "1"]),
        "two exports of the same images differ"
    );
    assert_eq!(check(&one.path("b.tar")), 2);
}

#[test]
fn one_line_per_image_on_stdout() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 1000)]);
    let export = Export::new(&registry, &["a/a:1"]);
    let done = export.run("b.tar", &[]);
    let stdout = String::from_utf8(done.stdout.clone()).unwrap();
    let expected = format!("{}/a/a:1@sha256:", registry.host());
    assert_eq!(stdout.lines().count(), 1, "{}", text(&done));
    assert!(stdout.starts_with(&expected), "{stdout}");
}

#[test]
fn a_blob_that_several_images_name_is_fetched_once() {
    let registry = Double::new();
    let shared = noise(1, MIB);
    for name in ["a/a", "b/b", "c/c"] {
        put_image(&registry, name, "1", &[shared.clone(), noise(name.len() as u64, 500)]);
    }
    Export::new(&registry, &["a/a:1", "b/b:1", "c/c:1"]).bundle("b.tar", &[]);
    let digest = crate::support::sha256(&shared);
    assert_eq!(
        registry.count("GET", &format!("/blobs/{digest}")),
        1,
        "{}",
        registry.transcript()
    );
}

#[test]
fn a_blob_that_one_repository_refuses_comes_from_the_next() {
    let shared = noise(1, 100_000);
    let registry = Double::start(Options::default().fault(
        When::get("/v2/a/a/blobs/").and(&crate::support::sha256(&shared)),
        Action::error(404, "BLOB_UNKNOWN", "blob unknown"),
    ));
    put_image(&registry, "a/a", "1", std::slice::from_ref(&shared));
    put_image(&registry, "b/b", "1", &[shared]);
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    export.bundle("b.tar", &[]);
    assert_eq!(check(&export.path("b.tar")), 2);
}

#[test]
fn a_huge_layer_comes_over_several_connections() {
    let layer = noise(7, 150 * MIB);
    let registry = Double::new();
    put_image(&registry, "a/a", "1", std::slice::from_ref(&layer));
    let export = Export::new(&registry, &["a/a:1"]);
    export.bundle("b.tar", &[]);
    check(&export.path("b.tar"));
    let digest = crate::support::sha256(&layer);
    let requests = registry.requests_of("GET", &format!("/blobs/{digest}"));
    let ranges = requests.iter().filter(|r| !r.header("range").is_empty()).count();
    assert!(ranges >= 2, "{}", registry.transcript());
    // The requests share the layer and do not fetch it several times: a probe and cut connections cost a little.
    assert!(
        blob_bytes_sent(&registry) < 230 * MIB as u64,
        "{}",
        registry.transcript()
    );
}

#[test]
fn a_huge_layer_without_ranges_still_comes() {
    let layer = noise(7, 100 * MIB);
    let registry = Double::start(Options::default().fault(When::get("/blobs/"), Action::IgnoreRange));
    put_image(&registry, "a/a", "1", std::slice::from_ref(&layer));
    let export = Export::new(&registry, &["a/a:1"]);
    export.bundle("b.tar", &[]);
    check(&export.path("b.tar"));
}

#[test]
fn empty_blobs_and_odd_sizes() {
    let registry = Double::new();
    let layers: Vec<Vec<u8>> = [0, 1, 511, 512, 513].iter().map(|n| noise(*n as u64, *n)).collect();
    put_image(&registry, "a/a", "1", &layers);
    let export = Export::new(&registry, &["a/a:1"]);
    export.bundle("b.tar", &[]);
    assert_eq!(check(&export.path("b.tar")), 1);
}

#[test]
fn an_earlier_bundle_saves_the_network() {
    let registry = Double::new();
    let base = noise(1, 4 * MIB);
    put_image(&registry, "a/a", "1", std::slice::from_ref(&base));
    put_image(&registry, "a/a", "2", &[base.clone(), noise(2, MIB)]);
    let old = Export::new(&registry, &["a/a:1"]);
    old.bundle("old.tar", &[]);
    let plain = Export::new(&registry, &["a/a:2"]).bundle("b.tar", &[]);
    registry.forget_requests();
    let old_path = old.path("old.tar");
    let new = Export::new(&registry, &["a/a:2"]);
    let bytes = new.bundle("b.tar", &["--reuse", old_path.to_str().unwrap()]);
    assert!(bytes == plain, "a bundle with reused blobs differs");
    assert_eq!(
        registry.count("GET", &crate::support::sha256(&base)),
        0,
        "{}",
        registry.transcript()
    );

    // A byte changed in the old bundle: found, and fetched instead.
    let mut damaged = std::fs::read(&old_path).unwrap();
    let at = damaged.len() - MIB;
    damaged[at] ^= 1;
    std::fs::write(&old_path, damaged).unwrap();
    let again = Export::new(&registry, &["a/a:2"]);
    let bytes = again.bundle("b.tar", &["--reuse", old_path.to_str().unwrap()]);
    assert!(bytes == plain, "a damaged old bundle got into the new one");
}

#[test]
fn compressed_bundles_have_the_same_content() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, MIB)]);
    let export = Export::new(&registry, &["a/a:1"]);
    let plain = export.bundle("b.tar", &[]);
    let mut unpacked = Vec::new();
    let gzip = export.bundle("b.tar.gz", &[]);
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(gzip.as_slice()), &mut unpacked).unwrap();
    assert!(unpacked == plain, "gzip changes the bundle");
    let zstd = export.bundle("b.tar.zst", &[]);
    assert!(
        zstd::decode_all(zstd.as_slice()).unwrap() == plain,
        "zstd changes the bundle"
    );
    assert!(
        zstd == export.bundle("c.tar", &["--zstd"]),
        "the flag and the name differ"
    );
}

#[test]
fn manifests_are_fetched_once_however_many_images_share_them() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 1000)]);
    let manifest = registry.manifest("a/a", "1").unwrap();
    registry
        .store()
        .put_manifest("a/a", Some("2"), "application/vnd.oci.image.manifest.v1+json", manifest);
    Export::new(&registry, &["a/a:1", "a/a:2"]).bundle("b.tar", &[]);
    assert!(registry.count("GET", "/manifests/") <= 2, "{}", registry.transcript());
}
