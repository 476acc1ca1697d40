//! The content of a server: blobs, open uploads, and for each repository its blobs, manifests and tags.
//!
//! The content is in memory. With a folder, blobs are files in the folder, and all content survives a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use sha2::{Digest as _, Sha256, Sha512};

/// Returns the SHA-256 digest of these bytes as `sha256:HEX`.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Returns the digest of these bytes by the algorithm of the digest `other`.
pub fn digest_like(other: &str, bytes: &[u8]) -> String {
    if other.starts_with("sha512:") {
        format!("sha512:{}", hex(&Sha512::digest(bytes)))
    } else {
        sha256(bytes)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that can be read at any offset.
#[derive(Debug, Clone)]
pub enum Content {
    Memory(Bytes),
    File(Arc<File>, u64),
}

impl Content {
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// Returns the bytes `start..end`, which must exist.
    pub fn read(&self, start: u64, end: u64) -> Bytes {
        match self {
            Self::Memory(bytes) => bytes.slice(start as usize..end as usize),
            Self::File(file, _) => {
                let mut buffer = vec![0; (end - start) as usize];
                file.read_exact_at(&mut buffer, start).expect("a blob file shrank");
                buffer.into()
            }
        }
    }

    pub fn all(&self) -> Bytes {
        self.read(0, self.len())
    }
}

/// A stored manifest.
#[derive(Debug, Clone)]
pub struct Stored {
    pub digest: String,
    pub media_type: String,
    pub bytes: Bytes,
    subject: Arc<OnceLock<Option<String>>>,
}

impl Stored {
    fn new(digest: &str, media_type: &str, bytes: Bytes) -> Self {
        Self {
            digest: digest.to_owned(),
            media_type: media_type.to_owned(),
            bytes,
            subject: Arc::default(),
        }
    }

    /// The digest of the manifest to which this one refers. A manifest is parsed once, since tests with very many or very large
    /// referrers ask often.
    pub fn subject(&self) -> Option<&str> {
        let parse = || {
            let document: serde_json::Value = serde_json::from_slice(&self.bytes).ok()?;
            document["subject"]["digest"].as_str().map(str::to_owned)
        };
        self.subject.get_or_init(parse).as_deref()
    }
}

/// The content of a repository.
#[derive(Debug, Clone, Default)]
pub struct Repository {
    pub blobs: BTreeSet<String>,
    pub manifests: BTreeMap<String, Stored>,
    pub tags: BTreeMap<String, String>,
}

/// An open upload.
#[derive(Debug)]
pub struct Upload {
    pub repository: String,
    pub received: u64,
    data: UploadData,
}

#[derive(Debug)]
enum UploadData {
    Memory(Vec<u8>),
    File(PathBuf, File),
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<String, Content>,
    repositories: BTreeMap<String, Repository>,
    uploads: HashMap<String, Upload>,
    next_upload: u64,
}

/// The content of a server. Clones share the content.
#[derive(Debug, Clone, Default)]
pub struct Store {
    folder: Option<Arc<PathBuf>>,
    state: Arc<Mutex<State>>,
}

impl Store {
    /// Opens a store whose content is kept in this folder.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let store = Self {
            folder: Some(Arc::new(folder.to_owned())),
            state: Arc::default(),
        };
        for part in ["blobs", "uploads", "repositories"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let mut state = store.state.lock().unwrap();
        for entry in fs::read_dir(folder.join("blobs"))? {
            let entry = entry?;
            let digest = entry.file_name().to_string_lossy().replacen('-', ":", 1);
            let file = File::open(entry.path())?;
            let len = file.metadata()?.len();
            state.blobs.insert(digest, Content::File(Arc::new(file), len));
        }
        for entry in fs::read_dir(folder.join("repositories"))? {
            let saved: serde_json::Value = serde_json::from_slice(&fs::read(entry?.path())?)?;
            let mut repository = Repository::default();
            for blob in saved["blobs"].as_array().into_iter().flatten() {
                repository.blobs.insert(text(blob));
            }
            for (tag, digest) in saved["tags"].as_object().into_iter().flatten() {
                repository.tags.insert(tag.clone(), text(digest));
            }
            for (digest, media_type) in saved["manifests"].as_object().into_iter().flatten() {
                if let Some(content) = state.blobs.get(digest) {
                    let stored = Stored::new(digest, &text(media_type), content.all());
                    repository.manifests.insert(digest.clone(), stored);
                }
            }
            state.repositories.insert(text(&saved["name"]), repository);
        }
        drop(state);
        Ok(store)
    }

    /// Returns a copy of a repository, or `None` if there is no such repository.
    pub fn repository(&self, name: &str) -> Option<Repository> {
        self.state.lock().unwrap().repositories.get(name).cloned()
    }

    /// Returns the manifests of a repository that refer to this one.
    pub fn referrers(&self, repository: &str, subject: &str) -> Vec<Stored> {
        let state = self.state.lock().unwrap();
        let repository = state.repositories.get(repository);
        let all = repository.into_iter().flat_map(|found| found.manifests.values());
        all.filter(|stored| stored.subject() == Some(subject))
            .cloned()
            .collect()
    }

    /// Returns the names of all repositories.
    pub fn repositories(&self) -> Vec<String> {
        self.state.lock().unwrap().repositories.keys().cloned().collect()
    }

    /// Changes a repository, and creates the repository if needed.
    pub fn change<T>(&self, name: &str, change: impl FnOnce(&mut Repository) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        let repository = state.repositories.entry(name.to_owned()).or_default();
        let result = change(repository);
        if let Some(folder) = &self.folder {
            let manifests: BTreeMap<&String, &String> = repository
                .manifests
                .values()
                .map(|m| (&m.digest, &m.media_type))
                .collect();
            let saved = serde_json::json!({
                "name": name, "blobs": repository.blobs, "tags": repository.tags, "manifests": manifests,
            });
            let file = folder
                .join("repositories")
                .join(format!("{}.json", name.replace('/', "%2F")));
            let beside = file.with_extension("new");
            fs::write(&beside, saved.to_string()).expect("cannot save a repository");
            fs::rename(&beside, &file).expect("cannot save a repository");
        }
        result
    }

    /// Returns a blob of any repository.
    pub fn content(&self, digest: &str) -> Option<Content> {
        self.state.lock().unwrap().blobs.get(digest).cloned()
    }

    /// Returns a blob of this repository.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Content> {
        let state = self.state.lock().unwrap();
        let linked = state.repositories.get(repository)?.blobs.contains(digest);
        linked.then(|| state.blobs.get(digest).cloned()).flatten()
    }

    /// Stores bytes as a blob without linking it to a repository.
    pub fn keep(&self, digest: &str, bytes: Bytes) {
        let content = match &self.folder {
            None => Content::Memory(bytes),
            Some(folder) => {
                let path = blob_path(folder, digest);
                fs::write(&path, &bytes).expect("cannot write a blob");
                Content::File(
                    Arc::new(File::open(path).expect("cannot open a blob")),
                    bytes.len() as u64,
                )
            }
        };
        self.state.lock().unwrap().blobs.insert(digest.to_owned(), content);
    }

    /// Stores a blob in a repository, and returns its digest.
    pub fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let digest = sha256(&bytes);
        self.keep(&digest, bytes);
        self.change(repository, |r| r.blobs.insert(digest.clone()));
        digest
    }

    /// Stores a manifest in a repository without checks, sets the tag if given, and returns the digest.
    pub fn put_manifest(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: Bytes) -> String {
        let digest = sha256(&bytes);
        self.put_manifest_as(repository, &digest, tag, media_type, bytes);
        digest
    }

    /// Stores a manifest under a digest that the caller has computed, and sets the tag if given.
    pub fn put_manifest_as(&self, repository: &str, digest: &str, tag: Option<&str>, media_type: &str, bytes: Bytes) {
        if self.folder.is_some() {
            self.keep(digest, bytes.clone());
        }
        self.change(repository, |r| {
            let stored = Stored::new(digest, media_type, bytes);
            r.manifests.insert(digest.to_owned(), stored);
            if let Some(tag) = tag {
                r.tags.insert(tag.to_owned(), digest.to_owned());
            }
        });
    }

    /// Opens an upload session, and returns its name.
    pub fn start_upload(&self, repository: &str) -> String {
        let mut state = self.state.lock().unwrap();
        state.next_upload += 1;
        let name = format!("upload-{}-{}", std::process::id(), state.next_upload);
        let data = match &self.folder {
            None => UploadData::Memory(Vec::new()),
            Some(folder) => {
                let path = folder.join("uploads").join(&name);
                let file = OpenOptions::new().create(true).append(true).open(&path);
                UploadData::File(path, file.expect("cannot open an upload"))
            }
        };
        let upload = Upload {
            repository: repository.to_owned(),
            received: 0,
            data,
        };
        state.uploads.insert(name.clone(), upload);
        name
    }

    /// Returns the number of received bytes of an upload, or `None` if the repository has no such upload.
    pub fn received(&self, repository: &str, name: &str) -> Option<u64> {
        let state = self.state.lock().unwrap();
        state
            .uploads
            .get(name)
            .filter(|u| u.repository == repository)
            .map(|u| u.received)
    }

    /// Returns the number of open uploads.
    pub fn open_uploads(&self) -> usize {
        self.state.lock().unwrap().uploads.len()
    }

    /// Adds bytes to an upload.
    pub fn append(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let Some(upload) = state.uploads.get_mut(name) else {
            return;
        };
        match &mut upload.data {
            UploadData::Memory(data) => data.extend_from_slice(bytes),
            UploadData::File(_, file) => file.write_all(bytes).expect("cannot write an upload"),
        }
        upload.received += bytes.len() as u64;
    }

    /// Closes an upload, and adds the blob to the repository if the digest of the bytes is `digest`.
    pub fn finish_upload(&self, name: &str, digest: &str) -> Result<(), String> {
        let Some(upload) = self.state.lock().unwrap().uploads.remove(name) else {
            return Err("no such upload".to_owned());
        };
        match upload.data {
            UploadData::Memory(data) => {
                let actual = digest_like(digest, &data);
                if actual != digest {
                    return Err(format!("the bytes hash to {actual}"));
                }
                self.keep(digest, data.into());
            }
            UploadData::File(path, file) => {
                drop(file);
                let actual = digest_file(&path, digest).expect("cannot read an upload");
                if actual != digest {
                    let _ = fs::remove_file(&path);
                    return Err(format!("the bytes hash to {actual}"));
                }
                let folder = self.folder.as_ref().expect("an upload in a file needs a folder");
                let target = blob_path(folder, digest);
                fs::rename(&path, &target).expect("cannot move an upload");
                let content = Content::File(
                    Arc::new(File::open(&target).expect("cannot open a blob")),
                    upload.received,
                );
                self.state.lock().unwrap().blobs.insert(digest.to_owned(), content);
            }
        }
        self.change(&upload.repository, |r| r.blobs.insert(digest.to_owned()));
        Ok(())
    }

    /// Discards an upload. Returns whether there was such an upload.
    pub fn drop_upload(&self, name: &str) -> bool {
        let upload = self.state.lock().unwrap().uploads.remove(name);
        if let Some(UploadData::File(path, _)) = upload.as_ref().map(|u| &u.data) {
            let _ = fs::remove_file(path);
        }
        upload.is_some()
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn blob_path(folder: &Path, digest: &str) -> PathBuf {
    folder.join("blobs").join(digest.replacen(':', "-", 1))
}

fn digest_file(path: &Path, like: &str) -> io::Result<String> {
    let mut file = File::open(path)?;
    if like.starts_with("sha512:") {
        return Ok(digest_like(like, &fs::read(path)?));
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = io::Read::read(&mut file, &mut buffer)?;
        if n == 0 {
            return Ok(format!("sha256:{}", hex(&hasher.finalize())));
        }
        hasher.update(&buffer[..n]);
    }
}
