//! The start of the program.

use std::process::ExitCode;

use docker_mirror::{Kind, Result};

use super::command_line::{Cli, Command};
use super::diff;
use super::exit::Outcome;
use super::export;
use super::generate;
use super::import;
use super::inspect;
use super::limits;
use super::memory;
use super::mirror;
use super::output;
use super::parse;
use super::plugin;
use super::process;
use super::terminal;
use super::usage;
use super::verify;

/// Parses and runs the command line. Returns the exit code (0 for success, 1 for failure, 2 for wrong usage; see [`Outcome`]).
pub(crate) fn main() -> ExitCode {
    output::catch_panics();
    memory::restart_with_one_heap();
    if let Err(error) = memory::check_for_command_line() {
        output::error(&error);
        return ExitCode::from(1);
    }
    if generate::answer_shell(parse::whole) || generate::answer_docker(parse::whole) {
        return ExitCode::SUCCESS;
    }
    let cli = match parse::command_line() {
        Ok(cli) => cli,
        Err(error) => return usage::not_parsed(error),
    };
    terminal::choose_color(cli.shared().color);
    output::set_quiet(cli.shared().is_quiet());
    let (reporting, command) = (cli.reporting(), cli.name());
    output::set_json(reporting.json);
    output::start_log(cli.shared().verbosity());
    let wrong = usage::command_among_images(&cli)
        .or_else(|| usage::misspelt_command(&cli))
        .or_else(|| usage::two_readers(&cli))
        .or_else(|| usage::file_with_two_purposes(&cli));
    if let Some(error) = wrong.map(parse::name_variable) {
        output::error(&error);
        return reporting.end(command, 2, &error);
    }
    if let Some(made) = generated(&cli) {
        return match made {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                output::error(&error);
                ExitCode::from(if error.kind() == Kind::Usage { 2 } else { 1 })
            }
        };
    }
    usage::warn_of_misspelt_variables();
    if let Err(error) = memory::check() {
        output::error(&error);
        return reporting.end(command, 1, &error);
    }
    process::run_to_end(cli, reporting, command, run)
}

/// Runs a command that needs no registry and no bundle. Returns `None` for other commands.
fn generated(cli: &Cli) -> Option<Result<()>> {
    match cli.command.as_ref()? {
        Command::Completions(arguments) => Some(generate::completions(arguments)),
        Command::Man(arguments) => Some(generate::man(arguments, parse::whole())),
        Command::PluginMetadata => {
            output::result(plugin::metadata());
            Some(output::unwritten().map_or(Ok(()), Err))
        }
        _ => None,
    }
}

async fn run(cli: Cli) -> Result<Outcome> {
    cli.reporting().prepare(cli.name(), cli.is_dry_run())?;
    // The work of a transfer is on the heap: it would take much of the stack, which is small when memory is short.
    match cli.command {
        None => Box::pin(mirror::run(cli.mirror)).await,
        Some(Command::Export(arguments)) => Box::pin(export::run(arguments)).await,
        Some(Command::Import(arguments)) => Box::pin(import::run(arguments)).await,
        Some(Command::Inspect(arguments)) => inspect::run(arguments).await,
        Some(Command::Verify(arguments)) => verify::run(arguments).await,
        Some(Command::Diff(arguments)) => diff::run(arguments).await,
        Some(Command::Limits(arguments)) => limits::run(arguments).await,
        // `generated` has already run these commands, without a runtime.
        Some(Command::Completions(_) | Command::Man(_) | Command::PluginMetadata) => Ok(Outcome::Success),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        parse::whole().debug_assert();
    }
}
