//! The content of bundles as plain values without I/O.
//!
//! The values are the input of `inspect`, of locks, of the comparison of two bundles,
//! and of the want-list of a damaged bundle.

pub(crate) mod details;
pub(crate) mod difference;
pub(crate) mod images;
pub(crate) mod lock;
pub(crate) mod locked_image;
pub(crate) mod locked_referrer;
pub(crate) mod referrer_difference;
pub(crate) mod sharing;
pub(crate) mod want_list;
