//! Real programs: Debian's `docker-registry`, a Docker engine for one test, and tools that read bundles.
//!
//! A missing program is reported on standard error, past the capture of the test runner, and in the file that
//! `DOCKER_MIRROR_SKIPPED` names. If `DOCKER_MIRROR_REAL` is `require`, as `tests/run` sets it, a missing program that the
//! Linux distribution packages is a failure. A Docker engine needs more than its package (root, control groups, mounts), so
//! an engine that does not start is only reported even then.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::http::Client;
use super::tls::{Authority, write_pem};

/// User name of the only user of a registry with a login.
pub const USER: &str = "mirror";
/// Password of [`USER`].
pub const PASSWORD: &str = "correct horse";
/// Line of an htpasswd file (bcrypt) with [`USER`] and [`PASSWORD`].
const HTPASSWD: &str = "mirror:$2b$05$fixturesaltfixturesal.wYM9oQWq1Kk8tOXHq/DtZtxhm51unuu\n";

/// Returns whether a missing program is a failure.
pub fn required() -> bool {
    std::env::var("DOCKER_MIRROR_REAL").is_ok_and(|v| v == "require")
}

/// Reports that something was not tested, and why.
pub fn skipped(what: &str, why: &str) {
    let why: Vec<&str> = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = format!("SKIPPED: {what}: {}\n", why.join(" "));
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os("DOCKER_MIRROR_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(file);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Returns the path of a program. Reports a missing program, or fails if [`required`].
pub fn program(name: &str, what: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        assert!(!required(), "{what}: the program `{name}` is not installed");
        skipped(
            what,
            &format!("the program `{name}` is not installed; `tests/run` installs it"),
        );
    }
    found
}

/// Returns the path of a program that some machines cannot have. Reports a missing program.
pub fn optional_program(name: &str, what: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        skipped(what, &format!("the program `{name}` is not installed"));
    }
    found
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Runs a program to its end.
pub fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("`{}` does not start: {e}", program.display()))
}

/// Runs a program, fails unless it succeeds, and returns its standard output.
#[track_caller]
pub fn succeed(program: &Path, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}\n{stdout}\n{}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// The configuration of a registry.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// Whether the registry accepts only [`USER`].
    pub login: bool,
    /// Whether the registry uses TLS, with a certificate of a test authority.
    pub tls: bool,
}

/// Debian's `docker-registry` with storage in a temporary folder. Dropping this value ends the registry.
pub struct RealRegistry {
    process: Child,
    folder: TempDir,
    port: u16,
    setup: Setup,
    authority: Option<String>,
}

impl RealRegistry {
    /// Starts a registry and waits until it answers. Reports and returns `None` if the program is missing.
    pub fn start(setup: Setup, what: &str) -> Option<Self> {
        let program = program("docker-registry", what)?;
        // Several attempts, since another process may take the free port before the registry binds it.
        for _ in 0..5 {
            if let Some(registry) = Self::try_start(&program, setup) {
                return Some(registry);
            }
        }
        panic!("{what}: docker-registry does not start");
    }

    fn try_start(program: &Path, setup: Setup) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n",
            folder.path().join("storage").display()
        );
        if setup.login {
            let file = write_pem(folder.path(), "htpasswd", HTPASSWD);
            config.push_str(&format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                file.display()
            ));
        }
        config.push_str(&format!("http:\n  addr: 127.0.0.1:{port}\n"));
        let mut authority = None;
        if setup.tls {
            let issuer = Authority::new("authority of a test");
            let pair = issuer.server(&["127.0.0.1", "localhost"]);
            let certificate = write_pem(folder.path(), "server.pem", &pair.certificate);
            let key = write_pem(folder.path(), "server.key", &pair.key);
            let (certificate, key) = (certificate.display(), key.display());
            config.push_str(&format!("  tls: {{certificate: {certificate}, key: {key}}}\n"));
            authority = Some(issuer.pem());
        }
        let file = folder.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(program)
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut registry = Self {
            process,
            folder,
            port,
            setup,
            authority,
        };
        let client = registry.client();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if client.ping() {
                return Some(registry);
            }
            if registry.process.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Returns the address as `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Writes the certificate (PEM) of the registry's authority to a file, and returns its path.
    pub fn authority_file(&self) -> PathBuf {
        let pem = self.authority.as_ref().expect("this registry has no TLS");
        write_pem(self.folder.path(), "authority.pem", pem)
    }

    pub fn uses_tls(&self) -> bool {
        self.setup.tls
    }

    /// Returns a client with full access.
    pub fn client(&self) -> Client {
        Client {
            host: self.host(),
            authority: self.authority.clone(),
            login: self.setup.login.then(|| (USER.to_owned(), PASSWORD.to_owned())),
        }
    }

    /// Returns the registry's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A Docker engine with its own data, sockets and processes. Dropping this value ends the engine.
pub struct Engine {
    process: Child,
    folder: TempDir,
    client: PathBuf,
}

impl Engine {
    /// Starts an engine. Reports and returns `None` if the engine cannot be started.
    pub fn start(what: &str) -> Option<Self> {
        let (Some(daemon), Some(client)) = (optional_program("dockerd", what), optional_program("docker", what)) else {
            return None;
        };
        // The name is short, since the path of a socket has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("dm").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        // An empty configuration file keeps the engine from reading the settings of this machine.
        fs::write(at("daemon.json"), "{}").unwrap();
        let process = Command::new(daemon)
            .args([
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
                "--pidfile",
                &at("pid"),
            ])
            .args([
                "--host",
                &format!("unix://{}", at("sock")),
                "--config-file",
                &at("daemon.json"),
            ])
            .args([
                "--storage-driver",
                "vfs",
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let process = match process {
            Ok(process) => process,
            Err(error) => {
                skipped(what, &format!("a Docker engine cannot be started: {error}"));
                return None;
            }
        };
        let mut engine = Self {
            process,
            folder,
            client,
        };
        let start = Instant::now();
        let why = loop {
            if engine.docker(&["version"]).status.success() {
                return Some(engine);
            }
            if let Some(status) = engine.process.try_wait().unwrap() {
                break format!("it ended with {status}");
            }
            if start.elapsed() > Duration::from_secs(60) {
                break "it does not answer".to_owned();
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let log = fs::read_to_string(engine.folder.path().join("log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        skipped(
            what,
            &format!("a Docker engine cannot be started here: {why}: {}", last.join(" | ")),
        );
        None
    }

    /// Runs `docker` with this engine.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        let host = format!("unix://{}", self.folder.path().join("sock").display());
        let mut all = vec!["--host", &host];
        all.extend(arguments);
        Command::new(&self.client)
            .args(all)
            .env("DOCKER_CONFIG", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs `docker` with this engine, fails unless it succeeds, and returns its standard output.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "docker {arguments:?}: {}\n{stderr}",
            output.status
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Sends a signal to one process.
pub fn signal(name: &str, pid: u32) {
    let _ = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

impl Drop for Engine {
    fn drop(&mut self) {
        let containerd = fs::read_to_string(self.folder.path().join("exec/containerd/containerd.pid"));
        signal("TERM", self.process.id());
        let start = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(20) {
                let _ = self.process.kill();
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.wait();
        // An engine that was killed leaves its containerd behind, unlike an engine that ends on SIGTERM.
        if let Some(pid) = containerd.ok().and_then(|text| text.trim().parse().ok())
            && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "containerd")
        {
            signal("TERM", pid);
        }
    }
}
