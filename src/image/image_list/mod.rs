//! Lists of images, from the command line and from files of `--images`.
//!
//! A line is a name, or a pattern of tags that is resolved later. A file may also be a document of another program
//! ([`documents`]). All faults are collected, so that a user can correct them in one go.

mod documents;
mod entry;
mod line;
mod line_hint;
mod list;
mod other_address;
mod tags;
mod version;

pub use entry::Rename;
pub(crate) use entry::{Entry, Names};
pub use list::{CheckedList, ImageList, MAX_LIST};
pub(crate) use tags::TagPattern;
