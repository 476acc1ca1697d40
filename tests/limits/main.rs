//! What a run takes of the machine, measured from outside: memory, time and text; and what it does where there is little.
//!
//! Each run is a child process, so that what is measured is the program and not the test.

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
mod referrers;
mod registries;
mod shapes;
