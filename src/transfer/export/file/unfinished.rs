//! Reads the unfinished file that an earlier run left.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use crate::bundle::journal::{Header, OldSlot};
use crate::bundle::layout;
use crate::bundle::partial::Partial;
use crate::bundle::plan::Plan;
use crate::bundle::replay::Replay;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest};
use crate::image::reference::Reference;
use crate::progress::Progress;
use crate::text::{byte_count, few, quote};

/// Maximum size in bytes of the front (everything before the first blob) that is read back.
const MAX_FRONT: u64 = 1 << 30;

/// Number of bytes at the start of a file that are read to recognize a bundle.
const HEAD: usize = 512;

/// An unfinished export that can be resumed.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// Digests that an earlier run resolved the references to.
    pub(super) pins: HashMap<Reference, Digest>,
    /// Manifests in the file, which need not be fetched.
    pub(super) manifests: Vec<Arc<RawManifest>>,
    /// Slots with at least one written byte.
    pub(super) slots: Vec<OldSlot>,
    /// Size of the front in bytes.
    pub(super) front: u64,
    /// Media types of manifests whose bytes alone would be parsed as another media type.
    pub(super) types: BTreeMap<Digest, String>,
    /// Description of the file's export, if it is another export than the current one.
    other: Option<Other>,
}

/// Description of another export that left the unfinished file.
#[derive(Debug)]
struct Other {
    /// Summary of that other export's request.
    summary: String,
    /// Differences between that request and the current one.
    difference: String,
}

impl Other {
    fn new(header: &Header, images: &[Reference]) -> Self {
        let now: BTreeSet<String> = images.iter().map(Reference::to_string).collect();
        let before: BTreeSet<String> = header.pins.keys().cloned().collect();
        let list = |word: &str, names: Vec<&String>| (!names.is_empty()).then(|| format!("{word}: {}", few(names)));
        let added = list("added", now.difference(&before).collect());
        let removed = list("removed", before.difference(&now).collect());
        let difference = [added, removed].into_iter().flatten().collect::<Vec<_>>().join("; ");
        Self {
            summary: header.summary.clone(),
            difference: match difference.is_empty() {
                true if now.is_empty() => "another want-list".to_owned(),
                true => "other platforms or options".to_owned(),
                false => difference,
            },
        }
    }
}

impl Unfinished {
    /// Accepts the blobs of another export, with a message to the user.
    ///
    /// # Errors
    /// [`Kind::Exists`] if the current export needs none of the blobs: resuming would discard them for nothing.
    pub(super) fn check_takeover(&self, plan: &Plan, partial: &Partial, progress: &Progress) -> Result<()> {
        let Some(other) = &self.other else { return Ok(()) };
        let there: HashSet<&Digest> = self.slots.iter().map(|slot| &slot.digest).collect();
        if there.is_empty() {
            return Ok(());
        }
        let shown = quote(partial.path());
        if !plan.blobs().iter().any(|slot| there.contains(&slot.blob.digest)) {
            let why = format!(
                "belongs to another export ({}), of which this one needs nothing",
                other.summary
            );
            return Err(foreign(partial, &why));
        }
        progress.info(format!(
            "`{shown}` is of another list of images ({}); blobs that this export needs are reused",
            other.difference
        ));
        Ok(())
    }
}

/// Returns the error for an unfinished file that this run may not use.
fn foreign(partial: &Partial, why: &str) -> Error {
    Error::new(
        Kind::Exists,
        format!("the unfinished file `{}` {why}", quote(partial.path())),
    )
    .with_hint("give `--fresh` to throw it away and start anew, or choose another name with `-o`")
}

/// Reads the state of the unfinished file.
/// Returns `None` if nothing can be resumed; the file is empty then.
///
/// Reports bytes that an earlier run fetched and that are no longer in the file.
///
/// # Errors
/// [`Kind::Exists`] if the file is no bundle of this program: such a file is never overwritten silently.
pub(super) fn read(
    partial: &Partial,
    images: &[Reference],
    request: &Digest,
    progress: &Progress,
) -> Result<Option<Unfinished>> {
    let shown = quote(partial.path());
    let replay = Replay::read(&partial.journal());
    let report_lost = |why: &str| {
        if let Ok(Replay { slots, .. }) = &replay
            && slots.iter().any(|slot| !slot.written.is_empty())
        {
            progress.warn(format!(
                "the unfinished bundle `{shown}` {why}: what an earlier run fetched is lost; starting anew"
            ));
        }
    };
    if partial.is_blank()? {
        report_lost("is empty or was removed");
        if !partial.is_empty()? {
            partial.clear()?;
        }
        return Ok(None);
    }
    // The journal of an earlier run may be beside a file of another program.
    if replay.is_ok() && !belongs_to_journal(partial)? {
        return Err(foreign(
            partial,
            "is no bundle of this program, though a journal is beside it",
        ));
    }
    let length = partial.len()?;
    if let Ok(Replay { slots, .. }) = &replay
        && slots
            .iter()
            .all(|slot| slot.offset >= length || slot.written.is_empty())
    {
        report_lost(&format!("has only {} left", byte_count(length)));
    }
    let Replay { header, slots } = match replay {
        Ok(replay) => replay,
        // A bundle whose journal is lost or unreadable cannot be resumed, so clearing the file loses nothing.
        Err(error) if error.kind() != Kind::Unsupported && begins_bundle(partial)? => {
            progress.warn(format!(
                "the unfinished bundle `{shown}` cannot be continued ({}); starting anew",
                error.full()
            ));
            partial.clear()?;
            return Ok(None);
        }
        Err(error) => return Err(foreign(partial, "cannot be continued").with_source(error)),
    };
    let other = (header.request != *request).then(|| Other::new(&header, images));
    let asked: HashSet<&Reference> = images.iter().collect();
    let pins = header
        .pins
        .iter()
        .filter_map(|(name, digest)| Some((name.parse().ok()?, digest.clone())))
        .filter(|(name, _)| asked.contains(name))
        .collect();
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
        other,
    }))
}

fn begins_bundle(partial: &Partial) -> Result<bool> {
    let mut head = [0; HEAD];
    let got = partial.read_at(&mut head, 0)?;
    Ok(layout::begins_bundle(&head[..got]))
}

/// Returns whether a file beside a journal may be the bundle of that journal.
/// Few of its first bytes may be damaged, and a power cut may leave zeros in their place.
fn belongs_to_journal(partial: &Partial) -> Result<bool> {
    let mut head = [0; HEAD];
    let got = partial.read_at(&mut head, 0)?;
    let head = &head[..got];
    Ok(head.iter().all(|byte| *byte == 0) || layout::begins_damaged_bundle(head))
}

/// Reads the manifests in the front of the file.
/// Entries that do not parse as a manifest are skipped and fetched again.
fn manifests(partial: &Partial, header: &Header) -> Vec<Arc<RawManifest>> {
    let mut found = Vec::new();
    let front = Front { partial, at: 0 }.take(header.front.min(MAX_FRONT));
    let front = io::BufReader::with_capacity(64 << 10, front);
    layout::blobs_in(front, MAX_MANIFEST, |digest, content| {
        let declared = header.types.get(&digest).map(String::as_str);
        if let Ok(manifest) = RawManifest::new(content, declared, Some(&digest)) {
            found.push(Arc::new(manifest));
        }
    });
    found
}

/// Reader of the file from its start.
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
