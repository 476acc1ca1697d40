//! Reason for a proxy's refusal of a tunnel.
//! The HTTP library hides the proxy's answer, so the proxy is asked once more.

use std::time::Duration;

use base64::Engine;
use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::redact::printable;

/// Maximum time for the proxy's answer. Without an answer the error stays unchanged.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maximum number of bytes read of the proxy's answer; the first line is enough.
const MAX_ANSWER: u64 = 512;

/// Text of the library's error for a refused tunnel without a reason; the error has no public type.
pub(super) const UNEXPLAINED: &str = "tunnel error: unsuccessful";

/// Returns the status with which a proxy refuses a tunnel to the host of `url`.
/// Example: `403 Forbidden`, in the proxy's words.
pub(super) async fn refusal(proxy: &Url, url: &Url) -> Option<String> {
    if proxy.scheme() != "http" {
        return None;
    }
    let line = tokio::time::timeout(PATIENCE, first_line(proxy, url)).await.ok()??;
    let (version, status) = line.split_once(' ')?;
    let is_status = version.starts_with("HTTP/") && status.starts_with(|first: char| first.is_ascii_digit());
    // If the proxy opens the tunnel now, its answer does not explain the earlier refusal.
    (is_status && !status.starts_with('2')).then(|| printable(status.trim(), 128))
}

async fn first_line(proxy: &Url, url: &Url) -> Option<String> {
    let address = (
        proxy.host_str()?.trim_matches(['[', ']']),
        proxy.port_or_known_default()?,
    );
    let mut stream = TcpStream::connect(address).await.ok()?;
    let target = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
    let login = match proxy.username() {
        "" => String::new(),
        name => {
            let decode = |text: &str| percent_decoded(text);
            let pair = format!("{}:{}", decode(name), decode(proxy.password().unwrap_or_default()));
            let pair = base64::engine::general_purpose::STANDARD.encode(pair);
            format!("Proxy-Authorization: Basic {pair}\r\n")
        }
    };
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let mut limited = stream.take(MAX_ANSWER);
    while !answer.contains(&b'\n') {
        if limited.read_buf(&mut answer).await.ok()? == 0 {
            break;
        }
    }
    let line = answer.split(|byte| *byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).trim().to_owned())
}

/// Decodes the percent encoding of a URL's part.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn parts_of_a_url_are_decoded() {
        for (text, expected) in [
            ("a", "a"),
            ("p%40ss%3a", "p@ss:"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
        ] {
            assert_eq!(percent_decoded(text), expected);
        }
    }

    #[tokio::test]
    async fn the_first_line_of_a_proxy_is_quoted() {
        for (answer, expected) in [
            (
                "HTTP/1.1 403 Forbidden by\u{1b}[1m rule\r\n\r\n",
                Some("403 Forbidden by\\u{1b}[1m rule"),
            ),
            ("HTTP/1.0 502 Bad Gateway\n\n", Some("502 Bad Gateway")),
            ("HTTP/1.1 200 Connection established\r\n\r\n", None),
            ("nonsense\r\n", None),
            ("", None),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let proxy = Url::parse(&format!("http://u:p@{}/", listener.local_addr().unwrap())).unwrap();
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                assert!(request.starts_with("CONNECT r.example:443 HTTP/1.1\r\n"), "{request}");
                assert!(request.contains("Proxy-Authorization: Basic dTpw\r\n"), "{request}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let url = Url::parse("https://r.example/v2/").unwrap();
            let (found, ()) = tokio::join!(refusal(&proxy, &url), serve);
            assert_eq!(found.as_deref(), expected, "{answer}");
        }
    }
}
