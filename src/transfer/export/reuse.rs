//! Blobs that an earlier bundle has need not be fetched.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::journal::Journal;
use crate::bundle::partial::Partial;
use crate::bundle::plan::{Plan, Slot};
use crate::bundle::ranges::Ranges;
use crate::bundle::read::{Bundle, OpenOptions};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// How much is copied at a time.
const COPY: usize = 1 << 20;

/// Copies what earlier bundles have of a plan's blobs into their slots, and adds it to `written`. The digest is checked on
/// the way; a blob that is wrong there is fetched instead. Returns how many bytes were copied.
pub(super) async fn reuse(
    paths: &[PathBuf],
    plan: &Arc<Plan>,
    partial: &Arc<Partial>,
    journal: &Arc<Journal>,
    written: &mut HashMap<usize, Ranges>,
    progress: &Progress,
) -> Result<u64> {
    if paths.is_empty() {
        return Ok(0);
    }
    let wanted: Vec<usize> = (0..plan.blobs().len())
        .filter(|number| !written.contains_key(number))
        .collect();
    let (paths, plan, partial) = (paths.to_vec(), plan.clone(), partial.clone());
    let (journal, progress) = (journal.clone(), progress.clone());
    // Disk to disk: it would hold up a worker that has connections to serve.
    let copied = tokio::task::spawn_blocking(move || -> Result<Vec<(usize, u64)>> {
        let mut copied = Vec::new();
        let bundle = Bundle::open(&paths, &OpenOptions::default())?;
        for number in wanted {
            let slot = &plan.blobs()[number];
            if bundle.size_of(&slot.blob.digest) != Some(slot.blob.size) {
                continue;
            }
            match copy(&bundle, slot, &partial) {
                Ok(()) => {
                    journal.written(number, 0..slot.blob.size)?;
                    copied.push((number, slot.blob.size));
                }
                Err(error) if error.kind() == Kind::Integrity => progress.warn(format!("{error}; fetching it instead")),
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    })
    .await
    .map_err(|e| Error::new(Kind::Io, "copying from an earlier bundle was cut off").with_source(e))??;
    let mut bytes = 0;
    for (number, size) in copied {
        bytes += size;
        written.entry(number).or_default().insert(0..size);
    }
    Ok(bytes)
}

fn copy(bundle: &Bundle, slot: &Slot, partial: &Partial) -> Result<()> {
    let digest = &slot.blob.digest;
    let mut hasher = digest.hasher();
    let mut buffer = vec![0; COPY];
    let mut at = 0;
    while at < slot.blob.size {
        let got = bundle.read_at(digest, at, &mut buffer)?;
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
        partial.write_at(&buffer[..got], slot.offset + at)?;
        at += got as u64;
    }
    if hasher.finish() == *digest {
        Ok(())
    } else {
        Err(Error::new(
            Kind::Integrity,
            format!("{} has other bytes than its digest says", bundle.describe(digest)),
        ))
    }
}
