//! The memory, time and text that a run takes, measured from outside, and its behaviour on a machine with little.
//!
//! Each run is a child process, so that the program is measured and not the test.

// What was measured, for people who look at it.
#![allow(clippy::print_stdout)]

#[path = "../archives/mod.rs"]
mod archives;
#[path = "../hostile/mod.rs"]
mod cases;
#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod lists;
mod looked_at;
mod machine;
mod many;
mod measured;
mod pipes;
mod referrers;
mod registries;
mod shapes;
