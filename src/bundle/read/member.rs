//! Members that `manifest.json` names by their paths: found through links, and held against the digests in their names.

use std::collections::HashMap;

use super::archive::{Archive, blob_name};
use super::broken::remembered;
use super::header::clean_name;
use super::source::Place;
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::image::config::MAX_CONFIG;
use crate::image::digest::Digest;
use crate::text::quote;

/// Maximum number of links that lead to one another; more are a loop.
const MAX_LINKS: usize = 8;

/// The configs of an archive; each is read and hashed once.
pub(super) struct Configs<'a> {
    archive: &'a Archive,
    /// The digests, by the source and offset of the config.
    known: HashMap<(String, u64), Result<Digest>>,
}

impl<'a> Configs<'a> {
    pub(super) fn new(archive: &'a Archive) -> Self {
        Self {
            archive,
            known: HashMap::new(),
        }
    }

    /// Where the config of this path stands, and its digest.
    pub(super) fn find(&mut self, path: &str, store: &Store) -> Result<(Place, Digest)> {
        let place = resolve(self.archive, path, store)?;
        let read = || Ok(Digest::sha256(&place.read_all(path, MAX_CONFIG)?));
        let key = (place.source.label().to_owned(), place.offset);
        let digest = remembered(self.known.entry(key).or_insert_with(read))?;
        check_name(path, &place, &[&digest])?;
        Ok((place, digest))
    }
}

/// The content behind a path of `manifest.json`, through links inside the archive.
pub(super) fn resolve(archive: &Archive, path: &str, store: &Store) -> Result<Place> {
    let wrong = |why: String| Error::new(Kind::Malformed, why);
    let mut name = clean_name(path.as_bytes()).map_err(wrong)?.unwrap_or_default();
    for _ in 0..=MAX_LINKS {
        if let Some(place) = blob_name(&name).and_then(|digest| store.blob(&digest)) {
            // Messages about it need its name, and only the store could tell it from the digest.
            let member = Some(name.into_boxed_str());
            return Ok(Place {
                member,
                ..place.clone()
            });
        }
        if let Some(place) = archive.files.get(&name) {
            return Ok(place.clone());
        }
        match archive.links.get(&name) {
            Some(target) => name.clone_from(target),
            None => {
                return Err(wrong(format!("`{}` is not in the archive", quote(&name)))
                    .with_hint("the archive is incomplete: copy it again, or save the image again"));
            }
        }
    }
    Err(wrong(format!(
        "`{}` leads over more than {MAX_LINKS} links",
        quote(&path)
    )))
}

/// A file that is named after a digest must have it.
pub(super) fn check_name(path: &str, place: &Place, digests: &[&Digest]) -> Result<()> {
    let base = path.rsplit('/').next().unwrap_or(path);
    let base = base.strip_prefix("sha256:").unwrap_or(base);
    let hex = base.split('.').next().unwrap_or(base);
    let Ok(stated) = format!("sha256:{hex}").parse::<Digest>() else {
        return Ok(());
    };
    if digests.contains(&&stated) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Integrity,
        format!("{}: its bytes hash to {}", place.describe(path), digests[0]),
    )
    .with_hint("the archive is damaged or was edited; save the image again"))
}
