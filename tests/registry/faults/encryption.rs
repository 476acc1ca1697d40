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
    ] {
        let server = server(Options::default().tls(ServerTls::new(pair)));
        let error = pull(&with(trusting(file.clone()), &server.host())).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network);
        assert!(error.to_string().contains(words), "{words}: {error:?}");
        assert!(error.hint().is_some(), "{error:?}");
        assert_eq!(server.requests().len(), 0);
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
