//! Generates images with reproducible bytes, without a registry.

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use super::double::Double;
use super::fault::scatter;
use super::store::sha256;

/// A family of media types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Oci,
    Docker,
}

impl Style {
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    pub fn layer(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// A manifest or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub media_type: String,
    pub bytes: Bytes,
    pub digest: String,
}

impl Document {
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            media_type: media_type.to_owned(),
            digest: sha256(&bytes),
            bytes,
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    /// Returns the descriptor of the document.
    pub fn descriptor(&self) -> Map<String, Value> {
        let mut descriptor = descriptor(&self.media_type, &self.bytes);
        descriptor.insert("digest".to_owned(), self.digest.clone().into());
        descriptor
    }
}

/// An image: a root document, all manifests below the root, and all blobs.
#[derive(Debug, Clone)]
pub struct Image {
    pub root: Document,
    /// Manifests below the root, children before their parents.
    pub below: Vec<Document>,
    /// Blobs by digest.
    pub blobs: BTreeMap<String, Bytes>,
    /// Platform of a single image; null for an index.
    pub platform: Value,
}

/// A layer: its bytes as transferred, and the digest of its tar.
#[derive(Debug, Clone)]
pub struct Layer {
    pub bytes: Bytes,
    pub diff_id: String,
    /// Media type that replaces the default of the image's style.
    pub media_type: Option<String>,
    /// Further fields of the descriptor, such as `urls`.
    pub extra: Map<String, Value>,
}

impl Layer {
    /// Creates a layer from a gzipped tar of these files, all executable.
    pub fn files(files: &[(&str, &[u8])]) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            header.set_mtime(0);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        let tar = builder.into_inner().unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
        gzip.write_all(&tar).unwrap();
        Self {
            bytes: gzip.finish().unwrap().into(),
            diff_id: sha256(&tar),
            media_type: None,
            extra: Map::new(),
        }
    }

    /// Creates a layer of incompressible bytes, which is not a tar; the difference matters only when unpacking.
    pub fn noise(seed: u64, size: usize) -> Self {
        Self::plain(noise(seed, size))
    }

    /// Creates an uncompressed layer from any bytes; whether the bytes are a tar matters only when unpacking.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            diff_id: sha256(&bytes),
            bytes,
            media_type: None,
            extra: Map::new(),
        }
    }

    /// Makes the layer non-distributable: stored at `url` and not in registries (OCI image-spec, "Non-Distributable Layers").
    pub fn foreign(mut self, media_type: &str, url: &str) -> Self {
        self.media_type = Some(media_type.to_owned());
        self.extra.insert("urls".to_owned(), json!([url]));
        self
    }
}

/// Returns incompressible bytes, equal for equal seeds.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 8);
    let mut n = 0;
    while bytes.len() < size {
        bytes.extend_from_slice(&scatter(seed, n).to_le_bytes());
        n += 1;
    }
    bytes.truncate(size);
    bytes
}

/// Returns a descriptor: media type, digest and size.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("mediaType".to_owned(), media_type.into());
    map.insert("digest".to_owned(), sha256(bytes).into());
    map.insert("size".to_owned(), bytes.len().into());
    map
}

/// Returns the platform `os/architecture[/variant]` in the JSON form of an index entry.
pub fn platform(text: &str) -> Value {
    let parts: Vec<&str> = text.split('/').collect();
    let mut platform = json!({"architecture": parts[1], "os": parts[0]});
    if let Some(variant) = parts.get(2) {
        platform["variant"] = (*variant).into();
    }
    platform
}

/// Returns a container image for one platform.
pub fn single(style: Style, platform: &Value, layers: &[Layer], command: &[&str]) -> Image {
    let mut config = json!({
        "architecture": platform["architecture"],
        "os": platform["os"],
        "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": command, "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>()},
        "history": layers.iter().map(|_| json!({"created_by": "fixture"})).collect::<Vec<_>>(),
    });
    for field in ["variant", "os.version"] {
        if !platform[field].is_null() {
            config[field] = platform[field].clone();
        }
    }
    let mut image = with_config(style, style.config(), config.to_string().into(), layers);
    image.platform = platform.clone();
    image
}

/// Returns a manifest with any config and layers.
pub fn with_config(style: Style, config_type: &str, config: Bytes, layers: &[Layer]) -> Image {
    let mut blobs = BTreeMap::new();
    let mut list = Vec::new();
    for layer in layers {
        let mut entry = descriptor(layer.media_type.as_deref().unwrap_or(style.layer()), &layer.bytes);
        entry.extend(layer.extra.clone());
        list.push(entry);
        blobs.insert(sha256(&layer.bytes), layer.bytes.clone());
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": style.manifest(),
        "config": descriptor(config_type, &config),
        "layers": list,
    });
    blobs.insert(sha256(&config), config);
    Image {
        root: Document::new(style.manifest(), serde_json::to_vec_pretty(&manifest).unwrap()),
        below: Vec::new(),
        blobs,
        platform: Value::Null,
    }
}

