//! A real server for one test: on a free port, with its own files, ended by its process ID.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A server that listens on 127.0.0.1. Dropping this value ends the server.
pub struct Daemon {
    process: Option<Child>,
    program: PathBuf,
    arguments: Vec<String>,
    folder: TempDir,
    pub port: u16,
}

impl Daemon {
    /// Starts a program and waits until the program accepts connections. `configure` writes the program's files into its
    /// folder, and returns its arguments.
    ///
    /// # Panics
    /// If the program does not start; the message has the program's log.
    pub fn start(program: &Path, configure: impl Fn(&Path, u16) -> Vec<String>) -> Self {
        let mut log = String::new();
        // Several attempts, since another process may take the free port before the program binds it.
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let port = free_port();
            let mut daemon = Self {
                process: None,
                program: program.to_owned(),
                arguments: configure(folder.path(), port),
                folder,
                port,
            };
            if daemon.restart() {
                return daemon;
            }
            log = daemon.log();
        }
        panic!("`{}` does not start:\n{log}", program.display());
    }

    /// Starts the program again, on the same port and with the same files. Returns whether the program accepts connections.
    pub fn restart(&mut self) -> bool {
        self.stop();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let mut process = Command::new(&self.program)
            .args(&self.arguments)
            .env("OTEL_TRACES_EXPORTER", "none")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            let up = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            if up {
                self.process = Some(process);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        let _ = process.wait();
        false
    }

    /// Ends the server.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Returns the address as `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the folder with the server's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns a port that no process listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
