//! A registry for measurements that is not what limits them: blobs go from the page cache to the socket without a copy
//! (`sendfile`), what is uploaded is counted and thrown away, and lines and limits are imitated by flags. One thread for each
//! connection; HTTP/1.1 as far as registry clients need it.
//!
//! A pull reads the storage tree of a docker-registry. A push keeps manifests and the digests of blobs in memory, so that a
//! client that looks for what it pushed finds it. No digest is checked.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit, missing_docs)]

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use sha2::{Digest as _, Sha256};

const USAGE: &str = "\
bench-server: a registry for measurements, on 127.0.0.1

  --storage FOLDER          serves the storage tree of a docker-registry; empty otherwise
  --listen ADDRESS          instead of 127.0.0.1:0, a free port
  --delay MS                round trip: each answer and each new connection comes this much later
  --connection-rate MB/S    of each connection, in both directions
  --total-rate MB/S         of all connections together
  --refuse-above N          answers 429 to what goes beyond N requests at a time
  --retry-after S           with a Retry-After of this many seconds

Prints HOST:PORT. A line on standard input is answered with counts, as JSON, since the line before; the end of it ends the server.
";

/// Number of bytes that are sent or discarded in one system call.
const STEP: u64 = 1 << 20;

/// The same on a line with a rate.
const PACED_STEP: u64 = 64 << 10;

/// Maximum time by which a line may be late and then faster than its rate.
const LATE: Duration = Duration::from_millis(100);

/// Maximum length in bytes of a request's head, and of a manifest.
const MAX_HEAD: u64 = 64 << 10;
const MAX_MANIFEST: u64 = 16 << 20;

fn main() {
    let mut server = Server::default();
    let mut address = "127.0.0.1:0".to_owned();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--help" {
            return print!("{USAGE}");
        }
        let value = arguments
            .next()
            .unwrap_or_else(|| fail(&format!("`{flag}` needs a value")));
        let number = || {
            value
                .parse::<f64>()
                .unwrap_or_else(|_| fail(&format!("`{flag} {value}` is no number")))
        };
        match flag.as_str() {
            "--storage" => server.storage = Some(PathBuf::from(&value).join("docker/registry/v2")),
            "--listen" => address = value,
            "--delay" => server.delay = Duration::from_secs_f64(number() / 1e3),
            "--connection-rate" => server.connection_rate = Some(number() * 1e6),
            "--total-rate" => server.total_rate = Some((number() * 1e6, Mutex::new(Instant::now()))),
            "--refuse-above" => server.refuse_above = Some(number() as u64),
            "--retry-after" => server.retry_after = Some(number() as u64),
            _ => fail(&format!("unknown argument `{flag}`")),
        }
    }
    let listener =
        TcpListener::bind(&address).unwrap_or_else(|error| fail(&format!("cannot listen on {address}: {error}")));
    println!("{}", listener.local_addr().expect("a listener has an address"));
    let server = Arc::new(server);
    let accepting = server.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = accepting.clone();
            thread::spawn(move || {
                server.connections.fetch_add(1, Ordering::Relaxed);
                // A client that goes away is no failure of the server.
                let _ = server.serve(&stream);
            });
        }
    });
    for _ in io::stdin().lines() {
        println!("{}", server.counts());
    }
}

fn fail(why: &str) -> ! {
    eprintln!("bench-server: {why}\n\n{USAGE}");
    std::process::exit(2);
}

#[derive(Default)]
struct Server {
    storage: Option<PathBuf>,
    delay: Duration,
    /// In bytes per second.
    connection_rate: Option<f64>,
    /// The same, and when the line is free again.
    total_rate: Option<(f64, Mutex<Instant>)>,
    refuse_above: Option<u64>,
    retry_after: Option<u64>,
    pushed: Mutex<Pushed>,
    under_way: AtomicU64,
    connections: AtomicU64,
    requests: AtomicU64,
    refused: AtomicU64,
    peak: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

#[derive(Default)]
struct Pushed {
    /// Media type and bytes, by repository and tag or digest.
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    /// Sizes of blobs.
    sizes: HashMap<String, u64>,
    /// Repositories and the blobs that they have.
    blobs: HashSet<(String, String)>,
    /// Bytes of open uploads.
    uploads: HashMap<u64, u64>,
    next: u64,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: HashMap<String, String>,
    /// Bytes of the body that are not read.
    left: u64,
}

/// What is answered, besides the status.
#[derive(Default)]
struct Reply {
    headers: String,
    length: u64,
    body: Content,
}

#[derive(Default)]
enum Content {
    #[default]
    None,
    Bytes(Vec<u8>),
    File(File, u64),
}

/// Takes care that no more goes over a line than its rate allows.
struct Line<'a> {
    server: &'a Server,
    free: Instant,
}

