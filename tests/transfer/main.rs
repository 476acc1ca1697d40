//! Export, import and the one-step mirror against the registry double.

#[path = "../archives/mod.rs"]
mod archives;
#[path = "../handmade/mod.rs"]
mod handmade;
#[path = "../support/mod.rs"]
mod support;

mod blob_sources;
mod ceiling;
mod export;
mod import;
mod lost_blobs;
mod mirror;
mod push_plan;
