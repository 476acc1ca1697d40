//! The operations: what is done with image trees between registries and bundles.

mod blocking;
mod choose;
pub mod export;
pub mod import;
pub mod mirror;
pub mod push;
pub(crate) mod resolve;
mod runs;
pub(crate) mod sources;
