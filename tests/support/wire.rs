//! The connection below HTTP, plain or TLS, with a handle to break the connection on purpose.
//!
//! A correct HTTP library cannot send bytes that violate the framing, and cannot end a connection at an exact position. A
//! handler does both through [`Control`].

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Time for written bytes to reach the other side of a loopback connection before a reset.
const SETTLE: Duration = Duration::from_millis(50);

/// The way in which a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A FIN (with TLS, without a closing alert).
    Close,
    /// A RST.
    Reset,
    /// No end: nothing more is sent, and the connection stays open.
    Stall,
}

/// Instructions of a handler for its connection.
#[derive(Debug, Default)]
struct Orders {
    /// End of the connection, once all bytes so far are flushed.
    after_flush: Option<End>,
    /// Bytes to write instead of the HTTP library's next bytes, the number of bytes already written, and the end.
    instead: Option<(Vec<u8>, usize, End)>,
}

/// A handle to a connection.
#[derive(Debug, Clone, Default)]
pub struct Control {
    orders: Arc<Mutex<Orders>>,
    /// Number of the connection at its server, from 1 on, which shows whether a client reuses a connection.
    pub number: u64,
}

impl Control {
    /// Ends the connection as soon as all bytes so far are flushed. The caller must not write more bytes.
    pub fn end_after_flush(&self, end: End) {
        self.orders.lock().unwrap().after_flush = Some(end);
    }

    /// Writes these bytes instead of the answer, then ends the connection.
    pub fn write_instead(&self, bytes: Vec<u8>, end: End) {
        self.orders.lock().unwrap().instead = Some((bytes, 0, end));
    }
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    control: Control,
    /// Timer that delays a reset, since a reset discards bytes that the kernel has not sent yet.
    fuse: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    fn inner(&mut self) -> Pin<&mut dyn AsyncStream> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream),
            Stream::Tls(stream) => Pin::new(&mut **stream),
        }
    }

    fn end(&mut self, end: End) -> Poll<io::Result<()>> {
        let tcp = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        match end {
            End::Stall => return Poll::Pending,
            End::Reset => tcp.set_zero_linger()?,
            End::Close => {}
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "broken on purpose")))
    }
}

trait AsyncStream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> AsyncStream for T {}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let instead = self.control.orders.lock().unwrap().instead.take();
        let Some((bytes, mut done, end)) = instead else {
            return self.inner().poll_write(cx, buf);
        };
        while done < bytes.len() {
            match self.inner().poll_write(cx, &bytes[done..]) {
                Poll::Ready(Ok(n)) => done += n,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.control.orders.lock().unwrap().instead = Some((bytes, done, end));
                    return Poll::Pending;
                }
            }
        }
        let flushed = self.inner().poll_flush(cx);
        if flushed.is_pending() || end == End::Stall {
            self.control.orders.lock().unwrap().instead = Some((bytes, done, end));
            return Poll::Pending;
        }
        self.end(end).map_ok(|()| 0)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inner().poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        let end = self.control.orders.lock().unwrap().after_flush;
        if end == Some(End::Reset) {
            let fuse = self.fuse.get_or_insert_with(|| Box::pin(sleep(SETTLE)));
            ready!(fuse.as_mut().poll(cx));
        }
        match end {
            Some(end) => self.end(end),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

/// A listener that runs TLS handshakes in parallel, so that a stalled handshake does not block other connections.
pub struct WireListener {
    incoming: mpsc::Receiver<(Wire, SocketAddr)>,
    address: SocketAddr,
}

impl WireListener {
    pub fn new(listener: TcpListener, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, incoming) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, peer)) = listener.accept().await {
                number += 1;
                let control = Control {
                    number,
                    ..Control::default()
                };
                let sender = sender.clone();
                let tls = tls.clone();
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move {
                    let stream = match tls {
                        None => Stream::Plain(stream),
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => Stream::Tls(Box::new(stream)),
                            Err(_) => return, // the client does not like us, or has no certificate
                        },
                    };
                    let wire = Wire {
                        stream,
                        control,
                        fuse: None,
                    };
                    let _ = sender.send((wire, peer)).await;
                });
            }
        });
        Ok(Self { incoming, address })
    }
}

impl Listener for WireListener {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        match self.incoming.recv().await {
            Some(pair) => pair,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Connected<IncomingStream<'_, WireListener>> for Control {
    fn connect_info(stream: IncomingStream<'_, WireListener>) -> Self {
        stream.io().control.clone()
    }
}
