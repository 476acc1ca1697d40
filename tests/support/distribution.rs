//! Real registries (distribution 2 and 3) set up in ways that [`real`](super::real) does not know, each with a back door: a
//! plain one over the same storage, by which a test fills it and looks at it.

use std::fs;
use std::path::{Path, PathBuf};

use super::daemon::Daemon;
use super::http::Client;
use super::real;

/// A registry, and the back door to its storage.
pub struct Distribution {
    pub front: Daemon,
    back: Daemon,
    // Last: the servers end before their storage goes.
    _storage: tempfile::TempDir,
}

impl Distribution {
    /// Debian's `docker-registry`. `more` gives further lines of its configuration, such as `auth:`, and of the part `http:`
    /// (indented by two), and may write files. `None` where it is not installed, which has been said then.
    pub fn start(what: &str, more: impl Fn(&Path) -> (String, String)) -> Option<Self> {
        let program = real::program("docker-registry", what)?;
        Some(Self::at(&program, &program, more))
    }

    /// A registry of this program; the back door is one of `back`.
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

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.front.host()
    }

    /// A client that gets at everything.
    pub fn client(&self) -> Client {
        Client::new(&self.back.host())
    }
}

/// A program that was built from its source by Go, which `tests/run` and `tests/signatures` try, in `target/tools` or in the
/// folder that DOCKER_MIRROR_TOOLS names; told in words where it is not there.
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
