//! The table of contents of one archive or layout directory: the position of each member. Reads no blob.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::find;
use super::foreign;
use super::forward::{FileForward, Forward};
pub(super) use super::member_names::{DOCUMENTS, ITEMS, blob_name};
use super::scan::{End, Member, MemberKind, Scanner, is_cut_off};
use super::source::{Extent, Source};
use super::store::Store;
use super::tar_faults::{TarFault, TarFaults};
use super::walk::{FOLLOW_LINKS, NO_FILE, unreadable_hint};
use crate::error::{Error, Kind, Result};
use crate::files::{Folder, encoding};
use crate::image::budget::Held;
use crate::progress::Progress;
use crate::text::{self, Warnings, byte_count, quote};

/// Maximum total length in bytes of the names of all members that are not blobs.
const MAX_NAMES: usize = 16 << 20;

/// Memory in bytes of a member that is not a blob, without its name: an entry of a B-tree, whose
/// nodes are at least half full.
const MEMBER: u64 = 2 * (size_of::<String>() + size_of::<Extent>()) as u64 + 64;

/// Maximum number of bytes read after the end of an archive.
/// Zeros are padding; any other byte causes a warning.
pub(super) const TRAILER: usize = 64 << 10;

/// Maximum number of links in a chain; a longer chain is treated as a loop.
const MAX_LINKS: usize = 8;

/// Maximum number of folders of a path that may be links.
const MAX_FOLDERS: usize = 16;

/// The members of an archive except its blobs, which are in the [`Store`] that all archives share.
#[derive(Debug)]
pub(super) struct Archive {
    /// Name of the archive in messages.
    pub(super) label: String,
    /// Every file that is not a regular blob, by cleaned name.
    pub(super) files: BTreeMap<String, Extent>,
    /// Links and their targets, by cleaned name.
    pub(super) links: BTreeMap<String, String>,
    /// Folders inside the archive that hold image layouts,
    /// if the archive is not a layout itself and holds several.
    pub(super) folders: Vec<String>,
    /// Whether the archive is certain to be complete: it has an end mark, or is a directory.
    pub(super) whole: bool,
    /// Whether the archive holds any blob.
    pub(super) has_blobs: bool,
    /// The file of the archive, if the archive is read by offset.
    pub(super) source: Option<Arc<Source>>,
    /// Warnings about the archive.
    pub(super) warnings: Warnings,
    /// Violations of the tar format that the scan skipped.
    pub(super) faults: TarFaults,
    /// A link that no image archive has. It becomes an error only once the archive is known to
    /// hold images: an archive of a container's files is full of links, and needs another message.
    pub(super) bad_link: Option<TarFault>,
    /// Unreadable files of a folder, such as links that lead out of the folder, with the reasons.
    pub(super) unreadable: BTreeMap<String, String>,
    /// Maximum number of bytes that the layers may unpack to beyond the usual ratio.
    pub(super) max_unpacked: u64,
    /// Whether the archive is verified, so that its documents are compared with each other.
    pub(super) is_verified: bool,
    /// Total length of the names so far, in bytes.
    names: usize,
    /// Number of blobs in the archive, including damaged and repeated ones.
    blobs: u64,
    /// Budget for the members; freed when the archive is dropped.
    held: Option<Held>,
}

