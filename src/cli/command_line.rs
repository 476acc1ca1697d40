//! The whole command line: the commands, and the one-step mirror that needs no command.

use clap::{Parser, Subcommand};

use super::connection::Shared;
use super::report::Reporting;
use super::{diff, export, generate, import, inspect, limits, mirror, plugin, verify};

/// Version of the program, with the commit if the build knows it.
const VERSION: &str = env!("DOCKER_MIRROR_VERSION");

const LONG_NAMES: &str = "The command comes first. An image whose name is also a command is reached by its full name, such as `library/export`.";

const EXIT_CODES: &str = "\
Exit codes:
  0  everything is done
  1  something failed; what it was is on standard error
  2  the command line, or a file that it names, is wrong; nothing was done
  3  registries refused the login, or the account has no right
  4  a quota or pull limit is used up; run the same command again later
  5  the bundle that the command reads is damaged, incomplete, or no bundle
  6  the bundle was written without some images (--allow-partial)
  124  --timeout ended the run; 129, 130, 143: a signal (SIGHUP, SIGINT, SIGTERM) did";

/// Mirror container images: every linux platform, through one file across an air gap or straight from registry to registry
///
/// In one step, with both registries in reach:
///     docker-mirror -d docker.example.com/mirror hello-world golang:alpine
/// In two steps, with a file between them:
///     docker-mirror export hello-world golang:alpine -o bundle.tar
///     docker-mirror import bundle.tar -d docker.example.com/mirror
#[derive(Debug, Parser)]
#[command(name = "docker-mirror", bin_name = "docker-mirror", version = VERSION, verbatim_doc_comment)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true
)]
#[command(after_help = "All flags: docker-mirror --help. Of a command: docker-mirror help export")]
#[command(after_long_help = format!("{LONG_NAMES}\n\n{EXIT_CODES}"))]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    #[command(flatten)]
    pub(super) mirror: mirror::Arguments,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Fetch images from their registries into one file
    #[command(after_long_help = EXIT_CODES)]
    #[command(mut_arg("arguments", |images| images.required_unless_present_any(["lists", "lock", "want"])))]
    Export(export::Arguments),
    /// Push the images of a file to a registry
    #[command(after_long_help = EXIT_CODES)]
    Import(import::Arguments),
    /// Show what bundles hold, without a registry
    #[command(after_long_help = EXIT_CODES, mut_args(local))]
    Inspect(inspect::Arguments),
    /// Check every byte of bundles, without a registry
    #[command(after_long_help = EXIT_CODES, mut_args(local))]
    Verify(verify::Arguments),
    /// Show what two bundles differ in, without a registry
    #[command(after_long_help = EXIT_CODES, mut_args(local))]
    Diff(diff::Arguments),
    /// Show the remaining pull quota of a registry
    #[command(after_long_help = EXIT_CODES)]
    Limits(limits::Arguments),
    /// Print a script that lets a shell complete commands and flags
    ///
    /// For bash: `source <(docker-mirror completions bash)`
    Completions(generate::Completions),
    /// Write man pages
    Man(generate::Man),
    /// What Docker asks its plugins
    #[command(name = plugin::METADATA, hide = true)]
    PluginMetadata,
}

/// Hides the flags about registries in the help of a command that contacts no registry.
fn local(argument: clap::Arg) -> clap::Arg {
    let is_remote = argument.get_help_heading() == Some("Connection") || argument.get_id() == "jobs";
    argument.hide(is_remote)
}

impl Cli {
    /// Returns the flags that say which reports the run writes.
    pub(super) fn reporting(&self) -> Reporting {
        self.common().1.cloned().unwrap_or_default()
    }

    /// Returns the flags that all commands have.
    pub(super) fn shared(&self) -> &Shared {
        self.common().0
    }

    /// Returns the flags that all commands have, and those of reports if the command writes any.
    fn common(&self) -> (&Shared, Option<&Reporting>) {
        match &self.command {
            None => (&self.mirror.shared, Some(&self.mirror.reporting)),
            Some(Command::Export(arguments)) => (&arguments.shared, Some(&arguments.reporting)),
            Some(Command::Import(arguments)) => (&arguments.shared, Some(&arguments.reporting)),
            Some(Command::Inspect(arguments)) => (&arguments.shared, Some(&arguments.reporting)),
            Some(Command::Verify(arguments)) => (&arguments.shared, Some(&arguments.reporting)),
            Some(Command::Diff(arguments)) => (&arguments.shared, Some(&arguments.reporting)),
            Some(Command::Limits(arguments)) => (&arguments.shared, Some(&arguments.reporting)),
            Some(Command::Completions(_) | Command::Man(_) | Command::PluginMetadata) => (&self.mirror.shared, None),
        }
    }

    /// Returns the name of the command.
    pub(super) fn name(&self) -> &'static str {
        match &self.command {
            None => "mirror",
            Some(Command::Export(_)) => "export",
            Some(Command::Import(_)) => "import",
            Some(Command::Inspect(_)) => "inspect",
            Some(Command::Verify(_)) => "verify",
            Some(Command::Diff(_)) => "diff",
            Some(Command::Limits(_)) => "limits",
            Some(_) => "help",
        }
    }

    /// Returns whether the command reads a bundle and not images of a registry.
    pub(super) fn reads_bundle(&self) -> bool {
        use Command::{Diff, Import, Inspect, Verify};
        matches!(self.command, Some(Import(_) | Inspect(_) | Verify(_) | Diff(_)))
    }

    /// Returns whether `--dry-run` was given.
    pub(super) fn is_dry_run(&self) -> bool {
        match &self.command {
            None => self.mirror.target.is_dry_run(),
            Some(Command::Import(arguments)) => arguments.target.is_dry_run(),
            Some(Command::Export(arguments)) => arguments.dry_run,
            Some(_) => false,
        }
    }

    /// Returns a hint for the user about how to continue an interrupted run.
    pub(super) fn hint(&self) -> &'static str {
        match &self.command {
            _ if self.is_dry_run() => "run the same command again: it begins anew, and nothing was changed",
            Some(Command::Export(arguments)) if !arguments.resumes() => {
                "run the same command again: what is compressed or goes into a pipe starts anew; an export into a plain file \
                 resumes"
            }
            Some(Command::Export(arguments)) if arguments.fresh => {
                "run the same command again without `--fresh` to resume; with it, the export starts anew"
            }
            Some(Command::Inspect(_) | Command::Verify(_) | Command::Diff(_) | Command::Limits(_)) => {
                "run the same command again: it begins anew, and nothing was changed"
            }
            _ => "run the same command again to resume",
        }
    }
}
