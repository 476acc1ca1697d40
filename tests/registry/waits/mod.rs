//! Every wait ends: the default limits, against servers that are slow, silent or endless.
//!
//! The minutes of these limits pass on a virtual clock: see [`clock`]. No test here measures time; each checks the
//! requests that the server got.

mod clock;
mod scripted;

mod answers;
mod connections;
mod downloads;
mod slow_lines;
mod uploads;
