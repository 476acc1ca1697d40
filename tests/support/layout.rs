//! Reads, edits and writes bundles member by member, without the program's own reader and writer.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::image::Image;
use super::store::sha256;

/// A member of a tar.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    /// Offset of the member's bytes in the file.
    pub offset: u64,
    pub size: u64,
    pub mode: u32,
    pub owner: (u64, u64),
    pub time: u64,
    pub kind: tar::EntryType,
}

/// A bundle in a file.
#[derive(Debug)]
pub struct Tar {
    path: PathBuf,
    pub members: Vec<Member>,
}

impl Tar {
    pub fn open(path: &Path) -> Self {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let mut members = Vec::new();
        for entry in archive.entries_with_seek().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            members.push(Member {
                name: String::from_utf8(entry.path_bytes().into_owned()).unwrap(),
                offset: entry.raw_file_position(),
                size: entry.size(),
                mode: header.mode().unwrap(),
                owner: (header.uid().unwrap(), header.gid().unwrap()),
                time: header.mtime().unwrap(),
                kind: header.entry_type(),
            });
        }
        let path = path.to_owned();
        Self { path, members }
    }

    pub fn names(&self) -> Vec<&str> {
        self.members.iter().map(|m| m.name.as_str()).collect()
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.name == name)
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let member = self
            .member(name)
            .unwrap_or_else(|| panic!("the bundle has no member `{name}`"));
        let mut bytes = vec![0; member.size as usize];
        File::open(&self.path)
            .unwrap()
            .read_exact_at(&mut bytes, member.offset)
            .unwrap();
        bytes
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).unwrap()
    }

    /// Returns the bytes of a blob, checked against the digest, or `None` if the bundle does not have the blob.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let name = blob_name(digest);
        self.member(&name)?;
        let bytes = self.bytes(&name);
        assert_eq!(sha256(&bytes), digest);
        Some(bytes)
    }

    /// Flips one bit in the middle of a member.
    pub fn flip(&self, name: &str) {
        let member = self.member(name).unwrap();
        self.flip_at(member.offset + member.size / 2);
    }

    /// Flips one bit of the header of a member.
    pub fn flip_header(&self, name: &str) {
        self.flip_at(self.member(name).unwrap().offset - 512 + 130);
    }

    fn flip_at(&self, at: u64) {
        let file = File::options().read(true).write(true).open(&self.path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    /// Writes a copy of the bundle without one member.
    pub fn without(&self, name: &str, path: &Path) {
        let mut builder = tar::Builder::new(File::create(path).unwrap());
        for member in self.members.iter().filter(|m| m.name != name) {
            let bytes = if member.kind.is_dir() {
                Vec::new()
            } else {
                self.bytes(&member.name)
            };
            append(&mut builder, &member.name, &bytes);
        }
        builder.finish().unwrap();
    }
}

/// Returns the name of a blob's member.
pub fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// Adds a file to a tar.
pub fn append(builder: &mut tar::Builder<File>, name: &str, bytes: &[u8]) {
    if name.ends_with('/') {
        return;
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, name, bytes).unwrap();
}

/// Writes a tar of these members, in this order.
pub fn write_members<N: AsRef<str>, B: AsRef<[u8]>>(path: &Path, members: impl IntoIterator<Item = (N, B)>) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        append(&mut builder, name.as_ref(), bytes.as_ref());
    }
    builder.finish().unwrap();
}

/// Returns the member `oci-layout`, which makes a tar an OCI image layout.
pub fn marker() -> (String, Vec<u8>) {
    ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())
}

/// Writes an OCI image layout in a tar, as another program might: blobs first, each image under its full name.
pub fn write_layout(path: &Path, images: &[(&str, &Image)]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    let mut entries = Vec::new();
    let mut done = Vec::new();
    for (name, image) in images {
        let documents = image.documents().map(|d| (&d.digest, &d.bytes));
        for (digest, bytes) in image.blobs.iter().chain(documents) {
            if !done.contains(digest) {
                append(&mut builder, &blob_name(digest), bytes);
                done.push(digest.clone());
            }
        }
        let mut entry = image.root.descriptor();
        entry.insert(
            "annotations".to_owned(),
            json!({"org.opencontainers.image.ref.name": name}),
        );
        entries.push(entry);
    }
    let index = json!({"schemaVersion": 2, "manifests": entries});
    append(&mut builder, "index.json", index.to_string().as_bytes());
    append(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    builder.finish().unwrap();
}

/// Unpacks a bundle into a folder.
pub fn unpack(bundle: &Path, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    tar::Archive::new(File::open(bundle).unwrap()).unpack(folder).unwrap();
}

/// Returns the content of a file.
pub fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}
