//! Every wait ends: with the limits that hold by default, against servers that are slow, silent or endless.
//!
//! The minutes of these limits pass on a clock of the test's own: see [`clock`]. No test here looks at how long it took; each
//! looks at what the server was asked.

mod clock;
mod scripted;

mod answers;
mod connections;
mod downloads;
mod slow_lines;
mod uploads;
