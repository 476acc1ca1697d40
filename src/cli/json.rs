//! Documents on standard output, for programs.

use std::io;

use docker_mirror::Result;
use serde::Serialize;

use super::{output, printer, report};

/// Writes a document as JSON to standard output, behind all lines that were put there before.
///
/// # Errors
/// If it cannot be written. A reader that closed the pipe wants no more of it, which is no failure.
pub(super) fn print(document: &impl Serialize) -> Result<()> {
    printer::flush();
    match report::write_json(io::stdout().lock(), document)
        .err()
        .and_then(output::cannot_write)
    {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
