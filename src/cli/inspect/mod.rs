//! `docker-mirror inspect`: shows the contents of bundles, without a registry.

mod chart;
mod command;
mod document;
mod markup;
pub(super) mod page;
mod table;

pub(super) use command::{Arguments, run};
