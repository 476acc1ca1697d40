//! Flags to request, library call, report. The only place that prints, draws bars and reads the environment.

mod connection;
mod export;
mod import;
mod limits;
mod login;
mod mirror;
mod output;
mod progress;
mod push;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use docker_mirror::error::{Error, Kind, Result};

use self::output::Outcome;

/// Mirror container images: every linux platform, through one file across an air gap or straight from registry to registry
///
/// In one step, with both registries in reach:
///     docker-mirror -d docker.example.com/mirror hello-world golang:alpine
/// In two steps, with a file between them:
///     docker-mirror export hello-world golang:alpine -o bundle.tar
///     docker-mirror import bundle.tar -d docker.example.com/mirror
#[derive(Debug, Parser)]
#[command(name = "docker-mirror", version, verbatim_doc_comment)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "An image that is really named like a command is reached by its long name, such as `library/export`."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    mirror: mirror::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch images from their registries into one file
    Export(export::Arguments),
    /// Push the images of a file to a registry
    Import(import::Arguments),
    /// Show what is left of a registry's pull limit
    Limits(limits::Arguments),
}

impl Cli {
    fn shared(&self) -> &connection::Shared {
        match &self.command {
            None => &self.mirror.shared,
            Some(Command::Export(arguments)) => &arguments.shared,
            Some(Command::Import(arguments)) => &arguments.shared,
            Some(Command::Limits(arguments)) => &arguments.shared,
        }
    }
}

impl Cli {
    /// What a user can do after a run that was cut off.
    fn hint(&self) -> &'static str {
        match &self.command {
            Some(Command::Export(arguments)) if !arguments.resumes() => {
                "run the same command again: what is compressed or goes into a pipe starts anew; an export into a plain file \
                 goes on where it stopped"
            }
            _ => "run the same command again: it goes on where this one stopped",
        }
    }
}

/// Parses the command line, runs it, and says how it ended: 0 for success, 1 for failure, 2 for wrong usage.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    output::start_log(cli.shared().verbosity());
    let limit = cli.shared().timeout();
    let hint = cli.hint();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&Error::new(Kind::Io, "cannot start the threads that do the work").with_source(error));
            return ExitCode::from(1);
        }
    };
    let result = runtime.block_on(async {
        tokio::select! {
            // In this order: signals are listened to before the work begins.
            biased;
            error = interrupted() => Err(error.with_hint(hint)),
            result = connection::within(limit, hint, run(cli)) => result,
        }
    });
    // A thread that hangs in a dead file system or pipe must not keep the program alive.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    match result {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Failure) => ExitCode::from(1),
        Err(error) => {
            output::error(&error);
            ExitCode::from(if error.kind() == Kind::Usage { 2 } else { 1 })
        }
    }
}

async fn run(cli: Cli) -> Result<Outcome> {
    match cli.command {
        None => mirror::run(cli.mirror).await,
        Some(Command::Export(arguments)) => export::run(arguments).await,
        Some(Command::Import(arguments)) => import::run(arguments).await,
        Some(Command::Limits(arguments)) => limits::run(arguments).await,
    }
}

/// Ends when the user, or whoever supervises the program, wants it to end.
async fn interrupted() -> Error {
    use tokio::signal::unix::{SignalKind, signal};
    // A file over the limit of this process (`ulimit -f`) is to be an error of the write, and not the end. The number is that of
    // SIGXFSZ wherever Linux runs but on MIPS and PA-RISC.
    let _ = signal(SignalKind::from_raw(25));
    let name = match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) {
        (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) => {
            tokio::select! {
                _ = interrupt.recv() => "interrupted",
                _ = terminate.recv() => "terminated",
                _ = hangup.recv() => "hung up",
            }
        }
        _ => std::future::pending().await,
    };
    Error::new(Kind::Cancelled, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
