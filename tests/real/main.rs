//! The program with real registries, tools and engines: Debian's `docker-registry`, skopeo, umoci, podman and a Docker
//! engine.
//!
//! A missing part is reported; `tests/run` installs what it can and makes any other missing part a failure.

#[path = "../client/mod.rs"]
mod client;
#[path = "../support/mod.rs"]
mod support;

mod browser;
mod ci;
mod engine;
mod go_tools;
mod page;
mod plugin;
mod readers;
mod registries;
mod registry_client;
mod signed_bundle;
mod sites;
mod static_binary;

use support::Cli;
use support::http::Client;
use support::image::Image;

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// Checks that a registry has the same bytes of every linux platform of an image under this name. Returns the digest
/// that the tag points to.
#[track_caller]
fn has_linux(client: &Client, image: &Image, repository: &str, tag: &str) -> String {
    let documents = image.documents_of("linux");
    assert!(!documents.is_empty());
    let root = client.manifest(repository, tag).expect("the tag is not there");
    let digest = support::sha256(&root);
    assert_eq!(
        client.manifest(repository, &digest).as_deref(),
        Some(&root[..]),
        "the index by its digest"
    );
    let json: serde_json::Value = serde_json::from_slice(&root).unwrap();
    let listed: Vec<&str> = json["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["digest"].as_str().unwrap())
        .collect();
    let expected: Vec<&str> = documents.iter().map(|d| d.digest.as_str()).collect();
    assert_eq!(listed.len(), expected.len());
    assert!(expected.iter().all(|digest| listed.contains(digest)));
    for document in &documents {
        let bytes = client
            .manifest(repository, &document.digest)
            .expect("a manifest is not there");
        assert_eq!(bytes, document.bytes);
    }
    let blobs = Image::blobs_of(&documents);
    assert!(!blobs.is_empty());
    for blob in blobs {
        let bytes = client.blob(repository, &blob).expect("a blob is not there");
        assert_eq!(bytes, image.blobs[&blob]);
    }
    digest
}
