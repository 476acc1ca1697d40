//! The push engine that import and the one-step mirror share: from image trees to tags in one registry.
//!
//! A push has four steps, and nothing later starts before what it stands on is known to be in place:
//!
//! 1. every image gets its name at the destination, and names that collide are refused ([`place`]);
//! 2. one HEAD per tag finds the images that are there already ([`tag`]);
//! 3. the blobs of all other images go into one queue, image by image, each digest uploaded once ([`queue`], [`blob`]);
//! 4. when the last blob of an image is in place, its manifests follow, children first, the tag last ([`landing`]).
//!
//! Nothing is spawned: a push that is dropped at any moment leaves blobs and manifests that no tag reaches, and a
//! second run finds them.

pub(crate) mod arrivals;
pub(crate) mod blob;
pub(crate) mod engine;
pub(crate) mod flow;
mod images;
pub(crate) mod landing;
pub(crate) mod place;
pub(crate) mod push_all;
pub(crate) mod queue;
pub(crate) mod report;
pub(crate) mod request;
mod spool;
pub(crate) mod tag;

pub use report::{Amount, Counts, Failure, Form, ImageReport, Outcome, PushReport};
pub use request::{Mapping, OnExisting, PushRequest};
