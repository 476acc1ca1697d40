//! A proxy in front of a registry, which forwards requests unchanged or with the faults of a [`Schedule`]. The proxy can
//! record every byte that clients send.

mod connection;
mod message;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

use self::connection::Connection;
use super::chaos::Schedule;

/// A proxy. Dropping this value ends the proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    address: SocketAddr,
    upstream: String,
    schedule: RwLock<Option<Arc<Schedule>>>,
    /// Every byte that clients sent, if the proxy records.
    record: Option<Mutex<Vec<u8>>>,
    /// Maximum speed at which the proxy reads request bodies, in bytes per second and connection; `None` for no limit.
    rate: Option<u64>,
    /// Path and answer of the last GET by digest with a small answer.
    kept: Mutex<Option<(String, Bytes)>>,
    /// Faulty requests with their faults, in order.
    log: Mutex<Vec<String>>,
}

impl Proxy {
    /// Starts a proxy in front of `HOST:PORT`.
    pub fn start(upstream: &str) -> Self {
        Self::new(upstream, false, None)
    }

    /// Starts a proxy that records every byte that clients send.
    pub fn recording(upstream: &str) -> Self {
        Self::new(upstream, true, None)
    }

    /// Starts a proxy that records, and reads request bodies at this rate in bytes per second and connection, with the smallest
    /// receive buffer that the system allows.
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
            // The accepted connections inherit the buffer size of the listening socket.
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

    /// Returns the address as `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// Injects the faults of this schedule from now on; `None` injects no faults.
    pub fn follow(&self, schedule: Option<Arc<Schedule>>) {
        *self.shared.schedule.write().unwrap() = schedule;
        self.shared.log.lock().unwrap().clear();
    }

    /// Returns the faulty requests with their faults since the schedule was set.
    pub fn log(&self) -> String {
        self.shared.log.lock().unwrap().join("\n")
    }

    /// Returns every byte that clients sent.
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
