//! Reads bundles, and the archives of other programs.
//!
//! A tar is scanned once, from header to header; its members are then read by offset, from any number of threads, and
//! never unpacked. No content of an archive is trusted: names are only compared, sizes and counts are limited, and
//! building a tree verifies the digests of its manifests and the presence of every blob.

mod archive;
mod assemble;
mod attached;
mod broken;
mod bundle;
mod compression;
mod contents;
mod docker;
mod documents;
mod find;
mod foreign;
mod forward;
mod header;
mod identity;
mod index;
mod inside;
mod layout;
mod member_names;
pub(crate) mod name_override;
mod names;
mod no_archive;
mod record_check;
mod salvage;
mod scan;
mod source;
mod spool;
mod store;
pub(crate) mod stream;
mod streams;
pub(crate) mod summed;
mod tar_faults;
mod tree;
mod unlisted;
pub(crate) mod verify;
mod walk;

pub(crate) use broken::BrokenImage;
pub use bundle::{Bundle, OpenOptions};
pub use contents::BundledImage;
pub(crate) use contents::Referrer;
pub(crate) use store::Store;
