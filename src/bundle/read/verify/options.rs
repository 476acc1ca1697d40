//! Options of a verification.

use crate::progress::Progress;

/// Options of a verification.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Whether layers are decompressed and compared with the digests in the configs.
    pub deep: bool,
    /// Maximum number of bytes that a layer unpacks to beyond 1,100 times its size; 4 GiB by default. The content is only hashed
    /// and never written, so this limit bounds time.
    pub max_unpacked: Option<u64>,
    /// Receives the progress of the verification.
    pub progress: Progress,
}
