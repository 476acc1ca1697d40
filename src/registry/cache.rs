//! Cache of manifests by digest in a folder, so that an unchanged image costs a HEAD and no pull.
//! Cached bytes are verified like the bytes of a response; a fault of the folder only disables the cache.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest};
use crate::lock::Mutex;

/// Maximum size of the cache in bytes; a larger cache is reduced to half of this.
const MAX_BYTES: u64 = 256 << 20;
/// Maximum number of cached files; a cache with more files is reduced to half of this.
const MAX_FILES: usize = 50_000;

/// Maximum number of digests remembered as stored by this run.
const MAX_NEW: usize = 20_000;

/// Number of writes between two checks of the cache's limits.
const WRITES_PER_CUT: u64 = 256;

/// Maximum length of a media type in bytes.
const MAX_TYPE: usize = 255;

/// A folder of manifests. Each file contains the media type, a line feed, and the manifest's bytes.
#[derive(Debug)]
pub(super) struct ManifestCache {
    folder: PathBuf,
    writes: AtomicU64,
    /// Digests that this run stored.
    new: Mutex<HashSet<Digest>>,
}

impl ManifestCache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            writes: AtomicU64::new(0),
            new: Mutex::default(),
        }
    }

    /// Returns whether this run stored a manifest, so that no earlier run had it.
    /// `false` if it stored too many manifests to know.
    pub(super) fn is_new(&self, digest: &Digest) -> bool {
        self.new.lock().contains(digest)
    }

    /// Returns the manifest with this digest, if it is cached and intact.
    pub(super) fn get(&self, digest: &Digest) -> Option<RawManifest> {
        let file = crate::files::open_own(&self.path(digest)).ok()?;
        let mut all = Vec::new();
        file.take(MAX_MANIFEST + MAX_TYPE as u64 + 2)
            .read_to_end(&mut all)
            .ok()?;
        let line = all.iter().take(MAX_TYPE + 1).position(|b| *b == b'\n')?;
        let media_type = std::str::from_utf8(&all[..line]).ok()?.to_owned();
        let bytes = Bytes::from(all).slice(line + 1..);
        let manifest = RawManifest::new(bytes, None, Some(digest)).ok()?;
        (manifest.media_type() == media_type).then_some(manifest)
    }

    /// Stores a manifest.
    /// The file gets its name once it is complete; concurrent writers of one digest write the same bytes.
    pub(super) fn put(&self, manifest: &RawManifest) {
        let media_type = manifest.media_type();
        // A type that is not in the manifest's bytes came from one registry's header; another registry may state a better
        // one.
        let told = RawManifest::new(manifest.bytes().clone(), None, Some(manifest.digest()));
        if told.is_ok_and(|told| told.media_type() != media_type) {
            return;
        }
        if media_type.len() > MAX_TYPE || media_type.contains('\n') {
            return;
        }
        let path = self.path(manifest.digest());
        if !path.exists() {
            let mut new = self.new.lock();
            if new.len() < MAX_NEW {
                new.insert(manifest.digest().clone());
            }
        }
        let written = || -> std::io::Result<()> {
            let folder = path.parent().unwrap_or(&self.folder);
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(media_type.as_bytes())?;
            file.write_all(b"\n")?;
            file.write_all(manifest.bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        if let Err(error) = written() {
            tracing::debug!("manifest {} is not cached: {error}", manifest.digest());
        } else if self
            .writes
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(WRITES_PER_CUT)
        {
            self.cut(MAX_BYTES, MAX_FILES);
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// Deletes the oldest files of a cache beyond its limits, down to half of the limits.
    fn cut(&self, bytes: u64, files: usize) {
        let mut found: Vec<(SystemTime, u64, PathBuf)> = walkdir::WalkDir::new(&self.folder)
            .max_depth(2)
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file())
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), entry.into_path()))
            })
            .collect();
        let mut total: u64 = found.iter().map(|(_, size, _)| size).sum();
        if total <= bytes && found.len() <= files {
            return;
        }
        found.sort_unstable();
        let mut left = found.len();
        for (_, size, path) in found {
            if total <= bytes / 2 && left <= files / 2 {
                return;
            }
            if std::fs::remove_file(path).is_ok() {
                total -= size;
                left -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(n: usize) -> RawManifest {
        let text = format!(
            r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2,"manifests":[],"n":{n}}}"#
        );
        RawManifest::new(Bytes::from(text), None, None).unwrap()
    }

    #[test]
    fn keeps_and_checks() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ManifestCache::new(folder.path().join("deep/er"));
        let first = manifest(1);
        assert!(cache.get(first.digest()).is_none());
        cache.put(&first);
        cache.put(&first);
        // Only the run that stored it first had to fetch it.
        let next_run = ManifestCache::new(folder.path().join("deep/er"));
        next_run.put(&first);
        assert_eq!(
            (cache.is_new(first.digest()), next_run.is_new(first.digest())),
            (true, false)
        );
        let back = cache.get(first.digest()).unwrap();
        assert_eq!((back.bytes(), back.media_type()), (first.bytes(), first.media_type()));
        std::fs::write(cache.path(first.digest()), "application/json\n{}").unwrap();
        assert!(cache.get(first.digest()).is_none(), "edited");
        std::fs::write(cache.path(first.digest()), "").unwrap();
        assert!(cache.get(first.digest()).is_none(), "empty");
    }

    #[test]
    fn an_entry_that_is_a_link_or_a_pipe_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ManifestCache::new(folder.path().join("cache"));
        let manifest = manifest(1);
        let path = cache.path(manifest.digest());
        let elsewhere = folder.path().join("elsewhere");
        cache.put(&manifest);
        std::fs::hard_link(&path, &elsewhere).unwrap();
        assert!(cache.get(manifest.digest()).is_none(), "it has a second name");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(cache.get(manifest.digest()).is_none(), "it is a link");
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert!(cache.get(manifest.digest()).is_none(), "it is a pipe");
        // A cached file that is unusable costs a pull, and is replaced.
        cache.put(&manifest);
        assert!(cache.get(manifest.digest()).is_some());
    }

    #[test]
    fn is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ManifestCache::new(folder.path().to_owned());
        (0..20).for_each(|n| cache.put(&manifest(n)));
        cache.cut(u64::MAX, 10);
        let left = (0..20).filter(|n| cache.get(manifest(*n).digest()).is_some()).count();
        assert_eq!(left, 5);
    }
}
