//! The file: an OCI image layout in a tar, its plan, its writer, and a reader that takes foreign archives as well.
//!
//! The format is described in `docs/bundle-format.md`.

mod durable;
pub(crate) mod file_system;
pub(crate) mod finished;
pub(crate) mod journal;
pub(crate) mod layout;
pub(crate) mod partial;
pub(crate) mod plan;
pub(crate) mod ranges;
pub(crate) mod read;
pub(crate) mod record;
pub(crate) mod replay;
mod tar_header;
