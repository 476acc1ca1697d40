//! A token server according to distribution's "Token Authentication Implementation". The server signs JSON web tokens with
//! RS256, with a key whose certificate a real registry trusts.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DnType, KeyPair, SigningKey};
use serde_json::json;

use super::tls::write_pem;

/// Time in seconds for which distribution accepts a token after the token has expired.
const LEEWAY: i64 = 60;

/// Name of the issuer of the tokens.
const ISSUER: &str = "token server of a test";
pub const SERVICE: &str = "registry of a test";

/// The token server. Dropping this value ends the server.
pub struct TokenServer {
    shared: Arc<Shared>,
    address: String,
}

struct Shared {
    key: KeyPair,
    certificate: rcgen::Certificate,
    /// User name and password of the only user.
    user: (String, String),
    /// Time in seconds for which the registry accepts a token.
    lifetime: i64,
    issued: AtomicU64,
    tokens: Mutex<Vec<String>>,
    ended: AtomicBool,
}

impl TokenServer {
    pub fn start(user: &str, password: &str, lifetime: i64) -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, ISSUER);
        let shared = Arc::new(Shared {
            certificate: params.self_signed(&key).unwrap(),
            key,
            user: (user.to_owned(), password.to_owned()),
            lifetime,
            issued: AtomicU64::new(0),
            tokens: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = serving.clone();
                std::thread::spawn(move || shared.serve(client));
            }
        });
        Self { shared, address }
    }

    /// Writes the server's certificate into a folder, and returns the `auth:` section of a registry that trusts the server.
    pub fn configuration(&self, folder: &Path) -> String {
        let bundle: PathBuf = write_pem(folder, "token.pem", &self.shared.certificate.pem());
        format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    rootcertbundle: {}\n",
            self.address,
            bundle.display()
        )
    }

    /// Returns the number of issued tokens.
    pub fn issued(&self) -> u64 {
        self.shared.issued.load(Ordering::SeqCst)
    }

    /// Returns all issued tokens.
    pub fn tokens(&self) -> Vec<String> {
        self.shared.tokens.lock().unwrap().clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // The connection wakes the listening thread, which then sees that the server has ended.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(client.try_clone().ok()?);
        let mut first = String::new();
        reader.read_line(&mut first).ok()?;
        let mut authorization = None;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("authorization") {
                authorization = Some(value.trim().to_owned());
            }
        }
        let (status, body) = self.answer(&first, authorization.as_deref());
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        (&client).write_all(text.as_bytes()).ok()
    }

    fn answer(&self, line: &str, authorization: Option<&str>) -> (&'static str, String) {
        let mut words = line.split(' ');
        if words.next() != Some("GET") {
            return ("405 Method Not Allowed", "{}".to_owned());
        }
        let expected = format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user.0, self.user.1)));
        if authorization != Some(&expected) {
            return ("401 Unauthorized", r#"{"details":"wrong name or password"}"#.to_owned());
        }
        let target = words.next().unwrap_or_default();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let fields: Vec<(String, String)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        let mut access = Vec::new();
        for (_, scopes) in fields.iter().filter(|(name, _)| name == "scope") {
            for scope in scopes.split(' ') {
                let parts: Vec<&str> = scope.split(':').collect();
                let [kind, name @ .., actions] = parts.as_slice() else {
                    continue;
                };
                let actions: Vec<&str> = actions.split(',').collect();
                access.push(json!({"type": kind, "name": name.join(":"), "actions": actions}));
            }
        }
        let token = self.sign(&access);
        self.tokens.lock().unwrap().push(token.clone());
        (
            "200 OK",
            json!({"token": token, "expires_in": self.lifetime}).to_string(),
        )
    }

    fn sign(&self, access: &[serde_json::Value]) -> String {
        let number = self.issued.fetch_add(1, Ordering::SeqCst);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(self.certificate.der())]});
        let claims = json!({
            "iss": ISSUER, "sub": self.user.0, "aud": SERVICE, "jti": number.to_string(),
            "iat": now - LEEWAY, "nbf": now - 2 * LEEWAY, "exp": now + self.lifetime - LEEWAY, "access": access,
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Decodes the percent signs and pluses of a query value.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                let hex = String::from_utf8(hex).unwrap();
                bytes.push(u8::from_str_radix(&hex, 16).unwrap());
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).unwrap()
}
