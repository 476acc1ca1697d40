//! Mirrors container images: from registries into one file, from that file into a registry, or straight across.
//!
//! The noun in the middle is the [image tree](image::tree::ImageTree): a reference, its root descriptor, the raw
//! manifests below it and the descriptors of the blobs that they name. Trees come from a registry or from a bundle, and
//! go into a bundle or a registry. The operations are in [`transfer`]; [`registry`] is the wire, [`bundle`] is the file.
//!
//! The library never prints, never exits and never reads the environment on its own: what it is given decides what it
//! does, what happens on the way is told through [`progress`], and what came of it is returned as a report.

pub mod bundle;
pub mod error;
pub mod files;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod image;
pub mod progress;
pub mod registry;
pub mod text;
pub mod transfer;
