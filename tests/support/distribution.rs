//! Real registries (distribution 2 and 3) with configurations that [`real`](super::real) does not offer. Each has a back
//! door: an open registry over the same storage, through which a test fills and inspects the storage.

use std::fs;
use std::path::{Path, PathBuf};

use super::daemon::Daemon;
use super::http::Client;
use super::real;

/// A registry, and an open registry over the same storage.
pub struct Distribution {
    pub front: Daemon,
    back: Daemon,
    // The last field, so that the servers end before their storage is deleted.
    _storage: tempfile::TempDir,
}

impl Distribution {
    /// Starts Debian's `docker-registry`. `more` returns further lines of its configuration, such as `auth:`, and further lines
    /// of its `http:` section (indented by two), and may write files. Reports and returns `None` if it is not installed.
    pub fn start(what: &str, more: impl Fn(&Path) -> (String, String)) -> Option<Self> {
        let program = real::program("docker-registry", what)?;
        Some(Self::at(&program, &program, more))
    }

    /// Starts a registry of `program`, and its back door with the program `back`.
    pub fn at(program: &Path, back: &Path, more: impl Fn(&Path) -> (String, String)) -> Self {
        let storage = tempfile::tempdir().unwrap();
        let configure = |folder: &Path, port: u16, (top, http): (String, String)| {
            let text = format!(
                "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n{top}\
                 http:\n  addr: 0.0.0.0:{port}\n  secret: known to both\n{http}",
                storage.path().display()
            );
            let file = folder.join("config.yml");
            fs::write(&file, text).unwrap();
            vec!["serve".to_owned(), file.display().to_string()]
        };
        let front = Daemon::start(program, |folder, port| configure(folder, port, more(folder)));
        let back = Daemon::start(back, |folder, port| configure(folder, port, Default::default()));
        Self {
            front,
            back,
            _storage: storage,
        }
    }

    /// Returns the address of the registry as `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.front.host()
    }

    /// Returns a client with full access, through the back door.
    pub fn client(&self) -> Client {
        Client::new(&self.back.host())
    }
}

/// Returns the path of a program that `tests/run` or `tests/signatures` builds with Go, in `target/tools` or in the folder
/// that `DOCKER_MIRROR_TOOLS` names. Reports and returns `None` if the program is missing.
pub fn built_by_go(name: &str, what: &str) -> Option<PathBuf> {
    let own = std::env::var_os("DOCKER_MIRROR_TOOLS");
    let own = own.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"),
        PathBuf::from,
    );
    let own = own.join(name);
    if own.is_file() {
        return Some(own);
    }
    let builder = match name {
        "oras" | "regctl" => "tests/signatures",
        _ => "tests/run",
    };
    real::skipped(
        what,
        &format!("`{name}` is not built; `{builder}` does where Go is installed and can fetch it"),
    );
    None
}
