//! Ready-made images of every kind that a registry may hold.

use serde_json::{Value, json};

use super::image::{Entry, Image, Layer, Style, attestation, index, platform, single, with_config};

/// Returns the fixture in `fixtures/greeting`: eight linux platforms, two windows platforms, and an attestation for each.
pub fn greeting() -> Image {
    let recipe: Value = serde_json::from_str(include_str!("../../fixtures/greeting/image.json")).unwrap();
    let program: &[u8] = include_bytes!("../../fixtures/greeting/greeting");
    let base: Vec<(&str, &[u8])> = recipe["base"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str().unwrap().as_bytes()))
        .collect();
    let base = Layer::files(&base);
    let name = recipe["program"].as_str().unwrap();
    let mut entries: Vec<Entry> = Vec::new();
    for platform in recipe["platforms"].as_array().unwrap() {
        let text = format!("the fixture for {platform}\n");
        let layers = match (
            platform["os"].as_str().unwrap(),
            platform["architecture"].as_str().unwrap(),
        ) {
            ("linux", "amd64") => vec![base.clone(), Layer::files(&[(name, program)])],
            ("linux", _) => vec![base.clone(), Layer::files(&[(name, text.as_bytes())])],
            _ => vec![Layer::files(&[("Files/greeting.txt", text.as_bytes())])],
        };
        entries.push(single(Style::Oci, platform, &layers, &[&format!("/{name}")]).into());
    }
    let attestations: Vec<Entry> = entries.iter().map(|entry| attestation(&entry.image)).collect();
    entries.extend(attestations);
    index(Style::Oci, &entries)
}

/// Returns a small image for one platform.
pub fn small(style: Style, on: &str, text: &str) -> Image {
    single(
        style,
        &platform(on),
        &[Layer::files(&[("text", text.as_bytes())])],
        &["/text"],
    )
}

/// Returns an index with a small image for each platform.
pub fn multi(style: Style, platforms: &[&str], text: &str) -> Image {
    let entries: Vec<Entry> = platforms
        .iter()
        .map(|on| small(style, on, &format!("{text} on {on}")).into())
        .collect();
    index(style, &entries)
}

/// Returns an index with two linux platforms and one windows platform, the smallest index that a filter changes.
pub fn linux_and_windows(style: Style) -> Image {
    multi(style, &["linux/amd64", "linux/arm64/v8", "windows/amd64"], "small")
}

/// Returns an index with two windows platforms.
pub fn windows_only() -> Image {
    multi(Style::Oci, &["windows/amd64", "windows/arm64"], "windows")
}

/// Returns a Helm chart: a manifest whose config is not the config of a container image.
pub fn helm_chart() -> Image {
    let config = json!({"name": "chart", "version": "0.1.0", "apiVersion": "v2"}).to_string();
    let mut layer = Layer::files(&[("chart/Chart.yaml", b"name: chart\n")]);
    layer.media_type = Some("application/vnd.cncf.helm.chart.content.v1.tar+gzip".to_owned());
    with_config(
        Style::Oci,
        "application/vnd.cncf.helm.config.v1+json",
        config.into(),
        &[layer],
    )
}

/// Returns an index with three entries: an index of linux and windows, an index of windows only, and an image.
pub fn nested() -> Image {
    let inner = index(
        Style::Oci,
        &[
            small(Style::Oci, "linux/amd64", "inner").into(),
            small(Style::Oci, "windows/amd64", "inner").into(),
        ],
    );
    let entries = [
        Entry::from(inner),
        Entry::from(windows_only()),
        Entry::from(small(Style::Oci, "linux/arm64/v8", "outer")),
    ];
    index(Style::Oci, &entries)
}

/// Returns an index whose entries state no platform, so that only the configs state it.
pub fn without_platforms() -> Image {
    let mut entries: Vec<Entry> = ["linux/amd64", "windows/amd64"]
        .map(|on| small(Style::Oci, on, "unstated").into())
        .into();
    for entry in &mut entries {
        entry.platform = Value::Null;
    }
    index(Style::Oci, &entries)
}

/// Returns `count` images that share one large layer and have one small layer of their own.
pub fn shared_base(count: u64, base_size: usize) -> Vec<Image> {
    let base = Layer::noise(1, base_size);
    let make = |n| {
        single(
            Style::Oci,
            &platform("linux/amd64"),
            &[base.clone(), Layer::noise(1000 + n, 3000)],
            &["/x"],
        )
    };
    (0..count).map(make).collect()
}

/// Returns an image with incompressible layers of these sizes.
pub fn sized(seed: u64, on: &str, sizes: &[usize]) -> Image {
    let layers: Vec<Layer> = sizes
        .iter()
        .enumerate()
        .map(|(i, size)| Layer::noise(seed * 1000 + i as u64, *size))
        .collect();
    single(Style::Oci, &platform(on), &layers, &["/x"])
}

/// Returns an image with a non-distributable layer, which the registry does not have.
pub fn with_foreign_layer() -> Image {
    with_foreign_layer_at("https://example.com/layer")
}

/// Returns an image with a non-distributable layer at this URL, which the registry does not have.
pub fn with_foreign_layer_at(url: &str) -> Image {
    let foreign = Layer::noise(7, 500).foreign("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", url);
    let digest = super::store::sha256(&foreign.bytes);
    let mut image = single(
        Style::Docker,
        &platform("linux/amd64"),
        &[foreign, Layer::noise(8, 600)],
        &["/x"],
    );
    image.blobs.remove(&digest);
    image
}

/// Returns a Docker schema 1 manifest, which cannot be carried unchanged.
pub fn schema1() -> Image {
    let manifest = json!({
        "schemaVersion": 1, "name": "old", "tag": "1", "architecture": "amd64", "fsLayers": [], "history": [],
        "signatures": [],
    });
    let mut image = small(Style::Docker, "linux/amd64", "old");
    image.root = super::image::Document::new(
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        manifest.to_string(),
    );
    image.blobs.clear();
    image
}
