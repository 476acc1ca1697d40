//! Flags to request, library call, report. The only place that prints, draws bars and reads the environment.

mod connection;
mod environment;
mod export;
mod import;
mod limits;
mod login;
mod mirror;
mod output;
mod progress;
mod push;
mod usage;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use docker_mirror::error::{Error, Kind, Result};
use tokio::sync::oneshot;

use self::output::Outcome;

const LONG_NAMES: &str = "Commands stand first. An image that is really named like one is reached by its long name, such as `library/export`.";

const EXIT_CODES: &str = "\
Exit codes:
  0  everything is done
  1  something failed or was left out; what it was is on standard error
  2  the command line, or a file that it names, is wrong; nothing was done";

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
#[command(after_help = format!("{LONG_NAMES}\n\n{EXIT_CODES}"))]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    mirror: mirror::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch images from their registries into one file
    #[command(after_help = EXIT_CODES)]
    Export(export::Arguments),
    /// Push the images of a file to a registry
    #[command(after_help = EXIT_CODES)]
    Import(import::Arguments),
    /// Show what is left of a registry's pull limit
    #[command(after_help = EXIT_CODES)]
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
        Err(error) => return usage::not_parsed(error),
    };
    if let Some(error) = usage::command_among_images(&cli).or_else(|| usage::two_readers(&cli)) {
        output::error(&error);
        return ExitCode::from(2);
    }
    output::start_log(cli.shared().verbosity());
    let limit = cli.shared().timeout();
    let hint = cli.hint();
    let runtime = match start() {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(error),
    };
    // Signals are listened to before the work begins, and the work has a thread of its own, so that they, and the end of its
    // time, are heard also while it waits for a terminal, a pipe or a disk.
    let interrupted = {
        let _guard = runtime.enter();
        interrupted()
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let (done, mut result) = oneshot::channel();
    let handle = runtime.handle().clone();
    let work = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        let _ = done.send(handle.block_on(async {
            tokio::select! {
                _ = stopped => None,
                result = run(cli) => Some(result),
            }
        }));
    });
    if let Err(error) = work {
        return cannot_start(error);
    }
    let result = runtime.block_on(async {
        let ended = tokio::select! {
            biased;
            error = interrupted => Err(error),
            ended = connection::within(limit, hint, async { Ok((&mut result).await) }) => ended,
        };
        match ended {
            // Without a result the work has panicked, and said so.
            Ok(ended) => ended
                .ok()
                .flatten()
                .unwrap_or_else(|| Err(Error::new(Kind::Incomplete, "the work ended before it was done"))),
            Err(error) => {
                let _ = stop.send(());
                // What is under way is put in order, unless it hangs.
                let _ = tokio::time::timeout(PATIENCE, &mut result).await;
                Err(error.with_hint(hint))
            }
        }
    });
    // A thread that hangs in a dead file system or pipe must not keep the program alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    let unwritten = output::unwritten();
    if let Some(error) = &unwritten {
        output::error(error);
    }
    match result {
        Ok(Outcome::Success) if unwritten.is_none() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            output::error(&error);
            ExitCode::from(if error.kind() == Kind::Usage { 2 } else { 1 })
        }
    }
}

fn cannot_start(error: std::io::Error) -> ExitCode {
    output::error(
        &Error::new(Kind::Io, "cannot start the threads that do the work")
            .with_source(error)
            .with_hint("if too many files are open, raise the limit (`ulimit -n`)"),
    );
    ExitCode::from(1)
}

/// The stack of the thread that does the work; that of a main thread.
const STACK: usize = 8 << 20;

/// How long work that was interrupted may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Starts the threads that do the work. Signals need two descriptors of their own, and without them the runtime does not
/// report an error but panics; so it is tried first whether there are enough for both.
fn start() -> std::io::Result<tokio::runtime::Runtime> {
    const NEEDED: usize = 12;
    let open = |_| std::fs::File::open("/dev/null");
    let all = (0..NEEDED).map(open).collect::<std::io::Result<Vec<_>>>();
    if let Err(error) = all.map(drop)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn run(cli: Cli) -> Result<Outcome> {
    match cli.command {
        None => cli.mirror.target.clone().reported(mirror::run(cli.mirror)).await,
        Some(Command::Export(arguments)) => export::run(arguments).await,
        Some(Command::Import(arguments)) => arguments.target.clone().reported(import::run(arguments)).await,
        Some(Command::Limits(arguments)) => limits::run(arguments).await,
    }
}

/// Listens from now on, and ends when the user, or whoever supervises the program, wants it to end.
fn interrupted() -> impl Future<Output = Error> {
    use tokio::signal::unix::{SignalKind, signal};
    // A file over the limit of this process (`ulimit -f`) is to be an error of the write, and not the end. The number is that of
    // SIGXFSZ wherever Linux runs but on MIPS and PA-RISC.
    let _ = signal(SignalKind::from_raw(25));
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    );
    async move {
        let name = match signals {
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
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
