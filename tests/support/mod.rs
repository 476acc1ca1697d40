//! Shared test support: a registry double with configurable faults, image generators, and real registries and engines.
//!
//! # How to write a test with it
//!
//! ```ignore
//! mod support;
//! use support::fault::{Action, When};
//! use support::{Double, Options};
//!
//! let registry = Double::start(Options::default().fault(When::get("/blobs/").first(2), Action::cut(1000)));
//! support::images::linux_and_windows(Style::Oci).push(&registry, "library/greeting", "1.0");
//! // ... run what is tested against `registry.host()` ...
//! assert_eq!(registry.count("GET", "/blobs/"), 3, "{}", registry.transcript());
//! ```
//!
//! - [`Double::start`] starts a server on 127.0.0.1 and a free port; dropping the server ends it. No runtime is needed.
//! - [`Options`] configures the server: access rules ([`auth`]), TLS ([`tls`]), pull limit, folder, delays, refusals.
//! - A fault is a pair of [`fault::When`] and [`fault::Action`]. All rules that match a request take effect.
//! - A test that must act *before* or *during* an answer uses a [`Gate`] or an [`Allowance`], not a pause: a pause is long
//!   enough only on a fast machine.
//! - [`Double::requests`] returns everything that clients sent, including secrets; [`Double::count`] counts requests.
//! - [`Double::store`] reads and writes the server's content without any checks.
//!
//! - [`Cli`] runs the program; [`real`] starts real registries and engines, and reports missing programs.
//!
//! `cargo run --example registry-double` runs the same server on its own.
// Each test binary uses only a part of this module.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

pub mod auth;
pub mod chaos;
pub mod cli;
pub mod daemon;
pub mod distribution;
pub mod double;
pub mod fault;
pub mod gate;
pub mod http;
pub mod image;
pub mod images;
pub mod layout;
pub mod log;
pub mod nginx;
mod options;
pub mod proxy;
mod pull;
mod push;
pub mod real;
pub mod referrers;
mod reply;
mod serve;
pub mod store;
pub mod tls;
pub mod token_server;
pub mod wire;

pub use auth::Auth;
pub use cli::Cli;
pub use double::Double;
pub use fault::{Action, Canned, Fault, When};
pub use gate::{Allowance, Gate};
pub use image::noise;
pub use log::Entry;
pub use options::{Immutable, Options, PullLimit};
pub use store::sha256;
pub use wire::End;