/// A request that is being answered. It ends before its last bytes are sent: what a client sends after them must not meet it.
struct UnderWay<'a> {
    count: &'a AtomicU64,
    number: u64,
    ended: Cell<bool>,
}

impl<'a> UnderWay<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let ended = Cell::new(false);
        Self { count, number, ended }
    }

    fn end(&self) {
        if !self.ended.replace(true) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl Line<'_> {
    fn step(&self) -> u64 {
        let is_paced = self.server.connection_rate.is_some() || self.server.total_rate.is_some();
        if is_paced { PACED_STEP } else { STEP }
    }

    /// Waits until these bytes are through.
    fn passed(&mut self, bytes: u64) {
        let time = |rate: f64| Duration::from_secs_f64(bytes as f64 / rate);
        let now = Instant::now();
        let mut until = now;
        if let Some(rate) = self.server.connection_rate {
            // Within a body, sleeps that were too long are made up for.
            self.free = self.free.max(now.checked_sub(LATE).unwrap_or(now)) + time(rate);
            until = self.free;
        }
        if let Some((rate, free)) = &self.server.total_rate {
            let mut free = free.lock().expect("no thread panics with it");
            *free = (*free).max(now) + time(*rate);
            until = until.max(*free);
        }
        let wait = until.saturating_duration_since(now);
        if wait > Duration::from_millis(1) {
            thread::sleep(wait);
        }
    }
}

