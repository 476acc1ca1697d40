//! Resolves the paths of `manifest.json` to members, through links, and compares configs with the digests in their names.

use std::collections::{BTreeMap, HashMap};

use crate::bundle::read::archive::{Archive, blob_name};
use crate::bundle::read::broken::remembered;
use crate::bundle::read::header::clean_name;
use crate::bundle::read::source::Extent;
use crate::bundle::read::store::Store;
use crate::error::{Error, Kind, Result};
use crate::image::config::MAX_CONFIG;
use crate::image::digest::Digest;
use crate::text::{Warnings, quote};

/// The configs of an archive; each config is read and hashed once.
pub(in crate::bundle::read) struct Configs<'a> {
    archive: &'a Archive,
    /// Digests by source and offset of the config.
    known: HashMap<(String, u64), Result<Digest>>,
    /// Configs whose file name states another digest than their own, with their own digest.
    renamed: BTreeMap<String, Digest>,
}

impl<'a> Configs<'a> {
    pub(in crate::bundle::read) fn new(archive: &'a Archive) -> Self {
        Self {
            archive,
            known: HashMap::new(),
            renamed: BTreeMap::new(),
        }
    }

    /// Returns the place of the config with this path, and its digest.
    pub(in crate::bundle::read) fn find(&mut self, path: &str, store: &Store) -> Result<(Extent, Digest)> {
        let place = resolve(self.archive, path, store)?;
        let read = || Ok(Digest::sha256(&place.read_all(path, MAX_CONFIG)?));
        let key = (place.source.label().to_owned(), place.offset);
        let digest = remembered(self.known.entry(key).or_insert_with(read))?;
        // A wrong name outside `blobs` is only a warning: no program relies on it, and the layers are checked.
        // A blob must match its name.
        if stated_digest(path).is_some_and(|stated| stated != digest) {
            if blob_name(path).is_some() {
                let what = format!("{}: its bytes hash to {digest}", place.describe(path));
                return Err(Error::new(Kind::Integrity, what)
                    .with_hint("the archive is damaged or was edited; save the image again"));
            }
            self.renamed.insert(path.to_owned(), digest.clone());
        }
        Ok((place, digest))
    }

    /// Returns warnings about the configs found so far.
    pub(in crate::bundle::read) fn warnings(&self) -> Warnings {
        let label = quote(&self.archive.label);
        let one = |(name, digest): (&String, &Digest)| {
            format!(
                "`{label}`: the config `{}` is not what its name says: it hashes to {digest}; it is taken as it is",
                quote(name)
            )
        };
        self.renamed.iter().map(one).collect()
    }
}

/// Resolves a path of `manifest.json` to a place, through links inside the archive.
pub(in crate::bundle::read) fn resolve(archive: &Archive, path: &str, store: &Store) -> Result<Extent> {
    let wrong = |why: String| Error::new(Kind::Malformed, why);
    let name = clean_name(path.as_bytes()).map_err(wrong)?.unwrap_or_default();
    archive
        .follow(&name, store)
        .map_err(|why| wrong(why).with_hint("the archive is incomplete: copy it again, or save the image again"))
}

/// Returns the digest that a file name states, if any.
fn stated_digest(path: &str) -> Option<Digest> {
    let base = path.rsplit('/').next().unwrap_or(path);
    let base = base.strip_prefix("sha256:").unwrap_or(base);
    let hex = base.split('.').next().unwrap_or(base);
    format!("sha256:{hex}").parse().ok()
}
