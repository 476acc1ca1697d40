//! The push engine of import and the one-step mirror: pushes image trees to tags of a registry.
//!
//! A push has four steps. Each step starts only after everything that it depends on is known to be in place:
//!
//! 1. each image gets its name at the destination, and names that collide are rejected ([`destination`]);
//! 2. one HEAD request per tag finds the images that are already at the destination ([`tag`], [`compare`]);
//! 3. the blobs of the remaining images go into one queue, image by image; each digest is uploaded once ([`scheduler`],
//!    [`ensure_blob`]);
//! 4. after the last blob of an image, its manifests are put, children first, then its attachments ([`attachments`]), and
//!    the tag last ([`publish`]).
//!
//! No tasks are spawned: a push that is dropped at any moment leaves only blobs and manifests without a tag, which a second
//! run finds.

mod absent_referrers;
pub(crate) mod asked_image;
mod attachments;
mod compare;
pub(crate) mod destination;
pub(crate) mod engine;
pub(crate) mod ensure_blob;
mod grouping;
mod held_back;
mod image_state;
mod left_referrers;
mod lost_blobs;
mod merge_signature;
pub(crate) mod pipe;
mod platform_tags;
pub(crate) mod publish;
pub(crate) mod push_all;
mod put_manifest;
mod ready;
mod referrer_list;
pub(crate) mod report;
pub(crate) mod request;
pub(crate) mod reservation;
pub(crate) mod scheduler;
pub(crate) mod tag;
mod together;
pub(crate) mod work;

pub use report::{Amount, Counts, Form, ImageReport, Outcome, PushReport};
pub use request::{Mapping, OnExisting, PushRequest};