impl Server {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        thread::sleep(self.delay);
        let mut reader = BufReader::with_capacity(16 << 10, stream);
        let mut line = Line {
            server: self,
            free: Instant::now(),
        };
        while let Some(mut request) = read_head(&mut reader)? {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let under_way = UnderWay::new(&self.under_way);
            self.peak.fetch_max(under_way.number, Ordering::Relaxed);
            self.exchange(&mut reader, &mut line, &mut request, under_way)?;
        }
        Ok(())
    }

    fn exchange(
        &self,
        reader: &mut BufReader<&TcpStream>,
        line: &mut Line<'_>,
        request: &mut Request,
        under_way: UnderWay<'_>,
    ) -> io::Result<()> {
        let (status, reply) = if self.refuse_above.is_some_and(|most| under_way.number > most) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            // What is refused takes no place from what comes after it.
            under_way.end();
            let after = self.retry_after.map(|after| format!("Retry-After: {after}\r\n"));
            let headers = after.unwrap_or_default();
            (
                429,
                Reply {
                    headers,
                    ..Reply::default()
                },
            )
        } else {
            self.answer(reader, line, request)?
        };
        self.discard(reader, line, request.left)?;
        thread::sleep(self.delay);
        let head = format!(
            "HTTP/1.1 {status} X\r\nDocker-Distribution-Api-Version: registry/2.0\r\n{}Content-Length: {}\r\n\r\n",
            reply.headers, reply.length
        );
        let mut stream = *reader.get_ref();
        if !matches!(reply.body, Content::File(..)) || request.method == "HEAD" {
            under_way.end();
        }
        stream.write_all(head.as_bytes())?;
        match reply.body {
            _ if request.method == "HEAD" => {}
            Content::None => {}
            Content::Bytes(bytes) => stream.write_all(&bytes)?,
            Content::File(file, start) => {
                let (mut at, end) = (start, start + reply.length);
                line.free = Instant::now();
                while at < end {
                    let step = line.step().min(end - at) as usize;
                    if at + step as u64 == end {
                        under_way.end();
                    }
                    let sent = rustix::fs::sendfile(stream, &file, Some(&mut at), step)? as u64;
                    if sent == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.sent.fetch_add(sent, Ordering::Relaxed);
                    line.passed(sent);
                }
            }
        }
        Ok(())
    }

    /// Throws away as many bytes of a body, without a copy where they are still in the socket.
    fn discard(&self, reader: &mut BufReader<&TcpStream>, line: &mut Line<'_>, mut left: u64) -> io::Result<()> {
        let buffered = left.min(reader.buffer().len() as u64);
        reader.consume(buffered as usize);
        left -= buffered;
        let mut buffer = vec![0; left.min(line.step()) as usize];
        line.free = Instant::now();
        while left > 0 {
            let want = left.min(buffer.len() as u64) as usize;
            let (_, got) = rustix::net::recv(*reader.get_ref(), &mut buffer[..want], RecvFlags::TRUNC)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= got as u64;
            self.received.fetch_add(got as u64, Ordering::Relaxed);
            line.passed(got as u64);
        }
        Ok(())
    }

    fn answer(
        &self,
        reader: &mut BufReader<&TcpStream>,
        line: &mut Line<'_>,
        request: &mut Request,
    ) -> io::Result<(u16, Reply)> {
        let path = request.path.clone();
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Ok((404, Reply::default()));
        };
        if rest.is_empty() {
            return Ok((200, Reply::default()));
        }
        if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
            return self.upload(reader, line, request, repository, id);
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            return Ok(self
                .blob(request, repository, digest)
                .unwrap_or((404, Reply::default())));
        }
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            return Ok(self.tags(repository).unwrap_or((404, Reply::default())));
        }
        let Some((repository, reference)) = rest.split_once("/manifests/") else {
            return Ok((404, Reply::default()));
        };
        if request.method == "PUT" {
            let mut bytes = Vec::new();
            reader.take(request.left.min(MAX_MANIFEST)).read_to_end(&mut bytes)?;
            request.left -= bytes.len() as u64;
            let media_type = request.headers.get("content-type").cloned().unwrap_or_default();
            let digest = digest(&bytes);
            let headers = format!("Location: {path}\r\nDocker-Content-Digest: {digest}\r\n");
            let mut pushed = self.pushed.lock().expect("no thread panics with it");
            for reference in [reference, &digest] {
                let key = (repository.to_owned(), reference.to_owned());
                pushed.manifests.insert(key, (media_type.clone(), bytes.clone()));
            }
            return Ok((
                201,
                Reply {
                    headers,
                    ..Reply::default()
                },
            ));
        }
        Ok(self.manifest(repository, reference).unwrap_or((404, Reply::default())))
    }

    fn tags(&self, repository: &str) -> Option<(u16, Reply)> {
        let repositories = self.storage.as_ref()?.join("repositories");
        let tags = std::fs::read_dir(repositories.join(repository).join("_manifests/tags")).ok()?;
        let tags = tags
            .flatten()
            .map(|tag| format!("{:?}", tag.file_name().to_string_lossy()));
        let tags = tags.collect::<Vec<_>>().join(",");
        let bytes = format!("{{\"name\":\"{repository}\",\"tags\":[{tags}]}}").into_bytes();
        let headers = "Content-Type: application/json\r\n".to_owned();
        let length = bytes.len() as u64;
        let body = Content::Bytes(bytes);
        Some((200, Reply { headers, length, body }))
    }

    fn manifest(&self, repository: &str, reference: &str) -> Option<(u16, Reply)> {
        let key = (repository.to_owned(), reference.to_owned());
        let pushed = self
            .pushed
            .lock()
            .expect("no thread panics with it")
            .manifests
            .get(&key)
            .cloned();
        let (media_type, bytes) = if let Some(pushed) = pushed {
            pushed
        } else {
            let storage = self.storage.as_ref()?;
            let digest = if reference.contains(':') {
                reference.to_owned()
            } else {
                let tags = storage.join("repositories").join(repository).join("_manifests/tags");
                std::fs::read_to_string(tags.join(reference).join("current/link")).ok()?
            };
            let bytes = std::fs::read(data(storage, &digest)?).ok()?;
            let text = String::from_utf8_lossy(&bytes);
            // The type of a manifest stands in it, before those of its parts.
            let (_, rest) = text.split_once("\"mediaType\":\"")?;
            let media_type = rest.split('"').next()?.to_owned();
            (media_type, bytes)
        };
        let headers = format!(
            "Content-Type: {media_type}\r\nDocker-Content-Digest: {}\r\n",
            digest(&bytes)
        );
        let length = bytes.len() as u64;
        let body = Content::Bytes(bytes);
        Some((200, Reply { headers, length, body }))
    }

    fn blob(&self, request: &Request, repository: &str, digest: &str) -> Option<(u16, Reply)> {
        let pushed = self.pushed.lock().expect("no thread panics with it");
        if pushed.blobs.contains(&(repository.to_owned(), digest.to_owned())) {
            let length = pushed.sizes.get(digest).copied()?;
            let headers = format!("Docker-Content-Digest: {digest}\r\n");
            return Some((
                200,
                Reply {
                    headers,
                    length,
                    body: Content::None,
                },
            ));
        }
        drop(pushed);
        let file = File::open(data(self.storage.as_ref()?, digest)?).ok()?;
        let size = file.metadata().ok()?.len();
        let mut headers = format!("Content-Type: application/octet-stream\r\nDocker-Content-Digest: {digest}\r\n");
        let range = request
            .headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes="));
        let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
            return Some((
                200,
                Reply {
                    headers,
                    length: size,
                    body: Content::File(file, 0),
                },
            ));
        };
        let first: u64 = first.parse().ok()?;
        let last = last.parse().unwrap_or(u64::MAX).min(size - 1);
        headers += &format!("Content-Range: bytes {first}-{last}/{size}\r\n");
        let length = last + 1 - first;
        Some((
            206,
            Reply {
                headers,
                length,
                body: Content::File(file, first),
            },
        ))
    }

    fn upload(
        &self,
        reader: &mut BufReader<&TcpStream>,
        line: &mut Line<'_>,
        request: &mut Request,
        repository: &str,
        id: &str,
    ) -> io::Result<(u16, Reply)> {
        let length = std::mem::take(&mut request.left);
        self.discard(reader, line, length)?;
        let mut pushed = self.pushed.lock().expect("no thread panics with it");
        let parameter = |name: &str| {
            let mut pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
            let (_, value) = pairs.find(|(key, _)| *key == name)?;
            Some(
                value
                    .replace("%3A", ":")
                    .replace("%3a", ":")
                    .replace("%2F", "/")
                    .replace("%2f", "/"),
            )
        };
        if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
            && pushed.blobs.contains(&(from, digest.clone()))
        {
            let headers = format!("Location: /v2/{repository}/blobs/{digest}\r\nDocker-Content-Digest: {digest}\r\n");
            pushed.blobs.insert((repository.to_owned(), digest));
            return Ok((
                201,
                Reply {
                    headers,
                    ..Reply::default()
                },
            ));
        }
        let id = if request.method == "POST" {
            pushed.next += 1;
            pushed.next
        } else {
            id.parse().unwrap_or_default()
        };
        let size = pushed.uploads.entry(id).or_default();
        *size += length;
        let size = *size;
        match parameter("digest") {
            Some(digest) if request.method != "PATCH" => {
                pushed.uploads.remove(&id);
                pushed.sizes.insert(digest.clone(), size);
                let headers =
                    format!("Location: /v2/{repository}/blobs/{digest}\r\nDocker-Content-Digest: {digest}\r\n");
                pushed.blobs.insert((repository.to_owned(), digest));
                Ok((
                    201,
                    Reply {
                        headers,
                        ..Reply::default()
                    },
                ))
            }
            _ => {
                let last = size.saturating_sub(1);
                let headers = format!("Location: /v2/{repository}/blobs/uploads/{id}\r\nRange: 0-{last}\r\n");
                let status = if request.method == "GET" { 204 } else { 202 };
                Ok((
                    status,
                    Reply {
                        headers,
                        ..Reply::default()
                    },
                ))
            }
        }
    }

    /// The counts since this was last asked, but for the peak and the connections that are of all time.
    fn counts(&self) -> String {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        format!(
            "{{\"requests\":{},\"refused\":{},\"peak\":{},\"connections\":{},\"received\":{},\"sent\":{}}}",
            take(&self.requests),
            take(&self.refused),
            take(&self.peak),
            take(&self.connections),
            take(&self.received),
            take(&self.sent)
        )
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter()
        .fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// The file of a blob.
fn data(storage: &Path, digest: &str) -> Option<PathBuf> {
    let hexadecimal = digest
        .strip_prefix("sha256:")
        .filter(|hexadecimal| hexadecimal.len() == 64)?;
    let is_hexadecimal = hexadecimal.bytes().all(|byte| byte.is_ascii_hexdigit());
    let folder = storage.join("blobs/sha256").join(hexadecimal.get(..2)?);
    is_hexadecimal.then(|| folder.join(hexadecimal).join("data"))
}

/// Reads the head of the next request; nothing at the end of the connection.
fn read_head(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    let mut left = MAX_HEAD;
    loop {
        let mut text = String::new();
        let got = reader.by_ref().take(left).read_line(&mut text)? as u64;
        left -= got;
        let text = text.trim_end();
        if got == 0 || (text.is_empty() && !lines.is_empty()) {
            break;
        }
        lines.push(text.to_owned());
    }
    let Some(first) = lines.first() else { return Ok(None) };
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: HashMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let left = headers.get("content-length").and_then(|length| length.parse().ok());
    Ok(Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        left: left.unwrap_or(0),
    }))
}
