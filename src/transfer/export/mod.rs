//! Export: from registries into one bundle file.
//!
//! Manifests are fetched first, since the plan needs them; the plan assigns every byte of the bundle an offset. Then
//! workers fetch blobs concurrently and write each blob to its offset. The file gets its final name last.

mod dry_run;
mod file;
mod request;
mod resolved;
mod reuse;
mod run;
mod stream;

pub use request::{
    Compression, DryRun, Exported, Output, Report, Request, Reused, SupplementRequest, WrittenSupplement,
};
pub use run::{check_output, export};
pub use stream::supplement::supplement;
