//! The registry client against Debian's `docker-registry`: plain, with a password, over TLS, and over connections that
//! break.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::{
    Memory, by_digest, client, fetch, index, layer, logged_in, manifest, noise, options, read, tag, with,
};
use crate::support::real::{PASSWORD, RealRegistry, Setup, USER};
use docker_mirror::{
    Authorities, Kind,
    testing::{Presence, Pushed, Refusal, Registry, WithoutRange},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn round_trip(registry: &Registry) {
    let bytes = noise(5 << 20);
    let (config, blob, empty) = (layer(b"{}"), layer(&bytes), layer(b""));
    for (descriptor, bytes) in [(&config, "{}".into()), (&blob, bytes.clone()), (&empty, "".into())] {
        assert_eq!(registry.head_blob("a/b", descriptor).await.unwrap(), Presence::Missing);
        assert_eq!(
            registry
                .push_blob("a/b", descriptor, &Memory(bytes), None)
                .await
                .unwrap(),
            Pushed::Uploaded
        );
        assert_eq!(
            registry.head_blob("a/b", descriptor).await.unwrap(),
            Presence::Present(())
        );
    }
    assert_eq!(
        registry
            .push_blob("c", &blob, &Memory(bytes.clone()), Some("a/b"))
            .await
            .unwrap(),
        Pushed::Mounted
    );
    let image = manifest(&config, std::slice::from_ref(&blob));
    let list = index(&[image.descriptor()]);
    let error = registry.put_manifest("a/b", &tag("1"), &list).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "a child is missing: {error:?}");
    registry.put_manifest("a/b", &by_digest(&image), &image).await.unwrap();
    registry.put_manifest("a/b", &tag("1"), &list).await.unwrap();
    assert_eq!(registry.manifest("a/b", &tag("1")).await.unwrap().bytes(), list.bytes());
    assert_eq!(
        registry.manifest("a/b", &by_digest(&image)).await.unwrap().bytes(),
        image.bytes()
    );
    assert_eq!(fetch(registry, "a/b", &blob).await.unwrap(), bytes);
    let part = registry
        .blob("c", &blob, 1000..2000, WithoutRange::Refuse)
        .await
        .unwrap();
    assert_eq!(read(part).await.unwrap(), bytes[1000..2000]);
    let missing = manifest(&config, &[layer(b"missing")]);
    let error = registry.put_manifest("a/b", &tag("2"), &missing).await.unwrap_err();
    assert_eq!(
        Refusal::in_error(&error).unwrap().digests,
        [layer(b"missing").digest],
        "{error:?}"
    );
    assert_eq!(
        registry.manifest("a/b", &tag("3")).await.unwrap_err().kind(),
        Kind::NotFound
    );
    let mut edited = bytes.to_vec();
    edited[7] ^= 1;
    let error = registry
        .push_blob("d", &blob, &Memory(edited.into()), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert_eq!(registry.head_blob("d", &blob).await.unwrap(), Presence::Missing);
}

#[tokio::test]
async fn a_plain_registry() {
    let Some(real) = RealRegistry::start(Setup::default(), "the registry client against docker-registry") else {
        return;
    };
    let (registry, told) = client(&real.host());
    round_trip(&registry).await;
    assert_eq!(told.retries(), Vec::<String>::new());
}

#[tokio::test]
async fn a_registry_with_a_password_and_tls() {
    let setup = Setup { login: true, tls: true };
    let Some(real) = RealRegistry::start(setup, "the registry client against docker-registry with TLS") else {
        return;
    };
    let trusting = |mut options: docker_mirror::Options| {
        options.tls.authorities = vec![Authorities::read(&real.authority_file()).unwrap()];
        with(options, &real.host())
    };
    round_trip(&trusting(logged_in(USER, PASSWORD).0)).await;
    let error = trusting(options().0).manifest("a/b", &tag("1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    let error = trusting(logged_in(USER, "wrong").0)
        .manifest("a/b", &tag("1"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
}

/// A wire that cuts each connection after so many bytes from the client.
async fn breaking_wire(to: String, after: u64, times: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let left = Arc::new(AtomicU64::new(times));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (to, left) = (to.clone(), Arc::clone(&left));
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                let mut passed = 0;
                let mut buffer = vec![0; 64 << 10];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    passed += read as u64;
                    if passed >= after && left.load(Ordering::SeqCst) > 0 {
                        left.fetch_sub(1, Ordering::SeqCst);
                        back.abort();
                        return;
                    }
                    if to_server.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    host
}

#[tokio::test]
async fn uploads_over_a_wire_that_breaks() {
    let Some(real) = RealRegistry::start(Setup::default(), "broken uploads to docker-registry") else {
        return;
    };
    let wire = breaking_wire(real.host(), 3 << 20, 4).await;
    let (registry, told) = client(&wire);
    let bytes = noise(16 << 20);
    let blob = layer(&bytes);
    let pushed = registry.push_blob("a", &blob, &Memory(bytes.clone()), None).await;
    assert_eq!(
        pushed.map_err(|e| e.full()),
        Ok(Pushed::Uploaded),
        "{:?}",
        told.retries()
    );
    assert_eq!(told.retries().len(), 4, "{:?}", told.retries());
    assert_eq!(fetch(&client(&real.host()).0, "a", &blob).await.unwrap(), bytes);
}
