//! The push engine that import and the one-step mirror share: from image trees to tags in one registry.
//!
//! A push has four steps, and nothing later starts before what it stands on is known to be in place:
//!
//! 1. every image gets its name at the destination, and names that collide are refused ([`destination`]);
//! 2. one HEAD per tag finds the images that are there already ([`tag`]);
//! 3. the blobs of all other images go into one queue, image by image, each digest uploaded once ([`scheduler`], [`ensure_blob`]);
//! 4. when the last blob of an image is in place, its manifests follow, children first, then what belongs to it
//!    ([`attachments`]), the tag last ([`publish`]).
//!
//! Nothing is spawned: a push that is dropped at any moment leaves blobs and manifests that no tag reaches, and a
//! second run finds them.

pub(crate) mod asked_image;
mod attachments;
pub(crate) mod destination;
pub(crate) mod engine;
pub(crate) mod ensure_blob;
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

pub use report::{Amount, Counts, Form, ImageReport, Outcome, PushReport};
pub use request::{Mapping, OnExisting, PushRequest};
