//! Bundles: an OCI image layout in a tar file, its plan, its writer, and a reader that also accepts foreign archives.
//!
//! `docs/bundle-format.md` describes the format.

mod document;
mod durable;
pub(crate) mod file_system;
pub(crate) mod finished;
mod front;
pub(crate) mod journal;
pub(crate) mod layout;
pub(crate) mod partial;
pub(crate) mod plan;
pub(crate) mod ranges;
pub(crate) mod read;
pub(crate) mod record;
pub(crate) mod replay;
mod tar_header;
