//! The writing half of the registry client against the registry double.

mod client;
mod support;

use client::{Memory, client, fetch, layer, manifest, noise, tag};
use docker_mirror::registry::{Presence, Pushed};
use support::Double;

#[tokio::test]
async fn what_is_pushed_can_be_pulled() {
    let server = Double::new();
    let (registry, told) = client(&server.host());
    let bytes = noise(3_000_000);
    let (config, blob) = (layer(b"{}"), layer(&bytes));
    assert_eq!(registry.head_blob("a/b", &blob).await.unwrap(), Presence::Missing);
    assert_eq!(
        registry
            .push_blob("a/b", &blob, &Memory(bytes.clone()), None)
            .await
            .unwrap(),
        Pushed::Uploaded
    );
    registry
        .push_blob("a/b", &config, &Memory("{}".into()), None)
        .await
        .unwrap();
    assert_eq!(registry.head_blob("a/b", &blob).await.unwrap(), Presence::Present(()));
    assert_eq!(
        registry
            .push_blob("c", &blob, &Memory(bytes.clone()), Some("a/b"))
            .await
            .unwrap(),
        Pushed::Mounted
    );
    let image = manifest(&config, std::slice::from_ref(&blob));
    registry.put_manifest("a/b", &tag("1"), &image).await.unwrap();
    registry.confirm_manifest("a/b", &tag("1"), &image).await.unwrap();
    let back = registry.manifest("a/b", &tag("1")).await.unwrap();
    assert_eq!(back.bytes(), image.bytes());
    assert_eq!(fetch(&registry, "a/b", &blob).await.unwrap(), bytes);
    assert_eq!(registry.small_blob("a/b", &config).await.unwrap(), "{}");
    assert_eq!(told.retries(), Vec::<String>::new());
    // Each blob: POST and PUT; nothing is asked twice.
    assert_eq!(server.count("POST", "/blobs/uploads/"), 3, "{}", server.transcript());
    assert_eq!(server.count("PUT", "/blobs/uploads/"), 2, "{}", server.transcript());
    assert_eq!(server.count("PATCH", ""), 0, "{}", server.transcript());
}
