//! A small blocking HTTP client for tests, independent of the program under test.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::image::Image;
use super::store::sha256;

/// Value of the `Accept` header: all manifest types that the tests use.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A client of one registry.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// Address of the registry, as `HOST:PORT`.
    pub host: String,
    /// Certificate authority (PEM) of the registry; `None` for plain HTTP.
    pub authority: Option<String>,
    /// User name and password for Basic authentication.
    pub login: Option<(String, String)>,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

impl Client {
    pub fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            ..Self::default()
        }
    }

    fn connect(&self) -> std::io::Result<Box<dyn Connection>> {
        let stream = TcpStream::connect(&self.host)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let Some(pem) = &self.authority else {
            return Ok(Box::new(stream));
        };
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Ok(Box::new(StreamOwned::new(
            ClientConnection::new(Arc::new(config), name).unwrap(),
            stream,
        )))
    }

    /// Sends a request on a new connection.
    pub fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut connection = self.connect()?;
        let mut text = format!(
            "{method} {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
            self.host
        );
        text.push_str(&format!("content-length: {}\r\n", body.len()));
        if let Some((user, password)) = &self.login {
            let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            text.push_str(&format!("authorization: Basic {encoded}\r\n"));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        connection.write_all(text.as_bytes())?;
        connection.write_all(b"\r\n")?;
        connection.write_all(body)?;
        connection.flush()?;
        let mut bytes = Vec::new();
        // An error at the end is ignored, such as a TLS connection closed without an alert: every answer states its length.
        let _ = connection.read_to_end(&mut bytes);
        parse(&bytes, method == "HEAD").ok_or_else(|| std::io::Error::other("the answer is no HTTP, or broke off"))
    }

    fn expect(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8], statuses: &[u16]) -> Answer {
        let answer = self
            .request(method, target, headers, body)
            .unwrap_or_else(|e| panic!("{method} {target} at {}: {e}", self.host));
        let (status, text) = (answer.status, answer.text());
        assert!(
            statuses.contains(&status),
            "{method} {target} at {}: {status} {text}",
            self.host
        );
        answer
    }

    /// Returns whether the registry answers `/v2/` with 200.
    pub fn ping(&self) -> bool {
        self.request("GET", "/v2/", &[], b"").is_ok_and(|a| a.status == 200)
    }

    /// Returns the bytes of a manifest, checked against the stated digest, or `None` if the manifest is not found.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        let target = format!("/v2/{repository}/manifests/{reference}");
        let answer = self.expect("GET", &target, &[("accept", ACCEPT)], b"", &[200, 404]);
        if answer.status == 404 {
            return None;
        }
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(sha256(&answer.body).as_str()),
            "{target}"
        );
        Some(answer.body)
    }

    /// Returns the bytes of a blob, or `None` if the blob is not found.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let answer = self.expect(
            "GET",
            &format!("/v2/{repository}/blobs/{digest}"),
            &[],
            b"",
            &[200, 404],
        );
        (answer.status == 200).then_some(answer.body)
    }

    /// Returns the tags of a repository.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let answer = self.expect("GET", &format!("/v2/{repository}/tags/list"), &[], b"", &[200, 404]);
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let tags = json["tags"].as_array().cloned().unwrap_or_default();
        tags.iter().map(|t| t.as_str().unwrap().to_owned()).collect()
    }

    /// Pushes an image, blobs first and the tag last.
    pub fn push(&self, image: &Image, repository: &str, tag: &str) {
        for (digest, bytes) in &image.blobs {
            let start = self.expect("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"", &[202]);
            let location = start.header("location").expect("no Location").to_owned();
            let path = match location.split_once("://") {
                Some((_, rest)) => &rest[rest.find('/').unwrap()..],
                None => &location,
            };
            let joint = if path.contains('?') { '&' } else { '?' };
            let kind = [("content-type", "application/octet-stream")];
            self.expect("PUT", &format!("{path}{joint}digest={digest}"), &kind, bytes, &[201]);
        }
        for document in image.documents() {
            let reference = if document.digest == image.root.digest {
                tag
            } else {
                &document.digest
            };
            let target = format!("/v2/{repository}/manifests/{reference}");
            self.expect(
                "PUT",
                &target,
                &[("content-type", &document.media_type)],
                &document.bytes,
                &[201],
            );
        }
    }
}

fn parse(bytes: &[u8], head: bool) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let rest = &bytes[end + 4..];
    let field = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let body = if head {
        Vec::new()
    } else if field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        unchunk(rest)?
    } else if let Some(length) = field("content-length") {
        rest.get(..length.parse().ok()?)?.to_vec()
    } else {
        rest.to_vec()
    };
    Some(Answer { status, headers, body })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
