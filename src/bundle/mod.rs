//! The file: an OCI image layout in a tar, its plan, its writer, and a reader that takes foreign archives as well.
//!
//! The format is described in `docs/bundle-format.md`.

pub mod read;
pub mod record;
