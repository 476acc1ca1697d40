//! Writes a bundle strictly in order, into a pipe or through a compressor.
//! The uncompressed bytes equal those of a file export.

mod attached;
mod export;
mod occupied;
mod prefetch;
pub(super) mod supplement;
mod unfinished;
mod writer;

pub(super) use export::export;
