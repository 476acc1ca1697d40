//! What bundles hold, as plain values without I/O: what `inspect` shows, what a lock pins, what two bundles differ in, and which
//! blobs a damaged bundle lacks.

pub(crate) mod details;
pub(crate) mod difference;
pub(crate) mod images;
pub(crate) mod lock;
pub(crate) mod locked_image;
pub(crate) mod referrer_difference;
pub(crate) mod sharing;
pub(crate) mod want_list;
