//! Export of a supplement into a file, which gets its final name when it is complete.
//! Until then, the same command resumes it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::export::commit;
use super::journaled::Journaled;
use super::prepare::{Headers, Prepare};
use super::unfinished;
use super::whole_sum::WholeSum;
use super::worker::{Filling, fill};
use crate::bundle::partial::Partial;
use crate::bundle::plan::Plan;
use crate::error::Result;
use crate::image::digest::Digest;
use crate::progress::{Progress, human_bytes};
use crate::transfer::blocking::blocking;
use crate::transfer::export::request::Reused;
use crate::transfer::export::reuse::Earlier;
use crate::transfer::sources::Sources;

/// Content of a supplement, and the sources of its blobs.
pub(in crate::transfer::export) struct SupplementFile {
    /// Digest of the want-list, and its description for messages.
    pub(in crate::transfer::export) identity: (Digest, String),
    pub(in crate::transfer::export) plan: Plan,
    /// Manifests among the blobs, by digest.
    pub(in crate::transfer::export) known: BTreeMap<Digest, Bytes>,
    pub(in crate::transfer::export) sources: Sources,
    pub(in crate::transfer::export) earlier: Arc<Earlier>,
    pub(in crate::transfer::export) jobs: usize,
}

impl SupplementFile {
    /// Writes the file `path`. Returns what came from earlier bundles, and the SHA-256 of the file if it was computed meanwhile.
    /// `force` replaces an existing file; `fresh` discards the unfinished file of an earlier run.
    ///
    /// # Errors
    /// The error of the first blob that cannot be fetched. All fetched blobs are kept for the next run.
    pub(in crate::transfer::export) async fn write(
        self,
        path: &Path,
        (force, fresh): (bool, bool),
        progress: &Progress,
    ) -> Result<(Reused, Option<Digest>)> {
        let partial = Arc::new(Partial::open(path)?);
        if fresh {
            partial.journal().remove();
            partial.clear()?;
        }
        let result = self.fill(&partial, force, progress).await;
        if result.is_err() && partial.is_empty().unwrap_or(false) {
            partial.remove();
        }
        result
    }

    async fn fill(self, partial: &Arc<Partial>, force: bool, progress: &Progress) -> Result<(Reused, Option<Digest>)> {
        let mut left = unfinished::read(partial, &[], &self.identity.0, progress)?.unwrap_or_default();
        let plan = Arc::new(self.plan);
        left.check_takeover(&plan, partial, progress)?;
        let system = partial.file_system()?;
        partial.reserve(plan.total(), &system, human_bytes)?;
        let prepare = Prepare {
            partial: partial.clone(),
            plan: plan.clone(),
            old: std::mem::take(&mut left.slots),
            headers: Headers::new(&self.identity, &left, &plan, &[]),
            configs: self.known,
        };
        let (journal, written) = blocking(move || prepare.run()).await??;
        progress.emit(plan.planned(0, &written));
        let sum = WholeSum::start(partial.clone(), plan.clone());
        let filling = Filling {
            plan: plan.clone(),
            output: Journaled::new(partial.clone(), journal),
            sources: self.sources,
            earlier: self.earlier,
            progress: progress.clone(),
            jobs: self.jobs,
            sparse: system.sparse,
            in_place: Some(sum.in_place.clone()),
        };
        let mut filled = fill(filling, written).await?;
        // Errors are checked in the order of the file, so that the same run reports the same blob.
        let mut digests = plan.blobs().iter().map(|slot| &slot.blob.digest);
        if let Some(error) = digests.find_map(|digest| filled.failures.remove(digest)) {
            return Err(error);
        }
        let sha256 = sum.finish(false).await;
        let partial = partial.clone();
        blocking(move || commit(&partial, &plan, force)).await??;
        Ok((filled.reused, sha256))
    }
}
