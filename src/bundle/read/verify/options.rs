//! Options of a verification.

use crate::progress::Progress;

/// Options of a verification.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Whether layers are decompressed and compared with the digests in the configs.
    pub deep: bool,
    /// Maximum size of an unpacked layer in bytes, in addition to 1,100 times its packed size; 4 GiB by default. The limit
    /// bounds time: the content is hashed, and not written.
    pub max_unpacked: Option<u64>,
    /// Receives the progress of the verification.
    pub progress: Progress,
}
