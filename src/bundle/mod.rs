//! The file: an OCI image layout in a tar, its plan, its writer, and a reader that takes foreign archives as well.
//!
//! The format is described in `docs/bundle-format.md`.

mod durable;
pub mod file_system;
mod header;
pub mod journal;
pub mod layout;
pub mod partial;
pub mod plan;
pub mod ranges;
pub mod read;
pub mod record;
pub mod replay;
