//! TLS over real connections on the loopback interface.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use docker_mirror::error::Kind;
use docker_mirror::registry::tls::{TlsOptions, client_config};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A certificate with its key, as PEM.
struct Pair {
    certificate: String,
    key: String,
}

/// A certificate authority.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            certificate: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// What `openssl req -x509` makes: authority and server at once.
fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = params("localhost");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    Pair {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// A TLS server that answers every connection with `hello` and the number of certificates that it was shown.
struct Server {
    port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(pair: &Pair, client_authorities: &[&str]) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if client_authorities.is_empty() {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            for pem in client_authorities {
                roots
                    .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
                    .unwrap();
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        };
        let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let shown = stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
                    let body = format!("hello {shown}");
                    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\n";
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { port, task }
    }

    /// Connects as `localhost`; the last word of the answer, or the text of the error.
    async fn ask(&self, options: &TlsOptions) -> Result<String, String> {
        self.ask_as("localhost", options).await
    }

    async fn ask_as(&self, name: &str, options: &TlsOptions) -> Result<String, String> {
        let config = client_config(options, &format!("{name}:{}", self.port)).map_err(|e| e.full())?;
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        // With TLS 1.3 a client learns only while reading that its certificate was refused.
        stream
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .map_err(|e| e.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Options that trust these files and nothing else.
    fn trusting(&self, pems: &[&str]) -> TlsOptions {
        TlsOptions {
            ca_files: pems
                .iter()
                .enumerate()
                .map(|(i, pem)| self.write(&format!("trusted{i}.pem"), pem))
                .collect(),
            without_system_roots: true,
            ..TlsOptions::default()
        }
    }
}

fn refused(result: Result<String, String>, why: &str) {
    match result {
        Ok(answer) => panic!("the server was accepted and said `{answer}`"),
        Err(text) => assert!(text.contains(why), "refused, but because of: {text}"),
    }
}

const INSECURE: fn() -> TlsOptions = || TlsOptions {
    insecure: true,
    without_system_roots: true,
    ..TlsOptions::default()
};

#[tokio::test]
async fn signed_by_an_authority() {
    let folder = Folder::new();
    let (known, unknown) = (Authority::new("known"), Authority::new("unknown"));
    let server = Server::start(&known.sign(&params("localhost")), &[]).await;
    let options = folder.trusting(&[&known.certificate]);
    assert_eq!(server.ask(&options).await.unwrap(), "hello 0");
    refused(server.ask_as("other.example", &options).await, "not valid for name");
    refused(
        server.ask(&folder.trusting(&[&unknown.certificate])).await,
        "UnknownIssuer",
    );
    refused(server.ask(&folder.trusting(&[])).await, "UnknownIssuer");
    // Several authorities, in one file and in several.
    let both = format!("{}text between\n{}", unknown.certificate, known.certificate);
    assert!(server.ask(&folder.trusting(&[&both])).await.is_ok());
    let options = folder.trusting(&[&unknown.certificate, &known.certificate]);
    assert!(server.ask(&options).await.is_ok());
    // With the system's authorities as well, whatever they are.
    let options = TlsOptions {
        without_system_roots: false,
        ..folder.trusting(&[&known.certificate])
    };
    assert!(server.ask(&options).await.is_ok());
    assert!(server.ask(&INSECURE()).await.is_ok());
    assert!(server.ask_as("other.example", &INSECURE()).await.is_ok());
}

#[tokio::test]
async fn authority_and_server_at_once() {
    let folder = Folder::new();
    let pair = self_signed(|_| ());
    let server = Server::start(&pair, &[]).await;
    let options = folder.trusting(&[&pair.certificate]);
    assert_eq!(server.ask(&options).await.unwrap(), "hello 0");
    refused(server.ask_as("other.example", &options).await, "not valid for name");
    // The same name and role, but other bytes.
    let other = self_signed(|_| ());
    assert!(server.ask(&folder.trusting(&[&other.certificate])).await.is_err());
    assert!(server.ask(&folder.trusting(&[])).await.is_err());
    // An authority of the same name is another one.
    let authority = Authority::new("localhost");
    let signed = Server::start(&authority.sign(&params("localhost")), &[]).await;
    refused(signed.ask(&options).await, "BadSignature");
    assert!(server.ask(&INSECURE()).await.is_ok());
}

#[tokio::test]
async fn no_exception_for_the_period() {
    let folder = Folder::new();
    let expired = self_signed(|p| {
        p.not_before = date_time_ymd(2001, 1, 1);
        p.not_after = date_time_ymd(2002, 1, 1);
    });
    let future = self_signed(|p| {
        p.not_before = date_time_ymd(2200, 1, 1);
        p.not_after = date_time_ymd(2201, 1, 1);
    });
    for (pair, why) in [(expired, "expired"), (future, "not valid yet")] {
        let server = Server::start(&pair, &[]).await;
        refused(server.ask(&folder.trusting(&[&pair.certificate])).await, why);
        assert!(server.ask(&INSECURE()).await.is_ok());
    }
    let authority = Authority::new("known");
    let mut old = params("localhost");
    old.not_before = date_time_ymd(2001, 1, 1);
    old.not_after = date_time_ymd(2002, 1, 1);
    let server = Server::start(&authority.sign(&old), &[]).await;
    refused(server.ask(&folder.trusting(&[&authority.certificate])).await, "expired");
}

#[tokio::test]
async fn a_server_certificate_alone_may_be_trusted() {
    let folder = Folder::new();
    let authority = Authority::new("not given");
    let pair = authority.sign(&params("localhost"));
    let server = Server::start(&pair, &[]).await;
    let options = folder.trusting(&[&pair.certificate]);
    assert!(server.ask(&options).await.is_ok());
    refused(server.ask_as("other.example", &options).await, "not valid for name");
    // Another one from the same authority is not trusted by that.
    let sibling = Server::start(&authority.sign(&params("localhost")), &[]).await;
    refused(sibling.ask(&options).await, "UnknownIssuer");
}

#[tokio::test]
async fn client_certificate() {
    let folder = Folder::new();
    let (ca, client_ca) = (Authority::new("servers"), Authority::new("clients"));
    let server = Server::start(&ca.sign(&params("localhost")), &[&client_ca.certificate]).await;
    let client = client_ca.sign(&params("me"));
    let (certificate, key) = (
        folder.write("me.pem", &client.certificate),
        folder.write("me-key.pem", &client.key),
    );
    let without = folder.trusting(&[&ca.certificate]);
    refused(server.ask(&without).await, "CertificateRequired");
    let with = TlsOptions {
        client_certificate: Some((certificate.clone(), key)),
        ..without.clone()
    };
    assert_eq!(server.ask(&with).await.unwrap(), "hello 1");
    let insecure = TlsOptions {
        insecure: true,
        ca_files: Vec::new(),
        ..with.clone()
    };
    assert_eq!(server.ask(&insecure).await.unwrap(), "hello 1");
    // One that the server does not know.
    let stranger = Authority::new("strangers").sign(&params("me"));
    let strange = TlsOptions {
        client_certificate: Some((
            folder.write("strange.pem", &stranger.certificate),
            folder.write("strange-key.pem", &stranger.key),
        )),
        ..without.clone()
    };
    assert!(server.ask(&strange).await.is_err());
    // The key of another certificate.
    let mixed = TlsOptions {
        client_certificate: Some((certificate, folder.path().join("strange-key.pem"))),
        ..without
    };
    let error = client_config(&mixed, "localhost").unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    let text = error.to_string();
    assert!(text.contains("me.pem") && text.contains("strange-key.pem"), "{text}");
}

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
    // Of two certificates the one that the server's authority has signed is shown, though it is the second.
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
    let check = |options: TlsOptions, name: &Path, kind: Kind, what: &str| {
        let error = client_config(&options, "localhost").unwrap_err();
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
        (&letters, Kind::Malformed, "no valid PEM"),
        (&inside, Kind::Malformed, "cannot be used"),
        (&absent, Kind::Io, "cannot read"),
    ] {
        let options = TlsOptions {
            ca_files: vec![good.clone(), path.clone()],
            ..TlsOptions::default()
        };
        check(options, path, kind, what);
    }
    for (path, kind, what) in [
        (&empty, Kind::Malformed, "no PEM private key"),
        (&good, Kind::Malformed, "no PEM private key"),
        (&locked, Kind::Malformed, "with a password"),
        (&key_inside, Kind::Malformed, "cannot be used"),
        (&absent, Kind::Io, "cannot read"),
    ] {
        let options = TlsOptions {
            client_certificate: Some((good.clone(), path.clone())),
            insecure: true,
            ..TlsOptions::default()
        };
        check(options, path, kind, what);
    }
}

#[tokio::test]
async fn the_http_client_takes_it() {
    let folder = Folder::new();
    let pair = self_signed(|_| ());
    let server = Server::start(&pair, &[]).await;
    let get = |options: TlsOptions| {
        let url = format!("https://localhost:{}/", server.port);
        async move {
            let client = reqwest::Client::builder()
                .no_proxy()
                .http1_only()
                .tls_backend_preconfigured(client_config(&options, "localhost").unwrap())
                .build()
                .unwrap();
            client.get(url).send().await?.text().await
        }
    };
    assert_eq!(get(folder.trusting(&[&pair.certificate])).await.unwrap(), "hello 0");
    assert!(get(folder.trusting(&[])).await.is_err());
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
    // The server asks for a certificate and trusts a client authority that openssl made too.
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
            client_certificate: Some((at(&format!("{form}.pem")), at(&format!("{form}.key")))),
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
        let options = TlsOptions {
            client_certificate: Some((at("pkcs8.pem"), at(&format!("{form}.key")))),
            ..trusting.clone()
        };
        let error = client_config(&options, "localhost").unwrap_err();
        assert!(error.to_string().contains("with a password"), "{form}: {error:?}");
    }
}
