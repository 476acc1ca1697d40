//! The table of contents of one archive or layout directory: what stands where, with no blob read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::forward::{FileForward, Forward};
use super::scan::{End, Member, Scanner, What};
use super::source::{Place, Source};
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::files::Folder;
use crate::image::digest::Digest;
use crate::text::{self, Warnings, quote};

/// The names of members that are no blobs may take this much memory together.
const MAX_NAMES: usize = 16 << 20;

/// Memory in bytes that a member takes that is no blob, beside its name, in a tree of the standard library, whose nodes are
/// half full at least.
const MEMBER: u64 = 2 * (size_of::<String>() + size_of::<Place>()) as u64 + 64;

/// Bytes behind the end of an archive that are looked at: padding is zeros, anything else is worth a warning.
const TRAILER: usize = 64 << 10;

/// What an archive holds, but for its blobs: these go to the [`Store`] that all archives share.
#[derive(Debug)]
pub(super) struct Archive {
    /// What messages call it.
    pub(super) label: String,
    /// Every file that is no regular blob, by cleaned name.
    pub(super) files: BTreeMap<String, Place>,
    /// Links, and where they lead.
    pub(super) links: BTreeMap<String, String>,
    /// Whether the archive is certain to be whole: its end is marked, or it is a directory.
    pub(super) whole: bool,
    /// What is worth telling.
    pub(super) warnings: Warnings,
    /// A link that no image archive has. It is an error once it is known that this is one: the files of a container that
    /// were archived by mistake are full of links, and deserve another message.
    pub(super) bad_link: Option<Error>,
    /// What its layers may unpack to beyond the usual.
    pub(super) max_unpacked: u64,
    /// Names taken up so far.
    names: usize,
}

