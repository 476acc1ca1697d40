//! A server that handles each request as a script says, on the virtual clock of the test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

/// What a server does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Reads the whole body of the request.
    Take,
    /// Reads this many bytes of the body of the request.
    TakeSome(usize),
    /// Reads the whole body, this many bytes at a time with a pause after each part. The system's buffers are as small
    /// as possible.
    TakeSlowly(usize, Duration),
    /// Sends these bytes.
    Say(Vec<u8>),
    /// Waits this long.
    Pause(Duration),
    /// Sends this text repeatedly, each time after a pause, until the client has closed the connection.
    Drip(&'static str, Duration),
    /// Does nothing more, and keeps the connection.
    Hang,
}

/// A request as the script sees it.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    /// How many requests with this method came before it.
    pub(crate) nth: usize,
    /// The first byte that is wanted.
    pub(crate) from: usize,
}

/// A server; it goes with the runtime.
pub(crate) struct Server {
    pub(crate) host: String,
    log: Arc<Mutex<Vec<(String, String)>>>,
}

impl Server {
    /// Starts a server that follows `script`. After the steps for one request, the server reads the next request.
    pub(crate) async fn start(script: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // The accepted connections inherit the size: the system buffers almost no unread bytes.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(64).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::<Mutex<Vec<(String, String)>>>::default();
        let (script, shared) = (Arc::new(script), log.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (script, log) = (script.clone(), shared.clone());
                tokio::spawn(async move { serve(client, &*script, &log).await });
            }
        });
        Self { host, log }
    }

    /// How often this was asked for.
    pub(crate) fn count(&self, method: &str, target: &str) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|(m, t)| m == method && t.contains(target)).count()
    }

    /// All requests, for messages.
    pub(crate) fn transcript(&self) -> String {
        format!("{:#?}", self.log.lock().unwrap())
    }
}

async fn serve(
    mut client: TcpStream,
    script: &(impl Fn(&Asked) -> Vec<Step> + Send + Sync),
    log: &Mutex<Vec<(String, String)>>,
) {
    let mut rest = Vec::new();
    while let Some((head, length)) = head(&mut client, &mut rest).await {
        let mut words = head.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let range = head.to_lowercase();
        let range = range
            .split_once("range: bytes=")
            .and_then(|(_, r)| r.split('-').next()?.parse().ok());
        let asked = {
            let mut log = log.lock().unwrap();
            let nth = log.iter().filter(|(m, _)| *m == method).count();
            log.push((method.clone(), target.clone()));
            Asked {
                method,
                target,
                nth,
                from: range.unwrap_or_default(),
            }
        };
        let mut left = length;
        for step in script(&asked) {
            let done = match step {
                Step::Take => take(&mut client, &mut rest, std::mem::take(&mut left)).await,
                Step::TakeSome(count) => {
                    left -= count;
                    take(&mut client, &mut rest, count).await
                }
                Step::TakeSlowly(piece, pause) => {
                    let mut good = true;
                    while good && left > 0 {
                        let count = piece.min(left);
                        left -= count;
                        good = take(&mut client, &mut rest, count).await;
                        sleep(pause).await;
                    }
                    good
                }
                Step::Say(bytes) => client.write_all(&bytes).await.is_ok(),
                Step::Pause(pause) => {
                    sleep(pause).await;
                    true
                }
                Step::Drip(piece, pause) => loop {
                    sleep(pause).await;
                    if client.write_all(piece.as_bytes()).await.is_err() {
                        return;
                    }
                },
                Step::Hang => {
                    // A client that gives up closes the connection.
                    let mut waste = [0; 1024];
                    while client.read(&mut waste).await.is_ok_and(|n| n > 0) {}
                    return;
                }
            };
            if !done {
                return;
            }
        }
        if !take(&mut client, &mut rest, left).await {
            return;
        }
    }
}

/// Returns the head of the next request and the length of its body; `None` at the end of the connection.
async fn head(client: &mut TcpStream, rest: &mut Vec<u8>) -> Option<(String, usize)> {
    loop {
        if let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
            let head: Vec<u8> = rest.drain(..end + 4).collect();
            let head = String::from_utf8_lossy(&head).into_owned();
            let lower = head.to_lowercase();
            let length = lower
                .split_once("content-length: ")
                .and_then(|(_, text)| text.lines().next()?.parse().ok());
            return Some((head, length.unwrap_or(0)));
        }
        if client.read_buf(rest).await.ok()? == 0 {
            return None;
        }
    }
}

async fn take(client: &mut TcpStream, rest: &mut Vec<u8>, mut left: usize) -> bool {
    let here = left.min(rest.len());
    rest.drain(..here);
    left -= here;
    let mut waste = vec![0; 64 << 10];
    while left > 0 {
        let most = left.min(waste.len());
        match client.read(&mut waste[..most]).await {
            Ok(n @ 1..) => left -= n,
            _ => return false,
        }
    }
    true
}

/// The answer to a HEAD for something that is there, without its length.
pub(crate) fn present() -> Step {
    Step::Say(b"HTTP/1.1 200 Scripted\r\n\r\n".to_vec())
}

/// The head of an answer, with a length where one is given.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], length: usize) -> Step {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {length}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    Step::Say(text.into_bytes())
}
