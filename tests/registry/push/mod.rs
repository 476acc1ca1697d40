//! The push half of the registry client against the registry double: uploads by every strategy, mounts, resume,
//! locations, manifests.

mod blobs;
mod broken;
mod manifests;
mod one_place;
mod pieces;
mod proof;
mod refused_writes;
mod strategies;

use crate::client::{Memory, client, layer, noise};
use crate::support::fault::When;
use crate::support::{Double, Options};
use crate::{client, support};
use docker_mirror::testing::Pushed;

fn upload(method: &str) -> When {
    When::method(method, "/blobs/uploads/")
}

/// Pushes a blob of this length to a server with these faults, and checks that the server has it.
async fn pushed(options: Options, len: usize) -> (Double, client::Told) {
    let server = Double::start(options);
    let (registry, told) = client(&server.host());
    let bytes = noise(len);
    let blob = layer(&bytes);
    let result = registry.push_blob("a/b", &blob, &Memory(bytes.clone()), None).await;
    assert_eq!(
        result.map_err(|e| e.full()),
        Ok(Pushed::Uploaded),
        "{}",
        server.transcript()
    );
    let stored = server
        .store()
        .blob("a/b", &blob.digest.to_string())
        .map(|content| content.all());
    assert!(stored == Some(bytes), "{}", server.transcript());
    (server, told)
}

/// The same where the push has to fail; nothing may be stored then.
async fn refused(options: Options, len: usize) -> (Double, docker_mirror::Error) {
    let server = Double::start(options);
    let (registry, _) = client(&server.host());
    let bytes = noise(len);
    let blob = layer(&bytes);
    let error = registry
        .push_blob("a/b", &blob, &Memory(bytes), None)
        .await
        .expect_err("the push was to fail");
    assert!(
        server.store().blob("a/b", &blob.digest.to_string()).is_none(),
        "{}",
        server.transcript()
    );
    (server, error)
}