impl Archive {
    pub(super) fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            whole: true,
            warnings: Warnings::default(),
            bad_link: None,
            max_unpacked: super::layer::BEYOND,
            names: 0,
        }
    }

    /// Indexes a tar file.
    pub(super) fn of_tar(source: &Arc<Source>, store: &mut Store) -> Result<Self> {
        let mut archive = Self::new(source.label());
        let mut scanner = Scanner::new(source.label(), FileForward::new(source.clone()));
        while let Some(member) = scanner.next()? {
            archive.take(member, source, store)?;
        }
        let (end, input) = scanner.into_end();
        archive.finish(end, input)?;
        Ok(archive)
    }

    /// Indexes a directory that holds what an archive would.
    pub(super) fn of_directory(path: &Path, store: &mut Store) -> Result<Self> {
        let mut archive = Self::new(&text::path(path));
        let folder = Arc::new(Folder::open(path).map_err(|e| Error::io("open", path, e))?);
        let mut files = 0_u64;
        for entry in walkdir::WalkDir::new(path)
            .min_depth(1)
            .max_depth(16)
            .sort_by_file_name()
        {
            let entry =
                entry.map_err(|e| Error::new(Kind::Io, format!("cannot walk `{}`", quote(&path))).with_source(e))?;
            files += 1;
            if files > 500_000 {
                let why = format!("`{}` holds more than 500000 files", quote(&path));
                return Err(Error::new(Kind::Malformed, why));
            }
            let relative = entry.path().strip_prefix(path).unwrap_or(entry.path());
            let kind = entry.file_type();
            let name = super::header::clean_name(relative.as_os_str().as_encoded_bytes())
                .map_err(|why| Error::new(Kind::Malformed, format!("`{}`: {why}", archive.label)))?;
            let Some(name) = name else { continue };
            if kind.is_file() {
                let metadata = entry.metadata().map_err(|e| {
                    Error::new(Kind::Io, format!("cannot read `{}`", quote(&entry.path()))).with_source(e)
                })?;
                let source = Arc::new(Source::beneath(&folder, relative, &metadata));
                let place = |member| Place {
                    source: source.clone(),
                    member,
                    offset: 0,
                    size: metadata.len(),
                };
                archive.add_file(name, place, store)?;
            } else if kind.is_symlink() {
                let target = std::fs::read_link(entry.path()).map_err(|e| Error::io("read", entry.path(), e))?;
                let target = super::header::link_target(&name, target.as_os_str().as_encoded_bytes(), true);
                archive.add_link(name, target, None, store)?;
            } else if !kind.is_dir() {
                return Err(Error::new(
                    Kind::Malformed,
                    format!("`{}` is neither a file nor a directory", quote(&entry.path())),
                ));
            }
        }
        Ok(archive)
    }

    /// Takes up one member of the archive's scan.
    pub(super) fn take(&mut self, member: Member, source: &Arc<Source>, store: &mut Store) -> Result<()> {
        let Some(name) = member.name else {
            self.warnings.push(format!(
                "`{}`: the member at offset {} is ignored, its name is not UTF-8",
                self.label, member.offset
            ));
            return Ok(());
        };
        match member.what {
            What::Directory => Ok(()),
            What::Link(target) => self.add_link(name, target, Some(member.offset), store),
            What::File => {
                let place = |name| Place {
                    source: source.clone(),
                    member: name,
                    offset: member.offset,
                    size: member.size,
                };
                self.add_file(name, place, store)
            }
        }
    }

    /// Notes how the archive ended, and what stands behind its end.
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
        if trailer[..got].iter().any(|b| *b != 0) || behind.is_some_and(|left| left > 1 << 20) {
            let count = behind.map_or_else(|| "bytes".to_owned(), |left| format!("{left} bytes"));
            self.warnings
                .push(format!("`{label}`: {count} behind the end of the archive are ignored"));
        }
        Ok(())
    }

    fn add_file(
        &mut self,
        name: String,
        place: impl FnOnce(Option<Box<str>>) -> Place,
        store: &mut Store,
    ) -> Result<()> {
        if let Some(digest) = blob_name(&name) {
            let place = place(None);
            return match store.blob(&digest) {
                None => store.add(digest, place),
                Some(first) if Arc::ptr_eq(&first.source, &place.source) => same_bytes(&name, first, &place),
                // The same blob in two bundles. Where they disagree, the one that is what its name says is right.
                Some(first) if first.size == place.size => store.add_copy(digest, place),
                Some(first) => {
                    if !super::store::verify(&digest, first)? {
                        store.replace(digest, place);
                    }
                    Ok(())
                }
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

    fn add_link(
        &mut self,
        name: String,
        target: Result<String, String>,
        offset: Option<u64>,
        store: &Store,
    ) -> Result<()> {
        // Programs that save images in Docker's own format link layers that images share; nothing else is ever a link.
        let is_layer = !name.starts_with("blobs/") && [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end));
        let target = match target {
            Ok(target) if is_layer => target,
            refused => {
                let why = refused.map_or_else(|why| why, |_| "a link, which only layers may be".to_owned());
                let place = offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default();
                self.bad_link.get_or_insert_with(|| {
                    Error::new(
                        Kind::Malformed,
                        format!("`{}`{place}: member `{}`: {why}", quote(&self.label), quote(&name)),
                    )
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

    fn note_name(&mut self, name: &str, store: &Store) -> Result<()> {
        // It stands in the list, and in the member's place once more.
        let taken = store.budget().take(MEMBER + 2 * name.len() as u64);
        taken.map_err(|e| e.context(format!("`{}`: the names of its members", quote(&self.label))))?;
        self.names += name.len();
        if self.names > MAX_NAMES {
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "`{}`: the names of its members take more than {MAX_NAMES} bytes",
                    self.label
                ),
            ));
        }
        Ok(())
    }

    /// Reads a small file of the archive; `None` if it is not there.
    pub(super) fn read(&self, name: &str, cap: u64) -> Result<Option<Vec<u8>>> {
        self.files.get(name).map(|place| place.read_all(name, cap)).transpose()
    }

    /// For messages: the archive and one of its members.
    pub(super) fn describe(&self, name: &str) -> String {
        self.files.get(name).map_or_else(
            || format!("`{}`: member `{}`", quote(&self.label), quote(&name)),
            |place| place.describe(name),
        )
    }
}

/// The digest that a member's name states, where it is a regular blob: `blobs/ALGORITHM/HEX`.
pub(super) fn blob_name(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// Two members of one name are accepted if nobody can tell which one is read.
fn same_bytes(name: &str, first: &Place, second: &Place) -> Result<()> {
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
            "{} stands there again with other bytes, at offset {}",
            first.describe(name),
            second.offset
        ),
    )
    .with_hint("programs differ in which of the two they read, so neither is trusted; make the archive again"))
}

fn twice(label: &str, name: &str) -> Error {
    Error::new(
        Kind::Malformed,
        format!(
            "`{}`: the member `{}` stands there twice, once as a link",
            quote(&label),
            quote(&name)
        ),
    )
}

/// The warning about an archive that just stops.
pub(super) fn unmarked(label: &str) -> String {
    format!(
        "`{}` lacks the blocks that mark its end: it may have been cut off",
        quote(&label)
    )
}
