//! The operations: what is done with image trees between registries and bundles.

pub mod resolve;
