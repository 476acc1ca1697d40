//! Trust and credentials for one server are used with that server and with no other.

use std::path::Path;

use crate::client::{fetch, layer, options, tag, with};
use crate::support::fault::{Action, When};
use crate::support::tls::{Authority, ServerTls, self_signed, write_pem};
use crate::support::{Auth, Double};
use crate::{client, support};
use docker_mirror::{
    Authorities, ClientCertificate, Error, Mirrors, Options, Registries, TlsOptions, testing::Registry,
};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn put(server: &Double, repository: &str) {
    let image = client::manifest(&layer(b"{}"), &[layer(b"layer")]);
    server.store().put_blob(repository, &b"layer"[..]);
    server
        .store()
        .put_manifest(repository, Some("1"), TYPE, image.bytes().clone());
}

async fn pull(registry: &Registry, repository: &str) -> Result<(), Error> {
    registry.manifest(repository, &tag("1")).await.map(drop)
}

/// Options that trust an authority and have a certificate of their own.
fn shown(folder: &Path, authority: &Authority) -> Options {
    let (mut options, _) = options();
    let pair = authority.client("me");
    options.retries = Some(0);
    options.tls = TlsOptions {
        authorities: vec![Authorities::read(&write_pem(folder, "ca.pem", &authority.pem())).unwrap()],
        client_certificate: Some(
            ClientCertificate::read(
                &write_pem(folder, "me.pem", &pair.certificate),
                &write_pem(folder, "me.key", &pair.key),
            )
            .unwrap(),
        ),
        without_system_roots: true,
        ..TlsOptions::default()
    };
    options
}

fn closed(authority: &Authority) -> support::Options {
    support::Options::default().tls(ServerTls::new(authority.server(&["127.0.0.1"])).only_clients_of(authority))
}

fn open(authority: &Authority) -> support::Options {
    support::Options::default().tls(ServerTls::new(authority.server(&["127.0.0.1"])))
}

#[tokio::test]
async fn a_client_certificate_is_for_registries_alone() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    // A server that refuses every client without a certificate: the refusal proves that no certificate was shown.
    let other = Double::start(closed(&authority));
    put(&other, "a/b");
    let options = shown(folder.path(), &authority);
    pull(&with(options.clone(), &other.host()), "a/b").await.unwrap();

    let to = format!("{}{{target}}", other.url());
    let server = Double::start(open(&authority).fault(When::get("/blobs/"), Action::redirect(307, &to)));
    put(&server, "a/b");
    let registries = Registries::new(options).unwrap();
    let redirecting = registries.host(&server.host()).unwrap();
    let seen = other.requests().len();
    let error = fetch(&redirecting, "a/b", &layer(b"layer")).await.unwrap_err();
    assert!(error.full().contains("TLS handshake"), "{error:?}");
    assert_eq!(other.requests().len(), seen);
    // If the user names it, it is a registry of its own, and neither use affects the other.
    pull(&registries.host(&other.host()).unwrap(), "a/b").await.unwrap();
    let error = fetch(&redirecting, "a/b", &layer(b"layer")).await.unwrap_err();
    assert!(error.full().contains("TLS handshake"), "{error:?}");
}

#[tokio::test]
async fn a_request_that_is_led_back_to_the_registry_shows_no_client_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    let registry = Double::start(closed(&authority));
    put(&registry, "a/b");
    let other = Double::start(open(&authority));
    let back = format!("{}{{target}}?led", registry.url());
    other.add_fault(When::any(), Action::redirect(307, &back));
    let to = format!("{}{{target}}", other.url());
    registry.add_fault(When::path("/blobs/").but_not("led"), Action::redirect(307, &to));
    let client = with(shown(folder.path(), &authority), &registry.host());
    let error = fetch(&client, "a/b", &layer(b"layer")).await.unwrap_err();
    assert!(error.full().contains("TLS handshake"), "{error:?}");
    assert_eq!(other.requests().len(), 1, "{}", other.transcript());
    assert_eq!(registry.count("*", "led"), 0, "{}", registry.transcript());
}

#[tokio::test]
async fn a_token_server_elsewhere_sees_no_client_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    let other = Double::start(closed(&authority));
    let challenge = format!("Bearer realm=\"{}/token\",service=\"s\"", other.url());
    let server = Double::start(open(&authority).fault(When::get("/manifests/"), Action::challenge(&[&challenge])));
    put(&server, "a/b");
    let error = pull(&with(shown(folder.path(), &authority), &server.host()), "a/b")
        .await
        .unwrap_err();
    assert!(error.full().contains("TLS handshake"), "{error:?}");
    assert_eq!(other.requests().len(), 0);
    // The registry's own token server is asked as the registry is.
    let server = Double::start(closed(&authority).auth(Auth::anonymous()));
    put(&server, "a/b");
    pull(&with(shown(folder.path(), &authority), &server.host()), "a/b")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_not_checked_for_one_prefix_is_checked_for_others() {
    let server = Double::start(support::Options::default().tls(ServerTls::new(self_signed(&["127.0.0.1"]))));
    let mirror = Double::start(support::Options::default().tls(ServerTls::new(self_signed(&["127.0.0.1"]))));
    for repository in ["open/x", "closed/x"] {
        put(&server, repository);
        put(&mirror, repository);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registries.conf");
    let (host, cache) = (server.host(), mirror.host());
    let text = format!(
        "[[registry]]\nprefix = \"{host}/open\"\nlocation = \"{host}/open\"\ninsecure = true\n\
         [[registry]]\nprefix = \"h.invalid/open\"\nlocation = \"h.invalid/open\"\n\
         [[registry.mirror]]\nlocation = \"{cache}/open\"\ninsecure = true\n\
         [[registry]]\nprefix = \"h.invalid/closed\"\nlocation = \"h.invalid/closed\"\n\
         [[registry.mirror]]\nlocation = \"{cache}/closed\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let (mut options, told) = options();
    options.retries = Some(0);
    options.mirrors = Mirrors::new(Vec::new());
    options.mirrors.read_file(&file).unwrap();
    let registries = Registries::new(options).unwrap();
    let registry = registries.host(&host).unwrap();
    let other = registries.host("h.invalid").unwrap();
    // Both ways twice and in turn: knowledge about one is not used for the other.
    for _ in 0..2 {
        pull(&registry, "open/x").await.unwrap();
        let error = pull(&registry, "closed/x").await.unwrap_err();
        assert!(error.full().contains("not trusted"), "{error:?}");
        pull(&other, "open/x").await.unwrap();
        pull(&other, "closed/x").await.unwrap_err();
    }
    assert!(
        told.warnings().iter().any(|w| w.contains("not trusted")),
        "{:?}",
        told.warnings()
    );
    assert!(
        server
            .requests()
            .iter()
            .all(|r| r.path.contains("/open/") || !r.path.contains("/closed/"))
    );
    assert!(
        mirror.requests().iter().all(|r| !r.path.contains("/closed/")),
        "{}",
        mirror.transcript()
    );

    // Nor for where it redirects to.
    let stranger = Double::start(support::Options::default().tls(ServerTls::new(self_signed(&["127.0.0.1"]))));
    put(&stranger, "open/x");
    server.add_fault(
        When::get("/blobs/"),
        Action::redirect(307, &format!("{}{{target}}", stranger.url())),
    );
    let error = fetch(&registry, "open/x", &layer(b"layer")).await.unwrap_err();
    assert!(error.full().contains("not trusted"), "{error:?}");
    assert_eq!(stranger.requests().len(), 0);
}
