//! An unfinished output file that is written in order.

use std::path::Path;
use std::sync::Arc;

use crate::bundle::partial::Partial;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::text::quote;
use crate::transfer::blocking::blocking;

/// An unfinished compressed bundle.
/// Such a bundle cannot be resumed, so dropping this value removes the file unless the file was committed.
pub(super) struct Unfinished {
    pub(super) partial: Arc<Partial>,
    committed: bool,
}

impl Unfinished {
    /// Opens and clears the unfinished file. An unfinished uncompressed export is only discarded with `fresh`.
    pub(super) fn begin(path: &Path, fresh: bool, progress: &Progress) -> Result<Self> {
        let partial = Partial::open(path)?;
        if !partial.is_blank()? && !fresh {
            if !left_by_a_kill(&partial) {
                return Err(Error::new(
                    Kind::Exists,
                    format!(
                        "the unfinished file `{}` belongs to another export, which is not compressed",
                        quote(&partial.path())
                    ),
                )
                .with_hint("give `--fresh` to throw it away and start anew, or choose another name with `-o`"));
            }
            progress.warn(format!(
                "`{}` is a compressed bundle that was not finished, which cannot be continued; starting anew",
                quote(&partial.path())
            ));
        }
        let unfinished = Self {
            partial: Arc::new(partial),
            committed: false,
        };
        unfinished.partial.clear()?;
        Ok(unfinished)
    }

    /// Gives the file its final name.
    pub(super) async fn commit(mut self, force: bool) -> Result<()> {
        let partial = self.partial.clone();
        blocking(move || partial.commit(partial.len()?, force)).await??;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.committed {
            self.partial.remove();
        }
    }
}

/// Returns whether a killed compressing run left this file.
/// Such a file has no journal, and starts like gzip or Zstandard.
fn left_by_a_kill(partial: &Partial) -> bool {
    let mut head = [0; 4];
    let read = partial.read_at(&mut head, 0).is_ok();
    let compressed = matches!(head, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]);
    read && compressed && partial.journal().is_free()
}
