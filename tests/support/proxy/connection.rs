//! A connection of a client: forwards requests to the registry and answers to the client, with the faults of the schedule.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::chaos::{Asked, Mishap, RetryAfter};
use super::Shared;
use super::message::{Half, Head, broken, flipped, read};

/// Maximum length, in bytes, of answers that can be sent twice or in place of another answer.
const SMALL: u64 = 1 << 20;

/// Maximum time of a stall; a client should have closed the connection long before.
const LONGEST: Duration = Duration::from_secs(60);

/// Time after which the proxy resets an upload that it has stopped reading.
const SHORT: Duration = Duration::from_millis(2500);

/// A connection of a client.
pub(super) struct Connection {
    client: Half,
    shared: Arc<Shared>,
}

fn place(fraction: u64, length: u64) -> u64 {
    (length as u128 * u128::from(fraction) / 1024) as u64
}

impl Connection {
    pub(super) fn new(client: TcpStream, shared: Arc<Shared>) -> Self {
        Self {
            client: Half::new(client),
            shared,
        }
    }

    pub(super) async fn serve(&mut self) -> io::Result<()> {
        while let Some(bytes) = self.client.head().await? {
            self.keep(&bytes);
            let head = Head::parse(&bytes);
            let (method, target) = (head.word(0).to_owned(), head.word(1).to_owned());
            if target.starts_with("/chaos-token") {
                self.hand_out_a_token().await?;
                continue;
            }
            let schedule = self.shared.schedule.read().unwrap().clone();
            let asked = Asked {
                method: &method,
                target: &target,
                body: head.length().unwrap_or(0),
            };
            let mishap = schedule.as_ref().and_then(|schedule| schedule.draw(asked));
            let result = self.exchange(head, mishap).await;
            if let (Some(schedule), Some(mishap)) = (&schedule, mishap) {
                let done = !matches!(result, Ok(false));
                if done {
                    schedule.happened(mishap);
                }
                let mut log = self.shared.log.lock().unwrap();
                let note = if done { "" } else { " (does not fit)" };
                log.push(format!("{mishap:?}{note}: {method} {target}"));
            }
            result?;
        }
        Ok(())
    }

    fn keep(&self, bytes: &[u8]) {
        if let Some(record) = &self.shared.record {
            record.lock().unwrap().extend_from_slice(bytes);
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.client.stream.write_all(bytes).await
    }

    async fn answer(&mut self, status: &str, headers: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}");
        self.say(text.as_bytes()).await
    }

    async fn hand_out_a_token(&mut self) -> io::Result<()> {
        let json = "content-type: application/json\r\n";
        self.answer("200 OK", json, r#"{"token":"of-the-proxy","expires_in":60}"#)
            .await
    }

    /// Resets the connection, and returns the error that ends its task.
    fn reset(&self) -> io::Error {
        let _ = self.client.stream.set_zero_linger();
        broken()
    }

    /// Sends nothing more until the client has closed the connection.
    async fn stall(&mut self) -> io::Error {
        let gone = async {
            let mut waste = [0; 4096];
            while self.client.stream.read(&mut waste).await.is_ok_and(|n| n > 0) {}
        };
        let _ = tokio::time::timeout(LONGEST, gone).await;
        broken()
    }

    /// Forwards a request and its answer. Returns `false` if the fault does not fit the answer, so that nothing went wrong.
    async fn exchange(&mut self, head: Head, mishap: Option<Mishap>) -> io::Result<bool> {
        let length = head.length().unwrap_or(0);
        let headless = head.word(0) == "HEAD";
        match mishap {
            Some(Mishap::Refused) => return Err(self.reset()),
            Some(Mishap::Late(pause)) => tokio::time::sleep(pause).await,
            Some(Mishap::Trouble {
                status,
                retry_after,
                carried_out: false,
            }) => {
                self.swallow(length).await?;
                self.trouble(status, retry_after, headless).await?;
                return Ok(true);
            }
            Some(Mishap::Garbage) => {
                self.swallow(length).await?;
                self.say(b"\x16\x03\x01 this is no HTTP\r\n\r\n").await?;
                return Err(broken());
            }
            Some(Mishap::Challenged) => {
                self.swallow(length).await?;
                let realm = format!(
                    "www-authenticate: Bearer realm=\"http://{}/chaos-token\",service=\"chaos\"\r\n",
                    self.shared.address
                );
                let body = if headless {
                    ""
                } else {
                    r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#
                };
                self.answer("401 Unauthorized", &realm, body).await?;
                return Ok(true);
            }
            _ => {}
        }
        let target = head.word(1).to_owned();
        let mut server = self.pass_on(head, length, mishap).await?;
        let Some(bytes) = server.head().await? else {
            return Err(broken());
        };
        let answer = Head::parse(&bytes).without("connection");
        match mishap {
            Some(Mishap::Lost) => return Err(self.reset()),
            Some(Mishap::Trouble {
                status, retry_after, ..
            }) => {
                self.trouble(status, retry_after, headless).await?;
                return Ok(true);
            }
            _ => {}
        }
        let empty = headless || matches!(answer.word(1), "204" | "304");
        let expected = if empty { Some(0) } else { answer.length() };
        let by_digest = target.contains("/blobs/sha256:") || target.contains("/manifests/sha256:");
        if let Some(size) = expected.filter(|size| *size <= SMALL && !empty && by_digest && answer.word(1) == "200") {
            let body = read(&mut server, size).await?;
            let whole = Bytes::from([answer.bytes("").as_slice(), &body].concat());
            let other = self.shared.kept.lock().unwrap().replace((target.clone(), whole));
            if mishap == Some(Mishap::Misplaced)
                && let Some((_, other)) = other.filter(|(path, _)| *path != target)
            {
                self.say(&other).await?;
                return Ok(true);
            }
            server.rest = BytesMut::from(&body[..]);
        }
        self.hand_back(&answer, server, expected, mishap).await
    }

    /// Reads a request's body without forwarding it.
    async fn swallow(&mut self, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let bytes = self.client.some(length).await?;
            if bytes.is_empty() {
                return Err(broken());
            }
            self.keep(&bytes);
            length -= bytes.len() as u64;
        }
        Ok(())
    }

