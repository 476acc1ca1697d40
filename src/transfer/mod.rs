//! Operations on image trees in registries and bundles: export, import, mirror and inspection.

mod attach;
mod blocking;
pub(crate) mod bundle_blobs;
pub mod export;
pub mod import;
pub(crate) mod inspect;
pub mod mirror;
pub mod push;
pub(crate) mod referrers;
pub(crate) mod resolve;
mod runnable;
mod select_images;
pub(crate) mod sources;
pub(crate) mod tags;
mod wait;
