//! Archives for tests, built byte by byte: a tar writer that can also break the rules of the format, and image layouts.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use docker_mirror::{
    Bundle, Digest, Error, OpenOptions, Result,
    testing::{
        BundledImage,
        media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST},
    },
};
use serde_json::{Value, json};

/// A header block. `kind` is the type flag.
pub fn header(name: &[u8], size: u64, kind: u8, link: &[u8]) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(100)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(156, &[kind]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    checksum(&mut block);
    block
}

/// Writes the checksum that fits.
pub fn checksum(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A tar under construction.
#[derive(Debug, Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn body(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, bytes: &[u8]) -> Self {
        let this = if name.len() > 100 { self.long_name(name) } else { self };
        this.raw(&header(name.as_bytes(), bytes.len() as u64, b'0', b""))
            .body(bytes)
    }

    pub fn long_name(self, name: &str) -> Self {
        let mut body = name.as_bytes().to_vec();
        body.push(0);
        let mut block = header(b"././@LongLink", body.len() as u64, b'L', b"");
        block[257..265].copy_from_slice(b"ustar  \0");
        checksum(&mut block);
        self.raw(&block).body(&body)
    }

    pub fn pax(self, kind: u8, records: &[(&str, &str)]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            writeln!(body, "{length} {key}={value}").unwrap();
        }
        self.raw(&header(b"PaxHeaders/x", body.len() as u64, kind, b""))
            .body(&body)
    }

    pub fn directory(self, name: &str) -> Self {
        let this = if name.len() > 100 { self.long_name(name) } else { self };
        this.raw(&header(name.as_bytes(), 0, b'5', b""))
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(&header(name.as_bytes(), 0, b'2', target.as_bytes()))
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(&header(name.as_bytes(), 0, b'1', target.as_bytes()))
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// A descriptor as JSON.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(bytes).to_string(), "size": bytes.len()})
}

/// The same with more fields.
pub fn with(mut value: Value, more: Value) -> Value {
    for (key, field) in more.as_object().unwrap() {
        value[key] = field.clone();
    }
    value
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An OCI image layout under construction.
#[derive(Debug, Clone)]
pub struct Layout {
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub entries: Vec<Value>,
    pub files: Vec<(String, Vec<u8>)>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            blobs: BTreeMap::new(),
            entries: Vec::new(),
            files: vec![("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())],
        }
    }
}

impl Layout {
    pub fn blob(&mut self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    /// Adds a document and gives its descriptor.
    pub fn document(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = serde_json::to_vec(document).unwrap();
        let descriptor = descriptor(media_type, &bytes);
        self.blob(bytes);
        descriptor
    }

    /// Adds an image of one layer and gives its manifest's descriptor.
    pub fn image(&mut self, architecture: &str, content: &[u8], compress: bool) -> Value {
        let plain = Tar::default().file("hello.txt", content).end();
        let diff_id = Digest::sha256(&plain).to_string();
        let (layer, media_type) = match compress {
            true => (gzip(&plain), OCI_LAYER_GZIP),
            false => (plain, OCI_LAYER),
        };
        let layer_descriptor = descriptor(media_type, &layer);
        self.blob(layer);
        let config = self.document(
            OCI_CONFIG,
            &json!({"architecture": architecture, "os": "linux", "config": {},
                "rootfs": {"type": "layers", "diff_ids": [diff_id]}}),
        );
        let manifest = self.document(
            OCI_MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer_descriptor]}),
        );
        with(
            manifest,
            json!({"platform": {"os": "linux", "architecture": architecture}}),
        )
    }

    /// Adds an index and gives its descriptor.
    pub fn index(&mut self, entries: &[Value]) -> Value {
        self.document(
            OCI_INDEX,
            &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}),
        )
    }

    /// Lists a descriptor under a full name.
    pub fn name(&mut self, descriptor: Value, name: &str) {
        self.entries.push(named(descriptor, name));
    }

    pub fn index_json(&self) -> Vec<u8> {
        serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.entries})).unwrap()
    }

    /// The layout's files but for the blobs.
    pub fn head(&self) -> Tar {
        let mut tar = Tar::default();
        for (name, bytes) in &self.files {
            tar = tar.file(name, bytes);
        }
        tar = tar.file("index.json", &self.index_json());
        let has_record = self.files.iter().any(|(name, _)| name == "docker-mirror.json");
        match OURS.get() && !has_record {
            true => tar.file("docker-mirror.json", &self.record()),
            false => tar,
        }
    }

    pub fn tar(&self) -> Tar {
        let mut blobs: Vec<_> = self.blobs.iter().collect();
        if OURS.get() {
            let rank = self.ranks();
            blobs.sort_by_key(|(digest, _)| rank.get(*digest).copied().unwrap_or(2));
        }
        let add = |tar: Tar, (digest, bytes): (&Digest, &Vec<u8>)| tar.file(&path(digest), bytes);
        blobs.into_iter().fold(self.head(), add)
    }

    /// What this program would write down of the images.
    fn record(&self) -> Vec<u8> {
        let name = |entry: &Value| {
            let names = &entry["annotations"];
            let name = &names["io.containerd.image.name"];
            name.as_str()
                .or(names["org.opencontainers.image.ref.name"].as_str())
                .map(str::to_owned)
        };
        let image = |entry: &Value| {
            Some(
                json!({"reference": name(entry)?, "index": "whole", "original": entry["digest"],
                "kept": [{"platform": "linux/amd64", "digest": entry["digest"]}]}),
            )
        };
        let images: Vec<Value> = self.entries.iter().filter_map(image).collect();
        serde_json::to_vec(&json!({"formatVersion": 1, "images": images})).unwrap()
    }

    /// 0 for manifests, 1 for configs.
    fn ranks(&self) -> BTreeMap<Digest, u8> {
        let mut ranks = BTreeMap::new();
        let found = |value: &Value| value["digest"].as_str().and_then(|text| text.parse::<Digest>().ok());
        let mut manifests: Vec<Digest> = self.entries.iter().filter_map(found).collect();
        while let Some(manifest) = manifests.pop() {
            if ranks.insert(manifest.clone(), 0) == Some(0) {
                continue;
            }
            let bytes = self.blobs.get(&manifest).map(Vec::as_slice).unwrap_or_default();
            let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
            manifests.extend(document["manifests"].as_array().into_iter().flatten().filter_map(found));
            if let Some(config) = found(&document["config"]) {
                ranks.entry(config).or_insert(1);
            }
        }
        ranks
    }
}

