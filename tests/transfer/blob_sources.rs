//! The contract of every source of blobs, checked for each: a bundle, registries, and a bundle in a pipe.

use std::fs::File;
use std::sync::Arc;

use docker_mirror::testing::{BlobSource, Descriptor, bundle_blobs, pipe_blobs, registry_blobs};
use docker_mirror::{Bundle, OpenOptions};
use futures_util::{StreamExt, TryStreamExt};

use crate::handmade::registries;
use crate::import::pipe::cli;
use crate::support::Double;
use crate::support::images::sized;

const SIZE: usize = 1_000_000;

/// A blob can be opened any number of times, at any offset, also while another stream of it is open. A missing blob is
/// an error.
async fn keeps_the_contract(what: &str, source: &dyn BlobSource, blob: &Descriptor) {
    let from = async |offset: u64| -> Vec<u8> {
        let stream = source.open(blob, offset).await.unwrap();
        let pieces: Vec<_> = stream.try_collect().await.unwrap();
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "{what}: an empty piece");
        pieces.concat()
    };
    let all = from(0).await;
    assert_eq!(blob.digest.same_algorithm(&all), blob.digest, "{what}");
    let mut other = source.open(blob, 0).await.unwrap();
    let first = other.next().await.unwrap().unwrap();
    assert_eq!(first, all[..first.len()], "{what}");
    drop(other);
    for offset in [1, 300_000, SIZE - 1, 0] {
        assert_eq!(from(offset as u64).await, all[offset..], "{what}: from {offset}");
    }
    let absent = Descriptor {
        digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
            .parse()
            .unwrap(),
        ..blob.clone()
    };
    let opened = source.open(&absent, 0).await;
    let is_told = match opened {
        Err(_) => true,
        Ok(mut stream) => stream.next().await.is_some_and(|piece| piece.is_err()),
    };
    assert!(is_told, "{what}: a blob that is not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_a_registry_and_a_pipe_give_the_same_bytes_from_any_offset() {
    let cli = cli();
    let source = Double::new();
    let image = sized(7, "linux/amd64", &[SIZE]);
    image.push(&source, "team/app", "1");
    let name = format!("{}/team/app:1", source.host());
    cli.succeed(&["export", "-o", "bundle.tar", &name]);
    let path = cli.path("bundle.tar");
    let opened = Arc::new(Bundle::open(std::slice::from_ref(&path), &OpenOptions::default()).unwrap());
    let tree = opened.tree(&opened.images()[0]).unwrap();
    let mut blobs = tree.blobs();
    blobs.retain(|blob| !blob.is_config);
    let blob = &blobs[0].descriptor;

    keeps_the_contract("a bundle", &*bundle_blobs(opened.clone()), blob).await;
    let registries = registries();
    let from_registry = registry_blobs(std::slice::from_ref(&tree), &registries).unwrap();
    keeps_the_contract("a registry", &*from_registry, blob).await;
    let pipe = tokio::task::spawn_blocking(move || {
        Bundle::from_pipe(File::open(path).unwrap(), "a pipe", &OpenOptions::default())
    });
    let (front, rest) = pipe.await.unwrap().unwrap();
    let (_feed, from_pipe) = pipe_blobs(Arc::new(front), rest.unwrap(), blob).await.unwrap();
    keeps_the_contract("a pipe", &*from_pipe, blob).await;
}
