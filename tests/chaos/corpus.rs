//! The images of the chaos test: some megabytes of indexes and single manifests, with OCI and Docker media types and
//! shared blobs.

use std::sync::OnceLock;

use super::support::http::Client;
use super::support::image::{Image, Layer, Style, attestation, index, platform, single};

/// Repository, tag and image.
pub(crate) type Named = (&'static str, &'static str, Image);

pub(crate) fn images() -> &'static [Named] {
    static IMAGES: OnceLock<Vec<Named>> = OnceLock::new();
    IMAGES.get_or_init(make)
}

fn make() -> Vec<Named> {
    let base = Layer::noise(1, 600_000);
    let on = |style, os: &str, seed: u64, size: usize| {
        single(style, &platform(os), &[base.clone(), Layer::noise(seed, size)], &["/x"])
    };
    let amd64 = on(Style::Oci, "linux/amd64", 10, 900_000);
    let arm64 = on(Style::Oci, "linux/arm64/v8", 11, 200_000);
    let windows = on(Style::Oci, "windows/amd64", 12, 100_000);
    let about = attestation(&amd64);
    let filtered = index(Style::Oci, &[amd64.clone().into(), windows.into(), arm64.into(), about]);
    let whole = index(
        Style::Docker,
        &[
            on(Style::Docker, "linux/amd64", 20, 70_000).into(),
            on(Style::Docker, "linux/s390x", 21, 1_500).into(),
        ],
    );
    let large = single(
        Style::Oci,
        &platform("linux/amd64"),
        &[Layer::noise(30, 2_600_000), base.clone(), Layer::noise(31, 40)],
        &["/x"],
    );
    vec![
        ("library/alpha", "1", filtered),
        ("library/beta", "2.0", whole),
        ("team/gamma", "latest", large),
        ("team/delta", "x", amd64),
    ]
}

pub(crate) fn push(client: &Client) {
    for (repository, tag, image) in images() {
        client.push(image, repository, tag);
    }
}