/// An entry of an index to generate.
#[derive(Debug, Clone)]
pub struct Entry {
    pub image: Image,
    /// Platform of the entry; omitted if null.
    pub platform: Value,
    pub annotations: Value,
}

impl From<Image> for Entry {
    fn from(image: Image) -> Self {
        Self {
            platform: image.platform.clone(),
            image,
            annotations: Value::Null,
        }
    }
}

/// Returns an index of these images. Its white space differs from the output of the tested program.
pub fn index(style: Style, entries: &[Entry]) -> Image {
    let mut below: Vec<Document> = Vec::new();
    let mut blobs = BTreeMap::new();
    let mut list = Vec::new();
    for entry in entries {
        let mut line = entry.image.root.descriptor();
        if !entry.platform.is_null() {
            line.insert("platform".to_owned(), entry.platform.clone());
        }
        if !entry.annotations.is_null() {
            line.insert("annotations".to_owned(), entry.annotations.clone());
        }
        list.push(line);
        for document in entry.image.below.iter().chain([&entry.image.root]) {
            if !below.contains(document) {
                below.push(document.clone());
            }
        }
        blobs.extend(entry.image.blobs.clone());
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": style.index(),
        "manifests": list,
        "x-unknown-field": {"kept": [1.50, "as it is"]},
    });
    Image {
        root: Document::new(style.index(), serde_json::to_vec_pretty(&index).unwrap()),
        below,
        blobs,
        platform: Value::Null,
    }
}

/// Returns an attestation of an image, as BuildKit creates it: a manifest with in-toto statements.
pub fn attestation(subject: &Image) -> Entry {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://slsa.dev/provenance/v0.2",
        "subject": [{"name": "_", "digest": {"sha256": subject.root.digest.trim_start_matches("sha256:")}}],
        "predicate": {},
    });
    let mut layer = Layer::noise(0, 0);
    layer.bytes = statement.to_string().into();
    layer.media_type = Some("application/vnd.in-toto+json".to_owned());
    layer.extra.insert(
        "annotations".to_owned(),
        json!({"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}),
    );
    let config = json!({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [sha256(&layer.bytes)]},
    });
    Entry {
        image: with_config(Style::Oci, Style::Oci.config(), config.to_string().into(), &[layer]),
        platform: json!({"architecture": "unknown", "os": "unknown"}),
        annotations: json!({
            "vnd.docker.reference.digest": subject.root.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        }),
    }
}

impl Image {
    /// Returns the digest of the root.
    pub fn digest(&self) -> &str {
        &self.root.digest
    }

    /// Returns every manifest, children before their parents, the root last.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.below.iter().chain([&self.root])
    }

    /// Stores the image in a registry double, without any checks, and returns the digest of the root.
    pub fn push(&self, registry: &Double, repository: &str, tag: &str) -> String {
        for (digest, bytes) in &self.blobs {
            registry.store().keep(digest, bytes.clone());
        }
        let all: Vec<String> = self.blobs.keys().cloned().collect();
        registry.store().change(repository, |r| r.blobs.extend(all));
        for document in &self.below {
            registry
                .store()
                .put_manifest(repository, None, &document.media_type, document.bytes.clone());
        }
        registry
            .store()
            .put_manifest(repository, Some(tag), &self.root.media_type, self.root.bytes.clone())
    }

    /// Returns the manifests that an index lists for this operating system, and their attestations.
    pub fn documents_of(&self, os: &str) -> Vec<Document> {
        let root = self.root.json();
        let entries = root["manifests"].as_array().cloned().unwrap_or_default();
        let digest = |entry: &Value| entry["digest"].as_str().unwrap_or_default().to_owned();
        let mut wanted: Vec<String> = entries
            .iter()
            .filter(|e| e["platform"]["os"] == os)
            .map(digest)
            .collect();
        let subject = |entry: &Value| {
            entry["annotations"]["vnd.docker.reference.digest"]
                .as_str()
                .map(str::to_owned)
        };
        let about: Vec<String> = entries
            .iter()
            .filter(|e| subject(e).is_some_and(|s| wanted.contains(&s)))
            .map(digest)
            .collect();
        wanted.extend(about);
        self.below
            .iter()
            .filter(|d| wanted.contains(&d.digest))
            .cloned()
            .collect()
    }

    /// Returns the digests of the blobs that these documents name.
    pub fn blobs_of(documents: &[Document]) -> Vec<String> {
        let mut blobs = Vec::new();
        for document in documents {
            let json = document.json();
            let layers = json["layers"].as_array().cloned().unwrap_or_default();
            for blob in json.get("config").into_iter().chain(&layers) {
                let digest = blob["digest"].as_str().unwrap().to_owned();
                if !blobs.contains(&digest) {
                    blobs.push(digest);
                }
            }
        }
        blobs
    }
}