impl Archive {
    pub(super) fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            folders: Vec::new(),
            whole: true,
            source: None,
            has_blobs: false,
            warnings: Warnings::default(),
            faults: TarFaults::default(),
            bad_link: None,
            unreadable: BTreeMap::new(),
            max_unpacked: super::docker::layer::BEYOND,
            is_verified: false,
            names: 0,
            blobs: 0,
            held: None,
        }
    }

    /// Indexes a tar file. With `continue_after_faults`, the scan continues after a fault. Nothing of an archive that takes too much memory
    /// is kept.
    pub(super) fn from_tar(source: &Arc<Source>, continue_after_faults: bool, store: &mut Store) -> Result<Self> {
        let read = Self::scan_tar(source, continue_after_faults, store);
        if read.as_ref().is_err_and(|error| error.kind() == Kind::TooLarge) {
            store.forget(source);
        }
        read
    }

    fn scan_tar(source: &Arc<Source>, continue_after_faults: bool, store: &mut Store) -> Result<Self> {
        let mut archive = Self::new(source.label());
        archive.source = Some(source.clone()).filter(|source| source.is_original());
        let forward = FileForward::new(source.clone(), continue_after_faults);
        let mut scanner = Scanner::new(source.label(), forward).continue_after_faults(continue_after_faults);
        while let Some(member) = scanner.next()? {
            let offset = member.offset;
            match archive.add(member, source, store) {
                Err(error) if continue_after_faults && error.kind() == Kind::Malformed => {
                    archive.faults.add(offset, error)
                }
                other => other?,
            }
        }
        archive.faults.append(scanner.take_faults());
        let is_archive = DOCUMENTS.iter().any(|name| archive.files.contains_key(*name));
        if let Some(link) = archive.bad_link.take_if(|_| continue_after_faults && is_archive) {
            archive.faults.add(link.offset, link.error);
        }
        let (end, input) = scanner.into_end();
        archive.finish(end, input)?;
        Ok(archive)
    }

    /// Indexes a layout directory.
    pub(super) fn from_directory(path: &Path, store: &mut Store, progress: &Progress) -> Result<Self> {
        let mut archive = Self::new(&text::path(path));
        let folder = Arc::new(Folder::open(path).map_err(|e| Error::io("open", path, e))?);
        let mut files = 0_u64;
        // Folders of blobs may be links to other folders inside the layout.
        let mut roots = vec![path.to_owned()];
        while let Some(root) = roots.pop() {
            let mut walk = walkdir::WalkDir::new(&root)
                .min_depth(1)
                .max_depth(16)
                .sort_by_file_name()
                .into_iter();
            while let Some(entry) = walk.next() {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        archive.note_unreadable(path, error)?;
                        continue;
                    }
                };
                files += 1;
                if files > 500_000 {
                    let why = format!("`{}` holds more than 500000 files", quote(&path));
                    return Err(Error::new(Kind::Malformed, why));
                }
                let kind = entry.file_type();
                if kind.is_dir() {
                    if find::is_system_folder(entry.file_name()) {
                        find::note_skipped(entry.path(), progress);
                        walk.skip_current_dir();
                    }
                    continue;
                }
                let relative = entry.path().strip_prefix(path).unwrap_or(entry.path());
                let name = super::header::clean_name(relative.as_os_str().as_encoded_bytes())
                    .map_err(|why| Error::new(Kind::Malformed, format!("`{}`: {why}", archive.label)))?;
                let Some(name) = name else { continue };
                if kind.is_symlink() && is_blob_folder(&name) && folder.is_folder_beneath(relative) {
                    roots.push(entry.path().to_owned());
                    continue;
                }
                let target = kind.is_symlink().then(|| absolute_target(path, entry.path())).flatten();
                let relative = target.as_deref().unwrap_or(relative);
                let metadata = match kind {
                    kind if kind.is_file() => entry.metadata().map_err(io::Error::from),
                    // The link must lead to a file beneath the folder; later reads accept only the same file.
                    kind if kind.is_symlink() => folder.open_beneath(relative).and_then(|file| file.metadata()),
                    _ => Err(io::Error::other(NO_FILE)),
                };
                match metadata {
                    Ok(metadata) => {
                        let source = Arc::new(Source::beneath(&folder, relative, &metadata));
                        let place = |member| Extent {
                            source: source.clone(),
                            member,
                            offset: 0,
                            size: metadata.len(),
                        };
                        archive.add_file(name, place, store)?;
                    }
                    Err(error) => {
                        let why = match kind.is_symlink() {
                            true => format!("it is a link that cannot be followed: {error}"),
                            false => error.to_string(),
                        };
                        archive.note_name(&name, store)?;
                        archive.unreadable.insert(name, why);
                    }
                }
            }
        }
        archive.refuse_blobs(store)?;
        Ok(archive)
    }

    /// Records an unreadable part of the folder. An unreadable root or `blobs` folder is an error,
    /// since nothing else is useful.
    fn note_unreadable(&mut self, path: &Path, error: walkdir::Error) -> Result<()> {
        let at = error.path().unwrap_or(path).to_owned();
        let relative = at.strip_prefix(path).unwrap_or(&at);
        let is_needed = relative.as_os_str().is_empty() || relative.starts_with("blobs");
        let cause = error
            .into_io_error()
            .unwrap_or_else(|| io::Error::other("its links lead in a circle"));
        let error = Error::io("read", &at, cause);
        if is_needed {
            return Err(error.with_hint("let this user read the folder and all that is in it"));
        }
        self.warnings.push(format!("{}; it is ignored", error.full()));
        Ok(())
    }

    /// Adds one member that the scan found.
    pub(super) fn add(&mut self, member: Member, source: &Arc<Source>, store: &mut Store) -> Result<()> {
        let Some(name) = member.name else {
            self.warnings.push(format!(
                "`{}`: the member at offset {} is ignored, its name is not UTF-8",
                self.label, member.offset
            ));
            return Ok(());
        };
        match member.what {
            MemberKind::Directory => Ok(()),
            MemberKind::Link(target) => self.add_link(name, target, member.offset, store),
            MemberKind::File => {
                let place = |name| Extent {
                    source: source.clone(),
                    member: name,
                    offset: member.offset,
                    size: member.size,
                };
                self.add_file(name, place, store)
            }
        }
    }

    /// Records why only the first `length` bytes of the archive could be unpacked, in place of the fault and the warning that
    /// its copy ends early.
    pub(super) fn replace_end(&mut self, length: u64, error: Error) {
        self.whole = false;
        self.faults.first.retain(|fault| !is_cut_off(&fault.error));
        let unmarked = unmarked(&self.label);
        self.warnings = self
            .warnings
            .iter()
            .filter(|line| **line != *unmarked)
            .cloned()
            .collect();
        self.faults.add(length, error);
    }

    /// Records how the archive ended, and warns about bytes after its end.
    pub(super) fn finish<F: Forward>(&mut self, end: End, mut rest: F) -> Result<()> {
        let label = quote(&self.label).to_string();
        if end == End::Unmarked {
            self.whole = false;
            self.warnings.push(unmarked(&self.label));
            return Ok(());
        }
        let behind = rest.left();
        let mut trailer = vec![0; TRAILER];
        let got = rest.read(&mut trailer)?;
        if self.files.is_empty() && self.links.is_empty() && !self.has_blobs {
            foreign::check_behind_zeros(&trailer[..got], &self.label)?;
        }
        if trailer[..got].iter().any(|b| *b != 0) || behind.is_some_and(|left| left > 1 << 20) {
            let count = behind.map_or_else(|| "bytes".to_owned(), byte_count);
            self.warnings
                .push(format!("`{label}`: {count} after the end of the archive are ignored"));
        }
        Ok(())
    }

    pub(super) fn add_file(
        &mut self,
        name: String,
        place: impl FnOnce(Option<Box<str>>) -> Extent,
        store: &mut Store,
    ) -> Result<()> {
        if let Some(digest) = blob_name(&name) {
            let place = place(None);
            self.has_blobs = true;
            self.blobs += 1;
            store.leave_room(self.blobs)?;
            return match store.blob(&digest) {
                None => store.add(digest, place),
                Some(first) if Arc::ptr_eq(&first.source, &place.source) => same_bytes(&name, first, &place),
                // The same blob in two archives: if the bytes differ, reads use the copy that matches the digest.
                Some(first) if first.size == place.size => store.add_copy(digest, place),
                Some(_) => store.add_other_size(digest, place),
            };
        }
        let place = place(Some(name.as_str().into()));
        if let Some(first) = self.files.get(&name) {
            return same_bytes(&name, first, &place);
        }
        if self.links.contains_key(&name) {
            return Err(twice(&self.label, &name));
        }
        self.note_name(&name, store)?;
        self.files.insert(name, place);
        Ok(())
    }

    fn add_link(&mut self, name: String, target: Result<String, String>, offset: u64, store: &Store) -> Result<()> {
        // Docker's own format links layers that images share, and tar links files that have two names. Some programs do not follow
        // links of documents and blobs, so that they would read other images.
        let is_plain = |part: &str| part != "blobs" && !DOCUMENTS.contains(&part);
        let target = match target {
            Ok(target) if name.split('/').all(is_plain) => target,
            refused => {
                let why = refused.map_or_else(|why| why, |_| "a link, which documents and blobs may not be".to_owned());
                self.bad_link.get_or_insert_with(|| {
                    let label = quote(&self.label);
                    let what = format!("`{label}` at offset {offset}: member `{}`: {why}", quote(&name));
                    let error = Error::new(Kind::Malformed, what).with_hint(FOLLOW_LINKS);
                    TarFault { offset, error }
                });
                return Ok(());
            }
        };
        if self.files.contains_key(&name) || self.links.get(&name).is_some_and(|before| *before != target) {
            return Err(twice(&self.label, &name));
        }
        self.note_name(&name, store)?;
        self.note_name(&target, store)?;
        self.links.insert(name, target);
        Ok(())
    }

    /// Records unreadable blobs, so that only images that need these blobs fail.
    fn refuse_blobs(&self, store: &mut Store) -> Result<()> {
        for (name, why) in &self.unreadable {
            if let Some(digest) = blob_name(name) {
                let fault = format!("`{}/{}`: {why}", quote(&self.label), quote(name));
                store.refuse(digest, fault)?;
            }
        }
        Ok(())
    }

    /// Finds the content of a member, through links inside the archive.
    ///
    /// # Errors
    /// The reason why the content cannot be found.
    pub(super) fn follow(&self, name: &str, store: &Store) -> Result<Extent, String> {
        let mut name = name.to_owned();
        for _ in 0..=MAX_LINKS {
            if let Some(place) = blob_name(&name).and_then(|digest| store.blob(&digest)) {
                // Messages need the name of the member, which the place of a blob does not store.
                let member = Some(name.as_str().into());
                return Ok(Extent {
                    member,
                    ..place.clone()
                });
            }
            if let Some(place) = self.files.get(&name) {
                return Ok(place.clone());
            }
            match (self.link_on(&name), self.unreadable.get(&name)) {
                (Some(target), _) => name = target,
                (None, Some(why)) => return Err(format!("`{}`: {why}", quote(&name))),
                (None, None) => return Err(format!("`{}` is not in the archive", quote(&name))),
            }
        }
        Err(format!("`{}` leads over more than {MAX_LINKS} links", quote(&name)))
    }

    /// Returns a path with its first link replaced by the target: a link to a folder, or to the member itself. `None` if there is
    /// no link on the path.
    fn link_on(&self, path: &str) -> Option<String> {
        let folders = path.match_indices('/').take(MAX_FOLDERS).map(|(end, _)| end);
        folders.chain([path.len()]).find_map(|end| {
            let (link, rest) = path.split_at(end);
            Some(format!("{}{rest}", self.links.get(link)?))
        })
    }

    /// Refuses an archive if a document or the folder of blobs is a link that cannot be followed.
    pub(super) fn check_documents(&self) -> Result<()> {
        let is_needed =
            |name: &str| DOCUMENTS.contains(&name) || matches!(name, "blobs" | "blobs/sha256" | "blobs/sha512");
        let bad = self.unreadable.iter().find(|(name, _)| is_needed(name.as_str()));
        match bad {
            None => Ok(()),
            Some((name, why)) => {
                let what = format!("`{}`: member `{name}`: {why}", quote(&self.label));
                Err(Error::new(Kind::Malformed, what).with_hint(unreadable_hint(why)))
            }
        }
    }

    fn note_name(&mut self, name: &str, store: &Store) -> Result<()> {
        // The name is stored twice: as a key of the list, and in the place of the member.
        let bytes = MEMBER + 2 * name.len() as u64;
        let taken = match &mut self.held {
            Some(held) => held.grow(bytes),
            None => store.budget().hold(bytes).map(|held| self.held = Some(held)),
        };
        taken.map_err(|e| e.context(format!("`{}`: the names of its members", quote(&self.label))))?;
        self.names += name.len();
        if self.names > MAX_NAMES {
            let label = quote(&self.label);
            let what = format!("`{label}`: the names of its members take more than {MAX_NAMES} bytes");
            return Err(Error::new(Kind::Malformed, what));
        }
        Ok(())
    }

    /// Reads a document of the archive; returns `None` if the archive does not have the document.
    ///
    /// A byte order mark is removed and UTF-16 is decoded: editors and shells write both.
    pub(super) fn read(&self, name: &str, cap: u64) -> Result<Option<Vec<u8>>> {
        let bytes = self
            .files
            .get(name)
            .map(|place| place.read_all(name, cap))
            .transpose()?;
        Ok(bytes.map(encoding::utf8))
    }

    /// Describes a member for messages: the archive and the member's name.
    pub(super) fn describe(&self, name: &str) -> String {
        self.files.get(name).map_or_else(
            || format!("`{}`: member `{}`", quote(&self.label), quote(&name)),
            |place| place.describe(name),
        )
    }
}