thread_local! {
    static OURS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `write` with layouts in the order of this program: with a record, and manifests before configs before layers.
pub fn as_ours<T>(write: impl FnOnce() -> T) -> T {
    OURS.set(true);
    let written = write();
    OURS.set(false);
    written
}

/// A descriptor of `index.json` under a full name.
pub fn named(descriptor: Value, name: &str) -> Value {
    with(
        descriptor,
        json!({"annotations": {"org.opencontainers.image.ref.name": name}}),
    )
}

/// The member name of a blob.
pub fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

pub fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

/// One image of one platform under this name, with this in its layer.
pub fn single(name: &str, content: &str) -> Layout {
    let mut layout = Layout::default();
    let image = layout.image("amd64", content.as_bytes(), true);
    layout.name(image, name);
    layout
}

/// Returns a layout with one named image of two platforms, and the descriptor of its index.
pub fn two_platforms() -> (Layout, Value) {
    let mut layout = Layout::default();
    let amd64 = layout.image("amd64", b"hello amd64\n", true);
    let arm64 = layout.image("arm64", b"hello arm64\n", false);
    let index = layout.index(&[amd64, arm64]);
    layout.name(index.clone(), "quay.io/test/two:1");
    (layout, index)
}

/// A file in a temporary directory that goes when this is dropped.
#[derive(Debug)]
pub struct Saved {
    pub directory: tempfile::TempDir,
    pub path: PathBuf,
}

pub fn save(name: &str, bytes: &[u8]) -> Saved {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Saved { directory, path }
}

pub fn options(name: Option<&str>) -> OpenOptions {
    OpenOptions {
        names: name.map(|name| name.parse().unwrap()).into_iter().collect(),
        temp_dir: Some(std::env::temp_dir()),
        ..OpenOptions::default()
    }
}

pub fn open(path: &Path, name: Option<&str>) -> Result<Bundle> {
    Bundle::open(&[path.to_owned()], &options(name))
}

/// Opens a tar in each way: from a file, plain and compressed; from a pipe; and unpacked to a folder.
pub fn each_way(tar: &[u8], name: Option<&str>, look: impl Fn(&str, Result<Bundle>)) {
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(tar).unpack(folder.path().join("unpacked")).unwrap();
    std::fs::write(folder.path().join("plain.tar"), tar).unwrap();
    std::fs::write(folder.path().join("gzip.tar"), gzip(tar)).unwrap();
    std::fs::write(folder.path().join("zstd.tar"), zstd::encode_all(tar, 1).unwrap()).unwrap();
    for way in ["plain.tar", "gzip.tar", "zstd.tar", "unpacked"] {
        look(way, open(&folder.path().join(way), name));
    }
    let pipe = std::io::Cursor::new(tar.to_vec());
    look(
        "pipe",
        Bundle::from_pipe(pipe, "pipe", &options(name)).map(|(bundle, _)| bundle),
    );
}

/// Builds every tree, compares every blob with its digest, and returns `NAME@DIGEST` of every image, sorted by name.
pub fn whole(bundle: Result<Bundle>) -> Vec<String> {
    let bundle = bundle.unwrap();
    check(&bundle).unwrap();
    let images = bundle.images().iter();
    let mut images: Vec<String> = images.map(|i| format!("{}@{}", i.name, i.root.digest)).collect();
    images.sort();
    images
}

pub fn open_bytes(bytes: &[u8]) -> Result<Bundle> {
    let saved = save("bundle.tar", bytes);
    open(&saved.path, None)
}

/// Builds every tree and reads every blob, as an import does before and during its uploads.
pub fn check(bundle: &Bundle) -> Result<()> {
    for image in bundle.images() {
        let tree = bundle.tree(image)?;
        for blob in tree.blobs() {
            bundle.verify_blob(&blob.descriptor.digest)?;
        }
    }
    Ok(())
}

pub fn check_bytes(bytes: &[u8]) -> Result<()> {
    let saved = save("bundle.tar", bytes);
    check(&open(&saved.path, None)?)
}

pub fn image<'a>(bundle: &'a Bundle, name: &str) -> &'a BundledImage {
    let found = bundle.images().iter().find(|image| image.name.to_string() == name);
    found.unwrap_or_else(|| panic!("no {name} in {bundle:?}"))
}

/// The message, its causes and the hint.
pub fn text(error: &Error) -> String {
    format!("{} | {}", error.full(), error.hint().unwrap_or_default())
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/archives")
        .join(name)
}
