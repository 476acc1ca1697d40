//! Uploads of blobs: sessions, the strategies that send bytes into them, and the handling of failures.

pub(super) mod blob_upload;
mod body;
pub(super) mod profile;
mod retry_budget;
pub(super) mod saved_sessions;
mod sender;
pub(super) mod session;
mod setback;
pub(crate) mod source;
mod target;
