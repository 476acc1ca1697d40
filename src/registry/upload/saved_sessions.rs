//! Upload sessions of large blobs, saved in a folder, so that the next run can resume them.
//!
//! Each session is a small file with the ID of the process that uses the session, and the session's URL. Only the file's
//! owner can read it, since the URL may be all that is needed to write to the session. A fault of the folder only disables
//! saving, and the registry's state of a session counts, not the file's.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use reqwest::Url;

use crate::files::open_own;
use crate::image::digest::Digest;

/// Minimum size in bytes of a blob whose session is saved; smaller blobs are sent again from the start.
pub(super) const LARGE: u64 = 1 << 20;

/// Maximum age of a saved session.
/// Registries purge sessions sooner or later; most keep them for at least a day.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum number of saved sessions.
const MAX_FILES: usize = 512;

/// Maximum size in bytes of a saved file, which contains a URL.
const MAX_ADDRESS: u64 = 16 << 10;

/// A folder of saved upload sessions.
#[derive(Debug)]
pub(in crate::registry) struct SavedSessions {
    folder: PathBuf,
    /// Guard for deleting old sessions once per run.
    cleaned: Once,
}

impl SavedSessions {
    pub(in crate::registry) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            cleaned: Once::new(),
        }
    }

    /// Returns the saved session of a blob in a repository.
    pub(super) fn session(&self, host: &str, repository: &str, digest: &Digest) -> SavedSession {
        self.cleaned.call_once(|| self.clean());
        let key = Digest::sha256(format!("{host}\n{repository}\n{digest}").as_bytes());
        SavedSession(self.folder.join(key.hex()))
    }

    /// Deletes sessions that are too old, and the oldest sessions beyond [`MAX_FILES`].
    fn clean(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let mut files: Vec<(Duration, PathBuf)> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                Some((age(&path), path))
            })
            .collect();
        files.sort();
        for (n, (age, path)) in files.iter().enumerate() {
            if n >= MAX_FILES || *age > MAX_AGE {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The file that may contain the session of one blob.
pub(super) struct SavedSession(PathBuf);

impl SavedSession {
    /// Returns the URL that an earlier run saved.
    /// Like a `Location`, the URL is untrusted and has to be checked.
    pub(super) fn get(&self) -> Option<String> {
        let mut text = String::new();
        open_own(&self.0)
            .ok()?
            .take(MAX_ADDRESS)
            .read_to_string(&mut text)
            .ok()?;
        let (owner, address) = text.split_once('\n')?;
        // The session of another running process is in use.
        let owner: u32 = owner.parse().ok()?;
        let busy = owner != std::process::id() && Path::new("/proc").join(owner.to_string()).exists();
        (!busy && (text.len() as u64) < MAX_ADDRESS).then(|| address.to_owned())
    }

    /// Saves a session's URL.
    pub(super) fn put(&self, address: &Url) {
        let folder = self.0.parent().unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            // Temporary files are readable only by their owner.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            write!(file, "{}\n{address}", std::process::id())?;
            file.persist(&self.0)?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::debug!("an upload session is not saved for the next run: {error}");
        }
    }

    /// Deletes the file of a session that is over.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Returns the age of a file; zero for a time in the future.
fn age(path: &Path) -> Duration {
    let modified = path.symlink_metadata().and_then(|metadata| metadata.modified());
    modified.ok().and_then(|at| at.elapsed().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::SystemTime;

    #[test]
    fn kept_for_its_owner_and_for_a_day() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("deep/uploads");
        let saved = SavedSessions::new(folder.clone());
        let session = |host, repository, blob| saved.session(host, repository, &Digest::sha256(blob));
        let (x, y) = (session("r.example", "a", b"x"), session("r.example", "a", b"y"));
        let address: Url = "https://r.example/v2/a/blobs/uploads/1?_state=secret".parse().unwrap();
        assert_eq!(x.get(), None);
        x.put(&address);
        y.put(&address);
        assert_eq!(x.get().as_deref(), Some(address.as_str()));
        assert_eq!(session("r.example", "b", b"x").get(), None);
        assert_eq!(session("q.example", "a", b"x").get(), None);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&x.0)), (0o700, 0o600));
        y.forget();
        assert_eq!(y.get(), None);

        let elsewhere = home.path().join("elsewhere");
        fs::rename(&x.0, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &x.0).unwrap();
        assert_eq!(x.get(), None, "a link");
        fs::remove_file(&x.0).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &x.0, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(x.get(), None, "a pipe");
        fs::remove_file(&x.0).unwrap();

        fs::write(&x.0, format!("1\n{address}")).unwrap();
        assert_eq!(x.get(), None, "another process is at work on it");
        let file = fs::File::options().write(true).open(&x.0).unwrap();
        file.set_modified(SystemTime::now() - MAX_AGE - Duration::from_secs(60))
            .unwrap();
        let later = SavedSessions::new(folder.clone());
        let later = later.session("r.example", "a", &Digest::sha256(b"x"));
        assert_eq!(later.get(), None, "too old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}
