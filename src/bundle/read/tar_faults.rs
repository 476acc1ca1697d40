//! Violations of the tar format that a scan skipped.

use crate::error::Error;

/// Maximum number of faults that are kept for one archive.
const MAX_FAULTS: usize = 1000;

/// A violation of the tar format.
#[derive(Debug, Clone)]
pub(crate) struct TarFault {
    /// Offset of the header that is wrong, or whose member is wrong, in bytes.
    pub(crate) offset: u64,
    pub(crate) error: Error,
}

/// Faults of an archive that the scan skipped.
#[derive(Debug, Default)]
pub(super) struct TarFaults {
    pub(super) first: Vec<TarFault>,
    /// Number of faults beyond the limit.
    pub(super) more: u64,
}

impl TarFaults {
    pub(super) fn add(&mut self, offset: u64, error: Error) {
        match self.first.len() < MAX_FAULTS {
            true => self.first.push(TarFault { offset, error }),
            false => self.more += 1,
        }
    }

    pub(super) fn append(&mut self, others: Self) {
        self.more += others.more;
        others
            .first
            .into_iter()
            .for_each(|fault| self.add(fault.offset, fault.error));
    }
}
