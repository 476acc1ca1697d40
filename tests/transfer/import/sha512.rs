//! Manifests with SHA-512 digests, at registries with and without support for these digests.

use super::archives::Layout;
use super::handmade::assert_complete;
use super::identity::{cli, import};
use super::support::Double;
use super::support::fault::{Action, When};
use docker_mirror::{
    Digest,
    testing::{Algorithm, Hasher},
};

/// Returns a layout whose image has a SHA-512 digest and this name, and both digests of its root.
fn layout(name: impl Fn(&Digest) -> String) -> (Vec<u8>, Digest, Digest) {
    let mut layout = Layout::default();
    let mut image = layout.image("amd64", b"x", true);
    let short = super::archives::digest(&image);
    let bytes = layout.blobs.remove(&short).unwrap();
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&bytes);
    let long = hasher.finish();
    layout.blobs.insert(long.clone(), bytes);
    image["digest"] = long.to_string().into();
    layout.name(image, &name(&long));
    (layout.tar().end(), short, long)
}

#[test]
fn a_manifest_by_sha512_is_no_altered_one() {
    let (cli, registry) = (cli(), Double::new());
    let (tar, _, long) = layout(|long| format!("quay.io/test/x:1@{long}"));
    for run in ["first", "second"] {
        let output = import(&cli, "file", &tar, &registry, &[]).expect_code(0);
        assert_eq!(
            output.lines(),
            [format!("{}/test/x:1@{long}", registry.host())],
            "{run}"
        );
        assert_complete(&registry, "test/x", "1", false);
        assert!(registry.manifest("test/x", &long.to_string()).is_some());
    }
    // The tag points to the same manifest, whichever digest the registry states for it.
    import(&cli, "file", &tar, &registry, &["--on-existing", "error"]).expect_code(0);
}

#[test]
fn a_registry_that_does_not_know_sha512_has_the_manifest_by_another_digest() {
    let cli = cli();
    for (pinned, code) in [(false, 0), (true, 1)] {
        let registry = Double::new();
        registry.add_fault(
            When::put("/manifests/sha512:"),
            Action::error(400, "DIGEST_INVALID", "unsupported digest algorithm"),
        );
        let (tar, short, long) = layout(|long| match pinned {
            true => format!("quay.io/test/x:1@{long}"),
            false => "quay.io/test/x:1".to_owned(),
        });
        for _ in 0..2 {
            let output = import(&cli, "file", &tar, &registry, &[])
                .expect_code(code)
                .says(&["keeps the manifest by SHA-256 alone", &long.to_string()]);
            assert_eq!(output.lines(), [format!("{}/test/x:1@{short}", registry.host())]);
            assert_eq!(output.stderr.contains("under their pinned digest"), pinned);
            assert_complete(&registry, "test/x", "1", false);
        }
    }
}
