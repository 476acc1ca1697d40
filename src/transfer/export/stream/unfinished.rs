//! An unfinished output file that is written in order.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::bundle::layout::begins_bundle;
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
    pub(super) fn create(path: &Path, fresh: bool, progress: &Progress) -> Result<Self> {
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

/// Number of bytes of a compressed file that are decoded to see what is in it; more than the first block of Zstandard has.
const HEAD: usize = 256 << 10;

/// Returns whether a killed compressing run left this file.
/// Such a file has no journal, and what is compressed in it starts like a bundle.
fn left_by_a_kill(partial: &Partial) -> bool {
    let mut head = vec![0; HEAD];
    let Ok(length) = partial.read_at(&mut head, 0) else {
        return false;
    };
    let head = &head[..length];
    let decoder: Box<dyn Read + '_> = match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(head)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => match zstd::stream::read::Decoder::new(head) {
            Ok(decoder) => Box::new(decoder),
            Err(_) => return false,
        },
        _ => return false,
    };
    let mut start = Vec::new();
    // The file breaks off, so the decoder ends with an error.
    let _ = decoder.take(1024).read_to_end(&mut start);
    begins_bundle(&start) && partial.journal().is_free()
}