    async fn trouble(&mut self, status: u16, retry_after: RetryAfter, headless: bool) -> io::Result<()> {
        let wait = match retry_after {
            RetryAfter::Unsaid => String::new(),
            RetryAfter::Seconds(n) => format!("retry-after: {n}\r\n"),
            RetryAfter::Date(n) => {
                let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(n));
                format!("retry-after: {date}\r\n")
            }
        };
        let body = if headless {
            ""
        } else {
            "<html><body>out of order</body></html>"
        };
        let headers = format!("content-type: text/html\r\n{wait}");
        self.answer(&format!("{status} Trouble"), &headers, body).await
    }

    /// Forwards a request to the registry.
    async fn pass_on(&mut self, head: Head, length: u64, mishap: Option<Mishap>) -> io::Result<Half> {
        let mut server = Half::new(TcpStream::connect(&self.shared.upstream).await?);
        let head = head.without("connection").bytes("connection: close\r\n");
        server.stream.write_all(&head).await?;
        let (cut, stall, flip) = match mishap {
            Some(Mishap::UploadCut(at)) => (place(at, length), u64::MAX, u64::MAX),
            Some(Mishap::UploadStalled(at)) => (u64::MAX, place(at, length), u64::MAX),
            Some(Mishap::UploadFlipped(at)) => (u64::MAX, u64::MAX, place(at, length)),
            _ => (u64::MAX, u64::MAX, u64::MAX),
        };
        let mut at = 0;
        while at < length {
            if at == cut {
                return Err(self.reset());
            }
            if at == stall {
                // The reset ends the stall: a small body is already in the connection's buffers, and its sender waits for an answer.
                tokio::time::sleep(SHORT).await;
                return Err(self.reset());
            }
            let limit = [length, cut, stall].into_iter().filter(|end| *end > at).min();
            let mut limit = limit.unwrap_or(length) - at;
            if let Some(rate) = self.shared.rate {
                limit = limit.min(rate / 50);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let bytes = self.client.some(limit).await?;
            if bytes.is_empty() {
                return Err(broken());
            }
            self.keep(&bytes);
            let bytes = flipped(bytes, at, flip);
            at += bytes.len() as u64;
            if server.stream.write_all(&bytes).await.is_err() {
                // The registry has answered without reading the whole body.
                self.swallow(length - at).await?;
                break;
            }
        }
        Ok(server)
    }

    /// Forwards an answer to the client.
    async fn hand_back(
        &mut self,
        answer: &Head,
        mut server: Half,
        expected: Option<u64>,
        mishap: Option<Mishap>,
    ) -> io::Result<bool> {
        let head = answer.bytes("");
        let length = expected.unwrap_or(0);
        if let (Some(Mishap::Twice), Some(length)) = (mishap, expected.filter(|length| *length <= SMALL)) {
            let body = read(&mut server, length).await?;
            let whole = [head.as_slice(), &body].concat();
            self.say(&whole.repeat(2)).await?;
            return Ok(true);
        }
        self.say(&head).await?;
        let (end, flip) = match mishap {
            Some(Mishap::Reset(at) | Mishap::Closed(at)) => (place(at, length), u64::MAX),
            // Without a body, the client would have the whole answer, and the stall would hit the next request.
            Some(Mishap::Stalled(at)) if length > 0 => (place(at, length), u64::MAX),
            Some(Mishap::Flipped(at)) => (u64::MAX, place(at, length)),
            _ => (u64::MAX, u64::MAX),
        };
        let limit = expected.unwrap_or(u64::MAX);
        let mut at = 0;
        loop {
            if at >= end {
                return Err(match mishap {
                    Some(Mishap::Reset(_)) => self.reset(),
                    Some(Mishap::Stalled(_)) => self.stall().await,
                    _ => broken(),
                });
            }
            let bytes = server.some(limit.min(end) - at).await?;
            if bytes.is_empty() {
                break;
            }
            let bytes = flipped(bytes, at, flip);
            if mishap == Some(Mishap::Dripping) {
                for piece in bytes.chunks((length / 50).max(7) as usize) {
                    self.say(piece).await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            } else {
                self.say(&bytes).await?;
            }
            at += bytes.len() as u64;
        }
        if expected.is_some_and(|expected| at < expected) {
            return Err(broken());
        }
        let fits = match mishap {
            None | Some(Mishap::Late(_) | Mishap::UploadFlipped(_)) => true,
            Some(Mishap::Flipped(_) | Mishap::Dripping) => length > 0,
            _ => false,
        };
        Ok(fits)
    }
}
