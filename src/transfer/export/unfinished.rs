//! What an earlier run of the same command left, and how it is taken over.
//!
//! The bytes of a blob are where the old plan put them. The new plan may differ (an image failed last time, or fails now),
//! so what is there is first moved to its new place, inside the file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::bundle::journal::{Journal, OldSlot, Replay};
use crate::bundle::partial::Partial;
use crate::bundle::plan::Plan;
use crate::bundle::ranges::Ranges;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest};
use crate::image::reference::Reference;

/// The largest front that is read back: everything before the first blob.
const MAX_FRONT: u64 = 1 << 30;

/// How much is moved at a time.
const MOVE: usize = 1 << 20;

/// An unfinished export that may be continued.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// What each reference was found to be.
    pub(super) pins: HashMap<Reference, Digest>,
    /// Manifests that need not be fetched.
    pub(super) manifests: Vec<Arc<RawManifest>>,
    /// Blobs of which something is there.
    pub(super) slots: Vec<OldSlot>,
}

/// Looks at what is in the file. `None` if there is nothing.
///
/// # Errors
/// [`Kind::Exists`] if it belongs to another command, or to nobody who can be told: it is never overwritten silently.
pub(super) fn look(partial: &Partial, request: &Digest) -> Result<Option<Unfinished>> {
    if partial.is_empty()? {
        return Ok(None);
    }
    let foreign = |why: String| {
        Error::new(
            Kind::Exists,
            format!("the unfinished file `{}` {why}", partial.path().display()),
        )
        .with_hint("give `--fresh` to throw it away and start anew, or choose another name with `-o`")
    };
    let Replay { header, slots } = match Journal::replay(&partial.journal_path()) {
        Ok(replay) => replay,
        Err(error) => return Err(foreign("cannot be continued".to_owned()).with_source(error)),
    };
    if header.request != *request {
        return Err(foreign(format!("belongs to another export ({})", header.summary)));
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
        manifests: manifests(partial, header.front),
        slots,
    }))
}

/// The manifests in the front of the file. Whatever does not read as one is left out, and is fetched again.
fn manifests(partial: &Partial, front: u64) -> Vec<Arc<RawManifest>> {
    let mut found = Vec::new();
    let length = front.min(MAX_FRONT).min(partial.len().unwrap_or(0));
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    if partial.read_at(&mut bytes, 0).is_err() {
        return found;
    }
    for (digest, content) in crate::bundle::layout::blobs_in(&Bytes::from(bytes), MAX_MANIFEST) {
        if let Ok(manifest) = RawManifest::new(content, None, Some(&digest)) {
            found.push(Arc::new(manifest));
        }
    }
    found
}

/// Moves what is there of each blob to where the plan wants it, and says what that is, by the number of the slot.
///
/// Both layouts have their blobs in the same order, so a blob that moves up never meets one before it that moves down, nor
/// the other way round: moving up from the last to the first, then down from the first to the last, overwrites nothing that
/// is still to be moved. A blob whose order did change is given up.
pub(super) fn settle_in(partial: &Partial, plan: &Plan, old: Vec<OldSlot>) -> Result<HashMap<usize, Ranges>> {
    let numbers: BTreeMap<&Digest, usize> = plan
        .blobs()
        .iter()
        .enumerate()
        .map(|(number, slot)| (&slot.blob.digest, number))
        .collect();
    let mut moves: Vec<(usize, OldSlot)> = old
        .into_iter()
        .filter_map(|slot| {
            let number = *numbers.get(&slot.digest)?;
            (plan.blobs()[number].blob.size == slot.size).then_some((number, slot))
        })
        .collect();
    moves.sort_by_key(|(_, slot)| slot.offset);
    let mut last = None;
    moves.retain(|(number, slot)| {
        let end = slot.offset.saturating_add(slot.size);
        let in_order = last.is_none_or(|(n, e)| n < *number && e <= slot.offset);
        if in_order {
            last = Some((*number, end));
        }
        in_order
    });
    let (up, down): (Vec<_>, Vec<_>) = moves
        .iter()
        .partition(|(number, slot)| plan.blobs()[*number].offset > slot.offset);
    for (number, slot) in up.into_iter().rev() {
        shift(partial, slot, plan.blobs()[*number].offset)?;
    }
    for (number, slot) in down {
        shift(partial, slot, plan.blobs()[*number].offset)?;
    }
    Ok(moves.into_iter().map(|(number, slot)| (number, slot.written)).collect())
}

/// Moves a slot's bytes; source and target may overlap.
fn shift(partial: &Partial, slot: &OldSlot, to: u64) -> Result<()> {
    if slot.offset == to {
        return Ok(());
    }
    let length = partial.len()?.saturating_sub(slot.offset).min(slot.size);
    let mut buffer = vec![0; MOVE];
    let mut done = 0;
    while done < length {
        let step = (MOVE as u64).min(length - done);
        // Away from where the bytes go: upwards starts at the end.
        let at = if to > slot.offset { length - done - step } else { done };
        let piece = &mut buffer[..usize::try_from(step).unwrap_or(MOVE)];
        partial.read_at(piece, slot.offset + at)?;
        partial.write_at(piece, to + at)?;
        done += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_over_itself() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
        for (from, to) in [(1000, 3000), (3000, 1000), (0, 2_000_000), (2_000_000, 0)] {
            let partial = Partial::open(&folder.path().join("f")).unwrap();
            partial.clear().unwrap();
            partial.write_at(&bytes, from).unwrap();
            let slot = OldSlot {
                digest: Digest::sha256(b""),
                size: bytes.len() as u64,
                offset: from,
                written: Ranges::default(),
            };
            shift(&partial, &slot, to).unwrap();
            let mut back = vec![0; bytes.len()];
            partial.read_at(&mut back, to).unwrap();
            assert!(back == bytes, "{from} -> {to}");
        }
    }
}
