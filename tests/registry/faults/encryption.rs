//! TLS that does and does not come about.

use super::*;

#[tokio::test]
async fn tls_with_a_known_authority_and_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    let server = server(Options::default().tls(ServerTls::new(authority.server(&["127.0.0.1", "localhost"]))));
    let file = write_pem(folder.path(), "ca.pem", &authority.pem());
    pull(&with(trusting(file), &server.host())).await.unwrap();
    let (nobody, _) = client(&server.host());
    let error = pull(&nobody).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.to_string().contains("not trusted"), "{error}");
    assert!(error.hint().unwrap().contains("--ca-file"), "{error:?}");
    let (mut options, _) = options();
    options.tls.insecure = true;
    pull(&with(options, &server.host())).await.unwrap();
}

#[tokio::test]
async fn certificates_that_do_not_do() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    let file = write_pem(folder.path(), "ca.pem", &authority.pem());
    for (pair, words) in [
        (authority.server(&["other.example"]), "another host name"),
        (authority.expired_server(&["127.0.0.1"]), "expired"),
        (self_signed(&["127.0.0.1"]), "not trusted"),
        (
            authority.nameless_server("127.0.0.1"),
            "no host name that counts (subjectAltName)",
        ),
        (authority.client("127.0.0.1"), "is not for servers (extendedKeyUsage)"),
    ] {
        let server = server(Options::default().tls(ServerTls::new(pair)));
        let error = pull(&with(trusting(file.clone()), &server.host())).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network);
        assert!(error.to_string().contains(words), "{words}: {error:?}");
        assert!(error.hint().is_some(), "{error:?}");
        assert_eq!(server.requests().len(), 0);
    }
}

/// Starts a server that reads the first message of each client and sends these bytes.
async fn answering(answer: Vec<u8>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 16 << 10];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(&answer).await;
            // The client ends the connection.
            let _ = stream.read(&mut hello).await;
        }
    });
    host
}

/// Returns a fatal alert (RFC 8446, section 6).
fn alert(description: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description]
}

/// Returns a ServerHello of TLS 1.1 (RFC 4346, section 7.4.1.3) with the cipher TLS_RSA_WITH_AES_128_CBC_SHA.
fn old_hello() -> Vec<u8> {
    let mut hello = vec![2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 0x2f, 0]);
    let mut record = vec![22, 3, 2, 0, hello.len() as u8];
    record.extend(hello);
    record
}

#[tokio::test]
async fn versions_and_ciphers_that_only_one_side_knows() {
    let versions = "check which TLS versions and ciphers the registry speaks";
    for (answer, words, hints) in [
        (alert(40), "aborted the TLS handshake", &["`--cert`", versions][..]),
        (alert(70), "aborted the TLS handshake", &[versions]),
        (alert(71), "aborted the TLS handshake", &[versions]),
        (alert(116), "aborted the TLS handshake", &["`--cert`"]),
        (old_hello(), "have no TLS version or cipher in common", &[versions]),
    ] {
        let (mut options, _) = options();
        options.retries = Some(0);
        let error = pull(&with(options, &answering(answer).await)).await.unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error:?}");
        assert!(!error.full().contains("Tls12"), "{error:?}");
        for hint in hints {
            assert!(error.hint().unwrap().contains(hint), "{hint}: {:?}", error.hint());
        }
    }
}

#[tokio::test]
async fn client_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority");
    let server =
        server(Options::default().tls(ServerTls::new(authority.server(&["127.0.0.1"])).only_clients_of(&authority)));
    let file = write_pem(folder.path(), "ca.pem", &authority.pem());
    let error = pull(&with(trusting(file.clone()), &server.host())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network, "{error:?}");
    let pair = authority.client("me");
    let mut options = trusting(file);
    let certificate = write_pem(folder.path(), "me.pem", &pair.certificate);
    let key = write_pem(folder.path(), "me.key", &pair.key);
    options.tls.client_certificate = Some(ClientCertificate::read(&certificate, &key).unwrap());
    pull(&with(options, &server.host())).await.unwrap();
}

#[tokio::test]
async fn https_where_http_is_spoken() {
    // The client never uses http with a host elsewhere unless told to. Only this machine's own name can be tried here,
    // as a mirror whose scheme is fixed.
    let server = server(Options::default());
    let (mut options, told) = options();
    options.mirrors = Mirrors::new(vec![
        parse_mirror(&format!("h.invalid=https://{}", server.host())).unwrap(),
    ]);
    options.retries = Some(0);
    let error = pull(&with(options, "h.invalid")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network, "{error:?}");
    assert!(
        told.warnings()[0].contains("does not speak TLS"),
        "{:?}",
        told.warnings()
    );
    assert_eq!(server.requests().len(), 0, "nothing went out in plain text");
}

#[tokio::test]
async fn a_registry_that_is_configured_as_insecure_may_speak_plain_http() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registries.conf");
    for (insecure, mirror) in [(true, false), (true, true), (false, false), (false, true)] {
        let server = server(Options::default().auth(Auth::basic("u", "p")));
        let host = server.host();
        let rule = match mirror {
            true => format!("location = \"h.invalid\"\n[[registry.mirror]]\nlocation = \"{host}\"\n"),
            false => format!("location = \"{host}\"\n"),
        };
        let text = format!("[[registry]]\nprefix = \"h.invalid\"\n{rule}insecure = {insecure}\n");
        std::fs::write(&file, text).unwrap();
        let (mut options, _) = crate::client::logged_in("u", "p");
        options.retries = Some(0);
        options.mirrors = Mirrors::new(Vec::new());
        options.mirrors.read_file(&file).unwrap();
        let pulled = pull(&with(options, "h.invalid")).await;
        assert_eq!(pulled.is_ok(), insecure, "{rule}: {:?}", pulled.err());
        assert_eq!(server.requests().is_empty(), !insecure, "{}", server.transcript());
    }
}

#[tokio::test]
async fn plain_http_that_is_asked_for() {
    let server = server(Options::default());
    let (mut options, _) = options();
    options.plain_http = true;
    pull(&with(options, &server.host())).await.unwrap();
    // Then https is not tried.
    let authority = Authority::new("test authority");
    let tls = self::server(Options::default().tls(ServerTls::new(authority.server(&["127.0.0.1"]))));
    let (mut options, _) = self::options();
    options.plain_http = true;
    options.tls.insecure = true;
    assert!(pull(&with(options, &tls.host())).await.is_err());
    assert_eq!(tls.requests().len(), 0);
}