/// Returns the path beneath `folder` to which an absolute link leads; `None` for any other link.
fn absolute_target(folder: &Path, link: &Path) -> Option<PathBuf> {
    link.read_link().ok().filter(|target| target.is_absolute())?;
    let target = link.canonicalize().ok()?;
    Some(target.strip_prefix(folder.canonicalize().ok()?).ok()?.to_owned())
}

/// Returns whether a name is the folder of all blobs, or of the blobs of one algorithm.
fn is_blob_folder(name: &str) -> bool {
    name == "blobs" || name.strip_prefix("blobs/").is_some_and(|rest| !rest.contains('/'))
}

/// Accepts two members of the same name only if both have the same bytes.
fn same_bytes(name: &str, first: &Extent, second: &Extent) -> Result<()> {
    let mut same = first.size == second.size;
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut offset = 0;
    while same && offset < first.size {
        let got = first.read_at(offset, &mut left)?;
        same = second.read_at(offset, &mut right)? == got && left[..got] == right[..got];
        offset += got as u64;
    }
    if same {
        return Ok(());
    }
    Err(Error::new(
        Kind::Malformed,
        format!(
            "{} appears twice with different bytes, again at offset {}",
            first.describe(name),
            second.offset
        ),
    )
    .with_hint("programs differ in which of the two they read, so neither is trusted; make the archive again"))
}

fn twice(label: &str, name: &str) -> Error {
    let (label, name) = (quote(&label), quote(&name));
    let what = format!("`{label}`: the member `{name}` appears twice, once as a link");
    Error::new(Kind::Malformed, what)
}

/// Returns the warning about an archive without an end mark.
pub(super) fn unmarked(label: &str) -> String {
    format!(
        "`{}` lacks the blocks that mark its end: it may have been truncated",
        quote(&label)
    )
}
