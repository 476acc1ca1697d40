//! The command line: parse, run, exit code.

mod cli;

use std::process::ExitCode;

/// The allocator of musl has one lock for all threads, which costs a third of the CPU time of a run with many small images.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
