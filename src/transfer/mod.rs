//! The operations: what is done with image trees between registries and bundles.

mod choose;
pub mod export;
pub mod fetch;
pub mod import;
pub mod mirror;
pub mod push;
pub mod resolve;
mod runs;
