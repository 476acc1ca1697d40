//! Shared helpers of the tests of the registry client: a client without pauses, its events, and blobs in memory. Each
//! test binary uses only a part of this module.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use docker_mirror::{
    CredentialFile, CredentialOptions, Error, Event, Kind, Login, Options, Progress, Registries, Result, Secret,
    testing::{BlobReader, BlobSource, BlobStream, Descriptor, RawManifest, Registry, Target, WithoutRange},
};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;

/// What a client told while it worked.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<Event>>>);

impl Told {
    pub fn retries(&self) -> Vec<String> {
        self.pick(|event| match event {
            Event::Retry { reason, .. } => Some(reason.to_string()),
            _ => None,
        })
    }

    pub fn pauses(&self) -> Vec<Duration> {
        self.pick(|event| match event {
            Event::Retry { pause, .. } => Some(*pause),
            _ => None,
        })
    }

    pub fn warnings(&self) -> Vec<String> {
        self.pick(|event| match event {
            Event::Warning(text) => Some(text.to_string()),
            _ => None,
        })
    }

    pub fn told(&self) -> Vec<String> {
        self.pick(|event| match event {
            Event::Info(text) => Some(text.to_string()),
            _ => None,
        })
    }

    /// Number of answers of servers.
    pub fn answers(&self) -> usize {
        self.pick(|event| matches!(event, Event::Answered).then_some(())).len()
    }

    fn pick<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> Vec<T> {
        self.0.lock().unwrap().iter().filter_map(pick).collect()
    }
}

/// Options without long pauses, and what will be told.
pub fn options() -> (Options, Told) {
    let told = Told::default();
    let heard = told.clone();
    let options = Options {
        retry_pause: Some(Duration::from_millis(1)),
        progress: Progress::new(move |event| heard.0.lock().unwrap().push(event)),
        ..Options::default()
    };
    (options, told)
}

/// A client for one host with the options above.
pub fn client(host: &str) -> (Registry, Told) {
    let (options, told) = options();
    (with(options, host), told)
}

pub fn with(options: Options, host: &str) -> Registry {
    Registries::new(options).unwrap().host(host).unwrap()
}

/// Options with a name and a password.
pub fn logged_in(username: &str, password: &str) -> (Options, Told) {
    let (mut options, told) = options();
    options.credentials = CredentialOptions {
        login: Some(Login {
            host: None,
            username: username.to_owned(),
            password: Secret::new(password.to_owned()),
            origin: "`--username`".to_owned(),
        }),
        ..CredentialOptions::default()
    };
    (options, told)
}

/// Options with a Docker credentials file of this content.
pub fn with_file(folder: &std::path::Path, json: &serde_json::Value) -> (Options, Told) {
    let (mut options, told) = options();
    let path = folder.join("config.json");
    std::fs::write(&path, json.to_string()).unwrap();
    options.credentials = CredentialOptions {
        files: vec![CredentialFile::named(path, "--auth-file")],
        ..CredentialOptions::default()
    };
    (options, told)
}

/// A blob in memory.
pub struct Memory(pub Bytes);

impl BlobSource for Memory {
    fn open<'a>(&'a self, _: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        let rest = self.0.slice(offset as usize..);
        let pieces: Vec<Result<Bytes>> = rest
            .chunks(64 << 10)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        Box::pin(async move { Ok(futures_util::stream::iter(pieces).boxed()) })
    }
}

/// A source that breaks after so many bytes.
pub struct Broken(pub Bytes, pub usize);

impl BlobSource for Broken {
    fn open<'a>(&'a self, _: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream>> {
        let pieces = vec![
            Ok(self.0.slice(offset as usize..self.1)),
            Err(Error::new(Kind::Io, "the disk is on fire")),
        ];
        Box::pin(async move { Ok(futures_util::stream::iter(pieces).boxed()) })
    }
}

/// Bytes that do not compress, ready to be sent.
pub fn noise(size: usize) -> Bytes {
    crate::support::noise(0, size).into()
}

pub fn layer(bytes: &[u8]) -> Descriptor {
    Descriptor::from_content("application/vnd.oci.image.layer.v1.tar+gzip", bytes)
}

pub fn tag(text: &str) -> Target {
    Target::Tag(text.to_owned())
}

pub fn by_digest(manifest: &RawManifest) -> Target {
    Target::Digest(manifest.digest().clone())
}

/// An image manifest over these blobs.
pub fn manifest(config: &Descriptor, layers: &[Descriptor]) -> RawManifest {
    let describe = |d: &Descriptor| serde_json::json!({"mediaType": d.media_type, "digest": d.digest, "size": d.size});
    let json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe(config),
        "layers": layers.iter().map(describe).collect::<Vec<_>>(),
    });
    RawManifest::new(json.to_string().into(), None, None).unwrap()
}

/// An index over these manifests.
pub fn index(children: &[&Descriptor]) -> RawManifest {
    let describe = |d: &&Descriptor| serde_json::json!({"mediaType": d.media_type, "digest": d.digest, "size": d.size});
    let json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": children.iter().map(describe).collect::<Vec<_>>(),
    });
    RawManifest::new(json.to_string().into(), None, None).unwrap()
}

/// Reads to the end.
pub async fn read(mut reader: BlobReader) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.chunk().await? {
        assert!(!bytes.is_empty());
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Reads a whole blob.
pub async fn fetch(registry: &Registry, repository: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
    read(
        registry
            .blob(repository, descriptor, 0..descriptor.size, WithoutRange::Skip)
            .await?,
    )
    .await
}
