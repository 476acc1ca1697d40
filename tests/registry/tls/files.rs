//! Certificates and keys in files and folders.

use docker_mirror::Error;

use super::*;

#[tokio::test]
async fn certs_d() {
    let folder = Folder::new();
    let (ca, client_ca) = (Authority::new("servers"), Authority::new("clients"));
    let server = Server::start(&ca.sign(&params("localhost")), &[&client_ca.certificate]).await;
    let options = TlsOptions {
        certs_dirs: vec![folder.path().join("absent"), folder.path().join("certs.d")],
        without_system_roots: true,
        ..TlsOptions::default()
    };
    refused(server.ask(&options).await, "UnknownIssuer");
    let host = format!("certs.d/localhost:{}", server.port);
    folder.write(&format!("{host}/ca.crt"), &ca.certificate);
    refused(server.ask(&options).await, "CertificateRequired");
    // Of two certificates, the client shows the one that the server's authority has signed, although it is the second.
    for (name, authority) in [("a", &Authority::new("strangers")), ("b", &client_ca)] {
        let pair = authority.sign(&params("me"));
        folder.write(&format!("{host}/{name}.cert"), &pair.certificate);
        folder.write(&format!("{host}/{name}.key"), &pair.key);
    }
    assert_eq!(server.ask(&options).await.unwrap(), "hello 1");
    // The folder is for this port alone.
    let other = Server::start(&ca.sign(&params("localhost")), &[]).await;
    refused(other.ask(&options).await, "UnknownIssuer");
    std::fs::remove_file(folder.path().join(format!("{host}/b.key"))).unwrap();
    let error = server.ask(&options).await.unwrap_err();
    assert!(error.contains("b.cert") && error.contains("has no key"), "{error}");
}

#[tokio::test]
async fn files_that_are_not_what_they_should_be() {
    let folder = Folder::new();
    let pair = self_signed(|_| ());
    let good = folder.write("good.pem", &pair.certificate);
    let key = folder.write("good-key.pem", &pair.key);
    let empty = folder.write("empty.pem", "");
    let text = folder.write("text.pem", "no certificate at all\n");
    let cut = folder.write("cut.pem", &pair.certificate[..pair.certificate.len() / 2]);
    let letters = folder.write(
        "letters.pem",
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    );
    let inside = folder.write(
        "inside.pem",
        "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n",
    );
    let locked = folder.write(
        "locked.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\naHVudGVyMg==\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let key_inside = folder.write(
        "key-inside.pem",
        "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n",
    );
    let absent = folder.path().join("absent.pem");
    let check = |error: Error, name: &Path, kind: Kind, what: &str| {
        let all = format!("{} | {}", error.full(), error.hint().unwrap_or_default());
        let name = name.file_name().unwrap().to_str().unwrap();
        assert!(all.contains(name) && all.contains(what), "{name}: {all}");
        assert!(!all.contains("hunter2") && !all.contains("aHVu"), "{all}");
        assert_eq!(error.kind(), kind, "{all}");
    };
    for (path, kind, what) in [
        (&empty, Kind::Malformed, "no PEM certificate"),
        (&text, Kind::Malformed, "no PEM certificate"),
        (&key, Kind::Malformed, "no PEM certificate"),
        (&cut, Kind::Malformed, "PEM"),
        (&letters, Kind::Malformed, "not valid PEM"),
        (&inside, Kind::Malformed, "cannot be used"),
        (&absent, Kind::Io, "cannot read"),
    ] {
        check(Authorities::read(path).unwrap_err(), path, kind, what);
    }
    for (path, kind, what) in [
        (&empty, Kind::Malformed, "no PEM private key"),
        (&good, Kind::Malformed, "no PEM private key"),
        (&locked, Kind::Malformed, "with a password"),
        (&key_inside, Kind::Malformed, "cannot be used"),
        (&absent, Kind::Io, "cannot read"),
    ] {
        check(ClientCertificate::read(&good, path).unwrap_err(), path, kind, what);
    }
}

/// Runs openssl in a folder; `false` where the machine has none.
fn openssl(folder: &Path, arguments: &str) -> bool {
    match Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
    {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "openssl {arguments}: {text}");
            true
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn what_openssl_makes() {
    let folder = Folder::new();
    let at = |name: &str| folder.path().join(name);
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    if !openssl(
        folder.path(),
        "req -x509 -newkey rsa:2048 -nodes -keyout rsa.key -out rsa.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost",
    ) {
        return support::real::skipped("certificates and keys that openssl makes", "there is no openssl");
    }
    let rsa = Pair {
        certificate: read("rsa.pem"),
        key: read("rsa.key"),
    };
    // The server requires a certificate and trusts a client authority that openssl made as well.
    openssl(
        folder.path(),
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=clients",
    );
    let server = Server::start(&rsa, &[&read("ca.pem")]).await;
    let trusting = folder.trusting(&[&rsa.certificate]);
    for (form, make, header) in [
        (
            "pkcs1",
            "genrsa -traditional -out pkcs1.key 2048",
            "BEGIN RSA PRIVATE KEY",
        ),
        ("pkcs8", "genpkey -algorithm RSA -out pkcs8.key", "BEGIN PRIVATE KEY"),
        (
            "sec1",
            "ecparam -name prime256v1 -genkey -out sec1.key",
            "BEGIN EC PRIVATE KEY",
        ),
    ] {
        openssl(folder.path(), make);
        assert!(read(&format!("{form}.key")).contains(header), "{form}");
        openssl(
            folder.path(),
            &format!("req -new -key {form}.key -out {form}.csr -subj /CN=me"),
        );
        std::fs::write(at("extensions"), "extendedKeyUsage=clientAuth\n").unwrap();
        openssl(
            folder.path(),
            &format!(
                "x509 -req -in {form}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {form}.pem"
            ),
        );
        let options = TlsOptions {
            client_certificate: Some(
                ClientCertificate::read(&at(&format!("{form}.pem")), &at(&format!("{form}.key"))).unwrap(),
            ),
            ..trusting.clone()
        };
        assert_eq!(server.ask(&options).await.unwrap(), "hello 1", "{form}");
        refused(server.ask_as("other.example", &options).await, "not valid for name");
    }
    // A password makes a key unusable, and the message says so.
    for (form, make) in [
        (
            "locked8",
            "pkcs8 -topk8 -in pkcs8.key -passout pass:hunter2 -out locked8.key",
        ),
        (
            "locked1",
            "rsa -traditional -aes128 -in pkcs1.key -passout pass:hunter2 -out locked1.key",
        ),
    ] {
        openssl(folder.path(), make);
        let error = ClientCertificate::read(&at("pkcs8.pem"), &at(&format!("{form}.key"))).unwrap_err();
        assert!(error.to_string().contains("with a password"), "{form}: {error:?}");
    }
}
