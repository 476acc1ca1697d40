//! Upload sessions of large blobs in a folder, so that the next run can go on where this one was ended.
//!
//! One small file each, with the process that is at work on it and the address, which only its owner may read: the address of a session may be all that is needed to write to it.
//! A fault of the folder only disables it, and the registry's own word on a session counts, not the file.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use reqwest::Url;

use crate::image::digest::Digest;

/// Blobs below this size are sent anew.
pub(super) const LARGE: u64 = 1 << 20;

/// Registries purge sessions sooner or later; most keep them for a day at least.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Sessions that are kept at most.
const MAX_FILES: usize = 512;

/// An address is shorter than this.
const MAX_ADDRESS: u64 = 16 << 10;

/// A folder of upload sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    folder: PathBuf,
    cleaned: Once,
}

impl Sessions {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            cleaned: Once::new(),
        }
    }

    /// The session of an earlier run for this blob in this repository. As a `Location`: what it may lead to has to be checked.
    pub(super) fn get(&self, host: &str, repository: &str, digest: &Digest) -> Option<String> {
        self.cleaned.call_once(|| self.clean());
        let file = crate::files::open_own(&self.path(host, repository, digest)).ok()?;
        let mut text = String::new();
        file.take(MAX_ADDRESS).read_to_string(&mut text).ok()?;
        let (owner, address) = text.split_once('\n')?;
        // A session in use is locked by its process.
        let owner: u32 = owner.parse().ok()?;
        let busy = owner != std::process::id() && Path::new("/proc").join(owner.to_string()).exists();
        (!busy && (text.len() as u64) < MAX_ADDRESS).then(|| address.to_owned())
    }

    /// Keeps a session.
    pub(super) fn put(&self, host: &str, repository: &str, digest: &Digest, address: &Url) {
        self.cleaned.call_once(|| self.clean());
        let write = || -> std::io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            // For its owner alone, as all files that this makes.
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            write!(file, "{}\n{address}", std::process::id())?;
            file.persist(self.path(host, repository, digest))?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::debug!("the upload of {digest} is not kept for a next run: {error}");
        }
    }

    /// Forgets a session that is over.
    pub(super) fn forget(&self, host: &str, repository: &str, digest: &Digest) {
        let _ = fs::remove_file(self.path(host, repository, digest));
    }

    fn path(&self, host: &str, repository: &str, digest: &Digest) -> PathBuf {
        let key = Digest::sha256(format!("{host}\n{repository}\n{digest}").as_bytes());
        self.folder.join(key.hex())
    }

    /// Removes what is too old, and the oldest of what is too much.
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

/// How old a file is; one from the future is new.
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
        let sessions = Sessions::new(folder.clone());
        let (digest, other) = (Digest::sha256(b"x"), Digest::sha256(b"y"));
        let address: Url = "https://r.example/v2/a/blobs/uploads/1?_state=secret".parse().unwrap();
        assert_eq!(sessions.get("r.example", "a", &digest), None);
        sessions.put("r.example", "a", &digest, &address);
        sessions.put("r.example", "a", &other, &address);
        assert_eq!(
            sessions.get("r.example", "a", &digest).as_deref(),
            Some(address.as_str())
        );
        assert_eq!(sessions.get("r.example", "b", &digest), None);
        assert_eq!(sessions.get("q.example", "a", &digest), None);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let path = sessions.path("r.example", "a", &digest);
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
        sessions.forget("r.example", "a", &other);
        assert_eq!(sessions.get("r.example", "a", &other), None);

        let elsewhere = home.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(sessions.get("r.example", "a", &digest), None, "a link");
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(sessions.get("r.example", "a", &digest), None, "a pipe");
        fs::remove_file(&path).unwrap();

        fs::write(&path, format!("1\n{address}")).unwrap();
        assert_eq!(
            sessions.get("r.example", "a", &digest),
            None,
            "another process is at work on it"
        );
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - MAX_AGE - Duration::from_secs(60))
            .unwrap();
        let later = Sessions::new(folder.clone());
        assert_eq!(later.get("r.example", "a", &digest), None, "too old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}
