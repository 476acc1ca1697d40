//! What an earlier run of the same command left.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::Arc;

use crate::bundle::journal::{Header, OldSlot};
use crate::bundle::partial::Partial;
use crate::bundle::replay::Replay;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest};
use crate::image::reference::Reference;
use crate::progress::Progress;
use crate::text::quote;

/// The largest front that is read back: everything before the first blob.
const MAX_FRONT: u64 = 1 << 30;

/// An unfinished export that may be continued.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// What each reference was found to be.
    pub(super) pins: HashMap<Reference, Digest>,
    /// Manifests that need not be fetched.
    pub(super) manifests: Vec<Arc<RawManifest>>,
    /// Blobs of which something is there.
    pub(super) slots: Vec<OldSlot>,
    /// How many bytes stand before them.
    pub(super) front: u64,
    /// The media types of manifests whose bytes do not tell them.
    pub(super) types: BTreeMap<Digest, String>,
}

/// Looks at what is in the file. `None` if there is nothing that can be continued; the file is empty then.
///
/// # Errors
/// [`Kind::Exists`] if it belongs to another command, or is no bundle of this program: it is never overwritten silently.
pub(super) fn look(partial: &Partial, request: &Digest, progress: &Progress) -> Result<Option<Unfinished>> {
    if partial.is_blank()? {
        if !partial.is_empty()? {
            partial.clear()?;
        }
        return Ok(None);
    }
    let shown = quote(partial.path());
    let foreign = |why: String| {
        Error::new(Kind::Exists, format!("the unfinished file `{shown}` {why}"))
            .with_hint("give `--fresh` to throw it away and start anew, or choose another name with `-o`")
    };
    let Replay { header, slots } = match Replay::read(&partial.journal()) {
        Ok(replay) => replay,
        // A bundle whose journal is lost or unreadable cannot be continued, so nothing is lost with it.
        Err(error) if error.kind() != Kind::Unsupported && begins_bundle(partial)? => {
            progress.warn(format!(
                "the unfinished bundle `{shown}` cannot be continued ({}); starting anew",
                error.full()
            ));
            partial.clear()?;
            return Ok(None);
        }
        Err(error) => return Err(foreign("cannot be continued".to_owned()).with_source(error)),
    };
    if header.request != *request {
        let why = format!("belongs to another export ({})", header.summary);
        return Err(foreign(why).with_hint(format!(
            "to take over what is in it, give `--reuse {shown}` and another name with `-o`; `--fresh` throws it away and starts anew"
        )));
    }
    let pins = header
        .pins
        .iter()
        .filter_map(|(name, digest)| Some((name.parse().ok()?, digest.clone())))
        .collect();
    let length = partial.len()?;
    let slots = slots
        .into_iter()
        .filter(|slot| slot.offset < length && !slot.written.is_empty())
        .collect();
    Ok(Some(Unfinished {
        pins,
        manifests: manifests(partial, &header),
        slots,
        front: header.front,
        types: header.types,
    }))
}

fn begins_bundle(partial: &Partial) -> Result<bool> {
    let mut head = [0; 1024];
    let got = partial.read_at(&mut head, 0)?;
    Ok(crate::bundle::layout::begins_bundle(&head[..got]))
}

/// The manifests in the front of the file. Bytes that do not parse as one are skipped, and the manifest is fetched again.
fn manifests(partial: &Partial, header: &Header) -> Vec<Arc<RawManifest>> {
    let mut found = Vec::new();
    let front = Front { partial, at: 0 }.take(header.front.min(MAX_FRONT));
    let front = io::BufReader::with_capacity(64 << 10, front);
    crate::bundle::layout::blobs_in(front, MAX_MANIFEST, |digest, content| {
        let declared = header.types.get(&digest).map(String::as_str);
        if let Ok(manifest) = RawManifest::new(content, declared, Some(&digest)) {
            found.push(Arc::new(manifest));
        }
    });
    found
}

/// Reads the file from its start.
struct Front<'a> {
    partial: &'a Partial,
    at: u64,
}

impl Read for Front<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.partial.read_at(buffer, self.at).map_err(io::Error::other)?;
        self.at += got as u64;
        Ok(got)
    }
}
