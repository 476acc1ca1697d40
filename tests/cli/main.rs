//! The program from outside: command lines, their output, and the requests to the registries.
//!
//! One module for each chapter of the program's promises. Registries are doubles on 127.0.0.1; nothing else is needed.

#[path = "../support/mod.rs"]
mod support;

mod bad_disk;
mod bad_input;
mod bundle;
mod causes;
mod command_lines;
mod commands;
mod connection;
mod credentials;
mod documents;
mod empty_blobs;
mod exit_codes;
mod file_outputs;
mod format;
mod gateways;
mod help;
mod hints;
mod hostile_text;
mod image_lists;
mod import;
mod inspect;
mod messages;
mod named_files;
mod names;
mod no_bundle;
mod odd_images;
mod odd_registries;
mod outages;
mod outputs;
mod own_source;
mod platform_tags;
mod platforms;
mod referrers;
mod rejected;
mod reports;
mod request_words;
mod sent_back;
mod sha512;
mod slow_sources;
mod snapshots;
mod sparse_files;
mod special_files;
mod tags_at_once;
mod terminal;
mod told_once;
mod two_meanings;
mod unread_pipes;
mod verify;
mod want;

use support::{Cli, Double};

/// A user of the program under test.
fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// A registry that holds the fixture as `library/greeting:1.0`.
fn source() -> Double {
    let registry = Double::new();
    support::images::greeting().push(&registry, "library/greeting", "1.0");
    registry
}

/// The digest that stands behind `@` in a line of results.
fn digest_in(line: &str) -> &str {
    line.rsplit_once('@')
        .unwrap_or_else(|| panic!("no digest in `{line}`"))
        .1
}
