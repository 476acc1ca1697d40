//! A proxy in front of a registry, at an address of its own: it passes requests on as they are, or does wrong with them
//! what a [`Schedule`] says. It can keep every byte that clients send.

mod connection;
mod message;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

use self::connection::Connection;
use super::chaos::Schedule;

/// The proxy. It ends when it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    address: SocketAddr,
    upstream: String,
    schedule: RwLock<Option<Arc<Schedule>>>,
    /// Every byte that clients sent, where that is wanted.
    record: Option<Mutex<Vec<u8>>>,
    /// How many bytes of request bodies it reads per second and connection; as fast as they come where this is none.
    rate: Option<u64>,
    /// An answer to a GET by digest.
    kept: Mutex<Option<(String, Bytes)>>,
    /// What happened to which request, in order.
    log: Mutex<Vec<String>>,
}

impl Proxy {
    /// One in front of `HOST:PORT`.
    pub fn start(upstream: &str) -> Self {
        Self::new(upstream, false, None)
    }

    /// One that keeps what clients send.
    pub fn recording(upstream: &str) -> Self {
        Self::new(upstream, true, None)
    }

    /// One that keeps what clients send, and reads this many bytes of it per second and connection, with a buffer as small as
    /// the system makes it.
    pub fn slow(upstream: &str, rate: u64) -> Self {
        Self::new(upstream, true, Some(rate))
    }

    fn new(upstream: &str, record: bool, rate: Option<u64>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()
            .unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        if rate.is_some() {
            // Its connections inherit it.
            socket.set_recv_buffer_size(4096).unwrap();
        }
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = runtime.block_on(async { socket.listen(1024) }).unwrap();
        let shared = Arc::new(Shared {
            address: listener.local_addr().unwrap(),
            upstream: upstream.to_owned(),
            schedule: RwLock::default(),
            record: record.then(Mutex::default),
            rate,
            kept: Mutex::default(),
            log: Mutex::default(),
        });
        let serving = shared.clone();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = serving.clone();
                tokio::spawn(async move {
                    let _ = client.set_nodelay(true);
                    let _ = Connection::new(client, shared).serve().await;
                });
            }
        });
        Self {
            shared,
            runtime: Some(runtime),
        }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// Does wrong from now on what the schedule says; nothing without one.
    pub fn follow(&self, schedule: Option<Arc<Schedule>>) {
        *self.shared.schedule.write().unwrap() = schedule;
        self.shared.log.lock().unwrap().clear();
    }

    /// What happened to which request since the schedule began.
    pub fn log(&self) -> String {
        self.shared.log.lock().unwrap().join("\n")
    }

    /// Every byte that clients sent.
    pub fn record(&self) -> Vec<u8> {
        self.shared
            .record
            .as_ref()
            .expect("this proxy keeps nothing")
            .lock()
            .unwrap()
            .clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
