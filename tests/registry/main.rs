//! The registry client through the library, against the registry double.

#[path = "../client/mod.rs"]
mod client;
#[path = "../support/mod.rs"]
mod support;

mod auth;
mod chaos;
mod credentials;
mod double;
mod faults;
mod hostile;
mod list;
mod pull;
mod push;
mod tls;
mod trust;
mod waits;
