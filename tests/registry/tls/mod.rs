//! TLS over real connections on the loopback interface.

mod files;

use crate::support;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use docker_mirror::{Authorities, ClientCertificate, Kind, TlsOptions, testing::client_config};
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

/// A TLS server that answers every connection with `hello` and the number of client certificates.
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

    /// Connects as `localhost`. Returns the last word of the answer, or the text of the error.
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
        // With TLS 1.3, a client learns only while reading that its certificate was refused.
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
            authorities: pems
                .iter()
                .enumerate()
                .map(|(i, pem)| Authorities::read(&self.write(&format!("trusted{i}.pem"), pem)).unwrap())
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
        client_certificate: Some(ClientCertificate::read(&certificate, &key).unwrap()),
        ..without.clone()
    };
    assert_eq!(server.ask(&with).await.unwrap(), "hello 1");
    let insecure = TlsOptions {
        insecure: true,
        authorities: Vec::new(),
        ..with.clone()
    };
    assert_eq!(server.ask(&insecure).await.unwrap(), "hello 1");
    // One that the server does not know.
    let stranger = Authority::new("strangers").sign(&params("me"));
    let strange = TlsOptions {
        client_certificate: Some(
            ClientCertificate::read(
                &folder.write("strange.pem", &stranger.certificate),
                &folder.write("strange-key.pem", &stranger.key),
            )
            .unwrap(),
        ),
        ..without.clone()
    };
    assert!(server.ask(&strange).await.is_err());
    // The key of another certificate.
    let error = ClientCertificate::read(&certificate, &folder.path().join("strange-key.pem")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    let text = error.to_string();
    assert!(text.contains("me.pem") && text.contains("strange-key.pem"), "{text}");
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
