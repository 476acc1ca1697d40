//! The registry client through the library, against the registry double.

#[path = "../client/mod.rs"]
mod client;
#[path = "../support/mod.rs"]
mod support;

mod auth;
mod chaos;
mod credentials;
mod double;
mod faults;
mod hostile;
mod list;
mod pull;
mod push;
mod tls;
mod trust;
mod waits;

/// Puts the image `a/b:1`, whose only blob is its config, onto a server.
fn fill(server: &support::Double) {
    let image = client::manifest(&client::layer(b"{}"), &[]);
    server
        .store()
        .put_manifest("a/b", Some("1"), image.media_type(), image.bytes().clone());
    server.store().put_blob("a/b", "{}");
}
