//! Bundles without a registry: what the reader accepts and refuses, and what the plan of a new bundle promises.

#[path = "../archives/mod.rs"]
mod archives;
#[path = "../hostile/mod.rs"]
mod cases;
#[path = "../handmade/mod.rs"]
mod handmade;
#[path = "../support/mod.rs"]
mod support;

mod foreign_archives;
mod hostile;
mod plan;
mod read;
mod verify;
