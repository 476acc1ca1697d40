//! Handmade bundles, sound and broken, and the calls that push them. Each test binary uses only a part of this module.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use docker_mirror::{
    Bundle, OpenOptions, Options, Progress, Registries, Result,
    import::{Selection, import},
    push::{ImageReport, PushReport, PushRequest},
    testing::media_type,
};
use serde_json::{Value, json};

use crate::support::layout::{blob_name, marker, write_members};
pub use crate::support::noise;
use crate::support::{Double, sha256};

/// The digest of a descriptor.
pub fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}

/// An OCI image layout in the making.
#[derive(Default, Clone)]
pub struct Maker {
    blobs: BTreeMap<String, Vec<u8>>,
    entries: Vec<Value>,
    records: Vec<Value>,
    missing: Vec<Value>,
}

impl Maker {
    /// A blob, as a descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        self.blobs.insert(digest.clone(), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// An image for a platform such as `linux/amd64`, as an index lists it.
    pub fn image(&mut self, platform: &str, layers: &[&[u8]]) -> Value {
        let (os, architecture) = platform.split_once('/').unwrap();
        let diff_ids: Vec<String> = layers.iter().map(|l| sha256(l)).collect();
        let config =
            json!({"os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.blob(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let layers: Vec<Value> = layers.iter().map(|l| self.blob(media_type::OCI_LAYER, l)).collect();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers});
        let mut descriptor = self.blob(media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({"os": os, "architecture": architecture});
        descriptor
    }

    /// An index of these.
    pub fn index(&mut self, children: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": children});
        self.blob(media_type::OCI_INDEX, index.to_string().as_bytes())
    }

    /// Adds a manifest without a name that refers to another manifest, like a signature.
    pub fn referrer(&mut self, subject: &Value) -> Value {
        let config = self.blob("application/vnd.oci.empty.v1+json", b"{}");
        let layer = self.blob("application/octet-stream", b"signature");
        let mut subject = subject.clone();
        subject.as_object_mut().unwrap().remove("platform");
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config,
            "layers": [layer], "subject": subject});
        let descriptor = self.blob(media_type::OCI_MANIFEST, manifest.to_string().as_bytes());
        self.entries.push(descriptor.clone());
        descriptor
    }

    /// Gives something a name.
    pub fn name(&mut self, reference: &str, root: &Value) {
        let mut entry = root.clone();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": reference});
        self.entries.push(entry);
    }

    /// Names an index of which only the `kept` children are present: the bundle has the original and the filtered
    /// index. Returns the digests of both.
    pub fn name_sparse(&mut self, reference: &str, kept: &[Value], dropped: &[Value]) -> (String, String) {
        let all: Vec<Value> = kept.iter().chain(dropped).cloned().collect();
        let original = self.index(&all);
        let filtered = self.index(kept);
        let record = |d: &Value| {
            let platform = format!(
                "{}/{}",
                d["platform"]["os"].as_str().unwrap(),
                d["platform"]["architecture"].as_str().unwrap()
            );
            json!({"platform": platform, "digest": d["digest"]})
        };
        self.records.push(json!({
            "reference": reference, "index": "sparse", "original": original["digest"], "filtered": filtered["digest"],
            "kept": kept.iter().map(record).collect::<Vec<_>>(), "dropped": dropped.iter().map(record).collect::<Vec<_>>(),
        }));
        for child in dropped {
            self.remove(&digest(child));
        }
        self.name(reference, &original);
        (digest(&original), digest(&filtered))
    }

    /// Adds an image with one ordinary layer, and one non-distributable layer that is not carried.
    pub fn image_with_foreign(&mut self, layer: &[u8], foreign: &[u8]) -> Value {
        const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
        let config = json!({"os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer), sha256(foreign)]}});
        let config = self.blob(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let foreign = json!({"mediaType": FOREIGN, "digest": sha256(foreign), "size": foreign.len(),
            "urls": ["https://vendor.example/layer"]});
        let layers = [self.blob(media_type::OCI_LAYER, layer), foreign];
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers});
        self.blob(media_type::OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    /// The length of the config of an image.
    pub fn config_size(&self, image: &Value) -> usize {
        let manifest: Value = serde_json::from_slice(&self.blobs[&digest(image)]).unwrap();
        manifest["config"]["size"].as_u64().unwrap() as usize
    }

    /// Says that an image is missing.
    pub fn lacks(&mut self, reference: &str, reason: &str) {
        self.missing.push(json!({"reference": reference, "reason": reason}));
    }

    /// Takes a blob out, though manifests name it.
    pub fn remove(&mut self, digest: &str) {
        self.blobs.remove(digest).expect("no such blob");
    }

    /// Takes the first layer of an image out.
    pub fn remove_layer(&mut self, image: &Value) {
        let manifest: Value = serde_json::from_slice(&self.blobs[&digest(image)]).unwrap();
        self.remove(&digest(&manifest["layers"][0]));
    }

    /// Flips a bit in the middle of a blob.
    pub fn corrupt(&mut self, digest: &str) {
        let bytes = self.blobs.get_mut(digest).expect("no such blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }

    /// Writes the layout into a tar.
    pub fn write(&self) -> Tar {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.tar");
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        let mut members = vec![marker(), ("index.json".to_owned(), index.to_string().into_bytes())];
        if !self.records.is_empty() || !self.missing.is_empty() {
            let mut record = json!({"formatVersion": 1, "images": self.records});
            if !self.missing.is_empty() {
                record["missing"] = json!(self.missing);
            }
            members.push(("docker-mirror.json".to_owned(), record.to_string().into_bytes()));
        }
        members.extend(
            self.blobs
                .iter()
                .map(|(digest, bytes)| (blob_name(digest), bytes.clone())),
        );
        write_members(&path, members);
        Tar { path, _folder: folder }
    }

    /// Writes it and opens it.
    pub fn open(&self) -> Opened {
        open(vec![self.write()])
    }
}

/// A tar that goes when it is dropped.
pub struct Tar {
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

/// An opened bundle and its files.
pub struct Opened {
    pub bundle: Arc<Bundle>,
    _tars: Vec<Tar>,
}

pub fn open(tars: Vec<Tar>) -> Opened {
    let paths: Vec<PathBuf> = tars.iter().map(|t| t.path.clone()).collect();
    let bundle = Bundle::open(&paths, &OpenOptions::default()).unwrap();
    Opened {
        bundle: Arc::new(bundle),
        _tars: tars,
    }
}

/// Registries that give up soon.
pub fn registries() -> Registries {
    Registries::new(options()).unwrap()
}

fn options() -> Options {
    Options {
        retries: Some(1),
        retry_pause: Some(Duration::from_millis(1)),
        ..Options::default()
    }
}

/// A request for `HOST/mirror` that does not wait long.
pub fn request(registry: &Double) -> PushRequest {
    let mut request = PushRequest::new(format!("{}/mirror", registry.host()).parse().unwrap());
    request.pause = Duration::from_millis(1);
    request
}

/// Imports everything.
pub async fn run(bundle: &Opened, request: PushRequest) -> Result<PushReport> {
    let select = Selection::default();
    import(
        bundle.bundle.clone(),
        select,
        request,
        &registries(),
        Progress::silent(),
    )
    .await
}

/// Imports everything, with so many uploads in flight.
pub async fn run_with(bundle: &Opened, request: PushRequest, jobs: usize) -> Result<PushReport> {
    let registries = Registries::new(Options {
        jobs: Some(jobs),
        ..options()
    });
    let select = Selection::default();
    import(
        bundle.bundle.clone(),
        select,
        request,
        &registries.unwrap(),
        Progress::silent(),
    )
    .await
}

/// Imports everything, with success.
pub async fn run_well(bundle: &Opened, request: PushRequest) -> PushReport {
    let report = run(bundle, request).await.unwrap();
    assert!(!report.failed(), "{report:#?}");
    report
}

/// Uploaded, mounted and skipped blobs.
pub fn counts(report: &ImageReport) -> (u64, u64, u64) {
    let counts = &report.counts;
    (counts.uploaded.blobs, counts.mounted.blobs, counts.skipped.blobs)
}

/// The message of an image's error.
pub fn why(report: &ImageReport) -> String {
    report.error.as_ref().map(|e| e.full()).unwrap_or_default()
}

/// Fails unless everything below a tag is in the repository.
pub fn assert_complete(registry: &Double, repository: &str, reference: &str, sparse: bool) {
    if let Err(what) = incomplete(registry, repository, reference, sparse) {
        panic!("{repository}:{reference}: {what}\n{}", registry.transcript());
    }
}

/// What is missing below a tag or digest.
pub fn incomplete(registry: &Double, repository: &str, reference: &str, sparse: bool) -> Result<(), String> {
    let bytes = registry
        .manifest(repository, reference)
        .ok_or(format!("no manifest {reference}"))?;
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    for child in document["manifests"].as_array().into_iter().flatten() {
        let child = digest(child);
        if !sparse || registry.manifest(repository, &child).is_some() {
            incomplete(registry, repository, &child, sparse)?;
        }
    }
    let layers = document["layers"].as_array().into_iter().flatten();
    for blob in document.get("config").into_iter().chain(layers) {
        let digest = digest(blob);
        let content = registry
            .store()
            .blob(repository, &digest)
            .ok_or(format!("no blob {digest}"))?;
        if sha256(&content.all()) != digest {
            return Err(format!("wrong blob {digest}"));
        }
    }
    Ok(())
}
